// SPDX-License-Identifier: GPL-2.0

//! What a transport asks of KVM: doorbells that need no exit to user space, and interrupts that
//! need no system call to KVM.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::devices::irqchip::Routes;

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

    /// Takes [`Self::connect_interrupt`] back. What is added to `event` stays there until it is
    /// connected again.
    fn disconnect_interrupt(&self, event: &EventFd, gsi: u32);

    /// The interrupt line `gsi` is the message `data` to `address`.
    ///
    /// # Errors
    ///
    /// What KVM_SET_GSI_ROUTING says, or that there is nowhere to send it.
    fn set_message(&self, gsi: u32, address: u64, data: u32) -> io::Result<()>;
}

/// KVM.
pub struct KvmBackend {
    /// The VM.
    pub vm: Arc<VmFd>,
    /// Its routes, if it has local APICs.
    pub routes: Option<Arc<Routes>>,
}

impl Backend for KvmBackend {
    fn connect_doorbell(&self, event: &EventFd, doorbell: Doorbell) -> io::Result<()> {
        let address = IoEventAddress::Mmio(doorbell.address);
        match doorbell.value {
            Some(value) => self.vm.register_ioevent(event, &address, value),
            None => self.vm.register_ioevent(event, &address, NoDatamatch),
        }
        .map_err(io::Error::from)
    }

    fn disconnect_doorbell(&self, event: &EventFd, doorbell: Doorbell) {
        let address = IoEventAddress::Mmio(doorbell.address);
        // It fails only for what was not connected, and is then as it should be.
        let _ = match doorbell.value {
            Some(value) => self.vm.unregister_ioevent(event, &address, value),
            None => self.vm.unregister_ioevent(event, &address, NoDatamatch),
        };
    }

    fn connect_interrupt(&self, event: &EventFd, gsi: u32) -> io::Result<()> {
        self.vm.register_irqfd(event, gsi).map_err(io::Error::from)
    }

    fn disconnect_interrupt(&self, event: &EventFd, gsi: u32) {
        // As above.
        let _ = self.vm.unregister_irqfd(event, gsi);
    }

    fn set_message(&self, gsi: u32, address: u64, data: u32) -> io::Result<()> {
        let routes = self.routes.as_ref();
        let routes = routes.ok_or_else(|| io::Error::other("KVM has no local APICs"))?;
        routes.set_message(gsi, address, data)
    }
}

/// A backend for tests that keeps what is connected.
#[cfg(test)]
pub mod recorder {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// It.
    #[derive(Default)]
    pub struct Recorder {
        /// The doorbells that are connected.
        pub doorbells: Mutex<Vec<Doorbell>>,
        /// The interrupt lines that are connected.
        pub interrupts: Mutex<Vec<u32>>,
        /// The message of each line.
        pub messages: Mutex<BTreeMap<u32, (u64, u32)>>,
    }

    impl Backend for Recorder {
        fn connect_doorbell(&self, _event: &EventFd, doorbell: Doorbell) -> io::Result<()> {
            self.doorbells.lock().expect("lock").push(doorbell);
            Ok(())
        }

        fn disconnect_doorbell(&self, _event: &EventFd, doorbell: Doorbell) {
            let mut doorbells = self.doorbells.lock().expect("lock");
            doorbells.retain(|other| *other != doorbell);
        }

        fn connect_interrupt(&self, _event: &EventFd, gsi: u32) -> io::Result<()> {
            self.interrupts.lock().expect("lock").push(gsi);
            Ok(())
        }

        fn disconnect_interrupt(&self, _event: &EventFd, gsi: u32) {
            self.interrupts
                .lock()
                .expect("lock")
                .retain(|other| *other != gsi);
        }

        fn set_message(&self, gsi: u32, address: u64, data: u32) -> io::Result<()> {
            self.messages
                .lock()
                .expect("lock")
                .insert(gsi, (address, data));
            Ok(())
        }
    }
}
