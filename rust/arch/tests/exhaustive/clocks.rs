// SPDX-License-Identifier: GPL-2.0

//! Ratios of frequencies, which the crate computes without 128-bit division, against that division.

use arch::pvclock::Scale;

/// The multiplier lies in the upper half of its range and is the ratio, rounded down.
fn check(to: u64, from: u64) {
    let scale = Scale::new(to, from);
    assert!(scale.multiplier >> 31 != 0, "{to} from {from}: {scale:?}");
    // multiplier = to / from * 2^(32 - shift)
    let power = 32 - i32::from(scale.shift);
    let (numerator, denominator) = if power >= 0 {
        (u128::from(to) << power, u128::from(from))
    } else {
        (u128::from(to), u128::from(from) << -power)
    };
    assert_eq!(
        u128::from(scale.multiplier),
        numerator / denominator,
        "{to} from {from}: {scale:?}"
    );
}

/// Every power of two up to 2^60 and what lies beside it, each to each.
#[test]
fn extreme_ratios() {
    let frequencies: Vec<u64> = (0..=60)
        .flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1])
        .filter(|hz| (1..=1 << 60).contains(hz))
        .collect();
    let mut cases = 0u64;
    for to in &frequencies {
        for from in &frequencies {
            check(*to, *from);
            cases += 1;
        }
    }
    assert_eq!(cases, 181 * 181);
}

/// Each kHz that a counter could have up to a little more than 1 GHz, and every 64th MHz up
/// to the most that fits: to nanoseconds and back.
#[test]
fn counters() {
    let mut cases = 0u64;
    let frequencies =
        (1..=1u32 << 20).chain((1..=u32::MAX / 1000).step_by(64).map(|mhz| mhz * 1000));
    for khz in frequencies {
        let hz = u64::from(khz) * 1000;
        assert_eq!(Scale::to_nanoseconds(khz), Scale::new(1_000_000_000, hz));
        check(1_000_000_000, hz);
        check(hz, 1_000_000_000);
        cases += 1;
    }
    assert_eq!(cases, 1_048_576 + 67_109);
}

/// Each bit of a number of ticks, with each shift and multipliers at the ends of their range.
#[test]
fn scaled_ticks() {
    let mut cases = 0u64;
    for shift in i8::MIN..=i8::MAX {
        for multiplier in [0x8000_0000u32, 0xaaaa_aaaa, 0xffff_ffff] {
            for bit in 0..64 {
                for ticks in [1u64 << bit, u64::MAX >> bit] {
                    let by = u32::from(shift.unsigned_abs());
                    let shifted = match shift {
                        0.. => u128::from(ticks).checked_shl(by.min(127)).unwrap_or(0) as u64,
                        _ => (u128::from(ticks) >> by.min(127)) as u64,
                    };
                    let shifted = if by >= 64 { 0 } else { shifted };
                    let expected = (u128::from(shifted) * u128::from(multiplier) >> 32) as u64;
                    let scale = Scale { multiplier, shift };
                    assert_eq!(scale.apply(ticks), expected, "{scale:?} {ticks:#x}");
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 256 * 3 * 64 * 2);
}
