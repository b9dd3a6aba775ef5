// SPDX-License-Identifier: GPL-2.0

//! Real mode: where every x86 CPU wakes up.
//!
//! There is no protection and no paging. An address is `segment * 16 + offset`, and an interrupt
//! takes its handler from a table of far pointers at address 0 (SDM vol. 3, 21.1). Since CPUs with
//! "unrestricted guest" VT-x runs it directly; before that a VMM had to emulate it or to fake it
//! in virtual-8086 mode.

use super::{bits, guest, number, Subject};

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    bits("CR0.PE, protection enable, is clear"),
    bits("1234:0010 and 1000:2350 are the same byte"),
    bits("INT 21h reached the handler of the vector table"),
    number("INT pushed FLAGS, CS and IP: bytes of stack"),
];

guest! {
    /// The guest.
    REAL_MODE, "real", r#"
.code16
    # CS is 0 and IP is {LOAD}. A real machine promises nothing about the rest.
    xorw    %ax, %ax
    movw    %ax, %ss
    movw    ${LOAD}, %sp

    movl    %cr0, %eax
    andl    $1, %eax
    expect  0

    # One byte, two names: 0x1234 * 16 + 0x10 = 0x1000 * 16 + 0x2350 = 0x12350.
    movw    $0x1234, %ax
    movw    %ax, %ds
    movw    $0x1000, %ax
    movw    %ax, %es
    movb    $0x5a, %ds:0x10
    movzbl  %es:0x2350, %eax
    expect  0x5a

    # The vector table: four bytes a vector, offset first, then segment.
    xorw    %ax, %ax
    movw    %ax, %ds
    movw    $(real.handler - real.org), %ds:(0x21 * 4)
    movw    %ax, %ds:(0x21 * 4 + 2)
    movw    %sp, %bp
    int     $0x21
    expect  0x21212121

    movzwl  %cx, %eax
    expect  6
    done
    hlt

real.handler:
    movw    %bp, %cx
    subw    %sp, %cx
    movl    $0x21212121, %eax
    iretw
"#
}
