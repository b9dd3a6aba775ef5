// SPDX-License-Identifier: GPL-2.0

//! The guest's clock and time-stamp counter, and what else a VMM says about para-virtualisation.

use kernel::prelude::*;

use super::copy;
use crate::{
    host::{
        abi_types::Plain,
        bindings::{
            self,
            kvm_clock_data,
            kvm_device_attr,
            kvm_enable_cap, //
        },
    },
    vm::{
        Backend,
        Loaded,
        Vm, //
    },
};

/// Flags of `struct kvm_clock_data` (`KVM_CLOCK_VALID_FLAGS`).
pub(super) const CLOCK_FLAGS: u32 =
    bindings::KVM_CLOCK_TSC_STABLE | bindings::KVM_CLOCK_REALTIME | bindings::KVM_CLOCK_HOST_TSC;

/// KVM_GET_CLOCK (api.rst, 4.30).
pub(super) fn get<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let now = vm.read_clock();
    let mut out = kvm_clock_data::zeroed();
    out.clock = now.ns;
    if now.is_stable {
        out.flags |= bindings::KVM_CLOCK_TSC_STABLE;
    }
    if let Some(realtime) = now.realtime {
        out.flags |= bindings::KVM_CLOCK_REALTIME;
        out.realtime = realtime;
    }
    if let Some(host_tsc) = now.host_tsc {
        out.flags |= bindings::KVM_CLOCK_HOST_TSC;
        out.host_tsc = host_tsc;
    }
    copy::write(arg, &out)?;
    Ok(0)
}

/// KVM_SET_CLOCK (api.rst, 4.29). Of the flags only KVM_CLOCK_REALTIME means something: the others
/// are what KVM_GET_CLOCK returned.
pub(super) fn set<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let new: kvm_clock_data = copy::read(arg)?;
    if new.flags & !CLOCK_FLAGS != 0 {
        return Err(EINVAL);
    }
    let has_realtime = new.flags & bindings::KVM_CLOCK_REALTIME != 0;
    vm.set_clock(new.clock, has_realtime.then_some(new.realtime));
    Ok(0)
}

/// What a call does with a device attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// KVM_HAS_DEVICE_ATTR.
    Has,
    /// KVM_GET_DEVICE_ATTR.
    Get,
    /// KVM_SET_DEVICE_ATTR.
    Set,
}

/// Device attributes of a vCPU (api.rst, 4.80 to 4.82): KVM_VCPU_TSC_OFFSET.
pub(super) fn attribute<B: Backend>(
    cx: &mut Loaded<'_, B>,
    access: Access,
    arg: usize,
) -> Result<i32> {
    let attribute: kvm_device_attr = copy::read(arg)?;
    if attribute.group != bindings::KVM_VCPU_TSC_CTRL
        || attribute.attr != u64::from(bindings::KVM_VCPU_TSC_OFFSET)
    {
        return Err(ENXIO);
    }
    let place = attribute.addr as usize;
    match access {
        Access::Has => {}
        Access::Get => copy::write(place, &B::tsc_offset(cx))?,
        Access::Set => cx.vmm_sets_tsc_offset(copy::read(place)?),
    }
    Ok(0)
}

/// KVM_ENABLE_CAP on a vCPU (api.rst, 4.37): KVM_CAP_ENFORCE_PV_FEATURE_CPUID.
pub(super) fn enable_capability<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let capability: kvm_enable_cap = copy::read(arg)?;
    if capability.flags != 0 || capability.cap != bindings::KVM_CAP_ENFORCE_PV_FEATURE_CPUID {
        return Err(EINVAL);
    }
    cx.state.pv.enforce_cpuid = capability.args[0] != 0;
    Ok(0)
}
