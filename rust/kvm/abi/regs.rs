// SPDX-License-Identifier: GPL-2.0

//! General-purpose and debug registers.

use kernel::prelude::*;

use super::copy;
use crate::{
    host::{
        abi_types::Plain,
        bindings::{
            self,
            kvm_debugregs,
            kvm_guest_debug,
            kvm_regs, //
        },
    },
    vm::{
        Backend,
        Loaded, //
    },
};

/// The fields of `kvm_regs` in the order in which x86 encodes registers.
fn fields(regs: &mut kvm_regs) -> [&mut u64; 16] {
    [
        &mut regs.rax,
        &mut regs.rcx,
        &mut regs.rdx,
        &mut regs.rbx,
        &mut regs.rsp,
        &mut regs.rbp,
        &mut regs.rsi,
        &mut regs.rdi,
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r11,
        &mut regs.r12,
        &mut regs.r13,
        &mut regs.r14,
        &mut regs.r15,
    ]
}

/// The general-purpose registers, RIP and RFLAGS.
pub(super) fn collect<B: Backend>(cx: &Loaded<'_, B>) -> kvm_regs {
    let mut regs = kvm_regs::zeroed();
    for (field, value) in fields(&mut regs).into_iter().zip(cx.all_regs()) {
        *field = value;
    }
    regs.rip = B::rip(cx);
    regs.rflags = cx.visible_rflags();
    regs
}

/// KVM_GET_REGS (api.rst, 4.11).
pub(super) fn get<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    copy::write(arg, &collect(cx))?;
    Ok(0)
}

/// Copies in the argument of KVM_SET_REGS.
pub(super) fn read(arg: usize) -> Result<kvm_regs> {
    copy::read(arg)
}

/// KVM_SET_REGS (api.rst, 4.12). A pending exception is forgotten, as it is with KVM.
pub(super) fn set<B: Backend>(cx: &mut Loaded<'_, B>, regs: &kvm_regs) {
    const RFLAGS_FIXED: u64 = 1 << 1;
    let mut regs = *regs;
    for (index, field) in fields(&mut regs).into_iter().enumerate() {
        cx.set_reg(index, *field);
    }
    B::set_rip(cx, regs.rip);
    cx.set_visible_rflags(regs.rflags | RFLAGS_FIXED);
    cx.state.events.exception = None;
}

/// KVM_GET_DEBUGREGS (api.rst, 4.33).
pub(super) fn get_debugregs<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    cx.show_payload();
    let mut regs = kvm_debugregs::zeroed();
    regs.db = cx.state.dr.db;
    regs.dr6 = cx.state.dr.dr6;
    regs.dr7 = cx.state.dr.dr7;
    copy::write(arg, &regs)?;
    Ok(0)
}

/// KVM_SET_DEBUGREGS (api.rst, 4.34).
pub(super) fn set_debugregs<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let regs: kvm_debugregs = copy::read(arg)?;
    if regs.flags != 0 || regs.dr6 >> 32 != 0 || regs.dr7 >> 32 != 0 {
        return Err(EINVAL);
    }
    cx.state.dr.db = regs.db;
    cx.state.dr.dr6 = regs.dr6;
    cx.state.dr.dr7 = regs.dr7;
    cx.update_dr7();
    Ok(0)
}

/// KVM_GUESTDBG_* that there are (KVM_CAP_SET_GUEST_DEBUG2).
pub(super) const GUEST_DEBUG_FLAGS: u32 = bindings::KVM_GUESTDBG_ENABLE
    | bindings::KVM_GUESTDBG_SINGLESTEP
    | bindings::KVM_GUESTDBG_USE_SW_BP
    | bindings::KVM_GUESTDBG_USE_HW_BP
    | bindings::KVM_GUESTDBG_INJECT_DB
    | bindings::KVM_GUESTDBG_INJECT_BP
    | bindings::KVM_GUESTDBG_BLOCKIRQ;

/// KVM_SET_GUEST_DEBUG (api.rst, 4.86).
pub(super) fn set_guest_debug<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let debug: kvm_guest_debug = copy::read(arg)?;
    let registers = debug.arch.debugreg;
    cx.set_guest_debug(
        debug.control,
        [registers[0], registers[1], registers[2], registers[3]],
        registers[7],
    )?;
    Ok(0)
}
