// SPDX-License-Identifier: GPL-2.0

//! The ACPI tables: what tells the guest of its CPUs, interrupt controllers and power switch.
//!
//! Manual: ACPI 6.5, chapter 5. The machine is a PC of before hardware-reduced ACPI: it has PICs, a
//! PIT, an RTC and the fixed PM1a register blocks ([`crate::devices::power`]). It is always in ACPI
//! mode, so there is no SMI command port to bring it there.

mod aml;
mod table;

use vm_memory::{Address, GuestAddress, GuestMemoryMmap};

use super::{layout, write, Error};
use crate::devices::virtio::mmio;
use crate::devices::{cmos, pci, power, reset, serial};
use table::{Fields, Table};

/// Bytes of the RSDP, and of its part that version 1 had.
const RSDP_SIZE: usize = 36;
const RSDP_V1_SIZE: usize = 20;
/// Bytes of the FACS and of version 6 of the FADT.
const FACS_SIZE: usize = 64;
const FADT_SIZE: usize = 276;
/// Alignment of the tables: what the FACS wants.
const ALIGNMENT: usize = 64;

/// FADT, IA-PC boot architecture flags: there are devices outside of ACPI's namespace, but no VGA.
const LEGACY_DEVICES: u16 = 1 << 0;
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// FADT, fixed feature flags: WBINVD works, of the buttons only that for power is of the fixed kind,
/// the RTC does not wake, the reset register works, and nobody looks at a screen.
const FEATURES: u32 = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 12;
/// FADT: latencies that say that there are no C2 and no C3 states.
const NO_C2: u16 = 0xfff;
const NO_C3: u16 = 0xffff;

/// MADT: the machine has a dual PIC as well.
const PCAT_COMPAT: u32 = 1 << 0;
/// MADT, structure types (ACPI 6.5, table 5.21).
const PROCESSOR_LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
/// Of a processor's local APIC: enabled.
const ENABLED: u32 = 1 << 0;
/// ISA interrupts are edge-triggered and active-high unless said otherwise.
const AS_THE_BUS: u16 = 0;
const ACTIVE_HIGH_LEVEL: u16 = 0b1101;
/// All processors.
const EVERY_PROCESSOR: u8 = 0xff;
/// ISA IRQ 0 is at pin 2 of the IOAPIC, as on every PC.
const TIMER_IRQ: u8 = 0;
const TIMER_PIN: u32 = 2;

/// What is not the same on every machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hardware {
    /// CPUs, whose APIC IDs count from 0.
    pub cpus: u8,
    /// Virtio devices on MMIO.
    pub virtio_mmio: usize,
    /// Whether there is a PCI bus.
    pub pci: bool,
}

/// Writes the tables for a machine of this `hardware` and returns where the first one, the RSDP,
/// is.
///
/// # Errors
///
/// [`Error::Write`] where guest memory is too small.
pub fn write_tables(memory: &GuestMemoryMmap, hardware: Hardware) -> Result<GuestAddress, Error> {
    let tables = Tables::at(layout::ACPI, hardware);
    debug_assert!(tables.bytes.len() <= layout::ACPI_SIZE);
    write(memory, "the ACPI tables", layout::ACPI, &tables.bytes)?;
    Ok(layout::ACPI)
}

/// The tables one behind the other, the RSDP first.
struct Tables {
    start: GuestAddress,
    bytes: Vec<u8>,
}

impl Tables {
    fn at(start: GuestAddress, hardware: Hardware) -> Self {
        let mut tables = Self {
            start,
            bytes: vec![0; RSDP_SIZE],
        };
        let facs = tables.append(&facs());
        let dsdt = tables.append(&dsdt(hardware).finish());
        let fadt = tables.append(&fadt(facs, dsdt).finish());
        let madt = tables.append(&madt(hardware.cpus).finish());
        let mut xsdt = Table::new(b"XSDT", 1);
        xsdt.push_u64(fadt);
        xsdt.push_u64(madt);
        if hardware.pci {
            let mcfg = tables.append(&mcfg().finish());
            xsdt.push_u64(mcfg);
        }
        let xsdt = tables.append(&xsdt.finish());
        tables.bytes[..RSDP_SIZE].copy_from_slice(&rsdp(xsdt));
        tables
    }

    /// Adds a table and returns its guest-physical address.
    fn append(&mut self, table: &[u8]) -> u64 {
        let offset = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(table);
        self.start.raw_value() + offset as u64
    }
}

