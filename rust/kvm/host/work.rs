// SPDX-License-Identifier: GPL-2.0

//! Work to be done later, by a thread of the kernel's.
//!
//! The `kernel` crate has work items too, but none that can be cancelled: what runs after the last
//! file is closed could outlive the module.
//!
//! C header: `include/linux/workqueue.h`.

use core::ops::Deref;

use kernel::{
    bindings,
    prelude::*,
    static_lock_class,
    types::Opaque, //
};

/// What is to be done.
pub(crate) trait Job: Send + Sync {
    /// Does it, in a thread that may sleep. Does not drop the [`Work`] it belongs to.
    fn run(&self);
}

/// A job, and whether it is to be done. Dropping it waits until it is not being done.
///
/// # Invariants
///
/// `inner` was initialised with [`Self::run`] and is the first field.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Work<T: Job> {
    #[pin]
    inner: Opaque<bindings::work_struct>,
    #[pin]
    job: T,
}

// SAFETY: Work may be queued and run in any thread.
unsafe impl<T: Job> Send for Work<T> {}
// SAFETY: As above.
unsafe impl<T: Job> Sync for Work<T> {}

impl<T: Job> Work<T> {
    /// A job that is not to be done yet.
    pub(crate) fn new(job: impl PinInit<T, Error>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // INVARIANT: Initialised with `run`.
            inner <- Opaque::ffi_init(|slot: *mut bindings::work_struct| {
                // SAFETY: `slot` is valid and pinned.
                unsafe {
                    bindings::init_work_with_key(
                        slot,
                        Some(Self::run),
                        false,
                        c"kvm work".as_char_ptr(),
                        static_lock_class!().as_ptr(),
                    )
                };
            }),
            job <- job,
        }? Error)
    }

    /// Has the job done soon, once more if it is being done now. Never sleeps.
    pub(crate) fn schedule(&self) {
        // SAFETY: By the type invariants; drop cancels what is queued. The queue always exists.
        unsafe {
            bindings::queue_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                bindings::system_dfl_wq,
                self.inner.get(),
            )
        };
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `inner` of a `Work<T>` that has not been dropped.
    unsafe extern "C" fn run(inner: *mut bindings::work_struct) {
        // SAFETY: `inner` is the first field; drop waits until we return.
        unsafe { &(*inner.cast::<Self>()).job }.run();
    }
}

impl<T: Job> Deref for Work<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.job
    }
}

#[pinned_drop]
impl<T: Job> PinnedDrop for Work<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants.
        unsafe { bindings::cancel_work_sync(self.inner.get()) };
    }
}
