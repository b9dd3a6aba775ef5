// SPDX-License-Identifier: GPL-2.0

//! Entries of extended page tables (SDM vol. 3, 29.3.2 and 29.3.3.1).

use arch::addr::Hpa;
use arch::ept::{index, pointer, Entry, EntryFlags, Writes, ENTRIES};

const WRITES: [Writes; 4] = [Writes::Never, Writes::Exit, Writes::SetDirty, Writes::Free];

/// What changes in a leaf after it was made.
const CHANGES: [EntryFlags; 4] = [
    EntryFlags::WRITE,
    EntryFlags::DIRTY,
    EntryFlags::ACCESSED,
    EntryFlags::WRITABLE_PAGE,
];

/// log2 of the bytes that an entry at `level` maps.
fn span(level: u8) -> u32 {
    [12, 21, 30, 39][usize::from(level) - 1]
}

/// Whether an access through the entry is an EPT misconfiguration where physical addresses have `m`
/// bits, and without execute-only translations.
fn is_misconfigured(entry: u64, level: u8, m: u32) -> bool {
    let bits = |high: u32, low: u32| entry >> low & (u64::MAX >> (63 - (high - low)));
    let (read, write, execute) = (bits(0, 0) != 0, bits(1, 1) != 0, bits(2, 2) != 0);
    if !read && !write && !execute {
        return false;
    }
    let leaf = level == 1 || level < 4 && bits(7, 7) != 0;
    let reserved = match (level, leaf) {
        (4, _) => bits(7, 3),
        (3, true) => bits(29, 12),
        (2, true) => bits(20, 12),
        (1, _) => 0,
        _ => bits(6, 3),
    };
    let past_address = m < 52 && bits(51, m) != 0;
    let memory_type = leaf && [2, 3, 7].contains(&bits(5, 3));
    !read && (write || execute) || reserved != 0 || past_address || memory_type
}

/// Addresses of pages of `1 << shift` bytes: each bit, all bits, none.
fn addresses(shift: u32) -> impl Iterator<Item = u64> {
    let all = (1u64 << 52) - (1 << shift);
    (shift..52).map(|bit| 1 << bit).chain([0, all])
}

fn subsets() -> impl Iterator<Item = EntryFlags> {
    (0..16).map(|set| {
        let chosen = CHANGES.iter().enumerate();
        chosen
            .filter(|(n, _)| set >> n & 1 != 0)
            .fold(EntryFlags::empty(), |flags, (_, flag)| flags | *flag)
    })
}

#[test]
fn leaves() {
    let mut cases = 0u64;
    for level in 1..=3 {
        for address in addresses(span(level)) {
            for writes in WRITES {
                let new = Entry::leaf(Hpa(address), level, writes);
                assert_eq!(
                    new.is_writable(),
                    matches!(writes, Writes::SetDirty | Writes::Free)
                );
                assert_eq!(new.has_writable_page(), writes != Writes::Never);
                assert_eq!(
                    new.0 >> 9 & 1 != 0,
                    writes == Writes::Free,
                    "the dirty flag"
                );
                for (set, clear) in subsets().flat_map(|set| subsets().map(move |c| (set, c))) {
                    let entry = new.with(set, clear);
                    assert!(!is_misconfigured(entry.0, level, 52), "{entry:x?}");
                    assert!(entry.is_present() && entry.is_leaf(level));
                    assert_eq!(entry.address(), Hpa(address));
                    assert_eq!(entry.0 >> 3 & 15, 6 | 8, "write-back, and no PAT");
                    assert_eq!(entry.0 & 5, 5, "reads and fetches");
                    let has = |bit: u32| entry.0 >> bit & 1 != 0;
                    assert_eq!(
                        [
                            entry.is_writable(),
                            entry.is_accessed(),
                            entry.has_writable_page()
                        ],
                        [has(1), has(8), has(52)]
                    );
                    for flag in CHANGES {
                        let before = new.0 & flag.bits() != 0;
                        let after = (before || set.contains(flag)) && !clear.contains(flag);
                        assert_eq!(entry.0 & flag.bits() != 0, after);
                    }
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, (42 + 33 + 24) * 4 * 256);
}

/// Each part of a large leaf with each set of flags maps what the whole did there.
#[test]
fn parts_of_large_leaves() {
    let mut cases = 0u64;
    for level in 2..=3 {
        for address in addresses(span(level)) {
            for flags in subsets() {
                let whole = Entry::leaf(Hpa(address), level, Writes::Never)
                    .with(flags, EntryFlags::empty());
                for part in 0..ENTRIES {
                    let entry = whole.part(level, part);
                    let expected = Entry::leaf(
                        Hpa(address + ((part as u64) << span(level - 1))),
                        level - 1,
                        Writes::Never,
                    )
                    .with(flags, EntryFlags::empty());
                    assert_eq!(entry, expected);
                    assert!(!is_misconfigured(entry.0, level - 1, 52));
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, (33 + 24) * 16 * 512);
}

#[test]
fn tables_and_pointers() {
    let mut cases = 0u64;
    for address in addresses(12) {
        for level in 2..=4 {
            let entry = Entry::table(Hpa(address));
            assert!(!is_misconfigured(entry.0, level, 52), "{entry:x?}");
            assert!(entry.is_present() && !entry.is_leaf(level));
            assert_eq!((entry.address(), entry.0 & 7), (Hpa(address), 7));
            cases += 1;
        }
        for accessed_dirty in [false, true] {
            let pointer = pointer(Hpa(address), accessed_dirty);
            // Table 25-9: write-back, a walk of four levels, accessed and dirty flags, address.
            assert_eq!(pointer & 7, 6);
            assert_eq!(pointer >> 3 & 7, 3);
            assert_eq!(pointer >> 6 & 1 != 0, accessed_dirty);
            assert_eq!(pointer >> 7, address >> 7);
            cases += 1;
        }
    }
    assert_eq!(cases, 42 * (3 + 2));
}

/// Rights, the large bit, and every level: what a walk does at an entry.
#[test]
fn what_an_entry_is() {
    let mut cases = 0u64;
    for (rights, large) in (0..8u64).flat_map(|rights| [(rights, 0), (rights, 1 << 7)]) {
        for level in 1..=4 {
            let entry = Entry(rights | large);
            assert_eq!(entry.is_present(), rights != 0);
            let leaf = rights != 0 && (level == 1 || large != 0);
            assert_eq!(entry.is_leaf(level), leaf);
            cases += 1;
        }
    }
    assert_eq!(cases, 8 * 2 * 4);
}

/// Each bit of a frame number chooses at one level.
#[test]
fn indices() {
    let mut cases = 0u64;
    for (bit, level) in (0..36u32).flat_map(|bit| (1..=4u8).map(move |level| (bit, level))) {
        let first = 9 * (u32::from(level) - 1);
        let expected = if (first..first + 9).contains(&bit) {
            1 << (bit - first)
        } else {
            0
        };
        assert_eq!(index(1 << bit, level), expected);
        cases += 1;
    }
    assert_eq!(cases, 36 * 4);
}
