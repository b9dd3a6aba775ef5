// SPDX-License-Identifier: GPL-2.0

//! A disk (virtio 1.2, 5.2), whose sectors are the bytes of a file or of a block device of the
//! host.
//!
//! What the guest was told is durable is: a flush is an fdatasync(2) that has succeeded. A driver
//! that has not negotiated VIRTIO_BLK_F_FLUSH knows of no cache, and each of its writes is synced
//! before it is told that it is done.

mod image;
mod request;
mod storage;

use std::io;

use virtio_bindings::virtio_blk::*;

use super::worker::{Watch, Work, Worker};
use super::{ids, read_space, Activation, QueueError, Stopper, VirtioDevice, WorkQueue};
pub use image::{Error, Image};
use request::Requests;

/// Bytes in a sector, which is what the device counts in.
const SECTOR: u64 = 512;
const QUEUE_SIZES: &[u16] = &[QUEUE_SIZE];
const QUEUE_SIZE: u16 = 256;
/// Buffers of one request: with its header and its status they fill the queue.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Sectors of 512 bytes in what the host's file systems like to be written: 2^3.
const PHYSICAL_BLOCK_EXPONENT: u8 = 3;
/// Sectors to discard, or to fill with zeroes, in one segment: 1 GiB, and 16 MiB, which may have to
/// be written. And how many segments.
const MAX_DISCARD: u32 = 1 << 21;
const MAX_ZEROES: u32 = 1 << 15;
const MAX_RANGES: u32 = 16;

/// The device.
pub struct Block {
    name: String,
    read_only: bool,
    config: [u8; CONFIG_SIZE],
    /// The image, while no thread works on it.
    image: Option<Image>,
    worker: Option<Worker<Queue>>,
}

/// Bytes of the configuration space up to the last field of a feature offered here.
const CONFIG_SIZE: usize = 60;

impl Block {
    /// A disk with what is in `image`.
    pub fn new(image: Image) -> Self {
        Self {
            name: format!("disk {}", image.path().display()),
            read_only: image.is_read_only(),
            config: config_of(&image),
            image: Some(image),
            worker: None,
        }
    }
}

/// The configuration space (5.2.4).
fn config_of(image: &Image) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut set = |offset: usize, bytes: &[u8]| {
        config[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    set(0, &image.sectors().to_le_bytes());
    set(12, &SEGMENTS.to_le_bytes());
    set(20, &(SECTOR as u32).to_le_bytes());
    set(24, &[PHYSICAL_BLOCK_EXPONENT]);
    set(26, &1u16.to_le_bytes());
    set(36, &MAX_DISCARD.to_le_bytes());
    set(40, &MAX_RANGES.to_le_bytes());
    set(44, &(1u32 << PHYSICAL_BLOCK_EXPONENT).to_le_bytes());
    set(48, &MAX_ZEROES.to_le_bytes());
    set(52, &MAX_RANGES.to_le_bytes());
    // Filling with zeroes may give the room back.
    set(56, &[1]);
    config
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        ids::VIRTIO_ID_BLOCK
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        let common =
            1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_TOPOLOGY;
        common
            | if self.read_only {
                1 << VIRTIO_BLK_F_RO
            } else {
                1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let queue = activation.take_queue(0)?;
        let write_through = !activation.has(VIRTIO_BLK_F_FLUSH);
        let image = self.image.take();
        let image = image.ok_or_else(|| io::Error::other("its image is gone"))?;
        let work = Queue {
            queue,
            requests: Requests::new(image, write_through),
        };
        self.worker = Some(Worker::start(&self.name, work, activation.interrupt)?);
        Ok(())
    }

    fn stopper(&self) -> Option<Stopper> {
        self.worker.as_ref().and_then(Worker::stopper)
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.image = Some(worker.stop().requests.finish());
        }
    }
}

/// The disk at work.
struct Queue {
    queue: WorkQueue,
    requests: Requests,
}

impl Work for Queue {
    fn watch(&self, watch: &mut Watch) {
        watch.readable(self.queue.doorbell(), 0);
    }

    fn ready(&mut self, _token: usize) -> Result<(), QueueError> {
        let Self { queue, requests } = self;
        queue.serve(|chain| requests.serve(chain.buffers()?))
    }
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
