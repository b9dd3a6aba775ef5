// SPDX-License-Identifier: GPL-2.0

//! Virtio over PCI (virtio 1.2, 4.1): a function with one region of memory, in which are the common
//! configuration, the interrupt status, the device's configuration space, the doorbells and the
//! table of MSI-X.

mod common;
mod route;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

use super::backend::{Backend, Doorbell};
use super::driver::Driver;
use super::{ids, Line, Lines, Stopper, VirtioDevice};
use crate::devices::pci::config::{self, ConfigSpace};
use crate::devices::pci::msix::{self, Msix};
use crate::devices::pci::{Function, WINDOW};
use common::Common;
use route::PciRoute;

const VENDOR: u16 = 0x1af4;
/// Device IDs and subsystem IDs: these, and the device's type.
const FIRST_DEVICE: u16 = 0x1040;
const FIRST_SUBSYSTEM: u16 = 0x40;
/// A device without legacy interface.
const REVISION: u8 = 1;

/// Where things are in the region, each a page, and how long it is.
const COMMON: Range<u64> = 0x0000..0x1000;
const ISR: Range<u64> = 0x1000..0x2000;
const DEVICE: Range<u64> = 0x2000..0x3000;
const NOTIFY: Range<u64> = 0x3000..0x4000;
const TABLE: Range<u64> = 0x4000..0x5000;
const PENDING: Range<u64> = 0x5000..0x6000;
/// Bytes of the region.
pub const LENGTH: u64 = 0x8000;
/// The region's address is in the first two base address registers: memory, 64 bits.
const BAR: u8 = 0;
const BAR_64_BIT: u32 = 0b100;
/// Bytes from one queue's doorbell to the next one's.
const DOORBELL: u64 = 4;

/// Where capabilities are in the configuration space.
const MSIX_AT: usize = 0x40;
const COMMON_AT: usize = 0x50;
const ISR_AT: usize = 0x60;
const DEVICE_AT: usize = 0x70;
const NOTIFY_AT: usize = 0x80;
const WINDOW_AT: usize = 0x98;
const EXPRESS_AT: usize = 0xb0;
/// MSI-X: its message control.
const MSIX_CONTROL: usize = MSIX_AT + 2;
/// In the capability that is a window into the region: which part of it, and where that is.
const WINDOW_OFFSET: usize = WINDOW_AT + 8;
const WINDOW_LENGTH: usize = WINDOW_AT + 12;
const WINDOW_DATA: usize = WINDOW_AT + 16;

/// A vendor's capability, and what virtio's are for.
const VENDOR_CAPABILITY: u8 = 9;
const FOR_COMMON: u8 = 1;
const FOR_NOTIFY: u8 = 2;
const FOR_ISR: u8 = 3;
const FOR_DEVICE: u8 = 4;
const FOR_WINDOW: u8 = 5;

/// The capability of PCI Express, which says that there is more of the configuration space than 256
/// bytes: its kind, and its bytes behind kind and link (PCI Express 5.0, 7.5.3).
const EXPRESS: u8 = 0x10;
const EXPRESS_LENGTH: usize = 0x3a;
/// Its second version, of an endpoint that is part of the root complex and has no link.
const EXPRESS_FLAGS: u16 = 9 << 4 | 2;
/// Device capabilities: errors are told by their roles. Device control: all may be set but the bit
/// for a reset of the function, which there is not.
const EXPRESS_CAPABILITIES: u32 = 1 << 15;
const EXPRESS_CONTROL_AT: usize = EXPRESS_AT + 8;
const EXPRESS_CONTROL: u16 = 0x7fff;

/// How a device's interrupts leave it.
pub struct Interrupts<'a> {
    /// Who moves its line.
    pub lines: &'a Lines,
    /// The first of its messages' GSIs, if it can send messages.
    pub first_gsi: Option<u32>,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    driver: Driver,
    config: ConfigSpace,
    common: Common,
    line: Arc<Line>,
    route: Arc<PciRoute>,
    msix: Option<Msix>,
    backend: Arc<dyn Backend>,
    /// Where the region is, if it is anywhere.
    region: Option<u64>,
}

