// SPDX-License-Identifier: GPL-2.0

//! External interrupts, for a vCPU whose interrupts, or those of the 8259A, come from user space
//! (api.rst, 4.16 KVM_INTERRUPT).

use kvm_bindings::{kvm_interrupt, KVMIO};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// What the `kvm_run` page says about interrupts after a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Readiness {
    /// An interrupt can be queued now: none is waiting and the guest would take it at once.
    pub for_injection: bool,
    /// RFLAGS.IF.
    pub interrupt_flag: bool,
}

/// Reads [`Readiness`].
pub fn readiness(vcpu: &mut VcpuFd) -> Readiness {
    let run = vcpu.get_kvm_run();
    Readiness {
        for_injection: run.ready_for_interrupt_injection != 0,
        interrupt_flag: run.if_flag != 0,
    }
}

/// CR8 and IA32_APIC_BASE after a run.
pub fn apic_state(vcpu: &mut VcpuFd) -> (u64, u64) {
    let run = vcpu.get_kvm_run();
    (run.cr8, run.apic_base)
}

/// Sets CR8 for the next run, where KVM has no local APIC that keeps it.
pub fn set_cr8(vcpu: &mut VcpuFd, cr8: u64) {
    vcpu.get_kvm_run().cr8 = cr8;
}

/// Asks for an exit as soon as the guest can take an interrupt, or no longer does.
pub fn request_window(vcpu: &mut VcpuFd, wanted: bool) {
    vcpu.get_kvm_run().request_interrupt_window = u8::from(wanted);
}

/// Queues the interrupt `vector` for the next entry.
///
/// # Errors
///
/// The errno of KVM_INTERRUPT.
pub fn inject(vcpu: &VcpuFd, vector: u8) -> Result<(), errno::Error> {
    let interrupt = kvm_interrupt {
        irq: u32::from(vector),
    };
    // SAFETY: the descriptor is a vCPU's, the argument is what the call reads, and the result is
    // checked.
    match unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &interrupt) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}
