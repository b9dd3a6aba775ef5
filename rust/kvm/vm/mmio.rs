// SPDX-License-Identifier: GPL-2.0

//! Memory that is not there, which the VMM emulates (api.rst, KVM_EXIT_MMIO).
//!
//! Plain MOVs are carried out here. Anything else ends in KVM_EXIT_INTERNAL_ERROR with the
//! instruction's bytes: a wrong guess would be worse.

use arch::{
    addr::{
        Gpa,
        Gva,
        PAGE_SIZE, //
    },
    mmio::{
        self,
        CodeSize,
        Direction,
        Mov, //
    },
    paging::{
        AccessKind,
        WalkError, //
    },
};
use kernel::prelude::*;

use super::{
    backend::Backend,
    io::Pending,
    memory::{
        Faulted,
        GuestAccess, //
    },
    run::{
        Next,
        INTERNAL_ERROR_DELIVERY_EV,
        INTERNAL_ERROR_EMULATION, //
    },
    vcpu::Loaded, //
};
use crate::host::shared::UserExit;

/// KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES.
const FLAG_INSTRUCTION_BYTES: u64 = 1 << 0;

/// One part of an access: within a page, and at most 8 bytes.
#[derive(Clone, Copy, Default)]
struct Fragment {
    gpa: Gpa,
    len: u8,
}

/// An access in progress.
#[derive(Clone, Copy)]
pub(crate) struct PendingMmio {
    mov: Mov,
    fragments: [Fragment; 2],
    /// The fragment that the VMM has in hand.
    at: u8,
    data: [u8; 8],
}

