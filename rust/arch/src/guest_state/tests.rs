// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::segment::{AccessRights, Selector};
use proptest::prelude::*;

fn segment(selector: u16, rights: u32, limit: u32) -> Segment {
    Segment {
        selector: Selector(selector),
        base: Gva(0),
        limit,
        rights: AccessRights(rights),
    }
}

const UNUSABLE: u32 = 1 << 16;

/// A 64-bit kernel.
fn long_mode() -> GuestState {
    let data = segment(0x10, 0xc093, u32::MAX);
    GuestState {
        cr0: (Cr0::PE | Cr0::PG | Cr0::WP | Cr0::ET).bits(),
        cr3: 0x1000,
        cr4: Cr4::PAE.bits(),
        efer: (Efer::LME | Efer::LMA | Efer::NXE).bits(),
        dr7: 0x400,
        pat: Some(0x0007_0406_0007_0406),
        rip: 0xffff_ffff_8100_0000,
        rflags: 2,
        segments: Segments {
            es: data,
            cs: segment(0x08, 0xa09b, u32::MAX),
            ss: data,
            ds: data,
            fs: data,
            gs: data,
            ldtr: segment(0, UNUSABLE, 0),
            tr: segment(0x40, 0x8b, 0x67),
        },
        gdtr: TableRegister {
            base: Gva(0xffff_8000_0000_1000),
            limit: 0x7f,
        },
        idtr: TableRegister {
            base: Gva(0xffff_8000_0000_0000),
            limit: 0xfff,
        },
        link_pointer: u64::MAX,
        ia32e_mode: true,
        maxphyaddr: 39,
        linear_bits: 48,
        ..GuestState::default()
    }
}

/// After reset.
fn real_mode() -> GuestState {
    let data = segment(0, 0x93, 0xffff);
    let mut state = long_mode();
    state.cr0 = 0x6000_0010;
    state.cr3 = 0;
    state.cr4 = 0;
    state.efer = 0;
    state.ia32e_mode = false;
    state.rip = 0xfff0;
    let cs = Segment {
        base: Gva(0xffff_0000),
        ..segment(0xf000, 0x9b, 0xffff)
    };
    state.segments = Segments {
        es: data,
        cs,
        ss: data,
        ds: data,
        fs: data,
        gs: data,
        ..state.segments
    };
    state
}

/// 32-bit protected mode with PAE paging, at CPL 3.
fn user_mode() -> GuestState {
    let data = segment(0x2b, 0xc0f3, u32::MAX);
    let mut state = long_mode();
    state.efer = 0;
    state.ia32e_mode = false;
    state.rip = 0x0804_8000;
    state.segments = Segments {
        es: data,
        cs: segment(0x23, 0xc0fb, u32::MAX),
        ss: data,
        ds: data,
        fs: segment(0, UNUSABLE, 0),
        gs: segment(0, UNUSABLE, 0),
        ..state.segments
    };
    state
}

fn virtual_8086() -> GuestState {
    let data = Segment {
        base: Gva(0x1_2340),
        ..segment(0x1234, 0xf3, 0xffff)
    };
    let mut state = user_mode();
    state.rflags = Rflags::VM.bits() | 2;
    state.rip = 0x100;
    state.segments = Segments {
        es: data,
        cs: data,
        ss: data,
        ds: data,
        fs: data,
        gs: data,
        ..state.segments
    };
    state
}

#[test]
fn ordinary_states_are_accepted() {
    for state in [
        long_mode(),
        real_mode(),
        user_mode(),
        virtual_8086(),
        real_mode_with_code3(),
    ] {
        assert_eq!(state.check(), Ok(()), "{state:x?}");
    }
}

/// A guest that just left protected mode, or one whose CS was loaded as data.
fn real_mode_with_code3() -> GuestState {
    let mut state = real_mode();
    state.segments.cs.rights = AccessRights(0x93);
    state
}

