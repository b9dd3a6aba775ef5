// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;
use TimerWrite::{Divide, InitialCount, Mode};

const START: u64 = 5_000_000_000;
const DIVIDE_BY_1: u32 = 0xb;

/// A timer that divides by 1.
fn timer(mode: TimerMode) -> Timer {
    let mut timer = Timer::new(1, MIN_PERIOD);
    timer.write(Divide(DIVIDE_BY_1), 0);
    timer.write(Mode(mode), 0);
    timer
}

#[test]
fn divisors() {
    for (value, divisor) in [
        (0, 2),
        (1, 4),
        (2, 8),
        (3, 16),
        (8, 32),
        (9, 64),
        (10, 128),
        (11, 1),
    ] {
        let mut timer = Timer::new(10, MIN_PERIOD);
        timer.write(Divide(value), START);
        timer.write(InitialCount(1000), START);
        assert_eq!(timer.deadline(), Some(START + 10_000 * divisor), "{value}");
    }
    let mut unset = Timer::new(1, MIN_PERIOD);
    unset.write(InitialCount(7), START);
    assert_eq!(unset.deadline(), Some(START + 14), "by 2 after reset");
}

#[test]
fn counting_once() {
    let mut timer = timer(TimerMode::OneShot);
    assert_eq!((timer.deadline(), timer.current_count(START)), (None, 0));
    timer.write(InitialCount(1000), START);
    assert_eq!(timer.deadline(), Some(START + 1000));
    for (later, count) in [(0, 1000), (1, 999), (999, 1), (1000, 0), (5000, 0)] {
        assert_eq!(timer.current_count(START + later), count);
    }
    assert_eq!(timer.expire(START + 1000), None);
    assert_eq!(
        (timer.deadline(), timer.current_count(START + 1001)),
        (None, 0)
    );
    timer.write(InitialCount(1000), START);
    timer.write(InitialCount(0), START + 1);
    assert_eq!(timer.deadline(), None, "stopped");
}

#[test]
fn counting_periodically() {
    let mut timer = timer(TimerMode::Periodic);
    timer.write(InitialCount(1_000_000), START);
    let first = START + 1_000_000;
    assert_eq!(
        timer.expire(first + 300),
        Some(first + 1_000_000),
        "no drift"
    );
    assert_eq!(timer.current_count(first + 1_000_000 - 10), 10);
    let late = START + 90_000_000;
    assert_eq!(timer.expire(late), Some(late), "one more at once");
    assert_eq!(timer.expire(late), Some(late + 1_000_000), "not 90");
}

#[test]
fn short_periods_are_not_granted() {
    let mut timer = timer(TimerMode::Periodic);
    timer.write(InitialCount(1), START);
    assert_eq!(timer.deadline(), Some(START + MIN_PERIOD));
    assert_eq!(timer.current_count(START), 1);
    assert_eq!(
        timer.expire(START + MIN_PERIOD),
        Some(START + 2 * MIN_PERIOD)
    );
    timer.write(Mode(TimerMode::OneShot), START);
    timer.write(InitialCount(1), START);
    assert_eq!(timer.deadline(), Some(START + 1), "once is no harm");
    timer.write(Mode(TimerMode::Periodic), START);
    assert_eq!(timer.expire(START + 1), Some(START + 1 + MIN_PERIOD));
}

#[test]
fn a_new_divisor_changes_the_pace() {
    let mut timer = timer(TimerMode::OneShot);
    timer.write(InitialCount(1000), START);
    timer.write(Divide(0), START + 400);
    assert_eq!(timer.current_count(START + 400), 600);
    assert_eq!(timer.deadline(), Some(START + 400 + 1200));
    timer.write(Divide(DIVIDE_BY_1), START + 800);
    assert_eq!(timer.current_count(START + 800), 400);
    assert_eq!(timer.deadline(), Some(START + 800 + 400));
}

#[test]
fn the_tsc_deadline() {
    let mut timer = timer(TimerMode::OneShot);
    assert!(!timer.set_tsc_deadline(99));
    assert_eq!(timer.tsc_deadline(), 0);
    timer.write(InitialCount(1000), START);
    timer.write(Mode(TimerMode::TscDeadline), START);
    assert_eq!(timer.deadline(), None, "a change of mode disarms");
    assert!(timer.set_tsc_deadline(99));
    timer.write(InitialCount(1000), START);
    assert_eq!((timer.deadline(), timer.tsc_deadline()), (None, 99));
    assert_eq!(timer.current_count(START), 0);
    assert_eq!(timer.expire(START), None);
    assert_eq!(timer.tsc_deadline(), 0, "fires once");
    assert!(timer.set_tsc_deadline(100));
    timer.write(Mode(TimerMode::Periodic), START);
    assert_eq!(timer.tsc_deadline(), 0);
    assert_eq!(timer.deadline(), None);
}

