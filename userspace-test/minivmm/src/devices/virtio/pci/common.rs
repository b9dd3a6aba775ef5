// SPDX-License-Identifier: GPL-2.0

//! The common configuration (virtio 1.2, 4.1.4.3).

use super::route::PciRoute;
use crate::devices::virtio::driver::{Driver, QueueSetup};

/// Its registers.
const OFFERED_SELECT: u64 = 0x00;
const OFFERED: usize = 0x04;
const ACCEPTED_SELECT: u64 = 0x08;
const ACCEPTED: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const QUEUES: usize = 0x12;
const STATUS: u64 = 0x14;
const GENERATION: usize = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_DOORBELL: usize = 0x1e;
const QUEUE_DESCRIPTORS: u64 = 0x20;
const QUEUE_AVAILABLE: u64 = 0x28;
const QUEUE_USED: u64 = 0x30;
const LENGTH: usize = 0x38;

/// What the driver has selected.
#[derive(Default)]
pub struct Common {
    offered: u32,
    accepted: u32,
    queue: u16,
}

impl Common {
    /// A load of any width: no register minds being read.
    pub fn read(&self, driver: &Driver, route: &PciRoute, offset: u64, data: &mut [u8]) {
        let mut all = [0; LENGTH];
        let mut set = |at: usize, bytes: &[u8]| all[at..at + bytes.len()].copy_from_slice(bytes);
        set(OFFERED_SELECT as usize, &self.offered.to_le_bytes());
        set(OFFERED, &driver.offered_half(self.offered).to_le_bytes());
        set(ACCEPTED_SELECT as usize, &self.accepted.to_le_bytes());
        set(
            ACCEPTED as usize,
            &driver.accepted_half(self.accepted).to_le_bytes(),
        );
        set(CONFIG_VECTOR as usize, &route.config_vector().to_le_bytes());
        set(QUEUES, &driver.queue_count().to_le_bytes());
        set(STATUS as usize, &[driver.status()]);
        set(GENERATION, &[driver.generation() as u8]);
        set(QUEUE_SELECT as usize, &self.queue.to_le_bytes());
        if let Some(queue) = driver.queue(self.queue) {
            set(QUEUE_SIZE as usize, &queue.size.to_le_bytes());
            set(
                QUEUE_VECTOR as usize,
                &route.queue_vector(self.queue).to_le_bytes(),
            );
            set(QUEUE_ENABLE as usize, &u16::from(queue.ready).to_le_bytes());
            set(QUEUE_DOORBELL, &self.queue.to_le_bytes());
            set(QUEUE_DESCRIPTORS as usize, &queue.descriptors.to_le_bytes());
            set(QUEUE_AVAILABLE as usize, &queue.available.to_le_bytes());
            set(QUEUE_USED as usize, &queue.used.to_le_bytes());
        }
        crate::devices::virtio::read_space(&all, offset, data);
    }

    /// A store: to a register in its own width, or to one of 64 bits in halves. True if it was a
    /// reset.
    pub fn write(
        &mut self,
        driver: &mut Driver,
        route: &PciRoute,
        offset: u64,
        data: &[u8],
    ) -> bool {
        match *data {
            [value] if offset == STATUS => {
                driver.set_status(value);
                return value == 0;
            }
            [a, b] => self.write_16(driver, route, offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_32(driver, offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                self.write_32(driver, offset, u32::from_le_bytes([a, b, c, d]));
                self.write_32(driver, offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        false
    }

    fn write_16(&mut self, driver: &mut Driver, route: &PciRoute, offset: u64, value: u16) {
        match offset {
            CONFIG_VECTOR => route.set_config_vector(value),
            QUEUE_SELECT => self.queue = value,
            QUEUE_SIZE => {
                if let Some(queue) = driver.queue_to_set_up(self.queue) {
                    queue.size = value;
                }
            }
            QUEUE_VECTOR => route.set_queue_vector(self.queue, value),
            // It is taken back by a reset alone.
            QUEUE_ENABLE if value == 1 => driver.set_queue_ready(self.queue, true),
            _ => {}
        }
    }

    fn write_32(&mut self, driver: &mut Driver, offset: u64, value: u32) {
        match offset {
            OFFERED_SELECT => self.offered = value,
            ACCEPTED_SELECT => self.accepted = value,
            ACCEPTED => driver.accept_half(self.accepted, value),
            _ => {
                let Some(queue) = driver.queue_to_set_up(self.queue) else {
                    return;
                };
                let address = match offset & !7 {
                    QUEUE_DESCRIPTORS => &mut queue.descriptors,
                    QUEUE_AVAILABLE => &mut queue.available,
                    QUEUE_USED => &mut queue.used,
                    _ => return,
                };
                match offset & 7 {
                    0 => QueueSetup::set_half(address, 0, value),
                    4 => QueueSetup::set_half(address, 32, value),
                    _ => {}
                }
            }
        }
    }
}
