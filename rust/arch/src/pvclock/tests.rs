// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

/// The clock as the guest side of the protocol computes it, from the bytes.
fn guest_reads(bytes: &[u8; VcpuTime::SIZE], tsc: u64) -> u64 {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let multiplier = u32::from_le_bytes(bytes[24..28].try_into().unwrap());
    let shift = bytes[28] as i8;
    let delta = tsc.wrapping_sub(word(8));
    let delta = if shift < 0 {
        delta >> -shift
    } else {
        delta << shift
    };
    word(16) + ((u128::from(delta) * u128::from(multiplier)) >> 32) as u64
}

fn whole(time: &VcpuTime) -> [u8; VcpuTime::SIZE] {
    let mut bytes = [0; VcpuTime::SIZE];
    bytes[VcpuTime::BODY..].copy_from_slice(&time.body());
    bytes
}

#[test]
fn a_guest_reads_what_was_meant() {
    let time = VcpuTime {
        moment: Moment {
            tsc: 0x1_2345_6789,
            ns: 77 * NSEC_PER_SEC,
        },
        scale: Scale::to_nanoseconds(2_500_000),
        flags: TSC_STABLE,
    };
    let bytes = whole(&time);
    assert_eq!(guest_reads(&bytes, 0x1_2345_6789), 77 * NSEC_PER_SEC);
    let later = guest_reads(&bytes, 0x1_2345_6789 + 2_500_000_000);
    assert!(later.abs_diff(78 * NSEC_PER_SEC) <= 1);
    assert_eq!(bytes[VcpuTime::FLAGS], TSC_STABLE);
    assert_eq!(bytes[..4], [0; 4]);
    assert_eq!(bytes[4..8], [0; 4], "padding");
    assert_eq!(bytes[30..], [0; 2], "padding");
}

#[test]
fn equal_frequencies_change_nothing_but_the_last_bit() {
    let scale = Scale::new(NSEC_PER_SEC, NSEC_PER_SEC);
    assert_eq!(
        scale,
        Scale {
            multiplier: 1 << 31,
            shift: 1
        }
    );
    assert_eq!(scale.apply(12345), 12345);
}

#[test]
fn extreme_frequencies_end() {
    for (to, from) in [(0, 0), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        let scale = Scale::new(to, from);
        assert!(scale.multiplier >= 1 << 31);
        scale.apply(u64::MAX);
    }
}

#[test]
fn a_guests_nonsense_in_the_version_is_followed_by_an_odd_one() {
    assert_eq!(version_begin(0), 1);
    assert_eq!(version_begin(1), 3);
    assert_eq!(version_begin(u32::MAX), 1);
    assert_eq!(version_end(version_begin(u32::MAX - 1)), 0);
}

#[test]
fn the_wall_clock_has_seconds_and_the_rest() {
    let bytes = WallClock {
        epoch: 1_700_000_000_123_456_789,
    }
    .body();
    assert_eq!(bytes[..4], 1_700_000_000u32.to_le_bytes());
    assert_eq!(bytes[4..], 123_456_789u32.to_le_bytes());
}

#[test]
fn a_pairing_has_the_layout_of_linux() {
    let bytes = ClockPairing {
        moment: Moment {
            tsc: 0x1122_3344_5566,
            ns: 5 * NSEC_PER_SEC + 42,
        },
    }
    .bytes();
    assert_eq!(bytes[..8], 5u64.to_le_bytes());
    assert_eq!(bytes[8..16], 42u64.to_le_bytes());
    assert_eq!(bytes[16..24], 0x1122_3344_5566u64.to_le_bytes());
    assert_eq!(bytes[24..], [0; 40]);
}

#[test]
fn a_moment_reaches_back_as_well() {
    let moment = Moment {
        tsc: 1000,
        ns: 5000,
    };
    let scale = Scale::to_nanoseconds(1_000_000);
    assert_eq!(moment.at(1500, scale), 5500);
    assert_eq!(moment.at(400, scale), 4400);
}

proptest! {
    #[test]
    fn a_scale_is_exact_to_a_billionth(to in 1u64..1 << 42, from in 1u64..1 << 42, ticks in 1u64..1 << 20) {
        let scale = Scale::new(to, from);
        prop_assert!(scale.multiplier >= 1 << 31);
        prop_assume!((-40..=40).contains(&scale.shift));
        let ticks = ticks << 20;
        let exact = u128::from(ticks) * u128::from(to) / u128::from(from);
        prop_assume!(exact < 1 << 62 && scale.shift.max(0) < 20);
        let got = u128::from(scale.apply(ticks));
        // The multiplier rounds down by less than 2^-31 of itself, a right shift by a unit of what
        // is left, and the product by one.
        let slack = (exact >> 30) + (exact / u128::from((ticks >> (-scale.shift).max(0)).max(1))) + 2;
        prop_assert!(got <= exact && exact - got <= slack, "{scale:?}: {got} for {exact}");
    }

    #[test]
    fn time_never_goes_back(khz in 1000u32..10_000_000, start: u32, step in 0u64..1 << 40) {
        let moment = Moment { tsc: u64::from(start), ns: 1 << 60 };
        let scale = Scale::to_nanoseconds(khz);
        let first = moment.at(u64::from(start), scale);
        let second = moment.at(u64::from(start) + step, scale);
        prop_assert!(second >= first);
    }

    /// Two processors whose counters differ, given the same moment, agree on the time.
    #[test]
    fn processors_agree(khz in 1000u32..10_000_000, tsc in 0u64..1 << 50, offset: u64, step in 0u64..1 << 40) {
        let scale = Scale::to_nanoseconds(khz);
        let one = Moment { tsc, ns: 5 };
        let other = Moment { tsc: tsc.wrapping_add(offset), ns: 5 };
        prop_assert_eq!(
            one.at(tsc + step, scale),
            other.at(tsc.wrapping_add(offset).wrapping_add(step), scale)
        );
    }
}
