// SPDX-License-Identifier: GPL-2.0

//! Exceptions, interrupts and NMIs on their way into the guest.
//!
//! An event is *pending* until an entry injects it, and *injected* until the guest has taken it; an
//! exit in the middle of its delivery leaves it injected, and the next entry delivers it again.

use arch::{
    exception::{
        Exception,
        Outcome, //
    },
    rflags::Rflags, //
};

use super::{
    backend::Backend,
    options::Switches,
    vcpu::Loaded, //
};
use crate::host::guest_mode::GuestMode;

/// KVM_X86_SHADOW_INT_MOV_SS and KVM_X86_SHADOW_INT_STI.
pub(crate) const SHADOW_MOV_SS: u8 = 1;
/// See [`SHADOW_MOV_SS`].
pub(crate) const SHADOW_STI: u8 = 2;

/// An event as an entry injects it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A hardware exception.
    Exception { vector: u8, error_code: Option<u32> },
    /// INT3, INTO or INT1, which advance RIP by `length`.
    SoftwareException { vector: u8, length: u8 },
    /// An external interrupt.
    Interrupt { vector: u8 },
    /// INT n, which advances RIP by `length`.
    SoftwareInterrupt { vector: u8, length: u8 },
    /// An NMI.
    Nmi,
}

/// An exception that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) vector: u8,
    pub(crate) error_code: Option<u32>,
    /// What DR6 or CR2 takes when the exception is delivered.
    pub(crate) payload: Option<u64>,
}

/// The events of a vCPU.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Events {
    /// An interrupt that the VMM queued (KVM_INTERRUPT), or one of the PICs that was acknowledged ahead
    /// of the entry.
    pub(crate) interrupt: Option<u8>,
    /// An exception that no entry has injected.
    pub(crate) exception: Option<Queued>,
    /// The event whose delivery the last exit cut short.
    pub(crate) injected: Option<Event>,
    /// NMIs that wait: two at most, as in hardware.
    pub(crate) nmi_pending: u8,
    /// The guest triple-faulted while something was delivered here.
    pub(crate) triple_fault: bool,
}

