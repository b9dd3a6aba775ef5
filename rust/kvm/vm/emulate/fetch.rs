// SPDX-License-Identifier: GPL-2.0

//! The bytes of the instruction.

use arch::{
    addr::{
        Gpa,
        PAGE_SIZE, //
    },
    emulator::{
        self,
        DecodeError,
        Instruction,
        Stop,
        MAX_LENGTH, //
    },
    exception::Exception,
    operand::CodeSize,
    paging::{
        AccessKind,
        GuestMemory, //
    },
};

use super::{
    super::backend::{
        Backend,
        SegmentRegister, //
    },
    access::walk_stop,
    machine::Guest,
    memo::{
        Key,
        Memo,
        Recorder, //
    },
};
use crate::host::trace;

impl<B: Backend> Guest<'_, '_, B> {
    /// The instruction at RIP. What lies on another page is read only if the instruction goes on
    /// there.
    pub(super) fn fetch(&mut self, bytes: &mut [u8; MAX_LENGTH]) -> Result<Instruction, Stop> {
        let key = Key::of(self.cx, self.memory);
        if let Some(instruction) = key.as_ref().and_then(|key| self.recall(key)) {
            return Ok(*instruction);
        }

        let cs = B::cs_rights(self.cx);
        let code_size = CodeSize::new(self.cx.is_64_bit_mode(), cs.is_default_big());

        let mut walk = Recorder::new(self.memory);
        let (len, gpa) = self.fetch_part(&mut walk, bytes, 0)?;
        let mut decoded = emulator::decode(&bytes[..len], code_size);
        if decoded == Err(DecodeError::Truncated) && len < MAX_LENGTH {
            self.fetch_part(&mut &*self.memory, bytes, len)?;
            decoded = emulator::decode(bytes, code_size);
        }
        let instruction = decoded.map_err(|error| match error {
            DecodeError::Unknown | DecodeError::Truncated => Stop::Unknown,
            DecodeError::Invalid => Stop::fault(Exception::InvalidOpcode),
            DecodeError::TooLong => Stop::fault(Exception::GeneralProtection),
        })?;
        self.cx.state.emulation.memo =
            key.and_then(|key| Memo::new(key, &walk, gpa, bytes, &instruction));
        Ok(instruction)
    }

    /// The instruction at RIP, if it is the one that was fetched last. Never sleeps.
    #[inline]
    pub(super) fn fetch_again(&self) -> Option<Instruction> {
        let key = Key::of(self.cx, self.memory)?;
        self.recall(&key).copied()
    }

    #[inline]
    fn recall(&self, key: &Key) -> Option<&Instruction> {
        self.cx.state.emulation.memo.as_ref()?.recall(key)
    }

    /// Reads the bytes from number `done` on, up to the end of their page; returns how many there
    /// are then, and where in guest memory these are. The walk there reads `tables`.
    fn fetch_part<M: GuestMemory>(
        &self,
        tables: &mut M,
        bytes: &mut [u8; MAX_LENGTH],
        done: usize,
    ) -> Result<(usize, Gpa), Stop> {
        let start = self.cx.linear_rip().offset(done as u64);
        let access = self.cx.access(AccessKind::Fetch);
        let gpa = self
            .cx
            .paging()
            .translate(tables, start, access)
            .map_err(|error| walk_stop(error, start))?
            .gpa;
        let room = (PAGE_SIZE - start.page_offset()) as usize;
        let end = MAX_LENGTH.min(done.saturating_add(room));
        self.memory
            .read(gpa, &mut bytes[done..end])
            .map_err(|_| Stop::Unknown)?;
        Ok((end, gpa))
    }

    /// Tells whoever listens of the instruction at RIP, which has `length` bytes, or cannot be
    /// emulated.
    #[cold]
    pub(super) fn tell_of_instruction(&self, length: Option<u8>) {
        const MODE_VM: u64 = 1 << 17;
        let mut bytes = [0; MAX_LENGTH];
        let len = self.fetch_bytes(&mut bytes);
        let cs = B::cs_rights(self.cx);
        let is_virtual_8086 = B::rflags(self.cx) & MODE_VM != 0;
        let mut flags = 0;
        if B::cr0(self.cx) & 1 != 0 {
            flags = trace::INSN_PE;
            if is_virtual_8086 {
                flags |= trace::INSN_VM;
            } else if self.cx.is_64_bit_mode() {
                flags |= trace::INSN_CS_L;
            } else if cs.is_default_big() {
                flags |= trace::INSN_CS_D;
            }
        }
        trace::kvm_emulate_insn::emit(
            B::rip(self.cx),
            B::segment_base(self.cx, SegmentRegister::Cs) as u32,
            bytes.as_ptr(),
            length.unwrap_or(len as u8),
            flags,
            length.is_none(),
        );
    }

    /// As many bytes as there are, for a report.
    pub(super) fn fetch_bytes(&self, bytes: &mut [u8; MAX_LENGTH]) -> usize {
        let memory = &mut &*self.memory;
        let Ok((len, _)) = self.fetch_part(memory, bytes, 0) else {
            return 0;
        };
        if len == MAX_LENGTH {
            return len;
        }
        self.fetch_part(memory, bytes, len)
            .map_or(len, |(len, _)| len)
    }
}
