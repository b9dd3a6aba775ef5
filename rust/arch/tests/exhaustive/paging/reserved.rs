// SPDX-License-Identifier: GPL-2.0

//! Reserved bits and addresses in entries, bit by bit (SDM vol. 3, figures 5-4, 5-7 and 5-11, and
//! tables 5-4 to 5-20).

use super::tables::{Mode, Shape, Tables, P, PS, RW, SHAPES, US};
use arch::addr::Gva;
use arch::control_regs::{Cr0, Cr4, Efer};
use arch::paging::{pdpte_is_valid, Access, AccessKind, PageFaultErrorCode, WalkError};
use std::ops::RangeInclusive;

const ALL: u64 = P | RW | US;

/// What the manual's tables say of a bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bit {
    Reserved,
    /// The bit of the address that it is.
    Address(u32),
    /// It has a meaning of its own, or none.
    Other,
}

/// Bit `bit` of the present entry at `level` of a walk to a page of that shape, where physical
/// addresses have `m` bits.
fn meaning(shape: Shape, level: usize, bit: u32, m: u32, nxe: bool) -> Bit {
    let spans = shape.spans();
    let span = spans[level];
    let leaf = level + 1 == spans.len();
    let within = |range: RangeInclusive<u32>| range.contains(&bit);
    if shape.mode == Mode::Bits32 {
        return match (span, leaf) {
            // Table 5-4: bits 20:13 are address bits 39:32, those past M - 1 reserved, as is 21.
            (22, true) if within(22..=31) => Bit::Address(bit),
            (22, true) if within(13..=21) && bit + 19 < m.min(40) => Bit::Address(bit + 19),
            (22, true) if within(13..=21) => Bit::Reserved,
            // Tables 5-5 and 5-6.
            (_, false) | (12, _) if within(12..=31) => Bit::Address(bit),
            _ => Bit::Other,
        };
    }
    if shape.is_pdpte(level) {
        // Table 5-8. What is reserved is seen when the registers are loaded, and not in a walk.
        return if within(12..=51) && bit < m {
            Bit::Address(bit)
        } else {
            Bit::Other
        };
    }
    if bit == 63 {
        return if nxe { Bit::Other } else { Bit::Reserved };
    }
    // Tables 5-9 to 5-11: in PAE paging all from M to 62. Tables 5-15 to 5-20: from M to 51.
    let last = if shape.mode == Mode::Pae { 62 } else { 51 };
    if bit >= m && bit <= last {
        return Bit::Reserved;
    }
    match bit {
        // PS of a PML5E or PML4E; that of others ends the walk, which another shape has.
        7 if !leaf && span > 30 => Bit::Reserved,
        // PAT of a large page, then its page offset.
        12 if leaf && span > 12 => Bit::Other,
        13..=51 if leaf && bit < span => Bit::Reserved,
        12..=51 => Bit::Address(bit),
        _ => Bit::Other,
    }
}

#[test]
fn every_bit_of_every_entry() {
    let mut cases = 0u64;
    for shape in SHAPES {
        let width = if shape.has_xd() { 64 } else { 32 };
        for m in 32..=52u32 {
            for nxe in [false, true] {
                let efer = if nxe { Efer::NXE } else { Efer::empty() };
                let paging = shape.paging(Cr0::WP, Cr4::empty(), efer, m as u8);
                for (level, bit) in
                    (0..shape.levels()).flat_map(|l| (0..width).map(move |b| (l, b)))
                {
                    let ends_walk_early = bit == 7
                        && level + 1 < shape.levels()
                        && [22, 21, 30].contains(&shape.spans()[level])
                        && !shape.is_pdpte(level);
                    if ends_walk_early {
                        continue;
                    }
                    let mut entries = shape.entries(ALL);
                    entries[level] ^= 1 << bit;
                    let mut tables = Tables::new(entries);
                    let got =
                        paging.translate(&mut tables, Gva(0), Access::supervisor(AccessKind::Read));
                    let context = format!("{shape:?} level {level} bit {bit} of {m} {nxe}");
                    if bit == 0 {
                        let absent = WalkError::Fault(PageFaultErrorCode::empty());
                        assert_eq!(got, Err(absent), "{context}");
                    } else if bit == 7 && shape.page > 12 && level + 1 == shape.levels() {
                        // No large page any more: the walk goes on to entries that are not there.
                        assert_eq!(got, Err(WalkError::Fault(PageFaultErrorCode::empty())));
                    } else {
                        match meaning(shape, level, bit, m, nxe) {
                            Bit::Reserved => {
                                let code =
                                    PageFaultErrorCode::PRESENT | PageFaultErrorCode::RESERVED;
                                assert_eq!(got, Err(WalkError::Fault(code)), "{context}");
                            }
                            Bit::Address(address) if level + 1 == shape.levels() => {
                                assert_eq!(
                                    got.map(|page| page.gpa.0),
                                    Ok(1 << address),
                                    "{context}"
                                );
                            }
                            Bit::Address(address) => {
                                assert_eq!(got.map(|page| page.gpa.0), Ok(0), "{context}");
                                assert_eq!(tables.places[level + 1], 1 << address, "{context}");
                            }
                            Bit::Other => {
                                assert_eq!(got.map(|page| page.gpa.0), Ok(0), "{context}")
                            }
                        }
                    }
                    cases += 1;
                }
            }
        }
    }
    // Bits of all entries of each shape, but for PS where it makes another shape of it.
    let bits = 63 + 32 + 191 + 128 + 254 + 191 + 128 + 318 + 255 + 192;
    assert_eq!(cases, 21 * 2 * bits);
}

