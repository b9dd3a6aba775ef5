// SPDX-License-Identifier: GPL-2.0

//! Where the guest's console goes: standard output, unbuffered.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use super::poll;

/// How long to wait for a reader before looking round.
const PATIENCE: Duration = Duration::from_millis(100);

/// Standard output.
pub struct Console {
    output: File,
    stamp: Option<Stamp>,
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
            output: File::from(io::stdout().as_fd().try_clone_to_owned()?),
            stamp: stamp.then(Stamp::new),
        })
    }

    /// Writes all of `bytes`, however long the reader takes; gives up, without an error, once
    /// `is_over` says that nobody needs them any more.
    ///
    /// # Errors
    ///
    /// What the system says when the reader is gone.
    pub fn write(&mut self, bytes: &[u8], is_over: impl Fn() -> bool) -> io::Result<()> {
        match &mut self.stamp {
            Some(stamp) => {
                let stamped = stamp.add_to(bytes);
                self.write_all(&stamped, is_over)
            }
            None => self.write_all(bytes, is_over),
        }
    }

    fn write_all(&mut self, mut bytes: &[u8], is_over: impl Fn() -> bool) -> io::Result<()> {
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
