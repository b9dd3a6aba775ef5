// SPDX-License-Identifier: GPL-2.0

use super::*;

#[test]
fn an_hpet_takes_the_place_of_channel_0() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 100, 0);
    let mut state = pit.save();
    assert_eq!(state.flags, 0);
    state.flags = 1;
    pit.restore(&state, at(50));
    assert_eq!(pit.next_interrupt(at(50), 0), None);
    assert_eq!(pit.save().flags, 1);
    state.flags = 0;
    pit.restore(&state, at(50));
    assert_eq!(pit.next_interrupt(at(50), 0), Some(at(150)));
}

#[test]
fn a_new_timer_shows_what_kvms_does() {
    let state = Pit::new().save();
    for (channel, gate) in state.channels.iter().zip([1, 1, 0]) {
        let expected = ChannelState {
            count: 0x10000,
            mode: 0xff,
            gate,
            ..ChannelState::default()
        };
        assert_eq!(*channel, expected);
    }
    let mut pit = Pit::new();
    pit.restore(&state, at(9));
    assert_eq!(pit, Pit::new());
}

#[test]
fn saved_fields() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 3, 0x1234, 8);
    pit.write(CONTROL, 0x00, at(8));
    pit.write(CONTROL, 0xe2, at(8));
    pit.read(CHANNEL_0, at(8));
    pit.write(CHANNEL_0, 0x77, at(9));
    pit.write(SPEAKER, 3, at(9));
    let expected = ChannelState {
        count: 0x1234,
        latched_count: 0x1234,
        count_latched: 3,
        status_latched: 0,
        status: 0,
        read_state: 3,
        write_state: 4,
        write_latch: 0x77,
        rw_mode: 3,
        mode: 3,
        bcd: 0,
        gate: 1,
        count_load_time: at(8) as i64,
    };
    let state = pit.save();
    assert_eq!(state.channels[0], expected);
    assert_eq!((state.flags, state.channels[2].gate), (2, 1));

    let mut other = Pit::new();
    other.restore(&state, at(8));
    assert!(other.speaker_on() && other.channels()[2].gate());
    assert_eq!(other.save(), state);
    assert_eq!(other.read(CHANNEL_0, at(10)), Some(0x34));
    assert_eq!(other.save().channels[0].count_latched, 2);
    assert_eq!(other.read(CHANNEL_0, at(10)), Some(0x12));
    other.write(CHANNEL_0, 1, at(10));
    assert_eq!(other.channels()[0].count(), Some(0x177));
}

#[test]
fn decimal_counts_are_saved_as_written() {
    let mut pit = Pit::new();
    for (written, count) in [(0x1000u16, 0x1000), (0, 0x10000)] {
        pit.write(CONTROL, 0x35, at(0));
        set_count(&mut pit, 0, written, 0);
        assert_eq!(pit.save().channels[0].count, count);
        let mut other = Pit::new();
        other.restore(&pit.save(), at(0));
        assert_eq!(other.channels()[0].count(), pit.channels()[0].count());
    }
}

#[test]
fn a_foreign_state_is_made_sane() {
    let mut pit = Pit::new();
    pit.restore(&State::from_bytes(&[0xff; State::SIZE]), 0);
    assert_eq!(pit.next_interrupt(0, 0), None);
    assert_eq!(pit.save().channels[0].mode, 0xff);
    assert_eq!(pit.save().flags, 3);
    pit.restore(&State::default(), 0);
    assert_eq!(
        pit.save().channels[0].count,
        0x10000,
        "0 is the longest count"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_state_goes_round(
        bytes in prop::collection::vec(any::<u8>(), State::SIZE),
        now: u64,
        modes in prop::array::uniform3(0u8..8),
    ) {
        let mut state = State::from_bytes(&<[u8; State::SIZE]>::try_from(bytes).unwrap());
        for (channel, mode) in state.channels.iter_mut().zip(modes) {
            channel.mode = mode;
        }
        let mut pit = Pit::new();
        pit.restore(&state, now);
        let once = pit.save();
        prop_assert_eq!(State::from_bytes(&once.to_bytes()), once);
        let mut other = Pit::new();
        other.restore(&once, now);
        prop_assert_eq!(&other, &pit);
        for port in PORTS {
            pit.read(port, now);
            pit.write(port, 0x35, now);
        }
        pit.next_interrupt(now, 200_000);
    }
}