impl<B: Backend> Loaded<'_, B> {
    /// The guest touched memory that is not mapped, or not for this access.
    pub(crate) fn handle_memory(
        &mut self,
        gpa: Gpa,
        gva: Option<Gva>,
        is_write: bool,
        is_fetch: bool,
    ) -> Result<Next> {
        let memory = self.vm.memory.access();
        match self
            .vm
            .memory
            .fault(&memory, gpa, is_write, &mut self.state.spare)
            .inspect_err(|_| self.leave_for_memory_fault(gpa))?
        {
            Faulted::Resolved => return Ok(Next::Guest),
            Faulted::NotMemory => {}
        }

        // An event was being delivered through memory that is not there.
        if self.state.events.injected.is_some() {
            let words = B::describe_exit(self);
            return Ok(self.internal_error(INTERNAL_ERROR_DELIVERY_EV, &words));
        }
        let Some(gva) = gva else {
            // The processor walked the guest's page tables there.
            return Ok(self.emulation_failure(&[]));
        };
        if is_fetch {
            return Ok(self.emulation_failure(&[]));
        }
        self.emulate_mmio(&memory, gpa, gva)
    }

    /// KVM_RUN fails with an errno; the VMM reads where in `kvm_run`.
    fn leave_for_memory_fault(&self, gpa: Gpa) {
        self.leave(&UserExit::MemoryFault {
            gpa: gpa.page_base().0,
            size: PAGE_SIZE,
        });
    }

    fn emulate_mmio(&mut self, memory: &GuestAccess<'_>, gpa: Gpa, gva: Gva) -> Result<Next> {
        let cs = B::cs_rights(self);
        let code_size = CodeSize::new(self.is_64_bit_mode(), cs.is_default_big());

        let mut bytes = [0; mmio::MAX_LENGTH];
        let len = match self.fetch(memory, &mut bytes) {
            Ok(len) => len,
            // The guest changed its page tables since: let it fault for itself.
            Err(WalkError::Fault(_)) => return Ok(Next::Guest),
            Err(_) => return Ok(self.emulation_failure(&[])),
        };
        let Ok(mov) = mmio::decode(&bytes[..len], code_size) else {
            return Ok(self.emulation_failure(&bytes[..len]));
        };

        let state = self.decoder_state(code_size, mov.memory.segment);
        let size = mov.size.bytes();
        let mut data = [0; 8];
        if mov.direction() == Direction::Store {
            let Some(value) = mov.store_value(&state.registers) else {
                return Ok(self.emulation_failure(&bytes[..len]));
            };
            data = value.to_le_bytes();
        }

        let start = mov.linear_address(&state);
        let mut fragments = [
            Fragment {
                gpa,
                len: size as u8,
            },
            Fragment::default(),
        ];
        // An access that crosses a page may have exited for its second half: the exit says where
        // the processor noticed, not where the access begins.
        if start != gva || start.page_offset() + size as u64 > PAGE_SIZE {
            match self.split(memory, start, size, mov.direction()) {
                Ok(split) => fragments = split,
                Err(WalkError::Fault(_)) => return Ok(Next::Guest),
                Err(_) => return Ok(self.emulation_failure(&bytes[..len])),
            }
        }
        self.advance_mmio(
            memory,
            PendingMmio {
                mov,
                fragments,
                at: 0,
                data,
            },
        )
    }

    /// The registers as the decoder wants them: of segment bases, the one that the operand uses.
    fn decoder_state(&self, code_size: CodeSize, segment: mmio::Segment) -> mmio::State {
        let mut segment_bases = [0; 6];
        segment_bases[segment as usize] = B::segment_base(self, segment.into());
        mmio::State {
            code_size,
            registers: self.all_regs(),
            segment_bases,
            rip: B::rip(self),
        }
    }

    /// The fragments of an access that crosses a page.
    fn split(
        &self,
        mut memory: &GuestAccess<'_>,
        start: Gva,
        size: usize,
        direction: Direction,
    ) -> Result<[Fragment; 2], WalkError> {
        let kind = match direction {
            Direction::Store => AccessKind::Write,
            Direction::Load => AccessKind::Read,
        };
        let access = self.access(kind);
        let paging = self.paging();
        let first = size.min((PAGE_SIZE - start.page_offset()) as usize);
        let mut fragments = [Fragment::default(); 2];
        fragments[0] = Fragment {
            gpa: paging.translate(&mut memory, start, access)?.gpa,
            len: first as u8,
        };
        if first < size {
            fragments[1] = Fragment {
                gpa: paging
                    .translate(&mut memory, start.offset(first as u64), access)?
                    .gpa,
                len: (size - first) as u8,
            };
        }
        Ok(fragments)
    }

    /// Reads the instruction at RIP; fewer bytes than asked for where the next page is not there.
    fn fetch(
        &self,
        mut memory: &GuestAccess<'_>,
        bytes: &mut [u8; mmio::MAX_LENGTH],
    ) -> Result<usize, WalkError> {
        let start = self.linear_rip();
        let access = self.access(AccessKind::Fetch);
        let paging = self.paging();

        let first = bytes.len().min((PAGE_SIZE - start.page_offset()) as usize);
        let gpa = paging.translate(&mut memory, start, access)?.gpa;
        memory
            .read(gpa, &mut bytes[..first])
            .map_err(|_| WalkError::Unreadable(gpa))?;
        if first == bytes.len() {
            return Ok(first);
        }
        let rest = paging
            .translate(&mut memory, start.offset(first as u64), access)
            .ok()
            .and_then(|t| memory.read(t.gpa, &mut bytes[first..]).ok());
        Ok(if rest.is_some() { bytes.len() } else { first })
    }

    /// Goes on with an access: fragments that are memory are done here, others by the VMM.
    fn advance_mmio(&mut self, memory: &GuestAccess<'_>, mut pending: PendingMmio) -> Result<Next> {
        let is_write = pending.mov.direction() == Direction::Store;
        loop {
            let Some(fragment) = pending.fragments.get(usize::from(pending.at)).copied() else {
                break;
            };
            if fragment.len == 0 {
                break;
            }
            let part = pending.part();
            if memory.is_memory(fragment.gpa, is_write) {
                if is_write {
                    memory.write(fragment.gpa, &pending.data[part])?;
                } else {
                    memory.read(fragment.gpa, &mut pending.data[part])?;
                }
                pending.at += 1;
                continue;
            }
            let done = if is_write {
                self.device_write(fragment.gpa.0, &pending.data[part.clone()])
            } else {
                self.device_read(fragment.gpa.0, &mut pending.data[part.clone()])
            };
            if done {
                pending.at += 1;
                continue;
            }
            let mut data = [0; 8];
            if is_write {
                data[..part.len()].copy_from_slice(&pending.data[part.clone()]);
            }
            self.state.pending = Pending::Mmio(pending);
            return Ok(self.leave(&UserExit::Mmio {
                gpa: fragment.gpa.0,
                data,
                len: part.len() as u32,
                is_write,
            }));
        }

        if !is_write {
            let value = u64::from_le_bytes(pending.data);
            if let Some((register, value)) = pending.mov.apply_load(value, &self.all_regs()) {
                self.set_reg(register.number(), value);
            }
        }
        B::skip_bytes(self, pending.mov.length);
        Ok(Next::Guest)
    }

    /// The VMM has done its fragment.
    pub(crate) fn complete_mmio(&mut self, mut pending: PendingMmio) -> Result<Next> {
        if pending.mov.direction() == Direction::Load {
            let data = self.vcpu.run.mmio_data();
            let part = pending.part();
            let len = part.len();
            pending.data[part].copy_from_slice(&data[..len]);
        }
        pending.at += 1;
        let memory = self.vm.memory.access();
        self.advance_mmio(&memory, pending)
    }

    /// KVM_EXIT_INTERNAL_ERROR with the bytes of the instruction that could not be emulated.
    pub(crate) fn emulation_failure(&self, bytes: &[u8]) -> Next {
        let mut words = [0u64; 4];
        // As `struct emulation_failure` in `kvm_run`: flags, then a count and 15 bytes.
        words[0] = FLAG_INSTRUCTION_BYTES;
        let mut packed = [0x90u8; 16];
        let len = bytes.len().min(15);
        packed[0] = len as u8;
        packed[1..=len].copy_from_slice(&bytes[..len]);
        for (word, chunk) in words[1..3].iter_mut().zip(packed.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            *word = u64::from_le_bytes(eight);
        }
        let count = if len == 0 { 0 } else { 3 };
        self.internal_error(INTERNAL_ERROR_EMULATION, &words[..count])
    }
}

impl PendingMmio {
    /// The bytes of the fragment in hand.
    fn part(&self) -> core::ops::Range<usize> {
        let start = if self.at == 0 {
            0
        } else {
            usize::from(self.fragments[0].len)
        };
        let len = self
            .fragments
            .get(usize::from(self.at))
            .map_or(0, |fragment| usize::from(fragment.len));
        start..(start + len).min(8)
    }
}
