// SPDX-License-Identifier: GPL-2.0

//! The pages in which a VMM finds which pages a vCPU wrote (`struct kvm_dirty_gfn`).
//!
//! An entry is ours to fill while its flags are 0, the VMM's to read while they say
//! KVM_DIRTY_GFN_F_DIRTY, and ours again once the VMM has set KVM_DIRTY_GFN_F_RESET.

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
    bindings::kvm_dirty_gfn,
    shared::{
        SharedPage,
        SIZE, //
    },
};

/// KVM_DIRTY_GFN_F_DIRTY: the entry is the VMM's.
const DIRTY: u32 = 1 << 0;
/// KVM_DIRTY_GFN_F_RESET: the VMM is done with it.
const RESET: u32 = 1 << 1;

/// Bytes of an entry.
pub(crate) const ENTRY_SIZE: u32 = size_of::<kvm_dirty_gfn>() as u32;
/// Entries in a page.
const IN_PAGE: u32 = SIZE as u32 / ENTRY_SIZE;

/// A ring of entries. The VMM may write anything anywhere in it.
pub(crate) struct Entries {
    pages: KVec<SharedPage>,
}

impl Entries {
    /// `count` free entries: a power of two, a page or more of them.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(count: u32) -> Result<Self> {
        let mut pages = KVec::with_capacity((count / IN_PAGE) as usize, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count / IN_PAGE {
            pages.push(SharedPage::new()?, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self { pages })
    }

    /// How many entries there are.
    pub(crate) fn count(&self) -> u32 {
        self.pages.len() as u32 * IN_PAGE
    }

    /// A page of the ring, for a mapping.
    pub(crate) fn page(&self, index: usize) -> Option<&Page> {
        self.pages.get(index).map(SharedPage::page)
    }

    /// Entry number `index`, counted on and on.
    fn entry(&self, index: u32) -> *mut kvm_dirty_gfn {
        let place = index & (self.count() - 1);
        let page = &self.pages[(place / IN_PAGE) as usize];
        page.address()
            .cast::<kvm_dirty_gfn>()
            .wrapping_add((place % IN_PAGE) as usize)
    }

    fn flags(&self, index: u32) -> &AtomicU32 {
        // SAFETY: The entry lies in a page of ours, aligned, and the kernel accesses its flags as
        // atomics alone.
        unsafe { AtomicU32::from_ptr(addr_of_mut!((*self.entry(index)).flags)) }
    }

    /// Fills an entry and hands it to the VMM.
    pub(crate) fn publish(&self, index: u32, slot: u32, offset: u64) {
        let entry = self.entry(index);
        // SAFETY: The entry lies in a page of ours.
        unsafe {
            addr_of_mut!((*entry).slot).write_volatile(slot);
            addr_of_mut!((*entry).offset).write_volatile(offset);
        }
        self.flags(index).store(DIRTY, Ordering::Release);
    }

    /// Takes an entry back that the VMM is done with, and what is in it; `None` where it is not.
    pub(crate) fn take_back(&self, index: u32) -> Option<(u32, u64)> {
        let flags = self.flags(index);
        if flags.load(Ordering::Acquire) & RESET == 0 {
            return None;
        }
        let entry = self.entry(index);
        // SAFETY: The entry lies in a page of ours; any bits are valid for its integers.
        let taken = unsafe {
            (
                addr_of_mut!((*entry).slot).read_volatile(),
                addr_of_mut!((*entry).offset).read_volatile(),
            )
        };
        flags.store(0, Ordering::Release);
        Some(taken)
    }
}
