// SPDX-License-Identifier: GPL-2.0

//! What can go wrong with a guest of ours.

use super::session::{Ended, Place};
use crate::boot;

/// What goes wrong between us and /dev/kvm.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device is not there or may not be opened.
    #[error("/dev/kvm: {0}")]
    OpenKvm(kvm_ioctls::Error),
    /// An ioctl failed.
    #[error("{0}: {1}")]
    Ioctl(&'static str, kvm_ioctls::Error),
    /// The guest's first state cannot be made.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// Guest memory cannot be mapped or is not where it was looked for.
    #[error("guest memory: {0}")]
    Memory(String),
    /// The vCPU left the guest for a reason that no guest of ours has.
    #[error("guest {guest} ended with {exit} at {rip:#x}")]
    Exit {
        /// The guest's name.
        guest: &'static str,
        /// The exit, as KVM reports it.
        exit: String,
        /// The guest's instruction pointer then.
        rip: u64,
    },
    /// A guest asked for a port or an address that nothing is behind.
    #[error("guest {guest} used {place}, where no device is")]
    NoDevice {
        /// The guest's name.
        guest: &'static str,
        /// The port or address.
        place: Place,
    },
    /// The guest did something else than its demo waited for.
    #[error("guest {guest}: waited for {wanted:?}, got {ended:?}")]
    Order {
        /// The guest's name.
        guest: &'static str,
        /// What was waited for.
        wanted: Ended,
        /// What came.
        ended: Ended,
    },
    /// Two threads work together, and one failed.
    #[error("the other thread ended early")]
    Partner,
    /// No demo of that name.
    #[error("no demo is called {0:?}; there are: {1}")]
    NoSuchDemo(String, String),
    /// The output is gone.
    #[error("writing the report: {0}")]
    Output(#[from] std::io::Error),
}
