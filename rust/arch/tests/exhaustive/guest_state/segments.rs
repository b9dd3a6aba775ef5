// SPDX-License-Identifier: GPL-2.0

//! Segment registers (SDM vol. 3, 27.3.1.2).

use super::{compare, is_protected, modes};
use arch::addr::Gva;
use arch::guest_state::{GuestState, Rule, Segments};
use arch::segment::{AccessRights, Segment, Selector};

/// Access rights by name.
struct Rights {
    kind: u32,
    s: bool,
    dpl: u32,
    p: bool,
    reserved: bool,
    l: bool,
    db: bool,
    g: bool,
    unusable: bool,
}

fn rights(segment: &Segment) -> Rights {
    let bits = segment.rights.0;
    let bit = |bit: u32| bits >> bit & 1 != 0;
    Rights {
        kind: bits & 15,
        s: bit(4),
        dpl: bits >> 5 & 3,
        p: bit(7),
        reserved: bits >> 8 & 15 != 0 || bits >> 17 != 0,
        l: bit(13),
        db: bit(14),
        g: bit(15),
        unusable: bit(16),
    }
}

/// What holds for every usable register: P, the reserved bits, and G. "If any bit in the limit field
/// in the range 11:0 is 0, G must be 0. If any bit in the range 31:20 is 1, G must be 1."
fn common(segment: &Segment) -> [(Rule, bool); 3] {
    let r = rights(segment);
    let g_forbidden = segment.limit & 0xfff != 0xfff;
    let g_needed = segment.limit & 0xfff0_0000 != 0;
    [
        (Rule::SegmentNotPresent, !r.unusable && !r.p),
        (Rule::SegmentReserved, !r.unusable && r.reserved),
        (
            Rule::SegmentGranularity,
            !r.unusable && (r.g && g_forbidden || !r.g && g_needed),
        ),
    ]
}

fn stack_dpl_broken(state: &GuestState) -> bool {
    let real_mode_code = rights(&state.segments.cs).kind == 3;
    rights(&state.segments.ss).dpl != 0 && (real_mode_code || !is_protected(state))
}

fn code(state: &GuestState) -> Vec<(Rule, bool)> {
    let r = rights(&state.segments.cs);
    let stack_dpl = rights(&state.segments.ss).dpl;
    let dpl = match r.kind {
        3 => r.dpl == 0,
        9 | 11 => r.dpl == stack_dpl,
        13 | 15 => r.dpl <= stack_dpl,
        _ => true,
    };
    let mut broken = vec![
        (Rule::SegmentUnusable, r.unusable),
        (Rule::SegmentType, ![3, 9, 11, 13, 15].contains(&r.kind)),
        (Rule::SegmentSystem, !r.s),
        (Rule::SegmentDpl, !dpl || stack_dpl_broken(state)),
        (Rule::CodeLongAndBig, state.ia32e_mode && r.l && r.db),
    ];
    broken.extend(common(&state.segments.cs));
    broken
}

fn stack(state: &GuestState) -> Vec<(Rule, bool)> {
    let r = rights(&state.segments.ss);
    let mut broken = vec![
        (Rule::SegmentType, !r.unusable && ![3, 7].contains(&r.kind)),
        (Rule::SegmentSystem, !r.unusable && !r.s),
        (Rule::SegmentDpl, stack_dpl_broken(state)),
    ];
    broken.extend(common(&state.segments.ss));
    // What the stack's DPL is to the code.
    broken.extend(code(state));
    broken
}

/// "Bit 0 must be 1 (accessed). If bit 3 is 1 (code), bit 1 must be 1 (readable)."
fn data(segment: &Segment) -> Vec<(Rule, bool)> {
    let r = rights(segment);
    let kind = [1, 3, 5, 7, 11, 15].contains(&r.kind);
    let mut broken = vec![
        (Rule::SegmentType, !r.unusable && !kind),
        (Rule::SegmentSystem, !r.unusable && !r.s),
    ];
    broken.extend(common(segment));
    broken
}

fn task(state: &GuestState) -> Vec<(Rule, bool)> {
    let tr = &state.segments.tr;
    let r = rights(tr);
    let kind = r.kind == 11 || r.kind == 3 && !state.ia32e_mode;
    let mut broken = vec![
        (Rule::SelectorLocal, tr.selector.0 & 4 != 0),
        (Rule::SegmentUnusable, r.unusable),
        (Rule::SegmentType, !kind),
        (Rule::SegmentSystem, r.s),
    ];
    broken.extend(common(tr));
    broken
}

fn local_table(state: &GuestState) -> Vec<(Rule, bool)> {
    let ldtr = &state.segments.ldtr;
    let r = rights(ldtr);
    let mut broken = vec![
        (Rule::SelectorLocal, !r.unusable && ldtr.selector.0 & 4 != 0),
        (Rule::SegmentType, !r.unusable && r.kind != 2),
        (Rule::SegmentSystem, !r.unusable && r.s),
    ];
    broken.extend(common(ldtr));
    broken
}

/// Limits that G agrees with or does not: the lower bits all ones or not, the upper ones zero or not.
const LIMITS: [u32; 4] = [0xf_ffff, 0xf_0ffe, 0xffff_ffff, 0x0010_0000];

