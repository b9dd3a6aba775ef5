// SPDX-License-Identifier: GPL-2.0

//! Kernels made by hand, loaded.

use std::fs;

use linux_loader::loader::bootparam::{boot_params, setup_header};
use vmm_sys_util::tempfile::TempFile;

use super::kernel::{BOOT_FLAG, HEADER_MAGIC, XLF_KERNEL_64};
use super::*;

const MIB: u64 = 1 << 20;
const CODE: &[u8] = b"the part that is loaded";

/// A bzImage of one setup sector: header and [`CODE`].
fn bzimage(edit: impl FnOnce(&mut setup_header)) -> Vec<u8> {
    let mut header = setup_header {
        setup_sects: 1,
        boot_flag: BOOT_FLAG,
        header: u32::from_le_bytes(HEADER_MAGIC),
        version: 0x020f,
        loadflags: 1,
        code32_start: 0x10_0000,
        initrd_addr_max: 0x7fff_ffff,
        kernel_alignment: 0x20_0000,
        xloadflags: XLF_KERNEL_64,
        cmdline_size: 2047,
        pref_address: 0x100_0000,
        init_size: 0x20_0000,
        ..Default::default()
    };
    edit(&mut header);
    let mut image = vec![0; 1024];
    image[0x1f1..0x1f1 + header.as_slice().len()].copy_from_slice(header.as_slice());
    image.extend_from_slice(CODE);
    image
}

/// The note that names the PVH entry: owner "Xen", type 18, a 32-bit address.
const PVH_NOTE: [u8; 20] = [
    4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0x80, 0, 0, 1,
];

