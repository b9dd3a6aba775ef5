// SPDX-License-Identifier: GPL-2.0

//! Priorities (SDM vol. 3, 11.8.3 and 30.1.2).

use super::enabled;

/// Every task priority, with every vector or none in service, and every vector or none requested.
#[test]
fn task_requested_and_in_service() {
    let vectors = || (0..=255u8).map(Some).chain([None]);
    let mut cases = 0u64;
    for in_service in vectors() {
        for requested in vectors() {
            let apic = enabled(0);
            if let Some(vector) = in_service {
                apic.accept(vector, false);
                apic.acknowledge(vector);
            }
            if let Some(vector) = requested {
                apic.accept(vector, false);
            }
            for tpr in 0..=255u8 {
                apic.set_tpr(tpr);
                let class = |vector: u8| u32::from(vector) / 16;
                let serving = in_service.map_or(0, class);
                // Table 11-x: the greater class; the sub-class is the task's or 0.
                let ppr = if class(tpr) >= serving {
                    u32::from(tpr)
                } else {
                    16 * serving
                };
                assert_eq!(apic.ppr(), ppr, "{in_service:?} {tpr:#x}");
                // "The processor's priority class is less than the interrupt's": so 0 to 15 never.
                let deliverable = requested.filter(|vector| class(*vector) > ppr / 16);
                assert_eq!(
                    apic.pending(),
                    deliverable,
                    "{requested:?} {in_service:?} {tpr:#x}"
                );
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 257 * 257 * 256);
}

/// With the threshold of each request at each task priority, the processor tells of exactly those
/// new priorities that let the request through which was held back.
#[test]
fn task_priority_thresholds() {
    let mut cases = 0u64;
    for requested in 0..=255u8 {
        let apic = enabled(0);
        apic.accept(requested, false);
        for tpr in 0..=255u8 {
            apic.set_tpr(tpr);
            let threshold = apic.tpr_threshold();
            assert!(threshold < 16, "31:4 of the field are reserved");
            let held_back = tpr / 16 >= requested / 16;
            for new in 0..16 {
                let exits = new < threshold;
                let lets_through = u32::from(requested / 16) > new;
                assert_eq!(exits, held_back && lets_through);
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 256 * 256 * 16);
}

/// Every pair of vectors in service: the higher ends first.
#[test]
fn ends_of_interrupts() {
    let mut cases = 0u64;
    for first in 0..=255u8 {
        for second in 0..=255u8 {
            let apic = enabled(0);
            let level = first % 2 != 0;
            apic.accept(first, level);
            apic.acknowledge(first);
            if second != first {
                apic.accept(second, !level);
                apic.acknowledge(second);
            }
            let ended: Vec<_> = std::iter::from_fn(|| apic.eoi())
                .map(|eoi| (eoi.vector, eoi.level))
                .collect();
            let mut expected = vec![(first, level)];
            if second != first {
                expected.push((second, !level));
            }
            expected.sort_by(|a, b| b.cmp(a));
            assert_eq!(ended, expected);
            cases += 1;
        }
    }
    assert_eq!(cases, 65_536);
}
