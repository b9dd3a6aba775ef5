// SPDX-License-Identifier: GPL-2.0

//! Virtio over MMIO (virtio 1.2, 4.2): a page of registers and an interrupt line for each device.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use virtio_bindings::virtio_mmio::*;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::backend::{Backend, Doorbell};
use super::driver::{Driver, QueueSetup};
use super::{Line, Lines, Stopper, VirtioDevice};

/// What the magic value register reads as: "virt".
const MAGIC: u32 = 0x7472_6976;
/// The interface described in virtio 1.
const VERSION: u32 = 2;
/// Vendor, which nobody has given numbers for: "mini".
const VENDOR: u32 = 0x696e_696d;

/// Guest-physical address of the first device's registers.
pub const BASE: u64 = 0xe800_0000;
/// Bytes of a device's registers.
pub const LENGTH: u64 = 0x1000;
/// The interrupt line of the first device: the IOAPIC's first pin that no ISA line has.
pub const FIRST_GSI: u8 = 16;
/// How many devices there can be: as many as such pins.
pub const LIMIT: usize = 8;

/// Where one device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Guest-physical address of its registers, [`LENGTH`] bytes.
    pub address: u64,
    /// Its interrupt line, edge-triggered.
    pub gsi: u8,
}

/// Where device `index` is.
pub fn place(index: usize) -> Place {
    Place {
        address: BASE + LENGTH * index as u64,
        gsi: FIRST_GSI + index as u8,
    }
}

/// How the interrupt lines are moved.
pub enum Lineage {
    /// By KVM, which has the IOAPIC.
    Kvm,
    /// By the board.
    Board(Lines),
}

/// All devices on this transport.
pub struct MmioBus {
    slots: Vec<Slot>,
    stopper: Option<Stopper>,
}

impl MmioBus {
    /// Puts `devices` where [`place`] says.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor, or KVM when it refuses a connection.
    pub fn new(
        devices: Vec<Box<dyn VirtioDevice>>,
        memory: &Arc<GuestMemoryMmap>,
        backend: &dyn Backend,
        lineage: &Lineage,
    ) -> io::Result<Self> {
        if devices.len() > LIMIT {
            return Err(io::Error::other(format!(
                "there is room for {LIMIT} virtio devices on MMIO, not for {}: use --virtio pci",
                devices.len()
            )));
        }
        let slots = devices
            .into_iter()
            .enumerate()
            .map(|(index, device)| Slot::new(place(index), device, memory, backend, lineage))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            slots,
            stopper: None,
        })
    }

    /// A load; false if none of the devices' registers is at `address`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address) {
            Some((index, offset)) => self.slots[index].read(offset, data),
            None => return false,
        }
        true
    }

    /// A store; false if none of the devices' registers is at `address`.
    pub fn write(&mut self, address: u64, data: &[u8]) -> bool {
        match self.find(address) {
            Some((index, offset)) => {
                let slot = &mut self.slots[index];
                slot.write(offset, data);
                self.stopper = self.stopper.take().or(slot.driver.take_stopper());
            }
            None => return false,
        }
        true
    }

    /// What the reset waits for that a store was since this was last called, if one was.
    pub fn take_stopper(&mut self) -> Option<Stopper> {
        self.stopper.take()
    }

    /// Finishes the resets whose waits are over.
    pub fn finish_resets(&mut self) {
        for slot in &mut self.slots {
            if slot.driver.finish_reset() {
                slot.line.acknowledge(u32::MAX);
            }
        }
    }

    fn find(&self, address: u64) -> Option<(usize, u64)> {
        let offset = address.checked_sub(BASE)?;
        let index = usize::try_from(offset / LENGTH).ok()?;
        (index < self.slots.len()).then_some((index, offset % LENGTH))
    }

    /// The lines on which there was an edge since this was last called.
    pub fn take_edges(&self) -> impl Iterator<Item = u8> + '_ {
        self.slots
            .iter()
            .filter(|slot| slot.line.take_edge())
            .map(|slot| slot.gsi)
    }
}

/// One device with its registers.
struct Slot {
    driver: Driver,
    line: Arc<Line>,
    gsi: u8,
    offered_select: u32,
    accepted_select: u32,
    queue: u16,
}

