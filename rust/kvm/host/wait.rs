// SPDX-License-Identifier: GPL-2.0

//! A thread that sleeps until another wakes it.
//!
//! C header: `include/linux/rcuwait.h`.

use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

use super::bindings;

/// Where one thread at a time may wait. Anybody may wake it, from any context.
pub(crate) struct Waiter(Opaque<bindings::rcuwait>);

// SAFETY: Made for threads to share.
unsafe impl Send for Waiter {}
// SAFETY: As above.
unsafe impl Sync for Waiter {}

impl Waiter {
    /// Nobody waits.
    pub(crate) const fn new() -> Self {
        // An `rcuwait` is a pointer to the task that waits.
        Self(Opaque::zeroed())
    }

    /// Sleeps until `done` says so, which is asked again after each wake-up. Called by one thread
    /// at a time, which may sleep; `done` may not.
    ///
    /// # Errors
    ///
    /// EINTR where a signal came first.
    pub(crate) fn wait(&self, mut done: impl FnMut() -> bool) -> Result {
        self.wait_dyn(&mut done)
    }

    fn wait_dyn(&self, mut done: &mut dyn FnMut() -> bool) -> Result {
        /// # Safety
        ///
        /// `arg` is the closure that `wait_dyn` was given.
        unsafe extern "C" fn ask(arg: *mut c_void) -> bool {
            // SAFETY: By the contract of this function.
            unsafe { (*arg.cast::<&mut dyn FnMut() -> bool>())() }
        }
        // SAFETY: The closure outlives the call.
        to_result(unsafe {
            bindings::shim_rcuwait_wait(
                self.0.get(),
                Some(ask),
                core::ptr::from_mut(&mut done).cast(),
            )
        })
    }

    /// Wakes whoever waits, and says whether somebody did. What was written before this call is
    /// seen by a thread that did not wait yet.
    pub(crate) fn wake(&self) -> bool {
        // SAFETY: The `rcuwait` is initialised.
        unsafe { bindings::rcuwait_wake_up(self.0.get()) != 0 }
    }
}

/// Whether this thread may go on polling: nobody else wants its CPU.
pub(crate) fn may_poll() -> bool {
    // SAFETY: Reads the state of the scheduler.
    unsafe { bindings::shim_may_poll() }
}
