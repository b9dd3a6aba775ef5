// SPDX-License-Identifier: GPL-2.0

use super::*;
use Destination::{All, AllButSelf, Itself, Logical, Physical};

fn to(destination: Destination) -> Message {
    Message {
        destination,
        ..Message::to_itself(0x40)
    }
}

/// A message whose destination has 8 bits.
fn to8(destination: Destination) -> Message {
    Message {
        x2apic: false,
        ..to(destination)
    }
}

#[test]
fn shorthands_are_about_the_sender() {
    let apic = enabled(3);
    for (destination, itself, others) in [
        (Itself, true, false),
        (All, true, true),
        (AllButSelf, false, true),
    ] {
        assert_eq!(apic.matches(&to(destination), true), itself);
        assert_eq!(apic.matches(&to(destination), false), others);
    }
    let _ = apic.set_base(0, 46, true);
    assert!(
        !apic.matches(&to(All), false),
        "a disabled APIC hears nothing"
    );
}

#[test]
fn physical_destinations() {
    let apic = enabled(3);
    assert!(apic.matches(&to8(Physical(3)), false));
    assert!(apic.matches(&to8(Physical(0xff)), false));
    assert!(apic.matches(&to(Physical(0xffff_ffff)), false));
    assert!(!apic.matches(&to8(Physical(2)), false));
    let _ = apic.write(Register::ID.0, 0x0900_0000);
    assert_eq!((apic.id(), apic.xapic_id()), (3, 9));
    assert!(apic.matches(&to8(Physical(9)), false));
    assert!(!apic.matches(&to8(Physical(3)), false));
}

#[test]
fn ids_past_8_bits_reach_an_xapic_too() {
    let apic = enabled(0x103);
    assert_eq!(apic.xapic_id(), 3);
    assert!(apic.matches(&to(Physical(0x103)), false));
    assert!(apic.matches(&to8(Physical(3)), false));
    assert!(!apic.matches(&to(Physical(0x203)), false));
}

#[test]
fn physical_destinations_of_an_x2apic() {
    let apic = x2apic(0x1ff);
    assert!(apic.matches(&to(Physical(0x1ff)), false));
    assert!(!apic.matches(&to(Physical(0xff)), false));
    assert!(apic.matches(&to(Physical(0xffff_ffff)), false));
    assert!(apic.matches(&to8(Physical(0xff)), false), "KVM's quirk");
    assert!(x2apic(0xff).matches(&to(Physical(0xff)), false));
}

#[test]
fn flat_model() {
    let apic = enabled(0);
    let _ = apic.write(Register::LDR.0, 0x0512_3456);
    assert_eq!(read(&apic, Register::LDR), 0x0500_0000);
    for (set, reached) in [
        (1, true),
        (2, false),
        (4, true),
        (6, true),
        (0xff, true),
        (0, false),
    ] {
        assert_eq!(apic.matches(&to8(Logical(set)), false), reached, "{set:#x}");
    }
}

#[test]
fn cluster_model() {
    let apic = enabled(0);
    let _ = apic.write(Register::DFR.0, 0);
    assert_eq!(read(&apic, Register::DFR), 0x0fff_ffff);
    let _ = apic.write(Register::LDR.0, 0x2600_0000);
    for (set, reached) in [
        (0x22, true),
        (0x24, true),
        (0x29, false),
        (0x16, false),
        (0xff, true),
    ] {
        assert_eq!(apic.matches(&to8(Logical(set)), false), reached, "{set:#x}");
    }
    let _ = apic.write(Register::DFR.0, 0x3000_0000);
    assert!(!apic.matches(&to8(Logical(0x26)), false), "no such model");
}

#[test]
fn x2apic_clusters() {
    let apic = x2apic(0x25);
    assert_eq!(apic.read_msr(msr(Register::LDR), || 0), Ok(0x0002_0020));
    for (set, reached) in [
        (0x0002_0020, true),
        (0x0002_ffff, true),
        (0x0002_0010, false),
        (0x0003_0020, false),
        (0xffff_ffff, true),
    ] {
        assert_eq!(apic.matches(&to(Logical(set)), false), reached, "{set:#x}");
    }
    assert!(!apic.matches(&to(Logical(0xff)), false));
    assert!(apic.matches(&to8(Logical(0xff)), false), "KVM's quirk");
}

#[test]
fn icr_fields() {
    let message = Message::from_icr(0x0300_0000_0000_c8e5, false);
    assert_eq!(message.destination, Logical(3));
    assert_eq!((message.vector, message.delivery), (0xe5, Delivery::Fixed));
    assert!(message.level && message.assert && !message.x2apic);
    let wide = Message::from_icr(0x0300_0000_0000_0530, true);
    assert_eq!(wide.destination, Physical(0x0300_0000));
    assert_eq!((wide.delivery, wide.x2apic), (Delivery::Init, true));
    for (shorthand, destination) in [(1, Itself), (2, All), (3, AllButSelf)] {
        let message = Message::from_icr(shorthand << 18 | 5 << 56, false);
        assert_eq!(message.destination, destination);
    }
    let deliveries = [
        Delivery::Fixed,
        Delivery::LowestPriority,
        Delivery::Smi,
        Delivery::Reserved,
        Delivery::Nmi,
        Delivery::Init,
        Delivery::StartUp,
        Delivery::ExtInt,
    ];
    for (bits, delivery) in (0u64..).zip(deliveries) {
        assert_eq!(Message::from_icr(bits << 8, true).delivery, delivery);
        assert_eq!(u64::from(delivery as u8), bits);
    }
}

#[test]
fn the_end_of_a_level_is_no_interrupt() {
    assert!(Message::from_icr(0x8500, false).is_deassert());
    assert!(!Message::from_icr(0xc500, false).is_deassert());
    assert!(!Message::from_icr(0x0500, false).is_deassert());
    assert!(Message::from_icr(0x8040, false).is_deassert());
    assert!(
        !Message::from_icr(0x8400, false).is_deassert(),
        "an NMI has no level"
    );
}

#[test]
fn msi_fields() {
    let message = Message::from_msi(0xfee0_5000, 0x41, false);
    assert_eq!(message.destination, Physical(5));
    assert_eq!((message.vector, message.delivery), (0x41, Delivery::Fixed));
    assert!(!message.level && message.assert && !message.is_lowest_priority());
    let message = Message::from_msi(0xfeef_f00c, 0x8141, false);
    assert_eq!(message.destination, Logical(0xff));
    assert_eq!(message.delivery, Delivery::LowestPriority);
    assert!(message.level && message.redirection_hint && message.is_lowest_priority());
    let address = 0x0001_0200_fee0_3000;
    assert_eq!(
        Message::from_msi(address, 0, true).destination,
        Physical(0x0001_0203)
    );
    assert_eq!(
        Message::from_msi(address, 0, false).destination,
        Physical(3)
    );
    assert!(Message::is_valid_wide_address(address));
    assert!(!Message::is_valid_wide_address(address | 1 << 32));
}

#[test]
fn lowest_priority_is_chosen_by_the_vector() {
    let message = to(All);
    assert_eq!(message.choose(0), None);
    assert_eq!(message.choose(1), Some(0));
    assert_eq!(message.choose(3), Some(0x40 % 3));
}
