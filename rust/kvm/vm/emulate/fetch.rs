// SPDX-License-Identifier: GPL-2.0

//! The bytes of the instruction.

use arch::{
    addr::PAGE_SIZE,
    emulator::{
        self,
        DecodeError,
        Instruction,
        Stop,
        MAX_LENGTH, //
    },
    exception::Exception,
    operand::CodeSize,
    paging::AccessKind, //
};

use super::{
    super::backend::Backend,
    access::walk_stop,
    machine::Guest, //
};

impl<B: Backend> Guest<'_, '_, B> {
    /// The instruction at RIP. What lies on another page is read only if the instruction goes on
    /// there.
    pub(super) fn fetch(&self, bytes: &mut [u8; MAX_LENGTH]) -> Result<Instruction, Stop> {
        let cs = B::cs_rights(self.cx);
        let code_size = CodeSize::new(self.cx.is_64_bit_mode(), cs.is_default_big());

        let len = self.fetch_part(bytes, 0)?;
        let mut decoded = emulator::decode(&bytes[..len], code_size);
        if decoded == Err(DecodeError::Truncated) && len < MAX_LENGTH {
            self.fetch_part(bytes, len)?;
            decoded = emulator::decode(bytes, code_size);
        }
        decoded.map_err(|error| match error {
            DecodeError::Unknown | DecodeError::Truncated => Stop::Unknown,
            DecodeError::Invalid => Stop::fault(Exception::InvalidOpcode),
            DecodeError::TooLong => Stop::fault(Exception::GeneralProtection),
        })
    }

    /// Reads the bytes from number `done` on, up to the end of their page; returns how many there
    /// are then.
    fn fetch_part(&self, bytes: &mut [u8; MAX_LENGTH], done: usize) -> Result<usize, Stop> {
        let start = self.cx.linear_rip().offset(done as u64);
        let access = self.cx.access(AccessKind::Fetch);
        let gpa = self
            .cx
            .paging()
            .translate(&mut &*self.memory, start, access)
            .map_err(|error| walk_stop(error, start))?
            .gpa;
        let room = (PAGE_SIZE - start.page_offset()) as usize;
        let end = MAX_LENGTH.min(done.saturating_add(room));
        self.memory
            .read(gpa, &mut bytes[done..end])
            .map_err(|_| Stop::Unknown)?;
        Ok(end)
    }

    /// As many bytes as there are, for a report.
    pub(super) fn fetch_bytes(&self, bytes: &mut [u8; MAX_LENGTH]) -> usize {
        let Ok(len) = self.fetch_part(bytes, 0) else {
            return 0;
        };
        if len == MAX_LENGTH {
            return len;
        }
        self.fetch_part(bytes, len).unwrap_or(len)
    }
}
