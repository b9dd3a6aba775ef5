// SPDX-License-Identifier: GPL-2.0

//! A mutex whose waiters can be killed.

use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
};

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};

/// A mutex for what a thread may hold for as long as a guest runs: others wait for it killably,
/// which the kernel's hung-task detector leaves alone.
#[pin_data]
pub(crate) struct KillableMutex<T> {
    #[pin]
    mutex: Opaque<bindings::mutex>,
    value: UnsafeCell<T>,
}

// SAFETY: As for any mutex.
unsafe impl<T: Send> Send for KillableMutex<T> {}
// SAFETY: As for any mutex.
unsafe impl<T: Send> Sync for KillableMutex<T> {}

impl<T> KillableMutex<T> {
    /// A mutex of lock class `key`.
    pub(crate) fn new(
        value: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            mutex <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid and pinned; `name` and `key` are static.
                unsafe { bindings::__mutex_init(slot, name.as_char_ptr(), key.as_ptr()) }
            }),
            value: UnsafeCell::new(value),
        })
    }

    /// Locks.
    ///
    /// # Errors
    ///
    /// EINTR where the thread is to die.
    pub(crate) fn lock(&self) -> Result<KillableGuard<'_, T>> {
        // SAFETY: The mutex is initialised.
        to_result(unsafe { super::bindings::shim_mutex_lock_killable(self.mutex.get()) })?;
        Ok(KillableGuard {
            mutex: self,
            _not_send: NotThreadSafe,
        })
    }
}

/// A locked [`KillableMutex`].
pub(crate) struct KillableGuard<'a, T> {
    mutex: &'a KillableMutex<T>,
    _not_send: NotThreadSafe,
}

impl<T> Deref for KillableGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The mutex is held.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for KillableGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The mutex is held.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for KillableGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The mutex is held by this thread.
        unsafe { bindings::mutex_unlock(self.mutex.mutex.get()) };
    }
}
