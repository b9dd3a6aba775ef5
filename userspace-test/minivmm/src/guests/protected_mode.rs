// SPDX-License-Identifier: GPL-2.0

//! Protected mode: segments become objects with a base, a limit and rights.
//!
//! The guest switches itself over, as an operating system does (SDM vol. 3, 10.9.1). VT-x keeps
//! all of it in the guest-state area of the VMCS: GDTR and IDTR, and for each segment register
//! the selector and the three hidden fields that the CPU loaded from the descriptor.
//!
//! Limits and rights are what this guest is about: it fails where the CPU is emulated by something
//! that leaves them unchecked, as QEMU without an accelerator does.

use super::{bits, guest, number, Subject};

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    bits("CR0.PE, protection enable, is set"),
    bits("CS holds a selector, and its low bits say ring 0"),
    bits("offset 10h of a segment with base 20000h is linear 20010h"),
    bits("a read past the segment's limit raises #GP, error code"),
    bits("a write to a code segment raises #GP, error code"),
    number("#GP handled by the guest itself, times"),
];

guest! {
    /// The guest.
    PROTECTED_MODE, "prot", r#"
.code16
    # No interrupt may come while the tables are half made.
    cli
    xorw    %ax, %ax
    movw    %ax, %ds
    lgdtl   prot.gdtr - prot.org
    lidtl   prot.idtr - prot.org

    # PE takes effect with the next instruction, but CS still holds what real mode loaded. Only a
    # far jump loads it from a descriptor, and with it the operand size of 32 bits.
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $0x08, $(prot.entry - prot.org)

.code32
prot.entry:
    movw    $0x10, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    ${LOAD}, %esp
    xorl    %ebp, %ebp                  # faults so far

    movl    %cr0, %eax
    andl    $1, %eax
    expect  1

    movl    %cs, %eax
    expect  0x08

    # The same byte through the flat segment and through the window.
    movb    $0x77, 0x20010
    movw    $0x18, %ax
    movw    %ax, %fs
    movzbl  %fs:0x10, %eax
    expect  0x77

    # The window ends at 0xff. The handler goes on where %edi says and leaves the error code in
    # %ecx, where there is -1 if no fault comes.
    movl    $-1, %ecx
    movl    $(prot.past_limit - prot.org), %edi
    movb    %fs:0x100, %al
prot.past_limit:
    movl    %ecx, %eax
    expect  0

    movl    $-1, %ecx
    movl    $(prot.code_write - prot.org), %edi
    movb    $0, %cs:0x20010
prot.code_write:
    movl    %ecx, %eax
    expect  0

    movl    %ebp, %eax
    expect  2
    done
    hlt

    # #GP pushes an error code above the return address, which is that of the instruction that
    # faulted: returning there would fault again.
prot.fault:
    popl    %ecx
    movl    %edi, (%esp)
    incl    %ebp
    iretl

    .balign 8
prot.gdt:
    .quad   0
    .quad   0x00cf9b000000ffff          # 0x08: code, base 0, limit 4 GiB, ring 0
    .quad   0x00cf93000000ffff          # 0x10: data, base 0, limit 4 GiB, ring 0
    .quad   0x00409302000000ff          # 0x18: data, base 0x20000, limit 0xff bytes
prot.gdtr:
    .word   prot.gdtr - prot.gdt - 1
    .long   prot.gdt - prot.org

    .balign 8
prot.idt:
    .fill   13, 8, 0
    .word   prot.fault - prot.org       # vector 13, #GP: a 32-bit interrupt gate
    .word   0x08, 0x8e00, 0
prot.idtr:
    .word   prot.idtr - prot.idt - 1
    .long   prot.idt - prot.org
"#
}
