// SPDX-License-Identifier: GPL-2.0

//! How long a message may take where interrupts are off.
//!
//! A VM can have a thousand local APICs, and one message can be for all of them. Where interrupts are
//! off, under the lock of the chips above all, only a message for a few is handed over; others wait
//! until interrupts are on again.

use arch::{
    apic::{
        Destination,
        Message, //
    },
    ioapic::PINS, //
};

use super::{
    super::{
        local_apic::LocalApic,
        routing::Target, //
    },
    Irqchip,
    FEW_VCPUS, //
};

/// APICs that take a message one after another with interrupts off. Each may wake a thread.
pub(super) const FEW_TARGETS: usize = 8;

impl Irqchip {
    /// Whether the VM is so small that nothing here takes long.
    #[inline]
    pub(crate) fn is_small(&self) -> bool {
        self.count() <= FEW_TARGETS
    }

    /// Whether it takes not long to look at each APIC.
    pub(crate) fn has_few(&self) -> bool {
        self.count() <= FEW_VCPUS
    }

    /// Whether a message may be handed over with interrupts off; `from` sends it.
    #[inline]
    pub(crate) fn is_quick(&self, from: Option<&LocalApic>, message: &Message) -> bool {
        self.is_small() || self.is_for_few(from, message)
    }

    fn is_for_few(&self, from: Option<&LocalApic>, message: &Message) -> bool {
        matches!(message.destination, Destination::Itself)
            || self.only_target(message).is_some()
            || self.has_few()
                && (message.is_lowest_priority()
                    || self.targets(from, message).nth(FEW_TARGETS).is_none())
    }

    /// Whether a line may be raised with interrupts off.
    #[inline]
    pub(crate) fn is_quick_line(&self, gsi: u32) -> bool {
        self.is_small() || self.leads_to_few(gsi)
    }

    fn leads_to_few(&self, gsi: u32) -> bool {
        self.routes
            .lock()
            .of(gsi)
            .iter()
            .all(|route| match route.target {
                Target::Pic(_) => true,
                Target::Ioapic(pin) => {
                    let entry = self.chips.lock().ioapic.entry(pin);
                    entry.is_none_or(|entry| self.is_quick(None, &entry.message()))
                }
                Target::Msi { address, data } => self.is_quick(None, &self.msi(address, data)),
            })
    }
}

/// Messages that the IOAPIC sent and that wait until its lock is free.
#[derive(Default)]
pub(super) struct Outbox {
    messages: [Option<Message>; PINS],
    used: usize,
}

impl Outbox {
    /// Takes a message; each pin sends one at most.
    #[cold]
    pub(super) fn add(&mut self, message: &Message) {
        if let Some(place) = self.messages.get_mut(self.used) {
            *place = Some(*message);
            self.used += 1;
        }
    }

    /// The messages, in their order.
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().map_while(Option::as_ref)
    }
}
