// SPDX-License-Identifier: GPL-2.0

mod rights;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use AccessKind::{Fetch, Read, Write};

type Code = PageFaultErrorCode;

const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const XD: u64 = 1 << 63;
const ALL: u64 = P | RW | US;

const BITS32: Cr4 = Cr4::PSE;
const LONG: Efer = Efer::LME.union(Efer::LMA);

/// Memory of 32-bit words that are zero until written; nothing at and above `end`.
#[derive(Clone, Default)]
struct Memory {
    words: BTreeMap<u64, u32>,
    end: u64,
    /// Entries that another processor changes just before the exchange, so many times.
    races: u32,
}

impl Memory {
    fn new() -> Self {
        Self {
            end: u64::MAX,
            ..Self::default()
        }
    }

    fn with64(entries: &[(u64, u64)]) -> Self {
        let mut memory = Self::new();
        for (gpa, entry) in entries {
            memory.put64(*gpa, *entry);
        }
        memory
    }

    fn put64(&mut self, gpa: u64, value: u64) {
        self.words.insert(gpa, value as u32);
        self.words.insert(gpa + 4, (value >> 32) as u32);
    }

    fn get64(&self, gpa: u64) -> u64 {
        let word = |gpa| u64::from(*self.words.get(&gpa).unwrap_or(&0));
        word(gpa) | (word(gpa + 4) << 32)
    }
}

impl GuestMemory for Memory {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        assert_eq!(gpa.0 % 4, 0);
        (gpa.0 < self.end).then(|| *self.words.get(&gpa.0).unwrap_or(&0))
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        assert_eq!(gpa.0 % 8, 0);
        (gpa.0 < self.end).then(|| self.get64(gpa.0))
    }

    fn compare_exchange_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        let now = self.read_u32(gpa)?;
        if now == old {
            self.words.insert(gpa.0, new);
        }
        Some(now == old)
    }

    fn compare_exchange_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        let now = self.read_u64(gpa)?;
        if self.races > 0 {
            self.races -= 1;
            return Some(false);
        }
        if now == old {
            self.put64(gpa.0, new);
        }
        Some(now == old)
    }
}

fn paging(cr4: Cr4, efer: Efer) -> Paging {
    Paging::new(Cr0::PE | Cr0::PG | Cr0::WP, 0x1000, cr4, efer, 39)
}

fn long_mode() -> Paging {
    paging(Cr4::PAE, LONG | Efer::NXE)
}

/// Tables at 0x1000 (PML4), 0x2000 (PDPT), 0x3000 (PD), 0x4000 (PT) that map `gva` by entries with
/// the flags given, and a page at 0xabcd_e000.
fn four_levels(gva: u64, flags: [u64; 4]) -> Memory {
    let index = |level: u32| ((gva >> (12 + 9 * (level - 1))) & 0x1ff) * 8;
    Memory::with64(&[
        (0x1000 + index(4), 0x2000 | flags[0]),
        (0x2000 + index(3), 0x3000 | flags[1]),
        (0x3000 + index(2), 0x4000 | flags[2]),
        (0x4000 + index(1), 0xabcd_e000 | flags[3]),
    ])
}

fn read(paging: &Paging, memory: &mut Memory, gva: u64) -> Result<Translation, WalkError> {
    paging.translate(memory, Gva(gva), Access::supervisor(Read))
}

fn gpa(paging: &Paging, memory: &mut Memory, gva: u64) -> u64 {
    read(paging, memory, gva).unwrap().gpa.0
}

#[test]
fn mode_follows_the_control_registers() {
    let mode = Mode::from_registers;
    assert_eq!(mode(Cr0::PE, Cr4::PAE, LONG), Mode::None);
    assert_eq!(mode(Cr0::PG, Cr4::PSE, Efer::empty()), Mode::Bits32);
    assert_eq!(mode(Cr0::PG, Cr4::PAE, Efer::empty()), Mode::Pae);
    assert_eq!(mode(Cr0::PG, Cr4::PAE, LONG), Mode::Level4);
    assert_eq!(mode(Cr0::PG, Cr4::PAE | Cr4::LA57, LONG), Mode::Level5);
}

#[test]
fn canonical_addresses() {
    for (gva, bits, canonical) in [
        (0, 48, true),
        (0x7fff_ffff_ffff, 48, true),
        (0x8000_0000_0000, 48, false),
        (0xffff_7fff_ffff_ffff, 48, false),
        (0xffff_8000_0000_0000, 48, true),
        (0x8000_0000_0000, 57, true),
        (0x00ff_ffff_ffff_ffff, 57, true),
        (0x0100_0000_0000_0000, 57, false),
        (0xff00_0000_0000_0000, 57, true),
        (0x1234_5678_9abc_def0, 64, true),
        (0x1234_5678_9abc_def0, 99, true),
        (1, 0, false),
        (0, 0, true),
    ] {
        assert_eq!(
            is_canonical(Gva(gva), bits),
            canonical,
            "{gva:#x} of {bits}"
        );
    }
}