#[test]
fn between_once_and_periodic_the_count_goes_on() {
    let mut timer = timer(TimerMode::OneShot);
    timer.write(InitialCount(1_000_000), START);
    timer.write(Mode(TimerMode::Periodic), START + 10);
    assert_eq!(timer.current_count(START + 10), 999_990);
    assert_eq!(timer.expire(START + 1_000_000), Some(START + 2_000_000));
    timer.write(Mode(TimerMode::OneShot), START + 1_500_000);
    assert_eq!(timer.expire(START + 2_000_000), None);
}

#[test]
fn the_reserved_mode_does_nothing() {
    let mut timer = timer(TimerMode::Reserved);
    timer.write(InitialCount(1000), START);
    assert_eq!(timer.deadline(), None);
}

#[test]
fn restored_timers_go_on() {
    let state = |mode, current_count| TimerState {
        mode,
        initial_count: 1_000_000,
        current_count,
        divide: DIVIDE_BY_1,
    };
    for (mode, current, left) in [
        (TimerMode::OneShot, 600, Some(600)),
        (TimerMode::OneShot, 0, Some(0)),
        (TimerMode::OneShot, 2_000_000, Some(1_000_000)),
        (TimerMode::Periodic, 600, Some(600)),
        (TimerMode::Periodic, 0, Some(1_000_000)),
        (TimerMode::TscDeadline, 600, None),
    ] {
        let mut timer = timer(TimerMode::OneShot);
        timer.write(InitialCount(77), 3);
        timer.restore(&state(mode, current), START);
        assert_eq!(timer.deadline(), left.map(|left| START + left));
        assert_eq!(timer.mode(), mode);
    }
}

#[test]
fn reset_stops_it_and_keeps_its_clock() {
    let mut timer = Timer::new(40, MIN_PERIOD);
    timer.write(Divide(DIVIDE_BY_1), 0);
    timer.write(InitialCount(1000), 0);
    timer.reset();
    assert_eq!(timer, Timer::new(40, MIN_PERIOD));
    timer.set_bus_cycle(25);
    timer.write(InitialCount(1000), 0);
    assert_eq!(timer.deadline(), Some(50_000));
}

fn write() -> impl Strategy<Value = TimerWrite> {
    prop_oneof![
        any::<u32>().prop_map(|bits| Mode(TimerMode::from_bits(bits))),
        any::<u32>().prop_map(InitialCount),
        (0..1000u32).prop_map(InitialCount),
        any::<u32>().prop_map(Divide),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// However it is programmed: it never counts past what it was started with, does not fire in
    /// the past, and a periodic one not more often than allowed.
    #[test]
    fn it_keeps_its_bounds(
        bus_cycle: u64,
        writes in prop::collection::vec((write(), any::<u32>(), any::<bool>()), 1..100),
    ) {
        let mut timer = Timer::new(bus_cycle % 1000, MIN_PERIOD);
        let mut now = 0u64;
        let mut initial = 0;
        for (write, later, on_time) in writes {
            timer.write(write, now);
            match write {
                InitialCount(count) => initial = count,
                Mode(TimerMode::TscDeadline) => initial = 0,
                _ => {}
            }
            prop_assert!(timer.current_count(now) <= initial);
            if let Some(deadline) = timer.deadline() {
                prop_assert!(deadline >= now);
                if on_time {
                    now = deadline;
                }
                if deadline <= now {
                    let next = timer.expire(now);
                    prop_assert_eq!(next.is_some(), timer.mode() == TimerMode::Periodic);
                    if let Some(next) = next {
                        prop_assert!(next >= now + MIN_PERIOD);
                    }
                    continue;
                }
            }
            now += u64::from(later);
            // It was looked after late.
            if timer.deadline().is_some_and(|deadline| deadline < now) {
                let next = timer.expire(now);
                prop_assert!(next.is_none_or(|next| next >= now));
            }
        }
    }
}
