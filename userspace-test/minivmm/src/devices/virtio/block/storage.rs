// SPDX-License-Identifier: GPL-2.0

//! What the sectors of a disk are kept in: a file, whose bytes move between it and guest memory
//! without a copy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use vm_memory::VolatileSlice;

/// Pieces in one system call at most (IOV_MAX).
const PIECES: usize = 1024;
/// Zeroes written at a time where the host cannot be asked for them.
const ZEROES: usize = 64 << 10;

/// Where a disk's bytes are. What is written may stay in a cache until it is synced; a sync that
/// fails may have dropped it, and the next one would not say so.
pub trait Storage: Send {
    /// Moves all bytes of `pieces` from or to `offset`.
    ///
    /// # Errors
    ///
    /// What the host says, and then any part of them may have moved; UnexpectedEof where the
    /// storage has become shorter.
    fn transfer(
        &self,
        direction: Direction,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
    ) -> io::Result<()>;

    /// Makes `length` bytes from `offset` on zeroes; the room they take may be given back where it
    /// `may_free` it.
    ///
    /// # Errors
    ///
    /// What the host says.
    fn zero(&self, offset: u64, length: u64, may_free: bool) -> io::Result<()>;

    /// Gives back the room of `length` bytes from `offset` on, if it can.
    ///
    /// # Errors
    ///
    /// What the host says.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    ///
    /// What the host says.
    fn sync(&self) -> io::Result<()>;
}

impl Storage for File {
    fn transfer(
        &self,
        direction: Direction,
        offset: u64,
        pieces: &[VolatileSlice<'_>],
    ) -> io::Result<()> {
        transfer(self, direction, offset, pieces)
    }

    fn zero(&self, offset: u64, length: u64, may_free: bool) -> io::Result<()> {
        let mode = if may_free {
            libc::FALLOC_FL_PUNCH_HOLE
        } else {
            libc::FALLOC_FL_ZERO_RANGE
        };
        match allocate(self, mode, offset, length) {
            Err(error) if cannot(&error) => write_zeroes(self, offset, length),
            result => result,
        }
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        match allocate(self, libc::FALLOC_FL_PUNCH_HOLE, offset, length) {
            // What cannot be given back is kept.
            Err(error) if cannot(&error) => Ok(()),
            result => result,
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the file into memory.
    Read,
    /// From memory into the file.
    Write,
}

/// Bytes in `pieces` together.
pub fn length(pieces: &[VolatileSlice<'_>]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

fn transfer(
    file: &File,
    direction: Direction,
    mut offset: u64,
    pieces: &[VolatileSlice<'_>],
) -> io::Result<()> {
    let guards: Vec<_> = pieces.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let mut pieces: Vec<_> = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast(),
            iov_len: guard.len(),
        })
        .collect();
    let mut rest = &mut pieces[..];
    while !rest.is_empty() {
        let moved = step(file, direction, offset, &rest[..rest.len().min(PIECES)])?;
        if moved == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += moved as u64;
        let whole = take(rest, moved);
        rest = &mut rest[whole..];
    }
    Ok(())
}

/// One system call; how many bytes it moved.
fn step(
    file: &File,
    direction: Direction,
    offset: u64,
    pieces: &[libc::iovec],
) -> io::Result<usize> {
    let (fd, count) = (file.as_raw_fd(), pieces.len() as libc::c_int);
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    loop {
        // SAFETY: the pieces are guest memory, mapped for as long as their slices are borrowed, and
        // nothing of it is a Rust object.
        let result = unsafe {
            match direction {
                Direction::Read => libc::preadv(fd, pieces.as_ptr(), count, offset),
                Direction::Write => libc::pwritev(fd, pieces.as_ptr(), count, offset),
            }
        };
        match usize::try_from(result) {
            Ok(moved) => return Ok(moved),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Takes `count` bytes off the front of `pieces`: how many are all taken. The next one is shortened.
fn take(pieces: &mut [libc::iovec], mut count: usize) -> usize {
    for (index, piece) in pieces.iter_mut().enumerate() {
        if count < piece.iov_len {
            piece.iov_base = piece.iov_base.wrapping_byte_add(count);
            piece.iov_len -= count;
            return index;
        }
        count -= piece.iov_len;
    }
    pieces.len()
}

/// fallocate(2), the size of the file kept.
fn allocate(file: &File, mode: libc::c_int, offset: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    let length = libc::off_t::try_from(length).map_err(io::Error::other)?;
    // SAFETY: the call takes no pointers.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the file system cannot do it at all.
fn cannot(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV)
    )
}

fn write_zeroes(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let zeroes = [0; ZEROES];
    let mut done = 0;
    while done < length {
        let count = (length - done).min(ZEROES as u64);
        file.write_all_at(&zeroes[..count as usize], offset + done)?;
        done += count;
    }
    Ok(())
}
