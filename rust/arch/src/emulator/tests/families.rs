// SPDX-License-Identifier: GPL-2.0

//! What only a look at memory shows. Results and flags are held against the processor's in
//! `tests/native.rs`.

use crate::emulator::{Progress, Stop};
use crate::fuzzing::machine::{Access, TestMachine};
use crate::operand::CodeSize::{Bits16, Bits32, Bits64};

const AT: u64 = 0x1_0000;

fn machine() -> TestMachine {
    let mut machine = TestMachine::with(&[(0, 0x8877_6655_4433_2211), (3, AT)]);
    machine.poke(AT, &[0xa8, 0xa7, 0xa6, 0xa5, 0xa4, 0xa3, 0xa2, 0xa1]);
    machine
}

const OLD: u64 = 0x8877_6655_4433_2211;
const DATA: u64 = 0xa1a2_a3a4_a5a6_a7a8;

#[test]
fn loads_write_registers_by_the_rules_of_their_size() {
    for (bytes, number, new) in [
        (&[0x8a, 0x03][..], 0, 0x8877_6655_4433_22a8),
        (&[0x8a, 0x23], 0, 0x8877_6655_4433_a811),
        (&[0x66, 0x8b, 0x03], 0, 0x8877_6655_4433_a7a8),
        (&[0x8b, 0x03], 0, 0xa5a6_a7a8),
        (&[0x48, 0x8b, 0x03], 0, DATA),
        (&[0x0f, 0xb6, 0x03], 0, 0xa8),
        (&[0x66, 0x0f, 0xb6, 0x03], 0, 0x8877_6655_4433_00a8),
        (&[0x48, 0x0f, 0xb7, 0x03], 0, 0xa7a8),
        (&[0x0f, 0xbe, 0x03], 0, 0xffff_ffa8),
        (&[0x66, 0x0f, 0xbe, 0x03], 0, 0x8877_6655_4433_ffa8),
        (&[0x48, 0x0f, 0xbf, 0x03], 0, 0xffff_ffff_ffff_a7a8),
        (&[0x48, 0x63, 0x03], 0, 0xffff_ffff_a5a6_a7a8),
        (&[0x63, 0x03], 0, 0xa5a6_a7a8),
        (&[0x48, 0x0f, 0x38, 0xf0, 0x03], 0, DATA.swap_bytes()),
        (&[0x66, 0x0f, 0x38, 0xf0, 0x03], 0, 0x8877_6655_4433_a8a7),
    ] {
        let mut machine = machine();
        machine.done(bytes);
        assert_eq!(machine.registers[number], new, "{bytes:x?}");
        assert!(machine.accesses.iter().all(|access| !access.write));
    }
}

#[test]
fn stores_write_what_they_name_and_no_more() {
    for (bytes, len, value) in [
        (&[0x88, 0x03][..], 1, 0x11),
        (&[0x88, 0x23], 1, 0x22),
        (&[0x66, 0x89, 0x03], 2, 0x2211),
        (&[0x89, 0x03], 4, 0x4433_2211),
        (&[0x48, 0x89, 0x03], 8, OLD),
        (&[0xc6, 0x03, 0x80], 1, 0x80),
        (&[0x66, 0xc7, 0x03, 0xfe, 0xff], 2, 0xfffe),
        (&[0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], 4, 0xffff_fffe),
        (&[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], 8, u64::MAX - 1),
        (&[0x0f, 0xc3, 0x03], 4, 0x4433_2211),
        (&[0x48, 0x0f, 0x38, 0xf9, 0x03], 8, OLD),
        (&[0x0f, 0x38, 0xf1, 0x03], 4, 0x1122_3344),
        (&[0x8c, 0x1b], 2, 0x10),
    ] {
        let mut machine = machine();
        machine.done(bytes);
        let access = Access {
            gva: AT,
            len,
            write: true,
        };
        assert_eq!(machine.accesses, [access], "{bytes:x?}");
        let mask = u64::MAX >> (64 - 8 * len);
        assert_eq!(machine.peek_u64(AT), DATA & !mask | value, "{bytes:x?}");
        assert_eq!(machine.registers[0], OLD);
    }
}

