// SPDX-License-Identifier: GPL-2.0

//! Extended page tables: a tree of four levels, owned from its root.
//!
//! A table is owned by the entry that refers to it. When a whole table goes, its entry is made not
//! present but keeps the address until the processors have forgotten it; only then is the subtree
//! freed.
//!
//! Whoever changes the tree has the [`Serial`]. Beside that, a vCPU in its turn may make a leaf
//! writable, without any lock: nobody frees a table before that turn is over.

mod leaves;
mod subtree;
mod unused;

use core::{
    ops::Range,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use arch::{
    addr::{
        Gfn,
        Hpa, //
    },
    ept::{
        self,
        Entry,
        Writes,
        ENTRIES,
        LEVELS, //
    },
};
use kernel::prelude::*;

use crate::{
    host::{
        guest_mode::GuestMode,
        page::HardwarePage, //
    },
    vm::{
        Mapped,
        Mapping,
        SecondLevel,
        Serial,
        SpareTables, //
    },
};

use unused::Unused;

/// Set in an entry, not present, that still owns a table. Hardware ignores it.
const DETACHED: u64 = 1 << 62;

type Table = [AtomicU64; ENTRIES];

/// The tables of a VM.
pub(crate) struct Ept {
    root: HardwarePage,
    /// The processor logs which pages a guest writes, by dirty flags.
    logs_writes: bool,
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

/// Calls `f` on each entry of `table` that maps frames in `frames`, with the first of those it maps.
fn for_each_in(
    table: &Table,
    base: u64,
    level: u8,
    frames: &Range<u64>,
    mut f: impl FnMut(&AtomicU64, u64),
) {
    let shift = ept::level_shift(level);
    let end = base + ((ENTRIES as u64) << shift);
    if frames.start >= end || frames.end <= base {
        return;
    }
    let first = (frames.start.max(base) - base) >> shift;
    let last = (frames.end.min(end) - 1 - base) >> shift;
    let mut start = base + (first << shift);
    let entries = table.get(first as usize..=last as usize);
    for slot in entries.unwrap_or_default() {
        f(slot, start);
        start = start.wrapping_add(1 << shift);
    }
}

/// Whether an entry at `level` that maps frames from `start` on maps none but those of `frames`.
fn is_inside(start: u64, level: u8, frames: &Range<u64>) -> bool {
    frames.start <= start && start + (1 << ept::level_shift(level)) <= frames.end
}

impl Ept {
    /// What a leaf for `mapping` lets the guest do.
    fn writes(&self, mapping: &Mapping) -> Writes {
        match (mapping.writable, mapping.log_writes) {
            (false, _) => Writes::Never,
            (true, false) => Writes::Free,
            (true, true) if self.logs_writes => Writes::SetDirty,
            (true, true) => Writes::Exit,
        }
    }

    /// Puts a table of smaller pages in the place of the large page `entry` at `level`. First
    /// writes of all of them will be heard of.
    fn split(&self, slot: &AtomicU64, entry: Entry, level: u8, page: HardwarePage) -> Entry {
        // The parts have the same flags, and their pages lie behind each other.
        let [mut part, second] = [0, 1]
            .map(|index| leaves::heard_of(entry.part(level, index), level - 1, self.logs_writes));
        let step = second.0.wrapping_sub(part.0);
        for slot in page.words() {
            store(slot, part);
            part = Entry(part.0.wrapping_add(step));
        }
        let table = Entry::table(page.into_hpa());
        store(slot, table);
        table
    }
}

impl SecondLevel for Ept {
    type Unused = Unused;

    fn new(logs_writes: bool) -> Result<Self> {
        Ok(Self {
            root: HardwarePage::new()?,
            logs_writes,
        })
    }

    fn root(&self) -> Hpa {
        self.root.hpa()
    }

    fn map(&self, _serial: &mut Serial, mapping: &Mapping, spare: &mut SpareTables) -> Mapped {
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
                store(slot, Entry::leaf(page, level, self.writes(mapping)));
                return Mapped::Order(ept::level_shift(level));
            }
            let next = if has_table {
                entry
            } else if entry.is_present() && (!mapping.is_write || entry.is_writable()) {
                // A large page is there already, by another vCPU that was faster.
                return Mapped::Order(ept::level_shift(level));
            } else {
                let Some(page) = spare.take() else {
                    return Mapped::Nothing;
                };
                if entry.is_present() {
                    self.split(slot, entry, level, page)
                } else {
                    let entry = Entry::table(page.into_hpa());
                    store(slot, entry);
                    entry
                }
            };
            // SAFETY: The entry is a table's; who has the `Serial` keeps the tree.
            table = unsafe { self::table(next) };
            level -= 1;
        }
    }

    fn unmap(&self, _serial: &mut Serial, frames: Range<u64>) -> bool {
        subtree::unmap(self.root.words(), 0, LEVELS, &frames)
    }

    fn take_unmapped(&self, _serial: &mut Serial, frames: &Range<u64>) -> Option<Unused> {
        let mut unused = Unused::default();
        unused.take(self.root.words(), 0, LEVELS, frames);
        (!unused.is_empty()).then_some(unused)
    }

    fn join(
        &self,
        _serial: &mut Serial,
        frames: Range<u64>,
        mut can_join: impl FnMut(Gfn, u32) -> bool,
    ) -> bool {
        subtree::join(self.root.words(), 0, LEVELS, &frames, &mut can_join)
    }

    fn test_young(&self, _serial: &mut Serial, frames: Range<u64>, clear: bool) -> bool {
        leaves::test_young(self.root.words(), 0, LEVELS, &frames, clear)
    }

    fn hear_of_writes(&self, _serial: &mut Serial, frames: Range<u64>) -> bool {
        leaves::hear_of_writes(self.root.words(), 0, LEVELS, &frames, self.logs_writes)
    }

    fn hear_of_writes_masked(&self, _serial: &mut Serial, first: Gfn, mask: u64) -> bool {
        leaves::hear_of_writes_masked(self.root.words(), first.0, mask, self.logs_writes)
    }

    fn allow_write(&self, _turn: &GuestMode<'_>, gfn: Gfn, small_alone: bool) -> Option<bool> {
        leaves::allow_write(self.root.words(), gfn.0, small_alone)
    }
}

impl Drop for Ept {
    fn drop(&mut self) {
        for slot in self.root.words() {
            let entry = load(slot);
            if entry.is_present() || entry.0 & DETACHED != 0 {
                subtree::free(entry.address(), LEVELS - 1);
            }
        }
    }
}
