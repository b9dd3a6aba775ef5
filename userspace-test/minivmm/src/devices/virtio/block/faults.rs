// SPDX-License-Identifier: GPL-2.0

//! Disks whose host fails them: what the guest was told is durable is.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use virtio_bindings::virtio_blk::*;
use vm_memory::VolatileSlice;

use super::storage::{Direction, Storage};
use super::tests::{out, range, read};
use super::{Block, Image, SECTOR};
use crate::devices::virtio::rig::Rig;

const SECTORS: usize = 32;
const SIZE: usize = SECTOR as usize;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const OK: u8 = VIRTIO_BLK_S_OK as u8;
const ERROR: u8 = VIRTIO_BLK_S_IOERR as u8;

/// A host's file as a page cache and a medium make it: a write reaches the medium by a sync, and a
/// sync that fails makes the cache forget that it had something to write.
struct Host {
    cache: Vec<u8>,
    medium: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// There is no room: of a write, only the first sector is taken.
    full: bool,
    sync_fails: bool,
    /// A sync has failed.
    sync_failed: bool,
}

#[derive(Clone)]
struct Faulty(Arc<Mutex<Host>>);

impl Faulty {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Host {
            cache: vec![0; SECTORS * SIZE],
            medium: vec![0; SECTORS * SIZE],
            dirty: BTreeSet::new(),
            full: false,
            sync_fails: false,
            sync_failed: false,
        })))
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.0.lock().expect("lock")
    }

    /// A disk that is kept there.
    fn disk(&self) -> Rig {
        let storage = Box::new(self.clone());
        let image = Image::new(storage, Path::new("/faulty"), SECTORS as u64, false);
        Rig::new(Box::new(Block::new(image)))
    }

    /// What a sector has after the host has lost its power.
    fn durable(&self, sector: usize) -> u8 {
        let bytes = self.host().medium[sector * SIZE..][..SIZE].to_vec();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{sector}: torn");
        bytes[0]
    }
}

fn no_space() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

impl Host {
    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let taken = if self.full { SIZE } else { bytes.len() };
        let taken = taken.min(bytes.len());
        self.cache[offset..offset + taken].copy_from_slice(&bytes[..taken]);
        self.dirty
            .extend(offset / SIZE..(offset + taken).div_ceil(SIZE));
        if taken < bytes.len() {
            return Err(no_space());
        }
        Ok(())
    }
}

impl Storage for Faulty {
    fn transfer(
        &self,
        direction: Direction,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
    ) -> io::Result<()> {
        let mut host = self.host();
        let mut offset = offset as usize;
        for piece in pieces {
            match direction {
                Direction::Read => {
                    piece.copy_from(&host.cache[offset..offset + piece.len()]);
                }
                Direction::Write => {
                    let mut bytes = vec![0; piece.len()];
                    piece.copy_to(&mut bytes);
                    host.write(offset, &bytes)?;
                }
            }
            offset += piece.len();
        }
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64, _may_free: bool) -> io::Result<()> {
        let zeroes = vec![0; length as usize];
        self.host().write(offset as usize, &zeroes)
    }

    fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut host = self.host();
        let host = &mut *host;
        let dirty = std::mem::take(&mut host.dirty);
        if host.sync_fails {
            host.sync_failed = true;
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        for sector in dirty {
            let bytes = sector * SIZE..(sector + 1) * SIZE;
            host.medium[bytes.clone()].copy_from_slice(&host.cache[bytes]);
        }
        Ok(())
    }
}

fn write(rig: &mut Rig, sector: u64, byte: u8, sectors: usize) -> u8 {
    let data = vec![byte; sectors * SIZE];
    out(rig, VIRTIO_BLK_T_OUT, sector, &data)
}

fn flush(rig: &mut Rig) -> u8 {
    out(rig, VIRTIO_BLK_T_FLUSH, 0, &[])
}

#[test]
fn a_full_host_is_an_error_until_there_is_room() {
    let faulty = Faulty::new();
    let mut rig = faulty.disk();
    rig.start(FLUSH);
    assert_eq!(write(&mut rig, 0, 1, 2), OK);
    faulty.host().full = true;
    assert_eq!(write(&mut rig, 4, 2, 2), ERROR);
    let zeroes = range(8, 4, 0);
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, &zeroes), ERROR);
    // What it has is still there, and can be made durable.
    assert_eq!(read(&mut rig, VIRTIO_BLK_T_IN, 0, SIZE), Ok(vec![1; SIZE]));
    assert_eq!(flush(&mut rig), OK);
    assert_eq!((faulty.durable(0), faulty.durable(1)), (1, 1));
    faulty.host().full = false;
    assert_eq!(write(&mut rig, 4, 2, 2), OK);
    assert_eq!(flush(&mut rig), OK);
    assert_eq!((faulty.durable(4), faulty.durable(5)), (2, 2));
}

