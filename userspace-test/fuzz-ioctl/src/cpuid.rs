// SPDX-License-Identifier: GPL-2.0
//! The processor that guests are told of. It is a fixed one, less than what any KVM offers on the
//! lab's processor, so that all KVMs can be told the same.

use crate::random::Random;

/// `struct kvm_cpuid_entry2`.
#[derive(Clone, Copy)]
pub struct Leaf {
    /// EAX of CPUID.
    pub function: u32,
    /// ECX of CPUID, where that counts.
    pub index: u32,
    /// KVM_CPUID_FLAG_SIGNIFCANT_INDEX.
    pub flags: u32,
    /// EAX, EBX, ECX and EDX.
    pub registers: [u32; 4],
}

impl Leaf {
    /// As it lies in memory.
    pub fn bytes(&self) -> Vec<u8> {
        let [a, b, c, d] = self.registers;
        [self.function, self.index, self.flags, a, b, c, d, 0, 0, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }
}

const fn leaf(function: u32, registers: [u32; 4]) -> Leaf {
    Leaf {
        function,
        index: 0,
        flags: 0,
        registers,
    }
}

const fn subleaf(function: u32, index: u32, registers: [u32; 4]) -> Leaf {
    Leaf {
        function,
        index,
        flags: 1,
        registers,
    }
}

/// A Haswell's features without MONITOR, VMX, PDCM and the PMU.
pub fn leaves() -> Vec<Leaf> {
    vec![
        leaf(0, [0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        leaf(1, [0x0003_06c3, 0x0001_0800, 0x76ba_3203, 0x0f8b_fbff]),
        subleaf(7, 0, [0, 0x0000_07ab, 0, 0]),
        subleaf(0xd, 0, [7, 0x340, 0x340, 0]),
        subleaf(0xd, 1, [1, 0, 0, 0]),
        subleaf(0xd, 2, [0x100, 0x240, 0, 0]),
        leaf(0x4000_0000, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        leaf(0x4000_0001, [0x0100_7afb, 0, 0, 0]),
        leaf(0x8000_0000, [0x8000_0008, 0, 0, 0]),
        leaf(0x8000_0001, [0, 0, 0x21, 0x2c10_0800]),
        leaf(0x8000_0008, [0x3028, 0, 0, 0]),
    ]
}

/// Bits that are the other way round in one of the leaves. Not those that only some KVM can do
/// something about: MONITOR, VMX, SMX, PDCM and DS in leaf 1.
pub fn change(random: &mut Random, leaves: &mut [Leaf]) {
    const LEAF_1_ECX: u32 = !(1 << 3 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 2);
    const LEAF_1_EDX: u32 = !(1 << 21);
    let place = random.below(leaves.len() as u64) as usize;
    let chosen = &mut leaves[place];
    let register = random.below(4) as usize;
    let allowed = match (chosen.function, register) {
        (1, 2) => LEAF_1_ECX,
        (1, 3) => LEAF_1_EDX,
        (1, 0) | (0, _) => 0,
        // What Haswell has there.
        (7, 1) => 0x07ab,
        (7, _) => 0,
        (0x8000_0001, 2) => 0x121,
        (0x8000_0001, 3) => 0x2c10_0800,
        (0x8000_0008, 0) => 0xffff,
        (0x4000_0001, 0) => 0x0100_7afb,
        (0xd, _) => 7,
        _ => 0,
    };
    chosen.registers[register] ^= (1 << random.below(32)) & allowed;
}
