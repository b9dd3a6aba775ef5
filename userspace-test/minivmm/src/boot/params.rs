// SPDX-License-Identifier: GPL-2.0

//! What Linux is told about its machine: the zero page with the memory map, and its parameters
//! (Documentation/arch/x86/boot.rst, zero-page.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Address, GuestAddress};

use super::layout::{self, Range};
use super::memory_map::MemoryMap;
use super::Error;

/// Parameters that describe every machine: a TSC to be trusted, a reset through the keyboard
/// controller, and port 0x80 not there to wait on. After a panic the guest resets too, and asks for
/// a warm start to tell it from a reboot ([`super::linux::has_panicked`]).
const MACHINE: &str = "tsc=reliable io_delay=none reboot=k,panic_warm panic=-1";

/// A machine without a PCI bus.
const NO_PCI: &str = " pci=off";

/// `type_of_loader`: one without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;

/// The whole parameter line: the machine's `console` and its other parameters, with or without a
/// PCI bus, then the user's, with a NUL at the end. Linux lets a later parameter win over an earlier
/// one.
///
/// # Errors
///
/// [`Error::CmdlineTooLong`] if it is longer than `limit` bytes without its NUL.
pub fn cmdline(
    console: &str,
    pci: bool,
    user: Option<&str>,
    limit: usize,
) -> Result<Vec<u8>, Error> {
    let mut line = format!("console={console} {MACHINE}");
    if !pci {
        line.push_str(NO_PCI);
    }
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

/// The zero page for a kernel with the setup header `header`, on a machine with this `map` of
/// memory, the RAM disk `initrd` (below 4 GiB) and the ACPI tables from `rsdp` on.
pub fn zero_page(
    header: setup_header,
    map: &MemoryMap,
    initrd: Option<Range>,
    rsdp: GuestAddress,
) -> boot_params {
    let mut params = boot_params {
        hdr: header,
        acpi_rsdp_addr: rsdp.raw_value(),
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low32(layout::CMDLINE);
    if let Some((start, size)) = initrd {
        params.hdr.ramdisk_image = low32(start);
        params.hdr.ramdisk_size = u32::try_from(size).expect("the RAM disk lies below 4 GiB");
    }

    params.e820_entries = u8::try_from(map.len()).expect("a handful of entries");
    for (slot, entry) in params.e820_table.iter_mut().zip(map.iter()) {
        *slot = boot_e820_entry {
            addr: entry.start.raw_value(),
            size: entry.size,
            type_: entry.kind.number(),
        };
    }
    params
}

/// An address the boot protocol holds in 32 bits.
fn low32(address: GuestAddress) -> u32 {
    u32::try_from(address.raw_value()).expect("the layout keeps it below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameters_of_the_user_come_last() {
        let line =
            String::from_utf8(cmdline("ttyS0", false, Some(" quiet "), 2048).expect("short"))
                .expect("text");
        assert!(
            line.starts_with("console=ttyS0 ") && line.ends_with(" quiet\0"),
            "{line:?}"
        );
        let bare = cmdline("ttyS0", false, None, 2048).expect("short");
        assert_eq!(
            cmdline("ttyS0", false, Some("  "), 2048).expect("short"),
            bare
        );
    }

    #[test]
    fn a_reset_of_the_users_own_choice_marks_no_panic() {
        assert!(marks_panic(None) && marks_panic(Some("quiet panic=5")));
        assert!(!marks_panic(Some("quiet reboot=w")));
    }

    #[test]
    fn too_long_a_line_is_refused_at_the_kernels_limit() {
        let room = 255 - "console=ttyS0 ".len() - MACHINE.len() - 1;
        assert!(cmdline("ttyS0", true, Some(&"x".repeat(room)), 255).is_ok());
        assert!(matches!(
            cmdline("ttyS0", true, Some(&"x".repeat(room + 1)), 255),
            Err(Error::CmdlineTooLong {
                length: 256,
                limit: 255
            })
        ));
    }

    #[test]
    fn the_zero_page_names_loader_line_ram_disk_and_acpi() {
        let initrd = (GuestAddress(0x300_0000), 0x1234);
        let params = zero_page(
            setup_header::default(),
            &MemoryMap::of(&layout::ram(64 << 20)),
            Some(initrd),
            GuestAddress(0xe_0000),
        );
        let header = params.hdr;
        assert_eq!({ header.type_of_loader }, 0xff);
        assert_eq!({ header.cmd_line_ptr }, 0x2_0000);
        assert_eq!(
            ({ header.ramdisk_image }, { header.ramdisk_size }),
            (0x300_0000, 0x1234)
        );
        assert_eq!({ params.acpi_rsdp_addr }, 0xe_0000);
    }

    #[test]
    fn the_zero_page_has_the_memory_map() {
        let map = MemoryMap::of(&layout::ram(64 << 20));
        let params = zero_page(setup_header::default(), &map, None, GuestAddress(0));
        assert_eq!(params.e820_entries, 3);
        let last = params.e820_table[2];
        assert_eq!(
            ({ last.addr }, { last.size }, { last.type_ }),
            (1 << 20, 63 << 20, 1)
        );
    }
}
