// SPDX-License-Identifier: GPL-2.0

//! What the guest's CPUID says: what KVM can do, less what this machine does not have.
//!
//! The machine has one CPU, no local APIC and thus nothing that hangs on one, no machine-check
//! banks, no performance counters, and none of KVM's paravirtual interfaces. Manual: SDM vol. 2,
//! CPUID.

use kvm_bindings::kvm_cpuid_entry2;

/// Leaf 1, EBX: initial APIC ID and number of logical processors; CLFLUSH size stays.
const LEAF1_EBX_TOPOLOGY: u32 = 0xffff_0000;
/// Leaf 1, EBX: one logical processor.
const LEAF1_EBX_ONE_CPU: u32 = 1 << 16;

/// Leaf 1, ECX.
const MONITOR: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
const THERMAL_MONITOR_2: u32 = 1 << 8;
const PDCM: u32 = 1 << 15;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const LEAF1_ECX_ABSENT: u32 = MONITOR | VMX | THERMAL_MONITOR_2 | PDCM | X2APIC | TSC_DEADLINE;

/// Leaf 1, EDX.
const MCE: u32 = 1 << 7;
const APIC: u32 = 1 << 9;
const MCA: u32 = 1 << 14;
const ACPI_THERMAL: u32 = 1 << 22;
const HTT: u32 = 1 << 28;
const THERMAL_MONITOR: u32 = 1 << 29;
const LEAF1_EDX_ABSENT: u32 = MCE | APIC | MCA | ACPI_THERMAL | HTT | THERMAL_MONITOR;

/// Leaf 0x8000_0001, ECX: AMD's of the same kinds.
const CMP_LEGACY: u32 = 1 << 1;
const SVM: u32 = 1 << 2;
const EXTENDED_APIC_SPACE: u32 = 1 << 3;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
const PERFORMANCE_COUNTERS: u32 = (1 << 23) | (1 << 24) | (1 << 28);
const EXTENDED1_ECX_ABSENT: u32 =
    CMP_LEGACY | SVM | EXTENDED_APIC_SPACE | TOPOLOGY_EXTENSIONS | PERFORMANCE_COUNTERS;
/// Leaf 0x8000_0001, EDX: AMD repeats part of leaf 1 there.
const EXTENDED1_EDX_ABSENT: u32 = MCE | APIC | MCA;

/// Leaf 4, EAX: logical processors that share the cache, and cores in the package, each less one.
const LEAF4_EAX_TOPOLOGY: u32 = 0xffff_c000;
/// Leaf 0x8000_0008, ECX: number of cores, less one, and the width of their IDs.
const EXTENDED8_ECX_TOPOLOGY: u32 = 0xf0ff;

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const MONITOR_MWAIT: u32 = 5;
const THERMAL_AND_POWER: u32 = 6;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TSC: u32 = 0x15;
const FREQUENCIES: u32 = 0x16;
const TOPOLOGY_V2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const EXTENDED_ADDRESS_SIZES: u32 = 0x8000_0008;
const SVM_FEATURES: u32 = 0x8000_000a;
const CACHES_AMD: u32 = 0x8000_001d;
const TOPOLOGY_AMD: u32 = 0x8000_001e;

/// The CPUID of this machine's one CPU, from what KVM supports. `tsc_khz` is the frequency of the
/// guest's TSC if known: with it a guest on an Intel CPU need not measure it against the PIT.
pub fn for_this_machine(
    supported: &[kvm_cpuid_entry2],
    tsc_khz: Option<u32>,
) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<_> = supported
        .iter()
        .filter(|entry| is_kept(entry.function))
        .copied()
        .collect();
    entries.iter_mut().for_each(restrict);
    if let Some(khz) = tsc_khz.filter(|khz| *khz > 0) {
        if let Some(highest) = entries.iter_mut().find(|entry| entry.function == 0) {
            highest.eax = highest.eax.max(FREQUENCIES);
        }
        entries.extend(frequencies(khz));
    }
    entries
}

