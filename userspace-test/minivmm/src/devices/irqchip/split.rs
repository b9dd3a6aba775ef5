// SPDX-License-Identifier: GPL-2.0

//! Local APICs in KVM, the rest here (api.rst, 7.5 KVM_CAP_SPLIT_IRQCHIP).
//!
//! The IOAPIC's messages go to KVM as MSIs. Of which EOIs it wants to know KVM sees in the GSI
//! routes: the first 24 GSIs stand for the IOAPIC's pins.

use std::sync::Arc;

use arch::apic::{Destination, Message};
use arch::ioapic::{Entry, Ioapic, Written, DEFAULT_BASE, LENGTH, PINS};
use arch::pic::DualPic;
use kvm_bindings::{kvm_irq_routing_entry, kvm_msi};
use kvm_ioctls::VmFd;

use super::isa;
use super::routes::{message_route, Routes};

/// Address of every MSI, with the destination and its mode to be filled in (SDM vol. 3, 11.11.1).
const MSI_ADDRESS: u32 = 0xfee0_0000;
const MSI_DESTINATION_SHIFT: u32 = 12;
const MSI_LOGICAL: u32 = 1 << 2;
/// Data of an MSI (SDM vol. 3, 11.11.2).
const MSI_DELIVERY_SHIFT: u32 = 8;
const MSI_ASSERT: u32 = 1 << 14;
const MSI_LEVEL: u32 = 1 << 15;

/// PICs and IOAPIC of a machine whose local APICs are in KVM.
pub struct Split {
    vm: Arc<VmFd>,
    routes: Arc<Routes>,
    pic: DualPic,
    ioapic: Ioapic,
}

impl Split {
    /// The controllers of `vm`, which has had KVM_CAP_SPLIT_IRQCHIP enabled with 24 pins.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self {
            routes: Arc::new(Routes::empty(Arc::clone(&vm))),
            vm,
            pic: DualPic::new(),
            ioapic: Ioapic::new(),
        }
    }

    /// KVM's table of routes.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// The PICs.
    pub fn pic(&mut self) -> &mut DualPic {
        &mut self.pic
    }

    /// An edge on an ISA interrupt line.
    pub fn pulse(&mut self, irq: u8) {
        let Self {
            vm, pic, ioapic, ..
        } = self;
        isa::pulse(pic, ioapic, irq, |message| signal(vm, message));
    }

    /// The level of a line that only the IOAPIC has.
    pub fn set_line(&mut self, pin: u8, level: bool) {
        let Self { vm, ioapic, .. } = self;
        ioapic.set_line(pin, level, false, |message| signal(vm, message));
    }

    /// Whether the PICs have an interrupt for CPU 0.
    pub fn pending(&self) -> bool {
        self.pic.pending()
    }

    /// CPU 0 takes the PICs' interrupt: its vector.
    pub fn acknowledge(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    /// A load from the IOAPIC's registers; false if `address` is none of them.
    pub fn read(&mut self, address: u64, data: &mut [u8]) -> bool {
        let Some(offset) = offset_of(address) else {
            return false;
        };
        self.ioapic.read_bytes(offset, data);
        true
    }

    /// A store to the IOAPIC's registers; nothing happens if `address` is none of them.
    pub fn write(&mut self, address: u64, data: &[u8]) {
        let Some(offset) = offset_of(address) else {
            return;
        };
        let Written::Entry {
            pin,
            old,
            new,
            pending,
        } = self.ioapic.write_bytes(offset, data)
        else {
            return;
        };
        if old != new && (old.is_level() || new.is_level()) {
            self.update_routes();
        }
        if pending {
            let Self { vm, ioapic, .. } = self;
            ioapic.resend(pin, |message| signal(vm, message));
        }
    }

    /// A level-triggered interrupt has ended: what is still asserted is sent again.
    pub fn eoi(&mut self, vector: u8) {
        let Self { vm, ioapic, .. } = self;
        let pins = ioapic.pins_of(vector);
        if ioapic.eoi(pins, |message| signal(vm, message)) {
            ioapic.reinject(|message| signal(vm, message));
        }
    }

    /// Tells KVM the pins whose EOIs are wanted: the level-triggered ones.
    fn update_routes(&self) {
        let entries: Vec<_> = (0..PINS as u8)
            .filter_map(|pin| Some((pin, self.ioapic.entry(pin)?)))
            .filter(|(_, entry)| entry.is_level())
            .map(|(pin, entry)| route(pin, entry))
            .collect();
        self.routes
            .set_pins(entries)
            .expect("KVM has split controllers, so it has routes for them");
    }
}

fn offset_of(address: u64) -> Option<u64> {
    address
        .checked_sub(DEFAULT_BASE)
        .filter(|offset| *offset < LENGTH)
}

/// Address and data of the MSI that is `message`.
fn msi_of(message: &Message) -> (u32, u32) {
    let (id, logical) = match message.destination {
        Destination::Logical(set) => (set, MSI_LOGICAL),
        Destination::Physical(id) => (id, 0),
        Destination::Itself | Destination::All | Destination::AllButSelf => {
            unreachable!("an IOAPIC has no shorthands")
        }
    };
    let address = MSI_ADDRESS | (id & 0xff) << MSI_DESTINATION_SHIFT | logical;
    let mut data = u32::from(message.vector) | (message.delivery as u32) << MSI_DELIVERY_SHIFT;
    data |= MSI_ASSERT;
    if message.level {
        data |= MSI_LEVEL;
    }
    (address, data)
}

/// Sends a message; how many local APICs took it, `None` if none was addressed.
fn signal(vm: &VmFd, message: &Message) -> Option<u32> {
    let (address_lo, data) = msi_of(message);
    let msi = kvm_msi {
        address_lo,
        data,
        ..Default::default()
    };
    // KVM answers a message for nobody with an error.
    let taken = vm.signal_msi(msi).ok()?;
    u32::try_from(taken).ok()
}

fn route(pin: u8, entry: Entry) -> kvm_irq_routing_entry {
    let (address_lo, data) = msi_of(&entry.message());
    message_route(pin.into(), address_lo, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::KVM_IRQ_ROUTING_MSI;

    const LEVEL: u64 = 1 << 15;
    const LOGICAL: u64 = 1 << 11;

    #[test]
    fn an_entry_s_message_as_msi() {
        for (entry, address, data) in [
            (0x31, 0xfee0_0000, 0x4031),
            (0x31 | 5 << 56, 0xfee0_5000, 0x4031),
            (0x31 | LOGICAL | 3 << 56 | 1 << 8, 0xfee0_3004, 0x4131),
            (0x31 | LEVEL, 0xfee0_0000, 0xc031),
        ] {
            assert_eq!(
                msi_of(&Entry(entry).message()),
                (address, data),
                "{entry:#x}"
            );
        }
    }

    #[test]
    fn a_route_is_its_pin_s() {
        let route = route(9, Entry(0x29 | LEVEL));
        assert_eq!((route.gsi, route.type_), (9, KVM_IRQ_ROUTING_MSI));
        // SAFETY: the type says that this member is the valid one.
        let msi = unsafe { route.u.msi };
        assert_eq!((msi.address_lo, msi.data), (0xfee0_0000, 0xc029));
    }
}
