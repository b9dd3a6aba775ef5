// SPDX-License-Identifier: GPL-2.0

//! Extended page tables: a tree of four levels, owned from its root.
//!
//! A table is owned by the entry that refers to it. When a whole table goes, its entry is made not
//! present but keeps the address until the processors have forgotten it; only then is the subtree
//! freed.

use core::{
    ops::Range,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use arch::{
    addr::Hpa,
    ept::{
        self,
        Entry,
        EntryFlags,
        ENTRIES,
        LEVELS, //
    },
};
use kernel::prelude::*;

use crate::{
    host::page::HardwarePage,
    vm::{
        Mapping,
        SecondLevel,
        SpareTables, //
    },
};

/// Set in an entry, not present, that still owns a table. Hardware ignores it.
const DETACHED: u64 = 1 << 62;

type Table = [AtomicU64; ENTRIES];

/// The tables of a VM.
pub(crate) struct Ept {
    root: HardwarePage,
}

/// The table that `entry` refers to.
///
/// # Safety
///
/// The entry is a table's, and the subtree is not freed during `'a`.
unsafe fn table<'a>(entry: Entry) -> &'a Table {
    // SAFETY: Addresses in table entries come from `HardwarePage::into_hpa`.
    unsafe { HardwarePage::borrow_hpa(entry.address()) }
}

fn load(slot: &AtomicU64) -> Entry {
    Entry(slot.load(Ordering::Relaxed))
}

/// Stores what becomes visible to page walks at once.
fn store(slot: &AtomicU64, entry: Entry) {
    slot.store(entry.0, Ordering::Release);
}

/// The frames that entry `index` of a table at `level` maps, for a table that starts at `base`.
fn span(base: u64, index: usize, level: u8) -> Range<u64> {
    let pages = 1u64 << ept::level_shift(level);
    let start = base + index as u64 * pages;
    start..start + pages
}

/// Calls `f` on each entry of `table` that maps frames in `frames`, with those it maps.
fn for_each_in(
    table: &Table,
    base: u64,
    level: u8,
    frames: &Range<u64>,
    mut f: impl FnMut(&AtomicU64, Range<u64>),
) {
    let shift = ept::level_shift(level);
    let end = base + ((ENTRIES as u64) << shift);
    if frames.start >= end || frames.end <= base {
        return;
    }
    let first = (frames.start.max(base) - base) >> shift;
    let last = (frames.end.min(end) - 1 - base) >> shift;
    let (first, last) = (first as usize, last as usize);
    for (index, slot) in table.iter().enumerate().take(last + 1).skip(first) {
        f(slot, span(base, index, level));
    }
}

fn unmap(table: &Table, base: u64, level: u8, frames: &Range<u64>) -> bool {
    let mut any = false;
    for_each_in(table, base, level, frames, |slot, covered| {
        let entry = load(slot);
        if !entry.is_present() {
            return;
        }
        if entry.is_leaf(level) {
            store(slot, Entry::EMPTY);
            any = true;
        } else if frames.start <= covered.start && covered.end <= frames.end {
            store(slot, Entry(entry.address().0 | DETACHED));
            any = true;
        } else {
            // SAFETY: A present entry that is no leaf refers to a table; we hold the tree.
            let below = unsafe { self::table(entry) };
            any |= unmap(below, covered.start, level - 1, frames);
        }
    });
    any
}

fn free_detached(table: &Table, base: u64, level: u8, frames: &Range<u64>) {
    for_each_in(table, base, level, frames, |slot, covered| {
        let entry = load(slot);
        if entry.0 & DETACHED != 0 {
            store(slot, Entry::EMPTY);
            free_subtree(entry.address(), level - 1);
        } else if entry.is_present() && !entry.is_leaf(level) {
            // SAFETY: As in `unmap`.
            let below = unsafe { self::table(entry) };
            free_detached(below, covered.start, level - 1, frames);
        }
    });
}

/// Frees the table at `hpa`, which nothing refers to any more, and all below it.
fn free_subtree(hpa: Hpa, level: u8) {
    // SAFETY: The address is that of a table of this tree, and its only reference is gone.
    let page = unsafe { HardwarePage::from_hpa(hpa) };
    if level == 1 {
        return;
    }
    for slot in page.words() {
        let entry = load(slot);
        let owns_table = entry.0 & DETACHED != 0 || (entry.is_present() && !entry.is_leaf(level));
        if owns_table {
            free_subtree(entry.address(), level - 1);
        }
    }
}

fn test_young(table: &Table, base: u64, level: u8, frames: &Range<u64>, clear: bool) -> bool {
    let mut young = false;
    for_each_in(table, base, level, frames, |slot, covered| {
        let entry = load(slot);
        if !entry.is_present() {
            return;
        }
        if !entry.is_leaf(level) {
            // SAFETY: As in `unmap`.
            let below = unsafe { self::table(entry) };
            young |= test_young(below, covered.start, level - 1, frames, clear);
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

impl SecondLevel for Ept {
    fn new() -> Result<Self> {
        Ok(Self {
            root: HardwarePage::new()?,
        })
    }

    fn root(&self) -> Hpa {
        self.root.hpa()
    }

    fn map(&mut self, mapping: &Mapping, spare: &mut SpareTables) {
        let gfn = mapping.gfn.0;
        let wanted = 1 + (mapping.order / 9) as u8;
        let mut table: &Table = self.root.words();
        let mut level = LEVELS;
        loop {
            let slot = &table[ept::index(gfn, level)];
            let entry = load(slot);
            let has_table = entry.is_present() && !entry.is_leaf(level);

            if level == 1 || (level == wanted && !has_table) {
                let mask = (1u64 << ept::level_shift(level)) * 4096 - 1;
                let page = Hpa(mapping.hpa.0 & !mask);
                store(slot, Entry::leaf(page, level, mapping.writable));
                return;
            }
            let next = if has_table {
                entry
            } else if entry.is_present() {
                // A large page is there already, by another vCPU that was faster.
                return;
            } else {
                let Some(page) = spare.take() else {
                    return;
                };
                let entry = Entry::table(page.into_hpa());
                store(slot, entry);
                entry
            };
            // SAFETY: The entry is a table's; `&mut self` keeps the tree.
            table = unsafe { self::table(next) };
            level -= 1;
        }
    }

    fn unmap(&mut self, frames: Range<u64>) -> bool {
        unmap(self.root.words(), 0, LEVELS, &frames)
    }

    fn free_unmapped(&mut self, frames: Range<u64>) {
        free_detached(self.root.words(), 0, LEVELS, &frames);
    }

    fn test_young(&mut self, frames: Range<u64>, clear: bool) -> bool {
        test_young(self.root.words(), 0, LEVELS, &frames, clear)
    }
}

impl Drop for Ept {
    fn drop(&mut self) {
        for slot in self.root.words() {
            let entry = load(slot);
            if entry.is_present() || entry.0 & DETACHED != 0 {
                free_subtree(entry.address(), LEVELS - 1);
            }
        }
    }
}
