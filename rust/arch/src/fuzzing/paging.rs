// SPDX-License-Identifier: GPL-2.0

//! A walk through tables that lead anywhere.

use super::input::{Input, Source};
use crate::addr::{Gpa, Gva};
use crate::control_regs::{Cr0, Cr4, Efer};
use crate::paging::{Access, AccessKind, GuestMemory, Paging, WalkError};
use std::collections::BTreeMap;

/// Page tables that are made up where they are read, and are the same when read again.
#[derive(Clone)]
struct Tables<'a> {
    input: Input<'a>,
    entries: BTreeMap<u64, u64>,
    /// Where there is no memory.
    end: u64,
}

impl Tables<'_> {
    /// The 8 bytes at a multiple of 8.
    fn word(&mut self, gpa: u64) -> &mut u64 {
        let input = &mut self.input;
        self.entries.entry(gpa & !7).or_insert_with(|| {
            let flags = input.below(0x100) | input.below(0x10) << 8;
            match input.below(4) {
                0 => flags,
                1 => flags | input.next() & !0xfff,
                _ => flags | input.below(0x100) << 12 | 1,
            }
        })
    }

    fn compare_exchange(&mut self, gpa: u64, old: u64, new: u64, mask: u64) -> Option<bool> {
        if gpa >= self.end {
            return None;
        }
        let shift = 8 * (gpa & 7 & !(mask >> 61));
        let word = self.word(gpa);
        if *word >> shift & mask != old {
            return Some(false);
        }
        *word = *word & !(mask << shift) | new << shift;
        Some(true)
    }
}

impl GuestMemory for Tables<'_> {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        let shift = 8 * (gpa.0 & 4);
        (gpa.0 < self.end).then(|| (*self.word(gpa.0) >> shift) as u32)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        (gpa.0 < self.end).then(|| *self.word(gpa.0))
    }

    fn compare_exchange_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        self.compare_exchange(gpa.0, old.into(), new.into(), u32::MAX.into())
    }

    fn compare_exchange_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        self.compare_exchange(gpa.0, old, new, u64::MAX)
    }
}

/// A translation is the same with and without setting the accessed and dirty bits, and the same
/// again once they are set; what it gives is within the page and within what is addressable.
pub fn paging(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mode = [
        (Cr0::PG, Cr4::PSE, Efer::empty()),
        (Cr0::PG, Cr4::PAE, Efer::empty()),
        (Cr0::PG, Cr4::PAE, Efer::LME),
        (Cr0::PG, Cr4::PAE | Cr4::LA57, Efer::LME),
        (Cr0::empty(), Cr4::empty(), Efer::empty()),
    ];
    let (cr0, cr4, efer) = input.pick(&mode);
    let flags = input.below(0x100);
    let when = |bit: u64, on: u64| if flags & bit != 0 { on } else { 0 };
    let cr0 = cr0 | Cr0::from_bits_retain(when(1, Cr0::WP.bits()));
    let cr4 = cr4
        | Cr4::from_bits_retain(
            when(2, Cr4::SMEP.bits()) | when(4, Cr4::SMAP.bits()) | when(8, Cr4::PKE.bits()),
        );
    let efer = efer | Efer::from_bits_retain(when(16, Efer::NXE.bits()));
    let maxphyaddr = 32 + input.below(21) as u8;
    let mut paging = Paging::new(cr0, input.next(), cr4, efer, maxphyaddr);
    paging.gigabyte_pages = flags & 32 != 0;
    paging.pkru = input.below(0x100) as u32;
    let access = Access {
        kind: input.pick(&[AccessKind::Read, AccessKind::Write, AccessKind::Fetch]),
        user: flags & 64 != 0,
        implicit: flags & 192 == 128,
        ac: input.below(2) != 0,
    };
    let gva = Gva(input.next());
    let mut tables = Tables {
        end: 1 << (20 + input.below(40)),
        input,
        entries: BTreeMap::new(),
    };

    let plain = paging.translate(&mut tables.clone(), gva, access);
    let marked = paging.translate_and_mark(&mut tables, gva, access);
    assert_eq!(plain, marked);
    let Ok(page) = plain else {
        assert_ne!(plain, Err(WalkError::Contended));
        return;
    };
    assert!(page.page_size.is_power_of_two());
    assert_eq!((page.gpa.0 ^ gva.0) & (page.page_size - 1), 0);
    if cr0.contains(Cr0::PG) {
        assert_eq!(page.gpa.0 >> maxphyaddr.max(40), 0, "beyond MAXPHYADDR");
    }
    let again = paging.translate(&mut tables, gva, access);
    assert_eq!(again, Ok(page));
}
