// SPDX-License-Identifier: GPL-2.0

//! Linux by the 64-bit boot protocol (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use kvm_bindings::kvm_sregs;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::layout::{self, Range};
use super::{params, state, write, CpuState, Error};

/// What an ELF file starts with.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// Offset of the boot protocol's magic number in a bzImage, and the number.
const HEADER_OFFSET: u64 = 0x202;
const HEADER_MAGIC: [u8; 4] = *b"HdrS";
/// First boot protocol with `xloadflags`.
const VERSION_XLOADFLAGS: u16 = 0x020c;
/// `xloadflags`: there is an entry point for 64-bit mode.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Offset of that entry point in the part of a bzImage that is loaded.
const ENTRY_64: u64 = 0x200;
/// What a vmlinux, which has no setup header, wants of the alignment and the length of its line.
const VMLINUX_ALIGNMENT: u32 = 0x100_0000;
const VMLINUX_CMDLINE: u32 = 2047;
/// `boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
const PAGE_SIZE: u64 = 4096;
/// What the warm-reset flag holds for a warm start.
const WARM_START: u16 = 0x1234;

/// A kernel in guest memory.
struct Kernel {
    entry: GuestAddress,
    header: setup_header,
    /// First address the kernel does not use before it has read its memory map.
    end: GuestAddress,
}

/// The format of a kernel image.
#[derive(PartialEq, Eq, Debug)]
enum Format {
    BzImage,
    Vmlinux,
}

/// Loads a kernel, its RAM disk and its parameters, and returns the state to enter it in. `reset`
/// is the state of a new vCPU.
///
/// # Errors
///
/// What is wrong with a file or with the size of guest memory.
pub fn load(
    memory: &GuestMemoryMmap,
    ram: &[Range],
    kernel: &Path,
    initrd: Option<&Path>,
    user_cmdline: Option<&str>,
    reset: kvm_sregs,
) -> Result<CpuState, Error> {
    let kernel = load_kernel(memory, kernel)?;
    let low_memory_end = ram[0].1 as u64;
    if kernel.end.raw_value() > low_memory_end {
        return Err(too_little("the kernel", kernel.end.raw_value()));
    }
    let initrd = initrd
        .map(|path| load_initrd(memory, path, &kernel, low_memory_end))
        .transpose()?;

    let limit = usize::try_from(kernel.header.cmdline_size).unwrap_or(usize::MAX);
    let cmdline = params::cmdline(user_cmdline, limit)?;
    write(memory, "the kernel parameters", layout::CMDLINE, &cmdline)?;
    let zero_page = params::zero_page(kernel.header, ram, initrd);
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

/// Whether a Linux that has reset its machine did so after a panic: it was told to ask for a warm
/// start then, and for a cold one otherwise. Never so where the user's parameters say how to reset.
pub fn has_panicked(memory: &GuestMemoryMmap, user_cmdline: Option<&str>) -> bool {
    let flag: u16 = memory.read_obj(layout::WARM_RESET_FLAG).unwrap_or_default();
    flag == WARM_START && params::marks_panic(user_cmdline)
}

fn load_kernel(memory: &GuestMemoryMmap, path: &Path) -> Result<Kernel, Error> {
    let read = |source| Error::Read {
        path: path.to_path_buf(),
        source,
    };
    let load = |source| Error::Load {
        path: path.to_path_buf(),
        source,
    };
    let mut file = File::open(path).map_err(read)?;
    let format = format_of(&mut file)
        .map_err(read)?
        .ok_or_else(|| Error::NotAKernel {
            path: path.to_path_buf(),
        })?;

    let high = Some(layout::HIGH_MEMORY);
    match format {
        Format::BzImage => {
            let loaded = BzImage::load(memory, None, &mut file, high).map_err(load)?;
            let header = loaded.setup_header.ok_or_else(|| Error::NotAKernel {
                path: path.to_path_buf(),
            })?;
            let version = header.version;
            if version < VERSION_XLOADFLAGS || header.xloadflags & XLF_KERNEL_64 == 0 {
                return Err(Error::No64BitEntry {
                    path: path.to_path_buf(),
                    version,
                });
            }
            Ok(Kernel {
                entry: loaded.kernel_load.unchecked_add(ENTRY_64),
                header,
                end: GuestAddress(loaded.kernel_end.max(unpacked_end(&header))),
            })
        }
        Format::Vmlinux => {
            let loaded = Elf::load(memory, None, &mut file, high).map_err(load)?;
            Ok(Kernel {
                entry: loaded.kernel_load,
                header: vmlinux_header(),
                end: GuestAddress(loaded.kernel_end),
            })
        }
    }
}

fn format_of(file: &mut File) -> io::Result<Option<Format>> {
    let mut magic_at = |offset| {
        let mut magic = [0; 4];
        file.seek(SeekFrom::Start(offset))?;
        match file.read_exact(&mut magic) {
            Ok(()) => Ok(Some(magic)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    };
    let format = if magic_at(0)? == Some(ELF_MAGIC) {
        Some(Format::Vmlinux)
    } else if magic_at(HEADER_OFFSET)? == Some(HEADER_MAGIC) {
        Some(Format::BzImage)
    } else {
        None
    };
    file.rewind()?;
    Ok(format)
}

/// Where the kernel in a bzImage ends once unpacked, with its bss and what it works with before it
/// knows its memory.
fn unpacked_end(header: &setup_header) -> u64 {
    let alignment = u64::from(header.kernel_alignment.max(1));
    let loaded = u64::from(header.code32_start).next_multiple_of(alignment);
    loaded.max(header.pref_address) + u64::from(header.init_size)
}

fn vmlinux_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: u32::from_le_bytes(HEADER_MAGIC),
        kernel_alignment: VMLINUX_ALIGNMENT,
        cmdline_size: VMLINUX_CMDLINE,
        ..Default::default()
    }
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
