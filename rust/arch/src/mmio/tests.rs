// SPDX-License-Identifier: GPL-2.0

use super::*;
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use proptest::prelude::*;
use std::vec::Vec;

use CodeSize::{Bits16, Bits32, Bits64};

/// RAX to R15 with recognisable values: 0x1111_.. times (number + 1).
fn state(code_size: CodeSize) -> State {
    let mut state = State {
        code_size,
        rip: 0x40_1000,
        ..State::default()
    };
    for (number, register) in state.registers.iter_mut().enumerate() {
        *register = 0x0101_0101_0101_0101 * (number as u64 + 0x11);
    }
    state.segment_bases = [0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000, 0x5_0000, 0x6_0000];
    state
}

fn linear(bytes: &[u8], code_size: CodeSize) -> u64 {
    decode(bytes, code_size)
        .unwrap()
        .linear_address(&state(code_size))
        .0
}

#[test]
fn addresses_of_16_bit_code() {
    assert_eq!(
        linear(&[0x8b, 0x00], Bits16),
        0x4_0000 + ((0x1414 + 0x1717) & 0xffff)
    );
    assert_eq!(
        linear(&[0x8b, 0x42, 0xff], Bits16),
        0x3_0000 + 0x1616 + 0x1717 - 1
    );
    assert_eq!(linear(&[0x8b, 0x06, 0x34, 0x12], Bits16), 0x4_1234);
    assert_eq!(
        linear(&[0x64, 0x8b, 0x87, 0x00, 0xf0], Bits16),
        0x5_0000 + 0x0414
    );
    assert_eq!(linear(&[0x67, 0x8b, 0x03], Bits16), 0x1414_1414 + 0x4_0000);
}

#[test]
fn addresses_of_32_bit_code() {
    assert_eq!(linear(&[0x8b, 0x03], Bits32), 0x1414_1414 + 0x4_0000);
    assert_eq!(
        linear(&[0x8b, 0x45, 0x08], Bits32),
        0x1616_1616 + 8 + 0x3_0000
    );
    assert_eq!(linear(&[0x8b, 0x04, 0x24], Bits32), 0x1515_1515 + 0x3_0000);
    assert_eq!(
        linear(&[0x8b, 0x05, 0x10, 0, 0, 0xff], Bits32),
        0xff00_0010 + 0x4_0000
    );
    assert_eq!(
        linear(&[0x26, 0x8b, 0x04, 0xb3], Bits32),
        0x1414_1414 + 4 * 0x1717_1717 + 0x1_0000
    );
    assert_eq!(
        linear(&[0xa1, 0, 0, 0xfb, 0xff], Bits32),
        0xffff_0000,
        "wraps at 4 GiB"
    );
    assert_eq!(linear(&[0x67, 0xa1, 0x34, 0x12], Bits32), 0x4_1234);
}

#[test]
fn addresses_of_64_bit_code() {
    assert_eq!(linear(&[0x8b, 0x05, 0x10, 0, 0, 0], Bits64), 0x40_1016);
    assert_eq!(
        linear(&[0xc7, 0x05, 0x10, 0, 0, 0, 1, 2, 3, 4], Bits64),
        0x40_101a
    );
    assert_eq!(
        linear(&[0x67, 0x8b, 0x05, 0, 0, 0, 0x80], Bits64),
        0x8040_1007
    );
    assert_eq!(
        linear(&[0x65, 0x8b, 0x04, 0x25, 8, 0, 0, 0], Bits64),
        0x6_0008
    );
    assert_eq!(
        linear(&[0x64, 0x26, 0x8b, 0x04, 0x25, 8, 0, 0, 0], Bits64),
        0x5_0008
    );
    assert_eq!(linear(&[0x36, 0x8b, 0x04, 0x25, 8, 0, 0, 0], Bits64), 8);
    assert_eq!(
        linear(&[0x41, 0x8b, 0x45, 0xf8], Bits64),
        0x1e1e_1e1e_1e1e_1e16
    );
    assert_eq!(
        linear(&[0x42, 0x8b, 0x04, 0x20], Bits64),
        0x2e2e_2e2e_2e2e_2e2e
    );
    assert_eq!(
        linear(&[0xa0, 1, 2, 3, 4, 5, 6, 7, 8], Bits64),
        0x0807_0605_0403_0201
    );
}

#[test]
fn the_segment_follows_the_base() {
    for (bytes, segment) in [
        (&[0x8b, 0x45, 0x00][..], Segment::Ss),
        (&[0x41, 0x8b, 0x45, 0x00], Segment::Ds),
        (&[0x8b, 0x04, 0x24], Segment::Ss),
        (&[0x41, 0x8b, 0x04, 0x24], Segment::Ds),
        (&[0x8b, 0x04, 0x2b], Segment::Ds),
        (&[0x8b, 0x03], Segment::Ds),
        (&[0x65, 0x8b, 0x45, 0x00], Segment::Gs),
    ] {
        assert_eq!(
            decode(bytes, Bits64).unwrap().memory.segment,
            segment,
            "{bytes:x?}"
        );
    }
}

