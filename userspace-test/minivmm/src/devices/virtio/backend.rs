// SPDX-License-Identifier: GPL-2.0

//! What a transport asks of KVM: doorbells that need no exit to user space, and interrupts that
//! need no system call to KVM.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

/// A store of the guest's that rings: its address, and for what value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Doorbell {
    /// Guest-physical address.
    pub address: u64,
    /// Only for this value of 32 bits; a store of any size and value if not given.
    pub value: Option<u32>,
}

/// Where doorbells and interrupts are connected. KVM, but for tests.
pub trait Backend: Send + Sync {
    /// A store to `doorbell` adds one to `event`.
    ///
    /// # Errors
    ///
    /// What KVM_IOEVENTFD says.
    fn connect_doorbell(&self, event: &EventFd, doorbell: Doorbell) -> io::Result<()>;

    /// Takes [`Self::connect_doorbell`] back.
    fn disconnect_doorbell(&self, event: &EventFd, doorbell: Doorbell);

    /// What is added to `event` is an edge on the interrupt line `gsi`.
    ///
    /// # Errors
    ///
    /// What KVM_IRQFD says.
    fn connect_interrupt(&self, event: &EventFd, gsi: u32) -> io::Result<()>;
}

/// KVM.
pub struct KvmBackend(pub Arc<VmFd>);

impl Backend for KvmBackend {
    fn connect_doorbell(&self, event: &EventFd, doorbell: Doorbell) -> io::Result<()> {
        let address = IoEventAddress::Mmio(doorbell.address);
        match doorbell.value {
            Some(value) => self.0.register_ioevent(event, &address, value),
            None => self.0.register_ioevent(event, &address, NoDatamatch),
        }
        .map_err(io::Error::from)
    }

    fn disconnect_doorbell(&self, event: &EventFd, doorbell: Doorbell) {
        let address = IoEventAddress::Mmio(doorbell.address);
        // It fails only for what was not connected, and is then as it should be.
        let _ = match doorbell.value {
            Some(value) => self.0.unregister_ioevent(event, &address, value),
            None => self.0.unregister_ioevent(event, &address, NoDatamatch),
        };
    }

    fn connect_interrupt(&self, event: &EventFd, gsi: u32) -> io::Result<()> {
        self.0.register_irqfd(event, gsi).map_err(io::Error::from)
    }
}