/// A vmlinux of one segment at 16 MiB, 4 bytes of file and 2 MiB of memory, and of `note`.
fn vmlinux_with(note: &[u8]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    let mut put = |offset: usize, bytes: &[u8]| {
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &0x100_0040u64.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    put(64, &1u32.to_le_bytes());
    put(64 + 8, &0x200u64.to_le_bytes());
    put(64 + 24, &0x100_0000u64.to_le_bytes());
    put(64 + 32, &4u64.to_le_bytes());
    put(64 + 40, &(2 * MIB).to_le_bytes());
    put(120, &4u32.to_le_bytes());
    put(120 + 8, &0x300u64.to_le_bytes());
    put(120 + 32, &(note.len() as u64).to_le_bytes());
    put(120 + 48, &4u64.to_le_bytes());
    put(0x200, b"text");
    put(0x300, note);
    image
}

fn vmlinux() -> Vec<u8> {
    vmlinux_with(&PVH_NOTE)
}

fn file(content: &[u8]) -> TempFile {
    let file = TempFile::new().expect("a temporary file");
    fs::write(file.as_path(), content).expect("written");
    file
}

fn boot_by(
    protocol: BootProtocol,
    image: &[u8],
    initrd: Option<&[u8]>,
    mib: u64,
) -> Result<(GuestMemoryMmap, CpuState), Error> {
    let ram = layout::ram(mib * MIB);
    let memory = GuestMemoryMmap::from_ranges(&ram).expect("memory");
    let (image, initrd) = (file(image), initrd.map(file));
    let source = Source {
        kernel: image.as_path(),
        initrd: initrd.as_ref().map(TempFile::as_path),
        cmdline: Some("quiet"),
        protocol,
        console: "ttyS0",
    };
    let hardware = acpi::Hardware {
        cpus: 2,
        virtio_mmio: 0,
        pci: false,
    };
    let state = load(&memory, &ram, &source, hardware, kvm_sregs::default())?;
    Ok((memory, state))
}

fn boot(
    image: &[u8],
    initrd: Option<&[u8]>,
    mib: u64,
) -> Result<(GuestMemoryMmap, CpuState), Error> {
    boot_by(BootProtocol::Linux64, image, initrd, mib)
}

fn zero_page(memory: &GuestMemoryMmap) -> boot_params {
    memory.read_obj(layout::ZERO_PAGE).expect("in memory")
}

#[test]
fn a_bzimage_starts_at_its_64_bit_entry() {
    let (memory, state) = boot(&bzimage(|_| {}), None, 64).expect("boots");
    assert_eq!(state.regs.rip, 0x10_0200);
    assert_eq!(state.regs.rsi, layout::ZERO_PAGE.0);
    let mut code = [0; CODE.len()];
    memory
        .read_slice(&mut code, layout::HIGH_MEMORY)
        .expect("in memory");
    assert_eq!(code, CODE);
    let header = zero_page(&memory).hdr;
    assert_eq!({ header.version }, 0x020f);
    assert_eq!(({ header.ramdisk_image }, { header.ramdisk_size }), (0, 0));
    let mut line = [0; 13];
    memory
        .read_slice(&mut line, GuestAddress(u64::from(header.cmd_line_ptr)))
        .expect("there");
    assert_eq!(&line, b"console=ttyS0");
}

#[test]
fn a_vmlinux_starts_at_its_entry() {
    let (memory, state) = boot(&vmlinux(), None, 64).expect("boots");
    assert_eq!(state.regs.rip, 0x100_0040);
    assert_eq!(
        memory
            .read_obj::<[u8; 4]>(GuestAddress(0x100_0000))
            .expect("there"),
        *b"text"
    );
    let header = zero_page(&memory).hdr;
    assert_eq!({ header.boot_flag }, 0xaa55);
    assert_eq!({ header.header }, 0x5372_6448);
}

#[test]
fn pvh_starts_where_the_note_says() {
    let (memory, state) = boot_by(BootProtocol::Pvh, &vmlinux(), None, 64).expect("boots");
    assert_eq!(state.regs.rip, 0x100_0080);
    assert_eq!(state.regs.rbx, layout::START_INFO.0);
    assert_eq!(state.sregs.cr0 & (1 << 31), 0, "paging is on");
    let magic: u32 = memory.read_obj(layout::START_INFO).expect("there");
    assert_eq!(magic, 0x336e_c578);
}

#[test]
fn pvh_finds_the_vmlinux_in_a_bzimage() {
    let mut image = bzimage(|header| {
        header.payload_offset = 0;
        header.payload_length = 0x1000;
    });
    image.truncate(1024);
    image.extend(vmlinux());
    let (_, state) = boot_by(BootProtocol::Pvh, &image, None, 64).expect("boots");
    assert_eq!(state.regs.rip, 0x100_0080);
}

#[test]
fn a_kernel_without_pvh_entry_is_refused() {
    let mut other = PVH_NOTE;
    other[8] = 17;
    for note in [&other[..], &[]] {
        let error = boot_by(BootProtocol::Pvh, &vmlinux_with(note), None, 64);
        let error = error.expect_err("no PVH entry");
        assert!(matches!(error, Error::NoPvhEntry { .. }), "{error}");
    }
}

#[test]
fn acpi_is_where_the_zero_page_says() {
    let (memory, _) = boot(&bzimage(|_| {}), None, 64).expect("boots");
    let rsdp = GuestAddress(zero_page(&memory).acpi_rsdp_addr);
    let signature: [u8; 8] = memory.read_obj(rsdp).expect("there");
    assert_eq!(&signature, b"RSD PTR ");
}

#[test]
fn the_ram_disk_is_at_the_end_of_memory() {
    let (memory, _) = boot(&bzimage(|_| {}), Some(&[7; 5000]), 64).expect("boots");
    let header = zero_page(&memory).hdr;
    assert_eq!({ header.ramdisk_image }, 64 * 0x10_0000 - 0x2000);
    assert_eq!({ header.ramdisk_size }, 5000);
    let start = GuestAddress(u64::from(header.ramdisk_image));
    assert_eq!(memory.read_obj::<[u8; 4]>(start).expect("there"), [7; 4]);
}

#[test]
fn the_ram_disk_stays_below_the_kernels_limit() {
    let start = place_initrd(0x1001, 0, 4 << 30, 0x7fff_ffff).expect("fits");
    assert_eq!(start.0, 0x7fff_e000);
}

#[test]
fn the_ram_disk_keeps_clear_of_the_kernel() {
    let end = 18 * MIB;
    assert_eq!(
        place_initrd(MIB, end, 19 * MIB, u32::MAX.into())
            .expect("fits")
            .0,
        end
    );
    assert!(matches!(
        place_initrd(MIB + 1, end, 19 * MIB, u32::MAX.into()),
        Err(Error::TooLittleMemory { needed: 20, .. })
    ));
    assert!(matches!(
        place_initrd(MIB, end, 64 * MIB, 18 * MIB),
        Err(Error::InitrdTooHigh { .. })
    ));
}

#[test]
fn the_unpacked_kernel_must_fit() {
    let error = boot(&bzimage(|_| {}), None, 17).expect_err("16 MiB + 2 MiB are needed");
    assert!(
        matches!(error, Error::TooLittleMemory { needed: 18, .. }),
        "{error}"
    );
}

#[test]
fn a_kernel_without_64_bit_entry_is_refused() {
    for edit in [
        |h: &mut setup_header| h.xloadflags = 0,
        |h: &mut setup_header| h.version = 0x020b,
    ] {
        let error = boot(&bzimage(edit), None, 64).expect_err("no 64-bit entry");
        assert!(matches!(error, Error::No64BitEntry { .. }), "{error}");
    }
}

#[test]
fn what_is_no_kernel_is_refused() {
    for content in [&b""[..], b"#!/bin/sh\n", &[0; 4096]] {
        let error = boot(content, None, 64).expect_err("not a kernel");
        assert!(matches!(error, Error::NotAKernel { .. }), "{error}");
    }
}

#[test]
fn an_empty_ram_disk_is_refused() {
    assert!(matches!(
        boot(&bzimage(|_| {}), Some(&[]), 64),
        Err(Error::Empty { .. })
    ));
}

#[test]
fn a_panic_is_told_from_a_reboot() {
    let (memory, _) = boot(&bzimage(|_| {}), None, 64).expect("boots");
    assert!(!has_panicked(&memory, None));
    memory
        .write_obj(WARM_START, layout::WARM_RESET_FLAG)
        .expect("in memory");
    assert!(has_panicked(&memory, Some("quiet")));
    assert!(!has_panicked(&memory, Some("reboot=warm")));
}
