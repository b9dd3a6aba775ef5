// SPDX-License-Identifier: GPL-2.0

//! Debug registers (SDM vol. 3, 18.2, figure 18-1).

use arch::dr::{Condition, Dr6, Dr7};

#[test]
fn dr6_bit_by_bit() {
    let mut cases = 0u64;
    for (bus_lock, rtm) in [(false, false), (false, true), (true, false), (true, true)] {
        for bit in 0..64 {
            for value in [1u64 << bit, 0xffff_ffff & !(1 << bit)] {
                let got = Dr6::write(value, bus_lock, rtm);
                assert_eq!(got.is_none(), value >> 32 != 0, "#GP for the upper half");
                if let Some(new) = got {
                    for bit in 0..64 {
                        let expected = match bit {
                            0..=3 | 13..=15 => value >> bit & 1 != 0,
                            11 => !bus_lock || value >> 11 & 1 != 0,
                            16 => !rtm || value >> 16 & 1 != 0,
                            4..=10 | 17..=31 => true,
                            _ => false,
                        };
                        assert_eq!(new >> bit & 1 != 0, expected, "bit {bit} of {value:#x}");
                    }
                }
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 4 * 64 * 2);
}

#[test]
fn dr7_bit_by_bit() {
    for bit in 0..64 {
        let got = Dr7::write(1 << bit);
        assert_eq!(got.is_none(), bit >= 32, "bit {bit}");
        if let Some(new) = got {
            // As with KVM, bit 11 (RTM) is there for guests without transactions too.
            let reserved = [10, 12, 14, 15].contains(&bit);
            let kept = if reserved { 0 } else { 1u64 << bit };
            assert_eq!(new, kept | 1 << 10, "bit {bit}");
        }
    }
}

/// Every breakpoint with every way to enable it, every condition and every length, the other fields
/// all zeroes or all ones.
#[test]
fn breakpoints() {
    let mut cases = 0u64;
    for index in 0..4u32 {
        for (enable, field) in (0..4u64).flat_map(|enable| (0..16u64).map(move |f| (enable, f))) {
            let own = 3 << (2 * index) | 15 << (16 + 4 * index);
            for others in [0, 0xffff_ffff & !own] {
                let dr7 = others | enable << (2 * index) | field << (16 + 4 * index);
                let got = Dr7::breakpoint(dr7, index);
                assert_eq!(got.is_some(), enable != 0);
                if let Some(breakpoint) = got {
                    let condition = match field & 3 {
                        0b00 => Condition::Execute,
                        0b01 => Condition::Write,
                        0b10 => Condition::Io,
                        _ => Condition::ReadWrite,
                    };
                    assert_eq!(breakpoint.condition, condition);
                    assert_eq!(breakpoint.length, [1, 2, 8, 4][(field >> 2) as usize]);
                }
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 4 * 4 * 16 * 2);
}