/// The root pointer (5.2.5.3), which has two checksums and no header.
fn rsdp(xsdt: u64) -> [u8; RSDP_SIZE] {
    let mut rsdp = [0; RSDP_SIZE];
    rsdp[..8].copy_from_slice(b"RSD PTR ");
    rsdp[9..15].copy_from_slice(&table::OEM_ID);
    rsdp[15] = 2;
    rsdp[20..24].copy_from_slice(&(RSDP_SIZE as u32).to_le_bytes());
    rsdp[24..32].copy_from_slice(&xsdt.to_le_bytes());
    rsdp[8] = table::checksum(&rsdp[..RSDP_V1_SIZE]);
    rsdp[32] = table::checksum(&rsdp);
    rsdp
}

/// What firmware and guest share for sleeping (5.2.10), which this machine does not. It has neither
/// the header nor a checksum.
fn facs() -> [u8; FACS_SIZE] {
    let mut facs = [0; FACS_SIZE];
    facs[..4].copy_from_slice(b"FACS");
    facs[4..8].copy_from_slice(&(FACS_SIZE as u32).to_le_bytes());
    facs[32] = 1;
    facs
}

/// Fixed hardware: the PM1a blocks, the reset register, and where the DSDT is. The numbers are the
/// offsets of the fields in table 5.9; some guests read the 32-bit and some the 64-bit form of one.
fn fadt(facs: u64, dsdt: u64) -> Table {
    let mut fadt = Fields::new(b"FACP", 6, FADT_SIZE);
    fadt.set(36, &low32(facs).to_le_bytes());
    fadt.set(40, &low32(dsdt).to_le_bytes());
    fadt.set(46, &u16::from(power::SCI).to_le_bytes());
    fadt.set(56, &u32::from(power::EVENT_BLOCK).to_le_bytes());
    fadt.set(64, &u32::from(power::CONTROL_BLOCK).to_le_bytes());
    fadt.set(88, &[power::EVENT_LENGTH, power::CONTROL_LENGTH]);
    fadt.set(96, &NO_C2.to_le_bytes());
    fadt.set(98, &NO_C3.to_le_bytes());
    fadt.set(108, &[cmos::CENTURY]);
    fadt.set(109, &(LEGACY_DEVICES | VGA_NOT_PRESENT).to_le_bytes());
    fadt.set(112, &FEATURES.to_le_bytes());
    fadt.set(116, &port(reset::RESET_CONTROL, 1, BYTE_ACCESS));
    fadt.set(128, &[reset::RESET_VALUE]);
    fadt.set(131, &[5]);
    fadt.set(140, &dsdt.to_le_bytes());
    fadt.set(
        148,
        &port(power::EVENT_BLOCK, power::EVENT_LENGTH, WORD_ACCESS),
    );
    fadt.set(
        172,
        &port(power::CONTROL_BLOCK, power::CONTROL_LENGTH, WORD_ACCESS),
    );
    fadt.into_table()
}

/// Access sizes of a generic address.
const BYTE_ACCESS: u8 = 1;
const WORD_ACCESS: u8 = 2;

/// Ports as a generic address (5.2.3.2).
fn port(first: u16, bytes: u8, access: u8) -> [u8; 12] {
    const SYSTEM_IO: u8 = 1;
    let mut address = [0; 12];
    address[..4].copy_from_slice(&[SYSTEM_IO, bytes * 8, 0, access]);
    address[4..6].copy_from_slice(&first.to_le_bytes());
    address
}

/// Interrupt controllers: a local APIC for each CPU, one IOAPIC, and how the ISA lines reach it.
fn madt(cpus: u8) -> Table {
    let mut madt = Table::new(b"APIC", 5);
    madt.push(&low32(layout::LOCAL_APIC.raw_value()).to_le_bytes());
    madt.push(&PCAT_COMPAT.to_le_bytes());
    for id in 0..cpus {
        madt.push(&[PROCESSOR_LOCAL_APIC, 8, id, id]);
        madt.push(&ENABLED.to_le_bytes());
    }
    // The IOAPIC's own ID is a name only: nothing on the bus is addressed by it.
    madt.push(&[IO_APIC, 12, 0, 0]);
    madt.push(&low32(layout::IOAPIC.raw_value()).to_le_bytes());
    madt.push(&0u32.to_le_bytes());
    for (irq, pin, flags) in [
        (TIMER_IRQ, TIMER_PIN, AS_THE_BUS),
        (power::SCI, u32::from(power::SCI), ACTIVE_HIGH_LEVEL),
    ] {
        madt.push(&[SOURCE_OVERRIDE, 10, 0, irq]);
        madt.push(&pin.to_le_bytes());
        madt.push(&flags.to_le_bytes());
    }
    let [low, high] = AS_THE_BUS.to_le_bytes();
    madt.push(&[LOCAL_APIC_NMI, 6, EVERY_PROCESSOR, low, high, 1]);
    madt
}

