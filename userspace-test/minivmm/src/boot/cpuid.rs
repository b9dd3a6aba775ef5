// SPDX-License-Identifier: GPL-2.0

//! What a CPU's CPUID says: what KVM can do, less what this machine does not have, and who the CPU
//! is among the others ([`super::topology`]).
//!
//! The machine has no machine-check banks, no performance counters and no thermal sensors. KVM's
//! paravirtual features are there as far as the place of the interrupt controllers allows. Manual:
//! SDM vol. 2, CPUID; Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::kvm_cpuid_entry2;

use super::topology::Topology;
use crate::description::IrqchipMode;

/// Leaf 1, ECX.
const MONITOR: u32 = 1 << 3;
const VMX: u32 = 1 << 5;
const THERMAL_MONITOR_2: u32 = 1 << 8;
const PDCM: u32 = 1 << 15;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
const LEAF1_ECX_ABSENT: u32 = MONITOR | VMX | THERMAL_MONITOR_2 | PDCM | TSC_DEADLINE;

/// Leaf 1, EDX.
const MCE: u32 = 1 << 7;
const APIC: u32 = 1 << 9;
const MCA: u32 = 1 << 14;
const ACPI_THERMAL: u32 = 1 << 22;
const THERMAL_MONITOR: u32 = 1 << 29;
const LEAF1_EDX_ABSENT: u32 = MCE | MCA | ACPI_THERMAL | THERMAL_MONITOR;

/// Leaf 0x8000_0001, ECX: AMD's of the same kinds.
const SVM: u32 = 1 << 2;
const EXTENDED_APIC_SPACE: u32 = 1 << 3;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
const PERFORMANCE_COUNTERS: u32 = (1 << 23) | (1 << 24) | (1 << 28);
const EXTENDED1_ECX_ABSENT: u32 =
    SVM | EXTENDED_APIC_SPACE | TOPOLOGY_EXTENSIONS | PERFORMANCE_COUNTERS;
/// Leaf 0x8000_0001, EDX: AMD repeats part of leaf 1 there.
const EXTENDED1_EDX_ABSENT: u32 = MCE | MCA;

/// Leaf 6, EAX: the local APIC's timer never stops.
const ARAT: u32 = 1 << 2;

/// Leaf 0x4000_0001, EAX: what of KVM's paravirtual features works without a local APIC in KVM.
const PV_CLOCK: u32 = (1 << 0) | (1 << 3) | (1 << 24);
const PV_NO_IO_DELAY: u32 = 1 << 1;
const PV_STEAL_TIME: u32 = 1 << 5;
const PV_WITHOUT_APIC: u32 = PV_CLOCK | PV_NO_IO_DELAY | PV_STEAL_TIME;

const FEATURES: u32 = 1;
const MONITOR_MWAIT: u32 = 5;
const THERMAL_AND_POWER: u32 = 6;
const PERFORMANCE: u32 = 0xa;
const TOPOLOGY: u32 = 0xb;
const TSC: u32 = 0x15;
const FREQUENCIES: u32 = 0x16;
const TOPOLOGY_V2: u32 = 0x1f;
const KVM_FEATURES: u32 = 0x4000_0001;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const SVM_FEATURES: u32 = 0x8000_000a;
const CACHES_AMD: u32 = 0x8000_001d;
const TOPOLOGY_AMD: u32 = 0x8000_001e;

/// What decides on the CPUID of all CPUs of a machine.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// Number of CPUs.
    pub cpus: u8,
    /// Where the interrupt controllers are.
    pub irqchip: IrqchipMode,
    /// Frequency of the guest's TSC, if known.
    pub tsc_khz: Option<u32>,
    /// KVM's local APIC has a TSC-deadline timer (KVM_CAP_TSC_DEADLINE_TIMER).
    pub tsc_deadline: bool,
}

impl Platform {
    /// The CPUID of the CPU with APIC ID `id`, from what KVM supports.
    pub fn cpuid(&self, id: u8, supported: &[kvm_cpuid_entry2]) -> Vec<kvm_cpuid_entry2> {
        let topology = Topology {
            cpus: self.cpus,
            id,
        };
        let mut entries: Vec<_> = supported
            .iter()
            .filter(|entry| is_kept(entry.function))
            .copied()
            .collect();
        for entry in &mut entries {
            self.restrict(entry);
            topology.fill_in(entry);
        }
        if let Some(highest) = entries.iter().find(|entry| entry.function == 0) {
            if highest.eax >= TOPOLOGY {
                entries.extend(topology.levels(TOPOLOGY));
            }
        }
        if let Some(khz) = self.told_frequency() {
            if let Some(highest) = entries.iter_mut().find(|entry| entry.function == 0) {
                highest.eax = highest.eax.max(FREQUENCIES);
            }
            entries.extend(frequencies(khz));
        }
        entries
    }

