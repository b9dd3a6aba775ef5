// SPDX-License-Identifier: GPL-2.0

//! A vCPU and its local APIC: register accesses and what follows from them, and the interrupt to
//! take next.

use arch::apic::{
    Destination,
    Effect,
    Eoi,
    Features,
    Message,
    FIRST_MSR,
    LAST_MSR, //
};
use kernel::prelude::*;

use super::{
    irqchip::X2APIC_API_USE_32BIT_IDS,
    local_apic::LocalApic, //
};
use crate::{
    host::{
        cpu,
        trace::{
            kvm_apic_ipi,
            trace, //
        },
    },
    vm::{
        backend::Backend,
        vcpu::Loaded,
        QUIRK_LAPIC_MMIO_HOLE, //
    },
};

/// IA32_TSC_DEADLINE.
pub(crate) const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// What an APIC access leaves for the way out of the inner loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aftermath {
    /// Nothing.
    None,
    /// The VMM's IOAPIC has to know of the end of this interrupt (KVM_EXIT_IOAPIC_EOI).
    IoapicEoi(u8),
    /// A message for many is to be sent, with interrupts on.
    Send(Message),
    /// The IOAPIC has to know of the end of this interrupt, with interrupts on.
    Ended(u8),
    /// The PICs' interrupt is to be acknowledged, with interrupts on.
    AcknowledgePic,
    /// The VMM wants to hear of this access to the task priority (KVM_EXIT_TPR_ACCESS).
    TprAccess { rip: u64, is_write: bool },
}

/// What is at an address, as far as the local APIC is concerned.
enum Page {
    /// Not the APIC.
    None,
    /// Its registers, at this offset.
    Registers(u32),
    /// Nothing, where its registers could be.
    Hole,
}

