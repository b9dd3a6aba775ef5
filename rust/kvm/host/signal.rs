// SPDX-License-Identifier: GPL-2.0

//! The signal mask that KVM_SET_SIGNAL_MASK asks for while a vCPU runs.

use super::bindings;

/// A signal set as the kernel lays it out: bit n is signal n + 1.
pub(crate) type SigSet = u64;

/// The thread runs with another mask until this is dropped.
pub(crate) struct MaskGuard {
    old: SigSet,
}

impl MaskGuard {
    /// Sets the current thread's mask.
    pub(crate) fn set(mask: SigSet) -> Self {
        let mut old = 0;
        // SAFETY: Both point to sets of the kernel's size, which the shim asserts.
        unsafe { bindings::shim_sigmask_swap(&mask, &mut old) };
        Self { old }
    }
}

impl Drop for MaskGuard {
    fn drop(&mut self) {
        // SAFETY: As above.
        unsafe { bindings::shim_sigmask_restore(&self.old) };
    }
}
