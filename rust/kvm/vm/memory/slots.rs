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
use kernel::{
    prelude::*,
    rbtree::RBTree,
    sync::Arc, //
};

use super::{
    dirty::Log,
    dirty_ring::DirtyRing, //
};
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
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) id: u32,
    pub(crate) flags: u32,
    pub(crate) base: Gfn,
    pub(crate) pages: u64,
    pub(crate) hva: Hva,
    /// How the VMM learns which of its pages were written, if it wants to.
    pub(crate) log: Option<Log>,
}

impl Slot {
    /// Its frames.
    pub(crate) fn frames(&self) -> Range<u64> {
        self.base.0..self.base.0 + self.pages
    }

    /// Whether written pages are to be noted.
    pub(super) fn wants_log(&self) -> bool {
        self.flags & FLAG_LOG_DIRTY != 0
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

    /// Notes that a page was written, if anybody wants to know; in `ring` where there are rings.
    #[inline]
    pub(crate) fn mark_dirty(&self, gfn: Gfn, ring: Option<&DirtyRing>) {
        match (&self.log, ring) {
            (None, _) | (Some(Log::Rings), None) => {}
            (Some(Log::Bitmap(bitmap)), _) => bitmap.mark(gfn.0 - self.base.0),
            (Some(Log::Rings), Some(ring)) => ring.push(self.id, gfn.0 - self.base.0),
        }
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

impl Change {
    /// The slot as it was.
    pub(super) fn before(&self) -> Option<&Slot> {
        match self {
            Self::None | Self::Create(_) => None,
            Self::Delete(old) | Self::Move { old, .. } | Self::Flags { old, .. } => Some(old),
        }
    }

    /// The slot as it will be.
    pub(super) fn after(&self) -> Option<&Slot> {
        match self {
            Self::None | Self::Delete(_) => None,
            Self::Create(new) | Self::Move { new, .. } | Self::Flags { new, .. } => Some(new),
        }
    }

    /// As [`Self::after`], to say how its pages are logged.
    pub(super) fn after_mut(&mut self) -> Option<&mut Slot> {
        match self {
            Self::None | Self::Delete(_) => None,
            Self::Create(new) | Self::Move { new, .. } | Self::Flags { new, .. } => Some(new),
        }
    }
}

/// Slots in a part at most.
const IN_PART: usize = 64;

/// Neighbours among the slots: never none, and never more than [`IN_PART`].
struct Part {
    sorted: KVVec<Slot>,
    /// Where in the VMM's memory they all lie.
    hvas: Range<u64>,
}

impl Part {
    /// The slots of `runs`, one behind the other.
    fn new(runs: &[&[Slot]]) -> Result<Arc<Self>> {
        let count = runs.iter().map(|run| run.len()).sum();
        let mut sorted = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for slot in runs.iter().flat_map(|run| run.iter()) {
            sorted.push(slot.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        let starts = sorted.iter().map(|slot| slot.hvas().start);
        let ends = sorted.iter().map(|slot| slot.hvas().end);
        let hvas = starts.min().unwrap_or(0)..ends.max().unwrap_or(0);
        Ok(Arc::new(Self { sorted, hvas }, GFP_KERNEL_ACCOUNT)?)
    }

    fn first(&self) -> Gfn {
        self.sorted[0].base
    }
}

/// The slots of a VM at one moment, sorted by frame, never overlapping. In parts, so that a change
/// of one among many slots need not copy all.
pub(crate) struct Slots {
    parts: KVVec<Arc<Part>>,
    /// Counts changes.
    pub(crate) generation: u64,
}

/// Where each slot is, by its number: its first frame.
pub(super) type Ids = RBTree<u32, Gfn>;

impl Slots {
    /// No slots.
    pub(crate) const fn empty() -> Self {
        Self {
            parts: KVVec::new(),
            generation: 0,
        }
    }

    /// The slot of a frame.
    #[inline]
    pub(crate) fn find(&self, gfn: Gfn) -> Option<&Slot> {
        self.get(self.place(gfn)?)
    }

    /// The last slot that begins at a frame or before it: its part, and its index there.
    #[inline]
    fn last_before(&self, gfn: Gfn) -> Option<(usize, usize)> {
        let part = self
            .parts
            .partition_point(|part| part.first() <= gfn)
            .checked_sub(1)?;
        let sorted = &self.parts.get(part)?.sorted;
        let index = sorted
            .partition_point(|slot| slot.base <= gfn)
            .checked_sub(1)?;
        Some((part, index))
    }

    /// The place of a frame's slot among the slots.
    #[inline]
    pub(crate) fn place(&self, gfn: Gfn) -> Option<usize> {
        let (part, index) = self.last_before(gfn)?;
        let place = part * IN_PART + index;
        self.get(place)?.contains(gfn).then_some(place)
    }

    /// The slot at a place.
    #[inline]
    pub(crate) fn get(&self, place: usize) -> Option<&Slot> {
        self.parts.get(place / IN_PART)?.sorted.get(place % IN_PART)
    }

    /// All slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.parts.iter().flat_map(|part| part.sorted.iter())
    }

    /// The slots that may have memory in `hvas`.
    pub(super) fn near<'a>(&'a self, hvas: &Range<Hva>) -> impl Iterator<Item = &'a Slot> {
        let (start, end) = (hvas.start.0, hvas.end.0);
        self.parts
            .iter()
            .filter(move |part| part.hvas.start < end && start < part.hvas.end)
            .flat_map(|part| part.sorted.iter())
    }

    /// Whether a slot other than number `id` has one of `frames`.
    fn overlaps(&self, frames: &Range<u64>, id: u32) -> bool {
        let (first, index) = self.last_before(Gfn(frames.start)).unwrap_or((0, 0));
        let parts = self.parts.get(first..).unwrap_or(&[]);
        parts
            .iter()
            .flat_map(|part| part.sorted.iter())
            .skip(index)
            .take_while(|slot| slot.base.0 < frames.end)
            .any(|slot| slot.id != id && frames.start < slot.frames().end)
    }

    /// What `region` asks for, checked.
    ///
    /// # Errors
    ///
    /// EINVAL for malformed requests, and for what a slot cannot change; EEXIST where slots would
    /// overlap.
    pub(super) fn plan(&self, region: &Region, ids: &Ids, max_gfn: u64) -> Result<Change> {
        check_form(region)?;

        let pages = region.size >> PAGE_SHIFT;
        let old = ids.get(&region.slot).and_then(|base| self.find(*base));
        let old = old.cloned();
        if pages == 0 {
            return Ok(Change::Delete(old.ok_or(EINVAL)?));
        }

        let new = Slot {
            id: region.slot,
            flags: region.flags,
            base: region.gpa.gfn(),
            pages,
            hva: region.hva,
            log: None,
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

        if let Change::Create(new) | Change::Move { new, .. } = &change {
            if self.overlaps(&new.frames(), new.id) {
                return Err(EEXIST);
            }
            if new.frames().end - 1 > max_gfn {
                return Err(EINVAL);
            }
        }
        Ok(change)
    }

    /// The slots after `change`.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(super) fn apply(&self, change: &Change) -> Result<Self> {
        let (old, new) = (change.before(), change.after());
        let mut slots = Self {
            parts: KVVec::with_capacity(self.parts.len() + 1, GFP_KERNEL_ACCOUNT)?,
            generation: self.generation + 1,
        };
        for part in &self.parts {
            slots.parts.push(part.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        if let Some(old) = old {
            slots.remove(old)?;
        }
        if let Some(new) = new {
            slots.insert(new)?;
        }
        Ok(slots)
    }

    fn remove(&mut self, old: &Slot) -> Result {
        let (part, index) = self.last_before(old.base).ok_or(EINVAL)?;
        let sorted = &self.parts[part].sorted;
        if sorted.len() == 1 {
            self.parts.remove(part).map_err(|_| EINVAL)?;
            return Ok(());
        }
        let (before, after) = sorted.split_at(index);
        self.parts[part] = Part::new(&[before, &after[1..]])?;
        Ok(())
    }

    fn insert(&mut self, new: &Slot) -> Result {
        let (part, before) = match self.last_before(new.base) {
            Some((part, index)) => (part, index + 1),
            None => (0, 0),
        };
        let sorted = self.parts.get(part).map_or(&[][..], |part| &part.sorted);
        let (before, after) = sorted.split_at(before);
        let new = core::slice::from_ref(new);
        if !sorted.is_empty() && sorted.len() < IN_PART {
            self.parts[part] = Part::new(&[before, new, after])?;
            return Ok(());
        }
        if before.is_empty() {
            return self.insert_part(part, Part::new(&[new])?);
        }
        // The part is full: one more begins with the new slot.
        let rest = (!after.is_empty()).then(|| Part::new(&[before]));
        let second = Part::new(&[new, after])?;
        if let Some(rest) = rest {
            self.parts[part] = rest?;
        }
        self.insert_part(part + 1, second)
    }

    fn insert_part(&mut self, place: usize, part: Arc<Part>) -> Result {
        self.parts
            .insert_within_capacity(place, part)
            .map_err(|_| ENOMEM)
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
