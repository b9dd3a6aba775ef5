// SPDX-License-Identifier: GPL-2.0

//! The requests of a driver (virtio 1.2, 5.2.6).

use std::io;
use std::os::unix::ffi::OsStrExt;

use virtio_bindings::virtio_blk::*;
use vm_memory::VolatileSlice;

use super::storage::{self, Direction};
use super::{Image, MAX_DISCARD, MAX_RANGES, MAX_ZEROES, SECTOR};
use crate::devices::virtio::queue::Buffers;
use crate::devices::virtio::QueueError;

/// Bytes of a request's header, of its status, and of one range to discard or to fill with zeroes.
const HEADER: usize = 16;
const STATUS: usize = 1;
const RANGE: usize = 16;
/// What making writes durable is called in a message.
const SYNC: &str = "sync";

/// How a request ended, as the driver is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Outcome {
    Ok = VIRTIO_BLK_S_OK as u8,
    Error = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// Why a request failed.
enum Failure {
    /// The driver asks for what is not there.
    Invalid,
    /// The device does not know it.
    Unsupported,
    /// What was written may be lost, which a person was told of.
    Lost,
    /// The host refuses it.
    Host {
        /// What it refuses.
        what: &'static str,
        /// What it says.
        source: io::Error,
    },
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::Host { what, source }
}

/// Serves requests with an image.
pub struct Requests {
    image: Image,
    /// The driver knows of no cache: a write is durable when it is done.
    write_through: bool,
    /// Something was written since the last sync.
    dirty: bool,
    /// What a person was told of that the host refuses, and by what errors.
    told: Vec<(&'static str, i32)>,
}

impl Requests {
    /// Requests of a driver that has just been started.
    pub fn new(image: Image, write_through: bool) -> Self {
        Self {
            image,
            write_through,
            dirty: false,
            told: Vec::new(),
        }
    }

    /// The driver is gone: what it wrote is made durable.
    pub fn finish(mut self) -> Image {
        if self.dirty {
            if let Err(failure) = self.sync() {
                self.outcome(failure);
            }
        }
        self.image
    }

