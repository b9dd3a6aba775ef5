// SPDX-License-Identifier: GPL-2.0

//! What a machine is to be: said by options, by a file in TOML, or by both, where options win.
//!
//! [`Options`] is either, with everything left open; [`Description`] is the machine they come to.

mod devices;
mod file;
mod options;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;
use vm_memory::GuestAddress;

pub use devices::{Disk, Forward, Net, NetBackend, Vsock};
pub use file::read;
pub use options::Options;

/// vCPUs at most: as many as 8-bit APIC IDs name, 255 being all of them.
const MAX_CPUS: u8 = 254;
/// Guest memory at most, in MiB.
const MAX_MEMORY: u32 = 1 << 20;
/// What a machine has unless told otherwise: memory in MiB, and vCPUs.
const MEMORY: u32 = 256;
const CPUS: u8 = 1;
/// Where the firmware of a PC loads a boot sector.
const BOOT_SECTOR: GuestAddress = GuestAddress(0x7c00);

/// Why there is no machine to run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no machine description.
    #[error("{}: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What is wrong where.
        message: String,
    },
    /// A number in the file is out of range.
    #[error("{}: {key} is {value}, and not in {range}", path.display())]
    Range {
        /// Which file.
        path: PathBuf,
        /// Which number.
        key: &'static str,
        /// What it is.
        value: u32,
        /// What it can be.
        range: String,
    },
    /// Neither Linux nor raw code.
    #[error("nothing to run: give --kernel or --flat, or name one in the file of --config")]
    NoGuest,
    /// Both.
    #[error("kernel and flat are two guests: a machine runs one")]
    TwoGuests,
    /// A word about the other kind of guest.
    #[error("{key} is for {wanted}, and the guest is {guest}")]
    OtherGuest {
        /// What was said.
        key: &'static str,
        /// What it is for.
        wanted: &'static str,
        /// What there is.
        guest: &'static str,
    },
    /// A device that the machine has twice, and can have once.
    #[error("{what} is there twice")]
    Twice {
        /// Which.
        what: String,
    },
}

/// A machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Description {
    /// What runs in it.
    pub guest: Guest,
    /// Guest memory, in MiB.
    pub memory: u32,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Where the interrupt controllers are.
    pub irqchip: IrqchipMode,
    /// Host CPUs to keep the vCPUs on.
    pub pin: Vec<usize>,
    /// How the guest finds virtio devices.
    pub virtio: Transport,
    /// Disks, in their order.
    pub disks: Vec<Disk>,
    /// Network cards, in their order.
    pub nets: Vec<Net>,
    /// Whether there is a source of random numbers.
    pub rng: bool,
    /// Whether there is a balloon, and how many MiB of guest memory it takes.
    pub balloon: Option<u32>,
    /// The socket device.
    pub vsock: Option<Vsock>,
    /// Which console is the guest's main one.
    pub console: ConsoleKind,
    /// Whether lines of the guest's console begin with the time.
    pub stamp: bool,
    /// Whether to print each exit.
    pub trace: bool,
    /// Whether to print a summary of exits at the end.
    pub stats: bool,
}

/// What runs in a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Guest {
    /// Linux.
    Linux {
        /// The kernel.
        kernel: PathBuf,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
        /// The user's kernel parameters.
        cmdline: Option<String>,
        /// How to enter it.
        boot: BootProtocol,
    },
    /// Raw code.
    Flat {
        /// The code.
        code: PathBuf,
        /// Where to load it.
        load: GuestAddress,
        /// Where to start it.
        entry: GuestAddress,
        /// Processor mode to start it in.
        mode: FlatMode,
    },
}

/// Where the interrupt controllers of the machine are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IrqchipMode {
    /// All in KVM: local APICs, IOAPIC, PICs and PIT
    Kernel,
    /// Local APICs in KVM; IOAPIC, PICs and PIT in minivmm
    Split,
    /// All in minivmm
    User,
}

/// The console that what is typed goes to, and that Linux uses unless told otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleKind {
    /// The first serial port (ttyS0)
    Serial,
    /// A virtio console (hvc0); what goes to the serial port is shown as well
    Virtio,
}

impl ConsoleKind {
    /// What Linux calls it.
    pub fn device(self) -> &'static str {
        match self {
            Self::Serial => "ttyS0",
            Self::Virtio => "hvc0",
        }
    }
}

/// How Linux is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootProtocol {
    /// Linux's own 64-bit boot protocol: in 64-bit mode, with a zero page
    Linux64,
    /// The PVH entry that the kernel's ELF note names: in 32-bit mode, with a start info
    Pvh,
}

/// Processor mode that raw code starts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlatMode {
    /// 16-bit real mode, as after power-on
    Real,
    /// 32-bit protected mode, flat segments, no paging
    Protected,
    /// 64-bit mode, the first 4 GiB mapped one to one
    Long,
}

/// How a guest finds virtio devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// On a PCI bus
    Pci,
    /// In memory, at addresses that the ACPI tables name
    Mmio,
}
