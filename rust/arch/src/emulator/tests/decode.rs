// SPDX-License-Identifier: GPL-2.0

//! The decoder against iced-x86's.

use crate::addr::Gva;
use crate::emulator::{decode, execute, DecodeError, Stop};
use crate::fuzzing::machine::{Access, TestMachine, FLAT};
use crate::operand::CodeSize::{self, Bits16, Bits32, Bits64};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic as M, OpKind, Register};
use proptest::prelude::*;
use std::vec::Vec;

/// The mnemonics of the emulator's instructions.
fn is_known(mnemonic: M) -> bool {
    matches!(
        mnemonic,
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Movbe
            | M::Movnti
            | M::Movdiri
            | M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Not
            | M::Neg
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Shld
            | M::Shrd
            | M::Mul
            | M::Imul
            | M::Div
            | M::Idiv
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Cmpxchg8b
            | M::Cmpxchg16b
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg
            | M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
            | M::Push
            | M::Pop
            | M::Movsb
            | M::Movsw
            | M::Movsd
            | M::Movsq
            | M::Cmpsb
            | M::Cmpsw
            | M::Cmpsd
            | M::Cmpsq
            | M::Stosb
            | M::Stosw
            | M::Stosd
            | M::Stosq
            | M::Lodsb
            | M::Lodsw
            | M::Lodsd
            | M::Lodsq
            | M::Scasb
            | M::Scasw
            | M::Scasd
            | M::Scasq
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::Movups
            | M::Movupd
            | M::Movaps
            | M::Movapd
            | M::Movdqa
            | M::Movdqu
            | M::Lddqu
            | M::Movntps
            | M::Movntpd
            | M::Movntdq
            | M::Movntdqa
            | M::Movss
            | M::Movd
            | M::Movq
            | M::Movlps
            | M::Movlpd
            | M::Movhps
            | M::Movhpd
            | M::Vmovups
            | M::Vmovupd
            | M::Vmovaps
            | M::Vmovapd
            | M::Vmovdqa
            | M::Vmovdqu
            | M::Vlddqu
            | M::Vmovntps
            | M::Vmovntpd
            | M::Vmovntdq
            | M::Vmovntdqa
            | M::Vmovss
            | M::Vmovsd
            | M::Vmovd
            | M::Vmovq
    )
}

/// Forms of those mnemonics that the emulator leaves out.
fn is_left_out(instruction: &Instruction) -> bool {
    let operand = |kind: fn(Register) -> bool| {
        (0..instruction.op_count()).any(|op| {
            instruction.op_kind(op) == OpKind::Register && kind(instruction.op_register(op))
        })
    };
    // The comparison of that name; loads of segment registers; MMX.
    (instruction.mnemonic() == M::Cmpsd && !instruction.is_string_instruction())
        || (instruction.mnemonic() == M::Mov
            && instruction.op_kind(0) == OpKind::Register
            && instruction.op0_register().is_segment_register())
        || operand(Register::is_mm)
        || matches!(instruction.mnemonic(), M::Push | M::Pop)
            && (0..instruction.op_count()).any(|op| {
                instruction.op_kind(op) == OpKind::Register
                    && instruction.op_register(op).is_segment_register()
            })
}

/// Its explicit memory operand.
fn memory_operand(instruction: &Instruction) -> Option<u32> {
    (0..instruction.op_count()).find(|op| instruction.op_kind(*op) == OpKind::Memory)
}

fn is_string(mnemonic: M, instruction: &Instruction) -> bool {
    instruction.is_string_instruction()
        || mnemonic == M::Movsd && instruction.code() == Code::Movsd_m32_m32
}

fn bits(code_size: CodeSize) -> u32 {
    match code_size {
        Bits16 => 16,
        Bits32 => 32,
        Bits64 => 64,
    }
}

