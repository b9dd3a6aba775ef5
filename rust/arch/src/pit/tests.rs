// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

mod state;

/// The first nanosecond of tick `tick` of these tests, which do not start at zero.
fn at(tick: u64) -> u64 {
    nanoseconds(START + tick)
}

const START: u64 = 123_456_789;

/// A control word and a two-byte count for `channel`, at tick `tick`.
fn program(pit: &mut Pit, channel: u16, mode: u8, count: u16, tick: u64) {
    pit.write(
        CONTROL,
        ((channel as u8) << 6) | 0x30 | (mode << 1),
        at(tick),
    );
    set_count(pit, channel, count, tick);
}

fn set_count(pit: &mut Pit, channel: u16, count: u16, tick: u64) {
    let [low, high] = count.to_le_bytes();
    pit.write(CHANNEL_0 + channel, low, at(tick));
    pit.write(CHANNEL_0 + channel, high, at(tick));
}

/// Latches and reads a count.
fn count(pit: &mut Pit, channel: u16, tick: u64) -> u16 {
    pit.write(CONTROL, (channel as u8) << 6, at(tick));
    let mut byte = || pit.read(CHANNEL_0 + channel, at(tick)).unwrap();
    u16::from_le_bytes([byte(), byte()])
}

/// The output over ticks `0..ticks`, low as `_`.
fn wave(pit: &Pit, channel: usize, ticks: u64) -> std::string::String {
    (0..ticks)
        .map(|tick| {
            if pit.output(channel, at(tick)) {
                '-'
            } else {
                '_'
            }
        })
        .collect()
}

fn gate(pit: &mut Pit, level: bool, tick: u64) {
    pit.write(SPEAKER, u8::from(level), at(tick));
}

#[test]
fn ports_are_the_listed_ones() {
    let mut pit = Pit::new();
    for port in 0..=u16::MAX {
        assert_eq!(
            pit.read(port, 0).is_some(),
            PORTS.contains(&port),
            "read {port:#x}"
        );
        assert_eq!(
            pit.write(port, 0, 0),
            PORTS.contains(&port),
            "write {port:#x}"
        );
    }
}

#[test]
fn mode_0_is_low_until_the_count_is_out() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 0, 5, 0);
    assert_eq!(wave(&pit, 0, 9), "_____----");
    assert_eq!(pit.next_edge(0, at(0)), Some(at(5)));
    assert_eq!(pit.next_rising_edge(0, at(4)), Some(at(5)));
    assert_eq!(pit.next_edge(0, at(5)), None);
    assert_eq!(count(&mut pit, 0, 2), 3);
    assert_eq!(count(&mut pit, 0, 5), 0);
    assert_eq!(count(&mut pit, 0, 6), 0xffff);

    set_count(&mut pit, 0, 3, 7);
    assert_eq!(
        wave(&pit, 0, 12),
        "__________--",
        "a new count starts it again"
    );
}

#[test]
fn mode_0_stops_at_the_first_byte_of_a_new_count() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 0, 2, 0);
    assert!(pit.output(0, at(2)));
    pit.write(CHANNEL_0, 9, at(3));
    assert!(!pit.output(0, at(3)) && !pit.output(0, at(100)));
    pit.write(CHANNEL_0, 0, at(100));
    assert_eq!(pit.next_edge(0, at(100)), Some(at(109)));
}

#[test]
fn mode_1_is_low_for_the_count_after_each_trigger() {
    let mut pit = Pit::new();
    program(&mut pit, 2, 1, 3, 0);
    assert_eq!(wave(&pit, 2, 4), "----");
    assert_eq!(pit.next_edge(2, at(0)), None);
    gate(&mut pit, true, 1);
    assert_eq!(
        (pit.output(2, at(1)), pit.next_edge(2, at(1))),
        (false, Some(at(4)))
    );
    gate(&mut pit, false, 2);
    gate(&mut pit, true, 3);
    assert_eq!(pit.next_rising_edge(2, at(3)), Some(at(6)), "retriggered");
    set_count(&mut pit, 2, 10, 4);
    assert_eq!(
        pit.next_edge(2, at(4)),
        Some(at(6)),
        "a new count waits for a trigger"
    );
}