/// Where the PCI bus has its configuration spaces in memory (PCI Firmware Specification 3.0, 4.1.2).
fn mcfg() -> Table {
    const SEGMENT: u16 = 0;
    const FIRST_BUS: u8 = 0;
    const LAST_BUS: u8 = 0;
    let mut mcfg = Table::new(b"MCFG", 1);
    mcfg.push(&[0; 8]);
    mcfg.push_u64(pci::ECAM);
    mcfg.push(&SEGMENT.to_le_bytes());
    mcfg.push(&[FIRST_BUS, LAST_BUS, 0, 0, 0, 0]);
    mcfg
}

/// What cannot be said by a table: two devices on the ISA bus, virtio devices, and how to enter S5.
/// The clock makes no interrupts, so it is given none.
fn dsdt(hardware: Hardware) -> Table {
    let serial = aml::device(
        *b"COM1",
        &[
            aml::name(*b"_HID", &aml::eisa_id("PNP0501")),
            aml::name(*b"_UID", &aml::byte(1)),
            aml::name(
                *b"_CRS",
                &aml::resources(&[aml::io_ports(serial::BASE, 8), aml::irq(serial::IRQ)]),
            ),
        ],
    );
    let clock = aml::device(
        *b"RTC_",
        &[
            aml::name(*b"_HID", &aml::eisa_id("PNP0B00")),
            aml::name(*b"_CRS", &aml::resources(&[aml::io_ports(cmos::INDEX, 2)])),
        ],
    );
    let s5 = aml::package(&[
        aml::byte(power::S5),
        aml::byte(power::S5),
        aml::byte(0),
        aml::byte(0),
    ]);
    let mut dsdt = Table::new(b"DSDT", 2);
    let mut devices = vec![serial, clock];
    devices.extend((0..hardware.virtio_mmio).map(virtio_mmio));
    devices.extend(hardware.pci.then(pci_bus));
    devices.extend(hardware.pci.then(mainboard));
    dsdt.push(&aml::system_bus(&devices));
    dsdt.push(&aml::name(*b"_S5_", &s5));
    dsdt
}

/// The PCI bus: what it has to give out, and which input of the IOAPIC the line of each slot is.
fn pci_bus() -> Vec<u8> {
    const WHOLE_SLOT: u32 = 0xffff;
    let window = [pci::WINDOW, pci::WINDOW_LENGTH].map(low32);
    let lines: Vec<_> = (1..pci::SLOTS)
        .map(|slot| {
            aml::package(&[
                aml::dword((slot as u32) << 16 | WHOLE_SLOT),
                aml::byte(0),
                aml::byte(0),
                aml::byte(pci::gsi(slot)),
            ])
        })
        .collect();
    aml::device(
        *b"PCI0",
        &[
            aml::name(*b"_HID", &aml::eisa_id("PNP0A03")),
            aml::name(*b"_UID", &aml::byte(0)),
            aml::name(
                *b"_CRS",
                &aml::resources(&[
                    aml::first_bus(),
                    aml::io_ports(pci::ADDRESS, 8),
                    aml::memory_window(window[0], window[1]),
                ]),
            ),
            aml::name(*b"_PRT", &aml::package(&lines)),
        ],
    )
}

/// What of the mainboard no other device has: a guest believes the MCFG where this has what it says.
fn mainboard() -> Vec<u8> {
    let spaces = aml::memory(low32(pci::ECAM), low32(pci::ECAM_LENGTH));
    aml::device(
        *b"MB00",
        &[
            aml::name(*b"_HID", &aml::eisa_id("PNP0C02")),
            aml::name(*b"_CRS", &aml::resources(&[spaces])),
        ],
    )
}

/// A virtio device on MMIO, by the ID that the kernel's driver for them knows.
fn virtio_mmio(index: usize) -> Vec<u8> {
    let place = mmio::place(index);
    let digit = u8::try_from(index).expect("a handful of devices");
    aml::device(
        [b'V', b'I', b'O', b'0' + digit],
        &[
            aml::name(*b"_HID", &aml::string("LNRO0005")),
            aml::name(*b"_UID", &aml::byte(digit)),
            aml::name(
                *b"_CRS",
                &aml::resources(&[
                    aml::memory(low32(place.address), low32(mmio::LENGTH)),
                    aml::interrupt(place.gsi.into()),
                ]),
            ),
        ],
    )
}

fn low32(address: u64) -> u32 {
    u32::try_from(address).expect("the layout keeps it below 4 GiB")
}

#[cfg(test)]
mod tests;
