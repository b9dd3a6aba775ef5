// SPDX-License-Identifier: GPL-2.0

//! Which pages of guest memory were written, and guest memory that is mapped before it is needed.

use kernel::prelude::*;

use super::copy;
use crate::{
    host::{
        abi_types::{
            bytes_of,
            bytes_of_mut, //
        },
        bindings::{
            kvm_clear_dirty_log,
            kvm_dirty_log,
            kvm_enable_cap,
            kvm_pre_fault_memory, //
        }, //
    },
    vm::{
        Backend,
        Clear,
        Loaded,
        Vm, //
    },
};

/// api.rst, 4.8 KVM_GET_DIRTY_LOG.
pub(super) fn get<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let log: kvm_dirty_log = copy::read(arg)?;
    let bitmap = log.bitmap();
    vm.memory.get_dirty_log(log.slot, |first, words| {
        copy::write_bytes(bitmap.wrapping_add(first * 8), bytes_of(words))
    })?;
    Ok(0)
}

/// api.rst, 4.117 KVM_CLEAR_DIRTY_LOG.
pub(super) fn clear<B: Backend>(vm: &Vm<B>, arg: usize) -> Result<i32> {
    let log: kvm_clear_dirty_log = copy::read(arg)?;
    let bitmap = log.bitmap();
    let clear = Clear {
        slot: log.slot,
        first_page: log.first_page,
        pages: log.num_pages.into(),
    };
    vm.memory.clear_dirty_log(&clear, |first, words| {
        copy::read_bytes(bitmap.wrapping_add(first * 8), bytes_of_mut(words))
    })?;
    Ok(0)
}

/// api.rst, 7.18 KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
pub(super) fn set_options<B: Backend>(vm: &Vm<B>, cap: &kvm_enable_cap) -> Result<i32> {
    vm.memory.set_log_options(cap.args[0])?;
    Ok(0)
}

/// api.rst, 7.36 KVM_CAP_DIRTY_LOG_RING.
pub(super) fn set_ring<B: Backend>(vm: &Vm<B>, cap: &kvm_enable_cap) -> Result<i32> {
    vm.set_dirty_ring(cap.args[0])?;
    Ok(0)
}

/// api.rst, 4.143 KVM_PRE_FAULT_MEMORY. What is left of the range goes back to the VMM, whether all
/// went well or not.
pub(super) fn pre_fault<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let mut range: kvm_pre_fault_memory = copy::read(arg)?;
    let result = if range.flags == 0 {
        cx.pre_fault(&mut range.gpa, &mut range.size)
    } else {
        Err(EINVAL)
    };
    copy::write(arg, &range)?;
    result.map(|()| 0)
}
