// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const KHZ: u32 = 2_000_000;
const SECOND: u64 = 1_000_000_000;

/// The host, `seconds` after some start.
fn host(seconds: f64) -> Moment {
    Moment {
        tsc: 1 << 40 | (seconds * 2e9) as u64,
        ns: (1 << 50) + (seconds * 1e9) as u64,
    }
}

#[test]
fn new_processors_start_at_0_and_in_step() {
    let mut group = Group::new();
    let (mut a, mut b) = (Member::default(), Member::default());
    assert!(!group.in_step(0));
    let first = group.join(&mut a, KHZ, host(0.0), true);
    assert!(first.is_new);
    assert_eq!(first.offset, host(0.0).tsc.wrapping_neg());
    let second = group.join(&mut b, KHZ, host(7.0), true);
    assert!(!second.is_new);
    assert_eq!(second.offset, first.offset);
    assert!(group.in_step(2));
    assert!(!group.in_step(3));
}

#[test]
fn a_restored_machine_has_one_counter() {
    let mut group = Group::new();
    let mut members = [Member::default(); 4];
    for (i, member) in members.iter_mut().enumerate() {
        group.join(member, KHZ, host(i as f64), true);
    }
    // Each value was saved a little after the one before, and is written a little later still.
    let saved = 3600 * 2 * SECOND;
    let mut offsets = [0; 4];
    for (i, member) in members.iter_mut().enumerate() {
        let written = group.write(
            member,
            saved + i as u64 * 1000,
            KHZ,
            host(10.0 + i as f64 / 10.0),
            true,
        );
        assert_eq!(written.is_new, i == 0);
        offsets[i] = written.offset;
    }
    assert_eq!(offsets, [offsets[0]; 4]);
    assert!(group.in_step(4));
}

#[test]
fn the_first_value_a_vmm_writes_stands() {
    let mut group = Group::new();
    let mut a = Member::default();
    group.join(&mut a, KHZ, host(0.0), true);
    // Within a second of what the counter reads; but nobody wrote that.
    let written = group.write(&mut a, SECOND / 2, KHZ, host(0.1), true);
    assert!(written.is_new);
    assert_eq!(written.offset, (SECOND / 2).wrapping_sub(host(0.1).tsc));
}

#[test]
fn values_far_apart_are_counters_of_their_own() {
    let mut group = Group::new();
    let (mut a, mut b) = (Member::default(), Member::default());
    group.join(&mut a, KHZ, host(0.0), true);
    group.join(&mut b, KHZ, host(0.0), true);
    group.write(&mut a, 100 * SECOND, KHZ, host(1.0), true);
    assert!(!group.in_step(2));
    let written = group.write(&mut b, 200 * SECOND, KHZ, host(1.0), true);
    assert!(written.is_new);
    assert!(!group.in_step(2));
    // And a comes to b.
    assert!(
        !group
            .write(&mut a, 200 * SECOND, KHZ, host(1.0), true)
            .is_new
    );
    assert!(group.in_step(2));
}

#[test]
fn a_second_is_the_limit() {
    for (value, is_new) in [
        (100 * SECOND + 2 * SECOND - 1, false),
        (100 * SECOND + 2 * SECOND, true),
        (100 * SECOND - 2 * SECOND + 1, false),
        (100 * SECOND - 2 * SECOND, true),
    ] {
        let mut group = Group::new();
        let mut a = Member::default();
        group.write(&mut a, 100 * SECOND, KHZ, host(1.0), true);
        assert_eq!(
            group.write(&mut a, value, KHZ, host(1.0), true).is_new,
            is_new,
            "{value}"
        );
    }
}

#[test]
fn another_frequency_is_another_counter() {
    let mut group = Group::new();
    let (mut a, mut b) = (Member::default(), Member::default());
    group.join(&mut a, KHZ, host(0.0), true);
    assert!(group.join(&mut b, KHZ + 1, host(0.0), true).is_new);
}

#[test]
fn writing_again_counts_once() {
    let mut group = Group::new();
    let (mut a, mut b) = (Member::default(), Member::default());
    group.join(&mut a, KHZ, host(0.0), true);
    group.join(&mut b, KHZ, host(0.0), true);
    for _ in 0..3 {
        group.write(&mut a, 0, KHZ, host(1.0), true);
        assert!(group.in_step(2));
    }
}

#[test]
fn who_leaves_does_not_count() {
    let mut group = Group::new();
    let (mut a, mut b) = (Member::default(), Member::default());
    group.join(&mut a, KHZ, host(0.0), true);
    group.leave(&b);
    assert!(group.in_step(1));
    group.join(&mut b, KHZ, host(0.0), true);
    group.leave(&b);
    assert!(group.in_step(1));
    // Everybody left; who comes now is in step with who was.
    group.leave(&a);
    assert!(
        !group
            .join(&mut Member::default(), KHZ, host(5.0), true)
            .is_new
    );
    assert!(group.in_step(1));
}

#[test]
fn equal_offsets_are_one_counter() {
    let mut group = Group::new();
    let (mut a, mut b) = (Member::default(), Member::default());
    group.join(&mut a, KHZ, host(0.0), true);
    group.join(&mut b, KHZ, host(0.0), true);
    assert_eq!(
        group.set_offset(&mut a, 42, KHZ, host(1.0)),
        Written {
            offset: 42,
            is_new: true
        }
    );
    assert!(!group.in_step(2));
    assert_eq!(
        group.set_offset(&mut b, 42, KHZ, host(9.0)),
        Written {
            offset: 42,
            is_new: false
        }
    );
    assert!(group.in_step(2));
}

#[test]
fn on_an_unstable_host_time_decides() {
    let mut group = Group::new();
    let (mut a, mut b) = (Member::default(), Member::default());
    group.join(&mut a, KHZ, host(0.0), false);
    // The other processor's counter is far off; the guest's reads one second all the same.
    let elsewhere = Moment {
        tsc: 12345,
        ns: host(1.0).ns,
    };
    let written = group.join(&mut b, KHZ, elsewhere, false);
    assert!(!written.is_new);
    let reads = elsewhere.tsc.wrapping_add(written.offset);
    assert!(reads.abs_diff(2 * SECOND) < 1000);
}

proptest! {
    #[test]
    fn any_writes_leave_a_count_of_members(writes in proptest::collection::vec((0usize..3, any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<bool>()), 0..40)) {
        let mut group = Group::new();
        let mut members = [Member::default(); 3];
        for (i, value, khz, tsc, ns, stable) in writes {
            group.write(&mut members[i], value, khz, Moment { tsc, ns }, stable);
            let same = members.iter().filter(|m| m.generation == group.generation).count();
            prop_assert!(group.in_step(same));
        }
    }
}
