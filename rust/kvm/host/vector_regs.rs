// SPDX-License-Identifier: GPL-2.0

//! XMM and YMM registers of a guest whose state is in the thread's place.

use core::arch::asm;

use super::{
    cpu::{
        IrqsOff,
        Pinned, //
    },
    fpu::GuestFpu, //
};

/// Calls `f` with the guest's values in the processor, and nobody to take them out.
fn with_registers<R>(fpu: &GuestFpu, f: impl FnOnce() -> R) -> R {
    assert!(fpu.is_loaded());
    let pinned = Pinned::new();
    let irqs_off = IrqsOff::new(&pinned);
    GuestFpu::refresh_registers(&irqs_off);
    f()
}

/// An instruction with the register of a number; the kernel's code uses none of them itself.
macro_rules! by_number {
    ($number:expr, $address:expr, $before:literal, $between:literal, $after:literal) => {
        by_number!(@ $number, $address, $before, $between, $after;
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@ $number:expr, $address:expr, $before:literal, $between:literal, $after:literal;
        $($n:literal)*) => {
        match $number {
            $(
                // SAFETY: The address is valid for 16 bytes, and the registers are the guest's.
                $n => unsafe {
                    asm!(
                        concat!($before, $n, $between, $n, $after),
                        in("rax") $address,
                        options(nostack, preserves_flags),
                    )
                },
            )*
            _ => {}
        }
    };
}

/// The low half of a register below 16.
pub(crate) fn xmm(fpu: &GuestFpu, number: u8) -> u128 {
    let mut value = 0u128;
    let address = &raw mut value;
    with_registers(fpu, || {
        by_number!(number, address, "movups [rax], xmm", "#", "")
    });
    value
}

/// Sets it and leaves the upper half.
pub(crate) fn set_xmm(fpu: &mut GuestFpu, number: u8, value: u128) {
    let address = &raw const value;
    with_registers(fpu, || {
        by_number!(number, address, "movups xmm", ", [rax] #", "")
    });
}

/// Bits 255 to 128 of a register below 16. The processor has AVX, and the kernel uses it.
pub(crate) fn ymm_high(fpu: &GuestFpu, number: u8) -> u128 {
    let mut value = 0u128;
    let address = &raw mut value;
    with_registers(fpu, || {
        by_number!(number, address, "vextractf128 [rax], ymm", ", 1 #", "")
    });
    value
}

/// Sets them, under the same conditions.
pub(crate) fn set_ymm_high(fpu: &mut GuestFpu, number: u8, value: u128) {
    let address = &raw const value;
    with_registers(fpu, || {
        by_number!(number, address, "vinsertf128 ymm", ", ymm", ", [rax], 1")
    });
}
