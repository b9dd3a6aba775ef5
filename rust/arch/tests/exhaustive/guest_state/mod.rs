// SPDX-License-Identifier: GPL-2.0

//! The state that VM entry accepts (SDM vol. 3, 27.3.1), of an unrestricted guest.
//!
//! The rules here say what is broken by a state, all of it; the crate names one of them, or none
//! where none is.

mod activity;
mod registers;
mod segments;
mod virtual_8086;

use arch::addr::Gva;
use arch::guest_state::{GuestState, Rule, Segments, TableRegister};
use arch::segment::{AccessRights, Segment, Selector};

/// Holds what the crate says of `state` against the rules that it breaks.
#[track_caller]
fn compare(state: &GuestState, broken: &[(Rule, bool)]) {
    match state.check() {
        Ok(()) => assert!(
            broken.iter().all(|(_, broken)| !broken),
            "accepted in spite of {broken:?}: {state:x?}"
        ),
        Err(rule) => assert!(
            broken.contains(&(rule, true)),
            "refused for {rule:?}, not {broken:?}: {state:x?}"
        ),
    }
}

fn segment(rights: u32) -> Segment {
    Segment {
        selector: Selector(0x10),
        base: Gva(0),
        limit: 0xffff,
        rights: AccessRights(rights),
    }
}

/// A guest in protected mode without paging that breaks no rule.
fn protected() -> GuestState {
    let data = segment(0x93);
    GuestState {
        cr0: 1,
        rflags: 2,
        segments: Segments {
            es: data,
            cs: segment(0x9b),
            ss: data,
            ds: data,
            fs: data,
            gs: data,
            ldtr: segment(0x82),
            tr: segment(0x8b),
        },
        gdtr: TableRegister {
            base: Gva(0),
            limit: 0xffff,
        },
        link_pointer: u64::MAX,
        maxphyaddr: 39,
        linear_bits: 48,
        ..GuestState::default()
    }
}

/// The modes with their own rules: real mode, protected mode, compatibility mode.
fn modes() -> [GuestState; 3] {
    let real = GuestState {
        cr0: 0,
        ..protected()
    };
    let ia32e = GuestState {
        cr0: 0x8000_0001,
        cr4: 1 << 5,
        efer: 0x500,
        ia32e_mode: true,
        ..protected()
    };
    [real, protected(), ia32e]
}

fn is_protected(state: &GuestState) -> bool {
    state.cr0 & 1 != 0
}
