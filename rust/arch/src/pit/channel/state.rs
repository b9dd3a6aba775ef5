// SPDX-License-Identifier: GPL-2.0

//! A counter as `struct kvm_pit_channel_state` has it.

use super::{Access, Channel, Mode};
use crate::pit::{nanoseconds, ticks};

/// A count of 0, the longest one.
const LONGEST: u32 = 0x1_0000;
/// The mode of a counter that has had no control word.
const NO_MODE: u8 = 0xff;
/// `read_state` and `write_state` between the two bytes of a count.
const SECOND_BYTE: u8 = 4;

/// `struct kvm_pit_channel_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChannelState {
    /// The count written last, as it was written; 0x10000 for 0.
    pub count: u32,
    /// The count that waits to be read.
    pub latched_count: u16,
    /// Which bytes of it: bit 0 the low one, bit 1 the high one.
    pub count_latched: u8,
    /// A status waits to be read.
    pub status_latched: u8,
    /// The status.
    pub status: u8,
    /// Which byte is read next: 1 or 3 the low one, 2 or 4 the high one.
    pub read_state: u8,
    /// Which byte is written next: likewise.
    pub write_state: u8,
    /// The low byte, between the two writes.
    pub write_latch: u8,
    /// Bytes an access transfers, as in a control word.
    pub rw_mode: u8,
    /// The mode, 0 to 5.
    pub mode: u8,
    /// Counts in decimal.
    pub bcd: u8,
    /// Level of the gate.
    pub gate: u8,
    /// When the count was loaded, in nanoseconds.
    pub count_load_time: i64,
}

impl ChannelState {
    /// Bytes of the structure.
    pub const SIZE: usize = 24;

    /// The structure.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let [c0, c1, c2, c3] = self.count.to_le_bytes();
        let [l0, l1] = self.latched_count.to_le_bytes();
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.count_load_time.to_le_bytes();
        [
            c0,
            c1,
            c2,
            c3,
            l0,
            l1,
            self.count_latched,
            self.status_latched,
            self.status,
            self.read_state,
            self.write_state,
            self.write_latch,
            self.rw_mode,
            self.mode,
            self.bcd,
            self.gate,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7,
        ]
    }

    /// From the structure.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let [c0, c1, c2, c3, l0, l1, count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate, time @ ..] =
            *bytes;
        Self {
            count: u32::from_le_bytes([c0, c1, c2, c3]),
            latched_count: u16::from_le_bytes([l0, l1]),
            count_latched,
            status_latched,
            status,
            read_state,
            write_state,
            write_latch,
            rw_mode,
            mode,
            bcd,
            gate,
            count_load_time: i64::from_le_bytes(time),
        }
    }
}

impl Channel {
    /// The state to be saved.
    pub(in crate::pit) fn save(&self) -> ChannelState {
        let gate = self.gate.into();
        if !self.programmed {
            return ChannelState {
                count: LONGEST,
                mode: NO_MODE,
                gate,
                ..ChannelState::default()
            };
        }
        let access = self.access as u8;
        let second = |is_second: bool| if is_second { SECOND_BYTE } else { access };
        let since = self.element.map_or(0, |element| nanoseconds(element.since));
        ChannelState {
            count: self.written_count(),
            latched_count: self.latched_count.unwrap_or(0),
            count_latched: match self.latched_count {
                None => 0,
                Some(_) if self.read_high => Access::High as u8,
                Some(_) => access,
            },
            status_latched: self.latched_status.is_some().into(),
            status: self.latched_status.unwrap_or(0),
            read_state: second(self.read_high && self.latched_count.is_none()),
            write_state: second(self.low_byte.is_some()),
            write_latch: self.low_byte.unwrap_or(0),
            rw_mode: access,
            mode: self.mode as u8,
            bcd: self.bcd.into(),
            gate,
            count_load_time: i64::try_from(since).unwrap_or(i64::MAX),
        }
    }

    /// The count as it was written. 0 if none was since the control word, which KVM does not know.
    fn written_count(&self) -> u32 {
        match self.count {
            None => 0,
            Some(count) if count == self.modulus() => LONGEST,
            Some(count) if self.bcd => super::to_bcd(count as u16).into(),
            Some(count) => count,
        }
    }

    /// A counter of this state, which starts its count anew at `now` nanoseconds, as KVM's does.
    pub(in crate::pit) fn restore(state: &ChannelState, now: u64) -> Self {
        let mode = match state.mode {
            0 => Mode::InterruptOnTerminalCount,
            1 => Mode::OneShot,
            2 => Mode::RateGenerator,
            3 => Mode::SquareWave,
            4 => Mode::SoftwareStrobe,
            5 => Mode::HardwareStrobe,
            _ => return Self::new(state.gate != 0),
        };
        let access = match state.rw_mode {
            2 => Access::High,
            3 => Access::Both,
            _ => Access::Low,
        };
        let both = access == Access::Both;
        let latched = state.count_latched != 0;
        let read_high = if latched {
            state.count_latched == Access::High as u8
        } else {
            state.read_state == SECOND_BYTE
        };
        let mut channel = Self {
            programmed: true,
            mode,
            access,
            bcd: state.bcd != 0,
            low_byte: (both && state.write_state == SECOND_BYTE).then_some(state.write_latch),
            read_high: both && read_high,
            latched_count: latched.then_some(state.latched_count),
            latched_status: (state.status_latched != 0).then_some(state.status),
            ..Self::new(state.gate != 0)
        };
        if state.count != 0 || state.rw_mode == 0 {
            let written = u16::try_from(state.count).unwrap_or(0);
            channel.set_count(written, ticks(now));
        }
        channel
    }
}
