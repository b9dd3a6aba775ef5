// SPDX-License-Identifier: GPL-2.0

//! Exceptions that come before any access.

use crate::control_regs::{Cr0, Cr4};
use crate::emulator::{Progress, Stop};
use crate::exception::Exception;
use crate::fuzzing::machine::TestMachine;
use crate::operand::CodeSize::{self, Bits16, Bits32, Bits64};
use crate::segment::AccessRights;

const SS: usize = 2;
const DS: usize = 3;
const NON_CANONICAL: u64 = 0x8000_0000_0000;

#[track_caller]
fn expect(machine: &mut TestMachine, bytes: &[u8], code_size: CodeSize, exception: Exception) {
    let before = machine.clone();
    assert_eq!(
        machine.run(bytes, code_size),
        Err(Stop::fault(exception)),
        "{bytes:x?}"
    );
    assert_eq!(*machine, before);
}

#[test]
fn addresses_that_are_not_canonical() {
    // MOV EAX, [RBX]; MOV EAX, [RBP]; PUSH RAX; STOSB.
    let mut machine = TestMachine::with(&[
        (3, NON_CANONICAL),
        (4, NON_CANONICAL + 8),
        (5, NON_CANONICAL - 1),
        (7, NON_CANONICAL),
    ]);
    expect(
        &mut machine,
        &[0x8b, 0x03],
        Bits64,
        Exception::GeneralProtection,
    );
    expect(
        &mut machine,
        &[0x8b, 0x45, 0],
        Bits64,
        Exception::StackFault,
    );
    expect(&mut machine, &[0x50], Bits64, Exception::StackFault);
    expect(&mut machine, &[0xaa], Bits64, Exception::GeneralProtection);
    // With five levels of paging they are.
    machine.cr4 |= Cr4::LA57;
    machine.done(&[0x8b, 0x03]);
    machine.registers[3] = 1 << 56;
    expect(
        &mut machine,
        &[0x8b, 0x03],
        Bits64,
        Exception::GeneralProtection,
    );
}

#[test]
fn limits() {
    let mut machine = TestMachine::with(&[(3, 0xffd), (5, 0xffd), (4, 0x1004)]);
    machine.segments[DS].limit = 0xfff;
    machine.segments[SS].limit = 0xfff;
    expect(
        &mut machine,
        &[0x8b, 0x03],
        Bits32,
        Exception::GeneralProtection,
    );
    expect(
        &mut machine,
        &[0x8b, 0x45, 0],
        Bits32,
        Exception::StackFault,
    );
    expect(&mut machine, &[0x50], Bits32, Exception::StackFault);
    assert_eq!(machine.run(&[0x66, 0x8b, 0x03], Bits32), Ok(Progress::Done));
    // 64-bit code has no limits.
    machine.done(&[0x8b, 0x03]);
    // Real mode has them.
    machine.cr0 = Cr0::ET;
    expect(
        &mut machine,
        &[0x66, 0x8b, 0x1e, 0xfe, 0x0f],
        Bits16,
        Exception::GeneralProtection,
    );
}

#[test]
fn segments_that_do_not_allow_it() {
    let mut machine = TestMachine::with(&[(3, 0x100)]);
    // Data that is read-only, then code that is execute-only.
    for (rights, readable) in [(0xc091, true), (0xc099, false), (0xc09b, true)] {
        machine.segments[DS].rights = AccessRights(rights);
        expect(
            &mut machine,
            &[0x89, 0x03],
            Bits32,
            Exception::GeneralProtection,
        );
        expect(
            &mut machine,
            &[0x01, 0x03],
            Bits32,
            Exception::GeneralProtection,
        );
        if readable {
            assert_eq!(machine.run(&[0x8b, 0x03], Bits32), Ok(Progress::Done));
        } else {
            expect(
                &mut machine,
                &[0x8b, 0x03],
                Bits32,
                Exception::GeneralProtection,
            );
        }
        machine.registers[3] = 0x100;
    }
    machine.segments[DS].rights = AccessRights::UNUSABLE;
    expect(
        &mut machine,
        &[0x8b, 0x03],
        Bits32,
        Exception::GeneralProtection,
    );
    // 64-bit code does not look.
    machine.done(&[0x8b, 0x03]);
}

