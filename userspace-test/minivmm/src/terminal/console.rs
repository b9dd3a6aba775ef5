// SPDX-License-Identifier: GPL-2.0

//! Where the guest's console goes: standard output, unbuffered.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use super::poll;

/// How long to wait for a reader before looking round.
const PATIENCE: Duration = Duration::from_millis(100);

/// Standard output.
pub struct Console {
    output: File,
}

impl Console {
    /// Opens standard output a second time, without its buffer.
    ///
    /// # Errors
    ///
    /// What the system says when there is no standard output.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            output: File::from(io::stdout().as_fd().try_clone_to_owned()?),
        })
    }

    /// Writes all of `bytes`, however long the reader takes; gives up, without an error, once
    /// `is_over` says that nobody needs them any more.
    ///
    /// # Errors
    ///
    /// What the system says when the reader is gone.
    pub fn write(&mut self, mut bytes: &[u8], is_over: impl Fn() -> bool) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_over() && is_temporary(&error) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll::writable(self.output.as_raw_fd(), PATIENCE)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
