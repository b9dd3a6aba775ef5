// SPDX-License-Identifier: GPL-2.0

//! Execution, exit and entry controls: how the VMCS of a vCPU is set up, and those that change
//! while it runs (SDM vol. 3, 25.6 to 25.8).

use arch::{
    controls::{
        CpuBased,
        EptVpidCap,
        PinBased,
        Secondary, //
    },
    ept, vmcs,
};

use super::Vmx;
use crate::vm::Loaded;

/// CR0 bits that the guest changes without an exit: they are the same for the processor as for the
/// guest.
pub(super) const CR0_GUEST_OWNED: u64 = CR0_MP | CR0_EM | CR0_TS | CR0_WP | CR0_AM;
const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;

/// CR4 bits that the guest may change without an exit, if its CPUID offers them: VME, PVI, TSD, DE,
/// PSE, PGE, PCE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, SMEP, SMAP.
pub(super) const CR4_GUEST_OWNED: u64 =
    0x1f | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16 | 1 << 20 | 1 << 21;

/// PAUSEs closer together than this many cycles are one loop (KVM's default).
const PLE_GAP: u32 = 128;
/// Cycles that a loop of PAUSEs may take (KVM's default).
const PLE_WINDOW: u32 = 4096;

/// Writes all controls of a new vCPU.
pub(super) fn write(cx: &Loaded<'_, Vmx>) {
    let vmx = &cx.vm.backend;
    let capability = &vmx.capability;
    let f = &cx.vcpu.resident;

    f.write(
        vmcs::PIN_BASED_VM_EXEC_CONTROL,
        cx.state.hw.pin_based.bits(),
    );
    f.write(
        vmcs::CPU_BASED_VM_EXEC_CONTROL,
        cx.state.hw.cpu_based.bits(),
    );
    f.write(
        vmcs::SECONDARY_VM_EXEC_CONTROL,
        cx.state.hw.secondary.bits(),
    );
    f.write(vmcs::VM_EXIT_CONTROLS, capability.exit.got);
    f.write(vmcs::VM_ENTRY_CONTROLS, capability.entry.got);

    f.write(vmcs::PAGE_FAULT_ERROR_CODE_MASK, 0);
    f.write(vmcs::PAGE_FAULT_ERROR_CODE_MATCH, 0);
    f.write(vmcs::CR3_TARGET_COUNT, 0);
    f.write(vmcs::VM_EXIT_MSR_STORE_COUNT, 0);
    f.write(vmcs::VM_EXIT_MSR_LOAD_COUNT, 0);
    f.write(vmcs::VM_ENTRY_MSR_LOAD_COUNT, 0);
    f.write(vmcs::VM_ENTRY_INTR_INFO, 0);

    let bitmaps = &cx.vm.machine;
    f.write(vmcs::IO_BITMAP_A, bitmaps.io_a.hpa().0);
    f.write(vmcs::IO_BITMAP_B, bitmaps.io_b.hpa().0);
    f.write(vmcs::MSR_BITMAP, bitmaps.msr.hpa().0);

    f.write(vmcs::EPT_POINTER, cx.state.hw.eptp);
    if let Some(vpid) = &cx.state.hw.vpid {
        f.write(vmcs::VIRTUAL_PROCESSOR_ID, vpid.number());
    }
    if cx
        .state
        .hw
        .secondary
        .contains(Secondary::PAUSE_LOOP_EXITING)
    {
        f.write(vmcs::PLE_GAP, PLE_GAP);
        f.write(vmcs::PLE_WINDOW, PLE_WINDOW);
    }
    if cx.state.hw.secondary.contains(Secondary::USE_TSC_SCALING) {
        // 1.0 in 16.48 fixed point.
        f.write(vmcs::TSC_MULTIPLIER, 1 << 48);
    }
    f.write(vmcs::CR0_GUEST_HOST_MASK, !CR0_GUEST_OWNED);
    write_cr4_mask(cx);
}

/// The host owns all of CR4 but what the guest's CPUID offers and an exit would only waste time on.
pub(super) fn write_cr4_mask(cx: &Loaded<'_, Vmx>) {
    let owned =
        CR4_GUEST_OWNED & cx.state.cpuid.limits().cr4.bits() & cx.vm.backend.capability.cr4_fixed.1;
    cx.vcpu.resident.write(vmcs::CR4_GUEST_HOST_MASK, !owned);
}

/// The pointer to the VM's EPT.
pub(super) fn eptp(vmx: &Vmx, root: arch::addr::Hpa) -> u64 {
    let flags = vmx.capability.ept_vpid.contains(EptVpidCap::ACCESSED_DIRTY);
    ept::pointer(root, flags)
}

/// Turns a pin-based control on or off.
#[inline]
pub(super) fn set_pin_based(cx: &mut Loaded<'_, Vmx>, control: PinBased, on: bool) {
    let old = cx.state.hw.pin_based;
    let mut new = old;
    new.set(control, on);
    if new != old {
        cx.state.hw.pin_based = new;
        cx.vcpu
            .resident
            .write(vmcs::PIN_BASED_VM_EXEC_CONTROL, new.bits());
    }
}

/// Turns a primary processor-based control on or off.
pub(super) fn set_cpu_based(cx: &mut Loaded<'_, Vmx>, control: CpuBased, on: bool) {
    let old = cx.state.hw.cpu_based;
    let mut new = old;
    new.set(control, on);
    if new != old {
        cx.state.hw.cpu_based = new;
        cx.vcpu
            .resident
            .write(vmcs::CPU_BASED_VM_EXEC_CONTROL, new.bits());
    }
}

/// Turns a secondary control on or off.
pub(super) fn set_secondary(cx: &mut Loaded<'_, Vmx>, control: Secondary, on: bool) {
    let old = cx.state.hw.secondary;
    let mut new = old;
    new.set(control, on && cx.vm.backend.capability.has(control));
    if new != old {
        cx.state.hw.secondary = new;
        cx.vcpu
            .resident
            .write(vmcs::SECONDARY_VM_EXEC_CONTROL, new.bits());
    }
}
