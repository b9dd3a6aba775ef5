// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

#[test]
fn a_vector_goes_from_irr_to_isr_and_away() {
    let apic = enabled(0);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.accept(0x41, false), Acceptance::New);
    assert_eq!(apic.accept(0x41, false), Acceptance::Already);
    assert_eq!(read(&apic, Register(0x220)), 1 << 1);
    assert!(apic.awaits_eoi(0x41));
    assert_eq!(apic.pending(), Some(0x41));
    apic.acknowledge(0x41);
    assert_eq!(read(&apic, Register(0x220)), 0);
    assert_eq!(read(&apic, Register(0x120)), 1 << 1);
    assert_eq!((apic.highest_irr(), apic.highest_isr()), (None, Some(0x41)));
    assert!(apic.awaits_eoi(0x41));
    assert_eq!(apic.pending(), None);
    let eoi = Eoi {
        vector: 0x41,
        level: false,
        suppressed: false,
    };
    assert_eq!(apic.eoi(), Some(eoi));
    assert_eq!(apic.eoi(), None);
    assert_eq!(apic.highest_isr(), None);
    assert!(!apic.awaits_eoi(0x41));
}

#[test]
fn a_higher_class_interrupts_a_lower_one() {
    let apic = enabled(0);
    for vector in [0x40, 0x4f, 0x51] {
        apic.accept(vector, false);
    }
    assert_eq!(apic.pending(), Some(0x51));
    apic.acknowledge(0x51);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.accept(0x5f, false), Acceptance::New);
    assert_eq!(apic.pending(), None, "same class");
    apic.accept(0x60, false);
    assert_eq!(apic.pending(), Some(0x60));
    apic.acknowledge(0x60);
    assert_eq!(apic.ppr(), 0x60);
    assert_eq!(apic.eoi().map(|eoi| eoi.vector), Some(0x60));
    assert_eq!(apic.ppr(), 0x50);
    assert_eq!(apic.eoi().map(|eoi| eoi.vector), Some(0x51));
    assert_eq!(apic.pending(), Some(0x5f));
}

#[test]
fn the_task_priority_keeps_classes_back() {
    let apic = enabled(0);
    apic.accept(0x45, false);
    for (tpr, held) in [(0x3f, false), (0x40, true), (0x4f, true), (0xff, true)] {
        apic.set_tpr(tpr);
        assert_eq!(apic.pending().is_none(), held, "{tpr:#x}");
        let threshold = if held { 4 } else { 0 };
        assert_eq!(apic.tpr_threshold(), threshold, "{tpr:#x}");
        assert_eq!(read(&apic, Register::PPR), u32::from(tpr));
    }
    apic.set_cr8(3);
    assert_eq!((apic.tpr(), apic.cr8()), (0x30, 3));
    assert_eq!(apic.pending(), Some(0x45));
    apic.set_cr8(0x1f);
    assert_eq!(apic.cr8(), 0xf);
}

#[test]
fn ppr_is_the_greater_of_tpr_and_what_is_in_service() {
    let apic = enabled(0);
    apic.acknowledge(0x53);
    for (tpr, ppr) in [
        (0, 0x50),
        (0x42, 0x50),
        (0x50, 0x50),
        (0x57, 0x57),
        (0x61, 0x61),
    ] {
        apic.set_tpr(tpr);
        assert_eq!(apic.ppr(), ppr);
        assert_eq!(read(&apic, Register::PPR), ppr);
    }
}

#[test]
fn vectors_below_16_are_never_deliverable() {
    let apic = enabled(0);
    for vector in 0..16 {
        apic.accept(vector, false);
    }
    assert_eq!(apic.pending(), None);
    apic.accept(16, false);
    assert_eq!(apic.pending(), Some(16));
}

#[test]
fn a_disabled_apic_takes_nothing() {
    let apic = apic(0);
    assert_eq!(apic.accept(0x30, true), Acceptance::Refused);
    assert!(!apic.registers().has(Register::TMR, 0x30));
    let apic = enabled(0);
    apic.accept(0x30, false);
    let _ = apic.set_base(DEFAULT_BASE, 46, false);
    assert_eq!(apic.accept(0x31, false), Acceptance::Refused);
    assert_eq!(apic.pending(), None);
}

