// SPDX-License-Identifier: GPL-2.0

//! vCPUs: one VM, two of them, each a thread with a VMCS of its own.
//!
//! Memory is shared, registers are not: what a vCPU is while it does not run is the guest-state
//! area of its VMCS and the registers that the hypervisor keeps beside it. A VMCS can be loaded
//! on one CPU at a time, so when the scheduler moves the thread it is cleared there and loaded
//! here (SDM vol. 3, 25.1).

use super::{guest, number, Subject};

/// Guest-physical address of the counter that both vCPUs increment.
pub const COUNTER: u64 = 0x10_0000;
/// How often each vCPU increments it.
pub const INCREMENTS: u32 = 200;

/// What the guest checks, in order, on each vCPU.
pub const CHECKS: &[Subject] = &[
    number("increments of the shared counter by this vCPU"),
    number("general registers that were not this vCPU's own"),
    number("XMM0 is this vCPU's own, differs by"),
];

guest! {
    /// The guest. Started in 64-bit mode with the vCPU's number in RDX.
    THREADS, "threads", r#"
.code64
    movq    %cr4, %rax
    orl     $0x200, %eax                    # OSFXSR: SSE registers may be used
    movq    %rax, %cr4
    xorl    %edi, %edi
    xorl    %esi, %esi
    movl    ${COUNTER}, %ebx

    # A register's value is a number of its own times 1000h plus the vCPU's number.
    leaq    0x8000(%rdx), %r8
    leaq    0x9000(%rdx), %r9
    leaq    0xa000(%rdx), %r10
    leaq    0xb000(%rdx), %r11
    leaq    0xc000(%rdx), %r12
    leaq    0xd000(%rdx), %r13
    leaq    0xe000(%rdx), %r14
    leaq    0xf000(%rdx), %r15
    movq    %r15, %xmm0

threads.round:
    lock incl (%rbx)
    outb    %al, ${TURN}                    # the other vCPU runs, this thread may move

    .irp number, 8, 9, 10, 11, 12, 13, 14, 15
    leaq    (\number * 0x1000)(%rdx), %rax
    cmpq    %rax, %r\number
    setne   %al
    movzbl  %al, %eax
    addl    %eax, %esi
    .endr
    incl    %edi
    cmpl    ${INCREMENTS}, %edi
    jb      threads.round

    movl    %edi, %eax
    expect  {INCREMENTS}
    movl    %esi, %eax
    expect  0
    movq    %xmm0, %rax
    subl    %r15d, %eax
    expect  0
    done
    hlt
"#,
    COUNTER = const COUNTER,
    INCREMENTS = const INCREMENTS,
    TURN = const super::ports::TURN,
}
