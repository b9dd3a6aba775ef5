// SPDX-License-Identifier: GPL-2.0

//! Which of a processor's CPUID features a guest can be offered (SDM vol. 2, CPUID).
//!
//! A bit that is here is one that this hypervisor virtualises, or that needs nothing from it. A new
//! processor's new bits stay hidden until somebody adds them.

/// EAX, EBX, ECX and EDX.
pub type Words = [u32; 4];

/// Functions that exist in the hypervisor's own range.
pub const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// The features leaf of KVM's range.
pub const HYPERVISOR_FEATURES: u32 = 0x4000_0001;
/// The highest basic function that is offered.
pub const MAX_BASIC: u32 = 0xd;
/// The highest extended function that is offered.
pub const MAX_EXTENDED: u32 = 0x8000_0008;

/// "KVMKVMKVM" with the highest function of the hypervisor's range (Linux,
/// `Documentation/virt/kvm/x86/cpuid.rst`).
pub const HYPERVISOR_SIGNATURE: Words = [HYPERVISOR_FEATURES, 0x4b4d_564b, 0x564b_4d56, 0x4d];

/// Whether answers to `function` depend on ECX.
pub const fn has_index(function: u32) -> bool {
    matches!(
        function,
        4 | 7 | 0xb | 0xd | 0xf | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1f
    )
}

const fn bits(list: &[u32]) -> u32 {
    let mut word = 0;
    let mut i = 0;
    while i < list.len() {
        word |= 1 << list[i];
        i += 1;
    }
    word
}

/// 01H:ECX. SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES,
/// XSAVE, AVX, F16C, RDRAND.
const LEAF_1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// 01H:ECX.HYPERVISOR, which no processor has and every virtual one shows.
const LEAF_1_ECX_HYPERVISOR: u32 = 1 << 31;
/// What the local APIC in the kernel has, whatever the host's: x2APIC and the TSC deadline.
const LEAF_1_ECX_EMULATED: u32 = bits(&[21, 24]);
/// 01H:EDX. FPU to CX8, APIC, SEP to PSE-36, CLFSH, MMX, FXSR, SSE, SSE2, SS.
const LEAF_1_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27,
]);
/// (07H, 0):EBX. FSGSBASE, TSC_ADJUST, BMI1, AVX2, SMEP, BMI2, ERMS, INVPCID, AVX512F, AVX512DQ,
/// RDSEED, ADX, SMAP, AVX512_IFMA, CLFLUSHOPT, CLWB, AVX512CD, SHA, AVX512BW, AVX512VL.
const LEAF_7_EBX: u32 = bits(&[
    0, 1, 3, 5, 7, 8, 9, 10, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31,
]);
/// (07H, 0):ECX. AVX512_VBMI, UMIP, AVX512_VBMI2, GFNI, VAES, VPCLMULQDQ, AVX512_VNNI,
/// AVX512_BITALG, AVX512_VPOPCNTDQ, RDPID.
const LEAF_7_ECX: u32 = bits(&[1, 2, 6, 8, 9, 10, 11, 12, 14, 22]);
/// (07H, 0):EDX. Fast short REP MOV.
const LEAF_7_EDX: u32 = bits(&[4]);
/// Those bits of function 7 that are of no use without AVX-512 state.
const LEAF_7_EBX_AVX512: u32 = bits(&[16, 17, 21, 28, 30, 31]);
const LEAF_7_ECX_AVX512: u32 = bits(&[1, 6, 11, 12, 14]);
/// (0DH, 1):EAX. XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
const LEAF_D_1_EAX: u32 = bits(&[0, 1, 2]);
/// 80000001H:ECX. LAHF, LZCNT, PREFETCHW.
const EXTENDED_1_ECX: u32 = bits(&[0, 5, 8]);
/// 80000001H:EDX. SYSCALL, NX, 1-GiB pages, RDTSCP, long mode.
const EXTENDED_1_EDX: u32 = bits(&[11, 20, 26, 27, 29]);
/// 80000007H:EDX. The time-stamp counter is invariant.
const EXTENDED_7_EDX: u32 = bits(&[8]);
/// 06H:EAX. The APIC timer always runs.
const LEAF_6_EAX: u32 = bits(&[2]);

const XCR0_AVX: u64 = 1 << 2;
const XCR0_AVX512: u64 = 7 << 5;

/// Features that need a control of the hypervisor's hardware.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    /// XCR0 bits that the guest may be given.
    pub xcr0: u64,
    /// RDTSCP and RDPID can be enabled.
    pub rdtscp: bool,
    /// INVPCID can be enabled.
    pub invpcid: bool,
}

