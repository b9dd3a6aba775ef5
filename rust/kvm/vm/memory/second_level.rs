// SPDX-License-Identifier: GPL-2.0

//! The tables that translate guest-physical addresses, as seen from above: EPT or nested paging.

use core::ops::Range;

use arch::addr::{
    Gfn,
    Hpa, //
};
use kernel::prelude::*;

use crate::host::page::HardwarePage;

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
    /// log2 of the small pages that one entry may map: 0 or 9.
    pub(crate) order: u32,
    /// Whether the guest may write.
    pub(crate) writable: bool,
}

/// Second-level tables. The caller serialises changes; hardware walks at any time.
pub(crate) trait SecondLevel: Send + Unpin + Sized + 'static {
    /// Tables that map nothing.
    fn new() -> Result<Self>;

    /// The physical address of the root.
    fn root(&self) -> Hpa;

    /// Makes a mapping. Where a small mapping is in the way of a large one, a small one is made.
    fn map(&mut self, mapping: &Mapping, spare: &mut SpareTables);

    /// Unmaps `frames`, and whatever large pages they are part of. Returns whether anything was
    /// mapped; then [`Self::free_unmapped`] is due after translations were invalidated.
    fn unmap(&mut self, frames: Range<u64>) -> bool;

    /// Gives the tables back that the last [`Self::unmap`] of `frames` left without use.
    fn free_unmapped(&mut self, frames: Range<u64>);

    /// Whether a mapping in `frames` was used since its flag was last cleared; clears it if asked.
    fn test_young(&mut self, frames: Range<u64>, clear: bool) -> bool;
}
