// SPDX-License-Identifier: GPL-2.0

//! Port I/O, which the VMM emulates (api.rst, KVM_EXIT_IO).

use arch::{
    addr::{
        Gva,
        PAGE_SIZE, //
    },
    control_regs::Efer,
    exception::Exception,
    paging::{
        AccessKind,
        WalkError, //
    },
};
use kernel::prelude::*;

use super::{
    backend::{
        Backend,
        IoExit,
        SegmentRegister,
        StringIo, //
    },
    mmio::PendingMmio,
    run::{
        Next,
        INTERNAL_ERROR_EMULATION, //
    },
    vcpu::{
        Loaded,
        RAX,
        RCX,
        RDI,
        RSI, //
    },
};
use crate::host::shared::{
    self,
    UserExit, //
};

const RFLAGS_DF: u64 = 1 << 10;
/// Where the data page lies in the mapping of a vCPU (`KVM_PIO_PAGE_OFFSET`), in bytes.
const PIO_DATA_OFFSET: u64 = PAGE_SIZE;

/// What a vCPU that went to the VMM has still to do.
#[derive(Clone, Copy)]
pub(crate) enum Pending {
    /// Nothing.
    None,
    /// OUT: go on after it, unless the VMM moved RIP.
    Out { rip: u64 },
    /// IN: take the data and go on.
    In { size: u8 },
    /// INS: take the data of `count` items and go on or repeat.
    StringIn { io: IoExit, count: u32 },
    /// A memory-mapped access.
    Mmio(PendingMmio),
}

/// A memory operand that cannot be used: what the guest gets instead.
enum Fault {
    Exception(Exception, Option<u32>, Option<u64>),
    /// The address leads to no memory: not emulated.
    Unhandled,
}