#[test]
fn stores_take_the_part_of_the_register_they_name() {
    let registers = [0x8877_6655_4433_2211; 16];
    for (bytes, size, value) in [
        (&[0x88, 0x03][..], 1, 0x11),
        (&[0x88, 0x23], 1, 0x22),
        (&[0x40, 0x88, 0x23], 1, 0x11),
        (&[0x66, 0x89, 0x03], 2, 0x2211),
        (&[0x89, 0x03], 4, 0x4433_2211),
        (&[0x48, 0x89, 0x03], 8, 0x8877_6655_4433_2211),
        (&[0xc6, 0x03, 0x80], 1, 0x80),
        (&[0x66, 0xc7, 0x03, 0xfe, 0xff], 2, 0xfffe),
        (&[0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff], 4, 0xffff_fffe),
        (
            &[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff],
            8,
            0xffff_ffff_ffff_fffe,
        ),
        (&[0x67, 0xa3, 0, 0, 0, 0], 4, 0x4433_2211),
    ] {
        let mov = decode(bytes, Bits64).unwrap();
        assert_eq!(
            (mov.length as usize, mov.size.bytes()),
            (bytes.len(), size),
            "{bytes:x?}"
        );
        assert_eq!(mov.direction(), Direction::Store);
        assert_eq!(mov.store_value(&registers), Some(value), "{bytes:x?}");
        assert_eq!(mov.apply_load(0, &registers), None);
    }
}

#[test]
fn loads_write_registers_by_the_rules_of_their_size() {
    const OLD: u64 = 0x8877_6655_4433_2211;
    const DATA: u64 = 0xa1a2_a3a4_a5a6_a7a8;
    for (bytes, number, new) in [
        (&[0x8a, 0x03][..], 0, 0x8877_6655_4433_22a8),
        (&[0x8a, 0x3b], 3, 0x8877_6655_4433_a811),
        (&[0x40, 0x8a, 0x3b], 7, 0x8877_6655_4433_22a8),
        (&[0x44, 0x8a, 0x23], 12, 0x8877_6655_4433_22a8),
        (&[0x66, 0x8b, 0x03], 0, 0x8877_6655_4433_a7a8),
        (&[0x8b, 0x03], 0, 0xa5a6_a7a8),
        (&[0x48, 0x8b, 0x03], 0, DATA),
        (&[0x0f, 0xb6, 0x13], 2, 0xa8),
        (&[0x66, 0x0f, 0xb6, 0x13], 2, 0x8877_6655_4433_00a8),
        (&[0x48, 0x0f, 0xb7, 0x13], 2, 0xa7a8),
        (&[0x0f, 0xbe, 0x13], 2, 0xffff_ffa8),
        (&[0x66, 0x0f, 0xbe, 0x13], 2, 0x8877_6655_4433_ffa8),
        (&[0x48, 0x0f, 0xbf, 0x13], 2, 0xffff_ffff_ffff_a7a8),
        (&[0x48, 0x63, 0x13], 2, 0xffff_ffff_a5a6_a7a8),
        (&[0x63, 0x13], 2, 0xa5a6_a7a8),
        (&[0x66, 0x63, 0x13], 2, 0x8877_6655_4433_a7a8),
        (&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0], 0, 0x8877_6655_4433_22a8),
    ] {
        let mov = decode(bytes, Bits64).unwrap();
        let (register, value) = mov.apply_load(DATA, &[OLD; 16]).unwrap();
        assert_eq!(
            (register.number(), value),
            (number, new),
            "{bytes:x?}: {value:#x}"
        );
        assert_eq!(mov.direction(), Direction::Load);
        assert_eq!(mov.store_value(&[OLD; 16]), None);
    }
}

#[test]
fn anything_else_is_refused() {
    for (bytes, code_size, error) in [
        (&[0xf0, 0x89, 0x03][..], Bits64, Error::NotMov),
        (&[0x01, 0x03], Bits64, Error::NotMov),
        (&[0xc7, 0x0b, 0, 0, 0, 0], Bits64, Error::NotMov),
        (&[0xc6, 0xf8, 0], Bits64, Error::NotMov),
        (&[0x63, 0x03], Bits32, Error::NotMov),
        (&[0x48, 0x89, 0x03], Bits32, Error::NotMov),
        (&[0x0f, 0x6f, 0x03], Bits64, Error::NotMov),
        (&[0x89, 0xc3], Bits64, Error::NotMemory),
        (&[0xc7, 0xc3, 0, 0, 0, 0], Bits64, Error::NotMemory),
        (&[0x0f, 0xb6, 0xc3], Bits64, Error::NotMemory),
        (&[], Bits64, Error::Truncated),
        (&[0x66], Bits64, Error::Truncated),
        (&[0x8b], Bits64, Error::Truncated),
        (&[0x8b, 0x04], Bits64, Error::Truncated),
        (&[0xc7, 0x03, 0, 0, 0], Bits64, Error::Truncated),
        (&[0x66; 20], Bits64, Error::TooLong),
    ] {
        assert_eq!(decode(bytes, code_size), Err(error), "{bytes:x?}");
    }
}

