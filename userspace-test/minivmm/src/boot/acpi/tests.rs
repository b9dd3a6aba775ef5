// SPDX-License-Identifier: GPL-2.0

//! The tables, read back as a guest reads them.

use super::*;

const START: u64 = layout::ACPI.0;

struct Guest(Vec<u8>);

impl Guest {
    fn with(cpus: u8) -> Self {
        let hardware = Hardware {
            cpus,
            virtio_mmio: mmio::LIMIT,
            pci: true,
        };
        Self(Tables::at(layout::ACPI, hardware).bytes)
    }

    fn bytes(&self, at: u64, length: usize) -> &[u8] {
        let offset = (at - START) as usize;
        &self.0[offset..offset + length]
    }

    fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.bytes(at, 4).try_into().expect("4 bytes"))
    }

    fn u64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.bytes(at, 8).try_into().expect("8 bytes"))
    }

    /// A table with its header, its checksum verified.
    fn table(&self, at: u64, signature: &[u8; 4]) -> &[u8] {
        let table = self.bytes(at, self.u32(at + 4) as usize);
        assert_eq!(&table[..4], signature);
        assert_eq!(sum(table), 0, "checksum of {signature:?}");
        table
    }

    /// The tables that the XSDT lists.
    fn listed(&self) -> Vec<u64> {
        let xsdt = self.u64(START + 24);
        let count = (self.table(xsdt, b"XSDT").len() - 36) / 8;
        (0..count)
            .map(|index| self.u64(xsdt + 36 + 8 * index as u64))
            .collect()
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Type and content of each structure of a MADT.
fn structures(madt: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &madt[44..];
    let mut structures = Vec::new();
    while let [kind, length, ..] = rest {
        let (structure, behind) = rest.split_at(usize::from(*length));
        structures.push((*kind, &structure[2..]));
        rest = behind;
    }
    structures
}

#[test]
fn the_first_table_is_found_by_its_signature_and_checksums() {
    let guest = Guest::with(1);
    let rsdp = guest.bytes(START, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    assert_eq!(START % 16, 0, "a guest looks at multiples of 16");
}

#[test]
fn the_fixed_hardware_is_what_the_board_has() {
    let guest = Guest::with(2);
    let fadt = guest.table(guest.listed()[0], b"FACP");
    let u32_at = |at: usize| u32::from_le_bytes(fadt[at..at + 4].try_into().expect("4 bytes"));
    let dsdt = u64::from(u32_at(40));
    guest.table(dsdt, b"DSDT");
    assert_eq!(guest.bytes(u64::from(u32_at(36)), 4), b"FACS");
    assert_eq!(u32_at(36) % 64, 0);
    assert_eq!(u32_at(56), u32::from(power::EVENT_BLOCK));
    assert_eq!(u32_at(64), u32::from(power::CONTROL_BLOCK));
    assert_ne!(
        u32_at(112) & (1 << 10),
        0,
        "the reset register is not said to work"
    );
    assert_eq!(u32_at(112) & 1 << 4, 0, "there is no fixed power button");
    assert_eq!(
        &fadt[116..120],
        [1, 8, 0, 1],
        "the reset register is a byte port"
    );
    assert_eq!((u32_at(120), fadt[128]), (0xcf9, 0x06));
}

#[test]
fn every_cpu_has_its_local_apic() {
    for cpus in [1, 2, 8, 254] {
        let guest = Guest::with(cpus);
        let madt = guest.table(guest.listed()[1], b"APIC");
        assert_eq!(madt[36..40], 0xfee0_0000u32.to_le_bytes());
        let ids: Vec<u8> = structures(madt)
            .iter()
            .filter(|(kind, content)| *kind == 0 && content[2] & 1 != 0)
            .map(|(_, content)| content[1])
            .collect();
        assert_eq!(ids, (0..cpus).collect::<Vec<u8>>());
        assert!(guest.0.len() <= layout::ACPI_SIZE);
    }
}

#[test]
fn the_ioapic_has_the_timer_at_pin_2() {
    let guest = Guest::with(1);
    let madt = guest.table(guest.listed()[1], b"APIC");
    let structures = structures(madt);
    let of_kind = |kind: u8| {
        let mut found = structures.iter().filter(move |(other, _)| *other == kind);
        found.next().expect("there is one").1
    };
    assert_eq!(of_kind(1)[2..6], 0xfec0_0000u32.to_le_bytes());
    assert_eq!(of_kind(2), [0, 0, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn the_namespace_names_devices_and_s5() {
    let guest = Guest::with(1);
    let fadt = guest.listed()[0];
    let dsdt = guest.table(u64::from(guest.u32(fadt + 40)), b"DSDT");
    for name in [&b"COM1"[..], b"RTC_", b"_S5_", &[0x41, 0xd0, 0x05, 0x01]] {
        assert!(
            dsdt.windows(name.len()).any(|window| window == name),
            "{name:x?} is missing"
        );
    }
}

#[test]
fn the_configuration_spaces_are_where_the_board_has_them() {
    let guest = Guest::with(1);
    let mcfg = guest.table(guest.listed()[2], b"MCFG");
    assert_eq!(mcfg.len(), 60);
    assert_eq!(mcfg[44..52], pci::ECAM.to_le_bytes());
    assert_eq!(mcfg[52..56], [0; 4], "segment 0, bus 0 alone");
    let hardware = Hardware {
        cpus: 1,
        virtio_mmio: 1,
        pci: false,
    };
    let guest = Guest(Tables::at(layout::ACPI, hardware).bytes);
    assert_eq!(guest.listed().len(), 2);
}
