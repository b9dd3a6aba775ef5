// SPDX-License-Identifier: GPL-2.0

//! Memory types in IA32_PAT (SDM vol. 3, table 12-10) and in MTRRs (table 12-8, figures 12-5 to
//! 12-7).

use arch::memory_type::{is_mtrr, is_pat};

#[test]
fn page_attribute_table() {
    let mut cases = 0u64;
    for (byte, value) in (0..8).flat_map(|byte| (0..=255u8).map(move |value| (byte, value))) {
        for rest in [0u64, 0x0706_0504_0100_0706] {
            let mut pat = rest.to_le_bytes();
            pat[byte] = value;
            let defined = [0, 1, 4, 5, 6, 7].contains(&value);
            assert_eq!(is_pat(u64::from_le_bytes(pat)), defined, "{pat:x?}");
            cases += 1;
        }
    }
    assert_eq!(cases, 8 * 256 * 2);
}

/// UC, WC, WT, WP and WB.
fn is_type(value: u64) -> bool {
    [0, 1, 4, 5, 6].contains(&value)
}

/// Every byte of every fixed-range register, and of the default type's.
#[test]
fn types() {
    let mut cases = 0u64;
    let fixed = [0x250, 0x258, 0x259].into_iter().chain(0x268..=0x26f);
    for index in fixed {
        for (byte, value) in (0..8).flat_map(|byte| (0..=255u64).map(move |value| (byte, value))) {
            for rest in [0, 0x0606_0606_0606_0606u64 & !(0xff << (8 * byte))] {
                let got = is_mtrr(index, rest | value << (8 * byte), 39);
                assert_eq!(got, is_type(value));
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 11 * 8 * 256 * 2);
    for value in 0..1u64 << 16 {
        let got = is_mtrr(0x2ff, value, 39);
        let reserved = value & !0xcff != 0;
        assert_eq!(got, !reserved && is_type(value & 0xff), "{value:#x}");
    }
    for bit in 16..64 {
        assert!(!is_mtrr(0x2ff, 1 << bit | 6, 39));
    }
}

/// Each low half of a base and a mask, and each bit of both for each width of physical addresses.
#[test]
fn variable_ranges() {
    let mut cases = 0u64;
    for n in 0..8 {
        let (base, mask) = (0x200 + 2 * n, 0x201 + 2 * n);
        for low in 0..1u64 << 12 {
            let valid = low >> 8 == 0 && is_type(low);
            assert_eq!(is_mtrr(base, low, 39), valid, "{low:#x}");
            assert_eq!(is_mtrr(mask, low, 39), low & 0x7ff == 0, "{low:#x}");
            cases += 2;
        }
        for (bit, physical) in (12..64).flat_map(|bit| (32..=52u8).map(move |m| (bit, m))) {
            let valid = bit < physical;
            assert_eq!(is_mtrr(base, 1 << bit | 6, physical), valid);
            assert_eq!(is_mtrr(mask, 1 << bit | 1 << 11, physical), valid);
            cases += 2;
        }
    }
    assert_eq!(cases, 8 * 2 * (4096 + 52 * 21));
}
