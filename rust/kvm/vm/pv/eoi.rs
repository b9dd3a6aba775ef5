// SPDX-License-Identifier: GPL-2.0

//! An end of interrupt without an exit (Linux, `Documentation/virt/kvm/x86/msr.rst`,
//! MSR_KVM_PV_EOI_EN).
//!
//! Where nothing depends on when an interrupt ends, an entry sets a bit in the guest's memory. The
//! guest may then clear the bit instead of writing the APIC's EOI register; the next exit that is
//! not served on the spot sees which of the two it was, and takes the bit back. Something depends
//! on it where another interrupt waits: then the guest has to exit for its EOI. Whether the one that
//! is requested now is alone shows when it is injected ([`Loaded::must_withdraw_pv_eoi`]).

use arch::addr::Gpa;
use kernel::prelude::*;

use crate::vm::{
    backend::Backend,
    vcpu::Loaded, //
};

/// Bit 0 of the MSR.
const ENABLED: u64 = 1;
/// KVM_PV_EOI_ENABLED: the guest may clear this for an EOI.
const MAY_SKIP: u8 = 1;

impl<B: Backend> Loaded<'_, B> {
    /// MSR_KVM_PV_EOI_EN.
    ///
    /// # Errors
    ///
    /// EINVAL for a place that is not aligned, or not in memory.
    pub(super) fn write_pv_eoi(&mut self, value: u64) -> Result {
        let gpa = Gpa(value & !ENABLED);
        if gpa.0 & 3 != 0 {
            return Err(EINVAL);
        }
        if value & ENABLED != 0 && !self.vcpu.guest_memory().is_memory(gpa, false) {
            return Err(EINVAL);
        }
        self.state.pv.eoi = value;
        Ok(())
    }

    /// Lets the guest skip the EOI of the interrupt that it handles, or that this entry is going to
    /// inject, if that can be.
    #[inline]
    pub(crate) fn offer_pv_eoi(&mut self) {
        if self.state.pv.eoi & ENABLED != 0 {
            self.try_offer_pv_eoi();
        }
    }

    fn try_offer_pv_eoi(&mut self) {
        if self.vector_to_offer().is_some() {
            let place = Gpa(self.state.pv.eoi & !ENABLED);
            let offered = self.vcpu.guest_memory().write(place, &[MAY_SKIP]);
            self.state.pv.eoi_offered = offered.is_ok();
        }
    }

    /// The interrupt that ends next, if nobody but the local APIC has to know when.
    fn vector_to_offer(&self) -> Option<u8> {
        let vector = self.vector_to_end()?;
        let is_watched = self
            .vm
            .irqchip()
            .is_some_and(|irqchip| irqchip.watches(vector));
        let is_level = self.apic()?.lapic.ended(vector).level;
        (!is_watched && !is_level).then_some(vector)
    }

    /// The interrupt that ends next, if no other waits for its end.
    fn vector_to_end(&self) -> Option<u8> {
        let apic = self.apic()?;
        if apic.lapic.is_hardware_delivery() {
            return None;
        }
        let events = &self.state.events;
        let Some(requested) = apic.lapic.highest_irr() else {
            return apic.lapic.highest_isr();
        };
        let is_next = apic.lapic.pending() == Some(requested)
            && events.injected.is_none()
            && events.exception.is_none()
            && events.nmi_pending == 0
            && self.interrupts_enabled()
            && self.queued_interrupt().is_none();
        is_next.then_some(requested)
    }

    /// Whether an interrupt waits for the end of one whose EOI the guest may skip: then it must not.
    #[inline]
    pub(crate) fn must_withdraw_pv_eoi(&self) -> bool {
        self.state.pv.eoi_offered
            && self
                .apic()
                .is_some_and(|apic| apic.lapic.highest_irr().is_some())
    }

    /// Whether the inner loop has to be left, for the offer to be withdrawn, or to be made.
    #[inline]
    pub(crate) fn pv_eoi_is_due(&self) -> bool {
        self.state.pv.eoi & ENABLED != 0
            && (self.must_withdraw_pv_eoi() || self.must_offer_pv_eoi())
    }

    fn must_offer_pv_eoi(&self) -> bool {
        !self.state.pv.eoi_offered
            && self
                .apic()
                .is_some_and(|apic| apic.lapic.pending().is_some())
            && self.vector_to_offer().is_some()
    }

    /// Takes the bit back, and ends the interrupt if the guest did.
    #[inline]
    pub(crate) fn withdraw_pv_eoi(&mut self) {
        if self.state.pv.eoi_offered {
            self.take_pv_eoi();
        }
    }

    fn take_pv_eoi(&mut self) {
        self.state.pv.eoi_offered = false;
        let place = Gpa(self.state.pv.eoi & !ENABLED);
        let access = self.vcpu.guest_memory();
        let mut byte = [0];
        let is_skipped = access.read(place, &mut byte).is_ok() && byte[0] & MAY_SKIP == 0;
        if is_skipped {
            self.end_skipped_interrupt();
        } else {
            // Where it cannot be taken back the guest moved it under our hands, to its own harm.
            let _ = access.write(place, &[0]);
        }
    }
}
