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
        None => cx.state.events.interrupt = Some(vector),
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
    // Without KVM_CAP_EXCEPTION_PAYLOAD a VMM cannot carry a payload: it is delivered now.
    if let Some(queued) = cx.state.events.exception.as_mut() {
        let delivered = *queued;
        queued.payload = None;
        cx.deliver_payload(&delivered);
    }

    let events = cx.state.events;
    let mut out = kvm_vcpu_events::zeroed();
    let exception = match (events.injected, events.exception) {
        (Some(Event::Exception { vector, error_code }), _) => Some((vector, error_code)),
        (_, Some(queued)) => Some((queued.vector, queued.error_code)),
        _ => None,
    };
    if let Some((vector, error_code)) = exception {
        out.exception.injected = 1;
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
    out.flags = bindings::KVM_VCPUEVENT_VALID_NMI_PENDING | bindings::KVM_VCPUEVENT_VALID_SHADOW;
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
        | bindings::KVM_VCPUEVENT_VALID_SHADOW;
    if new.flags & !allowed != 0 {
        return Err(EINVAL);
    }
    let has_exception = new.exception.injected != 0;
    if has_exception && (new.exception.nr > 31 || new.exception.nr == Exception::Nmi.vector()) {
        return Err(EINVAL);
    }
    if new.flags & bindings::KVM_VCPUEVENT_VALID_SIPI_VECTOR != 0 {
        if let Some(apic) = cx.apic() {
            apic.set_sipi_vector(new.sipi_vector as u8);
        }
    }
    let has_shadow = new.flags & bindings::KVM_VCPUEVENT_VALID_SHADOW != 0;

    let events = &mut cx.state.events;
    events.exception = None;
    events.injected = None;
    events.interrupt = (new.interrupt.injected != 0).then_some(new.interrupt.nr);
    if has_exception {
        let error_code = (new.exception.has_error_code != 0).then_some(new.exception.error_code);
        events.injected = Some(Event::Exception {
            vector: new.exception.nr,
            error_code,
        });
    } else if new.nmi.injected != 0 {
        events.injected = Some(Event::Nmi);
    }
    if new.flags & bindings::KVM_VCPUEVENT_VALID_NMI_PENDING != 0 {
        events.nmi_pending = new.nmi.pending.min(2);
    }
    if has_shadow {
        B::set_interrupt_shadow(cx, new.interrupt.shadow & (SHADOW_MOV_SS | SHADOW_STI));
    }
    B::set_nmi_masked(cx, new.nmi.masked != 0);
    Ok(())
}
