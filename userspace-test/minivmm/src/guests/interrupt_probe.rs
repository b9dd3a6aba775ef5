// SPDX-License-Identifier: GPL-2.0

//! Probes of the interrupt controllers in the kernel: guests that measure, in TSC ticks and from the
//! inside, what an access to them costs and how long an interrupt takes to its handler.
//!
//! As with the exits' probes ([`super::probe`]) the first half of the samples has nothing between
//! the two readings of the TSC. Started the same way, with the vCPU's number in R13 and the local
//! APIC on; the guest itself switches it to x2APIC mode (SDM vol. 3, 12.12).

use super::guest;
use super::probe::{probe, Probe};

/// The vector of every interrupt here.
pub const VECTOR: u8 = 0x30;
/// The port whose writing is an ioeventfd's event.
pub const EVENT_PORT: u16 = 0xe2;
/// The interrupt mask register of the first of the two PICs.
pub const PIC_MASK_PORT: u16 = 0x21;
/// IOWIN of the IOAPIC, which the MMIO probe reads.
pub const IOAPIC_WINDOW: u64 = 0xfec0_0010;

/// IA32_APIC_BASE.
const APIC_BASE: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
const TSC_DEADLINE: u32 = 0x6e0;
/// Registers of the local APIC as MSRs (SDM vol. 3, table 12-6).
const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SPURIOUS: u32 = 0x80f;
const X2APIC_COMMAND: u32 = 0x830;
const X2APIC_TIMER: u32 = 0x832;
const X2APIC_SELF_IPI: u32 = 0x83f;
/// LVT timer: mode 2, TSC deadline.
const TIMER_MODE_DEADLINE: u32 = 2 << 17;

/// Number, and APIC ID, of the vCPU that answers IPIs.
pub const IPI_ANSWERER: u8 = 1;

/// Defines a guest with a handler for [`VECTOR`]: what it does after the local APIC is ready, and
/// its handler.
///
/// The macros `begin` and `end` stand around what is measured, `end` stores the sample; `empty`
/// makes all samples of the first half; `eoi` ends the interrupt. RBX tells the rest of the guest
/// that the handler has run.
macro_rules! interrupt_guest {
    ($NAME:ident, $label:literal, $code:literal, $handler:literal
     $(, $operand:ident = const $value:expr)* $(,)?) => {
        guest! {
            /// A guest that measures an interrupt.
            $NAME, $label, concat!(
                ".code64\n",
                ".macro write_msr msr:req, low:req, high=0\n",
                "    movl $\\msr, %ecx\n",
                "    movl $\\low, %eax\n",
                "    movl $\\high, %edx\n",
                "    wrmsr\n",
                ".endm\n",
                ".macro begin\n",
                "    lfence\n",
                "    rdtsc\n",
                "    lfence\n",
                "    shlq $32, %rdx\n",
                "    leaq (%rdx,%rax), %r8\n",
                ".endm\n",
                ".macro end\n",
                "    lfence\n",
                "    rdtsc\n",
                "    shlq $32, %rdx\n",
                "    orq %rdx, %rax\n",
                "    subq %r8, %rax\n",
                "    movq %rax, (%rdi)\n",
                "    addq $8, %rdi\n",
                ".endm\n",
                ".macro empty\n",
                "    movq %rsi, %r9\n",
                "1:  begin\n",
                "    end\n",
                "    decq %r9\n",
                "    jnz 1b\n",
                ".endm\n",
                ".macro eoi\n",
                "    write_msr {X2APIC_EOI}, 0\n",
                ".endm\n",
                "    movl ${APIC_BASE}, %ecx\n",
                "    rdmsr\n",
                "    orl $0x400, %eax\n", // EXTD
                "    wrmsr\n",
                "    write_msr {X2APIC_SPURIOUS}, 0x1ff\n", // on, vector 0xff
                "    lidtq ", $label, ".idtr(%rip)\n",
                $code, "\n",
                "    done\n",
                "    hlt\n",
                $label, ".handler:\n",
                $handler, "\n",
                "    iretq\n",
                ".balign 16\n",
                $label, ".idt:\n",
                "    .fill 2 * {VECTOR}, 8, 0\n", // a gate is 16 bytes
                "    .word ", $label, ".handler - ", $label, ".org\n",
                "    .word {CODE}, 0x8e00, 0\n",
                "    .quad 0\n",
                $label, ".idtr:\n",
                "    .word ", $label, ".idtr - ", $label, ".idt - 1\n",
                "    .quad ", $label, ".idt - ", $label, ".org\n",
                ".purgem write_msr\n",
                ".purgem begin\n",
                ".purgem end\n",
                ".purgem empty\n",
                ".purgem eoi\n",
            ),
            APIC_BASE = const APIC_BASE,
            X2APIC_EOI = const X2APIC_EOI,
            X2APIC_SPURIOUS = const X2APIC_SPURIOUS,
            VECTOR = const VECTOR,
            CODE = const crate::boot::gdt::CODE_SELECTOR,
            $($operand = const $value,)*
        }
    };
}

