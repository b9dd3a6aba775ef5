// SPDX-License-Identifier: GPL-2.0

//! Kernel images: what is in them and where it goes.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{Address, GuestAddress, GuestMemoryMmap, ReadVolatile};

use super::{layout, vmlinux, Error};
use crate::description::BootProtocol;

/// What an ELF file starts with.
pub const ELF_MAGIC: [u8; 4] = *b"\x7fELF";
/// Offset of the boot protocol's magic number in a bzImage, and the number.
const HEADER_OFFSET: u64 = 0x202;
pub const HEADER_MAGIC: [u8; 4] = *b"HdrS";
/// First boot protocol with `xloadflags`.
const VERSION_XLOADFLAGS: u16 = 0x020c;
/// `xloadflags`: there is an entry point for 64-bit mode.
pub const XLF_KERNEL_64: u16 = 1 << 0;
/// Offset of that entry point in the part of a bzImage that is loaded.
const ENTRY_64: u64 = 0x200;
/// What a vmlinux, which has no setup header, wants of the alignment and the length of its line.
const VMLINUX_ALIGNMENT: u32 = 0x100_0000;
const VMLINUX_CMDLINE: u32 = 2047;
/// `boot_flag`.
pub const BOOT_FLAG: u16 = 0xaa55;

/// A kernel in guest memory.
pub struct Kernel {
    /// Where to enter it.
    pub entry: GuestAddress,
    /// Its setup header, or what stands for one.
    pub header: setup_header,
    /// First address the kernel does not use before it has read its memory map.
    pub end: GuestAddress,
}

/// The format of a kernel image.
#[derive(PartialEq, Eq, Debug)]
enum Format {
    BzImage,
    Vmlinux,
}

/// Loads the kernel in `path` to be entered by `protocol`.
///
/// # Errors
///
/// What is wrong with the file or with the size of guest memory.
pub fn load(
    memory: &GuestMemoryMmap,
    path: &Path,
    protocol: BootProtocol,
) -> Result<Kernel, Error> {
    let read = |source| Error::Read {
        path: path.to_path_buf(),
        source,
    };
    let mut file = File::open(path).map_err(read)?;
    let format = format_of(&mut file)
        .map_err(read)?
        .ok_or_else(|| Error::NotAKernel {
            path: path.to_path_buf(),
        })?;

    match (format, protocol) {
        (Format::BzImage, BootProtocol::Linux64) => load_bzimage(memory, path, &mut file),
        (Format::Vmlinux, BootProtocol::Linux64) => {
            let loaded = load_elf(memory, path, &mut file)?;
            Ok(Kernel {
                entry: loaded.kernel_load,
                header: vmlinux_header(),
                end: GuestAddress(loaded.kernel_end),
            })
        }
        (Format::BzImage, BootProtocol::Pvh) => {
            let mut image = Vec::new();
            file.read_to_end(&mut image).map_err(read)?;
            let elf = vmlinux::unpack(&image).map_err(|why| Error::Unpack {
                path: path.to_path_buf(),
                why,
            })?;
            load_pvh(memory, path, &mut Cursor::new(elf.as_slice()))
        }
        (Format::Vmlinux, BootProtocol::Pvh) => load_pvh(memory, path, &mut file),
    }
}

fn load_bzimage(memory: &GuestMemoryMmap, path: &Path, file: &mut File) -> Result<Kernel, Error> {
    let loaded =
        BzImage::load(memory, None, file, Some(layout::HIGH_MEMORY)).map_err(|source| {
            Error::Load {
                path: path.to_path_buf(),
                source,
            }
        })?;
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

fn load_pvh<F>(memory: &GuestMemoryMmap, path: &Path, elf: &mut F) -> Result<Kernel, Error>
where
    F: Read + ReadVolatile + Seek,
{
    let loaded = load_elf(memory, path, elf)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(Error::NoPvhEntry {
            path: path.to_path_buf(),
        });
    };
    Ok(Kernel {
        entry,
        header: vmlinux_header(),
        end: GuestAddress(loaded.kernel_end),
    })
}

fn load_elf<F>(
    memory: &GuestMemoryMmap,
    path: &Path,
    elf: &mut F,
) -> Result<KernelLoaderResult, Error>
where
    F: Read + ReadVolatile + Seek,
{
    Elf::load(memory, None, elf, Some(layout::HIGH_MEMORY)).map_err(|source| Error::Load {
        path: path.to_path_buf(),
        source,
    })
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