/// The registers that are the device's own configuration space.
const CONFIG: Range<u64> = VIRTIO_MMIO_CONFIG as u64..LENGTH;

impl Slot {
    fn new(
        place: Place,
        device: Box<dyn VirtioDevice>,
        memory: &Arc<GuestMemoryMmap>,
        backend: &dyn Backend,
        lineage: &Lineage,
    ) -> io::Result<Self> {
        let line = Arc::new(match lineage {
            Lineage::Kvm => {
                let event = EventFd::new(EFD_NONBLOCK)?;
                backend.connect_interrupt(&event, place.gsi.into())?;
                Line::irqfd(event)
            }
            Lineage::Board(lines) => Line::board(lines.clone()),
        });
        let driver = Driver::new(device, memory, Arc::<Line>::clone(&line))?;
        for (index, queue) in (0..driver.queue_count()).filter_map(|n| Some((n, driver.queue(n)?)))
        {
            let doorbell = Doorbell {
                address: place.address + u64::from(VIRTIO_MMIO_QUEUE_NOTIFY),
                value: Some(index.into()),
            };
            backend.connect_doorbell(&queue.doorbell, doorbell)?;
        }
        Ok(Self {
            driver,
            line,
            gsi: place.gsi,
            offered_select: 0,
            accepted_select: 0,
            queue: 0,
        })
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG.start) {
            self.driver.read_config(offset, data);
            return;
        }
        // Registers are 32 bits wide and are read so.
        data.fill(0);
        if let (Ok(data), 0) = (<&mut [u8; 4]>::try_from(data), offset % 4) {
            *data = self.read_register(offset as u32).to_le_bytes();
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        let driver = &self.driver;
        let queue = driver.queue(self.queue);
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => driver.device_type(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => driver.offered_half(self.offered_select),
            VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |queue| queue.max_size.into()),
            VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |queue| queue.ready.into()),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.line.status(),
            VIRTIO_MMIO_STATUS => driver.status().into(),
            VIRTIO_MMIO_CONFIG_GENERATION => driver.generation(),
            // No shared memory region has a length of all ones, nor a place.
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG.start) {
            self.driver.write_config(offset, data);
        } else if let (Ok(data), 0) = (<[u8; 4]>::try_from(data), offset % 4) {
            self.write_register(offset as u32, u32::from_le_bytes(data));
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        let driver = &mut self.driver;
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.offered_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.accepted_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => driver.accept_half(self.accepted_select, value),
            // A number no queue has stays one.
            VIRTIO_MMIO_QUEUE_SEL => self.queue = u16::try_from(value).unwrap_or(u16::MAX),
            VIRTIO_MMIO_QUEUE_READY => driver.set_queue_ready(self.queue, value & 1 != 0),
            VIRTIO_MMIO_QUEUE_NOTIFY => {
                if let Ok(index) = u16::try_from(value) {
                    driver.ring(index);
                }
            }
            VIRTIO_MMIO_INTERRUPT_ACK => self.line.acknowledge(value),
            VIRTIO_MMIO_STATUS => {
                driver.set_status(value as u8);
                if value as u8 == 0 && !driver.is_stopping() {
                    self.line.acknowledge(u32::MAX);
                }
            }
            _ => {
                if let Some(queue) = driver.queue_to_set_up(self.queue) {
                    write_queue(queue, offset, value);
                }
            }
        }
    }
}

fn write_queue(queue: &mut QueueSetup, offset: u32, value: u32) {
    let (address, shift) = match offset {
        VIRTIO_MMIO_QUEUE_NUM => {
            // Zero is a size no queue can have: the device will not be started with it.
            queue.size = u16::try_from(value).unwrap_or(0);
            return;
        }
        VIRTIO_MMIO_QUEUE_DESC_LOW => (&mut queue.descriptors, 0),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => (&mut queue.descriptors, 32),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW => (&mut queue.available, 0),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => (&mut queue.available, 32),
        VIRTIO_MMIO_QUEUE_USED_LOW => (&mut queue.used, 0),
        VIRTIO_MMIO_QUEUE_USED_HIGH => (&mut queue.used, 32),
        _ => return,
    };
    QueueSetup::set_half(address, shift, value);
}

#[cfg(test)]
mod tests;
