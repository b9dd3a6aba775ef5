// SPDX-License-Identifier: GPL-2.0

//! Random instructions on random machines, checked as [`crate::fuzzing::emulator`] says.
//!
//! `EMULATOR_FUZZ_RUNS` sets how many; the seed is always the same, so a failure comes again.

use crate::fuzzing::emulator::{check, machine};
use crate::fuzzing::input::Source;
use crate::operand::CodeSize::{Bits16, Bits32, Bits64};
use std::vec::Vec;

const RUNS: u64 = 50_000;

/// xorshift64*.
struct Random(u64);

impl Source for Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn instruction(random: &mut Random) -> Vec<u8> {
    const PREFIXES: &[u8] = &[0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x48, 0x41, 0x64, 0x36, 0x2e];
    let mut bytes = Vec::new();
    for _ in 0..random.below(4) {
        bytes.push(random.pick(PREFIXES));
    }
    match random.below(6) {
        0 | 1 => {}
        2 | 3 => bytes.push(0x0f),
        4 => bytes.extend([0x0f, 0x38]),
        _ => bytes.extend([0xc5, random.next() as u8 | 0x78]),
    }
    for _ in 0..12 {
        bytes.push(random.next() as u8);
    }
    bytes
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
        let bytes = instruction(&mut random);
        let code_size = random.pick(&[Bits16, Bits32, Bits64]);
        let machine = machine(&mut random);
        let Some(outcome) = check(&bytes, code_size, machine) else {
            continue;
        };
        decoded += 1;
        completed += u64::from(outcome.completed);
        interrupted += u64::from(outcome.interrupted);
    }
    assert!(
        decoded > runs() / 20 && completed > decoded / 4 && interrupted > decoded / 200,
        "{decoded} decoded, {completed} completed, {interrupted} interrupted"
    );
}
