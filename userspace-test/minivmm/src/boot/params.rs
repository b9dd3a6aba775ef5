// SPDX-License-Identifier: GPL-2.0

//! What Linux is told about its machine: the zero page with the memory map, and its parameters
//! (Documentation/arch/x86/boot.rst, zero-page.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Address, GuestAddress};

use super::layout::{self, Range};
use super::Error;

/// Parameters that describe this machine: no ACPI, PCI or local APIC, a TSC to be trusted, a reset
/// through the keyboard controller, and port 0x80 not there to wait on. After a panic the guest
/// resets too, and asks for a warm start to tell it from a reboot ([`super::linux::has_panicked`]).
const MACHINE: &str = "console=ttyS0 acpi=off pci=off noapic nolapic tsc=reliable io_delay=none \
                       reboot=k,panic_warm panic=-1";

/// `type_of_loader`: one without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// `e820_entry.type`: RAM.
const E820_RAM: u32 = 1;
/// `e820_entry.type`: not to be used.
const E820_RESERVED: u32 = 2;

/// The whole parameter line: those of the machine, then the user's, with a NUL at the end. Linux
/// lets a later parameter win over an earlier one.
///
/// # Errors
///
/// [`Error::CmdlineTooLong`] if it is longer than `limit` bytes without its NUL.
pub fn cmdline(user: Option<&str>, limit: usize) -> Result<Vec<u8>, Error> {
    let mut line = String::from(MACHINE);
    if let Some(user) = user.map(str::trim).filter(|user| !user.is_empty()) {
        line.push(' ');
        line.push_str(user);
    }
    let limit = limit.min(layout::CMDLINE_SIZE - 1);
    if line.len() > limit {
        return Err(Error::CmdlineTooLong {
            length: line.len(),
            limit,
        });
    }
    line.push('\0');
    Ok(line.into_bytes())
}

/// Whether a guest with these parameters of the user's still tells a panic from a reboot.
pub fn marks_panic(user: Option<&str>) -> bool {
    let mut words = user.unwrap_or_default().split_whitespace();
    !words.any(|word| word.starts_with("reboot="))
}

/// The zero page for a kernel with the setup header `header`.
///
/// `ram` is what [`layout::ram`] gave, `initrd` where the RAM disk lies (below 4 GiB).
pub fn zero_page(header: setup_header, ram: &[Range], initrd: Option<Range>) -> boot_params {
    let mut params = boot_params {
        hdr: header,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low32(layout::CMDLINE);
    if let Some((start, size)) = initrd {
        params.hdr.ramdisk_image = low32(start);
        params.hdr.ramdisk_size = u32::try_from(size).expect("the RAM disk lies below 4 GiB");
    }

    let map = memory_map(ram);
    params.e820_entries = u8::try_from(map.len()).expect("a handful of entries");
    params.e820_table[..map.len()].copy_from_slice(&map);
    params
}

/// The memory map: the first megabyte is split into RAM and the PC's hole.
fn memory_map(ram: &[Range]) -> Vec<boot_e820_entry> {
    let mut map = vec![
        entry(GuestAddress(0), layout::EBDA, E820_RAM),
        entry(layout::EBDA, layout::HIGH_MEMORY, E820_RESERVED),
    ];
    for &(start, size) in ram {
        let end = start.unchecked_add(size as u64);
        let start = start.max(layout::HIGH_MEMORY);
        if end > start {
            map.push(entry(start, end, E820_RAM));
        }
    }
    map
}

fn entry(start: GuestAddress, end: GuestAddress, type_: u32) -> boot_e820_entry {
    boot_e820_entry {
        addr: start.raw_value(),
        size: end.unchecked_offset_from(start),
        type_,
    }
}

/// An address the boot protocol holds in 32 bits.
fn low32(address: GuestAddress) -> u32 {
    u32::try_from(address.raw_value()).expect("the layout keeps it below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map_of(size: u64) -> Vec<(u64, u64, u32)> {
        let params = zero_page(setup_header::default(), &layout::ram(size), None);
        params.e820_table[..usize::from(params.e820_entries)]
            .iter()
            .map(|entry| (entry.addr, entry.size, entry.type_))
            .collect()
    }

    #[test]
    fn the_memory_map_is_a_pc_s() {
        assert_eq!(
            map_of(64 << 20),
            [
                (0, 0x9_fc00, E820_RAM),
                (0x9_fc00, 0x6_0400, E820_RESERVED),
                (0x10_0000, 63 << 20, E820_RAM),
            ]
        );
    }

    #[test]
    fn memory_above_the_device_hole_is_on_the_map() {
        assert_eq!(map_of(4 << 30)[3], (4 << 30, 1 << 30, E820_RAM));
    }

    #[test]
    fn the_parameters_of_the_user_come_last() {
        let line = String::from_utf8(cmdline(Some(" quiet "), 2048).expect("short")).expect("text");
        assert!(
            line.starts_with("console=ttyS0 ") && line.ends_with(" quiet\0"),
            "{line:?}"
        );
        let bare = cmdline(None, 2048).expect("short");
        assert_eq!(cmdline(Some("  "), 2048).expect("short"), bare);
    }

    #[test]
    fn a_reset_of_the_users_own_choice_marks_no_panic() {
        assert!(marks_panic(None) && marks_panic(Some("quiet panic=5")));
        assert!(!marks_panic(Some("quiet reboot=w")));
    }

    #[test]
    fn too_long_a_line_is_refused_at_the_kernels_limit() {
        let room = 255 - MACHINE.len() - 1;
        assert!(cmdline(Some(&"x".repeat(room)), 255).is_ok());
        assert!(matches!(
            cmdline(Some(&"x".repeat(room + 1)), 255),
            Err(Error::CmdlineTooLong {
                length: 256,
                limit: 255
            })
        ));
    }

    #[test]
    fn the_zero_page_names_loader_line_and_ram_disk() {
        let initrd = (GuestAddress(0x300_0000), 0x1234);
        let params = zero_page(
            setup_header::default(),
            &layout::ram(64 << 20),
            Some(initrd),
        );
        let header = params.hdr;
        assert_eq!({ header.type_of_loader }, 0xff);
        assert_eq!({ header.cmd_line_ptr }, 0x2_0000);
        assert_eq!(
            ({ header.ramdisk_image }, { header.ramdisk_size }),
            (0x300_0000, 0x1234)
        );
    }
}