    /// The TSC's frequency in kHz where the guest is told it: it need not measure it then. A
    /// guest takes the crystal that goes with it for the input of the local APIC's timer too,
    /// which only minivmm's own counts; KVM's, in other than TSC-deadline mode, counts nanoseconds.
    fn told_frequency(&self) -> Option<u32> {
        let honest = self.irqchip == IrqchipMode::User || self.tsc_deadline;
        self.tsc_khz.filter(|khz| honest && *khz > 0)
    }

    fn restrict(&self, entry: &mut kvm_cpuid_entry2) {
        let own_apic = self.irqchip == IrqchipMode::User;
        match entry.function {
            FEATURES => {
                entry.ecx = entry.ecx & !LEAF1_ECX_ABSENT | HYPERVISOR;
                if own_apic {
                    entry.ecx &= !X2APIC;
                } else if self.tsc_deadline {
                    entry.ecx |= TSC_DEADLINE;
                }
                entry.edx = entry.edx & !LEAF1_EDX_ABSENT | APIC;
            }
            THERMAL_AND_POWER => {
                entry.eax = ARAT;
                (entry.ebx, entry.ecx, entry.edx) = (0, 0, 0);
            }
            KVM_FEATURES if own_apic => entry.eax &= PV_WITHOUT_APIC,
            EXTENDED_FEATURES => {
                entry.ecx &= !EXTENDED1_ECX_ABSENT;
                entry.edx &= !EXTENDED1_EDX_ABSENT;
            }
            _ => {}
        }
    }
}

/// Whether a leaf is kept: not those of performance counters, MONITOR, a hypervisor within, other
/// hypervisors' interfaces, and topology and frequencies, which are ours to say.
fn is_kept(leaf: u32) -> bool {
    !matches!(
        leaf,
        MONITOR_MWAIT
            | PERFORMANCE
            | TOPOLOGY
            | TSC
            | FREQUENCIES
            | TOPOLOGY_V2
            | SVM_FEATURES
            | CACHES_AMD
            | TOPOLOGY_AMD
            | 0x4000_0002..=0x4fff_ffff
    )
}

/// Length of a cycle that the timer of minivmm's own local APICs counts, in nanoseconds.
pub const APIC_BUS_CYCLE: u64 = 40;
/// The crystal that goes with it.
const CRYSTAL_KHZ: u32 = (1_000_000 / APIC_BUS_CYCLE) as u32;

