// SPDX-License-Identifier: GPL-2.0

//! What a guest's vCPUs ask the host to do to one another: interrupts for many at once, the end of
//! a halt, a turn for one that waits for a CPU (`Documentation/virt/kvm/x86/hypercalls.rst`).

use arch::apic::{
    Delivery,
    Message, //
};

use crate::{
    host::{
        sched,
        wait, //
    },
    stats::vcpu as stat,
    vm::{
        backend::Backend,
        hypercall::error,
        irq::LocalApic,
        kick::Requests,
        vcpu::Loaded, //
    },
};

impl<B: Backend> Loaded<'_, B> {
    /// KVM_HC_SEND_IPI: what `icr` says to the vCPUs whose APIC id is `min` plus the number of a bit
    /// in `bitmap`. Each half of that has as many bits as a register. Returns how many took it, or
    /// an error.
    pub(crate) fn send_ipis(&self, bitmap: [u64; 2], min: u32, icr: u32) -> u64 {
        /// Destination mode and shorthand: the bitmap says who is meant.
        const RESERVED: u32 = 1 << 11 | 3 << 18;
        if icr & RESERVED != 0 {
            return error::EINVAL;
        }
        let Some(irqchip) = self.vm.irqchip() else {
            return error::EOPNOTSUPP;
        };
        let half = if self.is_64_bit_mode() { 64 } else { 32 };
        let message = Message::from_icr(icr.into(), true);
        let is_meant = |apic: &LocalApic| {
            let bit = apic.lapic.id().wrapping_sub(min);
            if bit < half {
                bitmap[0] >> bit & 1 != 0
            } else {
                bit < 2 * half && bitmap[1] >> (bit - half) & 1 != 0
            }
        };
        irqchip
            .apics()
            .filter(|apic| is_meant(apic))
            .map(|apic| send(apic, &message))
            .sum()
    }

    /// KVM_HC_KICK_CPU: ends the HLT of the vCPU with this APIC id, also if that is yet to come.
    pub(crate) fn kick_apic(&self, id: u32) {
        if let Some(apic) = self.apic_by_id(id) {
            apic.runner.request(Requests::UNHALT);
            self.yield_to(apic);
        }
    }

    /// KVM_HC_SCHED_YIELD: the vCPU with this APIC id may have this one's turn, if it waits for one.
    pub(crate) fn yield_to_apic(&self, id: u32) {
        if let Some(apic) = self.apic_by_id(id) {
            self.yield_to(apic);
        }
    }

    fn yield_to(&self, apic: &LocalApic) {
        self.count(stat::DIRECTED_YIELD_ATTEMPTED);
        let is_self = self.apic().is_some_and(|own| core::ptr::eq(own, apic));
        if !is_self
            && apic.runner.waits_for_cpu()
            && !wait::may_poll()
            && sched::yield_to(apic.runner.thread())
        {
            self.count(stat::DIRECTED_YIELD_SUCCESSFUL);
        }
    }

    fn apic_by_id(&self, id: u32) -> Option<&LocalApic> {
        self.vm
            .irqchip()?
            .apics()
            .find(|apic| apic.lapic.id() == id)
    }
}

/// Hands a message to an APIC. Returns 1 where it was taken, be it not news.
fn send(apic: &LocalApic, message: &Message) -> u64 {
    let is_taken = apic.accept(message, false);
    match message.delivery {
        Delivery::Fixed | Delivery::LowestPriority => apic.lapic.takes_interrupts().into(),
        _ => is_taken.into(),
    }
}
