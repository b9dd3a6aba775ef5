// SPDX-License-Identifier: GPL-2.0

//! The local vector table (SDM vol. 3, 11.5.1).

use super::enabled;
use arch::apic::{Delivery, Effect, Features, Lapic, LocalInterrupt, Lvt, Register, TimerMode};

const ENTRIES: [Lvt; 7] = [
    Lvt::Timer,
    Lvt::Thermal,
    Lvt::PerformanceCounters,
    Lvt::Lint0,
    Lvt::Lint1,
    Lvt::Error,
    Lvt::Cmci,
];

pub fn delivery(bits: u32) -> Delivery {
    match bits {
        0b000 => Delivery::Fixed,
        0b001 => Delivery::LowestPriority,
        0b010 => Delivery::Smi,
        0b011 => Delivery::Reserved,
        0b100 => Delivery::Nmi,
        0b101 => Delivery::Init,
        0b110 => Delivery::StartUp,
        0b111 => Delivery::ExtInt,
        _ => unreachable!(),
    }
}

/// Figure 11-8: the fields each entry has. KVM keeps the delivery status and the remote IRR as they
/// are written, where the manual has them read-only.
fn has_bit(entry: Lvt, bit: u32, deadline: bool) -> bool {
    let pin = matches!(entry, Lvt::Lint0 | Lvt::Lint1);
    match bit {
        0..=7 | 12 | 16 => true,
        8..=10 => !matches!(entry, Lvt::Timer | Lvt::Error),
        13..=15 => pin,
        17 => entry == Lvt::Timer,
        18 => entry == Lvt::Timer && deadline,
        _ => false,
    }
}

/// Each bit of each entry, of an APIC with each set of features, enabled by software and not.
#[test]
fn writable_bits() {
    let mut cases = 0u64;
    for features in (0..1 << 5).map(Features::from_bits_retain) {
        for entry in ENTRIES {
            for (bit, software_enabled) in (0..32).flat_map(|bit| [(bit, false), (bit, true)]) {
                let apic = Lapic::new(Box::default(), 0, false, features);
                if software_enabled {
                    let _ = apic.write(Register::SVR.0, 0x1ff);
                }
                let exists = entry != Lvt::Cmci || features.contains(Features::CMCI);
                let effect = apic.write(entry.register().0, 1 << bit);
                let kept = has_bit(entry, bit, features.contains(Features::TSC_DEADLINE));
                let mut expected = if kept { 1 << bit } else { 0 };
                if !software_enabled {
                    expected |= 1 << 16;
                }
                if !exists {
                    expected = 0;
                    assert_eq!(effect, Effect::None);
                }
                let got = apic.read(entry.register().0, || 0);
                assert_eq!(got, expected, "{entry:?} bit {bit} {features:?}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 32 * 7 * 32 * 2);
}

/// Every vector with every delivery mode, trigger mode and mask, of each entry.
#[test]
fn what_is_delivered() {
    let mut cases = 0u64;
    for entry in ENTRIES {
        let apic = enabled(0);
        for bits in 0..1u32 << 13 {
            let vector = bits & 0xff;
            let (mode, level, masked) = (bits >> 8 & 7, bits >> 11 & 1, bits >> 12 & 1);
            let value = vector | mode << 8 | level << 15 | masked << 16;
            let _ = apic.write(entry.register().0, value);
            let expected = LocalInterrupt {
                delivery: if has_bit(entry, 8, true) {
                    delivery(mode)
                } else {
                    Delivery::Fixed
                },
                vector: vector as u8,
                level: level != 0 && has_bit(entry, 15, true),
            };
            let expected = (masked == 0).then_some(expected);
            assert_eq!(apic.local(entry), expected, "{entry:?} {value:#x}");
            // "When the local APIC handles a performance-monitoring counters interrupt, it
            // automatically sets the mask flag".
            let masks_itself = entry == Lvt::PerformanceCounters;
            let again = expected.filter(|_| !masks_itself);
            assert_eq!(apic.local(entry), again, "{entry:?} {value:#x}");
            if entry == Lvt::Lint0 {
                assert_eq!(apic.takes_extint(), masked == 0 && mode == 7);
                assert_eq!(apic.lint0_is_nmi(), masked == 0 && mode == 4);
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 7 * 8192);
}

/// Every change of the timer's mode: to or from the TSC deadline the initial count is lost.
#[test]
fn timer_modes() {
    let mut cases = 0u64;
    for (old, new) in (0..4u32).flat_map(|old| (0..4u32).map(move |new| (old, new))) {
        let apic = enabled(0);
        let _ = apic.write(Register::LVT_TIMER.0, old << 17);
        let _ = apic.write(Register::TMICT.0, 0x1234);
        let _ = apic.write(Register::LVT_TIMER.0, new << 17);
        let mode = [
            TimerMode::OneShot,
            TimerMode::Periodic,
            TimerMode::TscDeadline,
            TimerMode::Reserved,
        ][new as usize];
        assert_eq!(apic.timer_mode(), mode);
        let kept = old != 2 && new != 2;
        let count = apic.read(Register::TMICT.0, || 0);
        assert_eq!(count, if kept { 0x1234 } else { 0 }, "{old} to {new}");
        cases += 1;
    }
    assert_eq!(cases, 16);
}
