// SPDX-License-Identifier: GPL-2.0

//! Linux, its RAM disk and its parameters in guest memory, and the state to enter it in: by its own
//! 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol") or by PVH.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use kvm_bindings::kvm_sregs;
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::kernel::{self, Kernel};
use super::layout::{self, Range};
use super::memory_map::MemoryMap;
use super::{acpi, params, pvh, state, write, CpuState, Error};
use crate::description::BootProtocol;

const PAGE_SIZE: u64 = 4096;
/// What the warm-reset flag holds for a warm start.
const WARM_START: u16 = 0x1234;

/// What to boot, and how.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The kernel image.
    pub kernel: &'a Path,
    /// The RAM disk.
    pub initrd: Option<&'a Path>,
    /// The user's kernel parameters.
    pub cmdline: Option<&'a str>,
    /// How to enter the kernel.
    pub protocol: BootProtocol,
    /// The console it uses unless the user says otherwise.
    pub console: &'a str,
}

/// Loads a kernel, its RAM disk, its parameters and the ACPI tables for its `hardware`, and
/// returns the state to enter it in. `reset` is the state of a new vCPU.
///
/// # Errors
///
/// What is wrong with a file or with the size of guest memory.
pub fn load(
    memory: &GuestMemoryMmap,
    ram: &[Range],
    source: &Source<'_>,
    hardware: acpi::Hardware,
    reset: kvm_sregs,
) -> Result<CpuState, Error> {
    let kernel = kernel::load(memory, source.kernel, source.protocol)?;
    let low_memory_end = ram[0].1 as u64;
    if kernel.end.raw_value() > low_memory_end {
        return Err(too_little("the kernel", kernel.end.raw_value()));
    }
    let initrd = source
        .initrd
        .map(|path| load_initrd(memory, path, &kernel, low_memory_end))
        .transpose()?;

    let limit = usize::try_from(kernel.header.cmdline_size).unwrap_or(usize::MAX);
    let cmdline = params::cmdline(source.console, hardware.pci, source.cmdline, limit)?;
    write(memory, "the kernel parameters", layout::CMDLINE, &cmdline)?;
    let rsdp = acpi::write_tables(memory, hardware)?;
    let map = MemoryMap::of(ram);

    match source.protocol {
        BootProtocol::Linux64 => {
            let zero_page = params::zero_page(kernel.header, &map, initrd, rsdp);
            write(
                memory,
                "the zero page",
                layout::ZERO_PAGE,
                zero_page.as_slice(),
            )?;
            let mut state = state::long_mode(memory, reset, kernel.entry)?;
            state.regs.rsi = layout::ZERO_PAGE.raw_value();
            Ok(state)
        }
        BootProtocol::Pvh => {
            let start_info = pvh::write_start_info(memory, &map, initrd, rsdp)?;
            let mut state = state::protected_mode(memory, reset, kernel.entry)?;
            state.regs.rbx = start_info.raw_value();
            Ok(state)
        }
    }
}

/// Whether a Linux that has reset its machine did so after a panic: it was told to ask for a warm
/// start then, and for a cold one otherwise. Never so where the user's parameters say how to reset.
pub fn has_panicked(memory: &GuestMemoryMmap, user_cmdline: Option<&str>) -> bool {
    let flag: u16 = memory.read_obj(layout::WARM_RESET_FLAG).unwrap_or_default();
    flag == WARM_START && params::marks_panic(user_cmdline)
}

/// Puts the RAM disk as high as the kernel allows, where it is in nobody's way.
fn load_initrd(
    memory: &GuestMemoryMmap,
    path: &Path,
    kernel: &Kernel,
    low_memory_end: u64,
) -> Result<Range, Error> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut content))
        .map_err(|source| Error::Read {
            path: path.to_path_buf(),
            source,
        })?;
    if content.is_empty() {
        return Err(Error::Empty {
            path: path.to_path_buf(),
        });
    }
    let highest = match kernel.header.initrd_addr_max {
        0 => u64::from(u32::MAX),
        highest => u64::from(highest),
    };
    let start = place_initrd(
        content.len() as u64,
        kernel.end.raw_value(),
        low_memory_end,
        highest,
    )?;
    write(memory, "the initial RAM disk", start, &content)?;
    Ok((start, content.len()))
}

/// The highest page where `size` bytes end within memory and at or below `highest`, and start at
/// or after `kernel_end`.
fn place_initrd(
    size: u64,
    kernel_end: u64,
    memory_end: u64,
    highest: u64,
) -> Result<GuestAddress, Error> {
    let fits = |end: u64| {
        let start = end.checked_sub(size)? & !(PAGE_SIZE - 1);
        (start >= kernel_end).then_some(GuestAddress(start))
    };
    if fits(highest + 1).is_none() {
        return Err(Error::InitrdTooHigh {
            size,
            limit: highest,
        });
    }
    fits(memory_end.min(highest + 1)).ok_or_else(|| {
        too_little(
            "the initial RAM disk",
            kernel_end.next_multiple_of(PAGE_SIZE) + size.next_multiple_of(PAGE_SIZE),
        )
    })
}

fn too_little(what: &'static str, bytes: u64) -> Error {
    Error::TooLittleMemory {
        what,
        needed: bytes.div_ceil(1 << 20),
    }
}

#[cfg(test)]
mod tests;
