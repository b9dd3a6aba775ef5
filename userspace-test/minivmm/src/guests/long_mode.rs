// SPDX-License-Identifier: GPL-2.0

//! Long mode: 64-bit registers, four levels of tables, flat segments.
//!
//! The order of the steps is the architecture's (SDM vol. 3, 10.8.5): PAE, CR3, EFER.LME, then
//! paging, at which moment the CPU itself sets EFER.LMA. Under VT-x the VMM has a part in that
//! moment: "IA-32e mode guest" is a VM-entry control, and must agree with the guest's EFER.

use super::{bits, guest, number, Subject};

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    bits("EFER.LME, long mode enable, was set by the guest"),
    bits("EFER.LMA, long mode active, was set by the CPU with paging"),
    bits("registers have 64 bits: upper half of R15"),
    bits("an address relative to RIP finds its data"),
    bits("ffff800000030000 and 30000 are one frame through four levels"),
    bits("a non-canonical address raises #GP, error code"),
    number("vector frame is 64-bit: SS and RSP are pushed without a change of ring"),
];

guest! {
    /// The guest.
    ///
    /// PML4 at 0x20000, pointer table at 0x21000, directory at 0x22000.
    LONG_MODE, "long", r#"
.code16
    cli
    xorw    %ax, %ax
    movw    %ax, %ds
    lgdtl   long.gdtr - long.org
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $0x08, $(long.prepare - long.org)

    # 32-bit protected mode is only passed through.
.code32
long.prepare:
    movw    $0x10, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    ${LOAD}, %esp

    movl    $0x21003, 0x20000               # PML4 entry 0
    movl    $0, 0x20004
    movl    $0x21003, 0x20800               # PML4 entry 256: the same, at ffff800000000000
    movl    $0, 0x20804
    movl    $0x22003, 0x21000               # pointer 0
    movl    $0, 0x21004
    movl    $0x00083, 0x22000               # a 2 MiB page at physical 0
    movl    $0, 0x22004

    movl    %cr4, %eax
    orl     $0x20, %eax                     # PAE
    movl    %eax, %cr4
    movl    $0x20000, %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx               # IA32_EFER
    rdmsr
    orl     $0x100, %eax                    # LME
    wrmsr
    movl    %cr0, %eax
    orl     $0x80000000, %eax               # PG: long mode is active now, in its 32-bit
    movl    %eax, %cr0                      # compatibility form, until CS says otherwise
    ljmpl   $0x18, $(long.entry - long.org)

.code64
long.entry:
    lidtq   long.idtr(%rip)

    movl    $0xc0000080, %ecx
    rdmsr
    movl    %eax, %ebx
    andl    $0x100, %eax
    expect  0x100
    movl    %ebx, %eax
    andl    $0x400, %eax
    expect  0x400

    movabsq $0x0123456789abcdef, %r15
    movq    %r15, %rax
    shrq    $32, %rax
    expect  0x01234567

    movl    long.constant(%rip), %eax
    expect  0x00c0ffee

    movl    $0xcafe0004, 0x30000
    movabsq $0xffff800000030000, %rdi
    movl    (%rdi), %eax
    expect  0xcafe0004

    # Bits 63 to 47 must all be the same. This address has bit 47 alone.
    movabsq $0x0000800000000000, %rdi
    leaq    long.noncanonical(%rip), %rsi
    movl    $0xffffffff, %ecx
    movq    %rsp, %rbp
    movl    (%rdi), %eax
long.noncanonical:
    movl    %ecx, %eax
    expect  0
    movl    %ebx, %eax
    expect  40                              # SS, RSP, RFLAGS, CS, RIP
    done
    hlt

    # Goes on at %rsi. Leaves the error code in %ecx and the frame's size in %ebx.
long.fault:
    popq    %rcx
    movq    %rbp, %rbx
    andq    $-16, %rbx                      # the CPU aligns the stack before it pushes
    subq    %rsp, %rbx
    movq    %rsi, (%rsp)
    iretq

    .balign 8
long.constant:
    .long   0x00c0ffee, 0
long.gdt:
    .quad   0
    .quad   0x00cf9b000000ffff              # 0x08: flat 32-bit code
    .quad   0x00cf93000000ffff              # 0x10: flat data
    .quad   0x00af9b000000ffff              # 0x18: 64-bit code (L set, D clear)
long.gdtr:
    .word   long.gdtr - long.gdt - 1
    .long   long.gdt - long.org

    .balign 16
long.idt:
    .fill   26, 8, 0                        # 13 gates of 16 bytes
    .word   long.fault - long.org           # vector 13, #GP
    .word   0x18, 0x8e00, 0
    .quad   0
long.idtr:
    .word   long.idtr - long.idt - 1
    .quad   long.idt - long.org
"#
}
