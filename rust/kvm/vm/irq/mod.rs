// SPDX-License-Identifier: GPL-2.0

//! Interrupt controllers in the kernel.
//!
//! What the chips do is in `arch` (`apic`, `ioapic`, `pic`, `pit`); here is who may do it when:
//! [`Irqchip`] is what a VM's vCPUs share, [`LocalApic`] what each has and others may touch, and
//! `vcpu` what a vCPU's own thread does with it.

mod apic_timer;
mod irqchip;
mod local_apic;
mod pit;
mod posted;
mod routing;
mod vapic;
mod vcpu;

pub(crate) use self::{
    apic_timer::ApicTimer,
    irqchip::{
        AckNotifier,
        Irqchip,
        Mode,
        Source,
        X2APIC_API_DISABLE_BROADCAST_QUIRK,
        X2APIC_API_USE_32BIT_IDS,
        X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST,
        X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST, //
    },
    local_apic::LocalApic,
    pit::Pit,
    routing::{
        Route,
        Routes,
        Target,
        IOAPIC_PINS,
        MAX_ROUTES, //
    },
    vcpu::{
        number_in,
        Aftermath,
        IA32_TSC_DEADLINE, //
    },
};