/// Whether a leaf is kept: not those of performance counters, topology, power, a hypervisor
/// within, the hypervisor itself (0x4000_0000 and up), and the frequencies, which are ours to say.
fn is_kept(leaf: u32) -> bool {
    !matches!(
        leaf,
        MONITOR_MWAIT
            | THERMAL_AND_POWER
            | PERFORMANCE
            | TOPOLOGY
            | TSC
            | FREQUENCIES
            | TOPOLOGY_V2
            | SVM_FEATURES
            | CACHES_AMD
            | TOPOLOGY_AMD
            | 0x4000_0000..=0x4fff_ffff
    )
}

fn restrict(entry: &mut kvm_cpuid_entry2) {
    match entry.function {
        FEATURES => {
            entry.ebx = entry.ebx & !LEAF1_EBX_TOPOLOGY | LEAF1_EBX_ONE_CPU;
            entry.ecx = entry.ecx & !LEAF1_ECX_ABSENT | HYPERVISOR;
            entry.edx &= !LEAF1_EDX_ABSENT;
        }
        CACHES => entry.eax &= !LEAF4_EAX_TOPOLOGY,
        EXTENDED_FEATURES => {
            entry.ecx &= !EXTENDED1_ECX_ABSENT;
            entry.edx &= !EXTENDED1_EDX_ABSENT;
        }
        EXTENDED_ADDRESS_SIZES => entry.ecx &= !EXTENDED8_ECX_TOPOLOGY,
        _ => {}
    }
}

/// The leaves that give the frequency: 0x15 has TSC = ECX Hz * EBX / EAX, 0x16 MHz.
fn frequencies(khz: u32) -> [kvm_cpuid_entry2; 2] {
    let crystal = [1, 2, 4]
        .into_iter()
        .find_map(|ratio| Some((ratio, (khz / ratio).checked_mul(1000)?)));
    let (ratio, crystal_hz) = crystal.unwrap_or((0, 0));
    let mhz = khz / 1000;
    [
        kvm_cpuid_entry2 {
            function: TSC,
            eax: 1,
            ebx: ratio,
            ecx: crystal_hz,
            ..Default::default()
        },
        kvm_cpuid_entry2 {
            function: FREQUENCIES,
            eax: mhz,
            ebx: mhz,
            ecx: 100,
            ..Default::default()
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
            ..Default::default()
        }
    }

    fn filtered(functions: &[u32], tsc_khz: Option<u32>) -> Vec<kvm_cpuid_entry2> {
        let supported: Vec<_> = functions.iter().copied().map(leaf).collect();
        for_this_machine(&supported, tsc_khz)
    }

    #[test]
    fn there_is_no_local_apic() {
        let entry = filtered(&[1], None)[0];
        assert_eq!(entry.edx & APIC, 0);
        assert_eq!(entry.ecx & (X2APIC | TSC_DEADLINE), 0);
        assert_eq!(entry.ebx >> 16, 1, "one CPU with ID 0");
        assert_ne!(entry.ecx & HYPERVISOR, 0);
        assert_ne!(entry.edx & 1, 0, "the FPU is gone");
    }

    #[test]
    fn what_the_machine_lacks_has_no_leaf() {
        let left = filtered(
            &[0, 1, 5, 6, 0xa, 0xb, 0xd, 0x1f, 0x4000_0000, 0x4000_0001],
            None,
        );
        let left: Vec<_> = left.iter().map(|entry| entry.function).collect();
        assert_eq!(left, [0, 1, 0xd]);
    }

    #[test]
    fn a_known_frequency_is_told() {
        let mut supported = [leaf(0)];
        supported[0].eax = 0xd;
        for khz in [1, 996_147, 2_400_000, 5_100_000] {
            let entries = for_this_machine(&supported, Some(khz));
            assert_eq!(entries[0].eax, 0x16);
            let tsc = entries
                .iter()
                .find(|entry| entry.function == TSC)
                .expect("leaf 0x15");
            let hz = u64::from(tsc.ecx) * u64::from(tsc.ebx) / u64::from(tsc.eax);
            assert_eq!(hz, u64::from(khz) * 1000);
        }
    }

    #[test]
    fn an_unknown_frequency_is_not_made_up() {
        for khz in [None, Some(0)] {
            let entries = filtered(&[0, 0x15, 0x16], khz);
            assert_eq!(entries.len(), 1);
        }
    }

    #[test]
    fn caches_belong_to_one_cpu() {
        assert_eq!(filtered(&[4], None)[0].eax, 0x3fff);
    }
}
