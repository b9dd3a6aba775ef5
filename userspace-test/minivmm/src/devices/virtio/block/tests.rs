// SPDX-License-Identifier: GPL-2.0

//! Disks of files, with a driver.

use std::fs;
use std::path::Path;

use virtio_bindings::virtio_blk::*;
use vmm_sys_util::tempfile::TempFile;

use super::*;
use crate::devices::virtio::rig::{Buffer, Rig};

const SECTORS: usize = 64;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;

fn file_of(bytes: &[u8]) -> TempFile {
    let file = TempFile::new().expect("a file");
    fs::write(file.as_path(), bytes).expect("written");
    file
}

/// A file in which each sector has its number in every byte.
fn numbered() -> TempFile {
    let bytes: Vec<u8> = (0..SECTORS)
        .flat_map(|sector| [sector as u8; 512])
        .collect();
    file_of(&bytes)
}

fn disk(path: &Path, read_only: bool) -> Rig {
    let image = Image::open(path, read_only).expect("an image");
    Rig::new(Box::new(Block::new(image)))
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// A request with its data; its status.
pub(super) fn out(rig: &mut Rig, kind: u32, sector: u64, data: &[u8]) -> u8 {
    let header = header(kind, sector);
    let buffers = [Buffer::Out(&header), Buffer::Out(data), Buffer::In(1)];
    let (written, status) = rig.request(0, &buffers);
    assert_eq!(written, 1);
    status[0]
}

/// A request for data; them, or its status.
pub(super) fn read(rig: &mut Rig, kind: u32, sector: u64, length: usize) -> Result<Vec<u8>, u8> {
    let header = header(kind, sector);
    let buffers = [Buffer::Out(&header), Buffer::In(length), Buffer::In(1)];
    let (written, mut bytes) = rig.request(0, &buffers);
    match bytes.pop().expect("a status") {
        0 => {
            assert!(written as usize <= length + 1);
            Ok(bytes)
        }
        status => {
            assert_eq!(written, 1);
            Err(status)
        }
    }
}

pub(super) fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [
        &sector.to_le_bytes()[..],
        &sectors.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}

#[test]
fn sectors_are_read_and_written() {
    let file = numbered();
    let mut rig = disk(file.as_path(), false);
    rig.start(FLUSH);
    assert_eq!(
        read(&mut rig, VIRTIO_BLK_T_IN, 3, 1024),
        Ok([[3; 512], [4; 512]].concat())
    );
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_OUT, 5, &[0xaa; 512]), 0);
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_FLUSH, 0, &[]), 0);
    assert_eq!(fs::read(file.as_path()).expect("read")[5 * 512..][..513], {
        let mut expected = vec![0xaa; 512];
        expected.push(6);
        expected
    });
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let file = numbered();
    let mut rig = disk(file.as_path(), false);
    rig.start(0);
    let header = header(VIRTIO_BLK_T_IN, 1);
    let buffers = [
        Buffer::Out(&header[..5]),
        Buffer::Out(&header[5..]),
        Buffer::In(100),
        Buffer::In(413),
    ];
    let (written, bytes) = rig.request(0, &buffers);
    assert_eq!(written, 513);
    assert_eq!(bytes, [&[1; 512][..], &[0]].concat());
}

#[test]
fn what_is_outside_of_the_disk_is_refused() {
    let file = numbered();
    let mut rig = disk(file.as_path(), false);
    rig.start(FLUSH);
    let last = SECTORS as u64 - 1;
    assert!(read(&mut rig, VIRTIO_BLK_T_IN, last, 512).is_ok());
    for sector in [last + 1, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(
            read(&mut rig, VIRTIO_BLK_T_IN, sector, 512),
            Err(1),
            "{sector:#x}"
        );
        assert_eq!(
            out(&mut rig, VIRTIO_BLK_T_OUT, sector, &[1; 512]),
            1,
            "{sector:#x}"
        );
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            assert_eq!(
                out(&mut rig, kind, 0, &range(sector, 8, 0)),
                1,
                "{sector:#x}"
            );
        }
    }
    assert_eq!(read(&mut rig, VIRTIO_BLK_T_IN, last, 1024), Err(1));
    assert_eq!(read(&mut rig, VIRTIO_BLK_T_IN, 0, 511), Err(1));
    assert_eq!(fs::metadata(file.as_path()).expect("there").len(), 64 * 512);
    assert_eq!(read(&mut rig, 99, 0, 512), Err(2));
}

