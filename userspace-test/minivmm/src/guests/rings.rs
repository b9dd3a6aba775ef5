// SPDX-License-Identifier: GPL-2.0

//! Rings: ring 0 drops to ring 3, whose privileged instructions the guest's own kernel catches.
//!
//! VT-x puts the guest in "non-root operation" with all four rings of its own. The rings are the
//! guest's affair: #GP is delivered through the guest's IDT by the CPU and the hypervisor never
//! hears of it. Where an instruction would both fault for its privilege and exit, the fault comes
//! first (SDM vol. 3, 26.1.1): HLT in ring 3 is a #GP here, HLT in ring 0 an exit.

use super::{guest, number, Subject};

/// Rounds of [`PER_ROUND`] privileged instructions between the two markers.
pub const ROUNDS: u32 = 250;
/// Privileged instructions that ring 3 tries in a round.
pub const PER_ROUND: u32 = 4;

/// CPUIDs it executes for comparison.
pub const CPUIDS: u32 = 16;

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    number("ring of the code that IRET entered (low bits of CS)"),
    number("HLT, CLI, MOV from CR3 and WRMSR in ring 3: #GPs caught by ring 0 of the guest"),
    number("of them with another error code than 0 or from another ring"),
    number("INT 80h came back to ring 0 (low bits of CS)"),
    number("CPUID, which is not privileged, does exit: to the kernel, which answered"),
];

/// What the guest measures, in order.
pub const NOTES: &[Subject] = &[
    number("ticks from ring 3 to the #GP handler and back"),
    number("ticks of a CPUID exit"),
];

guest! {
    /// The guest. Started in 64-bit mode.
    RINGS, "rings", r#"
.code64
    # The descriptors are patched together here because a TSS's address is scattered over its
    # descriptor; this one lies below 64 KiB, which needs a single field.
    lgdtq   rings.gdtr(%rip)
    lidtq   rings.idtr(%rip)
    movw    $0x28, %ax
    ltr     %ax                             # where the CPU finds ring 0's stack

    # The VMM's page tables are for ring 0. Ring 3 may use a page that has the U bit at each of
    # its levels: the first 2 MiB, from here on.
    movq    %cr3, %rdi
    .rept   2
    orq     $4, (%rdi)
    movq    (%rdi), %rdi
    andq    $-4096, %rdi
    .endr
    orq     $4, (%rdi)
    movq    %cr3, %rax
    movq    %rax, %cr3                      # forget what was cached of them

    # Once to warm up: every page gets its EPT entry, which costs an exit each.
    movl    $1, %r13d
    call    rings.drop

    movl    ${ROUNDS}, %r13d
    xorl    %r14d, %r14d                    # #GPs
    xorl    %r15d, %r15d                    # #GPs that are not what they should be
    outb    %al, ${MARK}
    rdtsc
    movl    %eax, %ebx
    call    rings.drop
    rdtsc
    outb    %al, ${MARK}
    subl    %ebx, %eax
    movl    %eax, %ebx

    movl    %r12d, %eax                     # CS as ring 3 saw it
    andl    $3, %eax
    expect  3
    movl    %r14d, %eax
    expect  {TOTAL}
    movl    %r15d, %eax
    expect  0
    movl    %cs, %eax
    andl    $3, %eax
    expect  0

    xorl    %edx, %edx
    movl    %ebx, %eax
    movl    ${TOTAL}, %ecx
    divl    %ecx
    note

    # For comparison, the mean of some exits.
    rdtsc
    movl    %eax, %esi
    movl    ${CPUIDS}, %edi
rings.cpuid:
    xorl    %eax, %eax
    cpuid
    decl    %edi
    jnz     rings.cpuid
    movl    %eax, %r11d
    rdtsc
    subl    %esi, %eax
    xorl    %edx, %edx
    movl    ${CPUIDS}, %ecx
    divl    %ecx
    note
    testl   %r11d, %r11d                    # the highest leaf: never 0
    setne   %al
    movzbl  %al, %eax
    expect  1

    hlt                                     # ring 0: this one is an exit to the VMM
    done
    hlt

    # Drops to ring 3 and returns when that does INT 80h.
rings.drop:
    movq    %rsp, %rbp                      # for the way back
    pushq   $0x1b                           # SS: ring 3 data
    pushq   $0x6000                         # RSP
    pushq   $0x02                           # RFLAGS: IOPL 0, so that CLI is privileged too
    pushq   $0x23                           # CS: ring 3 code
    leaq    rings.user(%rip), %rax
    pushq   %rax
    iretq

    # Ring 3. %r10 tells the handler how long the instruction is that will fault.
rings.user:
    movl    %cs, %r12d
    movl    $1, %r10d
    hlt
    cli
    movl    $3, %r10d
    movq    %cr3, %rax
    movl    $2, %r10d
    wrmsr
    decl    %r13d
    jnz     rings.user
    int     $0x80

    # #GP, in ring 0, on the stack of the TSS.
rings.fault:
    popq    %rax                            # error code
    movq    8(%rsp), %rdx                   # CS of the interrupted code
    andl    $3, %edx
    xorl    $3, %edx
    orl     %edx, %eax
    cmpl    $1, %eax
    cmc
    adcl    $0, %r15d                       # one more if any bit was set
    incl    %r14d
    addq    %r10, (%rsp)                    # step over the instruction
    iretq

rings.back:
    movq    %rbp, %rsp
    ret

    .balign 8
rings.gdt:
    .quad   0
    .quad   0x00af9b000000ffff              # 0x08: 64-bit code, ring 0
    .quad   0x00cf93000000ffff              # 0x10: data, ring 0
    .quad   0x00cff3000000ffff              # 0x18: data, ring 3
    .quad   0x00affb000000ffff              # 0x20: 64-bit code, ring 3
    .word   103, rings.tss - rings.org      # 0x28: TSS, two entries long
    .word   0x8900, 0
    .quad   0
rings.gdtr:
    .word   rings.gdtr - rings.gdt - 1
    .quad   rings.gdt - rings.org

    .balign 16
rings.tss:
    .long   0
    .quad   0x7000                          # RSP0
    .fill   92, 1, 0

    .balign 16
rings.idt:
    .fill   26, 8, 0
    .word   rings.fault - rings.org         # vector 13, #GP
    .word   0x08, 0x8e00, 0
    .quad   0
    .fill   (0x80 - 14) * 2, 8, 0
    .word   rings.back - rings.org          # vector 80h, which ring 3 may call: DPL 3
    .word   0x08, 0xee00, 0
    .quad   0
rings.idtr:
    .word   rings.idtr - rings.idt - 1
    .quad   rings.idt - rings.org
"#,
    ROUNDS = const ROUNDS,
    CPUIDS = const CPUIDS,
    TOTAL = const ROUNDS * PER_ROUND,
    MARK = const super::ports::MARK,
}