/// The leaves that give the frequency: 0x15 has TSC = ECX Hz * EBX / EAX, 0x16 MHz.
///
/// Linux multiplies the crystal's kHz by EBX in 32 bits, so the fraction is as exact as fits.
fn frequencies(khz: u32) -> [kvm_cpuid_entry2; 2] {
    let largest = u32::MAX / CRYSTAL_KHZ;
    let (numerator, denominator) = if khz <= largest {
        (khz, CRYSTAL_KHZ)
    } else {
        let wide = |value: u32| u64::from(value);
        let denominator = wide(largest) * wide(CRYSTAL_KHZ) / wide(khz);
        let denominator = denominator.max(1);
        let numerator = (wide(khz) * denominator + wide(CRYSTAL_KHZ) / 2) / wide(CRYSTAL_KHZ);
        (numerator as u32, denominator as u32)
    };
    let mhz = khz / 1000;
    [
        kvm_cpuid_entry2 {
            function: TSC,
            eax: denominator,
            ebx: numerator,
            ecx: CRYSTAL_KHZ * 1000,
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

    const KERNEL: Platform = Platform {
        cpus: 1,
        irqchip: IrqchipMode::Kernel,
        tsc_khz: None,
        tsc_deadline: true,
    };
    const USER: Platform = Platform {
        irqchip: IrqchipMode::User,
        tsc_deadline: false,
        ..KERNEL
    };

    fn filtered(platform: &Platform, functions: &[u32]) -> Vec<kvm_cpuid_entry2> {
        let supported: Vec<_> = functions.iter().copied().map(leaf).collect();
        platform.cpuid(0, &supported)
    }

    #[test]
    fn every_machine_has_local_apics() {
        for platform in [KERNEL, USER] {
            let entry = filtered(&platform, &[1])[0];
            assert_ne!(entry.edx & APIC, 0);
            assert_ne!(entry.ecx & HYPERVISOR, 0);
            assert_ne!(entry.edx & 1, 0, "the FPU is gone");
        }
    }

    #[test]
    fn minivmm_s_own_local_apic_is_a_plain_one() {
        let ecx = |platform: &Platform| filtered(platform, &[1])[0].ecx;
        let kernel = ecx(&KERNEL);
        assert_eq!(kernel & (X2APIC | TSC_DEADLINE), X2APIC | TSC_DEADLINE);
        assert_eq!(ecx(&USER) & (X2APIC | TSC_DEADLINE), 0);
        let older = Platform {
            tsc_deadline: false,
            ..KERNEL
        };
        assert_eq!(ecx(&older) & TSC_DEADLINE, 0);
    }

    #[test]
    fn paravirtual_interrupts_need_kvm_s_local_apic() {
        const PV_EOI: u32 = 1 << 6;
        const PV_SEND_IPI: u32 = 1 << 11;
        let features = |platform: &Platform| filtered(platform, &[KVM_FEATURES])[0].eax;
        assert_eq!(features(&KERNEL), !0);
        let user = features(&USER);
        assert_eq!(user & (PV_EOI | PV_SEND_IPI), 0);
        assert_eq!(user & PV_CLOCK, PV_CLOCK);
    }

    #[test]
    fn what_the_machine_lacks_has_no_leaf() {
        let leaves = [
            0,
            1,
            5,
            6,
            0xa,
            0xd,
            0x1f,
            0x4000_0000,
            0x4000_0001,
            0x4000_0003,
        ];
        let mut supported: Vec<_> = leaves.into_iter().map(leaf).collect();
        supported[0].eax = 6;
        let left: Vec<_> = KERNEL
            .cpuid(0, &supported)
            .iter()
            .map(|entry| entry.function)
            .collect();
        assert_eq!(left, [0, 1, 6, 0xd, 0x4000_0000, 0x4000_0001]);
    }

    #[test]
    fn the_topology_is_there_if_the_processor_knows_the_leaf() {
        let mut supported = [leaf(0)];
        supported[0].eax = 0xd;
        let eight = Platform { cpus: 8, ..KERNEL };
        let entries = eight.cpuid(5, &supported);
        let levels: Vec<_> = entries
            .iter()
            .filter(|entry| entry.function == TOPOLOGY)
            .collect();
        assert!(levels.len() >= 2 && levels.iter().all(|level| level.edx == 5));
        supported[0].eax = 7;
        assert_eq!(eight.cpuid(5, &supported).len(), 1);
    }

    #[test]
    fn a_known_frequency_is_told() {
        let mut supported = [leaf(0)];
        supported[0].eax = 7;
        for khz in [1, 99_998, 996_147, 2_399_963, 5_100_000] {
            let platform = Platform {
                tsc_khz: Some(khz),
                ..KERNEL
            };
            let entries = platform.cpuid(0, &supported);
            assert_eq!(entries[0].eax, 0x16);
            let tsc = entries
                .iter()
                .find(|entry| entry.function == TSC)
                .expect("leaf 0x15");
            let crystal = tsc.ecx / 1000;
            let as_linux = crystal.checked_mul(tsc.ebx).expect("fits Linux's 32 bits") / tsc.eax;
            let off = u64::from(as_linux.abs_diff(khz)) * 1_000_000 / u64::from(khz);
            assert!(off < 20, "{khz} kHz is told as {as_linux}");
        }
    }

    #[test]
    fn an_unknown_frequency_is_not_made_up() {
        for tsc_khz in [None, Some(0)] {
            let platform = Platform { tsc_khz, ..KERNEL };
            assert_eq!(filtered(&platform, &[1, 0x15, 0x16]).len(), 1);
        }
    }

    #[test]
    fn a_frequency_the_apic_timer_does_not_have_is_not_told() {
        let platform = Platform {
            tsc_khz: Some(1_000_000),
            tsc_deadline: false,
            ..KERNEL
        };
        assert_eq!(filtered(&platform, &[1]).len(), 1);
    }
}