#[test]
fn what_was_accepted_outlives_a_software_disable() {
    let apic = enabled(0);
    apic.accept(0x30, false);
    let _ = apic.write(Register::SVR.0, 0xff);
    assert_eq!(apic.pending(), Some(0x30));
}

#[test]
fn the_trigger_mode_is_the_last_one() {
    let apic = enabled(0);
    for level in [true, true, false, true] {
        apic.accept(0x30, level);
        assert_eq!(apic.registers().has(Register::TMR, 0x30), level);
        apic.acknowledge(0x30);
        assert_eq!(apic.eoi().map(|eoi| eoi.level), Some(level));
    }
    assert!(apic.accept_posted(0x31, true));
    assert!(apic.registers().has(Register::TMR, 0x31));
    assert_eq!(apic.highest_irr(), None);
}

#[test]
fn suppressed_eoi_broadcasts_say_so() {
    let apic = enabled(0);
    let _ = apic.write(Register::SVR.0, SVR_ENABLED | 1 << 12);
    apic.acknowledge(0x30);
    assert_eq!(apic.eoi().map(|eoi| eoi.suppressed), Some(true));

    apic.set_features(ALL.difference(Features::SUPPRESS_EOI_BROADCAST));
    let _ = apic.write(Register::SVR.0, SVR_ENABLED | 1 << 12);
    assert_eq!(
        read(&apic, Register::SVR),
        SVR_ENABLED,
        "the bit is not there"
    );
    apic.acknowledge(0x30);
    assert_eq!(apic.eoi().map(|eoi| eoi.suppressed), Some(false));
}

/// With virtual interrupt delivery the processor moves the bits.
#[test]
fn the_processor_may_change_the_page() {
    let apic = enabled(0);
    apic.accept(0x30, false);
    apic.set_hardware_delivery(true);
    assert!(apic.is_hardware_delivery());
    assert_eq!(apic.highest_irr(), Some(0x30));
    apic.registers().store(Register(0x210), 0);
    apic.registers().store(Register(0x170), 1 << 9);
    apic.registers().store(Register(0x120), 1 << 9);
    assert_eq!((apic.highest_irr(), apic.highest_isr()), (None, Some(0xe9)));
    assert_eq!(apic.eoi().map(|eoi| eoi.vector), Some(0xe9));
    assert_eq!(apic.highest_isr(), Some(0x49));
    apic.accept(0x55, false);
    assert_eq!(apic.pending(), Some(0x55));
    apic.acknowledge(0x55);
    assert_eq!((apic.highest_irr(), apic.highest_isr()), (None, Some(0x55)));
    apic.registers().store(Register(0x200), 1 << 31);
    apic.set_hardware_delivery(false);
    assert!(!apic.is_hardware_delivery());
    assert_eq!(
        (apic.highest_irr(), apic.highest_isr()),
        (Some(31), Some(0x55))
    );
    assert_eq!(apic.eoi().map(|eoi| eoi.vector), Some(0x55));
    assert_eq!(apic.highest_isr(), Some(0x49));
    apic.init_reset();
    assert_eq!((apic.highest_irr(), apic.highest_isr()), (None, None));
}

#[test]
fn posted_requests_reach_the_irr() {
    for hardware in [false, true] {
        let apic = enabled(0);
        apic.set_hardware_delivery(hardware);
        apic.accept_requests(&[1 << 33, 0, 1, 1 << 63]);
        let mut vectors = Vec::new();
        while let Some(vector) = apic.pending() {
            vectors.push(vector);
            apic.acknowledge(vector);
            apic.eoi();
        }
        assert_eq!(vectors, [255, 128, 33]);
    }
}

#[test]
fn ending_in_hardware_tells_the_trigger() {
    let apic = enabled(0);
    apic.accept_posted(0x66, true);
    let eoi = Eoi {
        vector: 0x66,
        level: true,
        suppressed: false,
    };
    assert_eq!(apic.ended(0x66), eoi);
}

