// SPDX-License-Identifier: GPL-2.0

//! Sweeps: telling the VMM which pages were written, and hearing of the next writes to them.
//!
//! However many pages that takes, translations are invalidated once, at the end.

use core::{
    ops::Range,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use arch::addr::{
    Gfn,
    PAGE_SHIFT, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    dirty::{
        DirtyBitmap,
        Log,
        WORD, //
    },
    dirty_ring::DirtyRing,
    slots::{
        Ids,
        Slot,
        MAX_SLOTS, //
    },
    Memory,
    SecondLevel,
    UNMAP_AT_ONCE, //
};

/// Words of a bitmap that are copied to or from the VMM at a time.
const WORDS_AT_ONCE: usize = 128;
/// Words of a bitmap, and frames, that are looked at without letting anybody else have a turn: some
/// thousand instructions.
const WORDS_LOCKED: usize = 2;
const FRAMES_LOCKED: u64 = 1 << 8;
/// Frames whose tables are given up without letting anybody else have a turn: 32 MiB.
const JOIN_AT_ONCE: u64 = 1 << 13;
/// log2 of the small pages in a page of 2 MiB and of 1 GiB.
const LARGE: u32 = 9;
const HUGE: u32 = 18;

/// A part of a bitmap to clear.
#[derive(Clone, Copy)]
pub(crate) struct Clear {
    pub(crate) slot: u32,
    pub(crate) first_page: u64,
    pub(crate) pages: u64,
}

/// The words of a sweep's part.
type Words = [u64; WORDS_AT_ONCE];

impl<T: SecondLevel> Memory<T> {
    /// The slot that `id` names, and its bitmap.
    fn logged_slot(&self, ids: &Ids, id: u32) -> Result<(Slot, Arc<DirtyBitmap>)> {
        let base = ids.get(&id).ok_or(ENOENT)?;
        let slots = self.tables.lock().slots.clone();
        let slot = slots.find(*base).ok_or(ENOENT)?;
        match &slot.log {
            Some(Log::Bitmap(bitmap)) => Ok((slot.clone(), bitmap.clone())),
            _ => Err(ENOENT),
        }
    }

    fn check_bitmaps(&self, id: u32) -> Result {
        if self.ring_size() != 0 {
            return Err(ENXIO);
        }
        if id >= MAX_SLOTS {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Calls `copy_out` with the bitmap of a slot, part by part, each with the number of its first
    /// word (api.rst, 4.8 KVM_GET_DIRTY_LOG). Unless the VMM clears it by itself, it is clear
    /// afterwards.
    ///
    /// # Errors
    ///
    /// ENXIO where there are rings, EINVAL for a slot that cannot be, ENOENT where it is not there or
    /// has no log, and `copy_out`'s.
    pub(crate) fn get_dirty_log(
        &self,
        id: u32,
        mut copy_out: impl FnMut(usize, &[u64]) -> Result,
    ) -> Result {
        self.check_bitmaps(id)?;
        let ids = self.update.lock();
        let (slot, bitmap) = self.logged_slot(&ids, id)?;
        self.collect_writes();

        let keep = self.manual_protect();
        let mut stale = false;
        let mut out: Words = [0; WORDS_AT_ONCE];
        let parts = bitmap.words().chunks(WORDS_AT_ONCE).enumerate();
        let mut copied = Ok(());
        for (part, words) in parts {
            let out = &mut out[..words.len()];
            let first = part * WORDS_AT_ONCE;
            if keep {
                for (to, word) in out.iter_mut().zip(words) {
                    *to = word.load(Ordering::Relaxed);
                }
            } else {
                out.fill(u64::MAX);
                stale |= self.take(&slot, first, words, out);
            }
            copied = copy_out(first, out);
            if copied.is_err() {
                break;
            }
        }
        if stale {
            self.flush_now();
        }
        copied
    }

    /// Clears part of a slot's bitmap: the bits that are set in what `copy_in` gets, which is called
    /// as in [`Self::get_dirty_log`] (api.rst, 4.117 KVM_CLEAR_DIRTY_LOG).
    ///
    /// # Errors
    ///
    /// As for [`Self::get_dirty_log`], EINVAL also where the part does not begin and end with a word,
    /// and `copy_in`'s.
    pub(crate) fn clear_dirty_log(
        &self,
        clear: &Clear,
        mut copy_in: impl FnMut(usize, &mut [u64]) -> Result,
    ) -> Result {
        self.check_bitmaps(clear.slot)?;
        if clear.first_page % WORD != 0 {
            return Err(EINVAL);
        }
        let ids = self.update.lock();
        let (slot, bitmap) = self.logged_slot(&ids, clear.slot)?;
        let behind = slot.pages.checked_sub(clear.first_page).ok_or(EINVAL)?;
        if clear.pages > behind || (clear.pages < behind && clear.pages % WORD != 0) {
            return Err(EINVAL);
        }
        self.collect_writes();

        let first = (clear.first_page / WORD) as usize;
        let count = clear.pages.div_ceil(WORD) as usize;
        let words = &bitmap.words()[first..first + count];
        let mut masks: Words = [0; WORDS_AT_ONCE];
        let mut stale = false;
        let mut copied = Ok(());
        for (part, words) in words.chunks(WORDS_AT_ONCE).enumerate() {
            let masks = &mut masks[..words.len()];
            let place = part * WORDS_AT_ONCE;
            copied = copy_in(place, masks);
            if copied.is_err() {
                break;
            }
            stale |= self.take(&slot, first + place, words, masks);
        }
        if stale {
            self.flush_now();
        }
        copied
    }

    /// Takes the bits of `masks` out of `words`, which are the slot's from word `first` on, and leaves
    /// in `masks` those that were set. Next writes to their pages will be heard of; returns whether
    /// translations are stale for that.
    fn take(&self, slot: &Slot, first: usize, words: &[AtomicU64], masks: &mut [u64]) -> bool {
        let mut stale = false;
        let mut gfn = slot.base.0 + first as u64 * WORD;
        let parts = words.chunks(WORDS_LOCKED);
        for (words, masks) in parts.zip(masks.chunks_mut(WORDS_LOCKED)) {
            let mut tables = self.tables.lock();
            for (word, mask) in words.iter().zip(masks) {
                let wanted = *mask & word.load(Ordering::Relaxed);
                *mask = if wanted == 0 {
                    0
                } else {
                    wanted & word.fetch_and(!wanted, Ordering::AcqRel)
                };
                if *mask != 0 {
                    stale |= self.second_level.hear_of_writes_masked(
                        &mut tables.serial,
                        Gfn(gfn),
                        *mask,
                    );
                }
                gfn += WORD;
            }
        }
        stale
    }

    /// Frees the entries of rings that the VMM is done with (api.rst, 4.134
    /// KVM_RESET_DIRTY_RINGS): next writes to their pages will be heard of. Returns how many.
    ///
    /// # Errors
    ///
    /// EINVAL where there are no rings.
    pub(crate) fn reset_rings<'a>(
        &self,
        rings: impl Iterator<Item = &'a DirtyRing>,
    ) -> Result<i32> {
        if self.ring_size() == 0 {
            return Err(EINVAL);
        }
        let ids = self.update.lock();
        let mut count = 0;
        let mut stale = false;
        for ring in rings {
            let mut batch = Batch::default();
            while count < i32::MAX && !kernel::current!().signal_pending() {
                let Some((id, page)) = ring.take_back() else {
                    break;
                };
                count += 1;
                if !batch.add(id, page) {
                    stale |= self.reset(&ids, &batch);
                    batch = Batch::default();
                    batch.add(id, page);
                }
            }
            stale |= self.reset(&ids, &batch);
        }
        if stale {
            self.flush_now();
        }
        Ok(count)
    }

    /// Hears of the next writes to what `batch` names, as far as there are such pages.
    fn reset(&self, ids: &Ids, batch: &Batch) -> bool {
        let mut tables = self.tables.lock();
        let slots = tables.slots.clone();
        let slot = ids.get(&batch.slot).and_then(|base| slots.find(*base));
        let Some(slot) = slot.filter(|slot| slot.log.is_some()) else {
            return false;
        };
        let Some(behind) = slot
            .pages
            .checked_sub(batch.first)
            .filter(|pages| *pages > 0)
        else {
            return false;
        };
        let mask = batch.mask & (u64::MAX >> (WORD - behind.min(WORD)));
        self.second_level.hear_of_writes_masked(
            &mut tables.serial,
            Gfn(slot.base.0 + batch.first),
            mask,
        )
    }

    /// Hears of the next write to each page of the slot, from when this returns.
    pub(super) fn start_log(&self, slot: &Slot) {
        for frames in in_parts(slot.frames(), FRAMES_LOCKED) {
            let mut tables = self.tables.lock();
            self.second_level.hear_of_writes(&mut tables.serial, frames);
        }
        self.flush_now();
    }

    /// Makes room for large pages, where small ones were mapped to hear of writes to each.
    pub(super) fn join(&self, slot: &Slot) {
        for (order, at_once) in [(HUGE, UNMAP_AT_ONCE), (LARGE, JOIN_AT_ONCE)] {
            if order <= self.limits.max_order {
                for frames in in_parts(slot.frames(), at_once) {
                    self.join_in(slot, frames, order);
                }
            }
        }
    }

    /// As [`Self::join`], for pages of 2 to the power of `order` small ones, of which `frames` holds
    /// 16 at most.
    fn join_in(&self, slot: &Slot, frames: Range<u64>, order: u32) {
        let mut tables = self.tables.lock();
        let locked = &mut *tables;
        let can_join = |gfn, possible| {
            possible == order
                && slot.allows_order(gfn, order)
                && self
                    .mm
                    .mapping_shift(slot.hva_of(gfn))
                    .is_some_and(|shift| shift >= order + PAGE_SHIFT)
        };
        let serial = &mut locked.serial;
        if self.second_level.join(serial, frames.clone(), can_join) {
            self.flush(&mut locked.kick_mask);
            // All of them: a fault may come for these frames.
            let serial = &mut locked.serial;
            let unused = self.second_level.take_unmapped(serial, &frames);
            drop(tables);
            drop(unused);
        }
    }

    /// Has the vCPUs hand over what the processor logged of their writes.
    pub(super) fn collect_writes(&self) {
        if self.logs_writes() {
            let mut tables = self.tables.lock();
            self.runners.kick_all(&mut tables.kick_mask);
        }
    }

    /// Makes cached translations stale, as [`Self::flush`].
    fn flush_now(&self) {
        self.flush(&mut self.tables.lock().kick_mask);
    }
}

/// `frames` in parts that lie each in `at_once` frames, a power of 2, from a multiple of that on.
pub(super) fn in_parts(frames: Range<u64>, at_once: u64) -> impl Iterator<Item = Range<u64>> {
    let mut start = frames.start;
    core::iter::from_fn(move || {
        let end = ((start | (at_once - 1)) + 1).min(frames.end);
        let part = start..end;
        start = end;
        (!part.is_empty()).then_some(part)
    })
}

/// Pages of a slot that lie close together.
#[derive(Default)]
struct Batch {
    slot: u32,
    first: u64,
    mask: u64,
}

impl Batch {
    /// Adds a page. Returns whether it could be: not if it is of another slot, or too far away.
    fn add(&mut self, slot: u32, page: u64) -> bool {
        if self.mask == 0 {
            *self = Self {
                slot,
                first: page,
                mask: 1,
            };
            return true;
        }
        if slot != self.slot {
            return false;
        }
        let after = page.wrapping_sub(self.first);
        if after < WORD {
            self.mask |= 1 << after;
            return true;
        }
        let before = self.first.wrapping_sub(page);
        if before < WORD && u64::from(self.mask.leading_zeros()) >= before {
            self.first = page;
            self.mask = self.mask << before | 1;
            return true;
        }
        false
    }
}
