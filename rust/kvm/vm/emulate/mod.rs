// SPDX-License-Identifier: GPL-2.0

//! Instructions that the module executes for the guest, by the emulator in `arch`.
//!
//! An instruction that reads a device of the VMM's is executed again when the VMM has answered; a
//! log of the answers sees to it that no device is read twice. What it writes to devices of the
//! VMM's is queued, and goes there piece by piece once the instruction is complete
//! (api.rst, KVM_EXIT_MMIO).

mod access;
mod fetch;
mod machine;
mod memo;
mod queue;

use arch::{
    addr::{
        Gpa,
        Gva, //
    },
    emulator::{
        self,
        Fault,
        Instruction,
        Progress,
        Stop, //
    },
    rflags::Rflags, //
};
use kernel::prelude::*;

pub(crate) use self::{
    access::Known,
    queue::Emulation, //
};
use self::{
    machine::Guest,
    queue::{
        Piece, //
        Place,
    }, //
};
use super::{
    backend::Backend,
    io::Pending,
    memory::GuestAccess,
    options::Switches,
    run::{
        Next,
        INTERNAL_ERROR_EMULATION, //
    },
    vcpu::Loaded, //
};
use crate::{
    host::{
        shared::UserExit,
        speculation,
        trace::{
            kvm_emulate_insn,
            trace, //
        },
    },
    stats::vcpu as stat, //
};

/// KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES.
const FLAG_INSTRUCTION_BYTES: u64 = 1 << 0;

