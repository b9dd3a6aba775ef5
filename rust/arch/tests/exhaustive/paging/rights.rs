// SPDX-License-Identifier: GPL-2.0

//! Who may do what, by the flags of every entry on the way.

use super::manual::{fault, Situation, Who};
use super::situations;
use super::tables::{Mode, Shape, Tables, P, RW, SHAPES, US, XD};
use arch::addr::Gva;
use arch::paging::{PageFaultErrorCode, Paging, WalkError};

/// Each combination of present, R/W, U/S and XD that an entry at `level` can have.
fn flags_at(shape: Shape, level: usize) -> Vec<u64> {
    let of = |bits: u64| {
        let when = |bit: u64, flag: u64| if bits >> bit & 1 != 0 { flag } else { 0 };
        when(0, P) | when(1, RW) | when(2, US) | when(3, XD)
    };
    let count = match (shape.is_pdpte(level), shape.has_xd()) {
        (true, _) => 2,
        (false, true) => 16,
        (false, false) => 8,
    };
    (0..count).map(of).collect()
}

/// Calls `check` with every combination of flags of every entry.
fn for_each_path(shape: Shape, mut check: impl FnMut([u64; 5])) {
    let choices: Vec<_> = (0..shape.levels())
        .map(|level| flags_at(shape, level))
        .collect();
    let total: usize = choices.iter().map(Vec::len).product();
    for mut number in 0..total {
        let mut entries = [0; 5];
        for (entry, flags) in entries.iter_mut().zip(&choices) {
            *entry = flags[number % flags.len()];
            number /= flags.len();
        }
        entries[choices.len() - 1] |= shape.leaf_bits();
        check(entries);
    }
}

fn check(shape: Shape, paging: &Paging, now: &Situation, entries: [u64; 5]) {
    let expected = fault(shape, &entries[..shape.levels()], now);
    let got = match paging.translate(&mut Tables::new(entries), Gva(0), now.access()) {
        Ok(page) => {
            assert_eq!((page.gpa.0, page.page_size), (0, 1 << shape.page));
            None
        }
        Err(WalkError::Fault(code)) => Some(code),
        Err(error) => panic!("{error:?} of {shape:?} {entries:x?}"),
    };
    assert_eq!(
        got,
        expected.map(PageFaultErrorCode::from_bits_retain),
        "{shape:?} {entries:x?} {now:x?}"
    );
}

/// Flags of all entries, for every access under every setting.
fn every_path_and_situation(shape: Shape) -> u64 {
    let mut cases = 0;
    for now in situations() {
        let paging = now.paging(shape, 52);
        for_each_path(shape, |entries| {
            check(shape, &paging, &now, entries);
            cases += 1;
        });
    }
    cases
}

#[test]
fn two_and_three_levels() {
    let shapes = SHAPES
        .into_iter()
        .filter(|shape| matches!(shape.mode, Mode::Bits32 | Mode::Pae));
    let cases: u64 = shapes.map(every_path_and_situation).sum();
    assert_eq!(cases, 288 * (64 + 8 + 512 + 32));
}

#[test]
fn four_levels() {
    let shapes = SHAPES
        .into_iter()
        .filter(|shape| shape.mode == Mode::Level4);
    let cases: u64 = shapes.map(every_path_and_situation).sum();
    assert_eq!(cases, 288 * (65_536 + 4096 + 256));
}

/// The fifth level multiplies the paths by 16: all of them, under the settings that forbid most.
#[test]
fn five_levels() {
    let strict =
        |now: &Situation| now.wp && now.smep && now.smap && !now.ac && now.who != Who::Implicit;
    let mut cases = 0u64;
    for shape in SHAPES {
        if shape.mode != Mode::Level5 {
            continue;
        }
        for now in situations().iter().filter(|now| strict(now)) {
            let paging = now.paging(shape, 52);
            for_each_path(shape, |entries| {
                check(shape, &paging, now, entries);
                cases += 1;
            });
        }
    }
    assert_eq!(cases, 12 * (1_048_576 + 65_536 + 4096));
}

/// Each key with each right, alone among keys that forbid everything and among keys that forbid
/// nothing, at pages of every size and kind.
#[test]
fn protection_keys() {
    let mut cases = 0u64;
    for shape in SHAPES {
        for bits in 0..1 << 13 {
            let on = |bit: u32| bits >> bit & 1 != 0;
            let (key, rights) = (bits & 15, bits >> 4 & 3);
            let others = if on(6) { !0u32 } else { 0 };
            let mut leaf = P | shape.leaf_bits();
            leaf |= if on(7) { RW } else { 0 };
            leaf |= if on(8) { US } else { 0 };
            leaf |= if on(9) && shape.has_xd() { XD } else { 0 };
            let mut entries = shape.entries(P | RW | US);
            entries[shape.levels() - 1] = leaf;
            if shape.is_long() {
                entries[shape.levels() - 1] |= u64::from(key) << 59;
            }
            for now in situations() {
                if now.smep || now.smap != on(10) || now.nxe != on(11) {
                    continue;
                }
                let now = Situation {
                    pke: on(12),
                    pkru: others & !(3 << (2 * key)) | rights << (2 * key),
                    ..now
                };
                check(shape, &now.paging(shape, 52), &now, entries);
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 10 * 8192 * 36);
}
