// SPDX-License-Identifier: GPL-2.0

//! KVM's table of where GSIs lead (api.rst, 4.52 KVM_SET_GSI_ROUTING), which is only ever set as a
//! whole: the pins of the interrupt controllers, and the messages of devices behind them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use kvm_bindings::{
    kvm_irq_routing_entry, KvmIrqRouting, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
};
use kvm_ioctls::VmFd;

/// Pins of the IOAPIC, and lines of each of the two PICs.
const IOAPIC_PINS: u32 = 24;
const PIC_LINES: u32 = 8;
/// The first GSI that is no pin's.
pub const FIRST_MESSAGE: u32 = IOAPIC_PINS;

/// The table.
pub struct Routes {
    vm: Arc<VmFd>,
    table: Mutex<Table>,
}

struct Table {
    pins: Vec<kvm_irq_routing_entry>,
    messages: BTreeMap<u32, kvm_irq_routing_entry>,
}

impl Routes {
    /// The table of `vm` whose controllers are in KVM: its pins lead where KVM itself leads them.
    pub fn to_kvm(vm: Arc<VmFd>) -> Self {
        let ioapic = (0..IOAPIC_PINS).map(|pin| pin_route(pin, KVM_IRQCHIP_IOAPIC, pin));
        let master = (0..PIC_LINES).map(|line| pin_route(line, KVM_IRQCHIP_PIC_MASTER, line));
        let slave =
            (0..PIC_LINES).map(|line| pin_route(PIC_LINES + line, KVM_IRQCHIP_PIC_SLAVE, line));
        Self::with(vm, ioapic.chain(master).chain(slave).collect())
    }

    /// The table of `vm` whose IOAPIC is in user space: empty.
    pub fn empty(vm: Arc<VmFd>) -> Self {
        Self::with(vm, Vec::new())
    }

    fn with(vm: Arc<VmFd>, pins: Vec<kvm_irq_routing_entry>) -> Self {
        let messages = BTreeMap::new();
        Self {
            vm,
            table: Mutex::new(Table { pins, messages }),
        }
    }

    /// The pins lead elsewhere.
    ///
    /// # Errors
    ///
    /// The errno of KVM_SET_GSI_ROUTING.
    pub fn set_pins(&self, pins: Vec<kvm_irq_routing_entry>) -> io::Result<()> {
        let mut table = self.lock();
        table.pins = pins;
        self.set(&table)
    }

    /// `gsi` is the message `data` to `address`.
    ///
    /// # Errors
    ///
    /// The errno of KVM_SET_GSI_ROUTING, for a message that cannot be one.
    pub fn set_message(&self, gsi: u32, address: u64, data: u32) -> io::Result<()> {
        let mut route = message_route(gsi, address as u32, data);
        route.u.msi.address_hi = (address >> 32) as u32;
        let mut table = self.lock();
        let old = table.messages.insert(gsi, route);
        self.set(&table).inspect_err(|_| {
            // It is to be no obstacle to others.
            match old {
                Some(old) => table.messages.insert(gsi, old),
                None => table.messages.remove(&gsi),
            };
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("a thread of minivmm has panicked")
    }

    fn set(&self, table: &Table) -> io::Result<()> {
        let mut entries = table.pins.clone();
        entries.extend(table.messages.values());
        let routing = KvmIrqRouting::from_entries(&entries).map_err(io::Error::other)?;
        self.vm.set_gsi_routing(&routing).map_err(io::Error::from)
    }
}

fn pin_route(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut route = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    route.u.irqchip.irqchip = irqchip;
    route.u.irqchip.pin = pin;
    route
}

/// `gsi` as the message `data` to `address`, below 4 GiB.
pub fn message_route(gsi: u32, address: u32, data: u32) -> kvm_irq_routing_entry {
    let mut route = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    route.u.msi.address_lo = address;
    route.u.msi.data = data;
    route
}
