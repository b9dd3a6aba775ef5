// SPDX-License-Identifier: GPL-2.0

//! The mitigations of speculative execution that are the hypervisor's to apply, as the kernel chose
//! them for this processor (`Documentation/admin-guide/hw-vuln` in the kernel source). What has to
//! stand right beside the entry is in `vmx/enter.S`.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use kernel::{
    error::Error,
    prelude::*, //
};

use super::{
    bindings,
    cpu::{
        IrqsOff,
        Pinned, //
    },
};

/// Whether entries flush the L1 data cache. Settled before there is a guest, as is the next.
static FLUSHES_L1D: AtomicBool = AtomicBool::new(false);
/// Whether the kernel wants to know that a guest ran before it returns to user space.
static MARKS_GUEST: AtomicBool = AtomicBool::new(false);

/// Whether a guest with large executable pages could bring the processor down (iTLB multihit).
static NO_LARGE_PAGES: AtomicBool = AtomicBool::new(false);

/// The mitigations, from the time the module is loaded until it goes.
pub(crate) struct Mitigations(());

impl Mitigations {
    /// Finds out what this processor needs. What is done about L1TF stands in the kernel's own report
    /// (`/sys/devices/system/cpu/vulnerabilities/l1tf`).
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Called once, before there is any guest.
        let flushes = unsafe { bindings::shim_l1d_setup() };
        if flushes < 0 {
            return Err(Error::from_errno(flushes));
        }
        FLUSHES_L1D.store(flushes != 0, Ordering::Relaxed);
        // SAFETY: Reads what the kernel found out at boot.
        let marks = unsafe { bindings::shim_has_ibpb_exit_to_user() };
        MARKS_GUEST.store(marks, Ordering::Relaxed);
        // SAFETY: As above; and the kernel only shows what it is told.
        let multihit = unsafe {
            let multihit = bindings::shim_has_itlb_multihit();
            bindings::shim_report_itlb_multihit(multihit);
            multihit
        };
        NO_LARGE_PAGES.store(multihit, Ordering::Relaxed);
        Ok(Self(()))
    }
}

impl Drop for Mitigations {
    fn drop(&mut self) {
        // SAFETY: There is no guest any more.
        unsafe {
            bindings::shim_l1d_cleanup();
            bindings::shim_report_itlb_multihit(false);
        }
    }
}

/// Whether guests are to have small pages only: all of theirs can be executed.
pub(crate) fn has_itlb_multihit() -> bool {
    NO_LARGE_PAGES.load(Ordering::Relaxed)
}

/// What this CPU does next may bring into its L1 data cache what guests are not to read: other
/// processes' work, or wherever a guest makes the emulator look.
#[inline]
pub(crate) fn uses_l1d() {
    if FLUSHES_L1D.load(Ordering::Relaxed) {
        // SAFETY: Sets a flag of this CPU's.
        unsafe { bindings::shim_l1d_is_used() };
    }
}

/// Flushes the L1 data cache, where entries have to and [`uses_l1d`] or an interrupt was since the last
/// time (L1TF).
#[inline]
pub(crate) fn flush_l1d(_irqs_off: &IrqsOff<'_>) {
    if FLUSHES_L1D.load(Ordering::Relaxed) {
        // SAFETY: Set up; affects performance alone.
        unsafe { bindings::shim_l1d_flush() };
    }
}

/// This CPU goes over to another vCPU: what the one before trained is not to steer its branches.
pub(crate) fn another_guest(_pinned: &Pinned) {
    // SAFETY: Affects performance alone.
    unsafe { bindings::shim_another_guest() };
}

/// A guest ran on this CPU: user space is not to be steered by what it trained (VMSCAPE).
#[inline]
pub(crate) fn guest_left(_irqs_off: &IrqsOff<'_>) {
    if MARKS_GUEST.load(Ordering::Relaxed) {
        // SAFETY: Sets a flag of this CPU's.
        unsafe { bindings::shim_guest_left() };
    }
}
