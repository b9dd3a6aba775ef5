// SPDX-License-Identifier: GPL-2.0
//! Starts another kernel in place of the one that runs: `kexec now|panic BZIMAGE COMMAND-LINE`.
//!
//! By kexec_load(2) and the 64-bit boot protocol (`Documentation/arch/x86/boot.rst`). `now` does not
//! come back where it succeeds, and the memory map is the running kernel's own. `panic` leaves a
//! kernel for when this one panics, in the memory that `crashkernel=` has set aside, which is all the
//! memory it gets but for the first MiB.

use std::ffi::{c_long, c_ulong, c_void};
use std::io::{Error, Result};
use std::ops::Range;
use std::{env, fs, io};

/// Where the parts but for the kernel go, a page each, from the address of [`Place::parts`] on.
const BOOT_PARAMS: u64 = 0;
const COMMAND_LINE: u64 = 0x1000;
const ENTRY: u64 = 0x2000;
const PAGE: usize = 4096;
/// Where there is room for them in the first MiB.
const LOW: u64 = 0x1_0000;
const MIB: u64 = 1 << 20;

/// Places in `struct boot_params`, the later ones also in a bzImage.
const E820_ENTRIES: usize = 0x1e8;
const E820_TABLE: usize = 0x2d0;
const E820_ENTRY_SIZE: usize = 20;
const E820_TYPE_RAM: u32 = 1;
const SETUP_SECTS: usize = 0x1f1;
const SETUP_HEADER: Range<usize> = 0x1f1..0x268;
const TYPE_OF_LOADER: usize = 0x210;
const RAMDISK: Range<usize> = 0x218..0x220;
const CMD_LINE_PTR: usize = 0x228;
const KERNEL_ALIGNMENT: usize = 0x230;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

const SYS_KEXEC_LOAD: c_long = 246;
const SYS_REBOOT: c_long = 169;
const REBOOT_MAGIC: [c_ulong; 2] = [0xfee1_dead, 672_274_793];
const REBOOT_CMD_KEXEC: c_ulong = 0x4558_4543;
const KEXEC_ON_CRASH: c_ulong = 1;

extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// `struct kexec_segment`.
#[repr(C)]
struct Segment {
    buffer: *const c_void,
    buffer_size: usize,
    address: u64,
    size: usize,
}

impl Segment {
    fn new(data: &[u8], address: u64, size: usize) -> Self {
        Self {
            buffer: data.as_ptr().cast(),
            buffer_size: data.len(),
            address,
            size: size.next_multiple_of(PAGE),
        }
    }
}

fn bytes<const N: usize>(image: &[u8], at: usize) -> Result<[u8; N]> {
    let field = image
        .get(at..at + N)
        .and_then(|field| field.try_into().ok());
    field.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// `mov rsi, params; mov rax, start; jmp rax`
fn entry_code(params: u64, start: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xbe];
    code.extend(params.to_le_bytes());
    code.extend([0x48, 0xb8]);
    code.extend(start.to_le_bytes());
    code.extend([0xff, 0xe0]);
    code
}

/// Where the new kernel goes, and what it is told of memory.
struct Place {
    parts: u64,
    kernel: u64,
    flags: c_ulong,
}

/// The memory set aside for a kernel after a panic.
fn crash_kernel() -> Result<Range<u64>> {
    let map = fs::read_to_string("/proc/iomem")?;
    let range = map.lines().find_map(|line| {
        let (range, name) = line.trim().split_once(" : ")?;
        let (start, last) = range.split_once('-')?;
        let address = |digits| u64::from_str_radix(digits, 16).ok();
        (name == "Crash kernel").then_some(address(start)?..address(last)? + 1)
    });
    range.ok_or_else(|| Error::other("no memory is set aside: boot with crashkernel=SIZE"))
}

/// Leaves of the RAM in a memory map what is below 1 MiB and `only`.
fn restrict_ram(params: &mut [u8], only: &Range<u64>) {
    let count = usize::from(params[E820_ENTRIES]);
    let table = &params[E820_TABLE..][..count * E820_ENTRY_SIZE];
    let is_kept = |entry: &&[u8]| {
        let start = u64::from_le_bytes(*entry.first_chunk().unwrap());
        entry[16..] != E820_TYPE_RAM.to_le_bytes() || start < MIB
    };
    let mut kept = table
        .chunks_exact(E820_ENTRY_SIZE)
        .filter(is_kept)
        .collect::<Vec<_>>()
        .concat();
    kept.extend(only.start.to_le_bytes());
    kept.extend((only.end - only.start).to_le_bytes());
    kept.extend(E820_TYPE_RAM.to_le_bytes());
    params[E820_ENTRIES] = (kept.len() / E820_ENTRY_SIZE) as u8;
    params[E820_TABLE..][..kept.len()].copy_from_slice(&kept);
}

fn main() -> Result<()> {
    let usage = || Error::other("usage: kexec now|panic BZIMAGE COMMAND-LINE");
    let mut arguments = env::args().skip(1);
    let when = arguments.next().ok_or_else(usage)?;
    let image = fs::read(arguments.next().ok_or_else(usage)?)?;
    let mut command_line = arguments.next().ok_or_else(usage)?.into_bytes();
    command_line.push(0);

    let mut params = fs::read("/sys/kernel/boot_params/data")?;
    let place = match &*when {
        "now" => Place {
            parts: LOW,
            kernel: u64::from_le_bytes(bytes(&image, PREF_ADDRESS)?),
            flags: 0,
        },
        "panic" => {
            let room = crash_kernel()?;
            restrict_ram(&mut params, &room);
            let alignment = u32::from_le_bytes(bytes(&image, KERNEL_ALIGNMENT)?);
            Place {
                parts: room.start,
                kernel: (room.start + MIB).next_multiple_of(alignment.into()),
                flags: KEXEC_ON_CRASH,
            }
        }
        _ => return Err(usage()),
    };
    let init_size = u32::from_le_bytes(bytes(&image, INIT_SIZE)?) as usize;
    let [setup_sectors] = bytes(&image, SETUP_SECTS)?;
    let kernel = &image[(usize::from(setup_sectors) + 1) * 512..];

    params[SETUP_HEADER].copy_from_slice(&image[SETUP_HEADER]);
    params[TYPE_OF_LOADER] = 0xff;
    params[RAMDISK].fill(0);
    let at = |part| place.parts + part;
    params[CMD_LINE_PTR..][..4].copy_from_slice(&(at(COMMAND_LINE) as u32).to_le_bytes());

    let code = entry_code(at(BOOT_PARAMS), place.kernel + 0x200);
    let segments = [
        Segment::new(&params, at(BOOT_PARAMS), params.len()),
        Segment::new(&command_line, at(COMMAND_LINE), command_line.len()),
        Segment::new(&code, at(ENTRY), code.len()),
        Segment::new(kernel, place.kernel, init_size.max(kernel.len())),
    ];
    // SAFETY: The segments are read, for as long as the call lasts, and live longer.
    let loaded = unsafe {
        syscall(
            SYS_KEXEC_LOAD,
            at(ENTRY),
            segments.len(),
            segments.as_ptr(),
            place.flags,
        )
    };
    if loaded != 0 {
        return Err(Error::last_os_error());
    }
    if place.flags == KEXEC_ON_CRASH {
        return Ok(());
    }
    // SAFETY: Takes numbers only.
    unsafe {
        syscall(
            SYS_REBOOT,
            REBOOT_MAGIC[0],
            REBOOT_MAGIC[1],
            REBOOT_CMD_KEXEC,
        )
    };
    Err(Error::last_os_error())
}
