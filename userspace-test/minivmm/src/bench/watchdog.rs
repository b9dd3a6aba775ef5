// SPDX-License-Identifier: GPL-2.0

//! A guest that waits for an interrupt that never comes waits in the kernel for ever. This ends the
//! program then, and says what it waited for.

use std::process;
use std::sync::mpsc::{channel, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Far more than any measurement takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Watches until it is dropped.
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    /// Begins to watch the measurement of `what`.
    pub fn new(what: &'static str) -> Self {
        let (alive, watched) = channel();
        thread::spawn(move || {
            if watched.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                eprintln!(
                    "minivmm: {what} is not measured within {} s: an interrupt got lost",
                    PATIENCE.as_secs()
                );
                process::exit(1);
            }
        });
        Self { _alive: alive }
    }
}
