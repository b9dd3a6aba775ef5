// SPDX-License-Identifier: GPL-2.0

//! The ring of a vCPU, in which its VMM finds which pages it wrote
//! (api.rst, 8.29 KVM_CAP_DIRTY_LOG_RING).

use core::sync::atomic::{
    AtomicU32,
    Ordering, //
};

use kernel::{
    page::Page,
    prelude::*,
    sync::Arc, //
};

use crate::{
    host::dirty_ring::{
        Entries,
        ENTRY_SIZE, //
    },
    vm::kick::{
        Requests,
        Runner, //
    },
};

/// Entries that a vCPU may still fill after it was told to stop (`KVM_DIRTY_RING_RSVD_ENTRIES`).
const RESERVED: u32 = 64;
/// Most entries a ring can have (`KVM_DIRTY_RING_MAX_ENTRIES`).
const MAX_ENTRIES: u32 = 65536;

/// Bytes of the largest ring there can be: the value of KVM_CAP_DIRTY_LOG_RING.
pub(crate) const MAX_RING_SIZE: u32 = MAX_ENTRIES * ENTRY_SIZE;

/// Checks the size of a ring, in bytes. `logged` is how many pages the processor may log before
/// anybody looks.
///
/// # Errors
///
/// EINVAL where it is no power of two, or too small; E2BIG.
pub(crate) fn check_size(size: u64, logged: u32) -> Result<u32> {
    // What the kernel's own KVM looks at.
    let size = size as u32;
    let least = ((RESERVED + logged) * ENTRY_SIZE).max(4096);
    if !size.is_power_of_two() || size < least {
        return Err(EINVAL);
    }
    if size > MAX_RING_SIZE {
        return Err(E2BIG);
    }
    Ok(size)
}

/// A ring. Its vCPU's thread fills entries, KVM_RESET_DIRTY_RINGS frees them.
pub(crate) struct DirtyRing {
    entries: Entries,
    /// Entries filled so far, and freed so far; both wrap.
    filled: AtomicU32,
    freed: AtomicU32,
    /// The vCPU stops when so many are not free.
    soft_limit: u32,
    runner: Arc<Runner>,
}

impl DirtyRing {
    /// An empty ring of `size` bytes, for the vCPU of `runner`.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(size: u32, logged: u32, runner: Arc<Runner>) -> Result<Self> {
        let entries = Entries::new(size / ENTRY_SIZE)?;
        Ok(Self {
            soft_limit: entries.count() - RESERVED - logged,
            entries,
            filled: AtomicU32::new(0),
            freed: AtomicU32::new(0),
            runner,
        })
    }

    /// A page of the ring, for a mapping.
    pub(crate) fn page(&self, index: usize) -> Option<&Page> {
        self.entries.page(index)
    }

    fn used(&self) -> u32 {
        self.filled
            .load(Ordering::Relaxed)
            .wrapping_sub(self.freed.load(Ordering::Acquire))
    }

    /// Whether the vCPU is to stop until entries are free again.
    pub(crate) fn is_soft_full(&self) -> bool {
        self.used() >= self.soft_limit
    }

    /// Notes a written page. The vCPU's own thread does, or the scheduler in it.
    pub(super) fn push(&self, slot: u32, offset: u64) {
        // The scheduler may come between this and what follows, with an entry of its own.
        let index = self.filled.fetch_add(1, Ordering::Relaxed);
        self.entries.publish(index, slot, offset);
        if self.is_soft_full() {
            self.runner.request_own(Requests::DIRTY_RING_FULL);
        }
    }

    /// Frees the next entry if the VMM is done with it: the slot and the page of it. Calls come one
    /// after another.
    pub(super) fn take_back(&self) -> Option<(u32, u64)> {
        let index = self.freed.load(Ordering::Relaxed);
        let taken = self.entries.take_back(index)?;
        self.freed.store(index.wrapping_add(1), Ordering::Release);
        Some(taken)
    }
}
