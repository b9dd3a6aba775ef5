// SPDX-License-Identifier: GPL-2.0

//! Ticks of channel 0 that the guest was late for (`Documentation/virt/kvm/api.rst`,
//! KVM_REINJECT_CONTROL).
//!
//! A guest that keeps time by counting ticks loses time when two of them become one interrupt. So
//! a tick that comes before the guest has ended the interrupt of the last one waits for that.

/// Ticks that wait, and whether the guest is ready for one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reinjection {
    enabled: bool,
    /// Ticks that the guest has not ended, the one it is at included.
    pending: u32,
    /// The guest has ended the last interrupt.
    ended: bool,
}

impl Default for Reinjection {
    fn default() -> Self {
        Self::new()
    }
}

impl Reinjection {
    /// Enabled, with nothing waiting.
    pub const fn new() -> Self {
        Self {
            enabled: true,
            pending: 0,
            ended: true,
        }
    }

    /// KVM_REINJECT_CONTROL. Turned on, it starts with nothing waiting.
    pub fn set_enabled(&mut self, enabled: bool) {
        if enabled && !self.enabled {
            *self = Self::new();
        }
        self.enabled = enabled;
    }

    /// Forgets what waits: channel 0 was given another count, or its interrupt unmasked.
    pub fn reset(&mut self) {
        self.pending = 0;
        self.ended = true;
    }

    /// Channel 0 has ticked: whether IRQ 0 is to be pulsed now.
    pub fn tick(&mut self) -> bool {
        if !self.enabled {
            return true;
        }
        self.pending = self.pending.saturating_add(1);
        core::mem::take(&mut self.ended)
    }

    /// The guest has ended an interrupt of IRQ 0: whether it is to be pulsed for a tick that waits.
    pub fn end(&mut self) -> bool {
        if !self.enabled {
            return false;
        }
        self.pending = self.pending.saturating_sub(1);
        self.ended = self.pending == 0;
        !self.ended
    }
}