impl VirtioPci {
    /// `device` as the function in `slot`, set up as firmware would leave it.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        slot: usize,
        memory: &Arc<GuestMemoryMmap>,
        backend: &Arc<dyn Backend>,
        interrupts: &Interrupts<'_>,
    ) -> io::Result<Self> {
        let line = Arc::new(Line::board(interrupts.lines.clone()));
        let queues = device.queue_sizes().len() as u16;
        let vectors = vectors_of(device.as_ref());
        let msix = interrupts
            .first_gsi
            .map(|gsi| Msix::new(vectors, gsi, Arc::clone(backend)))
            .transpose()?;
        let events = msix.as_ref().map_or_else(|| Ok(Vec::new()), Msix::events)?;
        let route = Arc::new(PciRoute::new(queues, events, Arc::clone(&line)));
        let config = config_of(
            device.device_type(),
            slot,
            msix.is_some().then_some(vectors),
        );
        Ok(Self {
            driver: Driver::new(device, memory, Arc::<PciRoute>::clone(&route))?,
            config,
            common: Common::default(),
            line,
            route,
            msix,
            backend: Arc::clone(backend),
            region: None,
        })
    }

    /// A load from the region.
    fn read_region(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if COMMON.contains(&offset) {
            self.common.read(&self.driver, &self.route, offset, data);
        } else if ISR.contains(&offset) {
            if let (ISR_REGISTER, Some(byte)) = (offset - ISR.start, data.first_mut()) {
                *byte = self.line.take_status() as u8;
            }
        } else if DEVICE.contains(&offset) {
            self.driver.read_config(offset - DEVICE.start, data);
        } else if let Some(msix) = &self.msix {
            if TABLE.contains(&offset) {
                msix.read_table(offset - TABLE.start, data);
            } else if PENDING.contains(&offset) {
                msix.read_pending(offset - PENDING.start, data);
            }
        }
    }

    /// A store to the region.
    fn write_region(&mut self, offset: u64, data: &[u8]) {
        if COMMON.contains(&offset) {
            let Self {
                common,
                driver,
                route,
                ..
            } = self;
            if common.write(driver, route, offset, data) && !driver.is_stopping() {
                self.forget_interrupts();
            }
        } else if DEVICE.contains(&offset) {
            self.driver.write_config(offset - DEVICE.start, data);
        } else if NOTIFY.contains(&offset) {
            self.driver
                .ring(((offset - NOTIFY.start) / DOORBELL) as u16);
        } else if let (true, Some(msix)) = (TABLE.contains(&offset), &mut self.msix) {
            msix.write_table(offset - TABLE.start, data);
        }
    }

    /// The device was reset: no interrupt of before comes any more.
    fn forget_interrupts(&mut self) {
        self.line.acknowledge(u32::MAX);
        self.route.reset();
        if let Some(msix) = &self.msix {
            msix.forget_pending();
        }
    }

    /// The part of the region that the window's capability leads to, if it is one that it can.
    fn window(&self) -> Option<(u64, usize)> {
        let offset = u64::from(self.config.u32(WINDOW_OFFSET));
        let length = self.config.u32(WINDOW_LENGTH);
        let fits = matches!(length, 1 | 2 | 4) && offset % u64::from(length) == 0;
        (fits && offset + u64::from(length) <= LENGTH).then_some((offset, length as usize))
    }

    /// The region is where the configuration space says now, and its doorbells are with it.
    fn place_region(&mut self) {
        let command = self.config.u16(config::COMMAND);
        let address = u64::from(self.config.u32(config::BAR0) & !0xf)
            | u64::from(self.config.u32(config::BAR0 + 4)) << 32;
        // A guest that finds out how long it is puts it at the end of all addresses for a moment.
        let there = command & config::COMMAND_MEMORY != 0
            && address != 0
            && address.checked_add(LENGTH).is_some();
        let region = there.then_some(address);
        if region != self.region {
            self.connect_doorbells(false);
            self.region = region;
            self.connect_doorbells(true);
        }
    }

    fn connect_doorbells(&self, connect: bool) {
        let Some(region) = self.region else { return };
        for index in 0..self.driver.queue_count() {
            let Some(queue) = self.driver.queue(index) else {
                continue;
            };
            let doorbell = Doorbell {
                address: region + NOTIFY.start + DOORBELL * u64::from(index),
                value: None,
            };
            if connect {
                // Where KVM does not take it, the store comes to `write_region`.
                let _ = self.backend.connect_doorbell(&queue.doorbell, doorbell);
            } else {
                self.backend.disconnect_doorbell(&queue.doorbell, doorbell);
            }
        }
    }

    fn offset_of(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.region?)?;
        (offset < LENGTH).then_some(offset)
    }
}

/// The one register of the interrupt status.
const ISR_REGISTER: u64 = 0;

/// How many messages `device` sends: one for each queue, one for its configuration.
pub fn vectors_of(device: &dyn VirtioDevice) -> u16 {
    device.queue_sizes().len() as u16 + 1
}

