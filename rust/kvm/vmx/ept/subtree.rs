// SPDX-License-Identifier: GPL-2.0

//! Taking parts of the tree away. Whoever calls these has the tree to himself.

use core::{
    ops::Range,
    sync::atomic::AtomicU64, //
};

use arch::{
    addr::{
        Gfn,
        Hpa, //
    },
    ept::{
        level_shift,
        Entry, //
    },
};

use super::{
    for_each_in,
    is_inside,
    load,
    store,
    Table,
    DETACHED, //
};
use crate::host::page::HardwarePage;

/// Makes the entry not present, but remember its table.
fn detach(slot: &AtomicU64, entry: Entry) {
    store(slot, Entry(entry.address().0 | DETACHED));
}

/// Unmaps `frames`, and the large pages they are part of. Returns whether anything was mapped.
pub(super) fn unmap(table: &Table, base: u64, level: u8, frames: &Range<u64>) -> bool {
    let mut any = false;
    for_each_in(table, base, level, frames, |slot, start| {
        let entry = load(slot);
        if !entry.is_present() {
            return;
        }
        if entry.is_leaf(level) {
            store(slot, Entry::EMPTY);
            any = true;
        } else if is_inside(start, level, frames) {
            detach(slot, entry);
            any = true;
        } else {
            // SAFETY: A present entry that is no leaf refers to a table; the tree is ours.
            let below = unsafe { super::table(entry) };
            any |= unmap(below, start, level - 1, frames);
        }
    });
    any
}

/// Unmaps each table of smaller pages, all in `frames`, for which `can_join` says, of its first
/// frame and the log2 of its small pages, that a large page could be in its place. Returns whether
/// there was one.
pub(super) fn join(
    table: &Table,
    base: u64,
    level: u8,
    frames: &Range<u64>,
    can_join: &mut impl FnMut(Gfn, u32) -> bool,
) -> bool {
    let mut any = false;
    for_each_in(table, base, level, frames, |slot, start| {
        let entry = load(slot);
        if !entry.is_present() || entry.is_leaf(level) {
            return;
        }
        let inside = is_inside(start, level, frames);
        if inside && can_join(Gfn(start), level_shift(level)) {
            detach(slot, entry);
            any = true;
        } else if level > 2 {
            // SAFETY: As in `unmap`.
            let below = unsafe { super::table(entry) };
            any |= join(below, start, level - 1, frames, can_join);
        }
    });
    any
}

/// Frees the table at `hpa`, which nothing refers to any more, and all below it.
pub(super) fn free(hpa: Hpa, level: u8) {
    // SAFETY: The address is that of a table of this tree, and its only reference is gone.
    let page = unsafe { HardwarePage::from_hpa(hpa) };
    if level == 1 {
        return;
    }
    for slot in page.words() {
        let entry = load(slot);
        let owns_table = entry.0 & DETACHED != 0 || (entry.is_present() && !entry.is_leaf(level));
        if owns_table {
            free(entry.address(), level - 1);
        }
    }
}
