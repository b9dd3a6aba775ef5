// SPDX-License-Identifier: GPL-2.0
//! Every ioctl whose argument is memory, without that memory: EFAULT, and nothing is done.

use kvm_bindings::KVM_CAP_EXT_EMUL_CPUID;
use libc::EFAULT;

use super::tests;
use crate::devices::*;
use crate::expect;
use crate::machine::Machine;
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::vm::{Kvm, Vm};

tests! {
    "faults":
    of_the_system, of_a_vm, of_a_vm_with_devices, of_a_vcpu, of_a_vcpu_with_devices,
}

/// The argument is nowhere, and ends a byte behind where memory ends.
#[track_caller]
fn expect_faults(fd: &impl KvmFd, calls: &[(&str, u64)]) {
    for &(name, number) in calls {
        expect::errno(name, fd.fault(number), EFAULT);
        let size = (number >> 16) as usize & 0x3fff;
        if size > 1 && size <= PAGE {
            let page = Mapping::guarded(PAGE);
            let got = fd.at(number, &page, PAGE - size + 1);
            expect::errno(&format!("{name}, all but a byte"), got, EFAULT);
        }
    }
}

fn of_the_system() {
    let kvm = Kvm::open();
    expect_faults(
        &kvm,
        &[
            ("KVM_GET_SUPPORTED_CPUID", GET_SUPPORTED_CPUID.number),
            ("KVM_GET_MSR_INDEX_LIST", GET_MSR_INDEX_LIST.number),
            (
                "KVM_GET_MSR_FEATURE_INDEX_LIST",
                GET_MSR_FEATURE_INDEX_LIST.number,
            ),
            ("KVM_GET_MSRS", GET_MSRS.number),
        ],
    );
    if kvm.extension(KVM_CAP_EXT_EMUL_CPUID) != 0 {
        let call = ("KVM_GET_EMULATED_CPUID", GET_EMULATED_CPUID.number);
        expect_faults(&kvm, &[call]);
    }
}

/// Calls of any VM.
const OF_A_VM: &[(&str, u64)] = &[
    ("KVM_SET_USER_MEMORY_REGION", SET_USER_MEMORY_REGION.number),
    ("KVM_IRQFD", IRQFD.number),
    ("KVM_IOEVENTFD", IOEVENTFD.number),
    (
        "KVM_REGISTER_COALESCED_MMIO",
        REGISTER_COALESCED_MMIO.number,
    ),
    (
        "KVM_UNREGISTER_COALESCED_MMIO",
        UNREGISTER_COALESCED_MMIO.number,
    ),
    ("KVM_SET_GSI_ROUTING", SET_GSI_ROUTING.number),
    ("KVM_SIGNAL_MSI", SIGNAL_MSI.number),
    ("KVM_IRQ_LINE", IRQ_LINE.number),
    ("KVM_IRQ_LINE_STATUS", IRQ_LINE_STATUS.number),
    ("KVM_GET_IRQCHIP", GET_PIC.number),
    ("KVM_SET_IRQCHIP", SET_PIC.number),
    ("KVM_CREATE_PIT2", CREATE_PIT2.number),
    ("KVM_SET_PIT", SET_PIT.number),
    ("KVM_SET_PIT2", SET_PIT2.number),
    ("KVM_REINJECT_CONTROL", REINJECT_CONTROL.number),
    ("KVM_GET_CLOCK", GET_CLOCK.number),
    ("KVM_SET_CLOCK", SET_CLOCK.number),
    ("KVM_ENABLE_CAP", ENABLE_CAP.number),
];

fn of_a_vm() {
    let vm = Vm::new();
    expect_faults(&vm, OF_A_VM);
    let call = ("KVM_SET_IDENTITY_MAP_ADDR", SET_IDENTITY_MAP_ADDR.number);
    expect_faults(&vm, &[call]);
}

fn of_a_vm_with_devices() {
    let vm = Vm::with_irqchip();
    vm.create_pit2(0);
    expect_faults(&vm, OF_A_VM);
    let get = ("KVM_GET_PIT", GET_PIT.number);
    expect_faults(&vm, &[get, ("KVM_GET_PIT2", GET_PIT2.number)]);
    Machine::in_vm(vm, 1).cpu(0).nop();
}

/// Calls of any vCPU.
const OF_A_VCPU: &[(&str, u64)] = &[
    ("KVM_GET_REGS", GET_REGS.number),
    ("KVM_SET_REGS", SET_REGS.number),
    ("KVM_GET_SREGS", GET_SREGS.number),
    ("KVM_SET_SREGS", SET_SREGS.number),
    ("KVM_GET_SREGS2", GET_SREGS2.number),
    ("KVM_SET_SREGS2", SET_SREGS2.number),
    ("KVM_TRANSLATE", TRANSLATE.number),
    ("KVM_INTERRUPT", INTERRUPT.number),
    ("KVM_GET_MSRS", GET_MSRS.number),
    ("KVM_SET_MSRS", SET_MSRS.number),
    ("KVM_SET_SIGNAL_MASK", SET_SIGNAL_MASK.number),
    ("KVM_GET_FPU", GET_FPU.number),
    ("KVM_SET_FPU", SET_FPU.number),
    ("KVM_SET_CPUID2", SET_CPUID2.number),
    ("KVM_GET_CPUID2", GET_CPUID2.number),
    ("KVM_GET_MP_STATE", GET_MP_STATE.number),
    ("KVM_SET_MP_STATE", SET_MP_STATE.number),
    ("KVM_SET_GUEST_DEBUG", SET_GUEST_DEBUG.number),
    ("KVM_GET_VCPU_EVENTS", GET_VCPU_EVENTS.number),
    ("KVM_SET_VCPU_EVENTS", SET_VCPU_EVENTS.number),
    ("KVM_GET_DEBUGREGS", GET_DEBUGREGS.number),
    ("KVM_SET_DEBUGREGS", SET_DEBUGREGS.number),
    ("KVM_GET_XSAVE", GET_XSAVE.number),
    ("KVM_SET_XSAVE", SET_XSAVE.number),
    ("KVM_GET_XSAVE2", GET_XSAVE2),
    ("KVM_GET_XCRS", GET_XCRS.number),
    ("KVM_SET_XCRS", SET_XCRS.number),
    ("KVM_TPR_ACCESS_REPORTING", TPR_ACCESS_REPORTING.number),
    ("KVM_ENABLE_CAP", ENABLE_CAP.number),
    ("KVM_HAS_DEVICE_ATTR", HAS_DEVICE_ATTR.number),
    ("KVM_GET_DEVICE_ATTR", GET_DEVICE_ATTR.number),
    ("KVM_SET_DEVICE_ATTR", SET_DEVICE_ATTR.number),
];

fn of_a_vcpu() {
    let vm = Vm::new();
    expect_faults(&vm.create_vcpu(0), OF_A_VCPU);
}

fn of_a_vcpu_with_devices() {
    let machine = Machine::new(1);
    let vcpu = &machine.vcpus[0];
    expect_faults(vcpu, OF_A_VCPU);
    expect_faults(
        vcpu,
        &[
            ("KVM_GET_LAPIC", GET_LAPIC.number),
            ("KVM_SET_LAPIC", SET_LAPIC.number),
            ("KVM_SET_VAPIC_ADDR", SET_VAPIC_ADDR.number),
        ],
    );
    machine.cpu(0).nop();
}
