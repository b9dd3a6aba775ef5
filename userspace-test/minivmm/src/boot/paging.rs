// SPDX-License-Identifier: GPL-2.0

//! Page tables that map the first 4 GiB one to one (SDM vol. 3, 4.5).

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

use super::{layout, Error};

/// Bytes in a page table, and entries in it times eight.
const TABLE_SIZE: u64 = 4096;
const ENTRIES: u64 = TABLE_SIZE / 8;
/// Gibibytes mapped: one page directory each.
const GIBIBYTES: u64 = 4;
/// log2 of the size of a page that a page directory maps.
const LARGE_PAGE_SHIFT: u64 = 21;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const PAGE_SIZE: u64 = 1 << 7;

/// Writes the tables and returns what CR3 takes.
///
/// # Errors
///
/// [`Error::Write`] where guest memory ends before the tables do.
pub fn write_identity_map(memory: &GuestMemoryMmap) -> Result<GuestAddress, Error> {
    let root = layout::PAGE_TABLES;
    let pointers = root.unchecked_add(TABLE_SIZE);
    let directories = pointers.unchecked_add(TABLE_SIZE);
    let put = |table: GuestAddress, index: u64, entry: u64| {
        memory
            .write_obj(entry, table.unchecked_add(index * 8))
            .map_err(|source| Error::Write {
                what: "page tables",
                at: table,
                source,
            })
    };

    put(root, 0, pointers.0 | PRESENT | WRITABLE)?;
    for gibibyte in 0..GIBIBYTES {
        let directory = directories.unchecked_add(gibibyte * TABLE_SIZE);
        put(pointers, gibibyte, directory.0 | PRESENT | WRITABLE)?;
        for index in 0..ENTRIES {
            let page = (gibibyte * ENTRIES + index) << LARGE_PAGE_SHIFT;
            put(directory, index, page | PRESENT | WRITABLE | PAGE_SIZE)?;
        }
    }
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(memory: &GuestMemoryMmap, root: GuestAddress, linear: u64) -> u64 {
        let frame = |entry: u64| GuestAddress(entry & !(TABLE_SIZE - 1));
        let entry = |table: GuestAddress, shift: u64| -> u64 {
            let index = (linear >> shift) & (ENTRIES - 1);
            memory
                .read_obj(table.unchecked_add(index * 8))
                .expect("in memory")
        };
        let pointers = entry(root, 39);
        let directory = entry(frame(pointers), 30);
        let page = entry(frame(directory), 21);
        assert_eq!(
            pointers & directory & page & PRESENT,
            PRESENT,
            "{linear:#x} is not mapped"
        );
        (page & !0x1f_ffff) | (linear & 0x1f_ffff)
    }

    #[test]
    fn four_gibibytes_map_to_themselves() {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram(1 << 20)).expect("memory");
        let root = write_identity_map(&memory).expect("fits");
        for linear in [0, 0x7c00, 0x10_0000, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
            assert_eq!(walk(&memory, root, linear), linear);
        }
        let fifth: u64 = memory
            .read_obj(GuestAddress(root.0 + TABLE_SIZE + 4 * 8))
            .expect("in memory");
        assert_eq!(fifth, 0, "more than 4 GiB are mapped");
    }

    #[test]
    fn memory_too_small_is_an_error() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0xa000)]).expect("memory");
        assert!(matches!(
            write_identity_map(&memory),
            Err(Error::Write { .. })
        ));
    }
}
