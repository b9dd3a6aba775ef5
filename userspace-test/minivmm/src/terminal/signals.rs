// SPDX-License-Identifier: GPL-2.0

//! Signals that end or resume minivmm, as something to read instead of something that interrupts.

use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use vmm_sys_util::signal::{block_signal, create_sigset};

/// Signals that end the machine.
const ENDING: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Those of them that ask for an end in good order.
const ASKING: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// What a signal means to minivmm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// The guest shall shut down, and minivmm end; the number of the signal.
    ShutDown(libc::c_int),
    /// It shall end; the number of the signal.
    End(libc::c_int),
    /// It was stopped and goes on.
    Continued,
}

/// A signalfd(2) for the signals minivmm acts on.
pub struct Signals {
    file: File,
}

impl Signals {
    /// Blocks the signals in this thread, and so in those it starts later, and opens the
    /// descriptor they arrive at. A file that gets longer than files may be is from here on an
    /// error of the write (EFBIG) and no more a signal that ends the process.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no code of ours runs when the signal comes.
        if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
        let mut numbers = ENDING.to_vec();
        numbers.push(libc::SIGCONT);
        let set = create_sigset(&numbers)?;
        for number in numbers {
            match block_signal(number) {
                Ok(()) | Err(vmm_sys_util::signal::Error::SignalAlreadyBlocked(_)) => {}
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
        // SAFETY: the set is valid and the call makes a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new, so nobody else owns it.
        Ok(Self {
            file: unsafe { File::from_raw_fd(fd) },
        })
    }

    /// The next signal that has arrived; `None` if there is none.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn next(&mut self) -> io::Result<Option<Signal>> {
        let mut info = [0; mem::size_of::<libc::signalfd_siginfo>()];
        match self.file.read_exact(&mut info) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        // `ssi_signo` is the first member.
        let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        Ok(Some(match number {
            libc::SIGCONT => Signal::Continued,
            number if ASKING.contains(&number) => Signal::ShutDown(number),
            number => Signal::End(number),
        }))
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