#[test]
fn a_read_modify_write_asks_for_a_writable_page_first() {
    for bytes in [
        &[0x01, 0x03][..],
        &[0xf0, 0x83, 0x0b, 1],
        &[0xff, 0x03],
        &[0xd1, 0x23],
        &[0x87, 0x03],
        &[0x0f, 0xc1, 0x03],
        &[0x0f, 0xb1, 0x03],
        &[0x0f, 0xc7, 0x0b],
        &[0x0f, 0xab, 0x03],
    ] {
        let mut machine = machine();
        machine.read_only.insert(AT / 4096);
        machine.registers[0] = 1;
        let before = machine.clone();
        let result = machine.run(bytes, Bits64);
        assert!(
            matches!(result, Err(Stop::Fault(fault)) if fault.error_code == Some(3)),
            "{bytes:x?} {result:?}"
        );
        assert_eq!(machine, before, "{bytes:x?}");
    }
    // These only look.
    for bytes in [&[0x39, 0x03][..], &[0x84, 0x03], &[0x0f, 0xa3, 0x03]] {
        let mut machine = machine();
        machine.registers[0] = 1;
        machine.read_only.insert(AT / 4096);
        machine.done(bytes);
    }
}

#[test]
fn a_locked_instruction_tries_again_when_memory_changed() {
    for bytes in [
        &[0xf0, 0x01, 0x03][..],
        &[0x87, 0x03],
        &[0xf0, 0x0f, 0xb1, 0x03],
        &[0xf0, 0x0f, 0xc7, 0x0b],
    ] {
        let mut machine = machine();
        machine.contended = true;
        let registers = machine.registers;
        assert_eq!(machine.run(bytes, Bits64), Err(Stop::Retry), "{bytes:x?}");
        assert_eq!((machine.registers, machine.rflags), (registers, 2));
        assert_eq!(machine.peek_u64(AT), DATA);
    }
}

#[test]
fn bits_far_from_the_operand() {
    for (offset, byte, bit) in [
        (0i64, 0i64, 0),
        (9, 1, 1),
        (64, 8, 0),
        (-1, -1, 7),
        (-65, -9, 7),
    ] {
        let mut machine = machine();
        machine.memory.clear();
        machine.registers[1] = offset as u64;
        // BTS [RBX], RCX.
        machine.done(&[0x48, 0x0f, 0xab, 0x0b]);
        let at = AT.wrapping_add(byte as u64);
        assert_eq!(machine.peek(at, 1), [1 << bit], "{offset}");
        assert_eq!(machine.rflags & 1, 0);
        machine.done(&[0x48, 0x0f, 0xa3, 0x0b]);
        assert_eq!(machine.rflags & 1, 1);
    }
}

#[test]
fn the_stack_moves_after_the_access() {
    let mut machine = machine();
    machine.registers[4] = 0x2_0000;
    machine.done(&[0xff, 0x33]);
    assert_eq!(machine.registers[4], 0x1_fff8);
    assert_eq!(machine.peek_u64(0x1_fff8), DATA);
    // POP [RSP + 8]: RSP counts as it is afterwards.
    machine.done(&[0x8f, 0x44, 0x24, 0x08]);
    assert_eq!(machine.registers[4], 0x2_0000);
    assert_eq!(machine.peek_u64(0x2_0008), DATA);
    machine.done(&[0x6a, 0xfe]);
    assert_eq!(machine.peek_u64(0x1_fff8), u64::MAX - 1);
    // POP RSP.
    machine.done(&[0x5c]);
    assert_eq!(machine.registers[4], u64::MAX - 1);
}

#[test]
fn the_stack_wraps_at_its_own_size() {
    let mut machine = machine();
    machine.segments[2].rights.0 &= !(1 << 14);
    machine.registers[4] = 0xaaaa_0000;
    assert_eq!(machine.run(&[0x50], Bits16), Ok(Progress::Done));
    assert_eq!(machine.registers[4], 0xaaaa_fffe);
    assert_eq!(machine.peek(0xfffe, 2), [0x11, 0x22]);
    assert_eq!(machine.run(&[0x66, 0x58], Bits32), Ok(Progress::Done));
    assert_eq!(machine.registers[4], 0xaaaa_0000);
}

#[test]
fn nothing_happens_when_a_push_cannot_be_stored() {
    let mut machine = machine();
    machine.registers[4] = 0x2_0000;
    machine.absent.insert(0x1f);
    let before = machine.clone();
    assert!(matches!(
        machine.run(&[0xff, 0x33], Bits64),
        Err(Stop::Fault(_))
    ));
    assert_eq!(machine, before, "the device at RBX was not read");
}

