// SPDX-License-Identifier: GPL-2.0

//! The page in which a VMM finds coalesced writes (`struct kvm_coalesced_mmio_ring`).

use core::{
    ptr::addr_of_mut,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
};

use kernel::{
    page::Page,
    prelude::*, //
};

use super::{
    bindings::{
        kvm_coalesced_mmio,
        kvm_coalesced_mmio__bindgen_ty_1,
        kvm_coalesced_mmio_ring, //
    },
    shared::{
        self,
        SharedPage, //
    },
};

/// Entries in the ring (`KVM_COALESCED_MMIO_MAX`). One is always free, or a full ring would look
/// like an empty one.
const ENTRIES: u32 = ((shared::SIZE - size_of::<kvm_coalesced_mmio_ring>())
    / size_of::<kvm_coalesced_mmio>()) as u32;

/// A write, as the ring has it.
pub(crate) struct Entry {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) is_pio: bool,
    pub(crate) data: [u8; 8],
}

/// A ring. The VMM, who takes entries out, may write anything anywhere in it.
pub(crate) struct CoalescedRing(SharedPage);

impl CoalescedRing {
    /// An empty ring.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(SharedPage::new()?))
    }

    /// The page, for a mapping.
    pub(crate) fn page(&self) -> &Page {
        self.0.page()
    }

    /// Adds a write. Returns whether there was room. Calls come one after another.
    pub(crate) fn push(&self, entry: &Entry) -> bool {
        let ring: *mut kvm_coalesced_mmio_ring = self.0.address().cast();
        // SAFETY: Both lie in the page, aligned, and the kernel accesses them as atomics alone.
        let (first, last) = unsafe {
            (
                AtomicU32::from_ptr(addr_of_mut!((*ring).first)),
                AtomicU32::from_ptr(addr_of_mut!((*ring).last)),
            )
        };
        let at = last.load(Ordering::Relaxed);
        if at >= ENTRIES {
            return false;
        }
        let next = (at + 1) % ENTRIES;
        if next == first.load(Ordering::Acquire) {
            return false;
        }
        // SAFETY: `at` is below ENTRIES, so the entry lies in the page.
        unsafe {
            ring.add(1)
                .cast::<kvm_coalesced_mmio>()
                .add(at as usize)
                .write_volatile(kvm_coalesced_mmio {
                    phys_addr: entry.address,
                    len: entry.len,
                    __bindgen_anon_1: kvm_coalesced_mmio__bindgen_ty_1 {
                        pio: entry.is_pio.into(),
                    },
                    data: entry.data,
                })
        };
        last.store(next, Ordering::Release);
        true
    }
}