/// Holds our reading of `bytes` against iced's.
fn compare(bytes: &[u8], code_size: CodeSize, machine: &TestMachine) -> Result<(), TestCaseError> {
    let mut decoder = Decoder::with_ip(bits(code_size), bytes, machine.rip, DecoderOptions::NONE);
    let theirs = decoder.decode();
    let ours = decode(bytes, code_size);
    let what = || {
        std::format!(
            "{code_size:?} {bytes:x?} is {theirs:?} {:?}, not {ours:x?}",
            theirs.code()
        )
    };
    let mnemonic = theirs.mnemonic();
    let string = is_string(mnemonic, &theirs);
    let Ok(instruction) = ours else {
        let wanted = !theirs.is_invalid()
            && is_known(mnemonic)
            && !is_left_out(&theirs)
            && (memory_operand(&theirs).is_some() || string);
        prop_assert!(!wanted, "{}", what());
        return Ok(());
    };
    prop_assert!(!theirs.is_invalid() && is_known(mnemonic), "{}", what());
    prop_assert_eq!(usize::from(instruction.length), theirs.len(), "{}", what());
    prop_assert_eq!(
        instruction.repeats(),
        string && (theirs.has_rep_prefix() || theirs.has_repne_prefix()),
        "{}",
        what()
    );
    let Some(operand) = memory_operand(&theirs) else {
        prop_assert!(instruction.memory_operand().is_none(), "{}", what());
        return Ok(());
    };
    prop_assert!(instruction.memory_operand().is_some(), "{}", what());

    // What it touches when it is executed.
    let mut machine = machine.clone();
    match execute(&instruction, &mut machine) {
        Ok(_) => {}
        // Alignment, division, addresses that are not canonical.
        Err(Stop::Fault(_)) => return Ok(()),
        Err(Stop::Unknown) if matches!(mnemonic, M::Shld | M::Shrd) => return Ok(()),
        Err(stop) => return Err(TestCaseError::fail(std::format!("{stop:?}: {}", what()))),
    }
    let stack = mnemonic == M::Pop;
    let by_register = matches!(mnemonic, M::Bt | M::Bts | M::Btr | M::Btc)
        && theirs.op1_kind() == OpKind::Register;
    if by_register || stack {
        return Ok(());
    }
    let address = theirs
        .virtual_address(operand, 0, |register, _, _| {
            Some(if register.is_segment_register() {
                let flat = code_size == Bits64 && register.number() < 4;
                if flat {
                    0
                } else {
                    machine_before(&machine, register.number())
                }
            } else {
                let value =
                    BEFORE.with(|before| before.borrow()[register.full_register().number()]);
                value & (u64::MAX >> (64 - 8 * register.size()))
            })
        })
        .unwrap();
    let mask = if code_size == Bits64 {
        u64::MAX
    } else {
        0xffff_ffff
    };
    let touched = |access: &&Access| access.gva == address & mask;
    let Some(access) = machine.accesses.iter().find(touched) else {
        return Err(TestCaseError::fail(std::format!(
            "{:x?} not at {:x}: {}",
            machine.accesses,
            address & mask,
            what()
        )));
    };
    prop_assert_eq!(access.len, theirs.memory_size().size(), "{}", what());
    Ok(())
}

std::thread_local! {
    static BEFORE: std::cell::RefCell<[u64; 16]> = const { std::cell::RefCell::new([0; 16]) };
}

fn machine_before(machine: &TestMachine, segment: usize) -> u64 {
    machine.segments[segment].base.0
}

fn check(bytes: &[u8], code_size: CodeSize, machine: &TestMachine) -> Result<(), TestCaseError> {
    BEFORE.with(|before| *before.borrow_mut() = machine.registers);
    compare(bytes, code_size, machine)
}

fn any_machine() -> impl Strategy<Value = (CodeSize, TestMachine)> {
    (
        prop::sample::select(&[Bits16, Bits32, Bits64][..]),
        any::<[u64; 16]>(),
        any::<[u32; 6]>(),
        any::<u64>(),
        any::<bool>(),
    )
        .prop_map(|(code_size, mut registers, bases, rip, small)| {
            let mut machine = TestMachine::new();
            if small {
                // So that addresses are canonical.
                registers = registers.map(|register| register & 0xffff_fff0);
            }
            machine.registers = registers;
            machine.rip = match code_size {
                Bits16 => rip & 0xffff,
                Bits32 => rip & 0xffff_ffff,
                Bits64 => rip & 0x7fff_ffff_ffff,
            };
            for (segment, base) in machine.segments.iter_mut().zip(bases) {
                *segment = FLAT;
                segment.base = Gva(base.into());
            }
            (code_size, machine)
        })
}

