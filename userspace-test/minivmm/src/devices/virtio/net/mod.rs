// SPDX-License-Identifier: GPL-2.0

//! A network card (virtio 1.2, 5.1): one pair of queues, between the guest and a [`Backend`].
//!
//! A frame is the device's header and what follows it on the wire, in one piece, on both sides of
//! [`Backend`]. The queues are worked on by one thread, or by vhost-net where the kernel has it
//! and the backend is a tap.

mod backend;
mod frames;
mod passt;
mod tap;
#[cfg(test)]
mod tests;
mod vhost;

use std::io;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU};

use super::worker::Worker;
use super::{ids, read_space, Activation, Stopper, VirtioDevice};
use backend::Backend;
use frames::Frames;
use vhost::Vhost;

pub use backend::Error;
pub use passt::Passt;
pub use tap::Tap;

/// Queues: what the guest receives, and what it sends.
const RECEIVE: usize = 0;
const SEND: usize = 1;
const QUEUE_SIZES: &[u16] = &[256, 256];
/// Bytes of the header before each frame (virtio 1.2, 5.1.6).
const HEADER: usize = 12;
/// Bytes of a frame at most: a header, and what an IPv4 packet, or one of them cut up by the
/// receiver, can have.
const FRAME: usize = HEADER + 14 + 0xffff;
/// First five bytes of the addresses given out: locally administered.
const ADDRESS: [u8; 5] = [0x02, 0x6d, 0x6b, 0x76, 0x6d];

/// The device.
pub struct Net<B: Backend> {
    name: String,
    address: [u8; 6],
    /// While it is not with the worker.
    backend: Option<B>,
    features: u64,
    mtu: u16,
    work: Option<Work<B>>,
}

/// Who works on the queues.
enum Work<B: Backend> {
    Thread(Worker<Frames<B>>),
    Kernel(Vhost, B),
}

impl<B: Backend> Net<B> {
    /// Card `index` of the machine, connected to `backend`.
    pub fn new(index: usize, backend: B) -> Self {
        let [a, b, c, d, e] = ADDRESS;
        let last = backend.address_hint().wrapping_add(index as u8);
        Self {
            name: format!("net{index}"),
            address: [a, b, c, d, e, last],
            features: backend.features(),
            mtu: backend.mtu(),
            backend: Some(backend),
            work: None,
        }
    }
}

impl<B: Backend> VirtioDevice for Net<B> {
    fn device_type(&self) -> u32 {
        ids::VIRTIO_ID_NET
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU | 1 << VIRTIO_NET_F_MRG_RXBUF | self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // The address, the status and the number of pairs of queues, of which nothing is said, and
        // the MTU (virtio 1.2, 5.1.4).
        let mut space = [0; 12];
        space[..6].copy_from_slice(&self.address);
        space[10..].copy_from_slice(&self.mtu.to_le_bytes());
        read_space(&space, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let features = activation.features;
        let receive = activation.take_queue(RECEIVE)?;
        let send = activation.take_queue(SEND)?;
        let mut backend = self
            .backend
            .take()
            .ok_or_else(|| io::Error::other("it has lost its connection"))?;
        backend.negotiated(features)?;
        let interrupt = activation.interrupt;
        if let Some(tap) = backend.tap() {
            if let Some(vhost) = Vhost::open()? {
                let queues = [&receive, &send];
                let started = vhost.start(
                    &self.name,
                    tap,
                    queues,
                    features,
                    &activation.memory,
                    &interrupt,
                );
                return match started {
                    Ok(vhost) => {
                        self.work = Some(Work::Kernel(vhost, backend));
                        Ok(())
                    }
                    Err(error) => {
                        self.backend = Some(backend);
                        Err(error)
                    }
                };
            }
        }
        let mergeable = features & 1 << VIRTIO_NET_F_MRG_RXBUF != 0;
        let frames = Frames::new(backend, receive, send, mergeable);
        self.work = Some(Work::Thread(Worker::start(&self.name, frames, interrupt)?));
        Ok(())
    }

    fn stopper(&self) -> Option<Stopper> {
        match &self.work {
            Some(Work::Thread(worker)) => worker.stopper(),
            // The kernel ends in little time.
            Some(Work::Kernel(..)) | None => None,
        }
    }

    fn reset(&mut self) {
        match self.work.take() {
            Some(Work::Thread(worker)) => self.backend = Some(worker.stop().into_backend()),
            Some(Work::Kernel(vhost, backend)) => {
                drop(vhost);
                self.backend = Some(backend);
            }
            None => {}
        }
    }
}
