// SPDX-License-Identifier: GPL-2.0

//! The end of an interrupt: what the chips make of it, and who else wants to know.

use core::sync::atomic::Ordering;

use arch::ioapic::{
    self,
    Ioapic, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    super::{
        local_apic::LocalApic,
        routing::{
            Routes,
            Target,
            IOAPIC_PINS, //
        },
    },
    Irqchip,
    Mode,
    Outbox, //
};
use crate::host::{
    clock,
    trace::kvm_ack_irq, //
};

/// Who wants to know that a guest is done with a level-triggered interrupt.
pub(crate) trait AckNotifier: Send + Sync {
    /// The guest signalled the end of the interrupt that line `gsi` had raised. No lock is held, and
    /// nothing here may sleep.
    fn acknowledged(&self, gsi: u32);
}

impl Irqchip {
    /// Whether the end of an interrupt is dealt with in a time that interrupts may be off.
    pub(crate) fn ends_quickly(&self) -> bool {
        self.is_small() && !self.many_listen.load(Ordering::Relaxed)
    }

    /// Notes whether there are so many that want to know of an interrupt's end that it takes long.
    pub(crate) fn set_many_listen(&self, many: bool) {
        self.many_listen.store(many, Ordering::Relaxed);
    }

    /// A guest signals the end of an interrupt that was level-triggered. With interrupts off only
    /// where [`Self::ends_quickly`].
    pub(crate) fn end_of_interrupt(&self, vector: u8) {
        let pins = self.chips.lock().ioapic.pins_of(vector);
        tell_of_ends(pins, |_| CHIP_IOAPIC);
        self.notify(|routes| lines_of(pins, |pin| routes.gsi_of(Target::Ioapic(pin))));
        let mut outbox = Outbox::default();
        let mut chips = self.chips.lock();
        let storm = chips.ioapic.eoi(pins, |message| {
            self.deliver_from_ioapic(message, |message| outbox.add(message))
        });
        drop(chips);
        self.deliver_all(&outbox);
        if storm {
            let later = clock::monotonic().saturating_add(ioapic::REINJECT_DELAY);
            self.storm.start(later);
        }
    }

    /// Whether the IOAPIC is told of the end of an interrupt of this vector, whatever its trigger.
    #[inline]
    pub(crate) fn watches(&self, vector: u8) -> bool {
        self.watched
            .get(usize::from(vector >> 6))
            .is_some_and(|word| word.load(Ordering::Relaxed) & 1 << (vector & 63) != 0)
    }

    /// Those vectors, a bit each.
    pub(crate) fn watched(&self) -> [u64; 4] {
        core::array::from_fn(|i| {
            self.watched
                .get(i)
                .map_or(0, |word| word.load(Ordering::Relaxed))
        })
    }

    /// Takes over which vectors' ends the IOAPIC is told of. Returns whether that changed: then
    /// [`Self::tell_of_watched`] is due.
    pub(super) fn update_watched(&self, ioapic: &Ioapic) -> bool {
        /// Where the timer chip is wired to in the two usual ways, and the real-time clock.
        const PINS: [u8; 3] = [0, 2, ioapic::RTC_PIN];
        let mut watched = [0u64; 4];
        for pin in 0..IOAPIC_PINS as u8 {
            let Some(entry) = ioapic.entry(pin) else {
                continue;
            };
            let ends_here = entry.is_level() || PINS.contains(&pin) && !entry.is_masked();
            if ends_here {
                let vector = entry.vector();
                watched[usize::from(vector >> 6)] |= 1 << (vector & 63);
            }
        }
        let mut changed = false;
        for (word, new) in self.watched.iter().zip(watched) {
            changed |= word.swap(new, Ordering::Relaxed) != new;
        }
        changed
    }

    /// Has all processors hear of it.
    pub(super) fn tell_of_watched(&self) {
        self.apics().for_each(LocalApic::watched_changed);
    }

    pub(super) fn notify_pic(&self, pins: u16) {
        if pins != 0 {
            tell_of_ends(pins.into(), |pin| pin >> 3);
            self.notify(|routes| lines_of(pins.into(), |pin| routes.gsi_of(Target::Pic(pin))));
        }
    }

    /// Tells whoever asked that interrupts of these lines have ended.
    fn notify(&self, lines: impl FnOnce(&Routes) -> [Option<u32>; IOAPIC_PINS as usize]) {
        if self.notifiers.lock().is_empty() {
            return;
        }
        let lines = lines(&self.routes.lock());
        for gsi in lines.into_iter().flatten() {
            let mut i = 0;
            loop {
                // One at a time, for what it does not to happen under the lock.
                let notifier = self.notifiers.lock().get(i).cloned();
                let Some(notifier) = notifier else {
                    break;
                };
                notifier.acknowledged(gsi);
                i += 1;
            }
        }
    }

    /// Has `notifier` told of interrupts that have ended.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn add_notifier(&self, notifier: Arc<dyn AckNotifier>) -> Result {
        let count = self.notifiers.lock().len();
        let mut grown = KVec::with_capacity(count + 8, GFP_KERNEL_ACCOUNT)?;
        let mut list = self.notifiers.lock();
        for old in list.iter() {
            grown.push(old.clone(), GFP_ATOMIC)?;
        }
        grown.push(notifier, GFP_ATOMIC)?;
        core::mem::swap(&mut *list, &mut grown);
        drop(list);
        Ok(())
    }

    /// Takes it back.
    pub(crate) fn remove_notifier(&self, notifier: &Arc<dyn AckNotifier>) {
        let mut list = self.notifiers.lock();
        let place = list.iter().position(|other| Arc::ptr_eq(other, notifier));
        let removed = place.and_then(|place| list.remove(place).ok());
        drop(list);
        drop(removed);
    }

    /// Whether the end of an interrupt of this vector is a matter for the VMM's IOAPIC.
    pub(crate) fn vmm_wants_eoi(&self, apic: &LocalApic, vector: u8) -> bool {
        let Mode::Split { pins } = self.mode else {
            return false;
        };
        // Some at a time, since interrupts are off under the lock.
        (0..pins).step_by(LINES_AT_ONCE).any(|first| {
            let lines = first..pins.min(first + LINES_AT_ONCE as u32);
            self.routes.lock().messages(lines).any(|(address, data)| {
                let message = self.msi(address, data);
                message.level && message.vector == vector && apic.lapic.matches(&message, false)
            })
        })
    }
}

/// Lines that are looked at under the lock of the routing table.
const LINES_AT_ONCE: usize = 64;

/// KVM_IRQCHIP_IOAPIC; the PICs are 0 and 1.
const CHIP_IOAPIC: u32 = 2;

/// Tells whoever listens of the ends of interrupts that come from `pins`, each of the chip that
/// `chip_of` names.
fn tell_of_ends(pins: u32, chip_of: impl Fn(u32) -> u32) {
    if !kvm_ack_irq::is_on() {
        return;
    }
    for pin in (0..u32::BITS).filter(|pin| pins >> pin & 1 != 0) {
        let chip = chip_of(pin);
        kvm_ack_irq::emit(chip, if chip == CHIP_IOAPIC { pin } else { pin & 7 });
    }
}

/// What `line` says of each pin whose bit is set.
fn lines_of(pins: u32, line: impl Fn(u8) -> Option<u32>) -> [Option<u32>; IOAPIC_PINS as usize] {
    core::array::from_fn(|pin| {
        if pins & 1 << pin != 0 {
            line(pin as u8)
        } else {
            None
        }
    })
}
