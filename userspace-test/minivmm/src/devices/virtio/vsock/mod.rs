// SPDX-License-Identifier: GPL-2.0

//! Sockets between host and guest (virtio 1.2, 5.10).
//!
//! On the host a Unix socket stands for the guest. Who connects to it and sends `CONNECT PORT` and a
//! line feed is connected to that port of the guest's, and reads `OK PORT`, with the port it has
//! itself, when the guest has agreed. A guest that connects to port P of the host reaches whoever
//! listens at the Unix socket of that name with `_P` behind it.

mod connection;
mod packet;
mod switch;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::worker::Worker;
use super::{ids, read_space, Activation, Stopper, VirtioDevice};
use switch::Switch;

/// Queues: what the guest receives, what it sends, and events, of which there are none.
const RECEIVE: usize = 0;
const SEND: usize = 1;
const QUEUE_SIZES: &[u16] = &[128, 128, 16];

/// Why there is no socket device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another machine has the socket.
    #[error("{} is in use: another machine has it, or give --vsock CID,socket=PATH", path.display())]
    InUse {
        /// Where it is.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make the socket {} of --vsock", path.display())]
    Socket {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The socket of the host's, which goes when this does.
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`. A socket that nobody listens at any more gives way.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] or [`Error::Socket`].
    pub fn new(path: &Path) -> Result<Self, Error> {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
        if is_socket {
            if UnixStream::connect(path).is_ok() {
                return Err(Error::InUse { path: path.into() });
            }
            // What comes of it binding tells.
            let _ = fs::remove_file(path);
        }
        UnixListener::bind(path)
            .and_then(|socket| {
                socket.set_nonblocking(true)?;
                Ok(Self {
                    socket,
                    path: path.into(),
                })
            })
            .map_err(|source| Error::Socket {
                path: path.into(),
                source,
            })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = fs::remove_file(&self.path);
    }
}

/// The device.
pub struct Vsock {
    cid: u32,
    /// While it is not with the worker.
    listener: Option<Listener>,
    worker: Option<Worker<Switch>>,
}

impl Vsock {
    /// The device of the guest `cid`.
    pub fn new(cid: u32, listener: Listener) -> Self {
        Self {
            cid,
            listener: Some(listener),
            worker: None,
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        ids::VIRTIO_ID_VSOCK
    }

    fn name(&self) -> &str {
        "vsock"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let receive = activation.take_queue(RECEIVE)?;
        let send = activation.take_queue(SEND)?;
        let listener = self
            .listener
            .take()
            .ok_or_else(|| io::Error::other("it has lost its socket"))?;
        let switch = Switch::new(self.cid, listener, receive, send);
        self.worker = Some(Worker::start(self.name(), switch, activation.interrupt)?);
        Ok(())
    }

    fn stopper(&self) -> Option<Stopper> {
        self.worker.as_ref().and_then(Worker::stopper)
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.listener = Some(worker.stop().into_listener());
        }
    }
}
