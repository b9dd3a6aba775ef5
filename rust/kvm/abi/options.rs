// SPDX-License-Identifier: GPL-2.0

//! KVM_ENABLE_CAP on a VM: what is but a choice (api.rst, 7).

use kernel::prelude::*;

use crate::{
    host::bindings,
    vm::{
        Backend,
        Switches,
        Vm, //
    },
};

/// Enables capability `cap` with its arguments.
///
/// # Errors
///
/// EINVAL for one that cannot be enabled, or not like that.
pub(super) fn enable<B: Backend>(vm: &Vm<B>, cap: u32, args: &[u64; 4]) -> Result<i32> {
    let value = args[0];
    let options = &vm.options;
    match cap {
        bindings::KVM_CAP_MSR_PLATFORM_INFO => {
            options.set(Switches::HIDES_PLATFORM_INFO, value == 0);
        }
        bindings::KVM_CAP_EXCEPTION_PAYLOAD => {
            options.set(Switches::EXCEPTION_PAYLOAD, value != 0);
        }
        bindings::KVM_CAP_X86_TRIPLE_FAULT_EVENT => {
            options.set(Switches::TRIPLE_FAULT_EVENT, value != 0);
        }
        bindings::KVM_CAP_EXIT_ON_EMULATION_FAILURE => {
            options.set(Switches::EXIT_ON_EMULATION_FAILURE, flags(value, 1)? != 0);
        }
        bindings::KVM_CAP_X86_USER_SPACE_MSR => {
            options.set_user_space_msr(flags(value, bindings::KVM_MSR_EXIT_REASON_VALID_MASK)?);
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// An argument that is made of the flags in `valid`.
fn flags(value: u64, valid: u32) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|value| value & !valid == 0)
        .ok_or(EINVAL)
}
