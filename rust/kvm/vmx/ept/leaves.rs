// SPDX-License-Identifier: GPL-2.0

//! Flags of leaves: who used a page, and who wrote it.
//!
//! Processors set accessed and dirty flags at any time, and vCPUs make leaves writable in their
//! turns, so flags change by atomic operations.

use core::{
    ops::Range,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use arch::ept::{
    self,
    Entry,
    EntryFlags,
    LEVELS, //
};

use super::{
    for_each_in,
    load,
    Table, //
};

/// The flags whose absence lets us hear of a write: by an exit, or by the processor's log. That log
/// is about small pages, so the first write to a large one exits, to have it split.
fn flag(level: u8, logs_writes: bool) -> EntryFlags {
    if logs_writes && level == 1 {
        EntryFlags::DIRTY
    } else {
        EntryFlags::WRITE
    }
}

/// The leaf as it must be for its next write to be heard of.
pub(super) fn heard_of(entry: Entry, level: u8, logs_writes: bool) -> Entry {
    if logs_writes && level == 1 && entry.has_writable_page() {
        entry.with(EntryFlags::WRITE, EntryFlags::DIRTY)
    } else {
        entry.with(EntryFlags::empty(), EntryFlags::WRITE)
    }
}

/// Has the next write through a leaf heard of. Returns whether translations are stale now.
fn hear_of_leaf(slot: &AtomicU64, entry: Entry, level: u8, logs_writes: bool) -> bool {
    let flag = flag(level, logs_writes).bits();
    entry.is_writable()
        && entry.0 & flag != 0
        && slot.fetch_and(!flag, Ordering::Relaxed) & flag != 0
}

/// Has the next write of each of `frames` heard of. Returns whether translations are stale now.
pub(super) fn hear_of_writes(
    table: &Table,
    base: u64,
    level: u8,
    frames: &Range<u64>,
    logs_writes: bool,
) -> bool {
    let mut stale = false;
    for_each_in(table, base, level, frames, |slot, start| {
        let entry = load(slot);
        if !entry.is_present() {
        } else if entry.is_leaf(level) {
            stale |= hear_of_leaf(slot, entry, level, logs_writes);
        } else {
            // SAFETY: A present entry that is no leaf refers to a table; the tree is ours.
            let below = unsafe { super::table(entry) };
            stale |= hear_of_writes(below, start, level - 1, frames, logs_writes);
        }
    });
    stale
}

/// The table in which the walk for `gfn` ends, and its level.
///
/// # Safety
///
/// Tables below `root` are not freed during `'a`.
unsafe fn last_table(root: &Table, gfn: u64) -> (&Table, u8) {
    let mut table = root;
    let mut level = LEVELS;
    while level > 1 {
        let entry = load(&table[ept::index(gfn, level)]);
        if !entry.is_present() || entry.is_leaf(level) {
            break;
        }
        // SAFETY: A present entry that is no leaf refers to a table; the caller's promise.
        table = unsafe { super::table(entry) };
        level -= 1;
    }
    (table, level)
}

/// The bits of a mask from `bit` on.
fn from_bit(bit: u64) -> u64 {
    u64::MAX.checked_shl(bit.min(64) as u32).unwrap_or(0)
}

/// As [`hear_of_writes`], for `first` and the 63 frames after it, as far as their bit in `mask` is
/// set.
pub(super) fn hear_of_writes_masked(
    root: &Table,
    first: u64,
    mask: u64,
    logs_writes: bool,
) -> bool {
    let mut stale = false;
    let mut rest = mask;
    while rest != 0 {
        let gfn = first + u64::from(rest.trailing_zeros());
        // SAFETY: The tree is ours.
        let (table, level) = unsafe { last_table(root, gfn) };
        // What comes next is in another table, or behind the large page.
        let shift = if level == 1 {
            9
        } else {
            ept::level_shift(level)
        };
        let next = ((gfn >> shift) + 1) << shift;
        let mut here = rest & !from_bit(next - first);
        rest &= !here;
        if level > 1 {
            here &= here.wrapping_neg();
        }
        while here != 0 {
            let gfn = first + u64::from(here.trailing_zeros());
            here &= here - 1;
            let slot = &table[ept::index(gfn, level)];
            let entry = load(slot);
            stale |= entry.is_present() && hear_of_leaf(slot, entry, level, logs_writes);
        }
    }
    stale
}

/// Lets the guest write `gfn`, if the page may be written, and is a small one where `small_alone` is
/// set. Whether that is so; and then, whether the leaf was not writable before.
///
/// For a vCPU in its turn: tables stay until that is over.
pub(super) fn allow_write(root: &Table, gfn: u64, small_alone: bool) -> Option<bool> {
    // SAFETY: Tables are freed after all vCPUs ended the turns in which they could see them.
    let (table, level) = unsafe { last_table(root, gfn) };
    let slot = &table[ept::index(gfn, level)];
    let entry = load(slot);
    if !entry.is_leaf(level) || !entry.has_writable_page() {
        return None;
    }
    if entry.is_writable() {
        return Some(false);
    }
    if small_alone && level > 1 {
        return None;
    }
    let writable = entry.with(
        EntryFlags::WRITE.union(EntryFlags::DIRTY),
        EntryFlags::empty(),
    );
    // Where it changed meanwhile, the guest comes back if it has to.
    let won = slot.compare_exchange(entry.0, writable.0, Ordering::Release, Ordering::Relaxed);
    Some(won.is_ok())
}

/// Whether a page of `frames` was used since this was last cleared; clears it if asked.
pub(super) fn test_young(
    table: &Table,
    base: u64,
    level: u8,
    frames: &Range<u64>,
    clear: bool,
) -> bool {
    let mut young = false;
    for_each_in(table, base, level, frames, |slot, start| {
        let entry = load(slot);
        if !entry.is_present() {
            return;
        }
        if !entry.is_leaf(level) {
            // SAFETY: As in `hear_of_writes`.
            let below = unsafe { super::table(entry) };
            young |= test_young(below, start, level - 1, frames, clear);
            return;
        }
        young |= entry.is_accessed();
        if clear {
            // The translation may stay cached and the flag stay clear: aging is a guess anyway,
            // and a flush would cost more than it tells.
            slot.fetch_and(!EntryFlags::ACCESSED.bits(), Ordering::Relaxed);
        }
    });
    young
}
