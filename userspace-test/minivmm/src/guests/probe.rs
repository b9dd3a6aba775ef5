// SPDX-License-Identifier: GPL-2.0

//! Probes: guests that measure what an exit costs, in TSC ticks, from the inside.
//!
//! Each reads the TSC, executes one instruction, reads the TSC again and stores the difference, a
//! fixed number of times. It does so twice: first without the instruction (the cost of measuring),
//! then with it. LFENCE keeps RDTSC from being executed out of order on a real CPU.
//!
//! Started in 64-bit mode with the samples' address in RDI, their number in RSI, and an address
//! for the instruction to use in R12.

use super::{guest, Guest};

/// The MSR of the RDMSR and WRMSR probes, IA32_MISC_ENABLE: one that every KVM knows, and emulates
/// instead of passing it through, so that an access always exits.
pub const MSR: u32 = 0x1a0;
/// The port of the port I/O probe.
pub const PORT: u16 = 0xe0;

/// A probe: the name of its exit, and its guest.
#[derive(Debug)]
pub struct Probe {
    /// The name in the tables.
    pub exit: &'static str,
    /// What it measures, for people.
    pub meaning: &'static str,
    /// The code.
    pub guest: &'static Guest,
}

/// Defines a probe's guest from what to do once, before each measurement's instruction, the
/// instruction, and after each measurement.
macro_rules! probe {
    ($NAME:ident, $label:literal, $once:literal, $before:literal, $instruction:literal, $after:literal
     $(, $operand:ident = const $value:expr)* $(,)?) => {
        guest! {
            /// A probe's guest.
            $NAME, $label, concat!(
                ".code64\n",
                $once, "\n",
                ".macro sample instruction\n",
                "    lfence\n",
                "    rdtsc\n",
                "    lfence\n",
                "    shlq $32, %rdx\n",
                "    leaq (%rdx,%rax), %r8\n",
                $before, "\n",
                "    \\instruction\n",
                "    lfence\n",
                "    rdtsc\n",
                "    shlq $32, %rdx\n",
                "    orq %rdx, %rax\n",
                "    subq %r8, %rax\n",
                "    movq %rax, (%rdi)\n",
                "    addq $8, %rdi\n",
                ".endm\n",
                "    movq %rsi, %r9\n",
                "1:\n",
                "    sample\n",
                "    decq %r9\n",
                "    jnz 1b\n",
                "2:\n",
                "    sample \"", $instruction, "\"\n",
                $after, "\n",
                "    decq %rsi\n",
                "    jnz 2b\n",
                ".purgem sample\n",
                "    done\n",
                "    hlt\n",
            ),
            $($operand = const $value,)*
        }
    };
}
pub(super) use probe;

probe!(CPUID, "cpuid", "", "xorl %eax, %eax", "cpuid", "");
probe!(HLT, "hlt", "", "", "hlt", "");
// No hypervisor has a call of this number.
probe!(VMCALL, "vmcall", "", "movl $0x7fff, %eax", "vmcall", "");
probe!(RDMSR, "rdmsr", "", "movl ${MSR}, %ecx", "rdmsr", "", MSR = const MSR);
// The MSR is written with what it holds.
probe!(
    WRMSR,
    "wrmsr",
    "movl ${MSR}, %ecx\n rdmsr\n movl %eax, %r10d\n movl %edx, %r11d",
    "movl ${MSR}, %ecx\n movl %r10d, %eax\n movl %r11d, %edx",
    "wrmsr",
    "",
    MSR = const MSR
);
probe!(PIO_USER, "pio_user", "", "", "inb ${PORT}, %al", "", PORT = const PORT);
probe!(MMIO_USER, "mmio_user", "", "", "movl (%r12), %eax", "");
probe!(
    EPT_FAULT,
    "ept_fault",
    "",
    "",
    "movq %rax, (%r12)",
    "addq $4096, %r12"
);

/// All probes, in the order of the table.
pub static ALL: [Probe; 8] = [
    Probe {
        exit: "cpuid",
        meaning: "CPUID, answered by the kernel",
        guest: &CPUID,
    },
    Probe {
        exit: "hlt",
        meaning: "HLT, to the VMM and back",
        guest: &HLT,
    },
    Probe {
        exit: "vmcall",
        meaning: "VMCALL with an unknown number",
        guest: &VMCALL,
    },
    Probe {
        exit: "rdmsr",
        meaning: "RDMSR of IA32_MISC_ENABLE",
        guest: &RDMSR,
    },
    Probe {
        exit: "wrmsr",
        meaning: "WRMSR of IA32_MISC_ENABLE",
        guest: &WRMSR,
    },
    Probe {
        exit: "pio_user",
        meaning: "IN of 8 bits, to the VMM and back",
        guest: &PIO_USER,
    },
    Probe {
        exit: "mmio_user",
        meaning: "MOV load of 32 bits, to the VMM and back",
        guest: &MMIO_USER,
    },
    Probe {
        exit: "ept_fault",
        meaning: "first store to a page the VMM already has",
        guest: &EPT_FAULT,
    },
];