#[test]
fn without_paging_linear_is_physical() {
    let paging = Paging::new(Cr0::PE, 0x1000, Cr4::empty(), Efer::empty(), 39);
    let mut memory = Memory::new();
    let page = paging
        .translate(&mut memory, Gva(0x1_dead_beef), Access::user(Write))
        .unwrap();
    assert_eq!(page.gpa, Gpa(0xdead_beef));
    assert!(page.writable && page.user && page.executable);
}

#[test]
fn bits32_walks_two_levels() {
    let paging = paging(BITS32, Efer::empty());
    let mut memory = Memory::new();
    memory.words.insert(0x1000 + 4 * 0x301, 0x5000 | ALL as u32);
    memory
        .words
        .insert(0x5000 + 4 * 0x2aa, 0x8765_4000 | ALL as u32);
    let gva = (0x301 << 22) | (0x2aa << 12) | 0x123;
    let page = read(&paging, &mut memory, gva).unwrap();
    assert_eq!((page.gpa.0, page.page_size), (0x8765_4123, 4096));
    assert_eq!(
        gpa(&paging, &mut memory, gva | 0xffff_0000_0000_0000),
        0x8765_4123
    );
}

#[test]
fn bits32_has_large_pages_with_pse_only() {
    let entry = 0x0040_0000 | PS | ALL;
    let mut memory = Memory::new();
    memory.words.insert(0x1000, entry as u32);
    memory.words.insert(0x40_0000, 0x9000 | ALL as u32);
    let page = read(&paging(BITS32, Efer::empty()), &mut memory, 0x12345).unwrap();
    assert_eq!((page.gpa.0, page.page_size), (0x41_2345, 4 << 20));
    assert_eq!(
        gpa(&paging(Cr4::empty(), Efer::empty()), &mut memory, 0x345),
        0x9345
    );
}

#[test]
fn pse_36_reaches_as_far_as_physical_addresses_do() {
    for maxphyaddr in [32u8, 36, 39, 40, 52] {
        for bit in 13..=21 {
            let mut memory = Memory::new();
            memory
                .words
                .insert(0x1000, (0x0040_0000 | PS | ALL | (1 << bit)) as u32);
            let paging = Paging {
                maxphyaddr,
                ..paging(BITS32, Efer::empty())
            };
            let expected = if bit + 19 < u64::from(maxphyaddr.min(40)) {
                Ok(0x40_0000 | (1 << (bit + 19)))
            } else {
                Err(WalkError::Fault(Code::PRESENT | Code::RESERVED))
            };
            assert_eq!(
                read(&paging, &mut memory, 0).map(|page| page.gpa.0),
                expected
            );
        }
    }
}

#[test]
fn pae_takes_its_pdptes_from_memory_or_registers() {
    let mut paging = paging(Cr4::PAE, Efer::empty());
    paging.cr3 = 0x1020;
    let mut memory = Memory::with64(&[
        (0x1020 + 3 * 8, 0x6000 | P),
        (0x6000 + 8, 0x7000 | ALL),
        (0x7000 + 16, 0x12_3456_7000 | ALL),
        (0x8000 + 8, 0x4020_0000 | PS | ALL),
    ]);
    assert_eq!(gpa(&paging, &mut memory, 0xc020_2abc), 0x12_3456_7abc);
    paging.pdptes = Some([0, 0, 0, 0x8000 | P]);
    let page = read(&paging, &mut memory, 0xc021_2abc).unwrap();
    assert_eq!((page.gpa.0, page.page_size), (0x4021_2abc, 2 << 20));
    let absent = read(&paging, &mut memory, 0x4000_0000);
    assert_eq!(absent, Err(WalkError::Fault(Code::empty())));
}

#[test]
fn pdptes_have_reserved_bits() {
    assert!(pdpte_is_valid(u64::MAX & !P, 39));
    assert!(pdpte_is_valid(0x7f_ffff_f000 | P | 0x18 | 0xe00, 39));
    for bit in [1, 2, 5, 6, 7, 8, 39, 62, 63] {
        assert!(!pdpte_is_valid(P | (1 << bit), 39), "bit {bit}");
    }
}

