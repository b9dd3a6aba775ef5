// SPDX-License-Identifier: GPL-2.0

//! KVM's MSRs (Linux, `Documentation/virt/kvm/x86/msr.rst`).

use kernel::prelude::*;

use super::Feature;
use crate::vm::{
    backend::Backend,
    msr::MsrAccess,
    vcpu::Loaded, //
};

/// Where the guest wants the time of day when its clock read 0.
pub(crate) const MSR_KVM_WALL_CLOCK: u32 = 0x11;
/// Where the guest wants its time.
pub(crate) const MSR_KVM_SYSTEM_TIME: u32 = 0x12;
/// As [`MSR_KVM_WALL_CLOCK`].
pub(crate) const MSR_KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
/// As [`MSR_KVM_SYSTEM_TIME`].
pub(crate) const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
/// Where the guest wants to hear of pages that are fetched from a disk.
pub(crate) const MSR_KVM_ASYNC_PF_EN: u32 = 0x4b56_4d02;
/// The vector that says that such a page is there.
pub(crate) const MSR_KVM_ASYNC_PF_INT: u32 = 0x4b56_4d06;
/// The guest has heard of it.
pub(crate) const MSR_KVM_ASYNC_PF_ACK: u32 = 0x4b56_4d07;
/// Where the guest wants its steal time.
pub(crate) const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
/// Where the guest wants to see whether it may skip an EOI.
pub(crate) const MSR_KVM_PV_EOI_EN: u32 = 0x4b56_4d04;
/// Whether the host may poll when the guest halts.
pub(crate) const MSR_KVM_POLL_CONTROL: u32 = 0x4b56_4d05;

/// The feature that an MSR belongs to; `None` where it is not one of KVM's.
fn feature(index: u32) -> Option<Feature> {
    Some(match index {
        MSR_KVM_WALL_CLOCK | MSR_KVM_SYSTEM_TIME => Feature::Clocksource,
        MSR_KVM_WALL_CLOCK_NEW | MSR_KVM_SYSTEM_TIME_NEW => Feature::Clocksource2,
        MSR_KVM_ASYNC_PF_EN => Feature::AsyncPf,
        MSR_KVM_ASYNC_PF_INT | MSR_KVM_ASYNC_PF_ACK => Feature::AsyncPfInt,
        MSR_KVM_STEAL_TIME => Feature::StealTime,
        MSR_KVM_PV_EOI_EN => Feature::PvEoi,
        MSR_KVM_POLL_CONTROL => Feature::PollControl,
        _ => return None,
    })
}

impl<B: Backend> Loaded<'_, B> {
    /// The value of one of KVM's MSRs; `None` where it is none, or the guest may not have it.
    pub(crate) fn read_pv_msr(&self, index: u32) -> Option<u64> {
        if !self.has_feature(feature(index)?) {
            return None;
        }
        Some(match index {
            MSR_KVM_WALL_CLOCK | MSR_KVM_WALL_CLOCK_NEW => self.wall_clock(),
            MSR_KVM_SYSTEM_TIME | MSR_KVM_SYSTEM_TIME_NEW => self.system_time(),
            MSR_KVM_ASYNC_PF_EN => self.state.pv.async_pf.enable,
            MSR_KVM_ASYNC_PF_INT => self.state.pv.async_pf.vector.into(),
            MSR_KVM_ASYNC_PF_ACK => 0,
            MSR_KVM_STEAL_TIME => self.steal_time(),
            MSR_KVM_PV_EOI_EN => self.state.pv.eoi,
            MSR_KVM_POLL_CONTROL => self.state.pv.poll_control,
            _ => return None,
        })
    }

    /// Sets one of KVM's MSRs.
    ///
    /// # Errors
    ///
    /// EINVAL where it is none, where the guest may not have it, and for a value that breaks its
    /// rules.
    pub(crate) fn write_pv_msr(&mut self, index: u32, value: u64, by: MsrAccess) -> Result {
        let feature = feature(index).ok_or(EINVAL)?;
        if !self.has_feature(feature) {
            return Err(EINVAL);
        }
        match index {
            MSR_KVM_WALL_CLOCK | MSR_KVM_WALL_CLOCK_NEW => self.write_wall_clock(value),
            MSR_KVM_SYSTEM_TIME | MSR_KVM_SYSTEM_TIME_NEW => {
                self.write_system_time(value, feature, by);
            }
            MSR_KVM_ASYNC_PF_EN => self.write_async_pf(value)?,
            MSR_KVM_ASYNC_PF_INT => self.write_async_pf_vector(value)?,
            MSR_KVM_ASYNC_PF_ACK => self.write_async_pf_ack(value),
            MSR_KVM_STEAL_TIME => self.write_steal_time(value)?,
            MSR_KVM_PV_EOI_EN => self.write_pv_eoi(value)?,
            MSR_KVM_POLL_CONTROL if value <= 1 => self.state.pv.poll_control = value,
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}
