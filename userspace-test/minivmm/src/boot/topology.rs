// SPDX-License-Identifier: GPL-2.0

//! What CPUID says of a CPU's place among the others: one package of one-thread cores, the APIC
//! IDs counted from 0 (SDM vol. 2, CPUID leaves 1, 4 and 0xb; AMD's in APM vol. 3, appendix E).

use kvm_bindings::{kvm_cpuid_entry2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX};

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const EXTENDED_ADDRESS_SIZES: u32 = 0x8000_0008;

/// Leaf 1, EBX: number of logical processors, and initial APIC ID; the CLFLUSH size is below.
const LEAF1_EBX_TOPOLOGY: u32 = 0xffff_0000;
/// Leaf 1, EDX: the number of logical processors is valid.
const HTT: u32 = 1 << 28;
/// Leaf 4, EAX: logical processors that share the cache, and cores in the package, each less one.
const LEAF4_EAX_TOPOLOGY: u32 = 0xffff_c000;
/// Leaf 4, EAX: the level of the cache.
const LEAF4_EAX_LEVEL_SHIFT: u32 = 5;
/// The first level of cache that cores share.
const SHARED_LEVEL: u32 = 3;
/// Leaf 0x8000_0001, ECX: the processors that HTT tells of are cores.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0008, ECX: number of cores, less one, and the width of their IDs.
const EXTENDED8_ECX_TOPOLOGY: u32 = 0xf0ff;

/// Leaf 0xb, ECX: types of level.
const LEVEL_INVALID: u32 = 0;
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// One CPU among others.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// Number of CPUs.
    pub cpus: u8,
    /// APIC ID of this one.
    pub id: u8,
}

impl Topology {
    /// Bits of an APIC ID that tell the cores apart.
    fn id_bits(self) -> u32 {
        u32::from(self.cpus).next_power_of_two().ilog2()
    }

    /// APIC IDs that a package has room for.
    fn ids(self) -> u32 {
        1 << self.id_bits()
    }

    /// Writes the topology into a leaf that has other content too.
    pub fn fill_in(self, entry: &mut kvm_cpuid_entry2) {
        match entry.function {
            FEATURES => {
                let place = self.ids().min(0xff) << 16 | u32::from(self.id) << 24;
                entry.ebx = entry.ebx & !LEAF1_EBX_TOPOLOGY | place;
                entry.edx &= !HTT;
                if self.cpus > 1 {
                    entry.edx |= HTT;
                }
            }
            CACHES => {
                let level = (entry.eax >> LEAF4_EAX_LEVEL_SHIFT) & 7;
                let sharing = if level >= SHARED_LEVEL { self.ids() } else { 1 };
                let cores = self.ids().min(64);
                let place = (sharing - 1) << 14 | (cores - 1) << 26;
                entry.eax = entry.eax & !LEAF4_EAX_TOPOLOGY | place;
            }
            EXTENDED_FEATURES => {
                entry.ecx &= !CMP_LEGACY;
                if self.cpus > 1 {
                    entry.ecx |= CMP_LEGACY;
                }
            }
            EXTENDED_ADDRESS_SIZES => {
                let place = u32::from(self.cpus) - 1 | self.id_bits() << 12;
                entry.ecx = entry.ecx & !EXTENDED8_ECX_TOPOLOGY | place;
            }
            _ => {}
        }
    }

    /// The subleaves of `leaf` (0xb): threads of a core, cores of the package, and the end.
    pub fn levels(self, leaf: u32) -> [kvm_cpuid_entry2; 3] {
        let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
            function: leaf,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: index | kind << 8,
            edx: self.id.into(),
            ..Default::default()
        };
        [
            level(0, LEVEL_SMT, 0, 1),
            level(1, LEVEL_CORE, self.id_bits(), self.cpus.into()),
            level(2, LEVEL_INVALID, 0, 0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(cpus: u8, id: u8, function: u32, eax: u32) -> kvm_cpuid_entry2 {
        let mut entry = kvm_cpuid_entry2 {
            function,
            eax,
            ebx: !0,
            ecx: !0,
            edx: !0,
            ..Default::default()
        };
        Topology { cpus, id }.fill_in(&mut entry);
        entry
    }

    #[test]
    fn each_cpu_has_its_id() {
        for (cpus, id, room) in [(1, 0, 1), (2, 1, 2), (3, 2, 4), (8, 7, 8), (254, 253, 255)] {
            let entry = filled(cpus, id, FEATURES, 0);
            assert_eq!(entry.ebx >> 24, u32::from(id));
            assert_eq!((entry.ebx >> 16) & 0xff, room, "{cpus} CPUs");
            assert_eq!(entry.edx & HTT != 0, cpus > 1);
            assert_eq!(
                entry.ebx & 0xffff,
                0xffff,
                "CLFLUSH size and brand are gone"
            );
        }
    }

    #[test]
    fn levels_split_the_id_at_the_package() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (8, 3), (9, 4)] {
            let [smt, core, end] = Topology { cpus, id: 0 }.levels(0xb);
            assert_eq!((smt.eax, smt.ebx, smt.ecx), (0, 1, 0x100));
            assert_eq!((core.eax, core.ebx, core.ecx), (bits, cpus.into(), 0x201));
            assert_eq!((end.ebx, end.ecx), (0, 2));
        }
    }

    #[test]
    fn the_last_level_of_cache_is_shared() {
        let sharing = |level: u32| {
            let eax = filled(4, 0, CACHES, level << LEAF4_EAX_LEVEL_SHIFT).eax;
            ((eax >> 14) & 0xfff, eax >> 26)
        };
        assert_eq!(sharing(1), (0, 3));
        assert_eq!(sharing(2), (0, 3));
        assert_eq!(sharing(3), (3, 3));
    }

    #[test]
    fn amd_s_leaves_agree() {
        let ecx = filled(6, 0, EXTENDED_ADDRESS_SIZES, 0).ecx;
        assert_eq!((ecx & 0xff, (ecx >> 12) & 0xf), (5, 3));
        assert_eq!(filled(1, 0, EXTENDED_FEATURES, 0).ecx & CMP_LEGACY, 0);
        assert_ne!(filled(2, 0, EXTENDED_FEATURES, 0).ecx & CMP_LEGACY, 0);
    }
}
