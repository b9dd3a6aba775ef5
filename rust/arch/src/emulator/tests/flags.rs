// SPDX-License-Identifier: GPL-2.0

//! Flags and conditions, in every case that bytes have (SDM vol. 1, 3.4.3.1 and appendix B).

use crate::emulator::condition::holds;
use crate::emulator::flags::{add, logic, sub};
use crate::operand::Size;
use crate::rflags::Rflags;

const FLAGS: [Rflags; 6] = [
    Rflags::CF,
    Rflags::PF,
    Rflags::AF,
    Rflags::ZF,
    Rflags::SF,
    Rflags::OF,
];

fn collect(set: [bool; 6]) -> u64 {
    let flags = FLAGS.into_iter().zip(set).filter(|(_, set)| *set);
    flags.fold(0, |bits, (flag, _)| bits | flag.bits())
}

fn parity(value: u8) -> bool {
    (0..8).filter(|bit| value >> bit & 1 != 0).count() % 2 == 0
}

#[test]
fn every_sum_and_difference_of_bytes() {
    let mut cases = 0u64;
    for (a, b) in (0..=255u8).flat_map(|a| (0..=255u8).map(move |b| (a, b))) {
        for carry in [false, true] {
            let (x, y, c) = (i32::from(a), i32::from(b), i32::from(carry));
            let (sx, sy) = (i32::from(a as i8), i32::from(b as i8));
            for (got, unsigned, signed, nibble) in [
                (
                    add(a.into(), b.into(), carry, Size::Byte),
                    x + y + c,
                    sx + sy + c,
                    (x & 15) + (y & 15) + c,
                ),
                (
                    sub(a.into(), b.into(), carry, Size::Byte),
                    x - y - c,
                    sx - sy - c,
                    (x & 15) - (y & 15) - c,
                ),
            ] {
                let value = unsigned.rem_euclid(256) as u8;
                assert_eq!(got.value, u64::from(value));
                let expected = collect([
                    !(0..256).contains(&unsigned),
                    parity(value),
                    !(0..16).contains(&nibble),
                    value == 0,
                    value > 127,
                    !(-128..128).contains(&signed),
                ]);
                assert_eq!(got.flags, expected, "{a:#x} {b:#x} {carry}");
                cases += 1;
            }
        }
        let value = a & b;
        let expected = [false, parity(value), false, value == 0, value > 127, false];
        assert_eq!(logic(value.into(), Size::Byte).flags, collect(expected));
    }
    assert_eq!(cases, 65_536 * 2 * 2);
}

#[test]
fn every_condition_under_all_flags() {
    let mut cases = 0u64;
    for bits in 0..1u32 << 6 {
        let set: [bool; 6] = core::array::from_fn(|n| bits >> n & 1 != 0);
        let [cf, pf, _, zf, sf, of] = set;
        let expected = [
            of,
            !of,
            cf,
            !cf,
            zf,
            !zf,
            cf || zf,
            !cf && !zf,
            sf,
            !sf,
            pf,
            !pf,
            sf != of,
            sf == of,
            zf || sf != of,
            !zf && sf == of,
        ];
        for (opcode, expected) in (0x90u8..).zip(expected) {
            assert_eq!(holds(opcode, collect(set)), expected, "{opcode:#x} {set:?}");
            cases += 1;
        }
    }
    assert_eq!(cases, 64 * 16);
}
