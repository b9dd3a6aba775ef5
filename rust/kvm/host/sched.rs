// SPDX-License-Identifier: GPL-2.0

//! What the scheduler knows of the current thread.

use super::bindings;

/// Whether this kernel counts how long threads wait for a CPU.
pub(crate) fn counts_run_delay() -> bool {
    // SAFETY: Looks at the kernel's configuration.
    unsafe { bindings::shim_counts_run_delay() }
}

/// Nanoseconds that the current thread has been ready to run and did not.
pub(crate) fn run_delay() -> u64 {
    // SAFETY: Reads the current task.
    unsafe { bindings::shim_run_delay() }
}

/// Whether the thread that is about to leave its CPU would rather stay: it does not wait for
/// anything.
pub(crate) fn is_preempted() -> bool {
    // SAFETY: Reads the current task.
    unsafe { bindings::shim_is_runnable() }
}

/// The number of the current thread.
#[inline]
pub(crate) fn current_thread() -> i32 {
    kernel::current!().pid()
}

/// Lets thread `thread` of this process have the current one's turn, if it waits for one. Returns
/// whether it has it.
pub(crate) fn yield_to(thread: i32) -> bool {
    // SAFETY: Called from a task that may sleep, in its own name.
    unsafe { bindings::shim_yield_to(thread) }
}
