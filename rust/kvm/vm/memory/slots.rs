// SPDX-License-Identifier: GPL-2.0

//! Memory slots: which guest-physical addresses are which addresses of the VMM
//! (api.rst, 4.35 KVM_SET_USER_MEMORY_REGION).

use core::ops::Range;

use arch::addr::{
    Gfn,
    Gpa,
    Hva,
    PAGE_SHIFT,
    PAGE_SIZE, //
};
use kernel::prelude::*;

use crate::host::mm;

/// Slots a VM can have; KVM keeps three of 32767 for itself, and KVM_CAP_NR_MEMSLOTS says so.
pub(crate) const MAX_SLOTS: u32 = 32764;
/// Pages a slot can have (`KVM_MEM_MAX_NR_PAGES`).
const MAX_PAGES: u64 = (1 << 31) - 1;

/// KVM_MEM_LOG_DIRTY_PAGES.
pub(crate) const FLAG_LOG_DIRTY: u32 = 1 << 0;
/// KVM_MEM_READONLY.
pub(crate) const FLAG_READONLY: u32 = 1 << 1;

/// One slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) base: Gfn,
    pub(crate) pages: u64,
    pub(crate) hva: Hva,
}

impl Slot {
    /// Its frames.
    pub(crate) fn frames(&self) -> Range<u64> {
        self.base.0..self.base.0 + self.pages
    }

    /// Whether a frame is in it.
    #[inline]
    pub(crate) fn contains(&self, gfn: Gfn) -> bool {
        gfn.0.wrapping_sub(self.base.0) < self.pages
    }

    /// The VMM's address of a frame of the slot.
    pub(crate) fn hva_of(&self, gfn: Gfn) -> Hva {
        Hva(self.hva.0 + ((gfn.0 - self.base.0) << PAGE_SHIFT))
    }

    /// The VMM's addresses of the slot.
    pub(crate) fn hvas(&self) -> Range<u64> {
        self.hva.0..self.hva.0 + (self.pages << PAGE_SHIFT)
    }

    /// Whether the guest may not write.
    pub(crate) fn is_readonly(&self) -> bool {
        self.flags & FLAG_READONLY != 0
    }

    /// Whether the large page of `1 << order` small ones around `gfn` lies in the slot, and is
    /// aligned for the guest as it is for the VMM.
    pub(crate) fn allows_order(&self, gfn: Gfn, order: u32) -> bool {
        let mask = (1u64 << order) - 1;
        let first = gfn.0 & !mask;
        self.base.0 <= first
            && first + mask < self.base.0 + self.pages
            && (self.base.0 ^ (self.hva.0 >> PAGE_SHIFT)) & mask == 0
    }
}

/// What a KVM_SET_USER_MEMORY_REGION asks for.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    pub(crate) slot: u32,
    pub(crate) flags: u32,
    pub(crate) gpa: Gpa,
    pub(crate) size: u64,
    pub(crate) hva: Hva,
}

/// What it comes to.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// Nothing.
    None,
    /// A slot where none was.
    Create(Slot),
    /// A slot goes.
    Delete(Slot),
    /// A slot moves in guest-physical memory.
    Move { old: Slot, new: Slot },
    /// Only its flags change.
    Flags { old: Slot, new: Slot },
}

/// The slots of a VM at one moment, sorted by frame, never overlapping.
pub(crate) struct Slots {
    sorted: KVVec<Slot>,
    /// Counts changes.
    pub(crate) generation: u64,
}

impl Slots {
    /// No slots.
    pub(crate) const fn empty() -> Self {
        Self {
            sorted: KVVec::new(),
            generation: 0,
        }
    }

    /// The slot of a frame.
    #[inline]
    pub(crate) fn find(&self, gfn: Gfn) -> Option<&Slot> {
        self.get(self.place(gfn)?)
    }