#[test]
fn level4_maps_pages_of_three_sizes() {
    let gva = 0xffff_9234_5678_9abc;
    let mut memory = four_levels(gva, [ALL; 4]);
    let paging = long_mode();
    let page = read(&paging, &mut memory, gva).unwrap();
    assert_eq!((page.gpa.0, page.page_size), (0xabcd_eabc, 4096));

    memory.put64(
        0x3000 + ((gva >> 21) & 0x1ff) * 8,
        0x7a_bc00_0000 | PS | ALL | (1 << 12),
    );
    let page = read(&paging, &mut memory, gva).unwrap();
    assert_eq!(
        (page.gpa.0, page.page_size),
        (0x7a_bc00_0000 | gva & 0x1f_ffff, 2 << 20)
    );

    memory.put64(0x2000 + ((gva >> 30) & 0x1ff) * 8, 0x4_4000_0000 | PS | ALL);
    let page = read(&paging, &mut memory, gva).unwrap();
    assert_eq!(
        (page.gpa.0, page.page_size),
        (0x4_4000_0000 | gva & 0x3fff_ffff, 1 << 30)
    );

    let without = Paging {
        gigabyte_pages: false,
        ..paging
    };
    let fault = WalkError::Fault(Code::PRESENT | Code::RESERVED);
    assert_eq!(read(&without, &mut memory, gva), Err(fault));
}

#[test]
fn level5_has_one_level_more() {
    let gva: u64 = 0xff12_3456_789a_bcde;
    let mut memory = four_levels(gva, [ALL; 4]);
    memory.put64(0x9000 + ((gva >> 48) & 0x1ff) * 8, 0x1000 | ALL);
    let paging = Paging {
        cr3: 0x9000,
        ..paging(Cr4::PAE | Cr4::LA57, LONG)
    };
    assert_eq!(gpa(&paging, &mut memory, gva), 0xabcd_ecde);
    assert_eq!(
        read(&long_mode(), &mut memory, gva),
        Err(WalkError::NonCanonical)
    );
    assert_eq!(
        read(&paging, &mut memory, 1 << 57),
        Err(WalkError::NonCanonical)
    );
}

#[test]
fn an_absent_entry_at_any_level_is_a_fault_without_present() {
    for level in 0..4 {
        let mut flags = [ALL; 4];
        flags[level] = RW | US | XD;
        let mut memory = four_levels(0, flags);
        let fault = long_mode().translate(&mut memory, Gva(0), Access::user(Write));
        assert_eq!(fault, Err(WalkError::Fault(Code::WRITE | Code::USER)));
    }
}

#[test]
fn reserved_bits_of_64_bit_entries() {
    let fault = Err(WalkError::Fault(Code::PRESENT | Code::RESERVED));
    for level in 0..4 {
        for bit in (39..52).chain([63]).chain((level < 2).then_some(7)) {
            let mut flags = [ALL; 4];
            flags[level] |= 1 << bit;
            let mut memory = four_levels(0, flags);
            let paging = Paging {
                gigabyte_pages: false,
                ..paging(Cr4::PAE, LONG)
            };
            let result = read(&paging, &mut memory, 0);
            assert_eq!(result.map(drop), fault, "level {level} bit {bit}");
            let wide = Paging {
                maxphyaddr: 52,
                ..long_mode()
            };
            assert_eq!(
                read(&wide, &mut memory, 0).is_ok(),
                bit >= 39 && level == 3 || bit == 63
            );
        }
        for bit in (8..12).chain(52..63) {
            let mut flags = [ALL; 4];
            flags[level] |= 1 << bit;
            let ok = read(&long_mode(), &mut four_levels(0, flags), 0).is_ok();
            assert!(ok, "level {level} bit {bit} is the software's");
        }
    }
    for (level, shift) in [(1, 30), (2, 21)] {
        for bit in 13..shift {
            let mut flags = [ALL; 4];
            flags[level] = PS | ALL | (1 << bit);
            let mut memory = four_levels(0, flags);
            assert_eq!(read(&long_mode(), &mut memory, 0).map(drop), fault);
        }
    }
}

#[test]
fn pae_reserves_bits_62_to_52() {
    let fault = Err(WalkError::Fault(Code::PRESENT | Code::RESERVED));
    for bit in 39..63 {
        let mut memory = Memory::with64(&[(0x1000, 0x6000 | P), (0x6000, 0x7000 | ALL)]);
        memory.put64(0x7000, 0x8000 | ALL | (1 << bit));
        let paging = paging(Cr4::PAE, Efer::NXE);
        assert_eq!(read(&paging, &mut memory, 0).map(drop), fault, "bit {bit}");
    }
}

