// SPDX-License-Identifier: GPL-2.0

//! KVM_ENABLE_CAP on a VM: what is but a choice (api.rst, 7).

use kernel::prelude::*;

use crate::{
    host::{
        bindings,
        cpu,
        thread, //
    },
    vm::{
        Backend,
        DisabledExits,
        Switches,
        Vm,
        SUPPORTED_QUIRKS, //
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
        bindings::KVM_CAP_X86_DISABLE_EXITS => {
            let exits = flags(value, allowed_disabled_exits())?;
            vm.disable_exits(DisabledExits::from_bits_retain(exits))?;
        }
        bindings::KVM_CAP_EXIT_HYPERCALL => {
            options.set_hypercall_exits(flags(value, HYPERCALL_EXITS)?);
        }
        bindings::KVM_CAP_HALT_POLL => {
            options.set_halt_poll(u32::try_from(value).map_err(|_| EINVAL)?);
        }
        // What is no quirk here is forgiven, unlike with KVM_CAP_DISABLE_QUIRKS2.
        bindings::KVM_CAP_DISABLE_QUIRKS => {
            vm.disable_quirks(value & u64::from(SUPPORTED_QUIRKS))?;
        }
        bindings::KVM_CAP_MAX_VCPU_ID => vm.set_max_vcpu_id(value)?,
        // The processor never says that a guest has locked the bus: there is nothing to turn on.
        bindings::KVM_CAP_X86_BUS_LOCK_EXIT => {
            const BOTH: u32 =
                bindings::KVM_BUS_LOCK_DETECTION_OFF | bindings::KVM_BUS_LOCK_DETECTION_EXIT;
            if flags(value, BOTH)? == BOTH {
                return Err(EINVAL);
            }
        }
        // Large pages are always executable: KVM's way around a defect of old processors, which
        // this would turn off, is not there.
        bindings::KVM_CAP_VM_DISABLE_NX_HUGE_PAGES => {
            if !thread::may_reboot() {
                return Err(EPERM);
            }
            if value != 0 || vm.has_vcpus() {
                return Err(EINVAL);
            }
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// The hypercalls that a VMM may serve (KVM_CAP_EXIT_HYPERCALL), a bit each.
pub(super) const HYPERCALL_EXITS: u32 = 1 << bindings::KVM_HC_MAP_GPA_RANGE;

/// What guests can be let do without an exit (KVM_CAP_X86_DISABLE_EXITS).
pub(super) fn allowed_disabled_exits() -> u32 {
    const MONITOR: u32 = 1 << 3;
    const ARAT: u32 = 1 << 2;
    const APERFMPERF: u32 = 1 << 0;
    let power = cpu::cpuid(6, 0);
    let mut allowed = DisabledExits::PAUSE | DisabledExits::HLT | DisabledExits::CSTATE;
    // A timer that stops while the guest has the processor sleep would wake nobody.
    let can_wait = cpu::cpuid(1, 0)[2] & MONITOR != 0 && power[0] & ARAT != 0;
    allowed.set(DisabledExits::MWAIT, can_wait);
    allowed.set(DisabledExits::APERFMPERF, power[2] & APERFMPERF != 0);
    allowed.bits()
}

/// An argument that is made of the flags in `valid`.
fn flags(value: u64, valid: u32) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|value| value & !valid == 0)
        .ok_or(EINVAL)
}
