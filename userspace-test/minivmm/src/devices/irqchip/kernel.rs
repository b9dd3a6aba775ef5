// SPDX-License-Identifier: GPL-2.0

//! Controllers that KVM has: minivmm only moves their input lines.

use std::sync::Arc;

use kvm_ioctls::VmFd;

use super::routes::Routes;

/// The lines into KVM's controllers.
///
/// # Invariants
///
/// The VM has in-kernel controllers, by KVM_CREATE_IRQCHIP.
pub struct Kernel {
    vm: Arc<VmFd>,
    routes: Arc<Routes>,
}

impl Kernel {
    /// The lines of `vm`, which has had its KVM_CREATE_IRQCHIP.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self {
            routes: Arc::new(Routes::to_kvm(Arc::clone(&vm))),
            vm,
        }
    }

    /// KVM's table of routes.
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// An edge on an ISA interrupt line (api.rst, 4.25 KVM_IRQ_LINE).
    pub fn pulse(&self, irq: u8) {
        self.set_line(irq, true);
        self.set_line(irq, false);
    }

    /// The level of an interrupt line.
    pub fn set_line(&self, line: u8, level: bool) {
        self.vm
            .set_irq_line(line.into(), level)
            .expect("KVM has the controllers, so it has their lines");
    }
}
