// SPDX-License-Identifier: GPL-2.0

//! The guest's time-stamp counter: the host's, plus an offset.
//!
//! Which counters of a VM are one and the same is `arch::tsc_sync`'s to say; the guest's clock
//! follows (`vm/pv/clock.rs`).

use kernel::prelude::*;

use super::{
    backend::Backend,
    kick::Requests,
    vcpu::Loaded, //
};
use crate::host::{
    cpu,
    trace::trace, //
};

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

    /// Starts the counter of a new vCPU: in step with the others, or at 0.
    pub(crate) fn join_counters(&mut self) {
        let khz = self.state.tsc_khz;
        self.change_counter(|group, member, now, stable| group.join(member, khz, now, stable));
    }

    /// The VMM writes the counter. What it means by that depends on the other vCPUs' counters.
    pub(crate) fn vmm_writes_tsc(&mut self, value: u64) {
        let khz = self.state.tsc_khz;
        self.change_counter(|group, member, now, stable| {
            group.write(member, value, khz, now, stable)
        });
    }

    /// The VMM sets what the counter is ahead of the host's (Linux,
    /// `Documentation/virt/kvm/devices/vcpu.rst`, KVM_VCPU_TSC_OFFSET).
    pub(crate) fn vmm_sets_tsc_offset(&mut self, offset: u64) {
        let khz = self.state.tsc_khz;
        self.change_counter(|group, member, now, _| group.set_offset(member, offset, khz, now));
    }

    /// The guest writes its counter: TSC_ADJUST follows (SDM vol. 3, 18.17.3).
    pub(crate) fn guest_writes_tsc(&mut self, value: u64) {
        let step = value.wrapping_sub(self.read_tsc());
        self.state.msrs.tsc_adjust = self.state.msrs.tsc_adjust.wrapping_add(step);
        self.guest_moves_tsc(step);
    }

    /// The guest writes TSC_ADJUST: the counter follows.
    pub(crate) fn guest_writes_tsc_adjust(&mut self, value: u64) {
        let step = value.wrapping_sub(self.state.msrs.tsc_adjust);
        self.state.msrs.tsc_adjust = value;
        self.guest_moves_tsc(step);
    }

    /// The guest's clock goes by its counter, and must not jump with it.
    fn guest_moves_tsc(&mut self, step: u64) {
        let previous = B::tsc_offset(self);
        let offset = previous.wrapping_add(step);
        trace!(kvm_write_tsc_offset(self.vcpu.id, previous, offset));
        B::set_tsc_offset(self, offset);
        self.refresh_apic_timer();
        self.vcpu.runner.request_own(Requests::CLOCK);
    }

    /// Sets the frequency in kHz (api.rst, 4.55 KVM_SET_TSC_KHZ).
    ///
    /// # Errors
    ///
    /// As for [`checked_khz`].
    pub(crate) fn set_tsc_khz(&mut self, khz: u32) -> Result {
        self.state.tsc_khz = checked_khz(khz)?;
        Ok(())
    }
}

/// A frequency in kHz that a counter can have; 0 is the host's.
///
/// # Errors
///
/// EINVAL for one that is not the host's: nothing here makes a counter run faster or slower.
pub(super) fn checked_khz(khz: u32) -> Result<u32> {
    let host = u64::from(cpu::tsc_khz());
    let wanted = if khz == 0 { host } else { u64::from(khz) };
    if wanted.abs_diff(host) * 1_000_000 > host * TOLERANCE_PPM {
        return Err(EINVAL);
    }
    Ok(wanted as u32)
}
