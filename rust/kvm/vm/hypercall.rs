// SPDX-License-Identifier: GPL-2.0

//! Hypercalls: para-virtualisation by VMCALL (`Documentation/virt/kvm/x86/hypercalls.rst`).

use super::{
    backend::Backend,
    vcpu::{
        Loaded,
        RAX, //
    },
};

/// KVM_HC_VAPIC_POLL_IRQ: does nothing but exit, so that pending interrupts are seen.
const VAPIC_POLL_IRQ: u64 = 1;
/// KVM_ENOSYS, negated: no such hypercall.
const ENOSYS: u64 = -1000i64 as u64;
/// KVM_EPERM, negated: hypercalls are for ring 0.
const EPERM: u64 = -1i64 as u64;

impl<B: Backend> Loaded<'_, B> {
    /// The number is in RAX, and the result goes there.
    pub(crate) fn emulate_hypercall(&mut self) {
        let long = self.is_64_bit_mode();
        let number = if long {
            self.state.regs[RAX]
        } else {
            self.state.regs[RAX] & 0xffff_ffff
        };
        let result = if B::cpl(self) != 0 {
            EPERM
        } else {
            match number {
                VAPIC_POLL_IRQ => 0,
                _ => ENOSYS,
            }
        };
        self.state.regs[RAX] = if long { result } else { result & 0xffff_ffff };
        B::skip_instruction(self);
    }
}
