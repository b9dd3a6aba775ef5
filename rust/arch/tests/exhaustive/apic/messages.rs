// SPDX-License-Identifier: GPL-2.0

//! Interrupt messages: what they are made of, and whom they reach (SDM vol. 3, 11.6, 11.11 and
//! 11.12.9 to 11.12.10).

use super::local::delivery;
use super::{enabled, x2apic};
use arch::apic::{Delivery, Destination, Effect, Message, Register, FIRST_MSR};

/// Figure 11-12: every vector, delivery mode, destination mode, level, trigger mode and shorthand.
#[test]
fn interrupt_commands() {
    let xapic = enabled(0);
    let x2 = x2apic(0);
    let mut cases = 0u64;
    for bits in 0..1u32 << 16 {
        let field = |low: u32, width: u32| bits >> low & ((1 << width) - 1);
        let (vector, mode, logical) = (field(0, 8), field(8, 3), field(11, 1));
        let (assert, level, shorthand) = (field(12, 1), field(13, 1), field(14, 2));
        let low = vector | mode << 8 | logical << 11 | assert << 14 | level << 15 | shorthand << 18;
        for high in [0u32, 0x0500_0000, 0xff00_0000, 0xffff_ffff, 0x0001_0002] {
            for wide in [false, true] {
                let id = if wide { high } else { high >> 24 };
                let expected = Message {
                    destination: match (shorthand, logical) {
                        (0, 0) => Destination::Physical(id),
                        (0, _) => Destination::Logical(id),
                        (1, _) => Destination::Itself,
                        (2, _) => Destination::All,
                        _ => Destination::AllButSelf,
                    },
                    x2apic: wide,
                    delivery: delivery(mode),
                    vector: vector as u8,
                    level: level != 0,
                    assert: assert != 0,
                    redirection_hint: false,
                };
                let sent = if wide {
                    let msr = FIRST_MSR + Register::ICR.0 / 16;
                    x2.write_msr(msr, u64::from(high) << 32 | u64::from(low))
                } else {
                    let _ = xapic.write(Register::ICR2.0, high);
                    Ok(xapic.write(Register::ICR.0, low))
                };
                assert_eq!(sent, Ok(Effect::Send(expected)), "{high:x} {low:x}");
                let ends = matches!(
                    expected.delivery,
                    Delivery::Fixed | Delivery::LowestPriority | Delivery::Init
                );
                let deassert = ends && level != 0 && assert == 0;
                assert_eq!(expected.is_deassert(), deassert);
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 65_536 * 5 * 2);
}

/// Figure 11-28: bits 31 to 20, 17, 16 and 13 are reserved; bit 12, a status in xAPIC mode, is not
/// kept.
#[test]
fn reserved_bits_of_commands() {
    let apic = x2apic(0);
    let msr = FIRST_MSR + Register::ICR.0 / 16;
    for bit in 0..64 {
        let reserved = matches!(bit, 13 | 16 | 17 | 20..=31);
        assert_eq!(apic.write_msr(msr, 1 << bit).is_err(), reserved, "{bit}");
        if !reserved {
            let kept = if bit == 12 { 0 } else { 1u64 << bit };
            assert_eq!(apic.read_msr(msr, || 0), Ok(kept));
        }
    }
}

/// Figures 11-24 and 11-25: every data word's meaningful bits, every destination with both modes
/// and the hint.
#[test]
fn message_signalled() {
    let mut cases = 0u64;
    let addresses = (0..1u64 << 10).map(|bits| {
        let (id, logical, hint) = (bits & 0xff, bits >> 8 & 1, bits >> 9);
        0xfee0_0000 | id << 12 | logical << 2 | hint << 3
    });
    let data = (0..1u32 << 12).map(|bits| bits & 0x7ff | (bits >> 11) << 15);
    let both = addresses
        .map(|address| (address, 0x31))
        .chain(data.map(|data| (0xfee0_1000, data)));
    for (address, data) in both {
        let id = (address >> 12 & 0xff) as u32;
        let expected = Message {
            destination: if address & 4 != 0 {
                Destination::Logical(id)
            } else {
                Destination::Physical(id)
            },
            x2apic: false,
            delivery: delivery(data >> 8 & 7),
            vector: data as u8,
            level: data >> 15 != 0,
            assert: true,
            redirection_hint: address & 8 != 0,
        };
        assert_eq!(Message::from_msi(address, data, false), expected);
        assert_eq!(Message::from_msi(address, data, true), expected);
        let lowest = expected.delivery == Delivery::LowestPriority || address & 8 != 0;
        assert_eq!(expected.is_lowest_priority(), lowest);
        cases += 1;
    }
    assert_eq!(cases, 1024 + 4096);
}

fn to(destination: Destination, x2apic: bool) -> Message {
    Message {
        destination,
        x2apic,
        ..Message::to_itself(0x31)
    }
}

/// 11.6.2.1: every 8-bit id and every 8-bit destination; 0xff is for all.
#[test]
fn physical_destinations() {
    let mut cases = 0u64;
    for own in 0..=0xffu32 {
        let apic = enabled(own);
        for destination in 0..=0xff {
            let message = to(Destination::Physical(destination), false);
            let expected = destination == own || destination == 0xff;
            assert_eq!(apic.matches(&message, false), expected);
            cases += 1;
        }
    }
    assert_eq!(cases, 65_536);
}

/// 11.6.2.2: every logical id with every destination, in the flat and in the cluster model.
#[test]
fn logical_destinations() {
    let mut cases = 0u64;
    for (flat, own) in (0..=0xffu32).flat_map(|own| [(true, own), (false, own)]) {
        let apic = enabled(3);
        let _ = apic.write(Register::DFR.0, if flat { !0 } else { 0x0fff_ffff });
        let _ = apic.write(Register::LDR.0, own << 24);
        for destination in 0..=0xffu32 {
            let message = to(Destination::Logical(destination), false);
            let selected = |from: u32| (0..from).any(|bit| own & destination & (1 << bit) != 0);
            let expected = if flat {
                selected(8)
            } else {
                own / 16 == destination / 16 && selected(4)
            };
            let expected = expected || destination == 0xff;
            assert_eq!(
                apic.matches(&message, false),
                expected,
                "{own:#x} {destination:#x} {flat}"
            );
            cases += 1;
        }
    }
    assert_eq!(cases, 2 * 65_536);
}

/// 11.12.9 and 11.12.10: the ids of 33 clusters, as physical destinations and by every cluster and
/// every single bit of it.
#[test]
fn x2apic_destinations() {
    let mut cases = 0u64;
    for own in 0..33 * 16u32 {
        let apic = x2apic(own);
        for destination in (0..33 * 16).chain([!0]) {
            let message = to(Destination::Physical(destination), true);
            let expected = destination == own || destination == !0;
            assert_eq!(apic.matches(&message, false), expected);
            cases += 1;
        }
        for (cluster, bit) in (0..33u32).flat_map(|cluster| (0..16).map(move |bit| (cluster, bit)))
        {
            let message = to(Destination::Logical(cluster << 16 | 1 << bit), true);
            let expected = cluster == own / 16 && bit == own % 16;
            assert_eq!(apic.matches(&message, false), expected);
            cases += 1;
        }
    }
    assert_eq!(cases, 528 * (529 + 528));
}
