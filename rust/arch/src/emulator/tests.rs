// SPDX-License-Identifier: GPL-2.0

use crate::emulator::Progress;
use crate::fuzzing::machine::TestMachine;
use crate::operand::CodeSize;

mod decode;
mod families;
mod faults;
mod flags;
mod random;
mod strings;

impl TestMachine {
    fn with(registers: &[(usize, u64)]) -> Self {
        let mut machine = Self::new();
        for (number, value) in registers {
            machine.registers[*number] = *value;
        }
        machine
    }

    fn peek_u64(&self, gva: u64) -> u64 {
        u64::from_le_bytes(self.peek(gva, 8).try_into().unwrap())
    }

    /// Executes 64-bit code to its end.
    #[track_caller]
    fn done(&mut self, bytes: &[u8]) {
        assert_eq!(
            self.run(bytes, CodeSize::Bits64),
            Ok(Progress::Done),
            "{bytes:x?}"
        );
    }
}
