// SPDX-License-Identifier: GPL-2.0

//! A driver for tests: sets a device up, gives it buffers and waits for them to be used.

use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::driver::Driver;
use super::{Line, Lines, VirtioDevice};
use crate::terminal::poll;

/// Bytes of the guest's memory.
pub const MEMORY: usize = 4 << 20;
/// Entries of each queue.
const SIZE: u16 = 16;
/// Where the rings of the first queue are, how far the next ones are from it, and within them the
/// available ring and the used ring.
const RINGS: u64 = 0x1_0000;
const STRIDE: u64 = 0x4000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Where buffers are.
const BUFFERS: u64 = 0x10_0000;
const PATIENCE: Duration = Duration::from_secs(10);

/// A buffer for the device.
pub enum Buffer<'a> {
    /// To read.
    Out(&'a [u8]),
    /// To write, of that many bytes.
    In(usize),
}

/// A device with a driver.
pub struct Rig {
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// What the driver sees of the device.
    pub driver: Driver,
    lines: Lines,
    /// How many chains each queue has been given.
    given: Vec<u16>,
}

impl Rig {
    /// `device`, not started.
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let memory = Arc::new(memory);
        let lines = Lines::new().expect("eventfd");
        let line = Arc::new(Line::board(lines.clone()));
        let driver = Driver::new(device, &memory, line).expect("eventfds");
        let given = vec![0; driver.queue_count().into()];
        Self {
            memory,
            driver,
            lines,
            given,
        }
    }

    /// Starts it with those of `features` that it has.
    pub fn start(&mut self, features: u64) {
        let driver = &mut self.driver;
        driver.set_status((VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER) as u8);
        let features = features | 1 << VIRTIO_F_VERSION_1;
        for select in 0..2 {
            let offered = driver.offered_half(select);
            driver.accept_half(select, offered & (features >> (32 * select)) as u32);
        }
        driver.set_status(VIRTIO_CONFIG_S_FEATURES_OK as u8);
        assert_ne!(driver.status() & VIRTIO_CONFIG_S_FEATURES_OK as u8, 0);
        for index in 0..driver.queue_count() {
            let base = rings(index);
            let zeroes = vec![0; STRIDE as usize];
            self.memory
                .write_slice(&zeroes, GuestAddress(base))
                .expect("memory");
            self.given[usize::from(index)] = 0;
            let queue = driver.queue_to_set_up(index).expect("not enabled");
            queue.size = SIZE;
            (queue.descriptors, queue.available, queue.used) =
                (base, base + AVAILABLE, base + USED);
            driver.set_queue_ready(index, true);
        }
        driver.set_status(VIRTIO_CONFIG_S_DRIVER_OK as u8);
    }

    /// Resets it.
    pub fn reset(&mut self) {
        self.driver.set_status(0);
        if let Some(stopper) = self.driver.take_stopper() {
            assert_ne!(self.driver.status(), 0);
            stopper.wait();
            assert!(self.driver.finish_reset());
        }
        assert_eq!(self.driver.status(), 0);
    }

    /// Whether the device says that it cannot go on, once it is ready.
    pub fn needs_reset(&self) -> bool {
        self.driver.status() & VIRTIO_CONFIG_S_NEEDS_RESET as u8 != 0
    }

    /// Makes a chain available on queue `index` and rings. Which chain it is.
    pub fn give(&mut self, index: u16, buffers: &[Buffer<'_>]) -> u16 {
        let base = rings(index);
        let given = self.given[usize::from(index)];
        let slot = given % SIZE;
        // Chains have all descriptors to themselves: tests use one at a time.
        let head = if buffers.len() > 1 { 0 } else { slot };
        let mut address = BUFFERS + u64::from(index) * 0x8_0000 + u64::from(slot) * 0x4000;
        for (number, buffer) in (head..).zip(buffers) {
            let last = usize::from(number - head) + 1 == buffers.len();
            let mut flags = if last { 0 } else { VRING_DESC_F_NEXT };
            let length = match buffer {
                Buffer::Out(bytes) => {
                    self.memory
                        .write_slice(bytes, GuestAddress(address))
                        .expect("memory");
                    bytes.len()
                }
                Buffer::In(length) => {
                    flags |= VRING_DESC_F_WRITE;
                    *length
                }
            };
            self.describe(
                index,
                number,
                address,
                length as u32,
                flags as u16,
                number + 1,
            );
            address += length as u64;
        }
        let ring = GuestAddress(base + AVAILABLE + 4 + 2 * u64::from(slot));
        self.memory.write_obj(head, ring).expect("memory");
        let given = given.wrapping_add(1);
        self.given[usize::from(index)] = given;
        let next = GuestAddress(base + AVAILABLE + 2);
        self.memory.write_obj(given, next).expect("memory");
        self.driver.ring(index);
        head
    }

    /// Makes one buffer for the device to write available on queue `index`, `length` bytes at
    /// `address`, and rings.
    pub fn give_at(&mut self, index: u16, address: u64, length: u32) {
        let given = &mut self.given[usize::from(index)];
        let slot = *given % SIZE;
        *given = given.wrapping_add(1);
        let given = *given;
        self.describe(index, slot, address, length, VRING_DESC_F_WRITE as u16, 0);
        let available = rings(index) + AVAILABLE;
        let entry = GuestAddress(available + 4 + 2 * u64::from(slot));
        self.memory.write_obj(slot, entry).expect("memory");
        self.memory
            .write_obj(given, GuestAddress(available + 2))
            .expect("memory");
        self.driver.ring(index);
    }

    /// Writes a descriptor.
    pub fn describe(
        &self,
        index: u16,
        number: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let mut descriptor = [0; 16];
        descriptor[..8].copy_from_slice(&address.to_le_bytes());
        descriptor[8..12].copy_from_slice(&length.to_le_bytes());
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&next.to_le_bytes());
        let at = GuestAddress(rings(index) + 16 * u64::from(number));
        self.memory.write_slice(&descriptor, at).expect("memory");
    }

    /// Waits until all chains given to queue `index` were used: the bytes written in the last one.
    pub fn wait(&self, index: u16) -> u32 {
        let used = rings(index) + USED;
        let given = self.given[usize::from(index)];
        loop {
            let count: u16 = self
                .memory
                .read_obj(GuestAddress(used + 2))
                .expect("memory");
            if count == given {
                break;
            }
            self.interrupted();
        }
        let slot = u64::from(given.wrapping_sub(1) % SIZE);
        let length = GuestAddress(used + 4 + 8 * slot + 4);
        self.memory.read_obj(length).expect("memory")
    }

    /// Waits for an interrupt.
    pub fn interrupted(&self) {
        let ready = poll::readable(
            [Some(std::os::fd::AsRawFd::as_raw_fd(self.lines.event()))],
            Some(PATIENCE),
        );
        assert_eq!(ready.expect("poll"), [true], "no interrupt came");
        self.lines.clear();
    }

    /// Gives a chain to queue `index`, waits for it, and reads what was written: the bytes that the
    /// device says, and all it could have written.
    pub fn request(&mut self, index: u16, buffers: &[Buffer<'_>]) -> (u32, Vec<u8>) {
        let slot = self.given[usize::from(index)] % SIZE;
        let mut address = BUFFERS + u64::from(index) * 0x8_0000 + u64::from(slot) * 0x4000;
        self.give(index, buffers);
        let written = self.wait(index);
        let mut bytes = Vec::new();
        for buffer in buffers {
            match buffer {
                Buffer::Out(out) => address += out.len() as u64,
                Buffer::In(length) => {
                    let mut part = vec![0; *length];
                    self.memory
                        .read_slice(&mut part, GuestAddress(address))
                        .expect("memory");
                    bytes.extend(part);
                    address += *length as u64;
                }
            }
        }
        (written, bytes)
    }
}

fn rings(index: u16) -> u64 {
    RINGS + STRIDE * u64::from(index)
}