#[test]
fn fifteen_bytes_are_the_limit() {
    let mut bytes = [0x3e; 20];
    bytes[13] = 0x8b;
    bytes[14] = 0x03;
    assert_eq!(decode(&bytes, Bits32).unwrap().length, 15);
    bytes[13..17].copy_from_slice(&[0x3e, 0x8b, 0x03, 0]);
    assert_eq!(decode(&bytes, Bits32), Err(Error::TooLong));
}

#[test]
fn the_instruction_pointer_wraps_with_the_code_size() {
    let mov = decode(&[0x8b, 0x07], Bits16).unwrap();
    let at_end = |code_size| State {
        code_size,
        rip: u64::MAX,
        ..State::default()
    };
    assert_eq!(mov.next_rip(&at_end(Bits16)), 1);
    assert_eq!(mov.next_rip(&at_end(Bits32)), 1);
    let state = State {
        code_size: Bits32,
        rip: 0xffff,
        ..State::default()
    };
    assert_eq!(mov.next_rip(&state), 0x1_0001);
}

#[test]
fn code_size_follows_cs() {
    let sizes = [(false, false), (false, true), (true, false)].map(|(l, d)| CodeSize::new(l, d));
    assert_eq!(sizes, [Bits16, Bits32, Bits64]);
}

/// Whether iced's instruction is one of those this module takes.
fn is_ours(instruction: &Instruction) -> bool {
    let mnemonic = instruction.mnemonic();
    let plain = matches!(
        mnemonic,
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd
    );
    let special = matches!(
        instruction.code(),
        Code::Mov_rm16_Sreg
            | Code::Mov_r32m16_Sreg
            | Code::Mov_r64m16_Sreg
            | Code::Mov_Sreg_rm16
            | Code::Mov_Sreg_r32m16
            | Code::Mov_Sreg_r64m16
    );
    let memory = (0..instruction.op_count()).any(|op| instruction.op_kind(op) == OpKind::Memory);
    plain && !special && memory && !instruction.has_lock_prefix()
}

fn iced_number(register: iced_x86::Register) -> (usize, bool) {
    use iced_x86::Register as R;
    match register {
        R::AH => (0, true),
        R::CH => (1, true),
        R::DH => (2, true),
        R::BH => (3, true),
        other => (other.full_register().number(), false),
    }
}

/// Holds our reading of `bytes` against iced's.
fn compare(bytes: &[u8], state: &State) -> Result<(), TestCaseError> {
    let bits = match state.code_size {
        Bits16 => 16,
        Bits32 => 32,
        Bits64 => 64,
    };
    let mut decoder = Decoder::with_ip(bits, bytes, state.rip, DecoderOptions::NONE);
    let theirs = decoder.decode();
    let ours = decode(bytes, state.code_size);
    if !is_ours(&theirs) {
        prop_assert!(ours.is_err(), "{bytes:x?} is {theirs:?}, not {ours:x?}");
        return Ok(());
    }
    let Ok(mov) = ours else {
        return Err(TestCaseError::fail(std::format!(
            "{bytes:x?} is {theirs:?}, not {ours:?}"
        )));
    };
    prop_assert_eq!(usize::from(mov.length), theirs.len());
    prop_assert_eq!(mov.size.bytes(), theirs.memory_size().size());
    let memory_op = (0..2)
        .find(|op| theirs.op_kind(*op) == OpKind::Memory)
        .unwrap();
    let address = theirs
        .virtual_address(memory_op, 0, |register, _, _| {
            Some(if register.is_segment_register() {
                let long_zero = bits == 64 && register.number() < 4;
                if long_zero {
                    0
                } else {
                    state.segment_bases[register.number()]
                }
            } else {
                let value = state.registers[register.full_register().number()];
                value & (u64::MAX >> (64 - 8 * register.size()))
            })
        })
        .unwrap();
    let mask = if bits == 64 { u64::MAX } else { 0xffff_ffff };
    prop_assert_eq!(
        mov.linear_address(state).0,
        address & mask,
        "{:x?} {:?}",
        bytes,
        theirs
    );
    let segment = theirs.memory_segment();
    prop_assert!(
        bits == 64 && segment.number() < 4 || mov.memory.segment as usize == segment.number()
    );

    let other = 1 - memory_op;
    match mov.operand {
        Operand::StoreImmediate(value) => {
            let mask = mov.size.mask();
            prop_assert_eq!(value & mask, theirs.immediate(other) & mask);
        }
        Operand::Store(register) => {
            let expected = theirs.op_register(other);
            prop_assert_eq!(
                (register.number(), register.is_high_byte()),
                iced_number(expected)
            );
            prop_assert_eq!((memory_op, expected.size()), (0, mov.size.bytes()));
        }
        Operand::Load {
            to,
            to_size,
            extension,
        } => {
            let expected = theirs.op_register(other);
            prop_assert_eq!((to.number(), to.is_high_byte()), iced_number(expected));
            prop_assert_eq!((memory_op, expected.size()), (1, to_size.bytes()));
            let signed = matches!(theirs.mnemonic(), Mnemonic::Movsx | Mnemonic::Movsxd);
            prop_assert_eq!(extension == Extension::Sign, signed);
        }
    }
    Ok(())
}

