// SPDX-License-Identifier: GPL-2.0

//! Bytes between guest memory and a file, without a copy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

/// Pieces in one system call at most (IOV_MAX).
const PIECES: usize = 1024;

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

/// Moves all bytes of `pieces` from or to `file` at `offset`.
///
/// # Errors
///
/// What preadv(2) and pwritev(2) say; UnexpectedEof where the file has become shorter.
pub fn transfer(
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
