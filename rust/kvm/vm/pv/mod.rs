// SPDX-License-Identifier: GPL-2.0

//! Para-virtualisation: what a guest that knows it is one shares with KVM (Linux,
//! `Documentation/virt/kvm/x86/cpuid.rst` and `msr.rst`).
//!
//! A guest names places in its memory by writing MSRs, and they are kept up to date from its vCPU's
//! thread, before an entry, when a request says that there is something new: an entry without
//! requests costs nothing. A place that cannot be written is not written: that is the guest's
//! affair.

mod async_pf;
mod clock;
mod eoi;
mod feature;
mod ipi;
pub(super) mod msr;
mod spin;
mod steal_time;

pub(crate) use self::{
    async_pf::AsyncPf,
    clock::Clock,
    feature::{
        offered as offered_features,
        Feature, //
    },
    steal_time::StealTime,
};

use super::{
    backend::Backend,
    kick::Requests,
    vcpu::{
        Loaded,
        Vcpu, //
    },
};

/// What a vCPU's thread owns of all this.
pub(crate) struct Pv {
    /// MSR_KVM_SYSTEM_TIME: where the guest wants its time, and bit 0, whether.
    system_time: u64,
    /// The guest is to learn that its host paused it (KVM_KVMCLOCK_CTRL).
    guest_stopped: bool,
    /// The vCPU's part in the VM's time-stamp counters.
    counter: arch::tsc_sync::Member,
    /// Nanoseconds that the thread had waited for a CPU when that was last reported.
    run_delay: u64,
    /// MSR_KVM_PV_EOI_EN.
    eoi: u64,
    /// The guest may skip the next EOI, and was told.
    eoi_offered: bool,
    /// Another vCPU ended the next HLT already (KVM_HC_KICK_CPU).
    pub(super) unhalted: bool,
    /// Asynchronous page faults.
    pub(super) async_pf: AsyncPf,
    /// MSR_KVM_POLL_CONTROL: whether the host may poll when the guest halts.
    poll_control: u64,
    /// The guest gets those features only that its CPUID shows
    /// (KVM_CAP_ENFORCE_PV_FEATURE_CPUID).
    pub(crate) enforce_cpuid: bool,
}

impl Pv {
    /// As for a new vCPU.
    pub(crate) const fn new() -> Self {
        Self {
            system_time: 0,
            guest_stopped: false,
            counter: arch::tsc_sync::Member::NONE,
            run_delay: 0,
            eoi: 0,
            eoi_offered: false,
            unhalted: false,
            async_pf: AsyncPf::new(),
            poll_control: 1,
            enforce_cpuid: false,
        }
    }

    /// Whether the host may poll for a while before it puts a halted vCPU to sleep.
    pub(crate) const fn may_poll(&self) -> bool {
        self.poll_control & 1 != 0
    }
}

impl<B: Backend> Vcpu<B> {
    /// The vCPU is on CPU `cpu` now, after it may have been elsewhere, or nowhere.
    pub(super) fn came_to(&self, cpu: u32) {
        let mut requests = Requests::empty();
        if self.runner.came_to(cpu) {
            requests |= Requests::MOVED;
        }
        if self.steal_time.is_on() {
            requests |= Requests::STEAL_TIME;
        }
        if !requests.is_empty() {
            self.runner.request_own(requests);
        }
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// Reset and INIT: the guest shares nothing any more.
    pub(super) fn reset_pv(&mut self) {
        self.state.pv.system_time = 0;
        self.state.pv.guest_stopped = false;
        self.state.pv.unhalted = false;
        self.state.pv.async_pf.reset();
        self.vcpu.steal_time.reset();
    }

    /// Brings up to date what the guest was promised: [`Requests::PV`].
    #[cold]
    pub(super) fn serve_pv_requests(&mut self, requests: Requests) {
        let clock = requests.contains(Requests::MOVED) && self.clock_moved();
        if clock || requests.contains(Requests::CLOCK) {
            self.update_clock();
        }
        if requests.contains(Requests::STEAL_TIME) {
            self.update_steal_time();
        }
    }
}