#[test]
fn alignment_is_checked_in_ring_3_with_am_and_ac() {
    let unaligned = || {
        let mut machine = TestMachine::with(&[(3, 0x101), (6, 0x202), (7, 0x301)]);
        machine.cpl = 3;
        machine.rflags |= 1 << 18;
        machine
    };
    expect(
        &mut unaligned(),
        &[0x8b, 0x03],
        Bits64,
        Exception::AlignmentCheck,
    );
    expect(&mut unaligned(), &[0xa5], Bits64, Exception::AlignmentCheck);
    unaligned().done(&[0x8a, 0x03]);
    unaligned().done(&[0x0f, 0x10, 0x03]);
    let (mut ring0, mut no_ac, mut no_am) = (unaligned(), unaligned(), unaligned());
    ring0.cpl = 0;
    no_ac.rflags = 2;
    no_am.cr0.remove(Cr0::AM);
    for machine in [&mut ring0, &mut no_ac, &mut no_am] {
        machine.done(&[0x8b, 0x03]);
    }
}

#[test]
fn operands_that_must_be_aligned() {
    let mut machine = TestMachine::with(&[(3, 0x108)]);
    for bytes in [
        &[0x0f, 0x28, 0x03][..],
        &[0x66, 0x0f, 0x7f, 0x03],
        &[0x66, 0x0f, 0xe7, 0x03],
        &[0xc5, 0xf8, 0x28, 0x03],
        &[0x48, 0x0f, 0xc7, 0x0b],
    ] {
        expect(&mut machine, bytes, Bits64, Exception::GeneralProtection);
    }
    machine.registers[3] = 0x110;
    machine.done(&[0x0f, 0x28, 0x03]);
    expect(
        &mut machine,
        &[0xc5, 0xfc, 0x28, 0x03],
        Bits64,
        Exception::GeneralProtection,
    );
    machine.done(&[0xc5, 0xfc, 0x10, 0x03]);
}

#[test]
fn vector_state_that_is_not_enabled() {
    const SSE: &[u8] = &[0x0f, 0x10, 0x03];
    const AVX: &[u8] = &[0xc5, 0xf8, 0x10, 0x03];
    let with = |change: fn(&mut TestMachine)| {
        let mut machine = TestMachine::with(&[(3, 0x100)]);
        change(&mut machine);
        machine
    };
    let ud = Exception::InvalidOpcode;
    expect(&mut with(|m| m.cr4.remove(Cr4::OSFXSR)), SSE, Bits64, ud);
    expect(&mut with(|m| m.cr0.insert(Cr0::EM)), SSE, Bits64, ud);
    expect(&mut with(|m| m.cr4.remove(Cr4::OSXSAVE)), AVX, Bits64, ud);
    expect(&mut with(|m| m.xcr0 = 3), AVX, Bits64, ud);
    expect(
        &mut with(|m| m.cr0.remove(Cr0::PE)),
        &[0xc5, 0xf8, 0x10, 0x07],
        Bits16,
        Exception::InvalidOpcode,
    );
    for bytes in [SSE, AVX] {
        expect(
            &mut with(|m| m.cr0.insert(Cr0::TS)),
            bytes,
            Bits64,
            Exception::DeviceNotAvailable,
        );
    }
}

#[test]
fn division() {
    let error = Err(Stop::fault(Exception::DivideError));
    // DIV byte [RBX], by 0 and by 1: 0x100 / 1 is too large.
    let mut machine = TestMachine::with(&[(0, 0x100), (2, 5), (3, 0x100)]);
    let registers = machine.registers;
    assert_eq!(machine.run(&[0xf6, 0x33], Bits64), error);
    machine.poke(0x100, &[1]);
    assert_eq!(machine.run(&[0xf6, 0x33], Bits64), error);
    // DIV qword [RBX], with 5 in RDX.
    machine.poke(0x100, &[5]);
    assert_eq!(machine.run(&[0x48, 0xf7, 0x33], Bits64), error);
    assert_eq!(machine.registers, registers);
    machine.poke(0x100, &[6]);
    machine.done(&[0x48, 0xf7, 0x33]);
    // IDIV byte [RBX]: the smallest number by -1.
    let mut machine = TestMachine::with(&[(0, 0xff81), (3, 0x100)]);
    machine.poke(0x100, &[0xff]);
    machine.done(&[0xf6, 0x3b]);
    machine.registers[0] = 0xff80;
    assert_eq!(machine.run(&[0xf6, 0x3b], Bits64), error);
}
