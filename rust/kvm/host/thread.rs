// SPDX-License-Identifier: GPL-2.0

//! The segment state of the thread that runs a vCPU.
//!
//! An exit leaves FS, GS, the LDT and IA32_KERNEL_GS_BASE as the VMCS or the guest has them; the
//! thread's own must be back before it returns to user space or another thread runs.

use super::bindings;

/// Whether the current thread may reboot the machine (CAP_SYS_BOOT, of the machine itself).
pub(crate) fn may_reboot() -> bool {
    // SAFETY: No preconditions.
    unsafe { bindings::shim_may_reboot() }
}

/// What a thread has in FS, GS, DS, ES, LDTR and IA32_KERNEL_GS_BASE.
#[derive(Default)]
pub(crate) struct ThreadState(bindings::shim_thread_state);

impl ThreadState {
    /// Takes the current thread's state.
    #[inline]
    pub(crate) fn save(&mut self) {
        // SAFETY: Valid for the write; preemption is off in all callers.
        unsafe { bindings::shim_save_thread_state(&mut self.0) };
    }

    /// Base of FS.
    #[inline]
    pub(crate) fn fs_base(&self) -> u64 {
        self.0.fs_base
    }

    /// Puts the state back, which [`Self::save`] took from this thread.
    #[inline]
    pub(crate) fn restore(&self) {
        // SAFETY: The values are the thread's own.
        unsafe { bindings::shim_restore_thread_state(&self.0) };
    }
}
