// SPDX-License-Identifier: GPL-2.0

//! The timer chip in the kernel: what a VMM does to it.

use kernel::prelude::*;

use super::copy;
use crate::{
    host::bindings::{
        kvm_pit_config,
        kvm_reinject_control,
        KVM_PIT_SPEAKER_DUMMY, //
    },
    vm::{
        Backend,
        Vm, //
    },
};

/// KVM_CREATE_PIT2 (api.rst, 4.71).
pub(super) fn create2<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let config: kvm_pit_config = copy::read(arg)?;
    vm.create_pit(config.flags & KVM_PIT_SPEAKER_DUMMY != 0)?;
    Ok(0)
}

/// KVM_REINJECT_CONTROL (api.rst, 4.67).
pub(super) fn reinject_control<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let control: kvm_reinject_control = copy::read(arg)?;
    vm.pit().ok_or(ENXIO)?.set_reinject(control.pit_reinject != 0);
    Ok(0)
}
