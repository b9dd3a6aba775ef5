// SPDX-License-Identifier: GPL-2.0

//! MMIO: an address without memory behind it is a device of the VMM.
//!
//! No slot covers the address, so its EPT entry is absent and the access is an EPT violation. The
//! exit tells the address and whether it was a read, but neither the width nor the register: for
//! those the kernel must read and decode the instruction (SDM vol. 3, 28.2.1 and 29.3.3).

use super::{bits, guest, number, Subject};

/// Guest-physical address of the device: below 4 GiB, above all guest memory.
pub const DEVICE: u64 = 0xd000_0000;
/// Offset of a register that answers with the complement of what was written, in any width.
pub const LATCH: u64 = 0x00;
/// Offset of a register that counts how often it was read.
pub const READS: u64 = 0x10;

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    bits("MOV of 8 bits to the device and back, complement of 5a"),
    bits("MOV of 16 bits, complement of 1234"),
    bits("MOV of 32 bits, complement of 12345678"),
    bits("MOV of 64 bits, complement of 0123456789abcdef, lower half"),
    bits("upper half"),
    number("no memory there: the second read of a counter differs from the first by"),
    bits("an address of memory, by the same instructions, stays memory"),
];

guest! {
    /// The guest. Started in 64-bit mode.
    MMIO, "mmio", r#"
.code64
    movl    ${DEVICE}, %edi

    movb    $0x5a, %al
    movb    %al, (%rdi)
    xorl    %eax, %eax
    movb    (%rdi), %al
    expect  0xa5

    movw    $0x1234, %ax
    movw    %ax, (%rdi)
    xorl    %eax, %eax
    movw    (%rdi), %ax
    expect  0xedcb

    movl    $0x12345678, %eax
    movl    %eax, (%rdi)
    movl    (%rdi), %eax
    expect  0xedcba987

    movabsq $0x0123456789abcdef, %rbx
    movq    %rbx, (%rdi)
    movq    (%rdi), %rbx
    movl    %ebx, %eax
    expect  0x76543210
    movq    %rbx, %rax
    shrq    $32, %rax
    expect  0xfedcba98

    movl    {READS}(%rdi), %ebx
    movl    {READS}(%rdi), %eax
    subl    %ebx, %eax
    expect  1

    movl    $0x30000, %edi
    movl    $0x12345678, %eax
    movl    %eax, (%rdi)
    movl    (%rdi), %eax
    expect  0x12345678
    done
    hlt
"#,
    DEVICE = const DEVICE,
    READS = const READS,
}
