// SPDX-License-Identifier: GPL-2.0

//! The host's network by way of passt, a program that carries a guest's connections through sockets
//! of its own (<https://passt.top>). It talks to minivmm as to QEMU: each frame follows its length,
//! 32 bits, big-endian, on a stream.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::backend::{set_nonblocking, Backend, Error};
use super::HEADER;
use crate::description::Forward;

/// The guest's network: what QEMU's user-mode network has, too.
const GUEST: &str = "10.0.2.15";
const NETMASK: &str = "24";
const HOST: &str = "10.0.2.2";
/// Bytes of the length.
const LENGTH: usize = 4;
/// Bytes read at a time.
const CHUNK: usize = 256 << 10;
/// The longest packet that passt takes.
const MTU: u16 = 65520;
/// A passt of this machine's own.
pub struct Passt {
    /// passt ends when this does.
    stream: UnixStream,
    arrived: Arrived,
    leaving: VecDeque<u8>,
}

/// What has been read of the stream.
struct Arrived {
    bytes: Box<[u8]>,
    /// What of it is valid and has not been taken.
    start: usize,
    end: usize,
}

impl Arrived {
    fn new() -> Self {
        Self {
            bytes: vec![0; CHUNK].into(),
            start: 0,
            end: 0,
        }
    }

    /// Takes the next frame, if it is there completely.
    fn take(&mut self) -> io::Result<Option<&[u8]>> {
        let (length, rest) = match self.bytes[self.start..self.end].split_at_checked(LENGTH) {
            Some((length, rest)) => (length, rest),
            None => return Ok(None),
        };
        let length = u32::from_be_bytes(length.try_into().expect("4 bytes")) as usize;
        if length > super::FRAME - HEADER {
            return Err(io::Error::other("passt sends a frame that is too long"));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let first = self.start + LENGTH;
        self.start = first + length;
        Ok(Some(&self.bytes[first..first + length]))
    }

    /// Where more is to be read to: behind what has not been taken.
    fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.bytes[self.end..]
    }
}

impl Passt {
    /// Starts passt with ports of the host's that lead into the guest.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`], [`Error::Passt`] or [`Error::PasstFailed`].
    pub fn start(forward: &[Forward]) -> Result<Self, Error> {
        Self::start_program("passt", forward)
    }

    pub(super) fn start_program(program: &str, forward: &[Forward]) -> Result<Self, Error> {
        let (ours, theirs) = UnixStream::pair().map_err(Error::Socket)?;
        set_nonblocking(&ours).map_err(Error::Socket)?;
        inherit(&theirs).map_err(Error::Socket)?;
        let mut command = Command::new(program);
        command
            .args(["--quiet", "--fd", &theirs.as_raw_fd().to_string()])
            .args(["--address", GUEST, "--netmask", NETMASK, "--gateway", HOST])
            .args(["--ipv4-only", "--mtu", &MTU.to_string()]);
        if !forward.is_empty() {
            let ports: Vec<_> = forward.iter().map(Forward::to_string).collect();
            command.args(["--tcp-ports", &ports.join(",")]);
        }
        // When it is ready it goes on in the background, and what was started here ends.
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(Error::Passt)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().last().unwrap_or("it does not say why");
            return Err(Error::PasstFailed(said.trim().into()));
        }
        Ok(Self::over(ours))
    }

    /// What talks as passt does on the other end of `stream`, which does not wait.
    pub(super) fn over(stream: UnixStream) -> Self {
        Self {
            stream,
            arrived: Arrived::new(),
            leaving: VecDeque::new(),
        }
    }
}

/// Has programs that are started keep `stream`.
fn inherit(stream: &UnixStream) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the call touches no memory.
    match unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl AsRawFd for Passt {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Backend for Passt {
    fn features(&self) -> u64 {
        0
    }

    fn mtu(&self) -> u16 {
        MTU
    }

    fn address_hint(&self) -> u8 {
        0
    }

    fn negotiated(&mut self, _features: u64) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            if let Some(bytes) = self.arrived.take()? {
                let (header, rest) = frame.split_at_mut(HEADER);
                header.fill(0);
                rest[..bytes.len()].copy_from_slice(bytes);
                return Ok(Some(HEADER + bytes.len()));
            }
            match self.stream.read(self.arrived.room()) {
                Ok(0) => return Err(io::Error::other("passt has ended")),
                Ok(count) => self.arrived.end += count,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let bytes = &frame[HEADER..];
        let length = u32::try_from(bytes.len()).expect("shorter than FRAME");
        self.leaving.extend(length.to_be_bytes());
        self.leaving.extend(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<bool> {
        while !self.leaving.is_empty() {
            match self.stream.write(self.leaving.as_slices().0) {
                Ok(count) => drop(self.leaving.drain(..count)),
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => return Ok(false),
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }

    fn tap(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
