// SPDX-License-Identifier: GPL-2.0

//! The timer as `struct kvm_pit_state2` has it.

use super::{Channel, ChannelState, Pit};

/// `flags`: an HPET has channel 0's place at IRQ 0 (KVM_PIT_FLAGS_HPET_LEGACY).
const HPET_LEGACY: u32 = 1 << 0;
/// `flags`: channel 2's output reaches the speaker (KVM_PIT_FLAGS_SPEAKER_DATA_ON).
const SPEAKER_DATA_ON: u32 = 1 << 1;

/// `struct kvm_pit_state2`; the older `struct kvm_pit_state` has the channels only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// The three counters.
    pub channels: [ChannelState; 3],
    /// KVM_PIT_FLAGS_*; others than the two there are have no meaning.
    pub flags: u32,
}

impl State {
    /// Bytes of `struct kvm_pit_state2`.
    pub const SIZE: usize = FLAGS + 40;
    /// Bytes of `struct kvm_pit_state`, which is how the other one begins.
    pub const CHANNELS_SIZE: usize = FLAGS;

    /// `struct kvm_pit_state2`, its reserved part zero.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let channels = self.channels.iter().flat_map(ChannelState::to_bytes);
        let state = channels.chain(self.flags.to_le_bytes());
        for (byte, value) in bytes.iter_mut().zip(state) {
            *byte = value;
        }
        bytes
    }

    /// From a `struct kvm_pit_state2`.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let mut state = Self::default();
        let (channels, rest) = bytes.split_at(FLAGS);
        let channels = channels.chunks_exact(ChannelState::SIZE);
        for (channel, bytes) in state.channels.iter_mut().zip(channels) {
            if let Some(bytes) = bytes.first_chunk() {
                *channel = ChannelState::from_bytes(bytes);
            }
        }
        state.flags = rest
            .first_chunk()
            .map_or(0, |bytes| u32::from_le_bytes(*bytes));
        state
    }
}

/// Where the flags are.
const FLAGS: usize = 3 * ChannelState::SIZE;

impl Pit {
    /// The state to be saved.
    pub fn save(&self) -> State {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        State {
            channels: self.channels.map(|channel| channel.save()),
            flags: flag(self.hpet_legacy, HPET_LEGACY) | flag(self.speaker, SPEAKER_DATA_ON),
        }
    }

    /// Replaces the whole state. The counts start anew at `now` nanoseconds, as KVM's do.
    pub fn restore(&mut self, state: &State, now: u64) {
        *self = Self {
            channels: state
                .channels
                .map(|channel| Channel::restore(&channel, now)),
            speaker: state.flags & SPEAKER_DATA_ON != 0,
            hpet_legacy: state.flags & HPET_LEGACY != 0,
        };
    }
}
