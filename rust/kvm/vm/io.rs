// SPDX-License-Identifier: GPL-2.0

//! Port I/O, which the VMM emulates (api.rst, KVM_EXIT_IO).

use arch::{
    addr::{
        Gva,
        PAGE_SIZE, //
    },
    control_regs::Cr0,
    exception::Exception,
    ioport::{
        Chunk,
        Registers,
        StringIo, //
    },
    operand::{
        Segment,
        Size, //
    },
    paging::{
        AccessKind,
        WalkError, //
    },
    segment::{
        TYPE_READABLE,
        TYPE_WRITABLE, //
    },
};
use kernel::prelude::*;

use super::{
    backend::{
        Backend,
        IoExit,
        SegmentRegister,
        StringOperand, //
    },
    bus::Space,
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
    QUIRK_OUT_7E_INC_RIP, //
};
use crate::{
    host::{
        shared::UserExit,
        trace::{
            kvm_pio,
            trace, //
        },
    },
    stats::vcpu as stat, //
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
    Out { rip: Gva },
    /// IN: take the data and go on.
    In { port: u16, size: Size },
    /// INS: take the data of `count` items and go on or repeat.
    StringIn {
        io: IoExit,
        string: StringIo,
        count: u64,
    },
    /// A hypercall: take the result.
    Hypercall,
    /// RDMSR: take the value or raise #GP.
    MsrRead,
    /// WRMSR: go on or raise #GP.
    MsrWrite,
    /// An emulated instruction reads a device.
    EmulatedRead,
    /// An emulated instruction has written to devices.
    EmulatedWrite,
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
        let pending = core::mem::replace(&mut self.state.pending, Pending::None);
        if matches!(pending, Pending::None) {
            return Ok(Next::Guest);
        }
        let next = self.complete(pending)?;
        if next == Next::Guest && B::take_single_step(self) {
            return Ok(self.trap_single_step());
        }
        Ok(next)
    }

    fn complete(&mut self, pending: Pending) -> Result<Next> {
        match pending {
            Pending::None => Ok(Next::Guest),
            Pending::Out { rip } => {
                if self.linear_rip() == rip {
                    B::skip_instruction(self);
                }
                Ok(Next::Guest)
            }
            Pending::In { port, size } => {
                let mut data = [0; 4];
                self.vcpu.pio.read(0, &mut data[..size.bytes()]);
                let value = u64::from(u32::from_le_bytes(data));
                trace!(kvm_pio(
                    false,
                    port.into(),
                    size.bytes() as u32,
                    1,
                    value as u32
                ));
                self.set_accumulator(size, value);
                B::skip_instruction(self);
                Ok(Next::Guest)
            }
            Pending::StringIn { io, string, count } => self.complete_string_in(&io, &string, count),
            Pending::Hypercall => Ok(self.complete_hypercall()),
            Pending::MsrRead => Ok(self.complete_rdmsr()),
            Pending::MsrWrite => Ok(self.complete_wrmsr()),
            Pending::EmulatedRead => self.complete_emulated_read(),
            Pending::EmulatedWrite => self.complete_emulated_write(),
        }
    }

    /// An I/O instruction that exited. `is_first` says that devices in the kernel were not asked.
    pub(crate) fn handle_io(&mut self, io: &IoExit, is_first: bool) -> Result<Next> {
        if let Some(operand) = &io.string {
            let string = self.string_io(io, operand);
            return self.begin_string(io, &string);
        }
        // The inner loop has asked the devices, where it may take their locks.
        if (is_first || cfg!(CONFIG_PREEMPT_RT)) && self.device_io(io) {
            return Ok(Next::Guest);
        }
        if io.is_in {
            self.state.pending = Pending::In {
                port: io.port,
                size: io.size,
            };
        } else {
            let value = self.state.regs[RAX] as u32;
            let data = value.to_le_bytes();
            self.vcpu.pio.write(0, &data[..io.size.bytes()]);
            if io.port == 0x7e && self.vm.has_quirk(QUIRK_OUT_7E_INC_RIP) {
                B::skip_instruction(self);
            } else {
                self.state.pending = Pending::Out {
                    rip: self.linear_rip(),
                };
            }
        }
        Ok(self.leave_for_io(io, 1))
    }

    /// IN or OUT of a device in the kernel. Returns whether it was one.
    pub(crate) fn device_io(&mut self, io: &IoExit) -> bool {
        let mut data = (self.state.regs[RAX] as u32).to_le_bytes();
        let bytes = &mut data[..io.size.bytes()];
        if io.is_in {
            if !self.port_read(io.port, bytes) {
                return false;
            }
            let value = u64::from(u32::from_le_bytes(data)) & io.size.mask();
            self.set_accumulator(io.size, value);
        } else if !self.port_write(io.port, bytes) {
            return false;
        }
        trace!(kvm_pio(
            !io.is_in,
            io.port.into(),
            io.size.bytes() as u32,
            1,
            (self.state.regs[RAX] & io.size.mask()) as u32
        ));
        B::skip_instruction(self);
        true
    }

    /// What IN does to RAX.
    fn set_accumulator(&mut self, size: Size, value: u64) {
        self.state.regs[RAX] = size.merge(self.state.regs[RAX], value);
    }

    /// Goes to the VMM for a port access of an emulated instruction.
    pub(crate) fn leave_for_port(&self, port: u16, size: u8, is_in: bool) -> Next {
        self.leave(&UserExit::Io {
            is_in,
            size,
            port,
            count: 1,
            data_offset: PIO_DATA_OFFSET,
        })
    }

    fn leave_for_io(&self, io: &IoExit, count: u64) -> Next {
        if !io.is_in {
            self.tell_of_io(io, count);
        }
        self.leave(&UserExit::Io {
            is_in: io.is_in,
            size: io.size.bytes() as u8,
            port: io.port,
            count: count as u32,
            data_offset: PIO_DATA_OFFSET,
        })
    }

    /// Tells whoever listens of items that the VMM gets or gave.
    fn tell_of_io(&self, io: &IoExit, count: u64) {
        if kvm_pio::is_on() {
            let mut first = [0; 4];
            self.vcpu.pio.read(0, &mut first[..io.size.bytes()]);
            kvm_pio::emit(
                !io.is_in,
                io.port.into(),
                io.size.bytes() as u32,
                count as u32,
                u32::from_le_bytes(first),
            );
        }
    }

    /// An INS or OUTS as the registers are now.
    fn string_io(&self, io: &IoExit, operand: &StringOperand) -> StringIo {
        let segment = if io.is_in {
            Segment::Es
        } else {
            operand.segment
        };
        let long = self.is_64_bit_mode();
        let has_base = !long || matches!(segment, Segment::Fs | Segment::Gs);
        StringIo {
            size: io.size,
            address_size: operand.address_size,
            segment_base: if has_base {
                B::segment_base(self, segment.into())
            } else {
                0
            },
            long,
            down: B::rflags(self) & RFLAGS_DF != 0,
            rep: io.is_rep,
        }
    }

    fn string_registers(&self, io: &IoExit) -> Registers {
        Registers {
            index: self.state.regs[if io.is_in { RDI } else { RSI }],
            count: self.state.regs[RCX],
        }
    }

    /// Moves the registers on by one element.
    fn advance(&mut self, io: &IoExit, string: &StringIo) {
        let moved = string.advance(&self.string_registers(io), 1);
        self.state.regs[if io.is_in { RDI } else { RSI }] = moved.index;
        self.state.regs[RCX] = moved.count;
    }

    /// Goes on after the instruction once all its elements are done.
    fn finish_string(&mut self, io: &IoExit, string: &StringIo) {
        if !io.is_rep || string.remaining(&self.string_registers(io)) == 0 {
            B::skip_instruction(self);
        }
    }

    /// INS or OUTS, as many elements at once as lie in one page of guest memory.
    fn begin_string(&mut self, io: &IoExit, string: &StringIo) -> Result<Next> {
        let room = PAGE_SIZE / io.size.bytes() as u64;
        let Some(chunk) = string.chunk(&self.string_registers(io), room) else {
            B::skip_instruction(self);
            return Ok(Next::Guest);
        };
        self.count(stat::INSN_EMULATION);

        if io.is_in {
            self.begin_string_in(io, string, chunk)
        } else {
            self.begin_string_out(io, string, chunk.count)
        }
    }

    fn begin_string_in(&mut self, io: &IoExit, string: &StringIo, chunk: Chunk) -> Result<Next> {
        // The operand must be there before the device gives anything away.
        let ready = self
            .check_segment(io, string)
            .and_then(|()| self.translate(chunk.first, io.size, AccessKind::Write));
        if let Err(fault) = ready {
            return self.deliver_or_emulate(fault);
        }
        let mut left = chunk.count;
        while left != 0 {
            let mut element = [0; 4];
            if !self.port_read(io.port, &mut element[..io.size.bytes()]) {
                self.state.pending = Pending::StringIn {
                    io: *io,
                    string: *string,
                    count: left,
                };
                return Ok(self.leave_for_io(io, left));
            }
            if let Err(fault) = self.store_element(io, string, &element) {
                return self.deliver(fault);
            }
            left -= 1;
        }
        self.finish_string(io, string);
        Ok(Next::Guest)
    }

    fn begin_string_out(&mut self, io: &IoExit, string: &StringIo, count: u64) -> Result<Next> {
        let size = io.size.bytes();
        // Elements for the VMM; before the first of them a device of ours may take some.
        let mut queued = 0;
        for i in 0..count {
            let gva = string.address(&self.string_registers(io));
            let mut element = [0; 4];
            let read = self
                .check_segment(io, string)
                .and_then(|()| self.copy_operand(gva, Copy::FromGuest(&mut element[..size])));
            if let Err(fault) = read {
                return match (queued, i) {
                    (0, 0) => self.deliver_or_emulate(fault),
                    // The rest faults when its turn comes.
                    (0, _) => Ok(Next::Guest),
                    // What was read goes out.
                    _ => Ok(self.leave_for_io(io, queued)),
                };
            }
            let taken = queued == 0 && self.port_write(io.port, &element[..size]);
            self.advance(io, string);
            if !taken {
                self.vcpu
                    .pio
                    .write(queued as usize * size, &element[..size]);
                queued += 1;
                if self.vm.buses.has_any(Space::Pio) {
                    // The next may be for somebody else.
                    break;
                }
            }
        }
        self.finish_string(io, string);
        if queued == 0 {
            return Ok(Next::Guest);
        }
        Ok(self.leave_for_io(io, queued))
    }

    /// Puts an element that was read where it belongs, and goes on to the next.
    fn store_element(
        &mut self,
        io: &IoExit,
        string: &StringIo,
        element: &[u8; 4],
    ) -> Result<(), Fault> {
        let gva = string.address(&self.string_registers(io));
        self.check_segment(io, string)?;
        self.copy_operand(gva, Copy::ToGuest(&element[..io.size.bytes()]))?;
        self.advance(io, string);
        Ok(())
    }

    fn complete_string_in(&mut self, io: &IoExit, string: &StringIo, count: u64) -> Result<Next> {
        let size = io.size.bytes();
        // The VMM may have changed RCX: there is no element beyond it.
        let count = count.min(string.remaining(&self.string_registers(io)));
        self.tell_of_io(io, count);
        for i in 0..count as usize {
            let mut element = [0; 4];
            self.vcpu.pio.read(i * size, &mut element[..size]);
            if let Err(fault) = self.store_element(io, string, &element) {
                return self.deliver(fault);
            }
        }
        self.finish_string(io, string);
        Ok(Next::Guest)
    }

    /// Whether the operand's segment allows the access (SDM vol. 3, 5.3 and 5.5). An I/O instruction
    /// exits before the processor checks that.
    fn check_segment(&self, io: &IoExit, string: &StringIo) -> Result<(), Fault> {
        if string.long {
            return Ok(());
        }
        let register = match io.string {
            Some(operand) if !io.is_in => operand.segment.into(),
            _ => SegmentRegister::Es,
        };
        let segment = B::segment(self, register);
        let offset = self.string_registers(io).index & string.address_size.mask();
        let protected = B::cr0(self) & Cr0::PE.bits() != 0;
        let rights = segment.rights;
        let allowed = if io.is_in {
            !rights.is_code() && rights.segment_type() & TYPE_WRITABLE != 0
        } else {
            !rights.is_code() || rights.segment_type() & TYPE_READABLE != 0
        };
        let usable = !rights.is_unusable() && (allowed || !protected);
        if usable && segment.contains(offset as u32, io.size.bytes() as u32) {
            return Ok(());
        }
        let exception = match register {
            SegmentRegister::Ss => Exception::StackFault,
            _ => Exception::GeneralProtection,
        };
        Err(Fault::Exception(exception, Some(0), None))
    }

    /// Translates both ends of an operand.
    fn translate(&self, gva: Gva, size: Size, kind: AccessKind) -> Result<(), Fault> {
        let access = self.access(kind);
        let paging = self.paging();
        let memory = self.vcpu.guest_memory();
        for end in [gva, gva.offset(size.bytes() as u64 - 1)] {
            let translation = paging
                .translate_and_mark(&mut &memory, end, access)
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
        let memory = self.vcpu.guest_memory();
        let len = copy.len();
        let mut done = 0;
        while done < len {
            let at = gva.offset(done as u64);
            let part = (len - done).min((PAGE_SIZE - at.page_offset()) as usize);
            let gpa = paging
                .translate_and_mark(&mut &memory, at, access)
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

    /// An operand that is no memory is the emulator's.
    fn deliver_or_emulate(&mut self, fault: Fault) -> Result<Next> {
        if let Fault::Unhandled = fault {
            return self.emulate(&self.vcpu.guest_memory(), None);
        }
        self.deliver(fault)
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
