// SPDX-License-Identifier: GPL-2.0

//! What happens when the guest touches memory that is not mapped.

use core::sync::atomic::Ordering;

use arch::addr::{
    Gfn,
    Gpa,
    Hva,
    PAGE_SHIFT, //
};
use kernel::prelude::*;

use super::{
    DirtyRing,
    GuestAccess,
    Mapped,
    Mapping,
    Memory,
    SecondLevel,
    Slot,
    SpareTables, //
};
use crate::host::{
    guest_mode::GuestMode,
    mm::UserPage, //
};

/// log2 of the small pages that larger pages have, from the largest on: 1 GiB and 2 MiB.
const ORDERS: [u32; 2] = [18, 9];

/// How a fault ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faulted {
    /// The guest can go on: a page of that many small ones, log2, is mapped.
    Mapped(u32),
    /// Something came between, and the guest is to try again.
    Raced,
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
        let tables = &mut *tables;
        let raced = tables.slots.generation != slots.generation
            || self.invalidations.load(Ordering::Relaxed) != invalidations
            || (tables.in_progress != 0 && tables.in_progress_range.contains(&hva.0));
        if raced {
            return Ok(Faulted::Raced);
        }
        let mapped = self.second_level.map(
            &mut tables.serial,
            &Mapping {
                gfn,
                hpa: page.hpa(),
                order: self.order(slot, gfn),
                writable: page.writable,
                is_write: write,
                log_writes: slot.log.is_some() && !write,
            },
            spare,
        );
        if page.writable {
            page.mark_dirty();
            if write {
                access.mark_dirty(slot, gfn);
            }
        }
        Ok(match mapped {
            Mapped::Order(order) => Faulted::Mapped(order),
            Mapped::Nothing => Faulted::Raced,
        })
    }

    /// log2 of the small pages in the largest page that can be mapped around `gfn`: one that the VMM
    /// has as a whole, unless writes are to be noted for each small one.
    fn order(&self, slot: &Slot, gfn: Gfn) -> u32 {
        if slot.log.is_some() {
            return 0;
        }
        let max = self.limits.max_order;
        let mut fitting = ORDERS
            .into_iter()
            .filter(|order| *order <= max && slot.allows_order(gfn, *order))
            .peekable();
        if fitting.peek().is_none() {
            return 0;
        }
        let hva = slot.hva_of(gfn);
        let shift = self.mm.mapping_shift(hva).unwrap_or(0);
        fitting
            .find(|order| order + PAGE_SHIFT <= shift)
            .unwrap_or(0)
    }

    /// The guest's write to a frame exited. If all that was missing is that somebody notes it, does
    /// that, and returns whether it was. For a vCPU between its entries.
    #[inline]
    pub(crate) fn allow_logged_write(
        &self,
        turn: &GuestMode<'_>,
        ring: Option<&DirtyRing>,
        gpa: Gpa,
    ) -> bool {
        let gfn = gpa.gfn();
        let access = self.access(ring);
        let Some(slot) = access.slots().find(gfn).filter(|slot| !slot.is_readonly()) else {
            return false;
        };
        match self.second_level.allow_write(turn, gfn, slot.log.is_some()) {
            None => false,
            Some(first) => {
                if first {
                    access.mark_dirty(slot, gfn);
                }
                true
            }
        }
    }
}
