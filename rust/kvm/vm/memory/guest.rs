// SPDX-License-Identifier: GPL-2.0

//! Reading and writing guest memory from the VMM's thread.

use core::{
    cell::Cell,
    ops::Range, //
};

use arch::{
    addr::{
        Gfn,
        Gpa,
        Hva,
        PAGE_SIZE, //
    },
    paging::GuestMemory, //
};
use kernel::prelude::*;

use super::{
    DirtyRing,
    Memory,
    SecondLevel,
    Slot,
    Slots, //
};
use crate::host::{
    mm,
    srcu_cell::Reader, //
};

/// Guest memory as it is now. While this is held, slots that go stay usable, and whoever removes
/// them waits.
pub(crate) struct GuestAccess<'a> {
    slots: Reader<'a, Slots>,
    /// The place of the slot that was found last: page tables and what they map are often in one.
    last: Cell<usize>,
    /// The ring of the vCPU that this is for, which notes what is written, where the VM has rings.
    ring: Option<&'a DirtyRing>,
}

impl<T: SecondLevel> Memory<T> {
    /// Access to guest memory, for the vCPU that has `ring`.
    #[inline]
    pub(crate) fn access<'a>(&'a self, ring: Option<&'a DirtyRing>) -> GuestAccess<'a> {
        GuestAccess {
            slots: self.current.read(),
            last: Cell::new(0),
            ring,
        }
    }
}

impl GuestAccess<'_> {
    /// Calls `f` with the VMM's address of each part of `len` bytes at `gpa`, and the part's place
    /// in them.
    fn for_each_part(
        &self,
        gpa: Gpa,
        len: usize,
        write: bool,
        mut f: impl FnMut(Hva, Range<usize>) -> Result,
    ) -> Result {
        let mut done = 0;
        while done < len {
            let at = gpa.offset(done as u64);
            let part = (len - done).min((PAGE_SIZE - at.page_offset()) as usize);
            let slot = self.find(at.gfn()).ok_or(EFAULT)?;
            if write && slot.is_readonly() {
                return Err(EFAULT);
            }
            let hva = slot.hva_of(at.gfn()).offset(at.page_offset());
            f(hva, done..done + part)?;
            if write {
                slot.mark_dirty(at.gfn(), self.ring);
            }
            done += part;
        }
        Ok(())
    }

    /// Reads guest-physical memory.
    ///
    /// # Errors
    ///
    /// EFAULT where there is none.
    pub(crate) fn read(&self, gpa: Gpa, to: &mut [u8]) -> Result {
        self.for_each_part(gpa, to.len(), false, |hva, part| {
            mm::read(hva, &mut to[part])
        })
    }

    /// Writes guest-physical memory.
    ///
    /// # Errors
    ///
    /// EFAULT where there is none, or the slot is read-only.
    pub(crate) fn write(&self, gpa: Gpa, from: &[u8]) -> Result {
        self.for_each_part(gpa, from.len(), true, |hva, part| {
            mm::write(hva, &from[part])
        })
    }

    /// Writes guest-physical memory where that needs no page to be fetched; in any context.
    ///
    /// # Errors
    ///
    /// As for [`Self::write`].
    pub(crate) fn write_nofault(&self, gpa: Gpa, from: &[u8]) -> Result {
        self.for_each_part(gpa, from.len(), true, |hva, part| {
            mm::write_nofault(hva, &from[part])
        })
    }

    /// The slot of a frame.
    #[inline]
    fn find(&self, gfn: Gfn) -> Option<&Slot> {
        match self.slots.get(self.last.get()) {
            Some(slot) if slot.contains(gfn) => Some(slot),
            _ => {
                let place = self.slots.place(gfn)?;
                self.last.set(place);
                self.slots.get(place)
            }
        }
    }

    /// The VMM's address of `gpa`, where it has one.
    #[inline]
    pub(crate) fn hva(&self, gpa: Gpa) -> Option<Hva> {
        let slot = self.find(gpa.gfn())?;
        Some(slot.hva_of(gpa.gfn()).offset(gpa.page_offset()))
    }

    /// Replaces aligned memory of 1, 2, 4 or 8 bytes at once, as long as they are. Whether it still
    /// was `old`; `None` where there is none, or the slot is read-only.
    pub(crate) fn compare_exchange(&self, gpa: Gpa, old: &[u8], new: &[u8]) -> Option<bool> {
        let value = |bytes: &[u8]| {
            let mut value = [0; 8];
            value.get_mut(..bytes.len())?.copy_from_slice(bytes);
            Some(u64::from_le_bytes(value))
        };
        let slot = self.find(gpa.gfn())?;
        if slot.is_readonly() {
            return None;
        }
        self.replace(slot, gpa, value(old)?, value(new)?, new.len())
    }

    fn replace(&self, slot: &Slot, gpa: Gpa, old: u64, new: u64, size: usize) -> Option<bool> {
        let hva = slot.hva_of(gpa.gfn()).offset(gpa.page_offset());
        let replaced = mm::compare_exchange(hva, old, new, size)?;
        if replaced {
            slot.mark_dirty(gpa.gfn(), self.ring);
        }
        Some(replaced)
    }

    /// Sets accessed and dirty bits in a paging-structure entry. One in a read-only slot stays as it
    /// is: KVM, too, walks such tables without marking them.
    fn mark(&self, gpa: Gpa, old: u64, new: u64, size: usize) -> Option<bool> {
        let slot = self.find(gpa.gfn())?;
        if slot.is_readonly() {
            return Some(true);
        }
        self.replace(slot, gpa, old, new, size)
    }

    /// Counts changes of the slots.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.slots.generation
    }

    /// Notes that the guest writes a page of `slot`.
    pub(super) fn mark_dirty(&self, slot: &Slot, gfn: Gfn) {
        slot.mark_dirty(gfn, self.ring);
    }

    /// Notes that the guest has written a frame.
    pub(crate) fn note_write(&self, gfn: Gfn) {
        if let Some(slot) = self.find(gfn) {
            slot.mark_dirty(gfn, self.ring);
        }
    }

    /// The slots.
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Whether `gpa` is memory that can be read, or written if so asked.
    pub(crate) fn is_memory(&self, gpa: Gpa, write: bool) -> bool {
        self.find(gpa.gfn())
            .is_some_and(|slot| !(write && slot.is_readonly()))
    }
}

impl GuestMemory for &GuestAccess<'_> {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        mm::read_u32(self.hva(gpa)?)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        mm::read_u64(self.hva(gpa)?)
    }

    fn compare_exchange_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        self.mark(gpa, old.into(), new.into(), 4)
    }

    fn compare_exchange_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        self.mark(gpa, old, new, 8)
    }
}
