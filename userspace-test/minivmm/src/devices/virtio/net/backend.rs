// SPDX-License-Identifier: GPL-2.0

//! What a network card is connected to.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Where a card's frames come from and go to. Nothing here waits.
pub trait Backend: AsRawFd + Send + 'static {
    /// Features it makes possible, of those about frames: checksums and sizes that the receiver is
    /// to fill in.
    fn features(&self) -> u64;

    /// Bytes of a packet at most.
    fn mtu(&self) -> u16;

    /// What to tell its card's address from others' by.
    fn address_hint(&self) -> u8;

    /// The driver has accepted `features`.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn negotiated(&mut self, features: u64) -> io::Result<()>;

    /// Takes the next frame, its header in front, into `frame`: its length, or none if nothing has
    /// come.
    ///
    /// # Errors
    ///
    /// If nothing will come any more.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>>;

    /// Sends a frame, its header in front. It may be lost, as on every network.
    ///
    /// # Errors
    ///
    /// If nothing can be sent any more.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;

    /// Sends what was kept to be sent together. False if there is more than can go now: then it is
    /// to be called again when the descriptor can be written to, and nothing to be sent before.
    ///
    /// # Errors
    ///
    /// If nothing can be sent any more.
    fn flush(&mut self) -> io::Result<bool>;

    /// The tap it is, if it is one.
    fn tap(&self) -> Option<BorrowedFd<'_>>;
}

/// Why a network card has nothing to be connected to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No tap interfaces at all.
    #[error("cannot open /dev/net/tun ({0}), which tap interfaces come from{hint}", hint = tun_hint(.0))]
    Tun(#[source] io::Error),
    /// No interface of this name.
    #[error(
        "there is no interface {0}: make it by `ip tuntap add {0} mode tap` and `ip link set {0} up`"
    )]
    NoInterface(String),
    /// The interface cannot be had.
    #[error("cannot use the interface {name} ({error}){hint}", hint = interface_hint(.error, .name))]
    Interface {
        /// Which.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// passt is not there.
    #[error("cannot start passt ({0}), which --net user needs: install the package passt")]
    Passt(#[source] io::Error),
    /// passt does not do what it is asked to.
    #[error("passt gives no network: {0}")]
    PasstFailed(String),
    /// No descriptor for it.
    #[error("cannot make a socket for passt")]
    Socket(#[source] io::Error),
}

fn tun_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV) => ": load the module tun",
        Some(libc::EACCES | libc::EPERM) => ": be root, or use --net user",
        _ => "",
    }
}

fn interface_hint(error: &io::Error, name: &str) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            format!(": be root, or its owner (`ip tuntap add {name} mode tap user NAME`)")
        }
        Some(libc::EBUSY) => ": another program has it".into(),
        Some(libc::EINVAL) => ": it is no tap interface with a single queue".into(),
        _ => String::new(),
    }
}

/// Has the calls on `fd` return instead of waiting.
pub(super) fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the calls touch no memory.
    let result = unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
