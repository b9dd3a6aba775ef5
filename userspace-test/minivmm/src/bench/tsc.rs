// SPDX-License-Identifier: GPL-2.0

//! The host's time-stamp counter.

use std::arch::asm;

/// Reads it neither earlier nor later than here.
pub fn read() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: LFENCE is in every 64-bit CPU, and RDTSC changes EAX and EDX alone. Linux lets
    // programs read the counter unless they asked it not to.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    (u64::from(high) << 32) | u64::from(low)
}
