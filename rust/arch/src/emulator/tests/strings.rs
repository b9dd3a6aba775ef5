// SPDX-License-Identifier: GPL-2.0

use crate::emulator::{Progress, Stop};
use crate::fuzzing::machine::TestMachine;
use crate::operand::CodeSize::{Bits16, Bits32, Bits64};

const FROM: u64 = 0x1_0000;
const TO: u64 = 0x2_0000;
const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;

fn machine(count: u64) -> TestMachine {
    let mut machine =
        TestMachine::with(&[(0, 0x63), (RCX, count), (2, 0x30), (RSI, FROM), (RDI, TO)]);
    machine.poke(FROM, b"abcdefgh");
    machine
}

#[test]
fn movs_and_stos_repeat() {
    let mut machine = machine(8);
    machine.done(&[0xf3, 0xa4]);
    assert_eq!(machine.peek(TO, 9), b"abcdefgh\0");
    let at = |machine: &TestMachine| [RCX, RSI, RDI].map(|n| machine.registers[n]);
    assert_eq!(at(&machine), [0, FROM + 8, TO + 8]);
    machine.registers[RCX] = 2;
    machine.done(&[0xf3, 0xab]);
    assert_eq!(machine.peek(TO + 8, 9), b"c\0\0\0c\0\0\0\0");
    assert_eq!(at(&machine), [0, FROM + 8, TO + 16]);
    machine.done(&[0xf3, 0xa5]);
    assert_eq!(at(&machine), [0, FROM + 8, TO + 16], "a count of 0");
    machine.done(&[0x48, 0xa5]);
    assert_eq!(at(&machine), [0, FROM + 16, TO + 24], "no REP, no count");
}

#[test]
fn down_with_df() {
    let mut machine = machine(3);
    machine.rflags |= 1 << 10;
    machine.registers[RSI] += 4;
    machine.done(&[0xf3, 0x66, 0xa5]);
    assert_eq!(machine.registers[RSI], FROM - 2);
    assert_eq!(machine.peek(TO - 4, 6), b"abcdef");
}

#[test]
fn comparisons_end_by_zf() {
    for (bytes, count, left) in [
        // REPNE SCASB for AL = 'c', and REPE of the same.
        (&[0xf2, 0xae][..], 8, 5),
        (&[0xf3, 0xae], 8, 7),
        (&[0xf2, 0xae], 2, 0),
        // REPE CMPSB and REPNE CMPSB of the string with "abX".
        (&[0xf3, 0xa6], 8, 5),
        (&[0xf2, 0xa6], 8, 7),
    ] {
        let mut machine = machine(count);
        machine.poke(TO, b"abX");
        if bytes[1] == 0xae {
            machine.registers[RDI] = FROM;
        }
        machine.done(bytes);
        assert_eq!(machine.registers[RCX], left, "{bytes:x?}");
    }
}

#[test]
fn lods_and_ports() {
    let mut machine = machine(3);
    machine.done(&[0x66, 0xad]);
    assert_eq!(machine.registers[0], 0x6261);
    machine.done(&[0xf3, 0x6e]);
    let written: std::vec::Vec<_> = machine.ports_written.iter().map(|w| w.1[0]).collect();
    assert_eq!(written, b"cde");
    machine.registers[RCX] = 2;
    machine.done(&[0xf3, 0x6d]);
    assert_eq!(machine.peek(TO, 8), [0, 1, 2, 3, 16, 17, 18, 19]);
    assert_eq!(machine.ports_read, [(0x30, 4), (0x30, 4)]);
}

#[test]
fn it_comes_back_from_time_to_time() {
    let mut machine = machine(5000);
    assert_eq!(machine.run(&[0xf3, 0xaa], Bits64), Ok(Progress::Again));
    assert_eq!(machine.registers[RCX], 5000 - 1024);
    machine.patience = machine.elements + 3;
    assert_eq!(machine.run(&[0xf3, 0xaa], Bits64), Ok(Progress::Again));
    assert_eq!(machine.registers[RCX], 5000 - 1027);
    assert_eq!(machine.registers[RDI], TO + 1027);
}

#[test]
fn a_fault_leaves_what_was_done() {
    let mut machine = machine(8);
    machine.registers[RDI] = TO - 3;
    machine.absent.insert(TO / 4096);
    let result = machine.run(&[0xf3, 0xa4], Bits64);
    assert!(
        matches!(result, Err(Stop::Fault(fault)) if fault.cr2.map(|gva| gva.0) == Some(TO)),
        "{result:?}"
    );
    let at = [RCX, RSI, RDI].map(|n| machine.registers[n]);
    assert_eq!(at, [5, FROM + 3, TO]);
    assert_eq!(machine.peek(TO - 3, 3), b"abc");
}

#[test]
fn a_device_is_not_read_for_a_destination_that_faults() {
    let mut machine = machine(1);
    machine.absent.insert(TO / 4096);
    machine.device.insert(FROM / 4096);
    assert!(matches!(machine.run(&[0xa4], Bits64), Err(Stop::Fault(_))));
    assert!(matches!(machine.run(&[0x6c], Bits64), Err(Stop::Fault(_))));
    assert!(machine.ports_read.is_empty() && machine.accesses.is_empty());
}

#[test]
fn each_element_of_a_device_is_read_once() {
    let mut machine = machine(3);
    machine.device.insert(FROM / 4096);
    for answer in [7, 8, 9] {
        assert_eq!(machine.run(&[0xf3, 0xa4], Bits64), Err(Stop::Exit));
        machine.answers.push_back(answer);
    }
    machine.done(&[0xf3, 0xa4]);
    assert_eq!(machine.peek(TO, 3), [7, 8, 9]);
    assert_eq!(machine.accesses.len(), 6);
    assert!(machine.answers.is_empty());
}

#[test]
fn registers_wrap_at_the_address_size() {
    let mut machine = machine(0xffff_0002);
    machine.registers[RDI] = 0x1234_ffff;
    assert_eq!(machine.run(&[0xf3, 0xaa], Bits16), Ok(Progress::Done));
    assert_eq!(machine.registers[RDI], 0x1234_0001);
    assert_eq!(machine.registers[RCX], 0xffff_0000);
    assert_eq!(
        (machine.peek(0xffff, 1), machine.peek(0, 1)),
        (std::vec![0x63], std::vec![0x63])
    );
    machine.registers[RDI] = 0xffff_ffff;
    assert_eq!(machine.run(&[0xaa], Bits32), Ok(Progress::Done));
    assert_eq!(machine.registers[RDI], 0);
}

#[test]
fn the_source_has_a_segment_the_destination_es() {
    let mut machine = machine(1);
    machine.segments[4].base.0 = 0x100;
    machine.segments[0].base.0 = 0x200;
    // MOVSB from FS.
    assert_eq!(machine.run(&[0x64, 0xa4], Bits32), Ok(Progress::Done));
    let gvas: std::vec::Vec<_> = machine.accesses.iter().map(|access| access.gva).collect();
    assert_eq!(gvas, [FROM + 0x100, TO + 0x200]);
    machine.accesses.clear();
    assert_eq!(machine.run(&[0x64, 0xa4], Bits64), Ok(Progress::Done));
    let gvas: std::vec::Vec<_> = machine.accesses.iter().map(|access| access.gva).collect();
    assert_eq!(
        gvas,
        [FROM + 0x101, TO + 1],
        "ES has no base in 64-bit code"
    );
}
