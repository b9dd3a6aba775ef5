// SPDX-License-Identifier: GPL-2.0

//! 32-bit paging: two levels of tables, 4 KiB pages and 4 MiB pages.
//!
//! The guest owns CR3 and its tables outright: with EPT neither a page fault nor a change of the
//! tables concerns the VMM. What the guest believes to be physical is translated once more by the
//! EPT (SDM vol. 3, 29.3), which is why two guests can both own "frame 0x30".

use super::{bits, guest, Subject};

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    bits("CR0.PG, paging, is set"),
    bits("two virtual pages, one frame: what one wrote the other reads"),
    bits("a 4 MiB page maps the same memory a third time"),
    bits("touching an absent page raises #PF, CR2"),
    bits("error code: absent, read, supervisor"),
    bits("the handler mapped the page and the read was done again"),
    bits("a write to a read-only page raises #PF with CR0.WP, error code"),
];

guest! {
    /// The guest.
    ///
    /// Page directory at 0x20000, page table of the first 4 MiB at 0x21000; the frame that
    /// everything looks at is 0x30000.
    PAGING32, "paging", r#"
.code16
    cli
    xorw    %ax, %ax
    movw    %ax, %ds
    lgdtl   paging.gdtr - paging.org
    lidtl   paging.idtr - paging.org
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $0x08, $(paging.entry - paging.org)

.code32
paging.entry:
    movw    $0x10, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    ${LOAD}, %esp

    # The first 4 MiB are mapped to themselves, or the very next instruction after setting PG
    # could not be fetched. An entry is a frame's address and rights: 3 is present and writable.
    movl    $0x21000, %edi
    movl    $0x003, %eax
    movl    $1024, %ecx
paging.fill:
    movl    %eax, (%edi)
    addl    $0x1000, %eax
    addl    $4, %edi
    loop    paging.fill

    movl    $0x30003, 0x21000 + 0x50 * 4    # virtual 0x50000: frame 0x30000 again
    movl    $0, 0x21000 + 0x51 * 4          # virtual 0x51000: absent
    movl    $0x30001, 0x21000 + 0x52 * 4    # virtual 0x52000: read-only
    movl    $0x21003, 0x20000               # directory entry 0: the table above
    movl    $0x00083, 0x20004               # directory entry 1: a 4 MiB page at physical 0

    movl    %cr4, %eax
    orl     $0x10, %eax                     # CR4.PSE: 4 MiB pages exist
    movl    %eax, %cr4
    movl    $0x20000, %eax
    movl    %eax, %cr3
    movl    %cr0, %eax
    orl     $0x80010000, %eax               # PG, and WP: ring 0 obeys read-only pages too
    movl    %eax, %cr0

    movl    %cr0, %eax
    shrl    $31, %eax
    expect  1

    movl    $0xcafe0001, 0x30000
    movl    0x50000, %eax
    expect  0xcafe0001

    movl    0x430000, %eax
    expect  0xcafe0001

    # Demand paging: the handler maps the page and IRET tries the instruction again. A VMM's EPT
    # violations are served by the same idea one level further down.
    movl    $-1, %edx
    xorl    %esi, %esi
    movl    0x51000, %ebx
    movl    %esi, %eax                      # the handler's CR2
    expect  0x51000
    movl    %edx, %eax                      # its error code
    expect  0
    movl    %ebx, %eax
    expect  0xcafe0001

    movl    $-1, %edx
    movl    $1, 0x52000
    movl    %edx, %eax
    expect  3
    done
    hlt

    # Makes the page at CR2 present, writable and an alias of frame 0x30000.
paging.fault:
    popl    %edx
    movl    %cr2, %esi
    movl    %esi, %eax
    shrl    $12, %eax
    movl    $0x30003, 0x21000(,%eax,4)
    invlpg  (%esi)
    iretl

    .balign 8
paging.gdt:
    .quad   0
    .quad   0x00cf9b000000ffff              # 0x08: flat code
    .quad   0x00cf93000000ffff              # 0x10: flat data
paging.gdtr:
    .word   paging.gdtr - paging.gdt - 1
    .long   paging.gdt - paging.org

    .balign 8
paging.idt:
    .fill   14, 8, 0
    .word   paging.fault - paging.org       # vector 14, #PF
    .word   0x08, 0x8e00, 0
paging.idtr:
    .word   paging.idtr - paging.idt - 1
    .long   paging.idt - paging.org
"#
}
