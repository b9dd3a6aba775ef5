// SPDX-License-Identifier: GPL-2.0

//! Where things lie in guest-physical memory.
//!
//! The first megabyte is a PC's: RAM up to the EBDA, then the hole for video memory and firmware.
//! What minivmm puts there itself for the start of a guest lies in the lower RAM, and the guest may
//! reuse all of it once it has its own tables.

use vm_memory::GuestAddress;

/// The BIOS data area's warm-reset flag, 16 bits: how a guest that resets wants to come up again.
pub const WARM_RESET_FLAG: GuestAddress = GuestAddress(0x472);
/// The descriptor table of the first instructions.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// `struct hvm_start_info` for a PVH entry, with the tables it points to.
pub const START_INFO: GuestAddress = GuestAddress(0x6000);
/// `struct boot_params` for Linux, the "zero page".
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Initial stack, growing down.
pub const STACK: GuestAddress = GuestAddress(0x8ff0);
/// Root of the identity page tables; the tables below it follow page by page.
pub const PAGE_TABLES: GuestAddress = GuestAddress(0x9000);
/// Kernel parameters, a string with a NUL at its end.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Bytes for [`CMDLINE`] with its NUL.
pub const CMDLINE_SIZE: usize = 0x1_0000;
/// The extended BIOS data area: the end of low RAM.
pub const EBDA: GuestAddress = GuestAddress(0x9_fc00);
/// The ACPI tables, in the firmware's part of the hole, where a guest also looks for the first of
/// them.
pub const ACPI: GuestAddress = GuestAddress(0xe_0000);
/// Bytes for [`ACPI`].
pub const ACPI_SIZE: usize = 0x1_0000;
/// Start of RAM above the hole of the first megabyte.
pub const HIGH_MEMORY: GuestAddress = GuestAddress(0x10_0000);
/// Start of the hole below 4 GiB where a PC has its device memory.
pub const DEVICE_HOLE: GuestAddress = GuestAddress(0xc000_0000);
/// End of that hole, where RAM goes on.
pub const ABOVE_4G: GuestAddress = GuestAddress(0x1_0000_0000);

/// Registers of the IOAPIC.
pub const IOAPIC: GuestAddress = GuestAddress(0xfec0_0000);
/// Registers of the CPU's own local APIC.
pub const LOCAL_APIC: GuestAddress = GuestAddress(0xfee0_0000);
/// Three pages KVM keeps for itself on a processor without unrestricted guest, in the device hole.
pub const TSS: GuestAddress = GuestAddress(0xfffb_d000);
/// One page KVM keeps for itself likewise, next to [`TSS`].
pub const IDENTITY_MAP: GuestAddress = GuestAddress(0xfffb_c000);

/// A stretch of guest RAM: where it starts and its size in bytes.
pub type Range = (GuestAddress, usize);

/// The stretches of guest-physical memory that `size` bytes of RAM occupy: one, or two around the
/// device hole.
pub fn ram(size: u64) -> Vec<Range> {
    let below = size.min(DEVICE_HOLE.0);
    let mut ranges = vec![(GuestAddress(0), bytes(below))];
    if size > below {
        ranges.push((ABOVE_4G, bytes(size - below)));
    }
    ranges
}

/// A size in bytes as `usize`, which on x86-64 holds any.
fn bytes(size: u64) -> usize {
    usize::try_from(size).expect("minivmm runs on 64-bit machines")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_memory_is_one_stretch() {
        assert_eq!(ram(128 << 20), [(GuestAddress(0), 128 << 20)]);
        assert_eq!(ram(DEVICE_HOLE.0), [(GuestAddress(0), 3 << 30)]);
    }

    #[test]
    fn much_memory_goes_round_the_hole() {
        assert_eq!(
            ram(5 << 30),
            [(GuestAddress(0), 3 << 30), (ABOVE_4G, 2 << 30)]
        );
    }

    #[test]
    fn nothing_of_the_boot_data_overlaps() {
        let mut pieces = [
            (WARM_RESET_FLAG.0, WARM_RESET_FLAG.0 + 2),
            (GDT.0, GDT.0 + 5 * 8),
            (START_INFO.0, START_INFO.0 + 4096),
            (ZERO_PAGE.0, ZERO_PAGE.0 + 4096),
            (STACK.0 - 0x1000 + 0x10, STACK.0),
            (PAGE_TABLES.0, PAGE_TABLES.0 + 6 * 4096),
            (CMDLINE.0, CMDLINE.0 + CMDLINE_SIZE as u64),
            (EBDA.0, HIGH_MEMORY.0),
        ];
        pieces.sort_unstable();
        for pair in pieces.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{pair:x?} overlap");
        }
    }

    #[test]
    fn firmware_is_in_the_hole() {
        assert!(ACPI >= EBDA && ACPI.0 + ACPI_SIZE as u64 <= HIGH_MEMORY.0);
    }

    #[test]
    fn what_kvm_keeps_and_controllers_are_not_ram() {
        for page in [TSS, IDENTITY_MAP, IOAPIC, LOCAL_APIC] {
            assert!(page >= DEVICE_HOLE && page < ABOVE_4G);
        }
    }
}
