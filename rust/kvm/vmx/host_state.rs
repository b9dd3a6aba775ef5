// SPDX-License-Identifier: GPL-2.0

//! The host-state area: the processor as an exit must leave it (SDM vol. 3, 25.5).

use arch::vmcs;

use super::{
    entry,
    vmcs::Vmcs, //
};
use crate::host::{
    thread::ThreadState,
    world, //
};

/// Writes what is the same on every CPU and in every thread.
pub(super) fn write_constant(vmcs: &Vmcs) {
    let host = world::HostState::read();

    vmcs.write(vmcs::HOST_CR0, host.cr0);
    vmcs.write(vmcs::HOST_CS_SELECTOR, host.cs);
    vmcs.write(vmcs::HOST_SS_SELECTOR, host.ss);
    vmcs.write(vmcs::HOST_TR_SELECTOR, host.tr);
    // The kernel does not use these; the thread's own are put back when it leaves.
    vmcs.write(vmcs::HOST_DS_SELECTOR, 0);
    vmcs.write(vmcs::HOST_ES_SELECTOR, 0);
    vmcs.write(vmcs::HOST_FS_SELECTOR, 0);
    vmcs.write(vmcs::HOST_GS_SELECTOR, 0);
    vmcs.write(vmcs::HOST_IDTR_BASE, host.idt_base);
    vmcs.write(vmcs::HOST_IA32_SYSENTER_CS, host.sysenter_cs);
    vmcs.write(vmcs::HOST_IA32_SYSENTER_EIP, host.sysenter_eip);
    vmcs.write(vmcs::HOST_IA32_PAT, host.pat);
    vmcs.write(vmcs::HOST_IA32_EFER, host.efer);
    vmcs.write(vmcs::HOST_RIP, entry::exit_address());
}

/// Writes what differs from CPU to CPU.
pub(super) fn write_cpu(vmcs: &Vmcs) {
    let cpu = world::CpuState::read();

    vmcs.write(vmcs::HOST_TR_BASE, cpu.tr_base);
    vmcs.write(vmcs::HOST_GDTR_BASE, cpu.gdt_base);
    vmcs.write(vmcs::HOST_GS_BASE, cpu.gs_base);
    vmcs.write(vmcs::HOST_IA32_SYSENTER_ESP, cpu.sysenter_esp);
}

/// Writes what differs from thread to thread.
pub(super) fn write_thread(vmcs: &Vmcs, thread: &ThreadState) {
    vmcs.write(vmcs::HOST_FS_BASE, thread.fs_base());
}