impl<B: Backend> Loaded<'_, B> {
    /// Whether an interrupt of the local APIC or the PICs waits that the guest could be given as
    /// far as they are concerned.
    #[inline]
    pub(crate) fn has_interrupt(&self) -> bool {
        self.apic().is_some_and(|apic| {
            let own = !apic.lapic.is_hardware_delivery() && apic.lapic.pending().is_some();
            own || self.has_extint(apic)
        })
    }

    /// Whether an interrupt would end HLT.
    pub(crate) fn has_wakeup(&self) -> bool {
        self.apic().is_some_and(|apic| {
            apic.take_posted();
            apic.lapic.pending().is_some() || self.has_extint(apic)
        })
    }

    /// Whether the PICs, or for a split interrupt controller the VMM, have an interrupt that comes
    /// through LINT0.
    #[inline]
    fn has_extint(&self, apic: &LocalApic) -> bool {
        let waits = self.state.external_interrupt.is_some()
            || self
                .irqchip()
                .is_some_and(|irqchip| irqchip.has_pic_output());
        waits && apic.lapic.takes_extint()
    }

    /// Whether the PICs are the VMM's.
    #[inline]
    pub(crate) fn has_vmm_pics(&self) -> bool {
        self.irqchip().is_none_or(|irqchip| !irqchip.has_chips())
    }

    /// Whether an interrupt of the VMM's PICs would get through.
    pub(crate) fn accepts_vmm_interrupt(&self) -> bool {
        self.apic()
            .is_none_or(|apic| apic.lapic.takes_extint() && self.state.external_interrupt.is_none())
    }

    /// The vector of the interrupt to inject, which is in service from now on. `None` where there is
    /// none, or where [`Aftermath`] is to fetch it.
    pub(crate) fn take_interrupt(&mut self) -> Option<u8> {
        let apic = self.vcpu.apic.as_deref()?;
        if self.has_extint(apic) {
            if let Some(vector) = self.state.external_interrupt.take() {
                return Some(vector);
            }
            // There the lock of the PICs sleeps.
            if cfg!(CONFIG_PREEMPT_RT) {
                if matches!(self.state.aftermath, Aftermath::None) {
                    self.state.aftermath = Aftermath::AcknowledgePic;
                }
                return None;
            }
            if let Some(vector) = self.vm.irqchip()?.acknowledge_pic() {
                return Some(vector);
            }
        }
        if apic.lapic.is_hardware_delivery() {
            return None;
        }
        let vector = apic.lapic.pending()?;
        apic.lapic.acknowledge(vector);
        Some(vector)
    }

    /// CR8.
    #[inline]
    pub(crate) fn cr8(&self) -> u64 {
        match self.apic() {
            Some(apic) => apic.lapic.cr8(),
            None => self.state.cr8,
        }
    }

    /// Sets CR8, which has 4 bits.
    pub(crate) fn set_cr8(&mut self, value: u64) {
        match self.apic() {
            Some(apic) => apic.lapic.set_cr8(value),
            None => self.state.cr8 = value,
        }
    }

    /// IA32_APIC_BASE.
    pub(crate) fn apic_base(&self) -> u64 {
        match self.apic() {
            Some(apic) => apic.lapic.base(),
            None => self.state.msrs.apic_base,
        }
    }

    /// Writes IA32_APIC_BASE, wherever the APIC is; `host` if the VMM does.
    ///
    /// # Errors
    ///
    /// EINVAL for reserved bits and for modes that cannot be entered from this one.
    pub(crate) fn write_apic_base(&mut self, value: u64, host: bool) -> Result {
        match self.vcpu.apic.as_deref() {
            Some(apic) => {
                let maxphyaddr = self.state.cpuid.limits().maxphyaddr;
                let effect = apic
                    .lapic
                    .set_base(value, maxphyaddr, host)
                    .map_err(|_| EINVAL)?;
                self.follow(apic, effect);
            }
            None => self.write_own_apic_base(value)?,
        }
        self.update_runtime_cpuid();
        Ok(())
    }

    /// Follows the CPUID that the VMM set.
    pub(crate) fn apic_cpuid_changed(&mut self) {
        const ECX_X2APIC: u32 = 1 << 21;
        const ECX_TSC_DEADLINE: u32 = 1 << 24;
        let Some(apic) = self.vcpu.apic.as_deref() else {
            return;
        };
        // Without that leaf the APIC stays as it was.
        if !self.state.cpuid.entries().iter().any(|e| e.function == 1) {
            return;
        }
        let ecx = self.state.cpuid.words(1, 0)[2];
        let mut features = apic.lapic.features();
        features.set(Features::X2APIC, ecx & ECX_X2APIC != 0);
        features.set(Features::TSC_DEADLINE, ecx & ECX_TSC_DEADLINE != 0);
        let irqchip = self.vm.irqchip();
        let suppress = irqchip.is_some_and(|irqchip| irqchip.can_suppress_eoi());
        features.set(Features::SUPPRESS_EOI_BROADCAST, suppress);
        apic.lapic.set_features(features);
    }

    /// What an access to a register entails.
    fn follow(&mut self, apic: &LocalApic, effect: Effect) {
        match effect {
            Effect::None | Effect::Tpr | Effect::Lvt(_) | Effect::SoftwareEnable(_) => {}
            Effect::Send(message) => {
                if kvm_apic_ipi::is_on() {
                    tell_of_ipi(&message);
                }
                let Some(irqchip) = self.vm.irqchip() else {
                    return;
                };
                if irqchip.is_quick(Some(apic), &message) || !cpu::irqs_are_off() {
                    irqchip.deliver(Some(apic), &message);
                } else {
                    self.state.aftermath = Aftermath::Send(message);
                }
            }
            Effect::Eoi(eoi) => self.end_of_interrupt(apic, eoi),
            Effect::Timer(write) => self.write_apic_timer(apic, write),
            Effect::Destination => self.note_apic_id(apic),
            Effect::Mode => {
                B::apic_mode_changed(self);
                self.note_apic_id(apic);
            }
        }
    }

    /// Has messages look for this APIC, if its id is not its vCPU's any more.
    fn note_apic_id(&self, apic: &LocalApic) {
        if apic.lapic.is_x2apic() || apic.lapic.xapic_id() == apic.lapic.id() {
            return;
        }
        if let Some(irqchip) = self.vm.irqchip() {
            irqchip.id_changed();
        }
    }

    /// The guest has ended an interrupt, and said so in its memory.
    pub(crate) fn end_skipped_interrupt(&mut self) {
        let Some(apic) = self.vcpu.apic.as_deref() else {
            return;
        };
        if let Some(eoi) = apic.lapic.eoi() {
            trace!(kvm_pv_eoi(apic.lapic.id(), eoi.vector.into()));
            self.end_of_interrupt(apic, eoi);
        }
    }

    fn end_of_interrupt(&mut self, apic: &LocalApic, eoi: Eoi) {
        trace!(kvm_eoi(apic.lapic.id(), eoi.vector.into()));
        let Some(irqchip) = self.vm.irqchip() else {
            return;
        };
        let broadcast = eoi.level && !(eoi.suppressed && irqchip.suppresses_eoi());
        if irqchip.has_chips() {
            if !broadcast && !irqchip.watches(eoi.vector) {
                return;
            }
            if irqchip.ends_quickly() || !cpu::irqs_are_off() {
                irqchip.end_of_interrupt(eoi.vector);
            } else {
                self.state.aftermath = Aftermath::Ended(eoi.vector);
            }
        } else if broadcast && irqchip.vmm_wants_eoi(apic, eoi.vector) {
            self.state.aftermath = Aftermath::IoapicEoi(eoi.vector);
        }
    }

    /// WRMSR of the x2APIC registers that matter, without leaving the inner loop. Returns whether
    /// it was served.
    ///
    /// The CPU is in guest mode: what may not happen there, waking another thread above all, is
    /// left to [`Self::write_apic_msr`].
    #[inline]
    pub(crate) fn write_apic_msr_fast(&mut self, index: u32, value: u64) -> bool {
        /// x2APIC EOI.
        const EOI: u32 = 0x80b;
        /// x2APIC SELF IPI.
        const SELF_IPI: u32 = 0x83f;
        let Some(apic) = self.vcpu.apic.as_deref() else {
            return false;
        };
        match index {
            EOI if value == 0 && apic.lapic.is_x2apic() => {
                let Some(vector) = apic.lapic.highest_isr() else {
                    return true;
                };
                let watched = || {
                    let irqchip = self.irqchip();
                    irqchip.is_some_and(|irqchip| irqchip.watches(vector))
                };
                if apic.lapic.ended(vector).level || watched() {
                    return false;
                }
                apic.lapic.eoi();
                true
            }
            SELF_IPI if value <= 0xff && apic.lapic.is_x2apic() => {
                apic.accept_own(value as u8, false);
                true
            }
            IA32_TSC_DEADLINE => self.set_tsc_deadline_fast(value),
            _ => false,
        }
    }

    /// WRMSR of an APIC register, or KVM_SET_MSRS of one.
    ///
    /// # Errors
    ///
    /// EINVAL: #GP.
    pub(crate) fn write_apic_msr(&mut self, index: u32, value: u64) -> Result {
        let Some(apic) = self.vcpu.apic.as_deref() else {
            return Err(EINVAL);
        };
        if index == IA32_TSC_DEADLINE {
            self.set_tsc_deadline(apic, value);
            return Ok(());
        }
        let effect = apic.lapic.write_msr(index, value).map_err(|_| EINVAL)?;
        trace!(kvm_apic(true, register_of(index), value));
        self.follow(apic, effect);
        Ok(())
    }

    /// RDMSR of an APIC register; `None` is #GP.
    pub(crate) fn read_apic_msr(&self, index: u32) -> Option<u64> {
        let apic = self.apic()?;
        if index == IA32_TSC_DEADLINE {
            return Some(self.state.apic_timer.tsc_deadline());
        }
        let value = apic
            .lapic
            .read_msr(index, || self.state.apic_timer.current_count())
            .ok()?;
        trace!(kvm_apic(false, register_of(index), value));
        Some(value)
    }

    /// Whether an MSR is the local APIC's.
    pub(crate) fn is_apic_msr(index: u32) -> bool {
        matches!(index, FIRST_MSR..=LAST_MSR | IA32_TSC_DEADLINE)
    }

    /// The register page of this vCPU's APIC at `gpa`, if it is there.
    #[inline]
    fn apic_page(&self, gpa: u64) -> Page {
        let Some(apic) = self.apic() else {
            return Page::None;
        };
        let offset = gpa.wrapping_sub(apic.lapic.address());
        if offset >= 0x1000 {
            Page::None
        } else if apic.lapic.is_memory_mapped() {
            Page::Registers(offset as u32)
        } else if self.vm.has_quirk(QUIRK_LAPIC_MMIO_HOLE) {
            Page::Hole
        } else {
            Page::None
        }
    }

    /// Whether the registers of this vCPU's APIC are at `gpa`.
    #[inline]
    pub(crate) fn is_apic_register(&self, gpa: u64) -> bool {
        matches!(self.apic_page(gpa), Page::Registers(_))
    }

    /// Reads from the register page of the APIC. Returns whether `gpa` is in it.
    pub(crate) fn read_apic_page(&mut self, gpa: u64, data: &mut [u8]) -> bool {
        match (self.apic_page(gpa), self.vcpu.apic.as_deref()) {
            (Page::Registers(offset), Some(apic)) => {
                self.note_tpr_access(offset, false);
                apic.lapic
                    .read_bytes(offset, data, || self.state.apic_timer.current_count());
                trace!(kvm_apic(false, offset, number_in(data)));
            }
            (Page::Hole, _) => data.fill(0xff),
            _ => return false,
        }
        true
    }

    /// Writes to the register page of the APIC. Returns whether `gpa` is in it.
    pub(crate) fn write_apic_page(&mut self, gpa: u64, data: &[u8]) -> bool {
        match (self.apic_page(gpa), self.vcpu.apic.as_deref()) {
            (Page::Registers(offset), Some(apic)) => {
                self.note_tpr_access(offset, true);
                trace!(kvm_apic(true, offset, number_in(data)));
                let effect = apic.lapic.write_bytes(offset, data);
                self.follow(apic, effect);
            }
            (Page::Hole, _) => {}
            _ => return false,
        }
        true
    }

    /// What the inner loop left of an access to the APIC, because it may take long.
    pub(crate) fn send_to_many(&self, message: &Message) {
        if let (Some(irqchip), Some(apic)) = (self.vm.irqchip(), self.apic()) {
            irqchip.deliver(Some(apic), message);
        }
    }

    /// The state of the APIC (api.rst, 4.57 KVM_GET_LAPIC).
    ///
    /// # Errors
    ///
    /// EINVAL where the APIC is not in the kernel.
    pub(crate) fn save_apic(&mut self, out: &mut [u8; 0x400]) -> Result {
        let wide = self.has_wide_ids();
        self.review_apic_timer();
        self.serve_requests();
        let apic = self.apic().ok_or(EINVAL)?;
        apic.take_posted();
        apic.lapic
            .save(out, wide, self.state.apic_timer.current_count());
        Ok(())
    }

    /// Sets the state of the APIC (api.rst, 4.58 KVM_SET_LAPIC).
    ///
    /// # Errors
    ///
    /// EINVAL where the APIC is not in the kernel, or the state is not one of it.
    pub(crate) fn restore_apic(&mut self, state: &[u8; 0x400]) -> Result {
        let wide = self.has_wide_ids();
        let apic = self.vcpu.apic.as_deref().ok_or(EINVAL)?;
        let saved = apic.lapic.restore(state, wide).map_err(|_| EINVAL)?;
        self.restore_apic_timer(apic, &saved);
        apic.set_stale();
        self.follow(apic, Effect::Destination);
        Ok(())
    }

    /// The processor has ended an interrupt by itself.
    pub(crate) fn interrupt_ended(&mut self, vector: u8) {
        if let Some(apic) = self.vcpu.apic.as_deref() {
            self.end_of_interrupt(apic, apic.lapic.ended(vector));
        }
    }

    /// The processor has written a register of the APIC by itself.
    pub(crate) fn apic_written(&mut self, offset: u32) {
        if let Some(apic) = self.vcpu.apic.as_deref() {
            let effect = apic.lapic.after_write(offset);
            self.follow(apic, effect);
        }
    }

    fn has_wide_ids(&self) -> bool {
        self.vm
            .irqchip()
            .is_some_and(|irqchip| irqchip.x2apic_api() & X2APIC_API_USE_32BIT_IDS != 0)
    }

    /// Puts the APIC into the state that INIT leaves.
    pub(crate) fn init_apic(&mut self) {
        if let Some(apic) = self.apic() {
            apic.take_posted();
            apic.lapic.init_reset();
            apic.set_stale();
        }
        self.reset_apic_timer();
    }
}

/// Tells whoever listens of an interrupt command, as it stands in the ICR.
#[cold]
fn tell_of_ipi(message: &Message) {
    let (logical, shorthand, destination) = match message.destination {
        Destination::Physical(id) => (false, 0, id),
        Destination::Logical(bits) => (true, 0, bits),
        Destination::Itself => (false, 1, 0),
        Destination::All => (false, 2, 0),
        Destination::AllButSelf => (false, 3, 0),
    };
    let icr = u32::from(message.vector)
        | (message.delivery as u32) << 8
        | u32::from(logical) << 11
        | u32::from(message.assert) << 14
        | u32::from(message.level) << 15
        | shorthand << 18;
    kvm_apic_ipi::emit(icr, destination);
}

/// The offset in the register page of the register that an x2APIC MSR is.
const fn register_of(index: u32) -> u32 {
    (index & 0xff) << 4
}

/// Bytes of a register as a number.
pub(crate) fn number_in(data: &[u8]) -> u64 {
    data.iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
