// SPDX-License-Identifier: GPL-2.0

//! Extended page tables: entries and the pointer to their root (SDM vol. 3, 29.3).

use bitflags::bitflags;

use crate::addr::Hpa;

/// Entries in a table.
pub const ENTRIES: usize = 512;
/// Levels of the walk: 4, from the PML4 table down to page tables at level 1.
pub const LEVELS: u8 = 4;
/// Physical-address bits an entry can hold.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

bitflags! {
    /// Bits of an entry beside its address (SDM vol. 3, tables 29-1 to 29-7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EntryFlags: u64 {
        /// Data reads are allowed.
        const READ = 1 << 0;
        /// Data writes are allowed.
        const WRITE = 1 << 1;
        /// Instruction fetches are allowed.
        const EXECUTE = 1 << 2;
        /// Memory type write-back, in a leaf.
        const WRITE_BACK = 6 << 3;
        /// The guest's PAT is ignored, in a leaf.
        const IGNORE_PAT = 1 << 6;
        /// A leaf above level 1: a large page.
        const LARGE = 1 << 7;
        /// The processor used the translation.
        const ACCESSED = 1 << 8;
        /// The processor wrote through the leaf.
        const DIRTY = 1 << 9;
        /// Ours, hardware ignores it: the page may be written, and where [`Self::WRITE`] is clear in
        /// such a leaf, that is for hearing of the write.
        const WRITABLE_PAGE = 1 << 52;
    }
}

/// What a leaf lets the guest do beside reading and executing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writes {
    /// The page cannot be written.
    Never,
    /// It could, but the first write is to exit.
    Exit,
    /// The first write sets the dirty flag, which it does not have yet.
    SetDirty,
    /// It can be written, and nobody asks when.
    Free,
}

/// One entry of a table at any level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Entry(pub u64);

impl Entry {
    /// An entry that maps nothing.
    pub const EMPTY: Self = Self(0);

    /// An entry that refers to the next table. Rights are left to the leaves.
    pub const fn table(table: Hpa) -> Self {
        Self(
            (table.0 & ADDRESS)
                | EntryFlags::READ.bits()
                | EntryFlags::WRITE.bits()
                | EntryFlags::EXECUTE.bits(),
        )
    }

    /// An entry at `level` that maps ordinary memory, readable and executable, and writable as said.
    /// The guest's PAT is ignored: the memory is write-back for the host, and one type must hold for
    /// both (SDM vol. 3, 29.3.7).
    pub const fn leaf(page: Hpa, level: u8, writes: Writes) -> Self {
        let writable = match writes {
            Writes::Never => EntryFlags::empty(),
            Writes::Exit => EntryFlags::WRITABLE_PAGE,
            Writes::SetDirty => EntryFlags::WRITABLE_PAGE.union(EntryFlags::WRITE),
            Writes::Free => EntryFlags::WRITABLE_PAGE
                .union(EntryFlags::WRITE)
                .union(EntryFlags::DIRTY),
        };
        let mut bits = (page.0 & ADDRESS)
            | EntryFlags::READ.bits()
            | EntryFlags::EXECUTE.bits()
            | EntryFlags::WRITE_BACK.bits()
            | EntryFlags::IGNORE_PAT.bits()
            | writable.bits();
        if level > 1 {
            bits |= EntryFlags::LARGE.bits();
        }
        Self(bits)
    }

    /// Whether a walk goes on or ends here, rather than in a violation.
    pub const fn is_present(self) -> bool {
        self.0 & 7 != 0
    }

    /// Whether the entry, found at `level`, maps memory.
    pub const fn is_leaf(self, level: u8) -> bool {
        self.is_present() && (level == 1 || self.0 & EntryFlags::LARGE.bits() != 0)
    }

    /// Whether the leaf can be written through.
    pub const fn is_writable(self) -> bool {
        self.0 & EntryFlags::WRITE.bits() != 0
    }

    /// Whether the page behind the leaf may be written, once somebody lets the guest.
    pub const fn has_writable_page(self) -> bool {
        self.0 & EntryFlags::WRITABLE_PAGE.bits() != 0
    }

    /// The leaf with some flags set and others cleared.
    #[must_use]
    pub const fn with(self, set: EntryFlags, clear: EntryFlags) -> Self {
        Self((self.0 | set.bits()) & !clear.bits())
    }