/// PS where there are no large pages: reserved in a PDPTE, nothing in a PDE of 32-bit paging.
#[test]
fn without_large_pages() {
    for shape in SHAPES {
        if shape.page != 12 || shape.mode == Mode::Pae {
            continue;
        }
        let mut paging = shape.paging(Cr0::WP, Cr4::empty(), Efer::empty(), 52);
        paging.gigabyte_pages = false;
        paging.cr4.remove(Cr4::PSE);
        let level = shape.levels() - if shape.is_long() { 3 } else { 2 };
        let mut entries = shape.entries(ALL);
        entries[level] |= PS;
        let access = Access::supervisor(AccessKind::Read);
        let got = paging.translate(&mut Tables::new(entries), Gva(0), access);
        let reserved = PageFaultErrorCode::PRESENT | PageFaultErrorCode::RESERVED;
        if shape.is_long() {
            assert_eq!(got, Err(WalkError::Fault(reserved)), "{shape:?}");
        } else {
            assert_eq!(got.map(|page| page.page_size), Ok(4096));
        }
    }
}

/// Table 5-8: bits 2, 1, 8 to 5 and 63 to M of a present PDPTE.
#[test]
fn every_bit_of_a_pdpte() {
    let mut cases = 0u64;
    for m in 32..=52u8 {
        for bit in 0..64u32 {
            let reserved = [1, 2, 5, 6, 7, 8].contains(&bit) || bit >= u32::from(m);
            assert_eq!(
                pdpte_is_valid(P | 1 << bit, m),
                !reserved,
                "bit {bit} of {m}"
            );
            assert!(pdpte_is_valid(1 << bit & !P, m));
            cases += 2;
        }
    }
    assert_eq!(cases, 21 * 64 * 2);
}

/// Each bit of a linear address chooses an entry at one level, or a byte of the page.
#[test]
fn every_bit_of_the_address() {
    let mut cases = 0u64;
    for shape in SHAPES {
        let (bits, entry_size, index_bits) = match shape.mode {
            Mode::Bits32 => (32, 4, 10),
            Mode::Pae => (32, 8, 9),
            Mode::Level4 => (48, 8, 9),
            Mode::Level5 => (57, 8, 9),
        };
        let paging = shape.paging(Cr0::WP, Cr4::empty(), Efer::empty(), 52);
        for bit in 0..bits {
            let top = shape.is_long() && bit == bits - 1;
            let gva = Gva(if top { u64::MAX << bit } else { 1 << bit });
            let mut tables = Tables::new(shape.entries(ALL));
            let access = Access::user(AccessKind::Write);
            let page = paging.translate(&mut tables, gva, access).unwrap();
            for (place, span) in tables.places.iter().zip(shape.spans()) {
                let chooses = (span..span + index_bits).contains(&bit);
                let index = if chooses { 1 << (bit - span) } else { 0 };
                assert_eq!(*place, index * entry_size, "{shape:?} bit {bit}");
            }
            let offset = if bit < shape.page { 1 << bit } else { 0 };
            assert_eq!(page.gpa.0, offset, "{shape:?} bit {bit}");
            cases += 1;
            if shape.is_long() {
                let above = Gva(gva.0 ^ 1 << bits);
                let got = paging.translate(&mut tables, above, access);
                assert_eq!(got, Err(WalkError::NonCanonical));
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 4 * 32 + 2 * (3 * 48 + 3 * 57));
}
