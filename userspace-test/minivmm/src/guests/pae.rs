// SPDX-License-Identifier: GPL-2.0

//! PAE: 32-bit code reaches memory above 4 GiB, and pages may forbid execution.
//!
//! Entries are 64 bits wide, and a third level of four entries comes first. The CPU loads those
//! four when CR3 is written and keeps them: the VMCS has a field for each, which the VMM must keep
//! true with EPT (SDM vol. 3, 4.4 and 25.4.2).

use super::{bits, guest, Subject};

/// Guest-physical address of the memory that 32-bit paging could not reach.
pub const HIGH_MEMORY: u64 = 1 << 32;
/// What the guest leaves there for the VMM to find.
pub const HIGH_VALUE: u32 = 0xabcd_0004;

/// What the guest checks, in order.
pub const CHECKS: &[Subject] = &[
    bits("CR4.PAE is set"),
    bits("virtual 200000h is memory at physical 4 GiB, value read back"),
    bits("the same offset below 4 GiB is untouched"),
    bits("EFER.NXE, no-execute enable, is set"),
    bits("executing a no-execute page raises #PF, CR2"),
    bits("error code: present, instruction fetch"),
];

guest! {
    /// The guest.
    ///
    /// Pointer table at 0x20000, directory at 0x21000, page table of 0x400000 at 0x22000.
    PAE, "pae", r#"
.code16
    cli
    xorw    %ax, %ax
    movw    %ax, %ds
    lgdtl   pae.gdtr - pae.org
    lidtl   pae.idtr - pae.org
    movl    %cr0, %eax
    orl     $1, %eax
    movl    %eax, %cr0
    ljmpl   $0x08, $(pae.entry - pae.org)

.code32
pae.entry:
    movw    $0x10, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    ${LOAD}, %esp

    movl    $0x21001, 0x20000               # pointer 0: the directory (no rights here, P alone)
    movl    $0, 0x20004
    movl    $0x00000083, 0x21000            # 0x000000: a 2 MiB page at physical 0
    movl    $0, 0x21004
    movl    $0x00000083, 0x21008            # 0x200000: a 2 MiB page at physical 4 GiB,
    movl    $0x00000001, 0x2100c            #           whose bit 32 is in the upper half
    movl    $0x00022003, 0x21010            # 0x400000: a table of 4 KiB pages,
    movl    $0, 0x21014
    movl    $0x00030003, 0x22000            #           the first one is frame 0x30000
    movl    $0x80000000, 0x22004            #           with bit 63: no execution

    movl    $0xc0000080, %ecx               # IA32_EFER
    rdmsr
    orl     $0x800, %eax                    # NXE: bit 63 of an entry has a meaning
    wrmsr

    movl    %cr4, %eax
    orl     $0x20, %eax                     # PAE
    movl    %eax, %cr4
    movl    $0x20000, %eax
    movl    %eax, %cr3
    movl    %cr0, %eax
    orl     $0x80000000, %eax               # PG
    movl    %eax, %cr0

    movl    %cr4, %eax
    andl    $0x20, %eax
    expect  0x20

    movl    $0, 0x1000                      # what 0x201000 would be, were bit 32 lost
    movl    ${HIGH_VALUE}, 0x201000
    movl    0x201000, %eax
    expect  {HIGH_VALUE}
    movl    0x1000, %eax
    expect  0

    movl    $0xc0000080, %ecx
    rdmsr
    andl    $0x800, %eax
    expect  0x800

    # A RET lies in the page, so that a CPU that ignores bit 63 comes back without a fault.
    movb    $0xc3, 0x30000
    xorl    %esi, %esi
    xorl    %edx, %edx
    movl    $0x400000, %eax
    call    *%eax
    movl    %esi, %eax
    expect  0x400000
    movl    %edx, %eax
    expect  0x11
    done
    hlt

    # The page cannot be executed, so return to the caller of the page instead: its return address
    # lies on the stack below the exception's frame.
pae.fault:
    popl    %edx
    movl    %cr2, %esi
    movl    12(%esp), %eax
    movl    %eax, (%esp)
    iretl

    .balign 8
pae.gdt:
    .quad   0
    .quad   0x00cf9b000000ffff              # 0x08: flat code
    .quad   0x00cf93000000ffff              # 0x10: flat data
pae.gdtr:
    .word   pae.gdtr - pae.gdt - 1
    .long   pae.gdt - pae.org

    .balign 8
pae.idt:
    .fill   14, 8, 0
    .word   pae.fault - pae.org             # vector 14, #PF
    .word   0x08, 0x8e00, 0
pae.idtr:
    .word   pae.idtr - pae.idt - 1
    .long   pae.idt - pae.org
"#,
    HIGH_VALUE = const HIGH_VALUE,
}
