// SPDX-License-Identifier: GPL-2.0

//! What the processor does of a local APIC by itself (SDM vol. 3, chapter 30).
//!
//! With a TPR shadow the guest changes its task priority without an exit, and one that makes a
//! waiting interrupt deliverable exits. With virtual-interrupt delivery, which here goes with an
//! x2APIC, the processor evaluates, delivers and ends interrupts from the virtual-APIC page, and
//! takes those that others posted; what is left to do is to tell it what changed in the page.

use arch::{
    apic::Register,
    controls::{
        CpuBased,
        PinBased,
        Secondary, //
    },
    exit::{
        EventKind,
        InterruptionInfo, //
    },
    vmcs, //
};

use super::{
    controls,
    timer,
    Vmx, //
};
use crate::{
    host::cpu::POSTED_INTR_VECTOR,
    vm::{
        Event,
        Loaded, //
    },
};

/// The controls that follow the mode of the local APIC.
pub(super) const SECONDARY: Secondary = Secondary::VIRTUALIZE_X2APIC_MODE
    .union(Secondary::APIC_REGISTER_VIRTUALIZATION)
    .union(Secondary::VIRTUAL_INTERRUPT_DELIVERY);

/// As in the VMCS.
#[derive(Default)]
pub(super) struct VirtualApic {
    tpr_threshold: u32,
    eoi_exits: [u64; 4],
}

/// Sets the controls for the mode that the local APIC is in.
pub(super) fn follow_mode(cx: &mut Loaded<'_, Vmx>) {
    let vcpu = cx.vcpu;
    let f = &vcpu.resident;
    let Some(apic) = vcpu.apic.as_deref() else {
        return;
    };
    let capability = &cx.vm.backend.capability;
    if !capability.has_tpr_shadow() {
        return;
    }
    let x2apic = apic.lapic.is_x2apic() && capability.has(Secondary::VIRTUALIZE_X2APIC_MODE);
    let delivery = x2apic && capability.has_apicv();

    f.write(vmcs::VIRTUAL_APIC_PAGE_ADDR, apic.page_hpa.0);
    controls::set_cpu_based(cx, CpuBased::USE_TPR_SHADOW, true);
    controls::set_cpu_based(cx, CpuBased::CR8_LOAD_EXITING, false);
    controls::set_cpu_based(cx, CpuBased::CR8_STORE_EXITING, false);
    controls::set_secondary(cx, Secondary::VIRTUALIZE_X2APIC_MODE, x2apic);
    controls::set_secondary(cx, Secondary::APIC_REGISTER_VIRTUALIZATION, delivery);
    controls::set_secondary(cx, Secondary::VIRTUAL_INTERRUPT_DELIVERY, delivery);

    let bitmaps = &cx.vm.machine;
    let msr = if x2apic {
        &bitmaps.msr_x2apic
    } else {
        &bitmaps.msr
    };
    f.write(vmcs::MSR_BITMAP, msr.hpa().0);

    if let Some(descriptor) = apic.posted() {
        f.write(vmcs::POSTED_INTR_DESC_ADDR, descriptor.hpa().0);
        f.write(vmcs::POSTED_INTR_NV, POSTED_INTR_VECTOR);
        for field in EOI_EXIT_BITMAPS {
            f.write(field, 0);
        }
        cx.state.hw.virtual_apic.eoi_exits = [0; 4];
    }
    controls::set_pin_based(cx, PinBased::POSTED_INTERRUPTS, delivery);
    f.write(vmcs::TPR_THRESHOLD, 0);
    cx.state.hw.virtual_apic.tpr_threshold = 0;
    apic.set_hardware_delivery(delivery);
    apic.set_stale();
}

const EOI_EXIT_BITMAPS: [vmcs::Field64; 4] = [
    vmcs::EOI_EXIT_BITMAP0,
    vmcs::EOI_EXIT_BITMAP1,
    vmcs::EOI_EXIT_BITMAP2,
    vmcs::EOI_EXIT_BITMAP3,
];

/// Tells the processor what changed in the virtual-APIC page since the last entry, and when the
/// APIC's timer expires.
#[inline(always)]
pub(super) fn prepare_entry(cx: &mut Loaded<'_, Vmx>) {
    let vcpu = cx.vcpu;
    let Some(apic) = vcpu.apic.as_deref() else {
        return;
    };
    timer::prepare_entry(cx);
    if apic.lapic.is_hardware_delivery() {
        apic.take_posted();
        if apic.take_stale() {
            tell(cx);
        }
    } else if cx.state.hw.cpu_based.contains(CpuBased::USE_TPR_SHADOW) {
        let threshold = apic.lapic.tpr_threshold();
        if threshold != cx.state.hw.virtual_apic.tpr_threshold {
            cx.state.hw.virtual_apic.tpr_threshold = threshold;
            vcpu.resident.write(vmcs::TPR_THRESHOLD, threshold);
        }
    }
}

/// An exit cut the delivery of `vectoring` short. If that is an interrupt which the processor took
/// from the virtual APIC by itself, it goes back there, and will be taken again when the guest can:
/// the entry that follows need not inject it. Returns whether it was.
#[cold]
pub(super) fn take_back(cx: &Loaded<'_, Vmx>, vectoring: InterruptionInfo) -> bool {
    let Some(apic) = cx.vcpu.apic.as_deref() else {
        return false;
    };
    if !apic.lapic.is_hardware_delivery() {
        return false;
    }
    let vector = vectoring.vector();
    let taken = vectoring.kind() == EventKind::EXTERNAL_INTERRUPT
        && cx.state.events.injected != Some(Event::Interrupt { vector })
        && apic.lapic.highest_isr() == Some(vector);
    if !taken {
        return false;
    }
    apic.lapic.take_back(vector);
    apic.set_stale();
    true
}

/// Tells a processor that delivers interrupts which ones are requested and in service, and whose
/// end is to exit.
#[cold]
fn tell(cx: &mut Loaded<'_, Vmx>) {
    let vcpu = cx.vcpu;
    let Some(apic) = vcpu.apic.as_deref() else {
        return;
    };
    let requesting = apic.lapic.highest_irr().unwrap_or(0);
    let servicing = apic.lapic.highest_isr().unwrap_or(0);
    let status = u16::from(servicing) << 8 | u16::from(requesting);
    vcpu.resident.write(vmcs::GUEST_INTERRUPT_STATUS, status);

    let watched = cx.vm.watched_vectors();
    for (i, field) in EOI_EXIT_BITMAPS.into_iter().enumerate() {
        let word = |half: u32| {
            let index = i as u32 * 2 + half;
            u64::from(apic.lapic.registers().load(Register::TMR.word(index)))
        };
        let exits = word(0) | word(1) << 32 | watched[i];
        if exits != cx.state.hw.virtual_apic.eoi_exits[i] {
            cx.state.hw.virtual_apic.eoi_exits[i] = exits;
            vcpu.resident.write(field, exits);
        }
    }
}