/// Bytes that are likely to be one of the instructions.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    const PREFIXES: &[u8] = &[
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x41, 0x42, 0x44,
        0x48, 0x4f,
    ];
    let opcode = prop_oneof![
        any::<u8>().prop_map(|byte| std::vec![byte]),
        any::<u8>().prop_map(|byte| std::vec![0x0f, byte]),
        prop::sample::select(&[0xf0u8, 0xf1, 0xf9, 0x2a][..])
            .prop_map(|byte| std::vec![0x0f, 0x38, byte]),
        any::<(u8, u8)>().prop_map(|(vex, byte)| std::vec![0xc5, vex, byte]),
        any::<(u8, u8)>().prop_map(|(vex, byte)| std::vec![0xc5, vex | 0x78, byte]),
        any::<(u8, u8, u8)>().prop_map(|(a, b, byte)| {
            std::vec![0xc4, a & 0xe0 | 1 + (byte & 1), b | 0x78, byte]
        }),
    ];
    let modrm = prop_oneof![
        any::<u8>(),
        (0u8..3, 0u8..8, 0u8..8).prop_map(|(mode, reg, rm)| (mode << 6) | reg << 3 | rm)
    ];
    (
        prop::collection::vec(prop::sample::select(PREFIXES), 0..4),
        opcode,
        modrm,
        any::<[u8; 12]>(),
    )
        .prop_map(|(mut bytes, opcode, modrm, rest)| {
            bytes.extend_from_slice(&opcode);
            bytes.push(modrm);
            bytes.extend_from_slice(&rest);
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 30_000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn likely_bytes_read_as_iced_reads_them(bytes in likely(), state in any_machine()) {
        check(&bytes, state.0, &state.1)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn any_bytes_read_as_iced_reads_them(
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        state in any_machine(),
    ) {
        check(&bytes, state.0, &state.1)?;
    }

    #[test]
    fn a_cut_instruction_is_truncated(bytes in likely(), state in any_machine()) {
        if let Ok(instruction) = decode(&bytes, state.0) {
            for length in 0..usize::from(instruction.length) {
                prop_assert_eq!(
                    decode(&bytes[..length], state.0),
                    Err(DecodeError::Truncated),
                    "{:x?}", bytes
                );
            }
        }
    }
}

/// Every opcode of the maps, with every reg field and prefix, in all sizes of code.
#[test]
fn every_opcode_reads_as_iced_reads_it() {
    let mut machine = TestMachine::new();
    for (number, register) in machine.registers.iter_mut().enumerate() {
        *register = 0x1000 * (number as u64 + 1);
    }
    let escapes: [&[u8]; 6] = [
        &[],
        &[0x0f],
        &[0x0f, 0x38],
        &[0xc5, 0xf8],
        &[0xc5, 0xfd],
        &[0xc4, 0xe2, 0x79],
    ];
    let prefixes: [&[u8]; 8] = [
        &[],
        &[0x66],
        &[0xf2],
        &[0xf3],
        &[0x48],
        &[0xf0],
        &[0x67],
        &[0x66, 0xf2],
    ];
    for code_size in [Bits16, Bits32, Bits64] {
        for prefix in prefixes {
            for escape in escapes {
                for opcode in 0..=255u8 {
                    for modrm in (0..64).step_by(8).flat_map(|reg| [reg | 1, reg | 0xc1]) {
                        let mut bytes = prefix.to_vec();
                        bytes.extend_from_slice(escape);
                        bytes.extend_from_slice(&[opcode, modrm, 1, 2, 3, 4, 5, 6, 7, 8]);
                        check(&bytes, code_size, &machine).unwrap();
                    }
                }
            }
        }
    }
}

#[test]
fn fifteen_bytes_are_the_limit() {
    let mut bytes = [0x3e; 20];
    bytes[13] = 0x8b;
    bytes[14] = 0x03;
    assert_eq!(decode(&bytes, Bits32).unwrap().length, 15);
    bytes[13..17].copy_from_slice(&[0x3e, 0x8b, 0x03, 0]);
    assert_eq!(decode(&bytes, Bits32), Err(DecodeError::TooLong));
}

#[test]
fn lock_is_for_results_in_memory() {
    for (bytes, valid) in [
        (&[0xf0, 0x01, 0x03][..], true),
        (&[0xf0, 0x01, 0xc3], false),
        (&[0xf0, 0x03, 0x03], false),
        (&[0xf0, 0x39, 0x03], false),
        (&[0xf0, 0x83, 0x3b, 1], false),
        (&[0xf0, 0x83, 0x0b, 1], true),
        (&[0xf0, 0x89, 0x03], false),
        (&[0xf0, 0x87, 0x03], true),
        (&[0xf0, 0x0f, 0xab, 0x03], true),
        (&[0xf0, 0x0f, 0xa3, 0x03], false),
        (&[0xf0, 0x0f, 0xc7, 0x0b], true),
        (&[0xf0, 0xff, 0x33], false),
        (&[0xf0, 0xa4], false),
    ] {
        let decoded = decode(bytes, Bits64);
        if valid {
            assert!(decoded.is_ok(), "{bytes:x?}");
        } else {
            assert_eq!(decoded, Err(DecodeError::Invalid), "{bytes:x?}");
        }
    }
}