#[test]
fn mode_2_is_low_for_the_last_tick_of_a_period() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 4, 0);
    assert_eq!(wave(&pit, 0, 10), "---_---_--");
    assert_eq!(pit.next_edge(0, at(0)), Some(at(3)));
    assert_eq!(pit.next_edge(0, at(3)), Some(at(4)));
    assert_eq!(pit.next_rising_edge(0, at(0)), Some(at(4)));
    assert_eq!(pit.next_rising_edge(0, at(3)), Some(at(4)));
    assert_eq!(pit.next_rising_edge(0, at(4)), Some(at(8)));
    let counts: std::vec::Vec<_> = (0..6).map(|tick| count(&mut pit, 0, tick)).collect();
    assert_eq!(counts, [4, 3, 2, 1, 4, 3]);
}

#[test]
fn mode_2_takes_a_new_count_at_the_end_of_the_period() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 4, 0);
    set_count(&mut pit, 0, 3, 1);
    assert_eq!(wave(&pit, 0, 11), "---_--_--_-");
    assert_eq!(pit.next_rising_edge(0, at(1)), Some(at(4)));
    assert_eq!(pit.next_rising_edge(0, at(4)), Some(at(7)));
}

#[test]
fn mode_3_is_high_for_half_a_period_and_counts_by_two() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 3, 6, 0);
    assert_eq!(wave(&pit, 0, 9), "---___---");
    let counts: std::vec::Vec<_> = (0..7).map(|tick| count(&mut pit, 0, tick)).collect();
    assert_eq!(counts, [6, 4, 2, 6, 4, 2, 6]);

    program(&mut pit, 0, 3, 5, 0);
    assert_eq!(wave(&pit, 0, 10), "---__---__");
    let counts: std::vec::Vec<_> = (0..6).map(|tick| count(&mut pit, 0, tick)).collect();
    assert_eq!(counts, [4, 2, 0, 4, 2, 4]);
    assert_eq!(pit.next_rising_edge(0, at(0)), Some(at(5)));
}

#[test]
fn mode_3_takes_a_new_count_at_the_end_of_a_half() {
    for (written, wave_with_it) in [(1, "---______------___"), (4, "---___------______")] {
        let mut pit = Pit::new();
        program(&mut pit, 0, 3, 6, 0);
        set_count(&mut pit, 0, 12, written);
        assert_eq!(
            &wave(&pit, 0, 18)[..15],
            &wave_with_it[..15],
            "written at {written}"
        );
    }
}

#[test]
fn mode_4_strobes_once() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 4, 3, 0);
    assert_eq!(wave(&pit, 0, 8), "---_----");
    assert_eq!(pit.next_edge(0, at(0)), Some(at(3)));
    assert_eq!(pit.next_rising_edge(0, at(0)), Some(at(4)));
    assert_eq!(pit.next_edge(0, at(4)), None);
}

#[test]
fn mode_5_strobes_after_a_trigger() {
    let mut pit = Pit::new();
    gate(&mut pit, false, 0);
    program(&mut pit, 2, 5, 3, 0);
    assert_eq!(pit.next_edge(2, at(0)), None);
    gate(&mut pit, true, 2);
    assert_eq!(wave(&pit, 2, 9), "-----_---");
}

#[test]
fn a_low_gate_stops_modes_0_and_4() {
    for mode in [0, 4] {
        let mut pit = Pit::new();
        gate(&mut pit, true, 0);
        program(&mut pit, 2, mode, 10, 0);
        gate(&mut pit, false, 4);
        assert_eq!(count(&mut pit, 2, 4), 6);
        assert_eq!(count(&mut pit, 2, 400), 6);
        assert_eq!(pit.next_edge(2, at(4)), None);
        gate(&mut pit, true, 500);
        assert_eq!(pit.next_edge(2, at(500)), Some(at(506)));
    }
}

