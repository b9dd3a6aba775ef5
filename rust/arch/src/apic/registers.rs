// SPDX-License-Identifier: GPL-2.0

//! The register page (SDM vol. 3, table 11-1).

use core::sync::atomic::{AtomicU32, Ordering};

/// A register, by its offset in the page. An offset past the page wraps around.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register(pub u32);

impl Register {
    /// The APIC's id: in bits 31 to 24, in x2APIC mode in all.
    pub const ID: Self = Self(0x20);
    /// Version, and what there is.
    pub const VERSION: Self = Self(0x30);
    /// Task priority.
    pub const TPR: Self = Self(0x80);
    /// Arbitration priority.
    pub const APR: Self = Self(0x90);
    /// Processor priority.
    pub const PPR: Self = Self(0xa0);
    /// End of interrupt; write-only.
    pub const EOI: Self = Self(0xb0);
    /// Logical destination.
    pub const LDR: Self = Self(0xd0);
    /// Destination format: flat or cluster; not in x2APIC mode.
    pub const DFR: Self = Self(0xe0);
    /// Spurious-interrupt vector, and the software enable bit.
    pub const SVR: Self = Self(0xf0);
    /// In service: the first of 8.
    pub const ISR: Self = Self(0x100);
    /// Trigger mode: the first of 8.
    pub const TMR: Self = Self(0x180);
    /// Interrupt request: the first of 8.
    pub const IRR: Self = Self(0x200);
    /// Error status.
    pub const ESR: Self = Self(0x280);
    /// LVT: corrected machine checks.
    pub const LVT_CMCI: Self = Self(0x2f0);
    /// Interrupt command; in x2APIC mode all 64 bits, here and in the 4 bytes that follow.
    pub const ICR: Self = Self(0x300);
    /// High half of the interrupt command: the destination; not in x2APIC mode.
    pub const ICR2: Self = Self(0x310);
    /// LVT: timer.
    pub const LVT_TIMER: Self = Self(0x320);
    /// LVT: thermal sensor.
    pub const LVT_THERMAL: Self = Self(0x330);
    /// LVT: performance counters.
    pub const LVT_PMC: Self = Self(0x340);
    /// LVT: pin LINT0, where a PC's 8259A is.
    pub const LVT_LINT0: Self = Self(0x350);
    /// LVT: pin LINT1, where a PC's NMI is.
    pub const LVT_LINT1: Self = Self(0x360);
    /// LVT: APIC errors.
    pub const LVT_ERROR: Self = Self(0x370);
    /// Timer: initial count.
    pub const TMICT: Self = Self(0x380);
    /// Timer: current count; read-only.
    pub const TMCCT: Self = Self(0x390);
    /// Timer: divide configuration.
    pub const TDCR: Self = Self(0x3e0);
    /// Self-IPI; write-only, only in x2APIC mode.
    pub const SELF_IPI: Self = Self(0x3f0);

    /// The high half of the 64-bit [`Self::ICR`].
    pub(super) const ICR_HIGH: Self = Self(0x304);

    /// The register of a 256-bit group (ISR, TMR, IRR) that has `vector`'s bit.
    #[inline]
    pub const fn word_of(self, vector: u8) -> Self {
        self.word((vector >> 5) as u32)
    }

    /// The `index`th register of a 256-bit group.
    #[inline]
    pub const fn word(self, index: u32) -> Self {
        Self(self.0.wrapping_add(index.wrapping_mul(0x10)))
    }
}

/// `vector`'s bit in its [`Register::word_of`].
#[inline]
pub(super) const fn bit_of(vector: u8) -> u32 {
    1 << (vector & 31)
}

/// The register page: a 32-bit register every 16 bytes.
///
/// Written by several threads and, with APIC virtualisation, by the processor, hence atomics. All
/// are relaxed: what orders them is said where order matters.
#[repr(C, align(4096))]
pub struct Registers([AtomicU32; 1024]);

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

impl Registers {
    /// A page of zeroes.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; 1024])
    }

    /// The 32 bits at a register's offset, to be changed atomically.
    #[inline]
    pub fn cell(&self, register: Register) -> &AtomicU32 {
        &self.0[(register.0 >> 2) as usize & 1023]
    }

    /// Reads a register.
    #[inline]
    pub fn load(&self, register: Register) -> u32 {
        self.cell(register).load(Ordering::Relaxed)
    }

    /// Writes a register.
    #[inline]
    pub fn store(&self, register: Register, value: u32) {
        self.cell(register).store(value, Ordering::Relaxed);
    }

    /// Whether `vector`'s bit is set in the group that begins at `group`.
    #[inline]
    pub fn has(&self, group: Register, vector: u8) -> bool {
        self.load(group.word_of(vector)) & bit_of(vector) != 0
    }

    /// The highest vector whose bit is set in the group that begins at `group`: looks at each word.
    pub fn highest(&self, group: Register) -> Option<u8> {
        (0..8).rev().find_map(|index| {
            let word = self.load(group.word(index));
            (word != 0).then(|| highest_in(index, word))
        })
    }
}

/// The highest vector of word `index` (0 to 7) of a group, which is not zero.
#[inline]
pub(super) const fn highest_in(index: u32, word: u32) -> u8 {
    // The result is below 256, as index is below 8.
    ((index << 5) | (word | 1).ilog2()) as u8
}