    /// The place of a frame's slot among the slots.
    #[inline]
    pub(crate) fn place(&self, gfn: Gfn) -> Option<usize> {
        let after = self.sorted.partition_point(|slot| slot.base <= gfn);
        let place = after.checked_sub(1)?;
        self.sorted.get(place)?.contains(gfn).then_some(place)
    }

    /// The slot at a place.
    #[inline]
    pub(crate) fn get(&self, place: usize) -> Option<&Slot> {
        self.sorted.get(place)
    }

    /// All slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.sorted.iter()
    }

    /// What `region` asks for, checked.
    ///
    /// # Errors
    ///
    /// EINVAL for malformed requests, and for what a slot cannot change; EEXIST where slots would
    /// overlap.
    pub(crate) fn plan(&self, region: &Region, max_gfn: u64) -> Result<Change> {
        check_form(region)?;

        let pages = region.size >> PAGE_SHIFT;
        let old = self
            .sorted
            .iter()
            .find(|slot| slot.id == region.slot)
            .copied();
        if pages == 0 {
            return Ok(Change::Delete(old.ok_or(EINVAL)?));
        }

        let new = Slot {
            id: region.slot,
            flags: region.flags,
            base: region.gpa.gfn(),
            pages,
            hva: region.hva,
        };
        let change = match old {
            None => Change::Create(new),
            Some(old) => {
                if old.hva != new.hva
                    || old.pages != new.pages
                    || (old.flags ^ new.flags) & FLAG_READONLY != 0
                {
                    return Err(EINVAL);
                }
                if old.base != new.base {
                    Change::Move { old, new }
                } else if old.flags != new.flags {
                    Change::Flags { old, new }
                } else {
                    return Ok(Change::None);
                }
            }
        };

        if matches!(change, Change::Create(_) | Change::Move { .. }) {
            let overlaps = |slot: &Slot| {
                slot.id != new.id
                    && slot.base.0 < new.frames().end
                    && new.base.0 < slot.frames().end
            };
            if self.sorted.iter().any(overlaps) {
                return Err(EEXIST);
            }
            if new.frames().end - 1 > max_gfn {
                return Err(EINVAL);
            }
        }
        Ok(change)
    }

    /// The slots after `change`.
    pub(crate) fn apply(&self, change: &Change) -> Result<Self> {
        let (old, new) = match *change {
            Change::None => (None, None),
            Change::Create(new) => (None, Some(new)),
            Change::Delete(old) => (Some(old), None),
            Change::Move { old, new } | Change::Flags { old, new } => (Some(old), Some(new)),
        };
        let mut sorted = KVVec::with_capacity(self.sorted.len() + 1, GFP_KERNEL_ACCOUNT)?;
        let mut new = new;
        for slot in self.sorted.iter() {
            if old.is_some_and(|old| old.id == slot.id) {
                continue;
            }
            if let Some(n) = new {
                if n.base < slot.base {
                    sorted.push(n, GFP_KERNEL_ACCOUNT)?;
                    new = None;
                }
            }
            sorted.push(*slot, GFP_KERNEL_ACCOUNT)?;
        }
        if let Some(n) = new {
            sorted.push(n, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            sorted,
            generation: self.generation + 1,
        })
    }
}

/// The checks that need no knowledge of other slots.
fn check_form(region: &Region) -> Result {
    if region.flags & !(FLAG_LOG_DIRTY | FLAG_READONLY) != 0 {
        return Err(EINVAL);
    }
    // The upper half of the slot number is the address space, of which there is one.
    if region.slot >= MAX_SLOTS {
        return Err(EINVAL);
    }
    let unaligned = (region.size | region.gpa.0 | region.hva.0) & (PAGE_SIZE - 1) != 0;
    if unaligned || !mm::is_user_range(region.hva, region.size) {
        return Err(EINVAL);
    }
    if region.gpa.0.checked_add(region.size).is_none() || region.size >> PAGE_SHIFT > MAX_PAGES {
        return Err(EINVAL);
    }
    Ok(())
}
