// SPDX-License-Identifier: GPL-2.0

//! Isolation: two machines use the same guest-physical addresses and never meet.
//!
//! Each VM has an EPT of its own: the same guest-physical address leads to different memory.
//! This guest fills a region with a pattern that only it uses, waits until the other has done the
//! same, and looks whether its own is still there, many times over.

use super::{guest, number, Subject};

/// First guest-physical address of the region, the same in both VMs.
pub const REGION: u64 = 0x10_0000;
/// Bytes in the region.
pub const REGION_SIZE: u64 = 0x1_0000;
/// How often the guest writes, waits and looks.
pub const PASSES: u32 = 64;

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    number("times the region was filled and looked at"),
    number("64-bit words that were not this VM's own"),
];

guest! {
    /// The guest. Started in 64-bit mode with its pattern in RDX.
    ISOLATION, "isolation", r#"
.code64
    xorl    %r8d, %r8d                      # passes
    xorl    %r9d, %r9d                      # words that differ
isolation.pass:
    # Word n holds pattern + pass + n.
    movl    ${REGION}, %edi
    movl    $({REGION_SIZE} / 8), %ecx
    leaq    (%rdx,%r8), %rax
isolation.fill:
    movq    %rax, (%rdi)
    incq    %rax
    addq    $8, %rdi
    decl    %ecx
    jnz     isolation.fill

    outb    %al, ${TURN}                    # returns when the other VM has filled its own

    movl    ${REGION}, %edi
    movl    $({REGION_SIZE} / 8), %ecx
    leaq    (%rdx,%r8), %rax
isolation.look:
    cmpq    %rax, (%rdi)
    je      isolation.right
    incl    %r9d
isolation.right:
    incq    %rax
    addq    $8, %rdi
    decl    %ecx
    jnz     isolation.look

    outb    %al, ${TURN}                    # and again before either starts over
    incl    %r8d
    cmpl    ${PASSES}, %r8d
    jb      isolation.pass

    movl    %r8d, %eax
    expect  {PASSES}
    movl    %r9d, %eax
    expect  0
    done
    hlt
"#,
    REGION = const REGION,
    REGION_SIZE = const REGION_SIZE,
    PASSES = const PASSES,
    TURN = const super::ports::TURN,
}
