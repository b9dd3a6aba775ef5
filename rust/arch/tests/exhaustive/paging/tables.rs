// SPDX-License-Identifier: GPL-2.0

//! Page tables for one address: the entries that a walk meets, from the top.

use arch::addr::Gpa;
use arch::control_regs::{Cr0, Cr4, Efer};
use arch::paging::{GuestMemory, Paging};

pub const P: u64 = 1 << 0;
pub const RW: u64 = 1 << 1;
pub const US: u64 = 1 << 2;
pub const A: u64 = 1 << 5;
pub const D: u64 = 1 << 6;
pub const PS: u64 = 1 << 7;
pub const XD: u64 = 1 << 63;

/// A paging mode with a size of page.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub mode: Mode,
    /// log2 of the page's bytes.
    pub page: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Bits32,
    Pae,
    Level4,
    Level5,
}

pub const SHAPES: [Shape; 10] = {
    use Mode::{Bits32, Level4, Level5, Pae};
    const fn shape(mode: Mode, page: u32) -> Shape {
        Shape { mode, page }
    }
    [
        shape(Bits32, 12),
        shape(Bits32, 22),
        shape(Pae, 12),
        shape(Pae, 21),
        shape(Level4, 12),
        shape(Level4, 21),
        shape(Level4, 30),
        shape(Level5, 12),
        shape(Level5, 21),
        shape(Level5, 30),
    ]
};

impl Shape {
    /// log2 of what the entry at each level spans, from the top (SDM vol. 3, table 5-2).
    pub fn spans(self) -> Vec<u32> {
        let all: &[u32] = match self.mode {
            Mode::Bits32 => &[22, 12],
            Mode::Pae => &[30, 21, 12],
            Mode::Level4 => &[39, 30, 21, 12],
            Mode::Level5 => &[48, 39, 30, 21, 12],
        };
        all.iter()
            .copied()
            .filter(|span| *span >= self.page)
            .collect()
    }

    pub fn levels(self) -> usize {
        self.spans().len()
    }

    /// Whether the entry at `level`, from the top, is one of PAE's four PDPTEs: they have no rights.
    pub fn is_pdpte(self, level: usize) -> bool {
        self.mode == Mode::Pae && level == 0
    }

    pub fn has_xd(self) -> bool {
        self.mode != Mode::Bits32
    }

    pub fn is_long(self) -> bool {
        matches!(self.mode, Mode::Level4 | Mode::Level5)
    }

    /// What makes the last entry map a page rather than refer to a table.
    pub fn leaf_bits(self) -> u64 {
        if self.page == 12 {
            0
        } else {
            PS
        }
    }

    /// Entries with `flags` at each level, that translate to page 0.
    pub fn entries(self, flags: u64) -> [u64; 5] {
        let mut entries = [0; 5];
        for (level, entry) in entries.iter_mut().take(self.levels()).enumerate() {
            *entry = if self.is_pdpte(level) {
                P
            } else {
                flags & if self.has_xd() { !0 } else { 0xffff_ffff }
            };
        }
        entries[self.levels() - 1] |= self.leaf_bits();
        entries
    }

    /// Paging in this mode, tables at 0, with what else control registers have.
    pub fn paging(self, cr0: Cr0, cr4: Cr4, efer: Efer, maxphyaddr: u8) -> Paging {
        let (mode_cr4, mode_efer) = match self.mode {
            Mode::Bits32 => (Cr4::PSE, Efer::empty()),
            Mode::Pae => (Cr4::PAE, Efer::empty()),
            Mode::Level4 => (Cr4::PAE, Efer::LME | Efer::LMA),
            Mode::Level5 => (Cr4::PAE | Cr4::LA57, Efer::LME | Efer::LMA),
        };
        let cr0 = cr0 | Cr0::PE | Cr0::PG;
        Paging::new(cr0, 0, cr4 | mode_cr4, efer | mode_efer, maxphyaddr)
    }
}

/// Gives the entries one after the other, wherever the walk looks, and notes where it did.
#[derive(Clone, Debug)]
pub struct Tables {
    pub entries: [u64; 5],
    pub places: [u64; 5],
    pub depth: usize,
}

impl Tables {
    pub fn new(entries: [u64; 5]) -> Self {
        Self {
            entries,
            places: [0; 5],
            depth: 0,
        }
    }

    fn exchange(&mut self, place: u64, old: u64, new: u64) -> Option<bool> {
        let level = (0..self.depth)
            .find(|level| self.places[*level] == place && self.entries[*level] == old)?;
        self.entries[level] = new;
        Some(true)
    }
}

impl GuestMemory for Tables {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        self.read_u64(gpa).map(|entry| entry as u32)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        let entry = *self.entries.get(self.depth)?;
        self.places[self.depth] = gpa.0;
        self.depth += 1;
        Some(entry)
    }

    fn compare_exchange_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool> {
        self.exchange(gpa.0, old.into(), new.into())
    }

    fn compare_exchange_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool> {
        self.exchange(gpa.0, old, new)
    }
}
