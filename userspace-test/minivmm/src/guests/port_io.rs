// SPDX-License-Identifier: GPL-2.0

//! Port I/O: IN and OUT leave the guest, and a device in the VMM answers.
//!
//! The exit qualification holds all the VMM needs: port, width, direction, string or not, rep or
//! not (SDM vol. 3, 28.2.1). For the string forms the data is in guest memory, which the kernel
//! reads or fills for the VMM.

use super::{bits, guest, number, Subject};

/// A latch of 8 bits that answers with the complement of what was written; 16 bits two ports
/// further on, and 32 bits four.
pub const LATCH: u16 = 0x510;
/// Takes text, and gives it back in capitals.
pub const TEXT: u16 = 0x520;
/// A queue of 32-bit words: first in, first out.
pub const QUEUE: u16 = 0x530;

/// The text that the guest sends to [`TEXT`].
pub const MESSAGE: &str = "hello from rep outsb";

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    bits("IN of 8 bits: the device answers with the complement of 5a"),
    bits("IN of 16 bits: complement of 1234, upper half of EAX kept"),
    bits("IN of 32 bits: complement of 12345678"),
    number("REP OUTSB and REP INSB: bytes that came back other than in capitals"),
    number("REP OUTSL and REP INSL: words that came back other than sent"),
    number("RDI after REP INSL has moved by bytes"),
];

guest! {
    /// The guest. Started in 64-bit mode.
    PORT_IO, "port", r#"
.code64
    cld
    movl    ${LATCH}, %edx
    movb    $0x5a, %al
    outb    %al, %dx
    xorl    %eax, %eax
    inb     %dx, %al
    expect  0xa5

    addl    $2, %edx
    movw    $0x1234, %ax
    outw    %ax, %dx
    movl    $0xffff0000, %eax
    inw     %dx, %ax
    expect  0xffffedcb

    addl    $2, %edx
    movl    $0x12345678, %eax
    outl    %eax, %dx
    inl     %dx, %eax
    expect  0xedcba987

    # Text out of guest memory and back in.
    movl    ${TEXT}, %edx
    leaq    port.text(%rip), %rsi
    movl    ${LENGTH}, %ecx
    rep outsb
    movl    $0x30000, %edi
    movl    ${LENGTH}, %ecx
    rep insb

    # Capitals are 0x20 below small letters; spaces stay.
    leaq    port.text(%rip), %rsi
    movl    $0x30000, %edi
    movl    ${LENGTH}, %ecx
    xorl    %ebx, %ebx
port.compare:
    lodsb
    cmpb    $0x20, %al
    je      port.same
    subb    $0x20, %al
port.same:
    scasb
    je      port.next
    incl    %ebx
port.next:
    loop    port.compare
    movl    %ebx, %eax
    expect  0

    movl    ${QUEUE}, %edx
    leaq    port.words(%rip), %rsi
    movl    $4, %ecx
    rep outsl
    movl    $0x30100, %edi
    movl    $4, %ecx
    rep insl
    movl    %edi, %r8d

    leaq    port.words(%rip), %rsi
    movl    $0x30100, %edi
    movl    $4, %ecx
    repe cmpsl
    setne   %al
    movzbl  %al, %eax
    addl    %ecx, %eax
    expect  0
    leal    -0x30100(%r8), %eax
    expect  16
    done
    hlt

port.text:
    .ascii  "hello from rep outsb"
port.words:
    .long   0x01020304, 0x05060708, 0x090a0b0c, 0x0d0e0f10
"#,
    LATCH = const LATCH,
    TEXT = const TEXT,
    QUEUE = const QUEUE,
    LENGTH = const MESSAGE.len(),
}