/// What of the host's answer `host` to (`function`, `index`) a guest can be offered.
pub fn offered(function: u32, index: u32, host: Words, hardware: &Hardware) -> Words {
    let [eax, ebx, ecx, edx] = host;
    match (function, index) {
        (0, _) => [eax.min(MAX_BASIC), ebx, ecx, edx],
        (1, _) => {
            let mut features = (ecx & LEAF_1_ECX) | LEAF_1_ECX_HYPERVISOR | LEAF_1_ECX_EMULATED;
            if hardware.xcr0 & XCR0_AVX == 0 {
                // FMA, AVX and F16C need YMM state.
                features &= !bits(&[12, 28, 29]);
            }
            [eax, ebx & 0x0000_ff00, features, edx & LEAF_1_EDX]
        }
        (2 | 4, _) => host,
        (6, _) => [LEAF_6_EAX, 0, 0, 0],
        (7, 0) => {
            let mut b = ebx & LEAF_7_EBX;
            let mut c = ecx & LEAF_7_ECX;
            if hardware.xcr0 & XCR0_AVX == 0 {
                b &= !bits(&[5]);
                c &= !bits(&[9, 10]);
            }
            if hardware.xcr0 & XCR0_AVX512 != XCR0_AVX512 {
                b &= !LEAF_7_EBX_AVX512;
                c &= !LEAF_7_ECX_AVX512;
            }
            if !hardware.invpcid {
                b &= !bits(&[10]);
            }
            if !hardware.rdtscp {
                c &= !bits(&[22]);
            }
            [0, b, c, edx & LEAF_7_EDX]
        }
        (0xd, 0) => [
            eax & hardware.xcr0 as u32,
            ebx,
            ecx,
            edx & (hardware.xcr0 >> 32) as u32,
        ],
        (0xd, 1) => [eax & LEAF_D_1_EAX, 0, 0, 0],
        (0xd, i) if i < 63 && (hardware.xcr0 >> i) & 1 != 0 => [eax, ebx, ecx & !1, 0],
        (0x8000_0000, _) => [eax.min(MAX_EXTENDED), ebx, ecx, edx],
        (0x8000_0001, _) => {
            let mut d = edx & EXTENDED_1_EDX;
            if !hardware.rdtscp {
                d &= !bits(&[27]);
            }
            [eax, 0, ecx & EXTENDED_1_ECX, d]
        }
        (0x8000_0002..=0x8000_0004 | 0x8000_0006, _) => host,
        (0x8000_0007, _) => [0, 0, 0, edx & EXTENDED_7_EDX],
        (0x8000_0008, _) => [eax & 0xffff, 0, 0, 0],
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Hardware = Hardware {
        xcr0: 0xe7,
        rdtscp: true,
        invpcid: true,
    };

    #[test]
    fn the_signature_spells_kvm() {
        let text: std::vec::Vec<u8> = HYPERVISOR_SIGNATURE[1..]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert_eq!(&text, b"KVMKVMKVM\0\0\0");
    }

    #[test]
    fn virtualisation_is_not_offered() {
        let words = offered(1, 0, [!0; 4], &ALL);
        assert_eq!(words[2] & bits(&[5, 6, 27]), 0, "VMX SMX OSXSAVE");
    }

    #[test]
    fn the_local_apic_is_not_the_processors() {
        assert_eq!(
            offered(1, 0, [0; 4], &ALL)[2],
            bits(&[21, 24, 31]),
            "x2APIC deadline HYPERVISOR"
        );
        assert_eq!(offered(6, 0, [0; 4], &ALL)[0], bits(&[2]), "ARAT");
    }

    #[test]
    fn features_without_their_state_are_hidden() {
        let none = Hardware {
            xcr0: 3,
            rdtscp: false,
            invpcid: false,
        };
        assert_eq!(offered(1, 0, [!0; 4], &none)[2] & bits(&[12, 28, 29]), 0);
        assert_eq!(offered(7, 0, [!0; 4], &none)[1] & bits(&[5, 10, 16, 31]), 0);
        assert_eq!(offered(0xd, 2, [!0; 4], &none), [0; 4]);
        assert_eq!(offered(0x8000_0001, 0, [!0; 4], &none)[3] & bits(&[27]), 0);
    }

    proptest! {
        /// Nothing is offered that the processor does not have, but the hypervisor bit.
        #[test]
        fn feature_words_only_lose_bits(host: Words, index in 0u32..4) {
            for function in [1, 7, 0x8000_0001, 0x8000_0007] {
                let got = offered(function, index, host, &ALL);
                let ours = LEAF_1_ECX_HYPERVISOR | LEAF_1_ECX_EMULATED;
                prop_assert_eq!(got[2] & !(host[2] | ours), 0);
                prop_assert_eq!(got[3] & !host[3], 0);
            }
        }
    }
}