    /// Serves one request: how many bytes of its buffers were written.
    ///
    /// # Errors
    ///
    /// A request that has no header, or no room for its status.
    pub fn serve(&mut self, buffers: Buffers<'_>) -> Result<u32, QueueError> {
        let Buffers { readable, writable } = buffers;
        let (header, output) =
            split(&readable, HEADER).ok_or(QueueError::Request("it is shorter than its header"))?;
        let room = storage::length(&writable) as usize;
        let (input, status) = room
            .checked_sub(STATUS)
            .and_then(|input| split(&writable, input))
            .ok_or(QueueError::Request("it has no room for its status"))?;

        let header: [u8; HEADER] = gather(&header).try_into().expect("as long as split off");
        let kind = u32::from_le_bytes(header[..4].try_into().expect("4 bytes"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("8 bytes"));
        let (outcome, filled) = match self.execute(kind, sector, &output, &input) {
            Ok(filled) => (Outcome::Ok, filled),
            Err(failure) => (self.outcome(failure), 0),
        };
        for piece in &status {
            piece.copy_from(&[outcome as u8]);
        }
        // The driver looks no further than it asked, and no request is longer than 32 bits say.
        Ok(u32::try_from(filled + STATUS as u64).unwrap_or(u32::MAX))
    }

    /// Does what is asked for: how many bytes of `input` were filled.
    fn execute(
        &mut self,
        kind: u32,
        sector: u64,
        output: &[VolatileSlice<'_>],
        input: &[VolatileSlice<'_>],
    ) -> Result<u64, Failure> {
        match kind {
            VIRTIO_BLK_T_IN => {
                let length = storage::length(input);
                let offset = self.place(sector, length)?;
                self.image
                    .storage()
                    .transfer(Direction::Read, offset, input)
                    .map_err(host("read"))?;
                Ok(length)
            }
            VIRTIO_BLK_T_OUT => {
                let offset = self.place(sector, storage::length(output))?;
                self.check_writable()?;
                self.dirty = true;
                self.image
                    .storage()
                    .transfer(Direction::Write, offset, output)
                    .map_err(host("write"))?;
                self.written()?;
                Ok(0)
            }
            VIRTIO_BLK_T_FLUSH => self.sync().map(|()| 0),
            VIRTIO_BLK_T_GET_ID => Ok(self.tell_id(input)),
            VIRTIO_BLK_T_DISCARD => self.ranges(output, Self::discard),
            VIRTIO_BLK_T_WRITE_ZEROES => self.ranges(output, Self::write_zeroes),
            _ => Err(Failure::Unsupported),
        }
    }

    /// Where `length` bytes from `sector` on are in the image.
    fn place(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(length / SECTOR);
        let fits = length % SECTOR == 0 && end.is_some_and(|end| end <= self.image.sectors());
        fits.then(|| sector * SECTOR).ok_or(Failure::Invalid)
    }

    fn check_writable(&self) -> Result<(), Failure> {
        if self.image.is_read_only() {
            return Err(Failure::Invalid);
        }
        self.check_kept()
    }

    fn check_kept(&self) -> Result<(), Failure> {
        if self.image.is_lost() {
            return Err(Failure::Lost);
        }
        Ok(())
    }

    fn written(&mut self) -> Result<(), Failure> {
        if self.write_through {
            self.sync()
        } else {
            Ok(())
        }
    }

    fn sync(&mut self) -> Result<(), Failure> {
        if self.image.is_read_only() {
            return Ok(());
        }
        self.check_kept()?;
        self.image.sync().map_err(host(SYNC))?;
        self.dirty = false;
        Ok(())
    }

    /// Fills `input` with what identifies the disk: as much of its name as fits.
    fn tell_id(&self, input: &[VolatileSlice<'_>]) -> u64 {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        let name = self.image.path().file_name().unwrap_or_default().as_bytes();
        let count = name.len().min(id.len());
        id[..count].copy_from_slice(&name[..count]);
        scatter(&id, input)
    }

    /// Does `work` with each range that a request lists: its sector, its sectors and its flags.
    fn ranges(
        &mut self,
        output: &[VolatileSlice<'_>],
        work: fn(&mut Self, u64, u32, u32) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        self.check_writable()?;
        let length = storage::length(output);
        if length == 0
            || length % RANGE as u64 != 0
            || length > u64::from(MAX_RANGES) * RANGE as u64
        {
            return Err(Failure::Invalid);
        }
        for range in gather(output).chunks_exact(RANGE) {
            let word = |at: usize| {
                let bytes = range[at..at + 4].try_into().expect("4 bytes");
                u32::from_le_bytes(bytes)
            };
            let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
            self.dirty = true;
            work(self, sector, word(8), word(12))?;
        }
        self.written()?;
        Ok(0)
    }

    fn discard(&mut self, sector: u64, sectors: u32, flags: u32) -> Result<(), Failure> {
        if flags != 0 {
            return Err(Failure::Unsupported);
        }
        let (offset, length) = self.range(sector, sectors, MAX_DISCARD)?;
        let storage = self.image.storage();
        storage.discard(offset, length).map_err(host("discard"))
    }

    fn write_zeroes(&mut self, sector: u64, sectors: u32, flags: u32) -> Result<(), Failure> {
        if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 {
            return Err(Failure::Unsupported);
        }
        let (offset, length) = self.range(sector, sectors, MAX_ZEROES)?;
        let may_free = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        let storage = self.image.storage();
        storage
            .zero(offset, length, may_free)
            .map_err(host("write zeroes"))
    }

    /// The bytes of a range.
    fn range(&self, sector: u64, sectors: u32, limit: u32) -> Result<(u64, u64), Failure> {
        let length = u64::from(sectors) * SECTOR;
        if sectors > limit {
            return Err(Failure::Invalid);
        }
        Ok((self.place(sector, length)?, length))
    }

    /// What the driver is told of a failure. A person is told of what the host refuses, once.
    fn outcome(&mut self, failure: Failure) -> Outcome {
        match failure {
            Failure::Invalid | Failure::Lost => Outcome::Error,
            Failure::Unsupported => Outcome::Unsupported,
            Failure::Host { what, source } => {
                let refusal = (what, source.raw_os_error().unwrap_or_default());
                if !self.told.contains(&refusal) {
                    self.told.push(refusal);
                    let path = self.image.path().display();
                    let hint = hint(what, &source);
                    eprintln!("minivmm: disk {path}: cannot {what}: {source}{hint}");
                }
                Outcome::Error
            }
        }
    }
}

fn hint(what: &str, error: &io::Error) -> &'static str {
    match (error.kind(), error.raw_os_error()) {
        _ if what == SYNC => {
            "; what the guest wrote since its last flush may be lost, and it sees I/O errors until \
             the machine is started again"
        }
        (io::ErrorKind::StorageFull, _) | (_, Some(libc::EDQUOT)) => {
            "; the guest sees an I/O error until there is room where the image is"
        }
        (_, Some(libc::EFBIG)) => {
            "; files may not be as long as the image here (ulimit -f), and the guest sees an I/O \
             error"
        }
        (io::ErrorKind::UnexpectedEof, _) => {
            "; the image has become shorter than it was, and the guest sees an I/O error"
        }
        _ => "; the guest sees an I/O error",
    }
}

/// `pieces` before and after their first `count` bytes; `None` if they are fewer.
fn split<'a>(
    pieces: &[VolatileSlice<'a>],
    mut count: usize,
) -> Option<(Vec<VolatileSlice<'a>>, Vec<VolatileSlice<'a>>)> {
    let (mut front, mut back) = (Vec::new(), Vec::new());
    for piece in pieces {
        let here = count.min(piece.len());
        let (before, after) = piece.split_at(here).ok()?;
        front.extend((!before.is_empty()).then_some(before));
        back.extend((!after.is_empty()).then_some(after));
        count -= here;
    }
    (count == 0).then_some((front, back))
}

/// The bytes of `pieces`, a few.
fn gather(pieces: &[VolatileSlice<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let start = bytes.len();
        bytes.resize(start + piece.len(), 0);
        piece.copy_to(&mut bytes[start..]);
    }
    bytes
}

/// Fills `pieces` with `bytes`, as far as both go: how many.
fn scatter(mut bytes: &[u8], pieces: &[VolatileSlice<'_>]) -> u64 {
    let mut done = 0;
    for piece in pieces {
        let count = bytes.len().min(piece.len());
        piece.copy_from(&bytes[..count]);
        bytes = &bytes[count..];
        done += count as u64;
    }
    done
}