#[test]
fn a_table_without_memory_is_told() {
    let mut memory = four_levels(0, [ALL; 4]);
    memory.end = 0x3000;
    assert_eq!(
        read(&long_mode(), &mut memory, 0),
        Err(WalkError::Unreadable(Gpa(0x3000)))
    );
}

#[test]
fn accessed_and_dirty_bits_are_set_on_success_only() {
    let entries = [0x1000, 0x2000, 0x3000, 0x4000];
    let mut memory = four_levels(0, [ALL, ALL, ALL, P | US]);
    let paging = long_mode();
    let before = memory.words.clone();
    paging
        .translate(&mut memory, Gva(0), Access::user(Read))
        .unwrap();
    assert!(paging
        .translate_and_mark(&mut memory, Gva(0), Access::user(Write))
        .is_err());
    assert_eq!(memory.words, before);

    paging
        .translate_and_mark(&mut memory, Gva(0), Access::user(Read))
        .unwrap();
    assert_eq!(entries.map(|gpa| memory.get64(gpa) & (A | D)), [A; 4]);

    memory.put64(0x4000, 0xabcd_e000 | ALL);
    paging
        .translate_and_mark(&mut memory, Gva(0), Access::user(Write))
        .unwrap();
    assert_eq!(
        entries.map(|gpa| memory.get64(gpa) & (A | D)),
        [A, A, A, A | D]
    );
}

#[test]
fn bits32_sets_accessed_and_dirty_bits_too() {
    let mut memory = Memory::new();
    memory.words.insert(0x1000, 0x5000 | ALL as u32);
    memory.words.insert(0x5000, 0x6000 | ALL as u32);
    let paging = paging(BITS32, Efer::empty());
    paging
        .translate_and_mark(&mut memory, Gva(0), Access::supervisor(Write))
        .unwrap();
    assert_eq!(memory.words[&0x1000], 0x5000 | (ALL | A) as u32);
    assert_eq!(memory.words[&0x5000], 0x6000 | (ALL | A | D) as u32);
}

#[test]
fn a_changed_entry_starts_the_walk_again_but_not_for_ever() {
    let mut memory = four_levels(0, [ALL; 4]);
    memory.races = 3;
    let access = Access::user(Write);
    assert!(long_mode()
        .translate_and_mark(&mut memory, Gva(0), access)
        .is_ok());
    let mut memory = four_levels(0, [ALL; 4]);
    memory.races = u32::MAX;
    let result = long_mode().translate_and_mark(&mut memory, Gva(0), access);
    assert_eq!(result, Err(WalkError::Contended));
}

/// Memory whose every entry is a hash of its address: tables that lead anywhere.
struct Noise(u64);

impl GuestMemory for Noise {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        self.read_u64(gpa).map(|entry| entry as u32)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        let mut entry = (gpa.0 ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        entry ^= entry >> 29;
        Some(entry.wrapping_mul(0xbf58_476d_1ce4_e5b9) | P)
    }

    fn compare_exchange_u32(&mut self, gpa: Gpa, _: u32, _: u32) -> Option<bool> {
        Some(gpa.0 & 0x400 != 0)
    }

    fn compare_exchange_u64(&mut self, gpa: Gpa, _: u64, _: u64) -> Option<bool> {
        Some(gpa.0 & 0x400 != 0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_a_guest_sets_up_breaks_the_walk(
        (cr0, cr3, cr4, efer) in any::<(u64, u64, u64, u64)>(),
        pdptes in any::<Option<[u64; 4]>>(),
        (maxphyaddr, gigabyte_pages, pkru) in any::<(u8, bool, u32)>(),
        (gva, seed, user, implicit, ac) in any::<(u64, u64, bool, bool, bool)>(),
        kind in prop::sample::select(&[Read, Write, Fetch][..]),
    ) {
        let mut paging = Paging::new(
            Cr0::from_bits_retain(cr0),
            cr3,
            Cr4::from_bits_retain(cr4),
            Efer::from_bits_retain(efer),
            maxphyaddr,
        );
        paging.pdptes = pdptes;
        paging.gigabyte_pages = gigabyte_pages;
        paging.pkru = pkru;
        let access = Access { kind, user, implicit, ac };
        let marked = paging.translate_and_mark(&mut Noise(seed), Gva(gva), access);
        let plain = paging.translate(&mut Noise(seed), Gva(gva), access);
        match (plain, marked) {
            (Ok(page), marked) => {
                prop_assert!(marked == Ok(page) || marked == Err(WalkError::Contended));
                prop_assert!(page.page_size.is_power_of_two());
                prop_assert_eq!(page.gpa.0 & (page.page_size - 1), gva & (page.page_size - 1));
            }
            (error, marked) => prop_assert_eq!(error, marked),
        }
    }
}
