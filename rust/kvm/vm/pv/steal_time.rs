// SPDX-License-Identifier: GPL-2.0

//! Steal time: how long a vCPU waited for a CPU, and whether it waits now (Linux,
//! `Documentation/virt/kvm/x86/msr.rst`, MSR_KVM_STEAL_TIME).
//!
//! A vCPU that the scheduler takes off its CPU is marked as preempted. Others of the guest need not
//! spin for it, nor interrupt it to flush its TLB: they leave a mark, and the next entry flushes.
//! So the mark must only be made between two instructions of the guest: whatever the host does on
//! behalf of one might go by translations that the guest believes flushed.

use core::sync::atomic::{
    AtomicBool,
    AtomicU64,
    Ordering, //
};

use arch::addr::{
    Gpa,
    Hva, //
};
use kernel::prelude::*;

use super::Feature;
use crate::{
    host::{
        mm,
        sched, //
    },
    vm::{
        backend::Backend,
        kick::Requests,
        memory::{
            DirtyRing,
            Memory,
            SecondLevel, //
        },
        vcpu::Loaded, //
    },
};

/// Bit 0 of the MSR: steal time is on.
const ENABLED: u64 = 1;
/// Bits 1 to 5 are reserved: the structure has 64 bytes and is aligned.
const RESERVED: u64 = 0x3e;

/// `struct kvm_steal_time`.
mod layout {
    pub(super) const STEAL: u64 = 0;
    pub(super) const VERSION: u64 = 8;
    pub(super) const PREEMPTED: u64 = 16;
}

/// KVM_VCPU_PREEMPTED.
const PREEMPTED: u8 = 1 << 0;
/// KVM_VCPU_FLUSH_TLB.
const FLUSH_TLB: u8 = 1 << 1;

/// What the scheduler's notifier needs of a vCPU's steal time.
pub(crate) struct StealTime {
    /// The MSR.
    msr: AtomicU64,
    /// The guest is between two instructions, and the host does nothing for it.
    at_boundary: AtomicBool,
    /// The mark is set.
    is_marked: AtomicBool,
}

impl StealTime {
    /// Off.
    pub(crate) const fn new() -> Self {
        Self {
            msr: AtomicU64::new(0),
            at_boundary: AtomicBool::new(false),
            is_marked: AtomicBool::new(false),
        }
    }

    /// Says whether the guest is between two instructions from now on.
    #[inline]
    pub(crate) fn set_at_boundary(&self, at_boundary: bool) {
        self.at_boundary.store(at_boundary, Ordering::Relaxed);
    }

    /// Whether the guest is between two instructions.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.at_boundary.load(Ordering::Relaxed)
    }

    /// Whether there is a place to keep up to date.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.msr.load(Ordering::Relaxed) & ENABLED != 0
    }

    /// Off again.
    pub(super) fn reset(&self) {
        self.msr.store(0, Ordering::Relaxed);
    }

    fn gpa(&self) -> Gpa {
        Gpa(self.msr.load(Ordering::Relaxed) & !(RESERVED | ENABLED))
    }

    /// The thread is about to lose its CPU. Called by the scheduler, in the vCPU's thread.
    pub(crate) fn mark_preempted<T: SecondLevel>(
        &self,
        memory: &Memory<T>,
        ring: Option<&DirtyRing>,
    ) {
        if !self.is_on()
            || !self.is_at_boundary()
            || self.is_marked.load(Ordering::Relaxed)
            || !memory.mm.is_current()
        {
            return;
        }
        let place = self.gpa().offset(layout::PREEMPTED);
        if memory
            .access(ring)
            .write_nofault(place, &[PREEMPTED])
            .is_ok()
        {
            self.is_marked.store(true, Ordering::Relaxed);
        }
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// MSR_KVM_STEAL_TIME.
    pub(super) fn steal_time(&self) -> u64 {
        self.vcpu.steal_time.msr.load(Ordering::Relaxed)
    }

    /// Sets it.
    ///
    /// # Errors
    ///
    /// EINVAL for reserved bits.
    pub(super) fn write_steal_time(&mut self, value: u64) -> Result {
        if value & RESERVED != 0 || !sched::counts_run_delay() {
            return Err(EINVAL);
        }
        self.vcpu.steal_time.msr.store(value, Ordering::Relaxed);
        if value & ENABLED != 0 {
            self.vcpu.runner.request_own(Requests::STEAL_TIME);
        }
        Ok(())
    }

    /// Brings the guest's steal time up to date ([`Requests::STEAL_TIME`]).
    pub(crate) fn update_steal_time(&mut self) {
        if self.vcpu.steal_time.is_on() {
            // Where the guest has no memory there is nothing to tell it.
            let _ = self.report_steal_time();
        }
    }

    fn report_steal_time(&mut self) -> Result {
        let gpa = self.vcpu.steal_time.gpa();
        let access = self.vcpu.guest_memory();
        if !access.is_memory(gpa, true) {
            return Err(EFAULT);
        }
        // All of it is in one page.
        let place = access.hva(gpa).ok_or(EFAULT)?;
        let reported = self.report_steal_time_at(place);
        access.note_write(gpa.gfn());
        reported
    }

    /// The same, to what is at `place` of the VMM's memory.
    fn report_steal_time_at(&mut self, place: Hva) -> Result {
        let mark = mm::exchange_u8(place.offset(layout::PREEMPTED), 0)?;
        self.vcpu
            .steal_time
            .is_marked
            .store(false, Ordering::Relaxed);
        if mark & FLUSH_TLB != 0 && self.has_feature(Feature::PvTlbFlush) {
            B::flush_guest_tlb(self);
        }

        let version_place = place.offset(layout::VERSION);
        let steal_place = place.offset(layout::STEAL);
        let version = mm::read_u32(version_place).ok_or(EFAULT)?;
        let steal = mm::read_u64(steal_place).ok_or(EFAULT)?;
        let begun = arch::pvclock::version_begin(version);
        let run_delay = sched::run_delay();
        let more = run_delay.wrapping_sub(self.state.pv.run_delay);

        mm::write_u32(version_place, begun)?;
        self.state.pv.run_delay = run_delay;
        mm::write_u64(steal_place, steal.wrapping_add(more))?;
        mm::write_u32(version_place, arch::pvclock::version_end(begun))
    }
}