impl<B: Backend> Loaded<'_, B> {
    /// Executes the instruction at RIP. `known` is a translation that the processor made for it.
    pub(crate) fn emulate(
        &mut self,
        memory: &GuestAccess<'_>,
        known: Option<Known>,
    ) -> Result<Next> {
        speculation::uses_l1d();
        self.state.emulation.begin(known);
        let mut guest = Guest::new(self, memory);
        let mut bytes = [0; emulator::MAX_LENGTH];
        match guest.fetch(&mut bytes) {
            Ok(instruction) => {
                guest.cx.count(stat::INSN_EMULATION);
                if kvm_emulate_insn::is_on() {
                    guest.tell_of_instruction(Some(instruction.length));
                }
                let result = emulator::execute(&instruction, &mut guest);
                self.conclude(&instruction, result)
            }
            Err(Stop::Fault(fault)) => {
                self.queue_fault(fault);
                Ok(Next::Guest)
            }
            Err(Stop::Retry | Stop::Exit) => Ok(Next::Guest),
            Err(Stop::Unknown) => Ok(self.emulation_failure()),
        }
    }

    /// Puts VMCALL in the place of a VMMCALL at RIP, which guests use that take the processor for
    /// AMD's, and have it run again. Returns whether there was one.
    pub(crate) fn fix_hypercall(&mut self) -> bool {
        const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
        const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
        let memory = self.vcpu.guest_memory();
        let rip = self.linear_rip();
        self.state.emulation.begin(None);
        let mut guest = Guest::new(self, &memory);
        let mut bytes = [0; emulator::MAX_LENGTH];
        let len = guest.fetch_bytes(&mut bytes);
        if len < VMMCALL.len() || bytes[..VMMCALL.len()] != VMMCALL {
            return false;
        }
        if let Err(Stop::Fault(fault)) = guest.write_operand(rip, &VMCALL) {
            self.queue_fault(fault);
        }
        true
    }

    /// Executes the instruction at RIP with interrupts off, if it is the one that was emulated last
    /// and moves data between a register and a chip in the kernel, which is at `gpa` and which the
    /// processor found at `gva`. Returns whether it was; if not, nothing has happened.
    pub(crate) fn emulate_at_chip(&mut self, gpa: Gpa, gva: Gva, is_write: bool) -> bool {
        let memory = self.vcpu.guest_memory();
        if self.state.events.injected.is_some() || memory.is_memory(gpa, false) {
            return false;
        }
        let Some(instruction) = Guest::new(self, &memory).fetch_again() else {
            return false;
        };
        if !instruction.is_move() {
            return false;
        }
        self.state
            .emulation
            .begin_within(Known::new(gva, gpa, is_write));
        match emulator::execute(&instruction, &mut Guest::new(self, &memory)) {
            Ok(progress) => {
                self.count(stat::INSN_EMULATION);
                self.finish_instruction(&instruction, progress);
                true
            }
            Err(_) => false,
        }
    }

    /// Executes the instruction again for which the VMM has answered a read.
    fn emulate_again(&mut self) -> Result<Next> {
        let (rip, Some(instruction)) = self.state.emulation.waiting() else {
            return Ok(Next::Guest);
        };
        if rip != B::rip(self) {
            // The VMM has moved the vCPU away from it.
            self.state.emulation.begin(None);
            return Ok(Next::Guest);
        }
        let memory = self.vcpu.guest_memory();
        let result = emulator::execute(&instruction, &mut Guest::new(self, &memory));
        self.conclude(&instruction, result)
    }

    fn conclude(
        &mut self,
        instruction: &Instruction,
        result: Result<Progress, Stop>,
    ) -> Result<Next> {
        match result {
            Ok(progress) => {
                self.finish_instruction(instruction, progress);
                self.leave_with_writes()
            }
            Err(Stop::Exit) => {
                let rip = B::rip(self);
                self.state.emulation.wait(rip, instruction);
                Ok(self.leave_with_read())
            }
            Err(Stop::Retry) => Ok(Next::Guest),
            Err(Stop::Fault(fault)) => {
                self.queue_fault(fault);
                Ok(Next::Guest)
            }
            Err(Stop::Unknown) => Ok(self.emulation_failure()),
        }
    }

    /// RIP and the flags that belong to it.
    fn finish_instruction(&mut self, instruction: &Instruction, progress: Progress) {
        const RF: u64 = Rflags::RF.bits();
        let rflags = B::rflags(self);
        let length = match progress {
            Progress::Done => {
                if rflags & RF != 0 {
                    B::set_rflags(self, rflags & !RF);
                }
                instruction.length
            }
            // A breakpoint on the instruction has triggered already.
            Progress::Again => {
                B::set_rflags(self, rflags | RF);
                0
            }
        };
        B::skip_bytes(self, length);
    }

    fn queue_fault(&mut self, fault: Fault) {
        // The handler returns to the instruction: a breakpoint on it has triggered already.
        let rflags = B::rflags(self);
        B::set_rflags(self, rflags | Rflags::RF.bits());
        self.state.events.queue_exception(
            fault.exception.vector(),
            fault.error_code,
            fault.cr2.map(|gva| gva.0),
        );
    }

    /// Goes to the VMM with the next write that is queued, or back to the guest.
    fn leave_with_writes(&mut self) -> Result<Next> {
        let Some(write) = self.state.emulation.next_write() else {
            return Ok(Next::Guest);
        };
        self.state.pending = Pending::EmulatedWrite;
        Ok(match write.place {
            Place::Memory(gpa) => self.leave_for_mmio(gpa, &write, true),
            Place::Port(port) => {
                self.vcpu.pio.write(0, write.bytes());
                self.leave_for_port(port, write.len, false)
            }
        })
    }

    /// Goes to the VMM for the read that the instruction waits for.
    fn leave_with_read(&mut self) -> Next {
        let read = self.state.emulation.wanted;
        self.state.pending = Pending::EmulatedRead;
        match read.place {
            Place::Memory(gpa) => self.leave_for_mmio(gpa, &read, false),
            Place::Port(port) => self.leave_for_port(port, read.len, true),
        }
    }

    fn leave_for_mmio(&self, gpa: Gpa, access: &Piece, is_write: bool) -> Next {
        self.count(stat::MMIO_EXITS);
        if is_write {
            trace!(kvm_mmio(
                2,
                access.len.into(),
                gpa.0,
                u64::from_le_bytes(access.data)
            ));
        } else {
            trace!(kvm_mmio(0, access.len.into(), gpa.0, 0));
        }
        self.leave(&UserExit::Mmio {
            gpa: gpa.0,
            data: access.data,
            len: access.len.into(),
            is_write,
        })
    }

    /// The VMM has done the write it was given.
    pub(crate) fn complete_emulated_write(&mut self) -> Result<Next> {
        self.leave_with_writes()
    }

    /// The VMM has answered the read.
    pub(crate) fn complete_emulated_read(&mut self) -> Result<Next> {
        let mut answer = self.state.emulation.wanted;
        match answer.place {
            Place::Memory(gpa) => {
                answer.data = self.vcpu.run.mmio_data();
                let value = u64::from_le_bytes(answer.data);
                trace!(kvm_mmio(1, answer.len.into(), gpa.0, value));
            }
            Place::Port(_) => self.vcpu.pio.read(0, &mut answer.data[..4]),
        }
        self.state.emulation.push_answer(answer);
        self.emulate_again()
    }

    /// What the emulator does not know: KVM_EXIT_INTERNAL_ERROR with the instruction's bytes; a
    /// #UD alone where that is a guest's user program, which is not to stop the machine.
    pub(crate) fn emulation_failure(&mut self) -> Next {
        self.count(stat::INSN_EMULATION_FAIL);
        if kvm_emulate_insn::is_on() {
            let memory = self.vcpu.guest_memory();
            Guest::new(self, &memory).tell_of_instruction(None);
        }
        if !self.vm.options.has(Switches::EXIT_ON_EMULATION_FAILURE) {
            self.queue_ud();
            if B::cpl(self) != 0 {
                return Next::Guest;
            }
        }
        let mut bytes = [0; emulator::MAX_LENGTH];
        let memory = self.vcpu.guest_memory();
        let len = Guest::new(self, &memory).fetch_bytes(&mut bytes);
        self.emulation_error(&bytes[..len])
    }

    fn emulation_error(&self, bytes: &[u8]) -> Next {
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
