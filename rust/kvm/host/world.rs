// SPDX-License-Identifier: GPL-2.0

//! The kernel's own processor state, which VM exits come back to.

use super::bindings;

/// What is the same on every CPU.
pub(crate) type HostState = bindings::shim_host_state;

impl HostState {
    /// Reads the current state.
    pub(crate) fn read() -> Self {
        let mut state = Self::default();
        // SAFETY: Valid for the write.
        unsafe { bindings::shim_read_host_state(&mut state) };
        state
    }
}

/// What belongs to this CPU.
pub(crate) type CpuState = bindings::shim_cpu_state;

impl CpuState {
    /// Reads this CPU's state. The caller stays on it.
    pub(crate) fn read() -> Self {
        let mut state = Self::default();
        // SAFETY: Valid for the write.
        unsafe { bindings::shim_read_cpu_state(&mut state) };
        state
    }
}
