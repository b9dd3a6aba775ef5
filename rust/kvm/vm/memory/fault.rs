// SPDX-License-Identifier: GPL-2.0

//! What happens when the guest touches memory that is not mapped.

use core::sync::atomic::Ordering;

use arch::addr::{
    Gpa,
    Hva, //
};
use kernel::prelude::*;

use super::{
    GuestAccess,
    Mapping,
    Memory,
    SecondLevel,
    SpareTables, //
};
use crate::host::mm::UserPage;

/// log2 of the small pages in a 2-MiB page.
const LARGE_ORDER: u32 = 9;
/// log2 of the bytes in one.
const LARGE_SHIFT: u32 = 21;

/// How a fault ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faulted {
    /// The guest can go on, or try again.
    Resolved,
    /// The page would have to be fetched from a disk first; it is the VMM's at this address.
    NeedsIo(Hva),
    /// No memory there, or none that may be written: the access is the VMM's to emulate.
    NotMemory,
}

impl<T: SecondLevel> Memory<T> {
    /// Maps what the guest needs to go on at `gpa`; with `nowait`, if that is to be had without
    /// waiting for a disk.
    ///
    /// # Errors
    ///
    /// EFAULT where the VMM has no memory behind the slot, EHWPOISON where it is broken, ENOMEM.
    pub(crate) fn fault(
        &self,
        access: &GuestAccess<'_>,
        gpa: Gpa,
        write: bool,
        nowait: bool,
        spare: &mut SpareTables,
    ) -> Result<Faulted> {
        let gfn = gpa.gfn();
        let slots = access.slots();
        let Some(slot) = slots.find(gfn) else {
            return Ok(Faulted::NotMemory);
        };
        if write && slot.is_readonly() {
            return Ok(Faulted::NotMemory);
        }

        // Before looking at the VMM's page tables: what changes in them from here on shows.
        let invalidations = self.invalidations.load(Ordering::Acquire);
        spare.fill()?;
        let hva = slot.hva_of(gfn);
        let mut page = if slot.is_readonly() {
            UserPage::get_readonly(hva)?
        } else if nowait {
            match UserPage::get_nowait(hva, write)? {
                Some(page) => page,
                None => return Ok(Faulted::NeedsIo(hva)),
            }
        } else {
            UserPage::get(hva, write)?
        };

        let mut tables = self.tables.lock();
        let raced = tables.slots.generation != slots.generation
            || self.invalidations.load(Ordering::Relaxed) != invalidations
            || (tables.in_progress != 0 && tables.in_progress_range.contains(&hva.0));
        if !raced {
            let large = slot.allows_order(gfn, LARGE_ORDER)
                && self
                    .mm
                    .mapping_shift(hva)
                    .is_some_and(|shift| shift >= LARGE_SHIFT);
            tables.second_level.map(
                &Mapping {
                    gfn,
                    hpa: page.hpa(),
                    order: if large { LARGE_ORDER } else { 0 },
                    writable: page.writable,
                },
                spare,
            );
        }
        drop(tables);

        if page.writable && !raced {
            page.mark_dirty();
        }
        Ok(Faulted::Resolved)
    }
}