#[test]
fn a_low_gate_holds_modes_2_and_3_high_and_its_rise_reloads() {
    for mode in [2, 3] {
        let mut pit = Pit::new();
        gate(&mut pit, true, 0);
        program(&mut pit, 2, mode, 10, 0);
        gate(&mut pit, false, 9);
        assert!(pit.output(2, at(9)) && pit.output(2, at(12)));
        assert_eq!(pit.next_edge(2, at(9)), None);
        set_count(&mut pit, 2, 20, 15);
        gate(&mut pit, true, 30);
        assert_eq!(pit.next_rising_edge(2, at(30)), Some(at(50)));
    }
}

#[test]
fn one_byte_counts_are_low_or_high() {
    let mut pit = Pit::new();
    pit.write(CONTROL, 0x14, at(0));
    pit.write(CHANNEL_0, 100, at(0));
    assert_eq!(pit.next_rising_edge(0, at(0)), Some(at(100)));
    assert_eq!(pit.read(CHANNEL_0, at(1)), Some(99));
    pit.write(CONTROL, 0x24, at(0));
    pit.write(CHANNEL_0, 2, at(0));
    assert_eq!(pit.next_rising_edge(0, at(0)), Some(at(512)));
    assert_eq!(pit.read(CHANNEL_0, at(0)), Some(2));
    assert_eq!(pit.read(CHANNEL_0, at(1)), Some(1));
}

#[test]
fn zero_is_the_longest_count() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 0, 0);
    assert_eq!(pit.next_rising_edge(0, at(0)), Some(at(65536)));
    assert_eq!(count(&mut pit, 0, 0), 0);
    assert_eq!(count(&mut pit, 0, 1), 0xffff);
}

#[test]
fn bcd_counts_in_decimal() {
    let mut pit = Pit::new();
    pit.write(CONTROL, 0x35, at(0));
    set_count(&mut pit, 0, 0x1000, 0);
    assert_eq!(count(&mut pit, 0, 1), 0x0999);
    assert_eq!(pit.next_rising_edge(0, at(0)), Some(at(1000)));
    pit.write(CONTROL, 0x31, at(0));
    set_count(&mut pit, 0, 0, 0);
    assert_eq!(pit.next_edge(0, at(0)), Some(at(10_000)));
    assert_eq!(count(&mut pit, 0, 10_001), 0x9999);
}

#[test]
fn a_latched_count_waits_to_be_read() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000, 0);
    pit.write(CONTROL, 0x00, at(10));
    pit.write(CONTROL, 0x00, at(20));
    let low = pit.read(CHANNEL_0, at(30)).unwrap();
    let high = pit.read(CHANNEL_0, at(40)).unwrap();
    assert_eq!(u16::from_le_bytes([low, high]), 990);
    assert_eq!(
        pit.read(CHANNEL_0, at(50)),
        Some((950u16 & 0xff) as u8),
        "live again"
    );
}

#[test]
fn a_latched_count_is_read_low_byte_first() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 0x1234, 0);
    pit.read(CHANNEL_0, at(0));
    assert_eq!(count(&mut pit, 0, 0), 0x1234);
}

#[test]
fn a_new_count_does_not_reach_a_stopped_counter() {
    let mut pit = Pit::new();
    gate(&mut pit, true, 0);
    program(&mut pit, 2, 2, 100, 0);
    set_count(&mut pit, 2, 500, 10);
    gate(&mut pit, false, 20);
    assert_eq!(count(&mut pit, 2, 1000), 80);
    gate(&mut pit, true, 2000);
    assert_eq!(count(&mut pit, 2, 2001), 499);
}

