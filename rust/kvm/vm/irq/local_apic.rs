// SPDX-License-Identifier: GPL-2.0

//! The local APIC of a vCPU, as the threads that send it interrupts see it.
//!
//! What is behind the registers is `arch::apic`. Anybody may hand it an interrupt at any time;
//! everything else is done by the vCPU's own thread.

use core::sync::atomic::{
    AtomicBool,
    AtomicU8,
    Ordering, //
};

use arch::{
    addr::Hpa,
    apic::{
        Acceptance,
        Delivery,
        Features,
        Lapic,
        Message, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::super::kick::{
    Requests,
    Runner, //
};
use super::posted::Posted;
use crate::host::{
    page::ApicPage,
    timer::{
        self,
        Timer, //
    },
    trace::trace, //
};

/// A local APIC, and the way to the vCPU behind it.
#[pin_data]
pub(crate) struct LocalApic {
    pub(crate) lapic: Lapic<ApicPage>,
    /// Where its registers are, for the processor.
    pub(crate) page_hpa: Hpa,
    pub(crate) runner: Arc<Runner>,
    /// Where others leave interrupts that the processor is to take by itself.
    posted: Option<Posted>,
    /// Whether they do.
    posting: AtomicBool,
    /// Whether the processor has yet to be told of changes in the registers.
    stale: AtomicBool,
    /// Where the last start-up IPI sends the vCPU: a page number.
    sipi_vector: AtomicU8,
    /// Expires when the APIC timer's count reaches zero, or the TSC its deadline.
    #[pin]
    pub(crate) timer: Timer<Tick>,
}

/// What the APIC timer does to its vCPU: it has the thread see to it.
pub(crate) struct Tick(Arc<Runner>);

impl timer::Target for Tick {
    const TAKES_NO_LOCK: bool = true;

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
        can_post: bool,
    ) -> Result<Arc<Self>> {
        let posted = if can_post { Some(Posted::new()?) } else { None };
        let page = ApicPage::new()?;
        let page_hpa = page.hpa();
        let lapic = Lapic::new(page, id, is_bsp, features);
        let tick = Tick(runner.clone());
        Arc::pin_init(
            try_pin_init!(Self {
                lapic: lapic,
                page_hpa: page_hpa,
                runner: runner,
                posted: posted,
                posting: AtomicBool::new(false),
                stale: AtomicBool::new(true),
                sipi_vector: AtomicU8::new(0),
                timer <- Timer::new(tick),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Takes a message that is for this APIC. Returns whether it did.
    /// `ends_here` says that somebody waits for its end though it is edge-triggered.
    pub(crate) fn accept(&self, message: &Message, ends_here: bool) -> bool {
        if message.is_deassert() {
            return true;
        }
        trace!(kvm_apic_accept_irq(
            self.lapic.id(),
            (message.delivery as u16) << 8,
            message.level,
            message.vector
        ));
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                self.accept_fixed(message.vector, message.level, ends_here || message.level)
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

    /// Takes an interrupt. Returns whether it did, be it merged with one that waits. With
    /// `ends_here` the guest is got out of non-root operation, for its end to be seen.
    #[inline]
    pub(crate) fn accept_fixed(&self, vector: u8, level: bool, ends_here: bool) -> bool {
        match &self.posted {
            Some(posted) if self.posting.load(Ordering::Relaxed) => {
                if !self.lapic.accept_posted(vector, level) {
                    return false;
                }
                if posted.post(vector) || ends_here {
                    if ends_here {
                        self.runner.kick();
                    } else {
                        self.runner.notify();
                    }
                }
                true
            }
            _ => {
                let acceptance = self.lapic.accept(vector, level);
                if acceptance == Acceptance::New {
                    self.runner.kick();
                }
                acceptance != Acceptance::Refused
            }
        }
    }

    /// Takes an interrupt that the vCPU's own thread has for it.
    #[inline]
    pub(crate) fn accept_own(&self, vector: u8, level: bool) {
        trace!(kvm_apic_accept_irq(self.lapic.id(), 0, level, vector));
        self.lapic.accept(vector, level);
        self.set_stale();
    }

    /// The processor has to be told of changes in the registers.
    #[inline]
    pub(crate) fn set_stale(&self) {
        self.stale.store(true, Ordering::Relaxed);
    }

    /// The ends of other interrupts are to be seen than before. A processor that ends interrupts by
    /// itself has to know before it next does.
    pub(crate) fn watched_changed(&self) {
        if self.posting.load(Ordering::Relaxed) {
            self.set_stale();
            self.runner.kick();
        }
    }

    /// Takes into the registers what others left. For the vCPU's own thread.
    #[inline]
    pub(crate) fn take_posted(&self) {
        if let Some(requests) = self.posted.as_ref().and_then(Posted::take) {
            self.lapic.accept_requests(&requests);
            self.set_stale();
        }
    }

    /// Whether the processor has to be told of changes in the registers; from now on it was.
    #[inline]
    pub(crate) fn take_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed) && self.stale.swap(false, Ordering::Relaxed)
    }

    /// Where others leave interrupts, if they can.
    pub(crate) fn posted(&self) -> Option<&Posted> {
        self.posted.as_ref()
    }

    /// Has the processor deliver interrupts from the registers by itself, or not.
    pub(crate) fn set_hardware_delivery(&self, on: bool) {
        if self.lapic.is_hardware_delivery() == on {
            return;
        }
        self.take_posted();
        self.lapic.set_hardware_delivery(on);
        self.posting.store(on, Ordering::SeqCst);
        self.set_stale();
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
