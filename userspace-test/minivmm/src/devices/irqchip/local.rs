// SPDX-License-Identifier: GPL-2.0

//! A CPU's local APIC in user space: an xAPIC, and what came to it that is no interrupt.

use arch::apic::{
    Acceptance, Delivery, Features, Lapic, Lvt, Message, Registers, Timer, MIN_PERIOD,
};

use crate::boot::cpuid::APIC_BUS_CYCLE;

/// Something other than an interrupt that comes to a CPU by its APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// INIT: it is reset, and waits for its start.
    Init,
    /// Start-up: it runs from this page of memory.
    StartUp(u8),
    /// A non-maskable interrupt.
    Nmi,
}

/// One CPU's local APIC.
pub struct LocalApic {
    /// The registers.
    pub apic: Lapic<Box<Registers>>,
    /// The timer.
    pub timer: Timer,
    init: bool,
    start_up: Option<u8>,
    nmi: bool,
    /// Not waiting for a start-up message.
    started: bool,
}

impl LocalApic {
    /// The APIC with ID `id` after power-on. The CPU with ID 0 starts by itself.
    pub fn new(id: u8) -> Self {
        let bsp = id == 0;
        Self {
            apic: Lapic::new(
                Box::new(Registers::new()),
                id.into(),
                bsp,
                Features::LINT0_EXTINT,
            ),
            timer: Timer::new(APIC_BUS_CYCLE, MIN_PERIOD),
            init: false,
            start_up: None,
            nmi: false,
            started: bsp,
        }
    }

    /// Whether the CPU runs: it does not wait for a start-up message.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// Takes a message that is for this APIC; says whether it makes a difference.
    pub fn take(&mut self, message: &Message) -> bool {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                self.apic.accept(message.vector, message.level) == Acceptance::New
            }
            Delivery::Nmi => {
                self.nmi = true;
                true
            }
            Delivery::Init => {
                self.init = true;
                true
            }
            // A CPU that runs ignores it, and so does one that has its start already.
            Delivery::StartUp if (self.init || !self.started) && self.start_up.is_none() => {
                self.start_up = Some(message.vector);
                true
            }
            Delivery::StartUp | Delivery::ExtInt | Delivery::Smi | Delivery::Reserved => false,
        }
    }

    /// Whether [`Self::take_event`] has one.
    pub fn has_event(&self) -> bool {
        self.init || !self.started && self.start_up.is_some() || self.started && self.nmi
    }

    /// The next event for the CPU.
    pub fn take_event(&mut self) -> Option<Event> {
        if self.init {
            self.init = false;
            self.nmi = false;
            self.started = false;
            self.apic.init_reset();
            self.timer.reset();
            return Some(Event::Init);
        }
        if !self.started {
            let page = self.start_up.take()?;
            self.started = true;
            return Some(Event::StartUp(page));
        }
        self.nmi.then(|| {
            self.nmi = false;
            Event::Nmi
        })
    }

    /// Has the timer interrupt if it is due at `now`.
    pub fn pass_time(&mut self, now: u64) {
        if self
            .timer
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.timer.expire(now);
            if let Some(local) = self.apic.local(Lvt::Timer) {
                self.apic.accept(local.vector, local.level);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(delivery: Delivery, vector: u8) -> Message {
        Message {
            delivery,
            ..Message::to_itself(vector)
        }
    }

    #[test]
    fn an_application_processor_starts_by_init_and_sipi() {
        let mut local = LocalApic::new(1);
        assert!(!local.is_started());
        assert!(local.take(&message(Delivery::Init, 0)));
        assert!(local.take(&message(Delivery::StartUp, 0x9a)));
        assert!(
            !local.take(&message(Delivery::StartUp, 0x9a)),
            "the second SIPI counts"
        );
        assert_eq!(local.take_event(), Some(Event::Init));
        assert_eq!(local.take_event(), Some(Event::StartUp(0x9a)));
        assert_eq!(local.take_event(), None);
        assert!(local.is_started());
        assert!(
            !local.take(&message(Delivery::StartUp, 0x10)),
            "a running CPU starts again"
        );
    }

    #[test]
    fn a_running_processor_is_stopped_by_init() {
        let mut local = LocalApic::new(0);
        assert!(local.is_started());
        local.take(&message(Delivery::Init, 0));
        assert!(local.has_event());
        assert_eq!(local.take_event(), Some(Event::Init));
        assert!(!local.is_started() && !local.has_event());
    }

    #[test]
    fn an_nmi_waits_for_the_start_and_comes_once() {
        let mut local = LocalApic::new(1);
        local.take(&message(Delivery::Nmi, 2));
        assert!(!local.has_event());
        local.take(&message(Delivery::StartUp, 1));
        assert_eq!(local.take_event(), Some(Event::StartUp(1)));
        assert_eq!(local.take_event(), Some(Event::Nmi));
        assert_eq!(local.take_event(), None);
    }
}
