// SPDX-License-Identifier: GPL-2.0

//! The 8254, programmed at random at random times.

use super::input::{Input, Source};
use crate::pit::{Pit, State, PORTS};

/// The state goes round, and edges that are foretold come when they were.
pub fn pit(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut pit = Pit::new();
    let mut now = 0;
    while !input.is_empty() {
        now += input.below(0x100) << input.below(24);
        let port = input.pick(&PORTS);
        if input.below(3) == 0 {
            assert!(pit.read(port, now).is_some());
        } else {
            assert!(pit.write(port, input.below(0x100) as u8, now));
        }
        let state = pit.save();
        assert_eq!(State::from_bytes(&state.to_bytes()), state);
        for channel in 0..3 {
            let Some(edge) = pit.next_edge(channel, now) else {
                continue;
            };
            assert!(
                edge > now,
                "channel {channel}: an edge at {edge}, before {now}"
            );
            assert_ne!(
                pit.output(channel, edge),
                pit.output(channel, now),
                "channel {channel}: no edge at {edge}"
            );
        }
        let interrupt = pit.next_interrupt(now, 200_000);
        assert!(interrupt.is_none_or(|at| at > now));
    }
}
