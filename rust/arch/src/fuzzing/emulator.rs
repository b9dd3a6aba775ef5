// SPDX-License-Identifier: GPL-2.0

//! Any instruction on any machine: nothing panics or runs for long, what stops leaves no trace, and
//! what is interrupted by devices comes out as if it had not been.

use super::input::{Input, Source};
use super::machine::TestMachine;
use crate::addr::Gva;
use crate::control_regs::{Cr0, Cr4};
use crate::emulator::{decode, execute, Progress, Stop, MAX_LENGTH};
use crate::operand::CodeSize::{self, Bits16, Bits32, Bits64};
use crate::segment::AccessRights;
use std::vec::Vec;

/// Bytes that a device gives before a run counts as too long to be compared.
const PATIENCE: usize = 512;

/// What became of an instruction that could be decoded.
pub struct Outcome {
    /// It was carried out.
    pub completed: bool,
    /// Devices were asked.
    pub interrupted: bool,
}

/// An instruction and a machine out of a fuzzer's bytes; `None` if there is no such instruction.
pub fn emulator(bytes: &[u8]) -> Option<Outcome> {
    let mut input = Input(bytes);
    let code_size = input.pick(&[Bits16, Bits32, Bits64]);
    let code: Vec<u8> = (0..MAX_LENGTH).map(|_| input.below(0x100) as u8).collect();
    let machine = machine(&mut input);
    check(&code, code_size, machine)
}

fn value(source: &mut impl Source) -> u64 {
    match source.below(6) {
        0 => source.below(0x3000),
        1 => source.next(),
        2 => 0x7fff_ffff_fff8 + source.below(16),
        3 => 0xffff_fff8 + source.below(16),
        4 => 0xfff8 + source.below(16),
        _ => source.below(8).wrapping_sub(4),
    }
}

/// Any machine.
pub(crate) fn machine(source: &mut impl Source) -> TestMachine {
    let mut machine = TestMachine::new();
    for register in &mut machine.registers {
        *register = value(source);
    }
    for segment in &mut machine.segments {
        if source.below(3) == 0 {
            segment.base = Gva(source.next() & 0xffff_ffff);
            segment.limit = source.next() as u32 >> source.below(32);
            segment.rights = AccessRights(source.next() as u32 & 0x1_f0ff);
        }
    }
    machine.rflags = source.next() & 0x3f_7fd7 | 2;
    machine.rip = value(source);
    if source.below(4) == 0 {
        machine.cr0 = Cr0::from_bits_retain(source.next());
        machine.cr4 = Cr4::from_bits_retain(source.next());
        machine.xcr0 = source.next() & 7;
    }
    machine.cpl = source.pick(&[0, 3]);
    for _ in 0..4 {
        let page = value(source) / 4096;
        match source.below(3) {
            0 => machine.absent.insert(page),
            1 => machine.read_only.insert(page),
            _ => machine.device.insert(page),
        };
    }
    machine
}

/// Executes an instruction with devices that answer at once, and with devices that do not.
///
/// # Panics
///
/// If the two differ, or if an execution that stops has changed anything. `None` if there is no such
/// instruction.
pub(crate) fn check(
    bytes: &[u8],
    code_size: CodeSize,
    mut machine: TestMachine,
) -> Option<Outcome> {
    let instruction = decode(bytes, code_size).ok()?;
    assert!((1..=MAX_LENGTH).contains(&usize::from(instruction.length)));

    // What it does when each device answers at once.
    let mut at_once = machine.clone();
    let answers: Vec<u8> = (0..4096 * 4).map(|i| (i * 37 + 11) as u8).collect();
    at_once.answers.extend(&answers);
    let expected = execute(&instruction, &mut at_once);

    // And when each answer is given only after it was asked for.
    let mut given = 0;
    let result = loop {
        let before = machine.clone();
        match machine.run(bytes, code_size) {
            Err(Stop::Exit) => {
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
        if given > PATIENCE {
            return Some(Outcome {
                completed: matches!(expected, Ok(Progress::Done)),
                interrupted: true,
            });
        }
    };
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
    Some(Outcome {
        completed: matches!(result, Ok(Progress::Done)),
        interrupted: given > 0,
    })
}
