// SPDX-License-Identifier: GPL-2.0

//! What a guest's CPUID lets it set in control registers.

use super::{Cr4, Efer, Xcr0};

/// The CPUID words that decide, as the guest sees them. A leaf it does not have is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidWords {
    /// 01H:ECX.
    pub leaf1_ecx: u32,
    /// (07H, 0):EBX.
    pub leaf7_ebx: u32,
    /// (07H, 0):ECX.
    pub leaf7_ecx: u32,
    /// (07H, 0):EDX.
    pub leaf7_edx: u32,
    /// (07H, 1):EAX.
    pub leaf7_1_eax: u32,
    /// 80000001H:EDX.
    pub extended_edx: u32,
    /// 80000008H:EAX\[7:0\]; 36 where there is no such leaf.
    pub maxphyaddr: u8,
    /// (0DH, 0):EDX:EAX.
    pub xcr0: u64,
}

/// The values a guest may give its control registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bits it may set in CR4.
    pub cr4: Cr4,
    /// Bits it may set in EFER.
    pub efer: Efer,
    /// Bits it may set in XCR0.
    pub xcr0: Xcr0,
    /// Bits of a physical address.
    pub maxphyaddr: u8,
    /// Bits 62 and 61 of CR3 are linear-address masking's.
    pub lam: bool,
}

/// CR4 bits that every guest may set, as in KVM, whatever its CPUID says.
const CR4_ALWAYS: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT);

impl Limits {
    /// What these CPUID words allow.
    pub fn from_cpuid(words: &CpuidWords) -> Self {
        let has = |word: u32, bit: u32| (word >> bit) & 1 != 0;
        let lam = has(words.leaf7_1_eax, 26);
        let mut cr4 = CR4_ALWAYS;
        cr4.set(Cr4::VMXE, has(words.leaf1_ecx, 5));
        cr4.set(Cr4::PCIDE, has(words.leaf1_ecx, 17));
        cr4.set(Cr4::OSXSAVE, has(words.leaf1_ecx, 26));
        cr4.set(Cr4::FSGSBASE, has(words.leaf7_ebx, 0));
        cr4.set(Cr4::SMEP, has(words.leaf7_ebx, 7));
        cr4.set(Cr4::SMAP, has(words.leaf7_ebx, 20));
        cr4.set(Cr4::UMIP, has(words.leaf7_ecx, 2));
        cr4.set(Cr4::PKE, has(words.leaf7_ecx, 3));
        cr4.set(Cr4::LA57, has(words.leaf7_ecx, 16));
        // Shadow stacks, or indirect-branch tracking.
        cr4.set(
            Cr4::CET,
            has(words.leaf7_ecx, 7) || has(words.leaf7_edx, 20),
        );
        cr4.set(Cr4::LAM_SUP, lam);
        let mut efer = Efer::SCE;
        efer.set(Efer::NXE, has(words.extended_edx, 20));
        efer.set(Efer::LME | Efer::LMA, has(words.extended_edx, 29));
        Self {
            cr4,
            efer,
            xcr0: Xcr0::from_bits_retain(words.xcr0) | Xcr0::FP,
            maxphyaddr: words.maxphyaddr,
            lam,
        }
    }

    /// Whether `address` has no bit past the last physical-address bit.
    pub const fn is_physical(&self, address: u64) -> bool {
        self.maxphyaddr >= 64 || address >> self.maxphyaddr == 0
    }
}