#[test]
fn read_back_latches_status_then_count() {
    const OUTPUT: u8 = 0x80;
    const NULL: u8 = 0x40;
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000, 0);
    pit.write(CONTROL, 0xc2, at(1));
    let bytes: std::vec::Vec<_> = (0..3)
        .map(|_| pit.read(CHANNEL_0, at(9)).unwrap())
        .collect();
    assert_eq!(
        bytes,
        [OUTPUT | 0x34, (999u16 & 0xff) as u8, (999u16 >> 8) as u8]
    );

    set_count(&mut pit, 0, 500, 10);
    pit.write(CONTROL, 0xe2, at(11));
    assert_eq!(pit.read(CHANNEL_0, at(11)), Some(OUTPUT | NULL | 0x34));
    pit.write(CONTROL, 0xe2, at(999));
    assert_eq!(pit.read(CHANNEL_0, at(999)), Some(NULL | 0x34));
    pit.write(CONTROL, 0xe2, at(1000));
    assert_eq!(pit.read(CHANNEL_0, at(1000)), Some(OUTPUT | 0x34));

    pit.write(CONTROL, 0xb0, at(0));
    pit.write(CONTROL, 0xe8, at(0));
    assert_eq!(
        pit.read(CHANNEL_2, at(0)),
        Some(NULL | 0x30),
        "no count since the control word"
    );
}

#[test]
fn port_61_shows_gate_speaker_refresh_and_output() {
    let mut pit = Pit::new();
    assert_eq!(pit.read(SPEAKER, 0), Some(0));
    pit.write(SPEAKER, 0xff, 0);
    assert_eq!(pit.read(SPEAKER, 0).unwrap() & 0x0f, 3);
    assert!(pit.speaker_on());
    let refresh = |pit: &mut Pit, tick| pit.read(SPEAKER, nanoseconds(tick)).unwrap() & 0x10 != 0;
    assert!(!refresh(&mut pit, 17) && refresh(&mut pit, 18) && !refresh(&mut pit, 36));
}

/// The loop of Linux's `pit_calibrate_tsc`: 50 ms on channel 2, seen through port 0x61.
#[test]
fn linux_calibrates_against_channel_2() {
    let mut pit = Pit::new();
    let mut now = 5_000_000_123;
    let value = pit.read(SPEAKER, now).unwrap() & !2 | 1;
    pit.write(SPEAKER, value, now);
    pit.write(CONTROL, 0xb0, now);
    let latch = (FREQUENCY / 20) as u16;
    let [low, high] = latch.to_le_bytes();
    pit.write(CHANNEL_2, low, now);
    pit.write(CHANNEL_2, high, now);
    let begin = now;
    while pit.read(SPEAKER, now).unwrap() & 0x20 == 0 {
        now += 100;
    }
    let took = now - begin;
    assert!((49_998_000..50_001_000).contains(&took), "{took} ns");
}

/// Linux's `quick_pit_calibrate`: the high byte of an unlatched count falls every 256 ticks.
#[test]
fn linux_reads_the_count_on_the_fly() {
    let mut pit = Pit::new();
    gate(&mut pit, true, 0);
    program(&mut pit, 2, 0, 0xffff, 0);
    for step in 0..50 {
        let tick = step * 256 + 128;
        pit.read(CHANNEL_2, at(tick));
        assert_eq!(
            u64::from(pit.read(CHANNEL_2, at(tick)).unwrap()),
            0xff - step
        );
    }
}

#[test]
fn a_year_of_edges_does_not_drift() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 11932, 0);
    let year = 365 * 24 * 3600 * NANOSECONDS;
    let periods = ticks(year) / 11932;
    let edge = pit.next_rising_edge(0, at(periods * 11932) - 1).unwrap();
    assert_eq!(edge, at(periods * 11932));
    assert_eq!(
        pit.next_rising_edge(0, edge),
        Some(at((periods + 1) * 11932))
    );
}

#[test]
fn a_clock_that_steps_back_is_survived() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 100, 50);
    assert!(pit.output(0, 0));
    assert_eq!(pit.next_rising_edge(0, 0), Some(at(150)));
}