// To the instruction after HLT, so with the handler and its EOI. The interrupt comes while they are
// off; STI lets it in after HLT at the earliest.
interrupt_guest!(
    SELF_IPI_HLT,
    "self_ipi_hlt",
    r#"
    empty
2:  begin
    write_msr {X2APIC_SELF_IPI}, {VECTOR}
    sti
    hlt
    end
    cli
    decq    %rsi
    jnz     2b"#,
    "eoi",
    X2APIC_SELF_IPI = const X2APIC_SELF_IPI,
);

// There and back: vCPU 0 sends one and halts, vCPU 1 is woken from HLT by it and sends one back,
// which wakes vCPU 0. To the first instruction of vCPU 0's handler.
interrupt_guest!(
    IPI,
    "ipi",
    r#"
    testq   %r13, %r13
    jnz     3f
    empty
2:  xorl    %ebx, %ebx
    begin
    write_msr {X2APIC_COMMAND}, {VECTOR}, {ANSWERER}
4:  sti
    hlt
    cli
    testl   %ebx, %ebx
    jz      4b
    decq    %rsi
    jnz     2b
    done
3:  outb    %al, ${TURN}                    # ready
    sti
5:  hlt
    jmp     5b"#,
    r#"
    testq   %r13, %r13
    jnz     6f
    end
    incl    %ebx
    eoi
    iretq
6:  write_msr {X2APIC_COMMAND}, {VECTOR}, 0
    eoi"#,
    X2APIC_COMMAND = const X2APIC_COMMAND,
    ANSWERER = const IPI_ANSWERER,
    TURN = const super::ports::TURN,
);

// The deadline is the reading of the TSC that begins the sample, so it is over when it is written.
interrupt_guest!(
    TSC_DEADLINE_TIMER,
    "tsc_deadline",
    r#"
    write_msr {X2APIC_TIMER}, ({TIMER_MODE_DEADLINE} + {VECTOR})
    empty
    sti
2:  xorl    %ebx, %ebx
    begin
    movl    ${TSC_DEADLINE}, %ecx
    movl    %r8d, %eax
    movq    %r8, %rdx
    shrq    $32, %rdx
    wrmsr
3:  testl   %ebx, %ebx
    jz      3b
    decq    %rsi
    jnz     2b
    cli"#,
    r#"
    end
    incl    %ebx
    eoi"#,
    X2APIC_TIMER = const X2APIC_TIMER,
    TIMER_MODE_DEADLINE = const TIMER_MODE_DEADLINE,
    TSC_DEADLINE = const TSC_DEADLINE,
);

// The eventfd that the port writes is the one that interrupts.
interrupt_guest!(
    IRQFD,
    "irqfd",
    r#"
    empty
    sti
2:  xorl    %ebx, %ebx
    begin
    outb    %al, ${EVENT_PORT}
3:  testl   %ebx, %ebx
    jz      3b
    decq    %rsi
    jnz     2b
    cli"#,
    r#"
    end
    incl    %ebx
    eoi"#,
    EVENT_PORT = const EVENT_PORT,
);

probe!(PIO_KERNEL, "pio_kernel", "", "", "inb ${PORT}, %al", "", PORT = const PIC_MASK_PORT);
probe!(MMIO_KERNEL, "mmio_kernel", "", "", "movl (%r12), %eax", "");
probe!(IOEVENTFD, "ioeventfd", "", "", "outb %al, ${PORT}", "", PORT = const EVENT_PORT);

/// All probes of this file, in the order of the table.
pub static ALL: [Probe; 7] = [
    Probe {
        exit: "self_ipi_hlt",
        meaning: "IPI to itself, STI, HLT, handler and its EOI",
        guest: &SELF_IPI_HLT,
    },
    Probe {
        exit: "ipi",
        meaning: "IPI to a halted vCPU and one back, to the handler",
        guest: &IPI,
    },
    Probe {
        exit: "tsc_deadline",
        meaning: "setting a deadline that is over, to the handler",
        guest: &TSC_DEADLINE_TIMER,
    },
    Probe {
        exit: "pio_kernel",
        meaning: "IN of 8 bits from the PIC in the kernel",
        guest: &PIO_KERNEL,
    },
    Probe {
        exit: "mmio_kernel",
        meaning: "MOV load of 32 bits from the IOAPIC in the kernel",
        guest: &MMIO_KERNEL,
    },
    Probe {
        exit: "ioeventfd",
        meaning: "OUT of 8 bits to an ioeventfd",
        guest: &IOEVENTFD,
    },
    Probe {
        exit: "irqfd",
        meaning: "OUT to an ioeventfd that is an irqfd (MSI), to the handler",
        guest: &IRQFD,
    },
];
