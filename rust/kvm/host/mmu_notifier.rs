// SPDX-License-Identifier: GPL-2.0

//! Word from the memory manager that the VMM's mappings are about to change.
//!
//! C header: `include/linux/mmu_notifier.h`.

use core::ops::Range;

use arch::addr::Hva;
use kernel::{
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use super::{
    bindings,
    mm::{
        check,
        AddressSpace, //
    },
};

/// Somebody who maps a process's pages elsewhere and must follow it.
///
/// Calls come in any thread, with the process's `mmap_lock` or page-table locks held: no callback
/// may touch user memory.
pub(crate) trait Mirror: Send + Sync + 'static {
    /// Mappings in `range` are going: when this returns, nobody uses the old ones, and no new ones
    /// are made until the matching [`Self::invalidate_end`].
    fn invalidate_start(&self, range: Range<Hva>);
    /// The mappings in `range` are as they will be.
    fn invalidate_end(&self, range: Range<Hva>);
    /// Whether anything in `range` was used since last time, and forgets it if `clear`.
    fn test_young(&self, range: Range<Hva>, clear: bool) -> bool;
    /// The process's mappings are all going.
    fn release(&self);
}

/// A mirror that is told until this is dropped.
///
/// # Invariants
///
/// `inner` is registered on `mm`, and is the first field.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Mirror> {
    #[pin]
    inner: Opaque<bindings::mmu_notifier>,
    mirror: Arc<T>,
    mm: Arc<AddressSpace>,
}

// SAFETY: Callbacks come in any thread by the contract of `Mirror`.
unsafe impl<T: Mirror> Send for Registration<T> {}
// SAFETY: There are no methods on `&self`.
unsafe impl<T: Mirror> Sync for Registration<T> {}

impl<T: Mirror> Registration<T> {
    const OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(Self::release),
        clear_flush_young: Some(Self::clear_flush_young),
        clear_young: Some(Self::clear_flush_young),
        test_young: Some(Self::test_young),
        invalidate_range_start: Some(Self::invalidate_range_start),
        invalidate_range_end: Some(Self::invalidate_range_end),
        arch_invalidate_secondary_tlbs: None,
        alloc_notifier: None,
        free_notifier: None,
    };

    /// Lets `mirror` follow `mm`, which is the current process's.
    pub(crate) fn new(mirror: Arc<T>, mm: Arc<AddressSpace>) -> Result<Pin<KBox<Self>>> {
        let mm_ptr = mm.as_ptr();
        KBox::try_pin_init(
            try_pin_init!(Self {
                inner <- Opaque::try_ffi_init(|slot: *mut bindings::mmu_notifier| {
                    // SAFETY: `slot` is valid and pinned. The other fields are set before the
                    // notifier can be called: they are initialised first.
                    unsafe {
                        slot.write(bindings::mmu_notifier::default());
                        (*slot).ops = &Self::OPS;
                    }
                    Ok::<(), Error>(())
                }),
                mirror: mirror,
                mm: mm,
            }),
            GFP_KERNEL_ACCOUNT,
        )
        .and_then(|registration| {
            // SAFETY: All fields are in place; the structure is pinned until `drop` unregisters it.
            match check(unsafe {
                bindings::mmu_notifier_register(registration.inner.get(), mm_ptr)
            }) {
                // INVARIANT: Registered.
                Ok(()) => Ok(registration),
                Err(e) => {
                    // `drop` would unregister what never was registered.
                    // SAFETY: Nothing else refers to the box; its fields are dropped one by one.
                    unsafe {
                        let raw = KBox::into_raw(Pin::into_inner_unchecked(registration));
                        core::ptr::drop_in_place(core::ptr::addr_of_mut!((*raw).mirror));
                        core::ptr::drop_in_place(core::ptr::addr_of_mut!((*raw).mm));
                        drop(KBox::from_raw(raw.cast::<core::mem::MaybeUninit<Self>>()));
                    }
                    Err(e)
                }
            }
        })
    }

    /// # Safety
    ///
    /// `notifier` is the `inner` of a registration.
    unsafe fn mirror<'a>(notifier: *mut bindings::mmu_notifier) -> &'a T {
        // SAFETY: `inner` is the first field.
        unsafe { &(*notifier.cast::<Self>()).mirror }
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `inner` of a registration.
    unsafe extern "C" fn release(
        notifier: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
    ) {
        // SAFETY: Called by the kernel with what was registered.
        unsafe { Self::mirror(notifier) }.release();
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `inner` of a registration.
    unsafe extern "C" fn clear_flush_young(
        notifier: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
        start: c_ulong,
        end: c_ulong,
    ) -> bool {
        // SAFETY: As above.
        unsafe { Self::mirror(notifier) }.test_young(range(start, end), true)
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `inner` of a registration.
    unsafe extern "C" fn test_young(
        notifier: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
        address: c_ulong,
    ) -> bool {
        // SAFETY: As above.
        unsafe { Self::mirror(notifier) }.test_young(range(address, address + 1), false)
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `inner` of a registration.
    unsafe extern "C" fn invalidate_range_start(
        notifier: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) -> c_int {
        // SAFETY: As above; `range` is valid for the call.
        unsafe {
            Self::mirror(notifier).invalidate_start(self::range((*range).start, (*range).end))
        };
        0
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `inner` of a registration.
    unsafe extern "C" fn invalidate_range_end(
        notifier: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) {
        // SAFETY: As above.
        unsafe { Self::mirror(notifier).invalidate_end(self::range((*range).start, (*range).end)) };
    }
}

fn range(start: c_ulong, end: c_ulong) -> Range<Hva> {
    Hva(start as u64)..Hva(end as u64)
}

#[pinned_drop]
impl<T: Mirror> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariants, the notifier is registered on `mm`.
        unsafe { bindings::mmu_notifier_unregister(self.inner.get(), self.mm.as_ptr()) };
    }
}