/// Several threads request vectors while the owner takes them: each is taken, none twice.
#[test]
fn no_request_is_lost_between_threads() {
    const ROUNDS: usize = 3000;
    let apic = enabled(0);
    let apic = &apic;
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3u8)
            .map(|thread| {
                scope.spawn(move || {
                    let mut new = 0;
                    for round in 0..ROUNDS {
                        // Different words, shared by the threads.
                        let vector = 0x20 + thread + 32 * (round % 7) as u8;
                        if apic.accept(vector, round % 2 == 0) == Acceptance::New {
                            new += 1;
                        }
                    }
                    new
                })
            })
            .collect();
        let mut taken = 0;
        let mut take = || {
            while let Some(vector) = apic.pending() {
                apic.acknowledge(vector);
                assert_eq!(apic.eoi().map(|eoi| eoi.vector), Some(vector));
                taken += 1;
            }
        };
        while !senders.iter().all(|sender| sender.is_finished()) {
            take();
        }
        take();
        let new: usize = senders.into_iter().map(|s| s.join().unwrap()).sum();
        assert_eq!(taken, new);
    });
    assert_eq!(apic.registers().highest(Register::IRR), None);
}

#[derive(Clone, Debug)]
enum Step {
    Accept(u8),
    Take,
    Eoi,
    Tpr(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u8>().prop_map(Step::Accept),
        3 => Just(Step::Take),
        2 => Just(Step::Eoi),
        1 => any::<u8>().prop_map(Step::Tpr),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Against a model of two sets.
    #[test]
    fn priorities_hold(steps in prop::collection::vec(step(), 1..200), hardware: bool) {
        let apic = enabled(0);
        apic.set_hardware_delivery(hardware);
        let mut irr = BTreeSet::new();
        let mut isr = BTreeSet::new();
        let mut tpr = 0;
        for step in steps {
            match step {
                Step::Accept(vector) => {
                    let expected = if irr.insert(vector) { Acceptance::New } else { Acceptance::Already };
                    prop_assert_eq!(apic.accept(vector, false), expected);
                }
                Step::Take => {
                    let class = isr.last().map_or(0, |vector| vector & 0xf0);
                    let expected = irr
                        .last()
                        .copied()
                        .filter(|vector| vector & 0xf0 > class && vector & 0xf0 > tpr & 0xf0);
                    prop_assert_eq!(apic.pending(), expected);
                    if let Some(vector) = expected {
                        apic.acknowledge(vector);
                        irr.remove(&vector);
                        isr.insert(vector);
                    }
                }
                Step::Eoi => {
                    prop_assert_eq!(apic.eoi().map(|eoi| eoi.vector), isr.pop_last());
                }
                Step::Tpr(value) => {
                    tpr = value;
                    prop_assert_eq!(apic.write(Register::TPR.0, u32::from(value)), Effect::Tpr);
                }
            }
            prop_assert_eq!(apic.highest_irr(), irr.last().copied());
            prop_assert_eq!(apic.highest_isr(), isr.last().copied());
            prop_assert_eq!(apic.priority(), apic.ppr());
        }
    }
}

/// An interrupt that the processor did not get to take waits again, above one in service as before.
#[test]
fn taken_back() {
    let apic = enabled(0);
    for vector in [0x31, 0x41] {
        apic.accept(vector, false);
        apic.acknowledge(vector);
    }
    apic.take_back(0x41);
    assert_eq!(apic.highest_isr(), Some(0x31));
    assert_eq!(apic.highest_irr(), Some(0x41));
    assert_eq!(apic.pending(), Some(0x41));
    apic.acknowledge(0x41);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.eoi().map(|eoi| eoi.vector), Some(0x41));

    apic.set_hardware_delivery(true);
    apic.accept(0x51, false);
    apic.acknowledge(0x51);
    apic.take_back(0x51);
    apic.set_hardware_delivery(false);
    assert_eq!(apic.pending(), Some(0x51));
    assert_eq!(apic.highest_isr(), Some(0x31));
}
