// SPDX-License-Identifier: GPL-2.0

//! Word from the scheduler that a thread leaves its CPU, or runs again on that or another one.
//!
//! C header: `include/linux/preempt.h`.

use core::{
    marker::PhantomData,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    },
};

use kernel::{
    prelude::*,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

use super::{
    bindings,
    cpu::Pinned, //
};

/// Something that lives in a CPU's registers while its thread runs.
///
/// Calls come in that thread with preemption off, at any point where the scheduler may strike.
pub(crate) trait Resident: Sync {
    /// The thread runs on `cpu` now.
    fn sched_in(&self, cpu: u32);
    /// The thread is about to leave its CPU.
    fn sched_out(&self);
}

/// Lets the scheduler look for notifiers: on while any VM exists, since switching it is slow.
pub(crate) struct Enabled(());

impl Enabled {
    pub(crate) fn new() -> Self {
        // SAFETY: Undone by drop.
        unsafe { bindings::preempt_notifier_inc() };
        Self(())
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        // SAFETY: `new` counted.
        unsafe { bindings::preempt_notifier_dec() };
    }
}

/// The place of a notifier in a thread's list.
///
/// # Invariants
///
/// - `inner` is the first field.
/// - A value is made by [`Self::new`] only, so it is pinned.
/// - While it is registered, and only then, `resident` is not null; it points to a live `T`.
#[repr(C)]
#[pin_data]
pub(crate) struct Notifier<T: Resident> {
    #[pin]
    inner: Opaque<bindings::preempt_notifier>,
    resident: AtomicPtr<T>,
}

// SAFETY: The list a notifier is on belongs to the thread that registered it; registering is done
// by whoever holds the vCPU.
unsafe impl<T: Resident> Send for Notifier<T> {}
// SAFETY: As above.
unsafe impl<T: Resident> Sync for Notifier<T> {}

impl<T: Resident> Notifier<T> {
    const OPS: bindings::preempt_ops = bindings::preempt_ops {
        sched_in: Some(Self::sched_in),
        sched_out: Some(Self::sched_out),
    };

    /// A notifier that is registered nowhere.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::preempt_notifier| {
                // SAFETY: `slot` is valid.
                unsafe {
                    slot.write(bindings::preempt_notifier::default());
                    (*slot).ops = core::ptr::from_ref(&Self::OPS).cast_mut();
                }
            }),
            resident: AtomicPtr::new(core::ptr::null_mut()),
        })
    }

    /// Tells `resident` of what befalls the current thread, until the result is dropped.
    ///
    /// # Errors
    ///
    /// EBUSY where the notifier is registered already.
    pub(crate) fn register<'a>(
        &'a self,
        resident: &'a T,
        _pinned: &Pinned,
    ) -> Result<Registered<'a, T>> {
        let resident = core::ptr::from_ref(resident).cast_mut();
        self.resident
            .compare_exchange(
                core::ptr::null_mut(),
                resident,
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .map_err(|_| EBUSY)?;
        // SAFETY: By the type invariants, the notifier is pinned, and it is in no list: `resident`
        // was null.
        unsafe { bindings::preempt_notifier_register(self.inner.get()) };
        Ok(Registered {
            notifier: self,
            _resident: PhantomData,
            _not_send: NotThreadSafe,
        })
    }

    /// # Safety
    ///
    /// Called by the scheduler, with the `inner` of a registered notifier.
    unsafe extern "C" fn sched_in(notifier: *mut bindings::preempt_notifier, cpu: c_int) {
        // SAFETY: By the type invariants.
        unsafe {
            (*(*notifier.cast::<Self>()).resident.load(Ordering::Relaxed)).sched_in(cpu as u32)
        };
    }

    /// # Safety
    ///
    /// As for `sched_in`.
    unsafe extern "C" fn sched_out(
        notifier: *mut bindings::preempt_notifier,
        _next: *mut bindings::task_struct,
    ) {
        // SAFETY: By the type invariants.
        unsafe { (*(*notifier.cast::<Self>()).resident.load(Ordering::Relaxed)).sched_out() };
    }
}

/// A registered [`Notifier`].
pub(crate) struct Registered<'a, T: Resident> {
    notifier: &'a Notifier<T>,
    _resident: PhantomData<&'a T>,
    _not_send: NotThreadSafe,
}

impl<T: Resident> Registered<'_, T> {
    /// Ends the registration. Whoever calls takes the resident out of the CPU in the same breath.
    pub(crate) fn unregister(self, _pinned: &Pinned) {}
}

impl<T: Resident> Drop for Registered<'_, T> {
    fn drop(&mut self) {
        // SAFETY: `register` registered it in this thread.
        unsafe { bindings::preempt_notifier_unregister(self.notifier.inner.get()) };
        self.notifier
            .resident
            .store(core::ptr::null_mut(), Ordering::Release);
    }
}
