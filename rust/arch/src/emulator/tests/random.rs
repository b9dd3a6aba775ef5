// SPDX-License-Identifier: GPL-2.0

//! Random instructions on random machines: nothing panics or runs for long, what stops leaves no
//! trace, and what is interrupted by devices comes out as if it had not been.
//!
//! `EMULATOR_FUZZ_RUNS` sets how many; the seed is always the same, so a failure comes again.

use super::machine::TestMachine;
use crate::addr::Gva;
use crate::control_regs::{Cr0, Cr4};
use crate::emulator::{decode, execute, Progress, Stop};
use crate::operand::CodeSize::{Bits16, Bits32, Bits64};
use crate::segment::AccessRights;
use std::vec::Vec;

const RUNS: u64 = 50_000;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn instruction(&mut self) -> Vec<u8> {
        const PREFIXES: &[u8] = &[0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x48, 0x41, 0x64, 0x36, 0x2e];
        let mut bytes = Vec::new();
        for _ in 0..self.below(4) {
            bytes.push(self.pick(PREFIXES));
        }
        match self.below(6) {
            0 | 1 => {}
            2 | 3 => bytes.push(0x0f),
            4 => bytes.extend([0x0f, 0x38]),
            _ => bytes.extend([0xc5, self.next() as u8 | 0x78]),
        }
        for _ in 0..12 {
            bytes.push(self.next() as u8);
        }
        bytes
    }

    fn value(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(0x3000),
            1 => self.next(),
            2 => 0x7fff_ffff_fff8 + self.below(16),
            3 => 0xffff_fff8 + self.below(16),
            4 => 0xfff8 + self.below(16),
            _ => self.below(8).wrapping_sub(4),
        }
    }

    fn machine(&mut self) -> TestMachine {
        let mut machine = TestMachine::new();
        for register in &mut machine.registers {
            *register = self.value();
        }
        for segment in &mut machine.segments {
            if self.below(3) == 0 {
                segment.base = Gva(self.next() & 0xffff_ffff);
                segment.limit = self.next() as u32 >> self.below(32);
                segment.rights = AccessRights(self.next() as u32 & 0x1_f0ff);
            }
        }
        machine.rflags = self.next() & 0x3f_7fd7 | 2;
        machine.rip = self.value();
        if self.below(4) == 0 {
            machine.cr0 = Cr0::from_bits_retain(self.next());
            machine.cr4 = Cr4::from_bits_retain(self.next());
            machine.xcr0 = self.next() & 7;
        }
        machine.cpl = self.pick(&[0, 3]);
        for _ in 0..4 {
            let page = self.value() / 4096;
            match self.below(3) {
                0 => machine.absent.insert(page),
                1 => machine.read_only.insert(page),
                _ => machine.device.insert(page),
            };
        }
        machine
    }
}

fn runs() -> u64 {
    match std::env::var("EMULATOR_FUZZ_RUNS") {
        Ok(runs) => runs.parse().unwrap(),
        Err(_) => RUNS,
    }
}

#[test]
fn random_instructions_on_random_machines() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut decoded, mut completed, mut interrupted) = (0, 0, 0);
    for _ in 0..runs() {
        let bytes = random.instruction();
        let code_size = random.pick(&[Bits16, Bits32, Bits64]);
        let Ok(instruction) = decode(&bytes, code_size) else {
            continue;
        };
        assert!((1..=15).contains(&instruction.length));
        decoded += 1;

        let mut machine = random.machine();
        // What it does when each device answers at once.
        let mut at_once = machine.clone();
        let answers: Vec<u8> = (0..4096 * 4).map(|i| (i * 37 + 11) as u8).collect();
        at_once.answers.extend(&answers);
        let expected = execute(&instruction, &mut at_once);

        // And when each answer is given only after it was asked for.
        let mut given = 0;
        let result = loop {
            let before = machine.clone();
            match machine.run(&bytes, code_size) {
                Err(Stop::Exit) => {
                    interrupted += 1;
                    if machine.elements == before.elements {
                        assert_eq!(machine.registers, before.registers, "{bytes:x?}");
                        assert_eq!(machine.rflags, before.rflags, "{bytes:x?}");
                        assert_eq!(machine.memory, before.memory, "{bytes:x?}");
                    }
                    machine.answers.push_back(answers[given]);
                    given += 1;
                }
                Ok(Progress::Again) if machine.elements < at_once.elements => {}
                other => break other,
            }
            if given > 512 {
                break expected;
            }
        };
        if given > 512 {
            continue;
        }
        if result == expected && machine.elements == at_once.elements {
            assert_eq!(machine.registers, at_once.registers, "{bytes:x?}");
            assert_eq!(machine.vectors, at_once.vectors, "{bytes:x?}");
            assert_eq!(machine.rflags, at_once.rflags, "{bytes:x?}");
            assert_eq!(machine.memory, at_once.memory, "{bytes:x?}");
        } else {
            // The bound on elements came at different ones.
            assert!(
                machine.elements > 1000,
                "{bytes:x?}: {result:?}, not {expected:?}"
            );
        }
        if matches!(result, Ok(Progress::Done)) {
            completed += 1;
        }
    }
    assert!(
        decoded > runs() / 20 && completed > decoded / 4 && interrupted > decoded / 200,
        "{decoded} decoded, {completed} completed, {interrupted} interrupted"
    );
}