impl<B: Backend> Loaded<'_, B> {
    /// Completes what the last exit to the VMM began.
    pub(crate) fn complete_pending(&mut self) -> Result<Next> {
        match core::mem::replace(&mut self.state.pending, Pending::None) {
            Pending::None => Ok(Next::Guest),
            Pending::Out { rip } => {
                if B::rip(self) == rip {
                    B::skip_instruction(self);
                }
                Ok(Next::Guest)
            }
            Pending::In { size } => {
                let mut data = [0; 4];
                self.vcpu.pio.read(0, &mut data[..size as usize]);
                let value = u64::from(u32::from_le_bytes(data));
                let old = self.state.regs[RAX];
                self.state.regs[RAX] = match size {
                    1 => old & !0xff | value,
                    2 => old & !0xffff | value,
                    _ => value,
                };
                B::skip_instruction(self);
                Ok(Next::Guest)
            }
            Pending::StringIn { io, count } => self.complete_string_in(&io, count),
            Pending::Mmio(pending) => self.complete_mmio(pending),
        }
    }

    /// An I/O instruction that exited.
    pub(crate) fn handle_io(&mut self, io: &IoExit) -> Result<Next> {
        if let Some(string) = io.string {
            return self.begin_string(io, &string);
        }
        if io.is_in {
            self.state.pending = Pending::In { size: io.size };
        } else {
            let data = (self.state.regs[RAX] as u32).to_le_bytes();
            self.vcpu.pio.write(0, &data[..io.size as usize]);
            self.state.pending = Pending::Out { rip: B::rip(self) };
        }
        Ok(self.leave_for_io(io, 1))
    }

    fn leave_for_io(&self, io: &IoExit, count: u32) -> Next {
        self.leave(&UserExit::Io {
            is_in: io.is_in,
            size: io.size,
            port: io.port,
            count,
            data_offset: PIO_DATA_OFFSET,
        })
    }

    /// INS or OUTS, as many items at once as lie in one page of guest memory.
    fn begin_string(&mut self, io: &IoExit, string: &StringIo) -> Result<Next> {
        let mask = address_mask(string);
        let left = if io.is_rep {
            self.state.regs[RCX] & mask
        } else {
            1
        };
        if left == 0 {
            B::skip_instruction(self);
            return Ok(Next::Guest);
        }

        let count = self.items_in_page(io, string, left);
        if io.is_in {
            // The operand must be there before the device gives anything away.
            let gva = self.operand(io, string);
            if let Err(fault) = self.translate(gva, io.size, AccessKind::Write) {
                return self.deliver(fault);
            }
            self.state.pending = Pending::StringIn { io: *io, count };
            return Ok(self.leave_for_io(io, count));
        }

        let size = usize::from(io.size);
        for i in 0..count as usize {
            let gva = self.operand(io, string);
            let mut item = [0; 4];
            if let Err(fault) = self.copy_operand(gva, Copy::FromGuest(&mut item[..size])) {
                if i == 0 {
                    return self.deliver(fault);
                }
                // What was read goes out; the rest faults when its turn comes.
                return Ok(self.leave_for_io(io, i as u32));
            }
            self.vcpu.pio.write(i * size, &item[..size]);
            self.advance(io, string);
        }
        if !io.is_rep || self.state.regs[RCX] & mask == 0 {
            B::skip_instruction(self);
        }
        Ok(self.leave_for_io(io, count))
    }

    fn complete_string_in(&mut self, io: &IoExit, count: u32) -> Result<Next> {
        let Some(string) = io.string else {
            return Ok(Next::Guest);
        };
        let size = usize::from(io.size);
        for i in 0..count as usize {
            let gva = self.operand(io, &string);
            let mut item = [0; 4];
            self.vcpu.pio.read(i * size, &mut item[..size]);
            if let Err(fault) = self.copy_operand(gva, Copy::ToGuest(&item[..size])) {
                return self.deliver(fault);
            }
            self.advance(io, &string);
        }
        if !io.is_rep || self.state.regs[RCX] & address_mask(&string) == 0 {
            B::skip_instruction(self);
        }
        Ok(Next::Guest)
    }

    /// How many of `left` items go at once: to the end of the page of memory they lie in, and of
    /// the page that carries them.
    fn items_in_page(&self, io: &IoExit, string: &StringIo, left: u64) -> u32 {
        let size = u64::from(io.size);
        let offset = self.operand(io, string).page_offset();
        let backward = B::rflags(self) & RFLAGS_DF != 0;
        let room = if backward {
            (offset + size).min(PAGE_SIZE)
        } else {
            PAGE_SIZE - offset
        };
        let most = (room / size).min(shared::SIZE as u64 / size);
        most.clamp(1, left) as u32
    }

    /// The linear address of the current item.
    fn operand(&self, io: &IoExit, string: &StringIo) -> Gva {
        let (register, segment) = if io.is_in {
            (RDI, SegmentRegister::Es)
        } else {
            (RSI, string.segment)
        };
        let offset = self.state.regs[register] & address_mask(string);
        let flat = self.is_64_bit_mode();
        let has_base = !flat || matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs);
        let base = if has_base {
            B::segment_base(self, segment)
        } else {
            0
        };
        let linear = base.wrapping_add(offset);
        if B::efer(self) & Efer::LMA.bits() != 0 && flat {
            Gva(linear)
        } else {
            Gva(u64::from(linear as u32))
        }
    }

    /// Moves the registers on by one item.
    fn advance(&mut self, io: &IoExit, string: &StringIo) {
        let mask = address_mask(string);
        let register = if io.is_in { RDI } else { RSI };
        let step = u64::from(io.size);
        let old = self.state.regs[register];
        let new = if B::rflags(self) & RFLAGS_DF != 0 {
            old.wrapping_sub(step)
        } else {
            old.wrapping_add(step)
        };
        self.state.regs[register] = merge(old, new, mask);
        if io.is_rep {
            let count = self.state.regs[RCX];
            self.state.regs[RCX] = merge(count, count.wrapping_sub(1), mask);
        }
    }

    /// Translates both ends of an operand.
    fn translate(&self, gva: Gva, size: u8, kind: AccessKind) -> Result<(), Fault> {
        let access = self.access(kind);
        let paging = self.paging();
        let memory = self.vm.memory.access();
        for end in [gva, gva.offset(u64::from(size) - 1)] {
            let translation = paging
                .translate(&mut &memory, end, access)
                .map_err(|e| walk_fault(e, end))?;
            if !memory.is_memory(translation.gpa, kind == AccessKind::Write) {
                return Err(Fault::Unhandled);
            }
        }
        Ok(())
    }

    /// Copies an operand, which may cross a page.
    fn copy_operand(&self, gva: Gva, mut copy: Copy<'_>) -> Result<(), Fault> {
        let access = self.access(copy.kind());
        let paging = self.paging();
        let memory = self.vm.memory.access();
        let len = copy.len();
        let mut done = 0;
        while done < len {
            let at = gva.offset(done as u64);
            let part = (len - done).min((PAGE_SIZE - at.page_offset()) as usize);
            let gpa = paging
                .translate(&mut &memory, at, access)
                .map_err(|e| walk_fault(e, at))?
                .gpa;
            match &mut copy {
                Copy::FromGuest(to) => memory.read(gpa, &mut to[done..done + part]),
                Copy::ToGuest(from) => memory.write(gpa, &from[done..done + part]),
            }
            .map_err(|_| Fault::Unhandled)?;
            done += part;
        }
        Ok(())
    }

    fn deliver(&mut self, fault: Fault) -> Result<Next> {
        match fault {
            Fault::Exception(exception, error_code, payload) => {
                self.state
                    .events
                    .queue_exception(exception.vector(), error_code, payload);
                Ok(Next::Guest)
            }
            Fault::Unhandled => Ok(self.internal_error(INTERNAL_ERROR_EMULATION, &[])),
        }
    }
}

/// Which way an operand is copied.
enum Copy<'a> {
    FromGuest(&'a mut [u8]),
    ToGuest(&'a [u8]),
}

impl Copy<'_> {
    fn kind(&self) -> AccessKind {
        match self {
            Self::FromGuest(_) => AccessKind::Read,
            Self::ToGuest(_) => AccessKind::Write,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::FromGuest(to) => to.len(),
            Self::ToGuest(from) => from.len(),
        }
    }
}

fn walk_fault(error: WalkError, gva: Gva) -> Fault {
    match error {
        WalkError::Fault(code) => {
            Fault::Exception(Exception::PageFault, Some(code.bits()), Some(gva.0))
        }
        WalkError::NonCanonical => Fault::Exception(Exception::GeneralProtection, Some(0), None),
        WalkError::Unreadable(_) | WalkError::Contended => Fault::Unhandled,
    }
}

fn address_mask(string: &StringIo) -> u64 {
    match string.address_bits {
        16 => 0xffff,
        32 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

/// `new` in the bits of `mask`; a 32-bit result clears the upper half, as in hardware.
fn merge(old: u64, new: u64, mask: u64) -> u64 {
    if mask == 0xffff {
        old & !mask | new & mask
    } else {
        new & mask
    }
}
