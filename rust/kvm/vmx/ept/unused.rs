// SPDX-License-Identifier: GPL-2.0

//! Tables that were in the tree: freeing them takes long, and needs no lock.

use core::ops::Range;

use arch::{
    addr::Hpa,
    ept::Entry, //
};

use super::{
    for_each_in,
    load,
    store,
    subtree,
    Table,
    DETACHED, //
};

/// Subtrees that are taken out at a time.
const MOST: usize = 32;

/// Subtrees that nobody else knows: what was detached, and no processor remembers any more.
#[derive(Default)]
pub(crate) struct Unused {
    /// Each with the level of its root.
    subtrees: [(Hpa, u8); MOST],
    count: usize,
}

impl Unused {
    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes what was detached in `frames` out of a table and those below it, as far as there is
    /// room.
    pub(super) fn take(&mut self, table: &Table, base: u64, level: u8, frames: &Range<u64>) {
        for_each_in(table, base, level, frames, |slot, start| {
            let entry = load(slot);
            if entry.0 & DETACHED != 0 {
                if let Some(place) = self.subtrees.get_mut(self.count) {
                    store(slot, Entry::EMPTY);
                    *place = (entry.address(), level - 1);
                    self.count += 1;
                }
            } else if level > 2 && entry.is_present() && !entry.is_leaf(level) {
                // SAFETY: A present entry that is no leaf refers to a table; the tree is ours.
                let below = unsafe { super::table(entry) };
                self.take(below, start, level - 1, frames);
            }
        });
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        for (hpa, level) in self.subtrees.iter().take(self.count) {
            subtree::free(*hpa, *level);
        }
    }
}
