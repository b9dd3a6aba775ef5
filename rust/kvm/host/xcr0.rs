// SPDX-License-Identifier: GPL-2.0

//! XCR0: which extended state XSAVE handles, for the guest or for the kernel.

use core::arch::asm;

use super::fpu::GuestFpu;

const CR4_OSXSAVE: u64 = 1 << 18;

/// What to put back, if anything was changed.
pub(crate) struct HostXcr0(Option<u64>);

/// Loads the guest's XCR0. A guest without CR4.OSXSAVE can neither see nor use it.
#[inline]
pub(crate) fn switch_to_guest(guest: u64, guest_cr4: u64) -> HostXcr0 {
    if guest_cr4 & CR4_OSXSAVE == 0 {
        return HostXcr0(None);
    }
    let host = GuestFpu::host_xcr0();
    if guest == host {
        return HostXcr0(None);
    }
    write(guest);
    HostXcr0(Some(host))
}

/// Puts the kernel's back.
#[inline]
pub(crate) fn switch_to_host(host: HostXcr0) {
    if let Some(value) = host.0 {
        write(value);
    }
}

fn write(value: u64) {
    // SAFETY: Interrupts are off until the kernel's value is back, so nobody saves extended state
    // under the guest's; the value was checked against what the processor and kernel support.
    unsafe {
        asm!(
            "xsetbv",
            in("ecx") 0,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack, nomem, preserves_flags),
        );
    }
}
