// SPDX-License-Identifier: GPL-2.0
//! Event descriptors.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::harness::own;
use crate::sys::{must, write_all};

/// An eventfd.
pub struct Event(OwnedFd);

impl Event {
    /// A counter of 0 that does not block.
    pub fn new() -> Self {
        Self::with_count(0)
    }

    /// As [`Self::new`], with a count.
    pub fn with_count(count: u32) -> Self {
        let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
        // SAFETY: eventfd has no memory arguments.
        let fd = must("eventfd", unsafe { libc::eventfd(count, flags) }.into());
        Self(own(fd as RawFd))
    }

    /// Adds 1.
    pub fn signal(&self) {
        write_all(self.0.as_raw_fd(), &1u64.to_ne_bytes());
    }

    /// Takes the count; 0 where nothing was signalled.
    pub fn take(&self) -> u64 {
        let mut count = 0u64;
        // SAFETY: room for the 8 bytes of the counter.
        let done = unsafe { libc::read(self.0.as_raw_fd(), (&mut count as *mut u64).cast(), 8) };
        if done == 8 {
            count
        } else {
            0
        }
    }

    /// Its descriptor's number.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
