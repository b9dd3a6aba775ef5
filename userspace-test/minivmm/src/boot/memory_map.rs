// SPDX-License-Identifier: GPL-2.0

//! The map of guest-physical memory that a kernel is given, as an x86 firmware's "e820" map.

use vm_memory::{Address, GuestAddress};

use super::layout::{self, Range};

/// What an address range may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Memory to use.
    Ram,
    /// Not to be used.
    Reserved,
}

impl Kind {
    /// The type's number in an e820 map.
    pub fn number(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
        }
    }
}

/// One range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// First address.
    pub start: GuestAddress,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: Kind,
}

/// The map, in ascending order.
pub struct MemoryMap(Vec<Entry>);

impl MemoryMap {
    /// The map of a machine with this `ram` ([`layout::ram`]): the first megabyte is split into
    /// RAM and the PC's hole.
    pub fn of(ram: &[Range]) -> Self {
        let mut map = vec![
            entry(GuestAddress(0), layout::EBDA, Kind::Ram),
            entry(layout::EBDA, layout::HIGH_MEMORY, Kind::Reserved),
        ];
        for &(start, size) in ram {
            let end = start.unchecked_add(size as u64);
            let start = start.max(layout::HIGH_MEMORY);
            if end > start {
                map.push(entry(start, end, Kind::Ram));
            }
        }
        Self(map)
    }

    /// The ranges.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

fn entry(start: GuestAddress, end: GuestAddress, kind: Kind) -> Entry {
    Entry {
        start,
        size: end.unchecked_offset_from(start),
        kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_of(size: u64) -> Vec<(u64, u64, u32)> {
        MemoryMap::of(&layout::ram(size))
            .iter()
            .map(|entry| (entry.start.0, entry.size, entry.kind.number()))
            .collect()
    }

    #[test]
    fn the_memory_map_is_a_pc_s() {
        assert_eq!(
            map_of(64 << 20),
            [
                (0, 0x9_fc00, 1),
                (0x9_fc00, 0x6_0400, 2),
                (0x10_0000, 63 << 20, 1),
            ]
        );
    }

    #[test]
    fn memory_above_the_device_hole_is_on_the_map() {
        assert_eq!(map_of(4 << 30)[3], (4 << 30, 1 << 30, 1));
    }
}
