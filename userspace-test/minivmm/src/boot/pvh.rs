// SPDX-License-Identifier: GPL-2.0

//! What a kernel that is entered by PVH is told of its machine
//! (xen/interface/hvm/start_info.h; xen.git, docs/misc/pvh.pandoc).

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::layout::{self, Range};
use super::memory_map::MemoryMap;
use super::Error;

/// `hvm_start_info.magic`.
const MAGIC: u32 = 0x336e_c578;
/// `hvm_start_info.version`: the first with a memory map.
const VERSION: u32 = 1;
/// Behind the start info, in its page: the one module, the RAM disk, and the memory map.
const MODULES: GuestAddress = GuestAddress(layout::START_INFO.0 + 0x40);
const MEMORY_MAP: GuestAddress = GuestAddress(layout::START_INFO.0 + 0x80);

/// The three structures as the guest reads them.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct StartInfo(hvm_start_info);
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Module(hvm_modlist_entry);
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct MapEntry(hvm_memmap_table_entry);

// SAFETY: integers without padding between them, so that any bytes are a value and every byte of a
// value is initialised.
unsafe impl ByteValued for StartInfo {}
// SAFETY: as above.
unsafe impl ByteValued for Module {}
// SAFETY: as above.
unsafe impl ByteValued for MapEntry {}

/// Writes the start info of a machine with this `map` of memory, whose parameters are at
/// [`layout::CMDLINE`] and whose ACPI tables begin at `rsdp`. Returns where it is.
///
/// # Errors
///
/// [`Error::Write`] where guest memory is too small.
pub fn write_start_info(
    memory: &GuestMemoryMmap,
    map: &MemoryMap,
    initrd: Option<Range>,
    rsdp: GuestAddress,
) -> Result<GuestAddress, Error> {
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: layout::CMDLINE.raw_value(),
        rsdp_paddr: rsdp.raw_value(),
        memmap_paddr: MEMORY_MAP.raw_value(),
        memmap_entries: u32::try_from(map.len()).expect("a handful of entries"),
        ..Default::default()
    };
    if let Some((start, size)) = initrd {
        info.nr_modules = 1;
        info.modlist_paddr = MODULES.raw_value();
        let module = hvm_modlist_entry {
            paddr: start.raw_value(),
            size: size as u64,
            ..Default::default()
        };
        put(memory, MODULES, Module(module))?;
    }
    for (index, entry) in (0..).zip(map.iter()) {
        let at = MEMORY_MAP.unchecked_add(index * size_of::<MapEntry>() as u64);
        let entry = hvm_memmap_table_entry {
            addr: entry.start.raw_value(),
            size: entry.size,
            type_: entry.kind.number(),
            ..Default::default()
        };
        put(memory, at, MapEntry(entry))?;
    }
    put(memory, layout::START_INFO, StartInfo(info))?;
    Ok(layout::START_INFO)
}

fn put<T: ByteValued>(memory: &GuestMemoryMmap, at: GuestAddress, value: T) -> Result<(), Error> {
    memory.write_obj(value, at).map_err(|source| Error::Write {
        what: "the PVH start info",
        at,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSDP: GuestAddress = GuestAddress(0xe_0000);

    fn written(initrd: Option<Range>) -> (GuestMemoryMmap, hvm_start_info) {
        let ram = layout::ram(64 << 20);
        let memory = GuestMemoryMmap::from_ranges(&ram).expect("memory");
        let at = write_start_info(&memory, &MemoryMap::of(&ram), initrd, RSDP).expect("fits");
        let info: StartInfo = memory.read_obj(at).expect("in memory");
        (memory, info.0)
    }

    #[test]
    fn the_start_info_says_what_it_is_and_where_acpi_is() {
        let (_, info) = written(None);
        assert_eq!(info.magic.to_le_bytes(), [0x78, 0xc5, 0x6e, 0x33]);
        assert_eq!((info.version, info.nr_modules), (1, 0));
        assert_eq!(info.rsdp_paddr, RSDP.0);
        assert_eq!(info.cmdline_paddr, layout::CMDLINE.0);
    }

    #[test]
    fn the_ram_disk_is_the_first_module() {
        let (memory, info) = written(Some((GuestAddress(0x300_0000), 0x1234)));
        assert_eq!(info.nr_modules, 1);
        let module: Module = memory
            .read_obj(GuestAddress(info.modlist_paddr))
            .expect("in memory");
        assert_eq!((module.0.paddr, module.0.size), (0x300_0000, 0x1234));
    }

    #[test]
    fn the_memory_map_follows() {
        let (memory, info) = written(None);
        let map: Vec<_> = (0..u64::from(info.memmap_entries))
            .map(|index| {
                let at = GuestAddress(info.memmap_paddr + index * 24);
                let entry: MapEntry = memory.read_obj(at).expect("in memory");
                (entry.0.addr, entry.0.size, entry.0.type_)
            })
            .collect();
        assert_eq!(
            map,
            [
                (0, 0x9_fc00, 1),
                (0x9_fc00, 0x6_0400, 2),
                (0x10_0000, 63 << 20, 1),
            ]
        );
    }

    #[test]
    fn all_of_it_is_in_one_page() {
        let map = MemoryMap::of(&layout::ram(1 << 40));
        let end = MEMORY_MAP.0 + (map.len() * size_of::<MapEntry>()) as u64;
        assert!(end <= layout::START_INFO.0 + 4096);
        assert!(layout::START_INFO.0 + size_of::<StartInfo>() as u64 <= MODULES.0);
    }
}
