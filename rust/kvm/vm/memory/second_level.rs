// SPDX-License-Identifier: GPL-2.0

//! The tables that translate guest-physical addresses, as seen from above: EPT or nested paging.

use core::ops::Range;

use arch::addr::{
    Gfn,
    Hpa, //
};
use kernel::prelude::*;

use crate::host::{
    guest_mode::GuestMode,
    page::HardwarePage, //
};

/// Tables that may be needed under a spinlock, where none can be allocated.
pub(crate) struct SpareTables([Option<HardwarePage>; 3]);

impl SpareTables {
    /// No tables.
    pub(crate) const fn new() -> Self {
        Self([const { None }; 3])
    }

    /// Fills up to what a walk from the root can need.
    pub(crate) fn fill(&mut self) -> Result {
        for spare in &mut self.0 {
            if spare.is_none() {
                *spare = Some(HardwarePage::new()?);
            }
        }
        Ok(())
    }

    /// Takes one. There are enough after [`Self::fill`].
    pub(crate) fn take(&mut self) -> Option<HardwarePage> {
        self.0.iter_mut().find_map(Option::take)
    }
}

/// A mapping to make.
#[derive(Clone, Copy)]
pub(crate) struct Mapping {
    /// The frame that faulted.
    pub(crate) gfn: Gfn,
    /// The small page behind it.
    pub(crate) hpa: Hpa,
    /// log2 of the small pages that one entry may map: 0, 9 or 18.
    pub(crate) order: u32,
    /// Whether the page may be written.
    pub(crate) writable: bool,
    /// Whether the fault is for a write.
    pub(crate) is_write: bool,
    /// Whether the next write is to be heard of.
    pub(crate) log_writes: bool,
}

/// What is mapped now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapped {
    /// A page of that many small ones, log2.
    Order(u32),
    /// Nothing: there were too few spare tables.
    Nothing,
}

/// The right to change second-level tables: there is one for each, under a lock.
pub(crate) struct Serial(pub(super) ());

/// Second-level tables. Hardware walks them at any time.
pub(crate) trait SecondLevel: Send + Sync + Sized + 'static {
    /// Some tables without use. Dropping them frees them, which takes a while.
    type Unused;

    /// Tables that map nothing. `logs_writes` says that the processor logs first writes of small
    /// pages by itself.
    fn new(logs_writes: bool) -> Result<Self>;

    /// The physical address of the root.
    fn root(&self) -> Hpa;

    /// Makes a mapping. Where small mappings are in the way of a large one, a small one is made. A
    /// large page that cannot be written is split for a write to a small one.
    fn map(&self, serial: &mut Serial, mapping: &Mapping, spare: &mut SpareTables) -> Mapped;

    /// Unmaps `frames`, and whatever large pages they are part of. Returns whether anything was
    /// mapped; then [`Self::take_unmapped`] is due after translations were invalidated.
    fn unmap(&self, serial: &mut Serial, frames: Range<u64>) -> bool;

    /// As [`Self::unmap`], but only where small mappings are in the way of a large one, as `can_join`
    /// says of its first frame and the log2 of its small pages.
    fn join(
        &self,
        serial: &mut Serial,
        frames: Range<u64>,
        can_join: impl FnMut(Gfn, u32) -> bool,
    ) -> bool;

    /// Takes out tables that [`Self::unmap`] of `frames` left without use, at least 16 if there are
    /// so many; `None` when there are no more.
    fn take_unmapped(&self, serial: &mut Serial, frames: &Range<u64>) -> Option<Self::Unused>;

    /// Whether a mapping in `frames` was used since its flag was last cleared; clears it if asked.
    fn test_young(&self, serial: &mut Serial, frames: Range<u64>, clear: bool) -> bool;

    /// Has the next write of each of `frames` heard of: by an exit, or by the processor's log.
    /// Returns whether translations must be invalidated for that.
    fn hear_of_writes(&self, serial: &mut Serial, frames: Range<u64>) -> bool;

    /// The same for `first` and the 63 frames after it, as far as their bit in `mask` is set.
    fn hear_of_writes_masked(&self, serial: &mut Serial, first: Gfn, mask: u64) -> bool;

    /// Lets the guest write a frame that is mapped, if the page may be written, and is a small one
    /// where `small_alone` is set. Whether that is so; and then, whether this was the first write
    /// since somebody wanted to hear of it. For a vCPU between its entries, without any lock.
    fn allow_write(&self, turn: &GuestMode<'_>, gfn: Gfn, small_alone: bool) -> Option<bool>;
}
