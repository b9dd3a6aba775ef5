// SPDX-License-Identifier: GPL-2.0

//! The timer chip in the kernel: what a VMM does to it.

use arch::pit::State;
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
    vm.pit()
        .ok_or(ENXIO)?
        .set_reinject(control.pit_reinject != 0);
    Ok(0)
}

/// KVM_GET_PIT (api.rst, 4.70) and KVM_GET_PIT2, whose structure goes on with flags.
pub(super) fn get<B: Backend>(vm: &Vm<B>, arg: usize, len: usize) -> Result<i32> {
    // The older one copies its argument in first, as its number says.
    if len == State::CHANNELS_SIZE {
        copy::read_bytes(arg, &mut [0; State::CHANNELS_SIZE])?;
    }
    let state = vm.pit().ok_or(ENXIO)?.save().to_bytes();
    copy::write_bytes(arg, state.get(..len).ok_or(EINVAL)?)?;
    Ok(0)
}

/// KVM_SET_PIT and KVM_SET_PIT2 (api.rst, 4.72): the older one leaves the flags as they are.
pub(super) fn set<B: Backend>(vm: &Vm<B>, arg: usize, len: usize) -> Result<i32> {
    let mut bytes = [0; State::SIZE];
    let given = bytes.get_mut(..len).ok_or(EINVAL)?;
    copy::read_bytes(arg, given)?;
    let pit = vm.pit().ok_or(ENXIO)?;
    let mut state = State::from_bytes(&bytes);
    if len == State::CHANNELS_SIZE {
        state.flags = pit.save().flags;
    }
    pit.restore(&state);
    Ok(0)
}
