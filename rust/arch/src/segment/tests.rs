// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

/// Linux's descriptors: kernel code, kernel data, 32-bit user code; a flat 16-bit one.
#[test]
fn known_descriptors() {
    for (descriptor, limit, rights) in [
        (0x00af_9b00_0000_ffff, 0xffff_ffff, 0xa09b),
        (0x00cf_9300_0000_ffff, 0xffff_ffff, 0xc093),
        (0x00cf_fb00_0000_ffff, 0xffff_ffff, 0xc0fb),
        (0x0000_9b00_0000_ffff, 0xffff, 0x009b),
        (0x0000_0000_0000_0000, 0, 0x1_0000),
    ] {
        let segment = Descriptor(descriptor).segment(Selector(8));
        assert_eq!((segment.base, segment.limit), (Gva(0), limit));
        assert_eq!(segment.rights, AccessRights(rights), "{descriptor:#x}");
    }
    let kernel_code = Descriptor(0x00af_9b00_0000_ffff).rights();
    assert!(kernel_code.is_code() && kernel_code.is_long() && kernel_code.is_present());
    assert!(!kernel_code.is_default_big() && kernel_code.is_granular());
    assert!(!Descriptor(0x00cf_9300_0000_ffff).rights().is_code());
}

#[test]
fn bases_are_gathered_from_their_pieces() {
    let tss = Descriptor(0x1200_8b34_5678_0067);
    assert_eq!((tss.base(), tss.limit()), (0x1234_5678, 0x67));
    let segment = tss.system_segment(0xffff_8888, Selector(0x40));
    assert_eq!(segment.base, Gva(0xffff_8888_1234_5678));
    assert_eq!(segment.rights.segment_type(), TYPE_BUSY_TSS);
    assert!(!segment.rights.is_code_or_data());
}

#[test]
fn selectors() {
    assert!([0, 1, 2, 3]
        .iter()
        .all(|selector| Selector(*selector).is_null()));
    assert!(!Selector(4).is_null() && !Selector(8).is_null());
    let selector = Selector(0x2f);
    assert_eq!(
        (selector.rpl(), selector.is_local(), selector.offset()),
        (3, true, 0x28)
    );
    assert!(!Selector(0x2b).is_local());
}

#[test]
fn what_is_not_present_is_unusable_and_told_as_not_present() {
    let rights = AccessRights::from(Fields {
        type_: 3,
        s: 1,
        ..Fields::default()
    });
    assert!(rights.is_unusable());
    let rights = AccessRights::from(Fields {
        present: 1,
        unusable: 7,
        ..Fields::default()
    });
    assert_eq!(rights.0, 0x1_0080);
    let fields = Fields::from(rights);
    assert_eq!((fields.present, fields.unusable), (0, 1));
}

#[test]
fn each_field_has_its_bits() {
    let present = Fields {
        present: 1,
        ..Fields::default()
    };
    for (fields, bits) in [
        (
            Fields {
                type_: 0xff,
                ..present
            },
            0xf,
        ),
        (Fields { s: 0xff, ..present }, 1 << 4),
        (
            Fields {
                dpl: 0xff,
                ..present
            },
            3 << 5,
        ),
        (
            Fields {
                avl: 0xff,
                ..present
            },
            1 << 12,
        ),
        (Fields { l: 0xff, ..present }, 1 << 13),
        (
            Fields {
                db: 0xff,
                ..present
            },
            1 << 14,
        ),
        (Fields { g: 0xff, ..present }, 1 << 15),
    ] {
        assert_eq!(AccessRights::from(fields).0, 0x80 | bits);
    }
    assert_eq!(
        AccessRights::RESERVED
            & AccessRights::from(Fields {
                type_: 0xff,
                present: 0xff,
                dpl: 0xff,
                db: 0xff,
                s: 0xff,
                l: 0xff,
                g: 0xff,
                avl: 0xff,
                unusable: 0xff,
            })
            .0,
        0
    );
}

#[test]
fn limits_bound_accesses() {
    let segment = |limit, rights| Segment {
        limit,
        rights: AccessRights(rights),
        ..Segment::default()
    };
    for (segment, offset, size, inside) in [
        (segment(0xffff, 0x93), 0, 1, true),
        (segment(0xffff, 0x93), 0xffff, 1, true),
        (segment(0xffff, 0x93), 0xffff, 2, false),
        (segment(0xffff, 0x93), 0x1_0000, 1, false),
        (segment(0xffff, 0x93), 0x1_0000, 0, true),
        (segment(u32::MAX, 0xc093), u32::MAX, 1, true),
        (segment(u32::MAX, 0xc093), u32::MAX, 2, false),
        (segment(0x0fff, 0x97), 0x0fff, 1, false),
        (segment(0x0fff, 0x97), 0x1000, 2, true),
        (segment(0x0fff, 0x97), 0xffff, 2, false),
        (segment(0x0fff, 0x4097), 0xffff, 2, true),
        (segment(0x0fff, 0x9f), 0x0fff, 1, true),
        (segment(0x0fff, 0x87), 0x0fff, 1, true),
    ] {
        assert_eq!(
            segment.contains(offset, size),
            inside,
            "{segment:x?} {offset:#x} {size}"
        );
    }
}

#[test]
fn a_real_mode_segment_starts_at_sixteen_times_its_selector() {
    let segment = Segment::real_mode(Selector(0xf000));
    assert_eq!((segment.base, segment.limit), (Gva(0xf_0000), 0xffff));
    assert!(!segment.rights.is_unusable() && segment.rights.is_code_or_data());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn usable_rights_survive_both_ways(bits in any::<u32>()) {
        let rights = AccessRights(bits & !AccessRights::RESERVED & 0xffff | 0x80);
        prop_assert_eq!(AccessRights::from(Fields::from(rights)), rights);
    }

    #[test]
    fn any_descriptor_unpacks_into_itself(bits in any::<u64>()) {
        let segment = Descriptor(bits).segment(Selector(8));
        let rights = segment.rights;
        prop_assert_eq!(rights.0 & AccessRights::RESERVED, 0);
        prop_assert_eq!(rights.is_unusable(), !rights.is_present());
        let limit = u64::from(if rights.is_granular() { segment.limit >> 12 } else { segment.limit });
        let base = segment.base.0;
        let packed = limit & 0xffff | ((base & 0xff_ffff) << 16) | (u64::from(rights.0 & 0xf0ff) << 40) | ((limit & 0xf_0000) << 32) | ((base >> 24) << 56);
        prop_assert_eq!(packed, bits);
    }
}
