// SPDX-License-Identifier: GPL-2.0

//! The thread that waits: for keys, for the timer, for signals, and for the guest's end.

use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::devices::Board;
use crate::terminal::{poll, Escape, RawMode, Signal, Signals};

/// How long to wait before looking again whether the guest has read what was sent to it.
const FULL_RETRY: Duration = Duration::from_millis(20);
/// How long a guest that was asked to shut down gets.
const SHUTDOWN: Duration = Duration::from_secs(60);
/// Bytes read from standard input at a time.
const CHUNK: usize = 256;

/// Why the wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A vCPU's thread has ended.
    Guest,
    /// Ctrl-A X.
    Keys,
    /// A signal; its number.
    Signal(libc::c_int),
    /// Nobody reads the guest's console any more.
    Console,
}

/// Waits for events and passes them on.
pub struct Events<'a> {
    shared: &'a Shared,
    signals: &'a mut Signals,
    terminal: Option<&'a RawMode>,
    input: Input,
    shutdown: Option<Shutdown>,
}

/// The guest was asked to shut down.
struct Shutdown {
    /// By the signal of this number.
    signal: libc::c_int,
    /// When it should have.
    deadline: Instant,
}

/// Standard input, unbuffered.
struct Input {
    file: ManuallyDrop<File>,
    at_end: bool,
    escape: Escape,
}

impl Input {
    fn new() -> Self {
        // SAFETY: descriptor 0 is only borrowed: it is never closed through this file.
        let file = ManuallyDrop::new(unsafe { File::from_raw_fd(libc::STDIN_FILENO) });
        Self {
            file,
            at_end: false,
            escape: Escape::default(),
        }
    }
}

impl<'a> Events<'a> {
    /// Prepares to wait. `terminal` is there if standard input is one.
    pub fn new(
        shared: &'a Shared,
        signals: &'a mut Signals,
        terminal: Option<&'a RawMode>,
    ) -> Self {
        Self {
            shared,
            signals,
            terminal,
            input: Input::new(),
            shutdown: None,
        }
    }

    /// Passes events on until the guest, a person or a signal ends the machine.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn pass_on(&mut self) -> io::Result<Cause> {
        loop {
            if let Some(cause) = self.pass_one_on()? {
                return Ok(cause);
            }
        }
    }

    fn pass_one_on(&mut self) -> io::Result<Option<Cause>> {
        let (input, retry) = self.input_to_watch();
        let left = self
            .shutdown
            .as_ref()
            .map(|shutdown| shutdown.deadline.saturating_duration_since(Instant::now()));
        let timeout = retry.into_iter().chain(left).min();
        let fds = [
            Some(self.shared.ended().as_raw_fd()),
            Some(self.signals.as_raw_fd()),
            Some(self.shared.timer()),
            Some(self.shared.lines()),
            Some(self.shared.console_lost().as_raw_fd()),
            input,
        ];
        let [ended, signal, timer, lines, console, input] = poll::readable(fds, timeout)?;
        if ended {
            return Ok(Some(Cause::Guest));
        }
        if signal {
            if let Some(cause) = self.take_signal()? {
                return Ok(Some(cause));
            }
        }
        if console {
            return Ok(Some(Cause::Console));
        }
        if left.is_some_and(|left| left.is_zero()) {
            let signal = self.shutdown.take().expect("it has a deadline").signal;
            eprintln!("minivmm: the guest has not shut down in {SHUTDOWN:?}");
            return Ok(Some(Cause::Signal(signal)));
        }
        if timer {
            self.shared.timer_expired()?;
        }
        if lines {
            self.shared.lines_moved()?;
        }
        if input && self.take_input()? {
            return Ok(Some(Cause::Keys));
        }
        Ok(None)
    }

    /// Standard input, as long as there is more to come and room for it. A terminal is always
    /// watched: whoever sits there must be able to end a guest that reads nothing.
    fn input_to_watch(&self) -> (Option<RawFd>, Option<Duration>) {
        if self.input.at_end {
            (None, None)
        } else if self.terminal.is_none() && self.shared.typing_room() < CHUNK {
            (None, Some(FULL_RETRY))
        } else {
            (Some(self.input.file.as_raw_fd()), None)
        }
    }

    fn take_signal(&mut self) -> io::Result<Option<Cause>> {
        match self.signals.next()? {
            Some(Signal::End(number)) => Ok(Some(Cause::Signal(number))),
            Some(Signal::ShutDown(signal)) => self.shut_down(signal),
            Some(Signal::Continued) => {
                if let Some(terminal) = self.terminal {
                    terminal.again()?;
                }
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Asks the guest to shut down, the first time. One that does not listen, or is told a second
    /// time, is at its end.
    fn shut_down(&mut self, signal: libc::c_int) -> io::Result<Option<Cause>> {
        let again = self.shutdown.is_some();
        if again || !self.shared.access(None, Board::press_power_button)? {
            return Ok(Some(Cause::Signal(signal)));
        }
        eprintln!("minivmm: signal {signal}: the guest is asked to shut down, the next ends it");
        self.shutdown = Some(Shutdown {
            signal,
            deadline: Instant::now() + SHUTDOWN,
        });
        Ok(None)
    }

    /// Sends what was typed to the guest; says whether it was the order to end.
    fn take_input(&mut self) -> io::Result<bool> {
        let mut buffer = [0; CHUNK];
        let count = match self.input.file.read(&mut buffer) {
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) =>
            {
                return Ok(false)
            }
            // No longer readable (a terminal that hung up, a descriptor that was closed): no
            // different from its end.
            Err(_) => 0,
        };
        if count == 0 {
            self.input.at_end = true;
            return Ok(false);
        }
        let typed = self.input.escape.take(&buffer[..count]);
        self.shared
            .access(None, |board| board.type_in(&typed.bytes))?;
        Ok(typed.end)
    }
}
