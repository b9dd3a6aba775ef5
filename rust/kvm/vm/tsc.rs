// SPDX-License-Identifier: GPL-2.0

//! The guest's time-stamp counter: the host's, plus an offset.

use kernel::prelude::*;

use super::{
    backend::Backend,
    vcpu::Loaded, //
};
use crate::host::cpu;

/// How far a frequency may be off the host's and still count as the same, in parts per million.
const TOLERANCE_PPM: u64 = 250;

impl<B: Backend> Loaded<'_, B> {
    /// The counter now.
    pub(crate) fn read_tsc(&self) -> u64 {
        cpu::rdtsc().wrapping_add(B::tsc_offset(self))
    }

    /// How long the guest's counter takes for `ticks`, in nanoseconds.
    pub(crate) fn tsc_to_ns(&self, ticks: u64) -> u64 {
        const NS_PER_MS: u64 = 1_000_000;
        let khz = u64::from(self.state.tsc_khz.max(1));
        // In two parts, so that nothing overflows.
        let (ms, rest) = (ticks / khz, ticks % khz);
        ms.saturating_mul(NS_PER_MS)
            .saturating_add(rest * NS_PER_MS / khz)
    }

    /// Makes the counter read `value` now.
    pub(crate) fn sync_tsc(&mut self, value: u64) {
        B::set_tsc_offset(self, value.wrapping_sub(cpu::rdtsc()));
    }

    /// The guest writes its counter: TSC_ADJUST follows (SDM vol. 3, 18.17.3).
    pub(crate) fn guest_writes_tsc(&mut self, value: u64) {
        let step = value.wrapping_sub(self.read_tsc());
        self.state.msrs.tsc_adjust = self.state.msrs.tsc_adjust.wrapping_add(step);
        self.sync_tsc(value);
    }

    /// The guest writes TSC_ADJUST: the counter follows.
    pub(crate) fn guest_writes_tsc_adjust(&mut self, value: u64) {
        let step = value.wrapping_sub(self.state.msrs.tsc_adjust);
        self.state.msrs.tsc_adjust = value;
        let offset = B::tsc_offset(self).wrapping_add(step);
        B::set_tsc_offset(self, offset);
    }

    /// Sets the frequency in kHz (api.rst, 4.55 KVM_SET_TSC_KHZ); 0 is the host's.
    ///
    /// # Errors
    ///
    /// EINVAL for one that is not the host's: nothing here makes a counter run faster or slower.
    pub(crate) fn set_tsc_khz(&mut self, khz: u32) -> Result {
        let host = u64::from(cpu::tsc_khz());
        let wanted = if khz == 0 { host } else { u64::from(khz) };
        if wanted.abs_diff(host) * 1_000_000 > host * TOLERANCE_PPM {
            return Err(EINVAL);
        }
        self.state.tsc_khz = wanted as u32;
        Ok(())
    }
}