#[test]
fn each_broken_rule_is_named() {
    type Case = (fn() -> GuestState, fn(&mut GuestState), Rule);
    let cases: [Case; 75] = [
        (
            real_mode,
            |s| s.cr0 |= 1 << 31,
            Rule::Cr0PagingNeedsProtection,
        ),
        (long_mode, |s| s.cr0 |= 1 << 32, Rule::Cr0UpperHalf),
        (
            user_mode,
            |s| {
                s.cr4 |= 1 << 23;
                s.cr0 &= !(1 << 16)
            },
            Rule::Cr4CetNeedsWriteProtect,
        ),
        (
            long_mode,
            |s| s.cr0 &= !(1 << 31),
            Rule::Ia32eNeedsPagingAndPae,
        ),
        (
            long_mode,
            |s| s.cr4 &= !(1 << 5),
            Rule::Ia32eNeedsPagingAndPae,
        ),
        (user_mode, |s| s.cr4 |= 1 << 17, Rule::Cr4PcideNeedsIa32e),
        (long_mode, |s| s.cr3 = 1 << 39, Rule::Cr3NotPhysical),
        (long_mode, |s| s.dr7 |= 1 << 32, Rule::Dr7UpperHalf),
        (
            long_mode,
            |s| s.sysenter_esp = 1 << 47,
            Rule::SysenterNotCanonical,
        ),
        (
            long_mode,
            |s| s.sysenter_eip = 1 << 63,
            Rule::SysenterNotCanonical,
        ),
        (long_mode, |s| s.pat = Some(2), Rule::PatType),
        (long_mode, |s| s.pat = Some(8 << 56), Rule::PatType),
        (long_mode, |s| s.efer |= 1 << 1, Rule::EferReserved),
        (long_mode, |s| s.efer &= !(1 << 10), Rule::EferLongMode),
        (long_mode, |s| s.efer &= !(1 << 8), Rule::EferLongMode),
        (user_mode, |s| s.efer |= 1 << 8, Rule::EferLongMode),
        (
            long_mode,
            |s| s.segments.tr.selector.0 |= 4,
            Rule::SelectorLocal,
        ),
        (
            long_mode,
            |s| s.segments.ldtr = segment(4, 0x82, 0),
            Rule::SelectorLocal,
        ),
        (
            virtual_8086,
            |s| s.segments.ds.base.0 += 1,
            Rule::Virtual8086Segment,
        ),
        (
            virtual_8086,
            |s| s.segments.cs.limit = 0xfffe,
            Rule::Virtual8086Segment,
        ),
        (
            virtual_8086,
            |s| s.segments.ss.rights.0 = 0x93,
            Rule::Virtual8086Segment,
        ),
        (
            long_mode,
            |s| s.segments.fs.base.0 = 1 << 47,
            Rule::SegmentBase,
        ),
        (
            long_mode,
            |s| s.segments.gs.base.0 = 1 << 47,
            Rule::SegmentBase,
        ),
        (
            long_mode,
            |s| s.segments.tr.base.0 = 1 << 47,
            Rule::SegmentBase,
        ),
        (
            long_mode,
            |s| {
                s.segments.ldtr = Segment {
                    base: Gva(1 << 47),
                    ..segment(0x48, 0x82, 0)
                }
            },
            Rule::SegmentBase,
        ),
        (
            long_mode,
            |s| s.segments.cs.base.0 = 1 << 32,
            Rule::SegmentBase,
        ),
        (
            long_mode,
            |s| s.segments.ss.base.0 = 1 << 32,
            Rule::SegmentBase,
        ),
        (
            long_mode,
            |s| s.segments.ds.base.0 = 1 << 32,
            Rule::SegmentBase,
        ),
        (
            long_mode,
            |s| s.segments.es.base.0 = 1 << 32,
            Rule::SegmentBase,
        ),
        (
            long_mode,
            |s| s.segments.cs.rights.0 |= UNUSABLE,
            Rule::SegmentUnusable,
        ),
        (
            long_mode,
            |s| s.segments.tr.rights.0 |= UNUSABLE,
            Rule::SegmentUnusable,
        ),
        (
            long_mode,
            |s| s.segments.cs.rights.0 = 0xa09a,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.cs.rights.0 = 0xa091,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.cs.rights.0 = 0xa08b,
            Rule::SegmentSystem,
        ),
        (
            long_mode,
            |s| s.segments.cs.rights.0 = 0xa0fb,
            Rule::SegmentDpl,
        ),
        (
            long_mode,
            |s| s.segments.cs.rights.0 = 0xa0ff,
            Rule::SegmentDpl,
        ),
        (
            user_mode,
            |s| s.segments.cs.rights.0 = 0xc0f3,
            Rule::SegmentDpl,
        ),
        (
            user_mode,
            |s| s.segments.cs.rights.0 = 0xc093,
            Rule::SegmentDpl,
        ),
        (
            long_mode,
            |s| s.segments.cs.rights.0 = 0xa01b,
            Rule::SegmentNotPresent,
        ),
        (
            long_mode,
            |s| s.segments.cs.rights.0 = 0xe09b,
            Rule::CodeLongAndBig,
        ),
        (
            long_mode,
            |s| s.segments.ss.rights.0 = 0xc092,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.ss.rights.0 = 0xc091,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.ss.rights.0 = 0xc09b,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.ss.rights.0 = 0xc083,
            Rule::SegmentSystem,
        ),
        (
            real_mode,
            |s| {
                s.segments.ss.rights.0 |= 0x60;
                s.segments.cs.rights.0 |= 0x60
            },
            Rule::SegmentDpl,
        ),
        (
            real_mode_with_code3,
            |s| s.segments.ss.rights.0 |= 0x60,
            Rule::SegmentDpl,
        ),
        (
            long_mode,
            |s| s.segments.ds.rights.0 = 0xc092,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.es.rights.0 = 0xc099,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.fs.rights.0 = 0xc083,
            Rule::SegmentSystem,
        ),
        (
            long_mode,
            |s| s.segments.gs.rights.0 = 0xc013,
            Rule::SegmentNotPresent,
        ),
        (
            long_mode,
            |s| s.segments.ds.rights.0 |= 1 << 8,
            Rule::SegmentReserved,
        ),
        (
            long_mode,
            |s| s.segments.ds.rights.0 |= 1 << 17,
            Rule::SegmentReserved,
        ),
        (
            long_mode,
            |s| s.segments.ds.limit = 0xffff_fffe,
            Rule::SegmentGranularity,
        ),
        (
            real_mode,
            |s| s.segments.ds.limit = 0x10_0000,
            Rule::SegmentGranularity,
        ),
        (
            long_mode,
            |s| s.segments.tr.rights.0 = 0x89,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.tr.rights.0 = 0x83,
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.tr.rights.0 = 0x9b,
            Rule::SegmentSystem,
        ),
        (
            long_mode,
            |s| s.segments.ldtr = segment(0x48, 0x83, 0),
            Rule::SegmentType,
        ),
        (
            long_mode,
            |s| s.segments.ldtr = segment(0x48, 0x92, 0),
            Rule::SegmentSystem,
        ),
        (long_mode, |s| s.gdtr.base.0 = 1 << 47, Rule::TableBase),
        (long_mode, |s| s.idtr.limit = 0x1_0000, Rule::TableLimit),
        (long_mode, |s| s.rip = 1 << 48, Rule::Rip),
        (user_mode, |s| s.rip = 1 << 32, Rule::Rip),
        (long_mode, |s| s.rflags = 0, Rule::RflagsReserved),
        (
            real_mode,
            |s| {
                *s = GuestState {
                    cr0: s.cr0,
                    ..virtual_8086()
                };
                s.cr4 = 0
            },
            Rule::RflagsVirtual8086,
        ),
        (
            long_mode,
            |s| s.injection = Injection::ExternalInterrupt,
            Rule::RflagsInterruptFlag,
        ),
        (long_mode, |s| s.activity = 4, Rule::ActivityState),
        (user_mode, |s| s.activity = 1, Rule::ActivityBlocked),
        (
            long_mode,
            |s| {
                s.activity = 1;
                s.interruptibility = 2
            },
            Rule::ActivityBlocked,
        ),
        (
            long_mode,
            |s| s.interruptibility = 3,
            Rule::Interruptibility,
        ),
        (long_mode, |s| s.interruptibility = 1, Rule::ShadowOfSti),
        (
            long_mode,
            |s| {
                s.interruptibility = 2;
                s.injection = Injection::Nmi
            },
            Rule::ShadowBlocksInjection,
        ),
        (
            long_mode,
            |s| s.pending_debug = 1 << 13,
            Rule::PendingDebugReserved,
        ),
        (
            long_mode,
            |s| {
                s.interruptibility = 2;
                s.rflags |= 1 << 8
            },
            Rule::PendingDebugSingleStep,
        ),
        (long_mode, |s| s.link_pointer = 0, Rule::LinkPointer),
    ];
    for (number, (make, spoil, rule)) in cases.iter().enumerate() {
        let mut state = make();
        spoil(&mut state);
        assert_eq!(state.check(), Err(*rule), "case {number}");
    }
}

