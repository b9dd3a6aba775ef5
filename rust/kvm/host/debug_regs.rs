// SPDX-License-Identifier: GPL-2.0

//! The processor's breakpoint registers, which guests and the kernel's debuggers share.

use core::arch::asm;

use super::{
    bindings,
    cpu::IrqsOff, //
};

/// Loads DR0 to DR3. DR7 is off meanwhile: an entry loads the guest's.
pub(crate) fn load(db: &[u64; 4], _irqs_off: &IrqsOff<'_>) {
    // SAFETY: With DR7 off, nothing in DR0 to DR3 has an effect; `restore_host` puts the kernel's
    // back before interrupts are on.
    unsafe {
        asm!("mov dr7, {}", in(reg) 0x400u64, options(nostack, nomem, preserves_flags));
        asm!("mov dr0, {}", in(reg) db[0], options(nostack, nomem, preserves_flags));
        asm!("mov dr1, {}", in(reg) db[1], options(nostack, nomem, preserves_flags));
        asm!("mov dr2, {}", in(reg) db[2], options(nostack, nomem, preserves_flags));
        asm!("mov dr3, {}", in(reg) db[3], options(nostack, nomem, preserves_flags));
    }
}

/// Puts the kernel's breakpoints back, if it has any. Exits leave DR7 off.
#[inline]
pub(crate) fn restore_host(_irqs_off: &IrqsOff<'_>) {
    // SAFETY: Interrupts are off.
    unsafe {
        if bindings::shim_hw_breakpoint_active() {
            bindings::shim_hw_breakpoint_restore();
        }
    }
}