fn config_of(device_type: u32, slot: usize, vectors: Option<u16>) -> ConfigSpace {
    let number = device_type as u16;
    let mut config = ConfigSpace::new(VENDOR, FIRST_DEVICE + number, class_of(device_type));
    config.set(config::REVISION, &[REVISION]);
    config.set(config::SUBSYSTEM_VENDOR, &VENDOR.to_le_bytes());
    config.set(config::SUBSYSTEM, &(FIRST_SUBSYSTEM + number).to_le_bytes());
    config.set(config::INTERRUPT_LINE, &[crate::devices::pci::gsi(slot)]);
    config.allow(config::INTERRUPT_LINE, &[0xff]);
    config.set(config::INTERRUPT_PIN, &[1]);
    let commands = config::COMMAND_MEMORY | config::COMMAND_MASTER | config::COMMAND_INTX_DISABLE;
    config.allow(config::COMMAND, &commands.to_le_bytes());

    let address = WINDOW + LENGTH * slot as u64;
    config.set(config::BAR0, &(address as u32 | BAR_64_BIT).to_le_bytes());
    config.set(config::BAR0 + 4, &((address >> 32) as u32).to_le_bytes());
    config.allow(config::BAR0, &(!(LENGTH - 1)).to_le_bytes());

    if let Some(vectors) = vectors {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(TABLE.start as u32 | u32::from(BAR)).to_le_bytes());
        body[6..].copy_from_slice(&(PENDING.start as u32 | u32::from(BAR)).to_le_bytes());
        config.add_capability(MSIX_AT, msix::CAPABILITY, &body);
        let control = msix::ENABLE | msix::FUNCTION_MASK;
        config.allow(MSIX_CONTROL, &control.to_le_bytes());
    }
    for (at, purpose, part) in [
        (COMMON_AT, FOR_COMMON, COMMON),
        (ISR_AT, FOR_ISR, ISR),
        (DEVICE_AT, FOR_DEVICE, DEVICE),
    ] {
        add_part(&mut config, at, purpose, part, None);
    }
    add_part(
        &mut config,
        NOTIFY_AT,
        FOR_NOTIFY,
        NOTIFY,
        Some(DOORBELL as u32),
    );
    add_part(&mut config, WINDOW_AT, FOR_WINDOW, 0..0, Some(0));
    let mut express = [0; EXPRESS_LENGTH];
    express[..2].copy_from_slice(&EXPRESS_FLAGS.to_le_bytes());
    express[2..6].copy_from_slice(&EXPRESS_CAPABILITIES.to_le_bytes());
    config.add_capability(EXPRESS_AT, EXPRESS, &express);
    config.allow(EXPRESS_CONTROL_AT, &EXPRESS_CONTROL.to_le_bytes());
    config.allow(WINDOW_AT + 4, &[0xff]);
    config.allow(WINDOW_OFFSET, &[0xff; 12]);
    config
}

/// Adds a capability that says where a part of the region is (4.1.4).
fn add_part(config: &mut ConfigSpace, at: usize, purpose: u8, part: Range<u64>, more: Option<u32>) {
    let length = 16 + more.map_or(0, |_| 4);
    let mut body = vec![length, purpose, BAR, 0, 0, 0];
    body.extend((part.start as u32).to_le_bytes());
    body.extend(((part.end - part.start) as u32).to_le_bytes());
    body.extend(more.map(u32::to_le_bytes).into_iter().flatten());
    config.add_capability(at, VENDOR_CAPABILITY, &body);
}

/// Class codes (PCI Code and ID Assignment Specification 1.11).
fn class_of(device_type: u32) -> [u8; 3] {
    match device_type {
        ids::VIRTIO_ID_NET => [0x02, 0x00, 0x00],
        ids::VIRTIO_ID_BLOCK => [0x01, 0x80, 0x00],
        ids::VIRTIO_ID_CONSOLE => [0x07, 0x80, 0x00],
        _ => [0xff, 0x00, 0x00],
    }
}

impl Function for VirtioPci {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if self.wants_line() {
            self.config.set(
                config::STATUS,
                &[config::STATUS_CAPABILITIES | config::STATUS_INTERRUPT],
            );
        } else {
            self.config
                .set(config::STATUS, &[config::STATUS_CAPABILITIES]);
        }
        if let (WINDOW_DATA, Some((part, length))) = (offset, self.window()) {
            let mut bytes = [0; 4];
            self.read_region(part, &mut bytes[..length]);
            self.config.set(WINDOW_DATA, &bytes);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        match offset {
            WINDOW_DATA => {
                if let Some((part, length)) = self.window() {
                    let bytes = self.config.u32(WINDOW_DATA).to_le_bytes();
                    self.write_region(part, &bytes[..length]);
                }
            }
            _ if touches(offset, data, MSIX_CONTROL) => {
                let control = self.config.u16(MSIX_CONTROL);
                if let Some(msix) = &mut self.msix {
                    msix.set_control(control);
                    self.route.use_messages(control & msix::ENABLE != 0);
                }
            }
            _ => self.place_region(),
        }
    }

    fn read(&mut self, address: u64, data: &mut [u8]) -> bool {
        let Some(offset) = self.offset_of(address) else {
            return false;
        };
        self.read_region(offset, data);
        true
    }

    fn write(&mut self, address: u64, data: &[u8]) -> bool {
        let Some(offset) = self.offset_of(address) else {
            return false;
        };
        self.write_region(offset, data);
        true
    }

    fn take_stopper(&mut self) -> Option<Stopper> {
        self.driver.take_stopper()
    }

    fn finish_reset(&mut self) {
        if self.driver.finish_reset() {
            self.forget_interrupts();
        }
    }

    fn wants_line(&self) -> bool {
        let disabled = self.config.u16(config::COMMAND) & config::COMMAND_INTX_DISABLE != 0;
        !disabled && !self.route.uses_messages() && self.line.status() != 0
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.connect_doorbells(false);
    }
}

/// Whether an access reaches the register of 16 bits at `register`.
fn touches(offset: usize, data: &[u8], register: usize) -> bool {
    offset < register + 2 && offset + data.len() > register
}

#[cfg(test)]
mod tests;