#[test]
fn rules_bind_only_where_they_apply() {
    type Case = (fn() -> GuestState, fn(&mut GuestState));
    let cases: [Case; 12] = [
        (long_mode, |s| s.segments.ss.rights.0 = UNUSABLE),
        (long_mode, |s| {
            s.segments.ds = Segment {
                base: Gva(1 << 40),
                ..segment(0, UNUSABLE, 0)
            }
        }),
        (long_mode, |s| s.segments.ldtr = segment(0x48, 0x82, 0xffff)),
        (user_mode, |s| s.segments.tr.rights.0 = 0x83),
        (user_mode, |s| s.segments.cs.rights.0 = 0xc09f),
        (long_mode, |s| s.rip = 1 << 47),
        (long_mode, |s| s.pdptes = [u64::MAX; 4]),
        (real_mode, |s| s.pdptes = [u64::MAX; 4]),
        (long_mode, |s| s.pat = None),
        (long_mode, |s| {
            s.interruptibility = 1;
            s.rflags |= 1 << 9
        }),
        (long_mode, |s| {
            s.activity = 1;
            s.injection = Injection::Nmi
        }),
        (long_mode, |s| {
            s.rflags |= 1 << 9;
            s.injection = Injection::ExternalInterrupt
        }),
    ];
    for (number, (make, change)) in cases.iter().enumerate() {
        let mut state = make();
        change(&mut state);
        assert_eq!(state.check(), Ok(()), "case {number}");
    }
    let mut state = user_mode();
    state.pdptes[2] = 1 | (1 << 39);
    assert_eq!(state.check(), Err(Rule::Pdpte));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_state_is_too_strange(
        words in any::<[u64; 24]>(),
        rights in any::<[u32; 8]>(),
        (ia32e_mode, activity, maxphyaddr) in any::<(bool, u32, u8)>(),
        linear_bits in any::<u32>(),
    ) {
        let register = |n: usize| Segment {
            selector: Selector(words[n] as u16),
            base: Gva(words[n + 8]),
            limit: words[n].rotate_left(20) as u32,
            rights: AccessRights(rights[n]),
        };
        let base = if words[0] & 1 == 0 { long_mode() } else { virtual_8086() };
        let state = GuestState {
            cr0: words[16],
            cr3: words[17],
            cr4: words[18],
            rip: words[19],
            segments: Segments {
                es: register(0),
                cs: register(1),
                ss: register(2),
                ds: register(3),
                fs: register(4),
                gs: register(5),
                ldtr: register(6),
                tr: register(7),
            },
            ia32e_mode,
            activity,
            maxphyaddr,
            linear_bits,
            ..base
        };
        // Nearly all of these are invalid somewhere; each part is asked by itself.
        prop_assert!(state.check().is_err());
        let only_segments = GuestState { segments: state.segments, ..base };
        prop_assert!(only_segments.check().is_err());
        let _ = (state.check_msrs(), state.check_tables(), state.check_pdptes());
        let _ = (state.check_rip_and_rflags(), state.check_non_register_state());
    }
}
