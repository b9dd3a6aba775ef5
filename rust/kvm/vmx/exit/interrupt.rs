// SPDX-License-Identifier: GPL-2.0

//! Events: those that caused an exit, and those that an exit cut short (SDM vol. 3, 28.2.2 to
//! 28.2.4).

use arch::{
    controls::CpuBased,
    exit::{
        EventKind,
        InterruptionInfo, //
    },
    vmcs, //
};

use super::super::{
    apic,
    controls,
    guest_state::BLOCKED_BY_NMI,
    Vmx, //
};
use crate::{
    host::guest_mode,
    stats::vcpu as stat,
    vm::{
        backend::Exit,
        Event,
        Loaded, //
    },
};

const VECTOR_MC: u8 = 18;

/// Takes note of what was injected: delivered, unless the exit says that its delivery did not end.
#[inline(always)]
pub(super) fn recover_vectoring(cx: &mut Loaded<'_, Vmx>) {
    let f = &cx.vcpu.resident;
    let vectoring = InterruptionInfo(f.read(vmcs::IDT_VECTORING_INFO));
    if !vectoring.is_valid() {
        cx.state.events.injected = None;
        return;
    }

    if apic::take_back(cx, vectoring) {
        cx.state.events.injected = None;
        return;
    }
    let f = &cx.vcpu.resident;
    let vector = vectoring.vector();
    let length = f.read(vmcs::VM_EXIT_INSTRUCTION_LEN) as u8;
    cx.state.events.injected = Some(match vectoring.kind() {
        EventKind::NMI => {
            // It will be injected again, and blocks NMIs then.
            let old = f.read(vmcs::GUEST_INTERRUPTIBILITY);
            f.write(vmcs::GUEST_INTERRUPTIBILITY, old & !BLOCKED_BY_NMI);
            Event::Nmi
        }
        EventKind::EXTERNAL_INTERRUPT => Event::Interrupt { vector },
        EventKind::SOFTWARE_INTERRUPT => Event::SoftwareInterrupt { vector, length },
        EventKind::SOFTWARE_EXCEPTION | EventKind::PRIVILEGED_SOFTWARE_EXCEPTION => {
            Event::SoftwareException { vector, length }
        }
        _ => Event::Exception {
            vector,
            error_code: vectoring
                .has_error_code()
                .then(|| f.read(vmcs::IDT_VECTORING_ERROR_CODE)),
        },
    });
}

/// An interrupt for the host. It was acknowledged; it is served before interrupts are on again.
pub(super) fn external(cx: &mut Loaded<'_, Vmx>) -> Exit {
    cx.count(stat::IRQ_EXITS);
    let info = InterruptionInfo(cx.vcpu.resident.read(vmcs::VM_EXIT_INTR_INFO));
    cx.state.hw.host_interrupt = info.is_valid().then(|| info.vector());
    Exit::Handled
}

/// The guest can take an interrupt.
pub(super) fn window(cx: &mut Loaded<'_, Vmx>) -> Exit {
    cx.count(stat::IRQ_WINDOW_EXITS);
    controls::set_cpu_based(cx, CpuBased::INTERRUPT_WINDOW_EXITING, false);
    Exit::Handled
}

/// The guest can take an NMI.
pub(super) fn nmi_window(cx: &mut Loaded<'_, Vmx>) -> Exit {
    cx.count(stat::NMI_WINDOW_EXITS);
    controls::set_cpu_based(cx, CpuBased::NMI_WINDOW_EXITING, false);
    Exit::Handled
}

/// An NMI for the host, or an exception that exits.
pub(super) fn exception(cx: &mut Loaded<'_, Vmx>) -> Exit {
    let f = &cx.vcpu.resident;
    let info = InterruptionInfo(f.read(vmcs::VM_EXIT_INTR_INFO));
    if info.kind() == EventKind::NMI {
        guest_mode::handle_nmi();
        return Exit::Handled;
    }
    if info.vector() == VECTOR_MC {
        cx.state.hw.machine_check = true;
        return Exit::Handled;
    }

    let vectoring = InterruptionInfo(f.read(vmcs::IDT_VECTORING_INFO));
    if info.nmi_unblocking_by_iret() && !vectoring.is_valid() {
        let old = f.read(vmcs::GUEST_INTERRUPTIBILITY);
        f.write(vmcs::GUEST_INTERRUPTIBILITY, old | BLOCKED_BY_NMI);
    }
    if info.kind() == EventKind::PRIVILEGED_SOFTWARE_EXCEPTION {
        // INT1 exits before it is over, and the exception belongs after it.
        super::super::entry::skip(cx, f.read(vmcs::VM_EXIT_INSTRUCTION_LEN).into());
    }
    Exit::Exception {
        vector: info.vector(),
        error_code: if info.has_error_code() {
            f.read(vmcs::VM_EXIT_INTR_ERROR_CODE)
        } else {
            0
        },
        qualification: f.read(vmcs::EXIT_QUALIFICATION),
    }
}
