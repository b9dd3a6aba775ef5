// SPDX-License-Identifier: GPL-2.0

//! Interrupts, NMIs, and everything on its way into the guest.

use arch::exception::Exception;
use kernel::prelude::*;

use super::copy;
use crate::{
    host::{
        abi_types::Plain,
        bindings::{
            self,
            kvm_interrupt,
            kvm_vcpu_events, //
        },
    },
    vm::{
        Backend,
        Event,
        Loaded,
        Queued,
        Switches,
        SHADOW_MOV_SS,
        SHADOW_STI, //
    },
};

/// KVM_INTERRUPT (api.rst, 4.16): the VMM's interrupt controller has one for the guest.
pub(super) fn interrupt<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let interrupt: kvm_interrupt = copy::read(arg)?;
    let vector = u8::try_from(interrupt.irq).map_err(|_| EINVAL)?;
    match cx.vm.irqchip().map(|irqchip| irqchip.has_chips()) {
        // The PICs are in the VMM, and there is no APIC between.
        None => cx.state.events.queue_interrupt(vector),
        Some(true) => return Err(ENXIO),
        Some(false) => {
            if cx.state.external_interrupt.is_some() {
                return Err(EEXIST);
            }
            cx.state.external_interrupt = Some(vector);
        }
    }
    Ok(0)
}

/// KVM_NMI (api.rst, 4.64).
pub(super) fn nmi<B: Backend>(cx: &mut Loaded<'_, B>) -> Result<i32> {
    cx.queue_nmi();
    Ok(0)
}

/// KVM_GET_VCPU_EVENTS (api.rst, 4.31).
pub(super) fn get<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    copy::write(arg, &collect(cx))?;
    Ok(0)
}

/// What is on its way into the guest.
pub(super) fn collect<B: Backend>(cx: &mut Loaded<'_, B>) -> kvm_vcpu_events {
    cx.serve_requests();
    cx.show_payload();
    let knows_payload = cx.vm.options.has(Switches::EXCEPTION_PAYLOAD);
    let knows_triple_fault = cx.vm.options.has(Switches::TRIPLE_FAULT_EVENT);

    cx.limit_nmis();
    let events = cx.state.events;
    let mut out = kvm_vcpu_events::zeroed();
    // Of an exception that an instruction asked for, INT3 or INTO, it is not said that it is on its
    // way: there is no room for the instruction's length, and it raises the exception again.
    let is_soft =
        |vector| vector == Exception::Breakpoint.vector() || vector == Exception::Overflow.vector();
    let exception = match (events.injected, events.exception) {
        (Some(Event::Exception { vector, error_code }), _) => {
            out.exception.injected = (!is_soft(vector)).into();
            Some((vector, error_code))
        }
        (_, Some(queued)) => {
            // A VMM that does not know the difference takes both for the same.
            out.exception.injected = (!knows_payload && !is_soft(queued.vector)).into();
            out.exception.pending = (!is_soft(queued.vector)).into();
            out.exception_has_payload = queued.payload.is_some().into();
            out.exception_payload = queued.payload.unwrap_or(0);
            Some((queued.vector, queued.error_code))
        }
        _ => None,
    };
    if let Some((vector, error_code)) = exception {
        out.exception.nr = vector;
        out.exception.has_error_code = error_code.is_some().into();
        out.exception.error_code = error_code.unwrap_or(0);
    }
    let interrupt = match events.injected {
        Some(Event::Interrupt { vector }) => Some(vector),
        _ => events.interrupt,
    };
    if let Some(vector) = interrupt {
        out.interrupt.injected = 1;
        out.interrupt.nr = vector;
    }
    out.interrupt.shadow = B::interrupt_shadow(cx);
    out.nmi.injected = (events.injected == Some(Event::Nmi)).into();
    out.nmi.pending = events.nmi_pending;
    out.nmi.masked = B::nmi_masked(cx).into();
    out.flags = bindings::KVM_VCPUEVENT_VALID_NMI_PENDING
        | bindings::KVM_VCPUEVENT_VALID_SHADOW
        | bindings::KVM_VCPUEVENT_VALID_SMM;
    if knows_payload {
        out.flags |= bindings::KVM_VCPUEVENT_VALID_PAYLOAD;
    }
    if knows_triple_fault {
        out.flags |= bindings::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
        out.triple_fault.pending = events.triple_fault.into();
    }
    out
}