#[test]
fn interrupts_are_not_too_many() {
    const MIN: u64 = 200_000;
    let mut pit = Pit::new();
    assert_eq!(pit.next_interrupt(0, MIN), None);
    program(&mut pit, 0, 2, 11932, 0);
    assert_eq!(pit.next_interrupt(0, MIN), Some(at(11932)));
    program(&mut pit, 0, 2, 2, 0);
    let first = pit.next_interrupt(at(0), MIN).unwrap();
    assert!((MIN..MIN + 2000).contains(&(first - at(0))));
    assert!(pit.next_interrupt(first, MIN).unwrap() >= first + MIN);
    assert_eq!(pit.next_interrupt(at(0), 0), Some(at(2)));
    program(&mut pit, 0, 0, 5, 0);
    assert_eq!(pit.next_interrupt(0, MIN), Some(at(5)), "once is no harm");
}

#[test]
fn ticks_wait_for_the_guest() {
    let mut ticks = Reinjection::new();
    assert!(ticks.tick());
    assert!(!ticks.tick() && !ticks.tick(), "the first has not ended");
    assert!(ticks.end() && ticks.end());
    assert!(!ticks.end(), "all three were had");
    assert!(!ticks.end(), "an EOI of nothing");
    assert!(ticks.tick());
    assert!(!ticks.tick());
    ticks.reset();
    assert!(ticks.tick());
    ticks.set_enabled(false);
    assert!(ticks.tick() && ticks.tick());
    assert!(!ticks.end());
    ticks.set_enabled(true);
    assert_eq!(ticks, Reinjection::new());
    ticks.tick();
    ticks.set_enabled(true);
    assert!(!ticks.tick(), "on already");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn ticks_and_nanoseconds_are_inverses(ns in any::<u64>(), tick in 0..ticks(u64::MAX)) {
        prop_assert_eq!(ticks(nanoseconds(tick)), tick);
        prop_assert!(nanoseconds(tick) == 0 || ticks(nanoseconds(tick) - 1) < tick);
        prop_assert!(nanoseconds(ticks(ns)) <= ns);
    }

    /// Random programming at random times: the edges foretold are those the output shows.
    #[test]
    fn foretold_edges_are_where_the_output_changes(
        steps in prop::collection::vec((0usize..8, any::<u8>(), 0u64..40), 1..60),
    ) {
        let mut pit = Pit::new();
        let mut tick = 0;
        for (port, value, later) in steps {
            tick += later;
            let now = at(tick);
            match PORTS.get(port) {
                // Small counts, so that much happens.
                Some(&port @ CHANNEL_0..=CHANNEL_2) => pit.write(port, value & 0x0f, now),
                Some(&port) => pit.write(port, value, now),
                None => pit.read(CHANNEL_0 + (port as u16 - 5), now).is_some(),
            };
            for channel in 0..3 {
                let edge = pit.next_edge(channel, now);
                let level = pit.output(channel, now);
                let changed = (tick + 1..tick + 40).find(|t| pit.output(channel, at(*t)) != level);
                match (changed, edge) {
                    (Some(changed), edge) => prop_assert_eq!(edge, Some(at(changed))),
                    (None, Some(edge)) => prop_assert!(edge >= at(tick + 40)),
                    (None, None) => {}
                }
                let rising = pit.next_rising_edge(channel, now);
                let rose = (tick + 1..tick + 40)
                    .find(|t| pit.output(channel, at(*t)) && !pit.output(channel, at(*t - 1)));
                match (rose, rising) {
                    (Some(rose), rising) => prop_assert_eq!(rising, Some(at(rose))),
                    (None, Some(rising)) => prop_assert!(rising >= at(tick + 40)),
                    (None, None) => {}
                }
            }
        }
    }

    #[test]
    fn no_time_and_no_access_is_too_much(
        steps in prop::collection::vec((any::<u16>(), any::<u8>(), any::<u64>()), 1..60),
    ) {
        let mut pit = Pit::new();
        for (port, value, now) in steps {
            let port = PORTS[usize::from(port) % PORTS.len()];
            pit.write(port, value, now);
            pit.read(port, now ^ 1);
            for channel in 0..3 {
                if let Some(edge) = pit.next_rising_edge(channel, now) {
                    pit.next_edge(channel, edge);
                }
            }
        }
    }
}
