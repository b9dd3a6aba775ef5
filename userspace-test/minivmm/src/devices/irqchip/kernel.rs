// SPDX-License-Identifier: GPL-2.0

//! Controllers that KVM has: minivmm only moves their input lines.

use std::sync::Arc;

use kvm_ioctls::VmFd;

/// The lines into KVM's controllers.
///
/// # Invariants
///
/// The VM has in-kernel controllers, by KVM_CREATE_IRQCHIP.
pub struct Kernel {
    vm: Arc<VmFd>,
}

impl Kernel {
    /// The lines of `vm`, which has had its KVM_CREATE_IRQCHIP.
    pub fn new(vm: Arc<VmFd>) -> Self {
        Self { vm }
    }

    /// An edge on an ISA interrupt line (api.rst, 4.25 KVM_IRQ_LINE).
    pub fn pulse(&self, irq: u8) {
        for level in [true, false] {
            self.vm
                .set_irq_line(irq.into(), level)
                .expect("KVM has the controllers, so it has their lines");
        }
    }
}