/// KVM_SET_VCPU_EVENTS (api.rst, 4.32).
pub(super) fn set<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    set_all(cx, &copy::read(arg)?)?;
    Ok(0)
}

/// Sets what is on its way into the guest.
///
/// # Errors
///
/// EINVAL for an exception there is none of, or for flags that mean nothing here.
pub(super) fn set_all<B: Backend>(cx: &mut Loaded<'_, B>, new: &kvm_vcpu_events) -> Result {
    let allowed = bindings::KVM_VCPUEVENT_VALID_NMI_PENDING
        | bindings::KVM_VCPUEVENT_VALID_SIPI_VECTOR
        | bindings::KVM_VCPUEVENT_VALID_SHADOW
        | bindings::KVM_VCPUEVENT_VALID_SMM
        | bindings::KVM_VCPUEVENT_VALID_PAYLOAD
        | bindings::KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    if new.flags & !allowed != 0 {
        return Err(EINVAL);
    }
    let has = |flag: u32| new.flags & flag != 0;
    let has_payload = has(bindings::KVM_VCPUEVENT_VALID_PAYLOAD);
    let has_triple_fault = has(bindings::KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
    let has_smm = has(bindings::KVM_VCPUEVENT_VALID_SMM);
    let options = &cx.vm.options;
    if has_payload && !options.has(Switches::EXCEPTION_PAYLOAD)
        || has_triple_fault && !options.has(Switches::TRIPLE_FAULT_EVENT)
    {
        return Err(EINVAL);
    }
    // There is no system-management mode to be in, or on the way to.
    if has_smm && (new.smi.smm | new.smi.pending | new.smi.smm_inside_nmi) != 0 {
        return Err(EINVAL);
    }
    let is_pending = has_payload && new.exception.pending != 0;
    let is_injected = new.exception.injected != 0 && !is_pending;
    if (is_pending || is_injected)
        && (new.exception.nr > 31 || new.exception.nr == Exception::Nmi.vector())
    {
        return Err(EINVAL);
    }
    if new.flags & bindings::KVM_VCPUEVENT_VALID_SIPI_VECTOR != 0 {
        if let Some(apic) = cx.apic() {
            apic.set_sipi_vector(new.sipi_vector as u8);
        }
    }
    if has_smm && new.smi.latched_init != 0 && cx.apic().is_some() {
        cx.request_init();
    }

    let events = &mut cx.state.events;
    events.exception = None;
    events.injected = None;
    events.interrupt = (new.interrupt.injected != 0).then_some(new.interrupt.nr);
    let error_code = (new.exception.has_error_code != 0).then_some(new.exception.error_code);
    if is_pending {
        events.exception = Some(Queued {
            vector: new.exception.nr,
            error_code,
            payload: (new.exception_has_payload != 0).then_some(new.exception_payload),
        });
    }
    if is_injected {
        events.injected = Some(Event::Exception {
            vector: new.exception.nr,
            error_code,
        });
    } else if new.nmi.injected != 0 {
        events.injected = Some(Event::Nmi);
    }
    if has(bindings::KVM_VCPUEVENT_VALID_NMI_PENDING) {
        events.nmi_pending = new.nmi.pending.min(2);
    }
    if has_triple_fault {
        events.triple_fault = new.triple_fault.pending != 0;
    }
    if has(bindings::KVM_VCPUEVENT_VALID_SHADOW) {
        B::set_interrupt_shadow(cx, new.interrupt.shadow & (SHADOW_MOV_SS | SHADOW_STI));
    }
    B::set_nmi_masked(cx, new.nmi.masked != 0);
    Ok(())
}
