// SPDX-License-Identifier: GPL-2.0

//! Segment registers in virtual-8086 mode: bases are sixteen times selectors, limits 0xffff and
//! access rights 0xf3, and nothing else.

use super::{compare, protected};
use arch::addr::Gva;
use arch::guest_state::{GuestState, Rule, Segments};
use arch::segment::{AccessRights, Segment, Selector};

const REGISTERS: [fn(&mut Segments) -> &mut Segment; 6] = [
    |segments| &mut segments.cs,
    |segments| &mut segments.ss,
    |segments| &mut segments.ds,
    |segments| &mut segments.es,
    |segments| &mut segments.fs,
    |segments| &mut segments.gs,
];

fn virtual_8086() -> GuestState {
    let mut state = protected();
    state.rflags |= 1 << 17;
    for register in REGISTERS {
        *register(&mut state.segments) = Segment {
            selector: Selector(0x1234),
            base: Gva(0x12340),
            limit: 0xffff,
            rights: AccessRights(0xf3),
        };
    }
    state
}

#[test]
fn access_rights() {
    let mut cases = 0u64;
    for register in REGISTERS {
        let mut state = virtual_8086();
        for rights in 0..1 << 17 {
            register(&mut state.segments).rights = AccessRights(rights);
            compare(&state, &[(Rule::Virtual8086Segment, rights != 0xf3)]);
            cases += 1;
        }
    }
    assert_eq!(cases, 6 * 131_072);
}

#[test]
fn selectors_and_bases() {
    let mut cases = 0u64;
    for register in REGISTERS {
        let mut state = virtual_8086();
        for selector in 0..=0xffff {
            let base = u64::from(selector) * 16;
            for moved in [0, 1, 16, 1 << 16, 1 << 20, 1 << 31] {
                let segment = register(&mut state.segments);
                segment.selector = Selector(selector);
                segment.base = Gva(base ^ moved);
                compare(&state, &[(Rule::Virtual8086Segment, moved != 0)]);
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 6 * 65_536 * 6);
}

#[test]
fn limits() {
    let mut cases = 0u64;
    for register in REGISTERS {
        let mut state = virtual_8086();
        for limit in (0..=0x1_ffff).chain((0..32).map(|bit| u32::MAX << bit)) {
            register(&mut state.segments).limit = limit;
            compare(&state, &[(Rule::Virtual8086Segment, limit != 0xffff)]);
            cases += 1;
        }
    }
    assert_eq!(cases, 6 * (131_072 + 32));
}
