// SPDX-License-Identifier: GPL-2.0

//! The local APIC of a vCPU, as the threads that send it interrupts see it.
//!
//! What is behind the registers is `arch::apic`. Anybody may hand it an interrupt at any time;
//! everything else is done by the vCPU's own thread.

use core::sync::atomic::{
    AtomicU8,
    Ordering, //
};

use arch::apic::{
    Acceptance,
    Delivery,
    Features,
    Lapic,
    Message, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::super::kick::{
    Requests,
    Runner, //
};
use crate::host::{
    page::ApicPage,
    timer::{
        self,
        Timer, //
    },
};

/// A local APIC, and the way to the vCPU behind it.
#[pin_data]
pub(crate) struct LocalApic {
    pub(crate) lapic: Lapic<ApicPage>,
    pub(crate) runner: Arc<Runner>,
    /// Where the last start-up IPI sends the vCPU: a page number.
    sipi_vector: AtomicU8,
    /// Expires when the APIC timer's count reaches zero, or the TSC its deadline.
    #[pin]
    pub(crate) timer: Timer<Tick>,
}

/// What the APIC timer does to its vCPU: it has the thread see to it.
pub(crate) struct Tick(Arc<Runner>);

impl timer::Target for Tick {
    fn expired(&self, _now: u64) -> Option<u64> {
        // A periodic timer is started again by the vCPU's thread: one that does not run is not
        // interrupted for ticks that it would miss anyway.
        self.0.request(Requests::APIC_TIMER);
        None
    }
}

impl LocalApic {
    /// The APIC of vCPU `id`, as after power-up.
    pub(crate) fn new(
        id: u32,
        is_bsp: bool,
        features: Features,
        runner: Arc<Runner>,
    ) -> Result<Arc<Self>> {
        let lapic = Lapic::new(ApicPage::new()?, id, is_bsp, features);
        let tick = Tick(runner.clone());
        Arc::pin_init(
            try_pin_init!(Self {
                lapic: lapic,
                runner: runner,
                sipi_vector: AtomicU8::new(0),
                timer <- Timer::new(tick),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Takes a message that is for this APIC. Returns whether it did.
    pub(crate) fn accept(&self, message: &Message) -> bool {
        if message.is_deassert() {
            return true;
        }
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                self.accept_fixed(message.vector, message.level)
            }
            Delivery::Nmi => {
                self.runner.request(Requests::NMI);
                true
            }
            Delivery::Init => {
                // A start-up IPI that came before means nothing any more.
                self.runner.take_requests(Requests::SIPI);
                self.runner.request(Requests::INIT);
                true
            }
            Delivery::StartUp => {
                self.sipi_vector.store(message.vector, Ordering::Relaxed);
                self.runner.request(Requests::SIPI);
                true
            }
            Delivery::Smi | Delivery::ExtInt | Delivery::Reserved => false,
        }
    }

    /// Takes an interrupt. Returns whether it did, be it merged with one that waits.
    #[inline]
    pub(crate) fn accept_fixed(&self, vector: u8, level: bool) -> bool {
        let acceptance = self.lapic.accept(vector, level);
        if acceptance == Acceptance::New {
            self.runner.kick();
        }
        acceptance != Acceptance::Refused
    }

    /// Where the last start-up IPI sends the vCPU.
    pub(crate) fn sipi_vector(&self) -> u8 {
        self.sipi_vector.load(Ordering::Relaxed)
    }

    /// As if a start-up IPI had come (KVM_SET_VCPU_EVENTS).
    pub(crate) fn set_sipi_vector(&self, vector: u8) {
        self.sipi_vector.store(vector, Ordering::Relaxed);
    }
}
