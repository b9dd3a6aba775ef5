// SPDX-License-Identifier: GPL-2.0

//! A value that many read, often, and few replace, seldom.

use core::sync::atomic::{
    AtomicPtr,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::{
        srcu::{
            self,
            new_srcu, //
        },
        Arc,
        Srcu, //
    },
};

/// A shared value that readers may hold while they sleep.
///
/// # Invariants
///
/// `value` came from `Arc::into_raw`. What it was before is given back only after all readers that
/// can have seen it are gone.
#[pin_data(PinnedDrop)]
pub(crate) struct SrcuCell<T: Send + Sync> {
    value: AtomicPtr<T>,
    #[pin]
    readers: Srcu,
}

/// The value as it was when reading began.
pub(crate) struct Reader<'a, T> {
    value: &'a T,
    _guard: srcu::Guard<'a>,
}

impl<T: Send + Sync> SrcuCell<T> {
    /// A cell that holds `value`.
    pub(crate) fn new(value: Arc<T>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            readers <- new_srcu!(),
            value: AtomicPtr::new(Arc::into_raw(value).cast_mut()),
        }? Error)
    }

    /// Reads the value.
    #[inline]
    pub(crate) fn read(&self) -> Reader<'_, T> {
        let guard = self.readers.read_lock();
        Reader {
            // SAFETY: By the type invariants, what was there after the lock was taken stays until
            // it is released.
            value: unsafe { &*self.value.load(Ordering::Acquire) },
            _guard: guard,
        }
    }

    /// Puts `value` in place and returns once nobody reads the old one.
    pub(crate) fn replace(&self, value: Arc<T>) {
        let old = self
            .value
            .swap(Arc::into_raw(value).cast_mut(), Ordering::AcqRel);
        self.readers.synchronize_expedited();
        // SAFETY: By the type invariants; readers that came before the swap are gone.
        drop(unsafe { Arc::from_raw(old) });
    }
}

#[pinned_drop]
impl<T: Send + Sync> PinnedDrop for SrcuCell<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants; readers borrow the cell, so there are none.
        drop(unsafe { Arc::from_raw(self.value.load(Ordering::Relaxed)) });
    }
}

impl<T> core::ops::Deref for Reader<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}
