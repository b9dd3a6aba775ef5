// SPDX-License-Identifier: GPL-2.0

//! Reset and start of a CPU by messages between local APICs, where KVM has none (SDM vol. 3,
//! 11.4.7.3 and 9.4.4).

use kvm_bindings::{kvm_regs, kvm_vcpu_events};
use kvm_ioctls::VcpuFd;

use super::vm::{self, Error};
use crate::boot::CpuState;

/// RFLAGS bit 1, which is always 1.
const RFLAGS_FIXED: u64 = 1 << 1;

/// INIT: registers as after power-on, nothing pending. FPU state and most MSRs stay as they are.
///
/// # Errors
///
/// What KVM refuses.
pub fn reset(vcpu: &VcpuFd, reset: &CpuState) -> Result<(), Error> {
    vm::set_state(vcpu, reset)?;
    vcpu.set_vcpu_events(&kvm_vcpu_events::default())
        .map_err(|source| Error::Call {
            call: "KVM_SET_VCPU_EVENTS",
            source,
        })
}

/// Start-up: real mode at the first byte of the page `page`.
///
/// # Errors
///
/// What KVM refuses.
pub fn at_page(vcpu: &VcpuFd, page: u8) -> Result<(), Error> {
    let mut sregs = vcpu.get_sregs().map_err(|source| Error::Call {
        call: "KVM_GET_SREGS",
        source,
    })?;
    sregs.cs.selector = u16::from(page) << 8;
    sregs.cs.base = u64::from(page) << 12;
    let regs = kvm_regs {
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    vm::set_state(vcpu, &CpuState { regs, sregs })
}
