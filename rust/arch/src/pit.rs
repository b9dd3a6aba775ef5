// SPDX-License-Identifier: GPL-2.0

//! The PC's 8254 interval timer and the part of port 0x61 that belongs to it.
//!
//! Manual: Intel 8254 data sheet (231164-005). Time comes in as nanoseconds of any monotonic clock,
//! and nothing here waits. All arithmetic is in ticks of [`FREQUENCY`] counted from the clock's
//! zero, so that no rounding accumulates however long a counter runs. A count is in the counter
//! from the tick it is written in, where the chip takes one tick more.
//!
//! Whoever owns the clock raises IRQ 0 at each rising edge of channel 0:
//! [`Pit::next_rising_edge`], or [`Pit::next_interrupt`] where the host has to be protected, says
//! when the next one is, and has to be asked again after each [`Pit::write`]. [`Reinjection`] is
//! for an owner that makes up for ticks the guest was late for.

mod channel;
mod reinjection;
mod state;

pub use channel::{Access, Channel, ChannelState, Mode};
pub use reinjection::Reinjection;
pub use state::State;

/// Ticks in a second.
pub const FREQUENCY: u64 = 1_193_182;

/// Channel 0's count; channels 1 and 2 follow.
pub const CHANNEL_0: u16 = 0x40;
/// Channel 1's count.
pub const CHANNEL_1: u16 = 0x41;
/// Channel 2's count.
pub const CHANNEL_2: u16 = 0x42;
/// Control word; write-only.
pub const CONTROL: u16 = 0x43;
/// System control port B: gate of channel 2, speaker, output of channel 2, refresh.
pub const SPEAKER: u16 = 0x61;

/// Every port the timer answers to.
pub const PORTS: [u16; 5] = [CHANNEL_0, CHANNEL_1, CHANNEL_2, CONTROL, SPEAKER];

const NANOSECONDS: u64 = 1_000_000_000;
/// Ticks between two memory refresh requests, which toggle a bit of [`SPEAKER`].
const REFRESH_TICKS: u64 = 18;

const SPEAKER_GATE: u8 = 1 << 0;
const SPEAKER_DATA: u8 = 1 << 1;
const SPEAKER_REFRESH: u8 = 1 << 4;
const SPEAKER_OUTPUT: u8 = 1 << 5;

/// Ticks that have begun by `ns` nanoseconds.
pub const fn ticks(ns: u64) -> u64 {
    // Seconds and the rest apart: no product here exceeds 64 bits.
    ns / NANOSECONDS * FREQUENCY + ns % NANOSECONDS * FREQUENCY / NANOSECONDS
}

/// The first nanosecond of tick `tick`: the smallest `ns` with `ticks(ns) >= tick`.
pub const fn nanoseconds(tick: u64) -> u64 {
    let rest = (tick % FREQUENCY * NANOSECONDS).div_ceil(FREQUENCY);
    (tick / FREQUENCY)
        .saturating_mul(NANOSECONDS)
        .saturating_add(rest)
}

/// The timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    speaker: bool,
    /// An HPET has taken the place of channel 0 at IRQ 0.
    hpet_legacy: bool,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// A timer nobody has programmed: the gates of channels 0 and 1 are tied high, channel 2's
    /// is low.
    pub fn new() -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            speaker: false,
            hpet_legacy: false,
        }
    }

    /// The three channels.
    pub fn channels(&self) -> &[Channel; 3] {
        &self.channels
    }

    /// Whether channel 2's output reaches the speaker.
    pub fn speaker_on(&self) -> bool {
        self.speaker
    }

    /// Reads a port at `now` nanoseconds; `None` if it is not one of [`PORTS`].
    pub fn read(&mut self, port: u16, now: u64) -> Option<u8> {
        let tick = ticks(now);
        Some(match port {
            CHANNEL_0..=CHANNEL_2 => self.channel_mut(port - CHANNEL_0)?.read(tick),
            CONTROL => 0xff,
            SPEAKER => {
                let channel = &self.channels[2];
                let bit = |on: bool, bit: u8| if on { bit } else { 0 };
                bit(channel.gate(), SPEAKER_GATE)
                    | bit(self.speaker, SPEAKER_DATA)
                    | bit(tick / REFRESH_TICKS % 2 == 1, SPEAKER_REFRESH)
                    | bit(channel.output(tick), SPEAKER_OUTPUT)
            }
            _ => return None,
        })
    }

    /// Writes a port at `now` nanoseconds; false if it is not one of [`PORTS`].
    pub fn write(&mut self, port: u16, value: u8, now: u64) -> bool {
        let tick = ticks(now);
        match port {
            CHANNEL_0..=CHANNEL_2 => {
                if let Some(channel) = self.channel_mut(port - CHANNEL_0) {
                    channel.write(value, tick);
                }
            }
            CONTROL => self.control(value, tick),
            SPEAKER => {
                self.speaker = value & SPEAKER_DATA != 0;
                self.channels[2].set_gate(value & SPEAKER_GATE != 0, tick);
            }
            _ => return false,
        }
        true
    }

    fn channel_mut(&mut self, index: u16) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(index))
    }

    /// The control word: the channel in bits 7 and 6, where 3 is the read-back command.
    fn control(&mut self, value: u8, tick: u64) {
        const READ_BACK: u8 = 3;
        const NO_COUNT: u8 = 1 << 5;
        const NO_STATUS: u8 = 1 << 4;
        let selected = value >> 6;
        if selected != READ_BACK {
            if let Some(channel) = self.channel_mut(u16::from(selected)) {
                channel.control(value, tick);
            }
            return;
        }
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value & (2 << index) == 0 {
                continue;
            }
            if value & NO_COUNT == 0 {
                channel.latch_count(tick);
            }
            if value & NO_STATUS == 0 {
                channel.latch_status(tick);
            }
        }
    }

    /// The output of channel `channel` (0 to 2; another number is low) at `now` nanoseconds.
    pub fn output(&self, channel: usize, now: u64) -> bool {
        self.channels
            .get(channel)
            .is_some_and(|channel| channel.output(ticks(now)))
    }

    /// When the output of `channel` changes next after `now`, in nanoseconds.
    pub fn next_edge(&self, channel: usize, now: u64) -> Option<u64> {
        self.channels
            .get(channel)?
            .next_edge(ticks(now))
            .map(nanoseconds)
    }

    /// When the output of `channel` rises next after `now`, in nanoseconds. Asked again with its
    /// own answer it gives the edge after that one, none left out and none drifting.
    pub fn next_rising_edge(&self, channel: usize, now: u64) -> Option<u64> {
        self.channels
            .get(channel)?
            .next_rising_edge(ticks(now))
            .map(nanoseconds)
    }

    /// When channel 0 interrupts next after `now`, in nanoseconds: its rising edge, unless an HPET
    /// has its place. Of periods shorter than `min_period` nanoseconds some are left out, so that
    /// a guest cannot keep the host busy with nothing else.
    pub fn next_interrupt(&self, now: u64, min_period: u64) -> Option<u64> {
        if self.hpet_legacy {
            return None;
        }
        let is_short = |ticks: u32| nanoseconds(ticks.into()) < min_period;
        let from = if self.channels[0].period().is_some_and(is_short) {
            now.saturating_add(min_period.saturating_sub(1))
        } else {
            now
        };
        self.next_rising_edge(0, from)
    }
}

#[cfg(test)]
mod tests;
