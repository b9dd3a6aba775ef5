// SPDX-License-Identifier: GPL-2.0

//! The features that KVM's CPUID leaf shows (Linux, `Documentation/virt/kvm/x86/cpuid.rst`).

use crate::{
    host::sched,
    vm::{
        backend::Backend,
        vcpu::Loaded, //
    },
};

/// A feature, by its bit in EAX of KVM_CPUID_FEATURES.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Feature {
    /// kvmclock by MSRs 11H and 12H.
    Clocksource = 0,
    /// Port 80H need not be written to pass time.
    NopIoDelay = 1,
    /// kvmclock by MSRs 4b564d00H and 4b564d01H.
    Clocksource2 = 3,
    /// MSR_KVM_ASYNC_PF_EN.
    AsyncPf = 4,
    /// MSR_KVM_STEAL_TIME.
    StealTime = 5,
    /// MSR_KVM_PV_EOI_EN.
    PvEoi = 6,
    /// KVM_HC_KICK_CPU.
    PvUnhalt = 7,
    /// The guest may leave a TLB flush to the next entry of a vCPU that does not run.
    PvTlbFlush = 9,
    /// KVM_HC_SEND_IPI.
    PvSendIpi = 11,
    /// MSR_KVM_POLL_CONTROL.
    PollControl = 12,
    /// KVM_HC_SCHED_YIELD.
    PvSchedYield = 13,
    /// MSR_KVM_ASYNC_PF_INT and MSR_KVM_ASYNC_PF_ACK.
    AsyncPfInt = 14,
    /// kvmclock says whether it can be compared across vCPUs.
    ClocksourceStable = 24,
}

/// What every kernel can give.
const ALWAYS: [Feature; 12] = [
    Feature::Clocksource,
    Feature::NopIoDelay,
    Feature::Clocksource2,
    Feature::AsyncPf,
    Feature::PvEoi,
    Feature::PvUnhalt,
    Feature::PvTlbFlush,
    Feature::PvSendIpi,
    Feature::PollControl,
    Feature::PvSchedYield,
    Feature::AsyncPfInt,
    Feature::ClocksourceStable,
];

/// EAX of KVM_CPUID_FEATURES as KVM_GET_SUPPORTED_CPUID offers it.
pub(crate) fn offered() -> u32 {
    let mut bits = 0;
    for feature in ALWAYS {
        bits |= 1 << feature as u32;
    }
    if sched::counts_run_delay() {
        bits |= 1 << Feature::StealTime as u32;
    }
    bits
}

impl<B: Backend> Loaded<'_, B> {
    /// Whether the guest may use a feature: any, unless the VMM wants its CPUID to count.
    pub(crate) fn has_feature(&self, feature: Feature) -> bool {
        !self.state.pv.enforce_cpuid || self.state.cpuid.pv_features() & 1 << feature as u32 != 0
    }
}
