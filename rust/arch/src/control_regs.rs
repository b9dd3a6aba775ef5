// SPDX-License-Identifier: GPL-2.0

//! CR0, CR4, EFER and XCR0: their bits and which values a guest may give them.

mod checks;
mod limits;

pub use checks::{Cr3Write, Sregs, State, Violation};
pub use limits::{CpuidWords, Limits};

use bitflags::bitflags;

bitflags! {
    /// CR0 (SDM vol. 3, 2.5).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulation: no x87.
        const EM = 1 << 2;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type: reads as 1.
        const ET = 1 << 4;
        /// Numeric error.
        const NE = 1 << 5;
        /// Write protect: supervisor writes obey read-only pages.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }
}

bitflags! {
    /// CR4 (SDM vol. 3, 2.5).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Cr4: u64 {
        /// Virtual-8086 mode extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// RDTSC only at CPL 0.
        const TSD = 1 << 2;
        /// Debugging extensions: DR4 and DR5 are not DR6 and DR7.
        const DE = 1 << 3;
        /// 4 MiB pages in 32-bit paging.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine-check exceptions.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC at every CPL.
        const PCE = 1 << 8;
        /// FXSAVE and FXRSTOR.
        const OSFXSR = 1 << 9;
        /// Unmasked SIMD exceptions.
        const OSXMMEXCPT = 1 << 10;
        /// SGDT and its like only at CPL 0.
        const UMIP = 1 << 11;
        /// 57-bit linear addresses.
        const LA57 = 1 << 12;
        /// VMX enable.
        const VMXE = 1 << 13;
        /// SMX enable.
        const SMXE = 1 << 14;
        /// RDFSBASE and its like.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and XCR0.
        const OSXSAVE = 1 << 18;
        /// Key locker.
        const KL = 1 << 19;
        /// No supervisor fetches from user pages.
        const SMEP = 1 << 20;
        /// No supervisor data accesses to user pages.
        const SMAP = 1 << 21;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
        /// Control-flow enforcement.
        const CET = 1 << 23;
        /// Protection keys for supervisor pages.
        const PKS = 1 << 24;
        /// User interrupts.
        const UINTR = 1 << 25;
        /// Linear-address masking of supervisor pointers.
        const LAM_SUP = 1 << 28;
    }
}

bitflags! {
    /// IA32_EFER (SDM vol. 3, 2.2.1).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Efer: u64 {
        /// SYSCALL and SYSRET.
        const SCE = 1 << 0;
        /// Long mode enable.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// Execute disable.
        const NXE = 1 << 11;
    }
}

impl Efer {
    /// This EFER as the processor has it while CR0 is `cr0`: LMA is LME and CR0.PG (SDM vol. 3,
    /// 11.8.5).
    pub fn with_paging_of(self, cr0: Cr0) -> Self {
        let mut efer = self;
        efer.set(Self::LMA, self.contains(Self::LME) && cr0.contains(Cr0::PG));
        efer
    }
}

bitflags! {
    /// XCR0: the parts of the extended state that software uses (SDM vol. 1, 13.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Xcr0: u64 {
        /// x87; always set.
        const FP = 1 << 0;
        /// XMM registers and MXCSR.
        const SSE = 1 << 1;
        /// Upper halves of YMM registers.
        const YMM = 1 << 2;
        /// MPX bounds registers.
        const BNDREGS = 1 << 3;
        /// MPX configuration.
        const BNDCSR = 1 << 4;
        /// AVX-512 mask registers.
        const OPMASK = 1 << 5;
        /// Upper halves of ZMM0 to ZMM15.
        const ZMM_HI256 = 1 << 6;
        /// ZMM16 to ZMM31.
        const HI16_ZMM = 1 << 7;
        /// PKRU.
        const PKRU = 1 << 9;
        /// AMX tile configuration.
        const TILE_CONFIG = 1 << 17;
        /// AMX tiles.
        const TILE_DATA = 1 << 18;
        /// The three parts of AVX-512.
        const AVX512 = Self::OPMASK.bits() | Self::ZMM_HI256.bits() | Self::HI16_ZMM.bits();
        /// The two parts of MPX.
        const MPX = Self::BNDREGS.bits() | Self::BNDCSR.bits();
        /// The two parts of AMX.
        const AMX = Self::TILE_CONFIG.bits() | Self::TILE_DATA.bits();
    }
}

#[cfg(test)]
mod tests;
