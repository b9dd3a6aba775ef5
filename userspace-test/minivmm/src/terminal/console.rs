// SPDX-License-Identifier: GPL-2.0

//! Where the guest's consoles go: standard output, unbuffered.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::poll;

/// How long to wait for a reader before looking round.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes that a pipe which can be written takes without waiting (PIPE_BUF).
const STEP: usize = 4096;

/// Standard output, which the vCPUs' threads and those of devices share.
pub struct Console {
    output: Mutex<Stdout>,
    /// The machine is at its end: nobody needs what is written any more.
    over: AtomicBool,
    lost: Lost,
}

/// The reader is gone, as a device's thread found.
struct Lost {
    event: EventFd,
    error: Mutex<Option<io::Error>>,
}

impl Console {
    /// Opens standard output a second time, without its buffer. With `stamp` each line begins with
    /// the host's time.
    ///
    /// # Errors
    ///
    /// What the system says when there is no standard output.
    pub fn new(stamp: bool) -> io::Result<Self> {
        Ok(Self {
            output: Mutex::new(Stdout {
                file: File::from(io::stdout().as_fd().try_clone_to_owned()?),
                stamp: stamp.then(Stamp::new),
            }),
            over: AtomicBool::new(false),
            lost: Lost {
                event: EventFd::new(EFD_NONBLOCK)?,
                error: Mutex::default(),
            },
        })
    }

    /// Writes all of `bytes`, however long the reader takes; gives up, without an error, once the
    /// machine is at its end and the thread has got a signal.
    ///
    /// # Errors
    ///
    /// What the system says when the reader is gone.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.lock().write(bytes, false, || self.is_over())
    }

    /// The same for a thread that gets no signals: it waits in no system call but poll(2).
    ///
    /// # Errors
    ///
    /// What the system says when the reader is gone. It is also kept for [`Self::take_error`].
    pub fn write_unsignalled(&self, bytes: &[u8]) -> io::Result<()> {
        let result = self.lock().write(bytes, true, || self.is_over());
        result.map_err(|error| {
            let copy = io::Error::from(error.kind());
            *self.lost.error.lock().expect(PANICKED) = Some(error);
            // Full only after 2^64 - 2 of these that nobody looked at.
            let _ = self.lost.event.write(1);
            copy
        })
    }

    /// The machine is at its end.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Readable once [`Self::take_error`] has something.
    pub fn lost(&self) -> &EventFd {
        &self.lost.event
    }

    /// The error of [`Self::write_unsignalled`], if there was one.
    pub fn take_error(&self) -> Option<io::Error> {
        self.lost.error.lock().expect(PANICKED).take()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, Stdout> {
        self.output.lock().expect(PANICKED)
    }
}

const PANICKED: &str = "a thread of minivmm has panicked";

struct Stdout {
    file: File,
    stamp: Option<Stamp>,
}

impl Stdout {
    fn write(
        &mut self,
        bytes: &[u8],
        in_steps: bool,
        is_over: impl Fn() -> bool,
    ) -> io::Result<()> {
        let stamped = self.stamp.as_mut().map(|stamp| stamp.add_to(bytes));
        let bytes = stamped.as_deref().unwrap_or(bytes);
        if !in_steps {
            return self.write_all(bytes, is_over);
        }
        for step in bytes.chunks(STEP) {
            while !poll::writable(self.file.as_raw_fd(), PATIENCE)? {
                if is_over() {
                    return Ok(());
                }
            }
            self.write_all(step, &is_over)?;
        }
        Ok(())
    }

    fn write_all(&mut self, mut bytes: &[u8], is_over: impl Fn() -> bool) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_over() && is_temporary(&error) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll::writable(self.file.as_raw_fd(), PATIENCE)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The host's time at the start of each line, in seconds since it was made.
struct Stamp {
    start: Instant,
    in_line: bool,
}

impl Stamp {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            in_line: false,
        }
    }

    /// The time is that of a line's first byte.
    fn add_to(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut stamped = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            if !self.in_line {
                let now = self.start.elapsed().as_secs_f64();
                stamped.extend(format!("<{now:13.6}> ").bytes());
            }
            self.in_line = byte != b'\n';
            stamped.push(byte);
        }
        stamped
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_gets_one_stamp_however_it_comes() {
        let mut stamp = Stamp::new();
        let mut text = Vec::new();
        for piece in [&b"one\r\ntw"[..], b"o", b"\n", b"\n"] {
            text.extend(stamp.add_to(piece));
        }
        let text = String::from_utf8(text).expect("text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for (line, end) in lines.iter().zip(["one", "two", ""]) {
            let (stamp, rest) = line.split_at(16);
            assert!(stamp.starts_with('<') && stamp.ends_with("> "), "{line}");
            assert_eq!(rest.trim_end(), end);
        }
    }
}