#[test]
fn ranges_become_zeroes() {
    let file = numbered();
    let mut rig = disk(file.as_path(), false);
    rig.start(FLUSH);
    let two = [range(8, 8, 0), range(24, 1, 1)].concat();
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, &two), 0);
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_DISCARD, 0, &range(40, 8, 0)), 0);
    for (sector, byte) in [(7, 7), (8, 0), (15, 0), (16, 16), (24, 0), (25, 25)] {
        assert_eq!(
            read(&mut rig, VIRTIO_BLK_T_IN, sector, 512),
            Ok(vec![byte; 512])
        );
    }
    // Flags that are none, ranges that are cut off or too many, and more than is allowed.
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 1)), 2);
    assert_eq!(
        out(&mut rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, &range(0, 8, 2)),
        2
    );
    assert_eq!(
        out(&mut rig, VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 0)[..15]),
        1
    );
    assert_eq!(
        out(
            &mut rig,
            VIRTIO_BLK_T_DISCARD,
            0,
            &range(0, 1, 0).repeat(17)
        ),
        1
    );
    assert_eq!(
        out(
            &mut rig,
            VIRTIO_BLK_T_WRITE_ZEROES,
            0,
            &range(0, u32::MAX, 0)
        ),
        1
    );
}

#[test]
fn a_read_only_disk_is_not_written() {
    let file = numbered();
    let mut rig = disk(file.as_path(), true);
    assert_ne!(rig.driver.offered_half(0) & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(rig.driver.offered_half(0) & 1 << VIRTIO_BLK_F_FLUSH, 0);
    rig.start(1 << VIRTIO_BLK_F_RO);
    assert!(read(&mut rig, VIRTIO_BLK_T_IN, 0, 512).is_ok());
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_OUT, 0, &[1; 512]), 1);
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_DISCARD, 0, &range(0, 8, 0)), 1);
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_FLUSH, 0, &[]), 0);
    assert_eq!(fs::read(file.as_path()).expect("read")[..512], [0; 512]);
}

#[test]
fn the_disk_says_what_it_is() {
    let file = numbered();
    let mut rig = disk(file.as_path(), false);
    let mut capacity = [0; 8];
    rig.driver.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS as u64);
    let mut beyond = [0xff; 8];
    rig.driver.read_config(CONFIG_SIZE as u64 - 2, &mut beyond);
    assert_eq!(beyond, [0; 8]);
    rig.start(FLUSH);
    let name = file
        .as_path()
        .file_name()
        .expect("a name")
        .as_encoded_bytes();
    let id = read(&mut rig, VIRTIO_BLK_T_GET_ID, 0, 20).expect("an ID");
    assert!(id.starts_with(&name[..name.len().min(20)]));
}

#[test]
fn a_request_without_header_or_status_stops_the_disk_until_its_reset() {
    let file = numbered();
    for buffers in [
        &[Buffer::Out(&[0; 15]), Buffer::In(1)][..],
        &[Buffer::Out(&[0; 16])],
        &[Buffer::In(1)],
    ] {
        let mut rig = disk(file.as_path(), false);
        rig.start(FLUSH);
        rig.give(0, buffers);
        rig.interrupted();
        assert!(rig.needs_reset());
        rig.reset();
        assert!(!rig.needs_reset());
        rig.start(FLUSH);
        assert_eq!(read(&mut rig, VIRTIO_BLK_T_IN, 9, 512), Ok(vec![9; 512]));
    }
}

#[test]
fn an_image_that_became_shorter_is_an_error_to_the_guest() {
    let file = numbered();
    let mut rig = disk(file.as_path(), false);
    rig.start(FLUSH);
    file.as_file().set_len(512).expect("shorter");
    assert!(read(&mut rig, VIRTIO_BLK_T_IN, 0, 512).is_ok());
    assert_eq!(read(&mut rig, VIRTIO_BLK_T_IN, 1, 512), Err(1));
}

#[test]
fn an_image_is_one_machine_s() {
    let file = numbered();
    let writer = Image::open(file.as_path(), false).expect("the first");
    for read_only in [false, true] {
        let error = Image::open(file.as_path(), read_only)
            .err()
            .expect("locked");
        assert!(matches!(error, Error::Locked { .. }), "{error}");
    }
    drop(writer);
    let _reader = Image::open(file.as_path(), true).expect("the first reader");
    let _another = Image::open(file.as_path(), true).expect("the second reader");
    assert!(Image::open(file.as_path(), false).is_err());
}

#[test]
fn what_is_no_image_is_explained() {
    for (bytes, word) in [
        (&[][..], "empty"),
        (&[0; 513][..], "multiple of 512"),
        (&[&b"QFI\xfb"[..], &[0; 508]].concat(), "qcow2"),
    ] {
        let error = Image::open(file_of(bytes).as_path(), false)
            .err()
            .expect("refused");
        assert!(error.to_string().contains(word), "{error}");
    }
    for (path, word) in [("/nowhere/to/be/found", "truncate"), ("/tmp", "directory")] {
        let error = Image::open(Path::new(path), false).err().expect("refused");
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = Image::open(Path::new("/dev/null"), true)
        .err()
        .expect("refused");
    assert!(matches!(error, Error::Kind { .. }), "{error}");
}
