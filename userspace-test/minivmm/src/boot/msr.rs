// SPDX-License-Identifier: GPL-2.0

//! MSRs that a CPU does not come out of reset with, because firmware sets them before it starts an
//! operating system (SDM vol. 4, table 2-2).

use kvm_bindings::kvm_msr_entry;

/// IA32_MISC_ENABLE: fast string operations.
const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1 << 0;
/// IA32_MTRR_DEF_TYPE: MTRRs on, everything write-back.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;

/// The MSRs and their values, the same on every CPU.
pub const AS_FIRMWARE_LEAVES_THEM: [kvm_msr_entry; 2] = [
    entry(MISC_ENABLE, FAST_STRINGS),
    entry(MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
];

const fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        reserved: 0,
        data,
    }
}