    /// The entry for part `index` of what this large leaf at `level` maps, one level below: with the
    /// same rights, and no large page where that is level 1.
    #[must_use]
    pub const fn part(self, level: u8, index: usize) -> Self {
        let size = 4096u64 << level_shift(level - 1);
        let first = self.0 & ADDRESS & !((size << 9) - 1);
        let flags = self.0 & !ADDRESS;
        let flags = if level == 2 {
            flags & !EntryFlags::LARGE.bits()
        } else {
            flags
        };
        Self(flags | (first + size * (index & (ENTRIES - 1)) as u64))
    }

    /// Whether the processor used the entry since the flag was last cleared.
    pub const fn is_accessed(self) -> bool {
        self.0 & EntryFlags::ACCESSED.bits() != 0
    }

    /// The table or page the entry refers to.
    pub const fn address(self) -> Hpa {
        Hpa(self.0 & ADDRESS)
    }
}

/// log2 of the 4-KiB pages that an entry at `level` maps: 0, 9, 18 or 27.
pub const fn level_shift(level: u8) -> u32 {
    9 * (level as u32 - 1)
}

/// Index, in a table at `level`, of the entry for frame `gfn`.
pub const fn index(gfn: u64, level: u8) -> usize {
    (gfn >> level_shift(level)) as usize & (ENTRIES - 1)
}

/// The EPT pointer (SDM vol. 3, table 25-9) for a four-level tree in write-back memory.
pub const fn pointer(root: Hpa, accessed_dirty: bool) -> u64 {
    const WRITE_BACK: u64 = 6;
    const WALK_LENGTH_4: u64 = 3 << 3;
    (root.0 & ADDRESS) | WRITE_BACK | WALK_LENGTH_4 | ((accessed_dirty as u64) << 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn writes() -> impl Strategy<Value = Writes> {
        const ALL: &[Writes] = &[Writes::Never, Writes::Exit, Writes::SetDirty, Writes::Free];
        prop::sample::select(ALL)
    }

    #[test]
    fn pointer_is_as_the_manual_lays_it_out() {
        assert_eq!(pointer(Hpa(0x1234_5000), true), 0x1234_505e);
        assert_eq!(pointer(Hpa(0x1234_5000), false), 0x1234_501e);
    }

    #[test]
    fn indices_cover_the_frame_number() {
        let gfn = 0o123_456_701_234u64;
        assert_eq!(index(gfn, 1), 0o234);
        assert_eq!(index(gfn, 2), 0o701);
        assert_eq!(index(gfn, 3), 0o456);
        assert_eq!(index(gfn, 4), 0o123);
    }

    proptest! {
        /// No leaf is a misconfiguration (SDM vol. 3, 29.3.3.1): never write without read, no
        /// reserved memory type, and no table mistaken for a leaf.
        #[test]
        fn leaves_are_never_misconfigured(page: u64, level in 1u8..=3, writes in writes()) {
            let entry = Entry::leaf(Hpa(page), level, writes);
            prop_assert!(entry.0 & 1 == 1);
            prop_assert_eq!((entry.0 >> 3) & 7, 6);
            prop_assert!(entry.is_leaf(level));
            prop_assert_eq!(
                entry.is_writable(),
                matches!(writes, Writes::SetDirty | Writes::Free)
            );
            prop_assert_eq!(entry.has_writable_page(), writes != Writes::Never);
            prop_assert_eq!(entry.address().0, page & ADDRESS);
        }

        /// The parts of a large page lie one behind the other, in the whole, with its rights.
        #[test]
        fn parts_make_up_the_whole(
            page: u64,
            level in 2u8..=3,
            writes in writes(),
            index in 0..ENTRIES,
        ) {
            let size = 4096u64 << level_shift(level);
            let page = page & ADDRESS & !(size - 1);
            let part = Entry::leaf(Hpa(page), level, writes).part(level, index);
            let at = page + size / ENTRIES as u64 * index as u64;
            prop_assert_eq!(part, Entry::leaf(Hpa(at), level - 1, writes));
        }

        #[test]
        fn tables_are_never_leaves(page: u64, level in 2u8..=4) {
            let entry = Entry::table(Hpa(page));
            prop_assert!(entry.is_present() && !entry.is_leaf(level));
            prop_assert_eq!(entry.0 & 0x78, 0, "reserved bits of a table entry");
        }
    }
}
