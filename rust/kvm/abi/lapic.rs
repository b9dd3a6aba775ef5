// SPDX-License-Identifier: GPL-2.0

//! A vCPU's local APIC in the kernel, and what the vCPU waits for: what a VMM does to them.

use arch::addr::Gpa;
use kernel::prelude::*;

use super::copy;
use crate::{
    host::bindings::{
        kvm_mp_state,
        kvm_tpr_access_ctl,
        kvm_vapic_addr, //
    },
    vm::{
        Backend,
        Loaded, //
    },
};

/// Bytes of `struct kvm_lapic_state`.
const LAPIC_STATE: usize = 0x400;

/// KVM_GET_LAPIC (api.rst, 4.57).
pub(super) fn get<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let mut state = KBox::new([0; LAPIC_STATE], GFP_KERNEL_ACCOUNT)?;
    cx.save_apic(&mut state)?;
    copy::write_bytes(arg, &*state)?;
    Ok(0)
}

/// KVM_SET_LAPIC (api.rst, 4.58).
pub(super) fn set<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    if cx.apic().is_none() {
        return Err(EINVAL);
    }
    let mut state = KBox::new([0; LAPIC_STATE], GFP_KERNEL_ACCOUNT)?;
    copy::read_bytes(arg, &mut *state)?;
    cx.restore_apic(&state)?;
    Ok(0)
}

/// KVM_GET_MP_STATE (api.rst, 4.38).
pub(super) fn get_mp_state<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    cx.serve_requests();
    let mp_state = cx.state.mp_state as u32;
    copy::write(arg, &kvm_mp_state { mp_state })?;
    Ok(0)
}

/// KVM_SET_MP_STATE (api.rst, 4.39).
pub(super) fn set_mp_state<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let new: kvm_mp_state = copy::read(arg)?;
    cx.set_mp_state(new.mp_state)?;
    Ok(0)
}

/// KVM_TPR_ACCESS_REPORTING (`struct kvm_tpr_access_ctl`): whether accesses to the task priority
/// that are emulated end in KVM_EXIT_TPR_ACCESS.
pub(super) fn tpr_access_reporting<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let control: kvm_tpr_access_ctl = copy::read(arg)?;
    if control.flags != 0 {
        return Err(EINVAL);
    }
    cx.state.reports_tpr = control.enabled != 0;
    copy::write(arg, &control)?;
    Ok(0)
}

/// KVM_SET_VAPIC_ADDR: where guest memory has the task priority; 0 is nowhere.
pub(super) fn set_vapic_addr<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    if cx.apic().is_none() {
        return Err(EINVAL);
    }
    let address: kvm_vapic_addr = copy::read(arg)?;
    let gpa = Gpa(address.vapic_addr);
    if gpa.0 != 0 && !cx.vcpu.guest_memory().is_memory(gpa, false) {
        return Err(EINVAL);
    }
    cx.state.vapic = (gpa.0 != 0).then_some(gpa.0);
    Ok(0)
}