fn any_state() -> impl Strategy<Value = State> {
    let code_size = prop::sample::select(&[Bits16, Bits32, Bits64][..]);
    (
        code_size,
        any::<[u64; 16]>(),
        any::<[u64; 6]>(),
        any::<u64>(),
    )
        .prop_map(|(code_size, registers, segment_bases, rip)| {
            let rip = match code_size {
                Bits16 => rip & 0xffff,
                Bits32 => rip & 0xffff_ffff,
                Bits64 => rip,
            };
            State {
                code_size,
                registers,
                segment_bases,
                rip,
            }
        })
}

/// Bytes that are likely to be one of the instructions.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    const PREFIXES: &[u8] = &[
        0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x40, 0x41, 0x42, 0x44,
        0x48, 0x4f,
    ];
    const OPCODES: &[&[u8]] = &[
        &[0x88],
        &[0x89],
        &[0x8a],
        &[0x8b],
        &[0x8c],
        &[0x8e],
        &[0xa0],
        &[0xa1],
        &[0xa2],
        &[0xa3],
        &[0xc6],
        &[0xc7],
        &[0x63],
        &[0x0f, 0xb6],
        &[0x0f, 0xb7],
        &[0x0f, 0xbe],
        &[0x0f, 0xbf],
    ];
    let prefixes = prop::collection::vec(prop::sample::select(PREFIXES), 0..5);
    let modrm = prop_oneof![
        any::<u8>(),
        (0u8..3, 0u8..8).prop_map(|(mode, rm)| (mode << 6) | rm)
    ];
    (
        prefixes,
        prop::sample::select(OPCODES),
        modrm,
        any::<[u8; 12]>(),
    )
        .prop_map(|(mut bytes, opcode, modrm, rest)| {
            bytes.extend_from_slice(opcode);
            bytes.push(modrm);
            bytes.extend_from_slice(&rest);
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 5_000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn likely_bytes_read_as_iced_reads_them(bytes in likely(), state in any_state()) {
        compare(&bytes, &state)?;
    }

    #[test]
    fn any_bytes_read_as_iced_reads_them(
        bytes in prop::collection::vec(any::<u8>(), 0..20),
        state in any_state(),
    ) {
        compare(&bytes, &state)?;
    }

    #[test]
    fn a_cut_instruction_is_truncated(bytes in likely(), state in any_state()) {
        if let Ok(mov) = decode(&bytes, state.code_size) {
            for length in 0..usize::from(mov.length) {
                let cut = decode(&bytes[..length], state.code_size);
                prop_assert_eq!(cut, Err(Error::Truncated));
            }
        }
    }

    #[test]
    fn a_load_changes_only_what_it_writes(
        bytes in likely(),
        state in any_state(),
        value in any::<u64>(),
    ) {
        let mov = decode(&bytes, state.code_size);
        if let Ok(Mov { size, operand: Operand::Load { to, to_size, .. }, .. }) = mov {
            let (register, new) = mov.unwrap().apply_load(value, &state.registers).unwrap();
            prop_assert_eq!(register, to);
            let changed = new ^ state.registers[to.number()];
            match to_size {
                Size::Byte if to.is_high_byte() => prop_assert_eq!(changed & !0xff00, 0),
                Size::Byte | Size::Word => prop_assert_eq!(changed & !to_size.mask(), 0),
                Size::Dword => prop_assert_eq!(new >> 32, 0),
                Size::Qword => {}
            }
            let low = if to.is_high_byte() { new >> 8 } else { new };
            prop_assert_eq!(low & size.mask(), value & size.mask());
        }
    }
}
