// SPDX-License-Identifier: GPL-2.0

//! Hypercalls: a guest that knows it is one asks its hypervisor, as a process asks its kernel.
//!
//! That is paravirtualisation. The guest learns who is there from CPUID leaf 40000000h, which no
//! real CPU has, and calls with VMCALL: the number in RAX, arguments in RBX, RCX, RDX and RSI, the
//! answer in RAX (Documentation/virt/kvm/x86/hypercalls.rst).

use super::{bits, guest, Subject};

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    bits("CPUID says that a hypervisor is there (leaf 1, ECX bit 31)"),
    bits("CPUID leaf 40000000h: \"KVMK\""),
    bits("\"VMKV\""),
    bits("\"M\""),
    bits("VMCALL with KVM_HC_VAPIC_POLL_IRQ answers"),
    bits("VMCALL with a number nobody has answers -KVM_ENOSYS"),
    bits("sign-extended to 64 bits, upper half"),
    bits("the other registers of the call are untouched"),
];

guest! {
    /// The guest. Started in 64-bit mode.
    HYPERCALL, "hypercall", r#"
.code64
    movl    $1, %eax
    cpuid
    movl    %ecx, %eax
    shrl    $31, %eax
    expect  1

    movl    $0x40000000, %eax
    cpuid
    movl    %ebx, %eax
    expect  0x4b4d564b
    movl    %ecx, %eax
    expect  0x564b4d56
    movl    %edx, %eax
    expect  0x0000004d

    # Both calls are answered by the kernel. Between the markers the VMM must see nothing.
    movl    $0x1111, %ebx
    movl    $0x2222, %ecx
    movl    $0x3333, %edx
    movl    $0x4444, %esi
    outb    %al, ${MARK}
    movl    $1, %eax
    vmcall
    movq    %rax, %r8
    movl    $0xbad, %eax
    vmcall
    movq    %rax, %r9
    outb    %al, ${MARK}

    movl    %r8d, %eax
    expect  0
    movl    %r9d, %eax
    expect  -1000
    movq    %r9, %rax
    shrq    $32, %rax
    expect  0xffffffff
    leal    (%rbx,%rcx), %eax
    addl    %edx, %eax
    addl    %esi, %eax
    expect  0xaaaa
    done
    hlt
"#,
    MARK = const super::ports::MARK,
}
