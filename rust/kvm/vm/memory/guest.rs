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
    /// The slot that was found last: page tables and what they map are often in one.
    last: Cell<Option<Slot>>,
}

impl<T: SecondLevel> Memory<T> {
    /// Access to guest memory.
    pub(crate) fn access(&self) -> GuestAccess<'_> {
        GuestAccess {
            slots: self.current.read(),
            last: Cell::new(None),
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

    /// Swaps a byte of guest-physical memory with `value`, and returns what was there.
    ///
    /// # Errors
    ///
    /// As for [`Self::write`].
    pub(crate) fn exchange_u8(&self, gpa: Gpa, value: u8) -> Result<u8> {
        if !self.is_memory(gpa, true) {
            return Err(EFAULT);
        }
        mm::exchange_u8(self.hva(gpa).ok_or(EFAULT)?, value)
    }

    /// The slot of a frame.
    #[inline]
    fn find(&self, gfn: Gfn) -> Option<Slot> {
        match self.last.get() {
            Some(slot) if slot.contains(gfn) => Some(slot),
            _ => {
                let slot = self.slots.find(gfn).copied();
                self.last.set(slot);
                slot
            }
        }
    }

    /// The VMM's address of `gpa`, where it has one.
    #[inline]
    fn hva(&self, gpa: Gpa) -> Option<Hva> {
        let slot = self.find(gpa.gfn())?;
        Some(slot.hva_of(gpa.gfn()).offset(gpa.page_offset()))
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

/// Page walks here never mark entries: the processor has done so when it made the access.
impl GuestMemory for &GuestAccess<'_> {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        mm::read_u32(self.hva(gpa)?)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        mm::read_u64(self.hva(gpa)?)
    }

    fn compare_exchange_u32(&mut self, _gpa: Gpa, _old: u32, _new: u32) -> Option<bool> {
        None
    }

    fn compare_exchange_u64(&mut self, _gpa: Gpa, _old: u64, _new: u64) -> Option<bool> {
        None
    }
}
