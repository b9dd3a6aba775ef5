// SPDX-License-Identifier: GPL-2.0

//! Entering a guest, and what is done on both sides of it (SDM vol. 3, chapters 27 and 28).

use core::arch::asm;

use arch::{
    controls::EptVpidCap,
    exit::ExitReason,
    vmcs, //
};

use super::{
    apic,
    exit,
    instructions,
    vmcs::Vmcs,
    Vmx, //
};
use crate::{
    host::{
        cpu::{
            self,
            IrqsOff, //
        },
        guest_mode::GuestTime,
        speculation, //
    },
    vm::{
        backend::Exit,
        Loaded, //
    },
};

const IA32_DEBUGCTL: u32 = 0x1d9;

extern "C" {
    fn minikvm_vmx_enter(registers: *mut u64, launched: bool) -> bool;
    fn minikvm_vmx_exit();
}

/// Where an exit goes on: the host's RIP.
pub(super) fn exit_address() -> u64 {
    minikvm_vmx_exit as usize as u64
}

#[inline(always)]
pub(super) fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: Reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Loads CR2, which entries and exits leave alone. Interrupts are off until the guest runs.
#[inline(always)]
pub(super) fn write_cr2(value: u64) {
    // SAFETY: The kernel reads CR2 in its page-fault handler only, after a fault has written it.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// The last things before the inner loop: what may have changed while interrupts were on.
#[inline]
pub(super) fn begin(cx: &mut Loaded<'_, Vmx>, irqs_off: &IrqsOff<'_>) {
    let f = &cx.vcpu.resident;
    let hw = &mut cx.state.hw;

    let cr3 = cpu::cr3(irqs_off);
    if cr3 != hw.host_cr3 {
        f.write(vmcs::HOST_CR3, cr3);
        hw.host_cr3 = cr3;
    }
    let cr4 = cpu::cr4();
    if cr4 != hw.host_cr4 {
        f.write(vmcs::HOST_CR4, cr4);
        hw.host_cr4 = cr4;
    }

    let eptp = hw.eptp;
    let capability = &cx.vm.backend.capability;
    cx.vm.memory.flush_if_stale(cpu::current(), || {
        let single = capability
            .ept_vpid
            .contains(EptVpidCap::INVEPT_SINGLE_CONTEXT);
        // SAFETY: In VMX operation; the capability check saw one of the two.
        unsafe { instructions::invept(single.then_some(eptp)) };
    });
    if f.take_moved() || hw.flush_guest_tlb {
        hw.flush_guest_tlb = false;
        // Without a VPID every entry flushes.
        if let Some(vpid) = &hw.vpid {
            // SAFETY: In VMX operation; VPIDs are used only where this is supported.
            unsafe { instructions::invvpid(Some(vpid.number())) };
        }
    }

    // SAFETY: Every processor with VT-x has the MSR: exits clear it.
    hw.host_debugctl = unsafe { cpu::rdmsr_unchecked(IA32_DEBUGCTL) };
    if read_cr2() != cx.state.cr2 {
        write_cr2(cx.state.cr2);
    }
    speculation::flush_l1d(irqs_off);
}

/// Runs the guest once.
#[inline(always)]
pub(super) fn enter(cx: &mut Loaded<'_, Vmx>) -> Exit {
    apic::prepare_entry(cx);
    let f = &cx.vcpu.resident;

    // SAFETY: The VMCS is current, interrupts are off, and the host-state area is what this CPU
    // and thread need.
    if unsafe { minikvm_vmx_enter(cx.state.regs.as_mut_ptr(), f.is_launched()) } {
        return Exit::EntryFailed {
            reason: f.read(vmcs::VM_INSTRUCTION_ERROR).into(),
        };
    }

    let reason = ExitReason(f.read(vmcs::VM_EXIT_REASON));
    if reason.is_entry_failure() {
        return Exit::EntryFailed {
            reason: reason.0.into(),
        };
    }
    f.set_launched();
    exit::decode(cx, reason.basic())
}

/// The first things after the inner loop.
#[inline]
pub(super) fn finish(cx: &mut Loaded<'_, Vmx>, time: &GuestTime<'_>) {
    cx.state.cr2 = read_cr2();
    let hw = &mut cx.state.hw;
    if hw.host_debugctl != 0 {
        // An exit clears it.
        // SAFETY: The kernel's own value, read before the entry.
        unsafe { cpu::wrmsr_unchecked(IA32_DEBUGCTL, hw.host_debugctl) };
    }
    if let Some(vector) = hw.host_interrupt.take() {
        time.handle_interrupt(vector);
    }
    if core::mem::take(&mut hw.machine_check) {
        time.handle_machine_check();
    }
}

/// Whether the trap flag is set: then emulated instructions end in a debug exception too.
#[inline]
fn traps(f: &Vmcs) -> bool {
    const RFLAGS_TF: u64 = 1 << 8;
    f.read(vmcs::GUEST_RFLAGS) & RFLAGS_TF != 0
}

/// BS among the debug exceptions that wait for the next entry (SDM vol. 3, 25.4.2).
const PENDING_SINGLE_STEP: u64 = 1 << 14;

/// Takes the single-step trap from the debug exceptions that wait, if it is alone.
pub(super) fn take_single_step(f: &Vmcs) -> bool {
    let alone = f.read(vmcs::GUEST_PENDING_DBG_EXCEPTIONS) == PENDING_SINGLE_STEP;
    if alone {
        f.write(vmcs::GUEST_PENDING_DBG_EXCEPTIONS, 0);
    }
    alone
}

/// Goes on `length` bytes further: what an instruction does beside its work.
#[inline]
pub(super) fn skip(cx: &Loaded<'_, Vmx>, length: u64) {
    const SHADOW: u32 = super::guest_state::BLOCKED_BY_STI | super::guest_state::BLOCKED_BY_MOV_SS;
    let f = &cx.vcpu.resident;

    let old = f.read(vmcs::GUEST_RIP);
    let mut new = old.wrapping_add(length);
    // Outside 64-bit mode RIP wraps at 4 GiB.
    if (old ^ new) >> 32 != 0 && !cx.is_64_bit_mode() {
        new &= 0xffff_ffff;
    }
    f.write(vmcs::GUEST_RIP, new);

    let interruptibility = f.read(vmcs::GUEST_INTERRUPTIBILITY);
    if interruptibility & SHADOW != 0 {
        f.write(vmcs::GUEST_INTERRUPTIBILITY, interruptibility & !SHADOW);
    }
    if traps(f) {
        let pending = f.read(vmcs::GUEST_PENDING_DBG_EXCEPTIONS);
        f.write(
            vmcs::GUEST_PENDING_DBG_EXCEPTIONS,
            pending | PENDING_SINGLE_STEP,
        );
    }
}
