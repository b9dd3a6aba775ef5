// SPDX-License-Identifier: GPL-2.0

//! Devices in the kernel, as the guest reaches them: by memory access and by port.
//!
//! What none of them takes goes to the VMM.

use arch::{
    addr::Gpa,
    pic, //
};

use super::{
    backend::Backend,
    bus::{
        Space,
        Write, //
    },
    irq::number_in,
    vcpu::Loaded, //
};
use crate::host::trace::trace;

impl<B: Backend> Loaded<'_, B> {
    /// Whether `gpa` is in the local APIC's page or the IOAPIC's registers, and both are here: no
    /// access to them goes to the VMM, or takes long.
    #[inline]
    pub(crate) fn is_chip(&self, gpa: Gpa) -> bool {
        self.irqchip().is_some_and(|irqchip| {
            irqchip.is_small() && irqchip.ioapic_offset(gpa.0).is_some()
                || irqchip.has_chips() && self.is_apic_register(gpa.0)
        })
    }

    /// Reads `data.len()` bytes, at most 8, of device memory. Returns whether a device answered.
    pub(crate) fn device_read(&mut self, gpa: u64, data: &mut [u8]) -> bool {
        let done = self.device_read_untold(gpa, data);
        if done {
            trace!(kvm_mmio(1, data.len() as u32, gpa, number_in(data)));
        }
        done
    }

    fn device_read_untold(&mut self, gpa: u64, data: &mut [u8]) -> bool {
        if self.read_apic_page(gpa, data) {
            return true;
        }
        let Some(irqchip) = self.irqchip() else {
            return false;
        };
        match irqchip.ioapic_offset(gpa) {
            Some(offset) => {
                irqchip.read_ioapic(offset, data);
                true
            }
            None => false,
        }
    }

    /// Writes to device memory. Returns whether a device took it.
    pub(crate) fn device_write(&mut self, gpa: u64, data: &[u8]) -> bool {
        let done = self.device_write_untold(gpa, data);
        if done {
            trace!(kvm_mmio(2, data.len() as u32, gpa, number_in(data)));
        }
        done
    }

    fn device_write_untold(&mut self, gpa: u64, data: &[u8]) -> bool {
        if self.write_apic_page(gpa, data) {
            return true;
        }
        if let Some(irqchip) = self.irqchip() {
            if let Some(offset) = irqchip.ioapic_offset(gpa) {
                irqchip.write_ioapic(offset, data);
                return true;
            }
        }
        self.bus_write(Space::Mmio, gpa, data)
    }

    /// Whether any port may lead to something in the kernel.
    #[inline]
    pub(crate) fn has_port_devices(&self) -> bool {
        self.irqchip().is_some() || self.vm.buses.has_any(Space::Pio)
    }

    /// Reads a port of 1, 2 or 4 bytes. Returns whether a device answered.
    pub(crate) fn port_read(&mut self, port: u16, data: &mut [u8]) -> bool {
        if let Some(irqchip) = self.irqchip().filter(|_| is_pic_port(port)) {
            if irqchip.has_chips() {
                if let [byte] = data {
                    *byte = irqchip.with_pic(|pic| pic.read(port)).unwrap_or(0xff);
                } else {
                    data.fill(0);
                }
                return true;
            }
        }
        if let Some(pit) = self.vm.pit().filter(|pit| pit.owns(port)) {
            data.fill(0);
            if let Some(byte) = data.first_mut() {
                *byte = pit.read(port);
            }
            return true;
        }
        false
    }

    /// Writes a port of 1, 2 or 4 bytes. Returns whether a device took it.
    pub(crate) fn port_write(&mut self, port: u16, data: &[u8]) -> bool {
        if let Some(irqchip) = self.irqchip().filter(|_| is_pic_port(port)) {
            if irqchip.has_chips() {
                // The chips are eight bits wide, and take nothing wider.
                if let [byte] = data {
                    irqchip.with_pic(|pic| pic.write(port, *byte));
                }
                return true;
            }
        }
        if let Some(pit) = self.vm.pit().filter(|pit| pit.owns(port)) {
            if let Some(byte) = data.first() {
                pit.write(port, *byte);
            }
            return true;
        }
        self.bus_write(Space::Pio, port.into(), data)
    }

    /// Offers a write to the eventfds and the coalesced zones. Returns whether it is done.
    #[inline]
    fn bus_write(&mut self, space: Space, address: u64, data: &[u8]) -> bool {
        let mut value = [0; 8];
        let Some(bytes) = value.get_mut(..data.len()) else {
            return false;
        };
        bytes.copy_from_slice(data);
        self.vm.buses.write(
            space,
            Write {
                address,
                len: data.len() as u8,
                value: u64::from_le_bytes(value),
            },
        )
    }
}

fn is_pic_port(port: u16) -> bool {
    matches!(
        port,
        pic::MASTER_COMMAND
            | pic::MASTER_DATA
            | pic::SLAVE_COMMAND
            | pic::SLAVE_DATA
            | pic::MASTER_ELCR
            | pic::SLAVE_ELCR
    )
}