/// Every type, S, DPL, P, L, D/B, G and unusable with every class of limit: 32,768 of them.
fn for_each_rights(mut call: impl FnMut(AccessRights, u32)) {
    for low in 0..256u32 {
        for high in 0..16u32 {
            for limit in LIMITS {
                for available in [0, 1 << 12] {
                    call(AccessRights(low | high << 13 | available), limit);
                }
            }
        }
    }
}

#[test]
fn code_segments() {
    let mut cases = 0u64;
    for mut state in modes() {
        for dpl in 0..4 {
            for unusable in [0, 1 << 16] {
                state.segments.ss.rights = AccessRights(0x93 | dpl << 5 | unusable);
                for_each_rights(|rights, limit| {
                    state.segments.cs.rights = rights;
                    state.segments.cs.limit = limit;
                    compare(&state, &code(&state));
                    cases += 1;
                });
            }
        }
    }
    assert_eq!(cases, 3 * 4 * 2 * 32_768);
}

/// Beside code of each type and DPL.
#[test]
fn stack_segments() {
    let mut cases = 0u64;
    for mut state in modes() {
        for low in 0..64 {
            state.segments.cs.rights = AccessRights(0x90 | low & 15 | low >> 4 << 5);
            for_each_rights(|rights, limit| {
                // L means nothing here, and D/B not at entry.
                if rights.0 >> 13 & 3 == 0 {
                    state.segments.ss.rights = rights;
                    state.segments.ss.limit = limit;
                    compare(&state, &stack(&state));
                    cases += 1;
                }
            });
        }
    }
    assert_eq!(cases, 3 * 64 * 32_768 / 4);
}

#[test]
fn data_segments() {
    let registers: [fn(&mut Segments) -> &mut Segment; 4] = [
        |segments| &mut segments.ds,
        |segments| &mut segments.es,
        |segments| &mut segments.fs,
        |segments| &mut segments.gs,
    ];
    let mut cases = 0u64;
    for register in registers {
        for mut state in modes() {
            for_each_rights(|rights, limit| {
                let segment = register(&mut state.segments);
                segment.rights = rights;
                segment.limit = limit;
                let broken = data(segment);
                compare(&state, &broken);
                cases += 1;
            });
        }
    }
    assert_eq!(cases, 4 * 3 * 32_768);
}

#[test]
fn task_registers_and_local_tables() {
    let mut cases = 0u64;
    for original in modes() {
        for selector in [0, 3, 4, 0x10, 0x14].map(Selector) {
            for_each_rights(|rights, limit| {
                let segment = Segment {
                    selector,
                    base: Gva(0),
                    limit,
                    rights,
                };
                let mut state = original;
                state.segments.tr = segment;
                compare(&state, &task(&state));
                let mut state = original;
                state.segments.ldtr = segment;
                compare(&state, &local_table(&state));
                cases += 2;
            });
        }
    }
    assert_eq!(cases, 3 * 5 * 2 * 32_768);
}

/// One register of [`Segments`], by the order of their names.
fn nth(segments: &mut Segments, n: usize) -> &mut Segment {
    match n {
        0 => &mut segments.es,
        1 => &mut segments.cs,
        2 => &mut segments.ss,
        3 => &mut segments.ds,
        4 => &mut segments.fs,
        5 => &mut segments.gs,
        6 => &mut segments.ldtr,
        _ => &mut segments.tr,
    }
}

/// Each bit of the access rights that is reserved, in each register, usable and not.
#[test]
fn reserved_access_rights() {
    let mut cases = 0u64;
    for original in modes() {
        for n in 0..8 {
            for unusable in [0, 1 << 16] {
                for bit in (8..12).chain(17..32) {
                    let mut state = original;
                    let segment = nth(&mut state.segments, n);
                    segment.rights.0 |= unusable | 1 << bit;
                    let must_be_usable = n == 1 || n == 7;
                    let broken = [
                        (Rule::SegmentReserved, unusable == 0),
                        (Rule::SegmentUnusable, must_be_usable && unusable != 0),
                    ];
                    compare(&state, &broken);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 3 * 8 * 2 * 19);
}

/// Each bit of each base address, alone and repeated up to the highest. TR, FS and GS are canonical,
/// LDTR if usable; CS, and ES, SS and DS if usable, have 32 bits.
#[test]
fn base_addresses() {
    let mut cases = 0u64;
    for original in modes() {
        for (n, bit) in (0..8).flat_map(|n| (0..64).map(move |bit| (n, bit))) {
            for base in [1u64 << bit, u64::MAX << bit] {
                for unusable in [0, 1 << 16] {
                    let mut state = original;
                    let segment = nth(&mut state.segments, n);
                    segment.base = Gva(base);
                    segment.rights.0 |= unusable;
                    let canonical = base >> 47 == 0 || base >> 47 == 0x1_ffff;
                    let bits32 = base >> 32 == 0;
                    let usable = unusable == 0;
                    let base_broken = match n {
                        4 | 5 | 7 => !canonical,
                        6 => usable && !canonical,
                        1 => !bits32,
                        _ => usable && !bits32,
                    };
                    let broken = [
                        (Rule::SegmentBase, base_broken),
                        (Rule::SegmentUnusable, !usable && (n == 1 || n == 7)),
                    ];
                    compare(&state, &broken);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 3 * 8 * 64 * 2 * 2);
}
