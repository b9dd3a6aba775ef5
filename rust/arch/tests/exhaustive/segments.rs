// SPDX-License-Identifier: GPL-2.0

//! Limits of segments, and descriptors (SDM vol. 3, 3.4.5 and 5.3).

use arch::addr::Gva;
use arch::segment::{AccessRights, Descriptor, Segment, Selector};

/// The offsets that are within a segment with that limit: "from 0 to the limit", or for an
/// expand-down data segment those above it up to 0xffff or, with B set, 0xffffffff.
fn is_within(offset: u64, limit: u32, rights: u32) -> bool {
    let (kind, s, big) = (rights & 15, rights >> 4 & 1, rights >> 14 & 1);
    let expand_down_data = s != 0 && [4, 5, 6, 7].contains(&kind);
    if !expand_down_data {
        offset <= u64::from(limit)
    } else if big != 0 {
        offset > u64::from(limit) && offset <= 0xffff_ffff
    } else {
        offset > u64::from(limit) && offset <= 0xffff
    }
}

/// Offsets and limits about each edge that there is.
fn edges() -> Vec<u32> {
    let around = |edge: u32| (0..10).map(move |n| edge.wrapping_sub(5).wrapping_add(n));
    [0, 0x1000, 0xffff, 0x8000_0000, 0xffff_ffff]
        .into_iter()
        .flat_map(around)
        .collect()
}

/// An access is within the limit where each of its bytes is.
#[test]
fn limits() {
    let mut cases = 0u64;
    for rights in (0..64u32).map(|bits| bits & 31 | bits >> 5 << 14) {
        for (limit, offset) in edges()
            .into_iter()
            .flat_map(|l| edges().into_iter().map(move |o| (l, o)))
        {
            let segment = Segment {
                selector: Selector(0),
                base: Gva(0),
                limit,
                rights: AccessRights(rights),
            };
            for size in 0..=16 {
                let mut bytes = (0..size).map(|n| u64::from(offset) + n);
                let expected = bytes.all(|byte| is_within(byte, limit, rights));
                let got = segment.contains(offset, size as u32);
                assert_eq!(got, expected, "{segment:x?} {offset:#x} {size}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 64 * 50 * 50 * 17);
}

/// Each bit of a descriptor, by figure 3-8, alone and with all of its low access-right bits.
#[test]
fn descriptors() {
    let mut cases = 0u64;
    for (bit, rest) in (0..64u32).flat_map(|bit| [(bit, 0), (bit, 0x0000_9000_0000_0000u64)]) {
        let descriptor = Descriptor(rest | 1 << bit);
        let value = descriptor.0;
        let field = |low: u32, width: u32| value >> low & ((1 << width) - 1);
        let base = field(16, 24) | field(56, 8) << 24;
        let limit = field(0, 16) | field(48, 4) << 16;
        let granular = field(55, 1) != 0;
        assert_eq!(u64::from(descriptor.base()), base, "bit {bit}");
        let bytes = if granular { limit * 4096 + 4095 } else { limit };
        assert_eq!(u64::from(descriptor.limit()), bytes, "bit {bit}");
        let rights = descriptor.rights();
        assert_eq!(u64::from(rights.segment_type()), field(40, 4));
        assert_eq!(rights.is_code_or_data(), field(44, 1) != 0);
        assert_eq!(u64::from(rights.dpl()), field(45, 2));
        assert_eq!(rights.is_present(), field(47, 1) != 0);
        assert_eq!(rights.is_unusable(), field(47, 1) == 0);
        assert_eq!(rights.is_available(), field(52, 1) != 0);
        assert_eq!(rights.is_long(), field(53, 1) != 0);
        assert_eq!(rights.is_default_big(), field(54, 1) != 0);
        assert_eq!(rights.is_granular(), granular);
        assert_eq!(rights.0 & AccessRights::RESERVED, 0);
        cases += 1;
    }
    assert_eq!(cases, 128);
}