#[test]
fn an_answer_that_is_missing_stops_the_instruction() {
    for bytes in [&[0x8b, 0x03][..], &[0x01, 0x03], &[0xff, 0x33], &[0xa7]] {
        let mut machine = machine();
        machine.device.insert(AT / 4096);
        machine.registers[4] = 0x2_0000;
        (machine.registers[6], machine.registers[7]) = (AT, AT + 8);
        let before = machine.clone();
        assert_eq!(machine.run(bytes, Bits64), Err(Stop::Exit), "{bytes:x?}");
        machine.accesses.clear();
        assert_eq!(machine, before, "{bytes:x?}");
        machine.answers.extend([1, 0, 0, 0, 2, 0, 0, 0]);
        machine.done(bytes);
    }
}

#[test]
fn vector_moves() {
    let pattern: [u8; 32] = core::array::from_fn(|i| i as u8 + 1);
    let low = u128::from_le_bytes(pattern[..16].try_into().unwrap());
    let high = u128::from_le_bytes(pattern[16..].try_into().unwrap());
    let ones = [u128::MAX; 2];
    let half = u128::from(u64::MAX);
    for (bytes, after) in [
        (&[0x0f, 0x10, 0x03][..], [low, u128::MAX]),
        (&[0x66, 0x0f, 0x6f, 0x03], [low, u128::MAX]),
        (&[0xf3, 0x0f, 0x6f, 0x03], [low, u128::MAX]),
        (&[0xf2, 0x0f, 0xf0, 0x03], [low, u128::MAX]),
        (&[0x66, 0x0f, 0x38, 0x2a, 0x03], [low, u128::MAX]),
        (&[0xf3, 0x0f, 0x10, 0x03], [low & 0xffff_ffff, u128::MAX]),
        (&[0xf2, 0x0f, 0x10, 0x03], [low & half, u128::MAX]),
        (&[0x66, 0x0f, 0x6e, 0x03], [low & 0xffff_ffff, u128::MAX]),
        (&[0x66, 0x48, 0x0f, 0x6e, 0x03], [low & half, u128::MAX]),
        (&[0xf3, 0x0f, 0x7e, 0x03], [low & half, u128::MAX]),
        (&[0x0f, 0x12, 0x03], [low & half | !half, u128::MAX]),
        (&[0x66, 0x0f, 0x16, 0x03], [low << 64 | half, u128::MAX]),
        (&[0xc5, 0xf8, 0x10, 0x03], [low, 0]),
        (&[0xc5, 0xfc, 0x10, 0x03], [low, high]),
        (&[0xc5, 0xfd, 0x6f, 0x03], [low, high]),
        (&[0xc5, 0xfa, 0x10, 0x03], [low & 0xffff_ffff, 0]),
        (&[0xc5, 0xf9, 0x6e, 0x03], [low & 0xffff_ffff, 0]),
        (&[0xc4, 0xe1, 0xf9, 0x6e, 0x03], [low & half, 0]),
    ] {
        let mut machine = machine();
        machine.poke(AT, &pattern);
        machine.vectors[0] = ones;
        machine.done(bytes);
        assert_eq!(machine.vectors[0], after, "{bytes:x?}");
    }
    for (bytes, len, from) in [
        (&[0x0f, 0x11, 0x03][..], 16, 0),
        (&[0x66, 0x0f, 0x7f, 0x03], 16, 0),
        (&[0x66, 0x0f, 0xe7, 0x03], 16, 0),
        (&[0xf3, 0x0f, 0x11, 0x03], 4, 0),
        (&[0x66, 0x0f, 0xd6, 0x03], 8, 0),
        (&[0x66, 0x0f, 0x7e, 0x03], 4, 0),
        (&[0x0f, 0x17, 0x03], 8, 8),
        (&[0xc5, 0xfc, 0x11, 0x03], 32, 0),
        (&[0xc5, 0xf8, 0x11, 0x03], 16, 0),
        (&[0xc5, 0xfd, 0xe7, 0x03], 32, 0),
    ] {
        let mut machine = machine();
        machine.vectors[0] = [low, high];
        machine.done(bytes);
        let access = Access {
            gva: AT,
            len,
            write: true,
        };
        assert_eq!(machine.accesses, [access], "{bytes:x?}");
        assert_eq!(
            machine.peek(AT, len),
            pattern[from..from + len],
            "{bytes:x?}"
        );
    }
}
