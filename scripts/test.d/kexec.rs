// SPDX-License-Identifier: GPL-2.0
//! Starts another kernel in place of the one that runs: `kexec BZIMAGE COMMAND-LINE`.
//!
//! By kexec_load(2) and the 64-bit boot protocol (`Documentation/arch/x86/boot.rst`); the memory
//! map is the running kernel's own. Does not come back where it succeeds.

use std::ffi::{c_long, c_ulong, c_void};
use std::io::{Error, Result};
use std::{env, fs, io};

/// Where the parts go, in physical memory: a page each, but for the kernel.
const BOOT_PARAMS: u64 = 0x1_0000;
const COMMAND_LINE: u64 = 0x1_1000;
const ENTRY: u64 = 0x1_2000;
const PAGE: usize = 4096;

/// Places in `struct boot_params`, and so in a bzImage.
const SETUP_SECTS: usize = 0x1f1;
const SETUP_HEADER: std::ops::Range<usize> = 0x1f1..0x268;
const TYPE_OF_LOADER: usize = 0x210;
const RAMDISK: std::ops::Range<usize> = 0x218..0x220;
const CMD_LINE_PTR: usize = 0x228;
const PREF_ADDRESS: usize = 0x258;
const INIT_SIZE: usize = 0x260;

const SYS_KEXEC_LOAD: c_long = 246;
const SYS_REBOOT: c_long = 169;
const REBOOT_MAGIC: [c_ulong; 2] = [0xfee1_dead, 672_274_793];
const REBOOT_CMD_KEXEC: c_ulong = 0x4558_4543;

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

/// `mov rsi, BOOT_PARAMS; mov rax, start; jmp rax`
fn entry_code(start: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xbe];
    code.extend(BOOT_PARAMS.to_le_bytes());
    code.extend([0x48, 0xb8]);
    code.extend(start.to_le_bytes());
    code.extend([0xff, 0xe0]);
    code
}

fn main() -> Result<()> {
    let usage = || Error::other("usage: kexec BZIMAGE COMMAND-LINE");
    let mut arguments = env::args().skip(1);
    let image = fs::read(arguments.next().ok_or_else(usage)?)?;
    let mut command_line = arguments.next().ok_or_else(usage)?.into_bytes();
    command_line.push(0);

    let load_address = u64::from_le_bytes(bytes(&image, PREF_ADDRESS)?);
    let init_size = u32::from_le_bytes(bytes(&image, INIT_SIZE)?) as usize;
    let [setup_sectors] = bytes(&image, SETUP_SECTS)?;
    let kernel = &image[(usize::from(setup_sectors) + 1) * 512..];

    let mut params = fs::read("/sys/kernel/boot_params/data")?;
    params[SETUP_HEADER].copy_from_slice(&image[SETUP_HEADER]);
    params[TYPE_OF_LOADER] = 0xff;
    params[RAMDISK].fill(0);
    params[CMD_LINE_PTR..][..4].copy_from_slice(&(COMMAND_LINE as u32).to_le_bytes());

    let code = entry_code(load_address + 0x200);
    let segments = [
        Segment::new(&params, BOOT_PARAMS, params.len()),
        Segment::new(&command_line, COMMAND_LINE, command_line.len()),
        Segment::new(&code, ENTRY, code.len()),
        Segment::new(kernel, load_address, init_size.max(kernel.len())),
    ];
    // SAFETY: The segments are read, for as long as the call lasts, and live longer.
    let loaded = unsafe {
        syscall(
            SYS_KEXEC_LOAD,
            ENTRY,
            segments.len(),
            segments.as_ptr(),
            0 as c_ulong,
        )
    };
    if loaded != 0 {
        return Err(Error::last_os_error());
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
