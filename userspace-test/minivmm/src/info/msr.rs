// SPDX-License-Identifier: GPL-2.0

//! The host's model-specific registers, through the msr driver.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What reads MSRs of the first CPU.
const DEVICE: &str = "/dev/cpu/0/msr";

/// Why MSRs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device cannot be opened.
    #[error("cannot open {DEVICE} ({error}): {hint}")]
    Open {
        /// What the system said.
        error: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// The processor has no such register.
    #[error("cannot read MSR {index:#x} ({error})")]
    Read {
        /// The register.
        index: u32,
        /// What the system said.
        error: io::Error,
    },
}

/// The MSRs of one CPU.
pub struct Msrs(File);

impl Msrs {
    /// Opens them.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    pub fn open() -> Result<Self, Error> {
        File::open(DEVICE).map(Self).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::NotFound => "load the msr module (modprobe msr)",
                io::ErrorKind::PermissionDenied => "be root",
                _ => "is the msr module loaded?",
            };
            Error::Open { error, hint }
        })
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`Error::Read`] where the processor does not have it.
    pub fn read(&self, index: u32) -> Result<u64, Error> {
        let mut value = [0; 8];
        self.0
            .read_exact_at(&mut value, u64::from(index))
            .map_err(|error| Error::Read { index, error })?;
        Ok(u64::from_le_bytes(value))
    }
}