impl Events {
    /// Whether an entry has anything to look after.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.injected.is_some()
            || self.interrupt.is_some()
            || self.exception.is_some()
            || self.nmi_pending != 0
    }

    /// Queues an interrupt of the VMM's own interrupt controller, in the place of one that is under
    /// way.
    pub(crate) fn queue_interrupt(&mut self, vector: u8) {
        if matches!(
            self.injected,
            Some(Event::Interrupt { .. } | Event::SoftwareInterrupt { .. })
        ) {
            self.injected = None;
        }
        self.interrupt = Some(vector);
    }

    /// Queues an exception; one that is on its way makes it a double fault, or a triple fault
    /// (SDM vol. 3, 6.15, table 6-5).
    pub(crate) fn queue_exception(
        &mut self,
        vector: u8,
        error_code: Option<u32>,
        payload: Option<u64>,
    ) {
        let first = match (self.exception, self.injected) {
            (Some(queued), _) => Some(queued.vector),
            (None, Some(Event::Exception { vector, .. })) => Some(vector),
            _ => None,
        };
        let outcome = match (
            first.and_then(Exception::from_vector),
            Exception::from_vector(vector),
        ) {
            (Some(first), Some(second)) => first.followed_by(second),
            _ => Outcome::Serial,
        };
        match outcome {
            Outcome::Serial => {
                self.injected = match self.injected {
                    Some(Event::Exception { .. }) => None,
                    other => other,
                };
                self.exception = Some(Queued {
                    vector,
                    error_code,
                    payload,
                });
            }
            Outcome::DoubleFault => {
                self.injected = None;
                self.exception = Some(Queued {
                    vector: Exception::DoubleFault.vector(),
                    error_code: Some(0),
                    payload: None,
                });
            }
            Outcome::TripleFault => self.triple_fault = true,
        }
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// Queues #GP(0).
    pub(crate) fn queue_gp(&mut self) {
        self.state.events.queue_exception(13, Some(0), None);
    }

    /// Queues #UD.
    pub(crate) fn queue_ud(&mut self) {
        self.state.events.queue_exception(6, None, None);
    }

    /// The interrupt that is on its way, if any.
    pub(crate) fn queued_interrupt(&self) -> Option<u8> {
        match self.state.events.injected {
            Some(Event::Interrupt { vector }) => Some(vector),
            _ => self.state.events.interrupt,
        }
    }

    /// Queues an NMI: one that is being handled, and one behind it; more are lost.
    pub(crate) fn queue_nmi(&mut self) {
        self.state.events.nmi_pending += 1;
        self.limit_nmis();
    }

    /// Forgets NMIs that have no place to wait.
    pub(crate) fn limit_nmis(&mut self) {
        let handled = B::nmi_masked(self) || self.state.events.injected == Some(Event::Nmi);
        let limit = if handled { 1 } else { 2 };
        let pending = &mut self.state.events.nmi_pending;
        *pending = (*pending).min(limit);
    }

    /// Whether the guest could take an interrupt.
    pub(crate) fn interrupts_enabled(&self) -> bool {
        B::rflags(self) & Rflags::IF.bits() != 0 && B::interrupt_shadow(self) == 0
    }

    /// Whether the VMM may inject an interrupt with KVM_INTERRUPT now: where the PICs are its own.
    pub(crate) fn ready_for_interrupt(&self) -> bool {
        if !self.has_vmm_pics() {
            return true;
        }
        let events = &self.state.events;
        self.accepts_vmm_interrupt()
            && events.injected.is_none()
            && events.interrupt.is_none()
            && events.exception.is_none()
            && self.interrupts_enabled()
    }

    /// Hands the next event to the entry and opens the windows that the others wait for.
    ///
    /// `wants_window` says that the VMM waits to inject an interrupt.
    pub(crate) fn inject_events(&mut self, wants_window: bool, guest_mode: &GuestMode<'_>) {
        if let Some(event) = self.state.events.injected {
            B::inject(self, &event);
        } else if let Some(vector) = self.state.events.interrupt.take() {
            let event = Event::Interrupt { vector };
            self.state.events.injected = Some(event);
            B::inject(self, &event);
        } else if let Some(queued) = self.state.events.exception.take() {
            self.deliver_payload(&queued);
            if queued.vector == Exception::Debug.vector() {
                self.clear_general_detect();
            }
            if queued.vector == Exception::PageFault.vector() && queued.payload.is_some() {
                B::load_cr2(guest_mode, self.state.cr2);
            }
            let event = Event::Exception {
                vector: queued.vector,
                error_code: queued.error_code,
            };
            self.state.events.injected = Some(event);
            B::inject(self, &event);
        } else if self.state.dr.blocks_interrupts() {
            // A window would open at once, again and again.
            B::set_nmi_window(self, false);
            B::set_interrupt_window(self, false);
            return;
        } else if self.state.events.nmi_pending != 0
            && !B::nmi_masked(self)
            && B::interrupt_shadow(self) == 0
        {
            self.state.events.nmi_pending -= 1;
            self.state.events.injected = Some(Event::Nmi);
            B::inject(self, &Event::Nmi);
        } else if self.has_interrupt() && self.interrupts_enabled() {
            if let Some(vector) = self.take_interrupt() {
                let event = Event::Interrupt { vector };
                self.state.events.injected = Some(event);
                B::inject(self, &event);
            }
        }
        B::set_nmi_window(self, self.state.events.nmi_pending != 0);
        B::set_interrupt_window(self, wants_window || self.has_interrupt());
    }

    /// Delivers the payload of an exception that waits, where the VMM cannot carry one
    /// (api.rst, 7.14 KVM_CAP_EXCEPTION_PAYLOAD), before it looks at registers or events.
    pub(crate) fn show_payload(&mut self) {
        if self.vm.options.has(Switches::EXCEPTION_PAYLOAD) {
            return;
        }
        if let Some(queued) = self.state.events.exception.as_mut() {
            let delivered = *queued;
            queued.payload = None;
            self.deliver_payload(&delivered);
        }
    }

    /// What an exception leaves in DR6 or CR2 as it is delivered.
    pub(crate) fn deliver_payload(&mut self, queued: &Queued) {
        let Some(payload) = queued.payload else {
            return;
        };
        match Exception::from_vector(queued.vector) {
            Some(Exception::Debug) => self.state.dr.add_to_dr6(payload),
            Some(Exception::PageFault) => self.state.cr2 = payload,
            _ => {}
        }
    }
}
