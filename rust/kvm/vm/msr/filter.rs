// SPDX-License-Identifier: GPL-2.0

//! Which MSRs a guest may reach without its VMM (api.rst, 4.97 KVM_X86_SET_MSR_FILTER).

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

use super::super::{
    backend::Backend,
    Vm, //
};

/// KVM_MSR_FILTER_READ: a range is about reads.
pub(crate) const READ: u32 = 1 << 0;
/// KVM_MSR_FILTER_WRITE: a range is about writes.
pub(crate) const WRITE: u32 = 1 << 1;

/// What a VMM says of consecutive MSRs.
pub(crate) struct Range {
    /// [`READ`], [`WRITE`].
    pub(crate) flags: u32,
    pub(crate) base: u32,
    pub(crate) count: u32,
    /// A bit each: whether the access is allowed.
    pub(crate) bitmap: KVec<u64>,
}

/// A VMM's rules.
pub(crate) struct Rules {
    /// What holds for an MSR of no range.
    pub(crate) default_allow: bool,
    /// The first range that has an MSR and is about the access decides.
    pub(crate) ranges: KVec<Range>,
}

impl Rules {
    /// Whether they allow an access, [`READ`] or [`WRITE`].
    fn allow(&self, msr: u32, access: u32) -> bool {
        // The registers of an x2APIC cannot be filtered.
        if (0x800..=0x8ff).contains(&msr) {
            return true;
        }
        for range in &self.ranges {
            let end = range.base.wrapping_add(range.count);
            if range.flags & access != 0 && (range.base..end).contains(&msr) {
                let bit = (msr - range.base) as usize;
                let word = range.bitmap.get(bit / 64).copied().unwrap_or(0);
                return word >> (bit % 64) & 1 != 0;
            }
        }
        self.default_allow
    }
}

/// The rules of a VM.
#[pin_data]
pub(crate) struct MsrFilter {
    /// Whether there are any.
    is_set: AtomicBool,
    #[pin]
    rules: Mutex<Option<KBox<Rules>>>,
}

impl MsrFilter {
    /// No rules: all is allowed.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            is_set: AtomicBool::new(false),
            rules <- new_mutex!(None),
        })
    }

    /// Whether an access may be refused.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// Whether an access, [`READ`] or [`WRITE`], is allowed. May sleep.
    #[inline]
    pub(crate) fn allows(&self, msr: u32, access: u32) -> bool {
        !self.is_set() || self.look_up(msr, access)
    }

    #[cold]
    fn look_up(&self, msr: u32, access: u32) -> bool {
        self.rules
            .lock()
            .as_ref()
            .is_none_or(|rules| rules.allow(msr, access))
    }
}

impl<B: Backend> Vm<B> {
    /// Sets the rules, which hold for every access that a vCPU begins after this.
    pub(crate) fn set_msr_filter(&self, rules: KBox<Rules>) {
        let filter = &self.msr_filter;
        let old = filter.rules.lock().replace(rules);
        drop(old);
        filter.is_set.store(true, Ordering::Relaxed);
        self.apply_msr_filter();
        self.memory.runners.interrupt_all();
    }

    /// Tells the hardware of the rules, and of the exits that the VMM does without.
    pub(in crate::vm) fn apply_msr_filter(&self) {
        let rules = self.msr_filter.rules.lock();
        B::filter_msrs(
            &self.machine,
            self.options.disabled_exits(),
            |msr, access| rules.as_ref().is_none_or(|rules| rules.allow(msr, access)),
        );
    }
}
