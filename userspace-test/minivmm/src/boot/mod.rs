// SPDX-License-Identifier: GPL-2.0

//! What lies in guest memory and in the registers before the first instruction.

pub mod acpi;
pub mod cpuid;
pub mod flat;
pub mod gdt;
mod kernel;
pub mod layout;
pub mod linux;
mod memory_map;
pub mod msr;
mod paging;
mod params;
mod pvh;
pub mod state;
mod topology;
mod vmlinux;

use std::io;
use std::path::PathBuf;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

pub use state::CpuState;

/// Why a guest could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is empty.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file is neither of the kernel formats.
    #[error("{} is neither a bzImage nor a 64-bit x86 vmlinux", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
    },
    /// A kernel without the 64-bit entry point.
    #[error(
        "{} has no 64-bit entry point (boot protocol {}.{}): it needs a 64-bit kernel of protocol \
         2.12 or later", path.display(), version >> 8, version & 0xff
    )]
    No64BitEntry {
        /// The file.
        path: PathBuf,
        /// Boot protocol version, major in the high byte.
        version: u16,
    },
    /// A kernel without the PVH entry point.
    #[error(
        "{} has no PVH entry point: it needs CONFIG_PVH, or use --boot linux64", path.display()
    )]
    NoPvhEntry {
        /// The file.
        path: PathBuf,
    },
    /// The vmlinux within a bzImage cannot be had.
    #[error(
        "cannot unpack the vmlinux in {} ({why}): give the vmlinux itself, or use --boot linux64",
        path.display()
    )]
    Unpack {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The kernel could not be put into guest memory.
    #[error("cannot load {} (is --memory large enough?)", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        source: linux_loader::loader::Error,
    },
    /// The kernel parameters are too long.
    #[error("the kernel parameters are {length} bytes long and this kernel takes {limit}")]
    CmdlineTooLong {
        /// Bytes given, without the NUL.
        length: usize,
        /// Bytes possible, without the NUL.
        limit: usize,
    },
    /// Guest memory ends before the kernel and its RAM disk do.
    #[error("{what} does not fit: give --memory {needed} or more")]
    TooLittleMemory {
        /// What does not fit.
        what: &'static str,
        /// Memory needed, in MiB.
        needed: u64,
    },
    /// The RAM disk does not fit under the highest address the kernel allows.
    #[error("the initial RAM disk of {size} bytes does not fit below {limit:#x}, where this kernel wants it")]
    InitrdTooHigh {
        /// Bytes of the RAM disk.
        size: u64,
        /// Highest address it may use.
        limit: u64,
    },
    /// Guest memory ends before what was to be written.
    #[error("cannot write {what} at {:#x} (is --memory large enough?)", at.0)]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Where.
        at: GuestAddress,
        /// What the memory said.
        source: GuestMemoryError,
    },
    /// An entry point above the first megabyte in real mode.
    #[error("real mode cannot start at {:#x}: use --entry below 0x100000, or another --mode", entry.0)]
    NotInRealMode {
        /// The entry point.
        entry: GuestAddress,
    },
}

/// Writes `bytes` to guest memory.
///
/// # Errors
///
/// [`Error::Write`] where it is too small.
fn write(
    memory: &GuestMemoryMmap,
    what: &'static str,
    at: GuestAddress,
    bytes: &[u8],
) -> Result<(), Error> {
    memory
        .write_slice(bytes, at)
        .map_err(|source| Error::Write { what, at, source })
}