#[test]
fn no_sync_is_believed_after_one_that_failed() {
    let faulty = Faulty::new();
    let mut rig = faulty.disk();
    rig.start(FLUSH);
    assert_eq!(write(&mut rig, 3, 7, 1), OK);
    faulty.host().sync_fails = true;
    assert_eq!(flush(&mut rig), ERROR);
    // The host would say that all is well now.
    faulty.host().sync_fails = false;
    assert_eq!(flush(&mut rig), ERROR);
    assert_eq!(write(&mut rig, 4, 7, 1), ERROR);
    assert_eq!(read(&mut rig, VIRTIO_BLK_T_IN, 3, SIZE), Ok(vec![7; SIZE]));
    assert_eq!(faulty.durable(3), 0);
}

#[test]
fn neither_does_a_reset_make_it_believed() {
    let faulty = Faulty::new();
    let mut rig = faulty.disk();
    rig.start(FLUSH);
    assert_eq!(write(&mut rig, 3, 7, 1), OK);
    // The sync is the one that ends the work, of which no driver hears.
    faulty.host().sync_fails = true;
    rig.reset();
    faulty.host().sync_fails = false;
    rig.start(FLUSH);
    assert_eq!(flush(&mut rig), ERROR);
    assert_eq!(write(&mut rig, 3, 7, 1), ERROR);
}

#[test]
fn without_a_cache_each_write_is_durable() {
    let faulty = Faulty::new();
    let mut rig = faulty.disk();
    rig.start(0);
    assert_eq!(write(&mut rig, 3, 7, 2), OK);
    assert_eq!((faulty.durable(3), faulty.durable(4)), (7, 7));
    let zeroes = range(4, 1, 0);
    assert_eq!(out(&mut rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, &zeroes), OK);
    assert_eq!((faulty.durable(3), faulty.durable(4)), (7, 0));
    faulty.host().sync_fails = true;
    assert_eq!(write(&mut rig, 5, 9, 1), ERROR);
    faulty.host().sync_fails = false;
    assert_eq!(write(&mut rig, 5, 9, 1), ERROR);
}

#[test]
fn a_driver_that_goes_leaves_nothing_in_the_cache() {
    let faulty = Faulty::new();
    let mut rig = faulty.disk();
    rig.start(FLUSH);
    assert_eq!(write(&mut rig, 3, 7, 1), OK);
    assert_eq!(faulty.durable(3), 0);
    rig.reset();
    assert_eq!(faulty.durable(3), 7);
}

/// Requests by chance to a host that fails by chance: whenever a flush has succeeded, what was
/// written by then is on the medium.
#[test]
fn what_was_flushed_survives_a_crash() {
    for seed in 1..=40u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |limit: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) % limit
        };
        let faulty = Faulty::new();
        let mut rig = faulty.disk();
        rig.start(FLUSH);
        // What the guest knows of each sector: nothing after a write that failed.
        let mut known = [Some(0); SECTORS];
        for step in 0..60 {
            let sector = next(SECTORS as u64 - 4);
            let count = 1 + next(4) as usize;
            let places = sector as usize..sector as usize + count;
            match next(12) {
                0 => {
                    rig.reset();
                    rig.start(FLUSH);
                }
                1 => faulty.host().full ^= true,
                2 if step > 40 => faulty.host().sync_fails ^= true,
                3..=5 => {
                    let status = flush(&mut rig);
                    let failed = faulty.host().sync_failed;
                    assert_eq!(status == ERROR, failed, "seed {seed}");
                    if status == OK {
                        for (sector, byte) in known.iter().enumerate() {
                            let durable = faulty.durable(sector);
                            assert!(byte.is_none_or(|byte| byte == durable), "seed {seed}");
                        }
                    }
                }
                6 => {
                    let zeroes = range(sector, count as u32, 0);
                    let status = out(&mut rig, VIRTIO_BLK_T_WRITE_ZEROES, 0, &zeroes);
                    known[places].fill((status == OK).then_some(0));
                }
                _ => {
                    let byte = next(256) as u8;
                    let status = write(&mut rig, sector, byte, count);
                    known[places].fill((status == OK).then_some(byte));
                }
            }
        }
    }
}
