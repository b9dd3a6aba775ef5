// SPDX-License-Identifier: GPL-2.0

//! The walk itself.

use super::{
    bits_from, is_canonical, Access, AccessKind, GuestMemory, Mode, PageFaultErrorCode, Paging,
    Translation, WalkError,
};
use crate::addr::{Gpa, Gva};
use crate::control_regs::{Cr0, Cr4, Efer};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;
const PROTECTION_KEY_SHIFT: u32 = 59;

/// Bits 51 to 12, the address field of an 8-byte entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 62 to 52: reserved in PAE paging, the software's in 4- and 5-level paging.
const PAE_RESERVED: u64 = 0x7ff0_0000_0000_0000;
/// The PAT bit of a large page, the only one below its address field that is not reserved.
const LARGE_PAT: u64 = 1 << 12;

/// Times the walk starts again because an entry changed under it.
const ATTEMPTS: u32 = 16;
const MAX_LEVELS: usize = 5;

/// How entries of a mode are laid out.
#[derive(Clone, Copy)]
struct Layout {
    /// Levels read from memory; PAE's third is a register.
    levels: u32,
    /// log2 of the entries in a table.
    index_bits: u32,
    /// Bytes in an entry.
    entry_size: u64,
}

impl Layout {
    fn of(mode: Mode) -> Self {
        let levels = match mode {
            Mode::None => 0,
            Mode::Bits32 => {
                return Self {
                    levels: 2,
                    index_bits: 10,
                    entry_size: 4,
                }
            }
            Mode::Pae => 2,
            Mode::Level4 => 4,
            Mode::Level5 => 5,
        };
        Self {
            levels,
            index_bits: 9,
            entry_size: 8,
        }
    }

    /// log2 of what an entry of `level` (1 is the last) spans.
    fn shift(self, level: u32) -> u32 {
        self.index_bits
            .wrapping_mul(level.saturating_sub(1))
            .wrapping_add(12)
            & 63
    }

    fn entry_address(self, table: u64, gva: Gva, level: u32) -> Gpa {
        let entries = if self.entry_size == 4 { 1024 } else { 512 };
        let index = (gva.0 >> self.shift(level)) % entries;
        Gpa(table).offset(index.wrapping_mul(self.entry_size))
    }
}

/// An entry that the walk went through.
#[derive(Clone, Copy, Default)]
struct Visited {
    gpa: Gpa,
    entry: u64,
}

/// The entries that led to a page.
#[derive(Default)]
struct Path {
    visited: [Visited; MAX_LEVELS],
    depth: usize,
}

impl Path {
    fn push(&mut self, gpa: Gpa, entry: u64) {
        if let Some(visited) = self.visited.get_mut(self.depth) {
            *visited = Visited { gpa, entry };
            self.depth += 1;
        }
    }
}

/// A finished walk.
struct Walk {
    translation: Translation,
    protection_key: u32,
}

impl Paging {
    /// Translates `gva` for `access` and leaves the page tables as they are.
    pub fn translate<M: GuestMemory>(
        &self,
        memory: &mut M,
        gva: Gva,
        access: Access,
    ) -> Result<Translation, WalkError> {
        let walk = self.walk(memory, gva, access, |_, _| {})?;
        self.check(&walk, access)?;
        Ok(walk.translation)
    }

    /// Translates `gva` for `access` and, where that succeeds, sets the accessed bits on the way
    /// and for a write the page's dirty bit.
    pub fn translate_and_mark<M: GuestMemory>(
        &self,
        memory: &mut M,
        gva: Gva,
        access: Access,
    ) -> Result<Translation, WalkError> {
        for _ in 0..ATTEMPTS {
            let mut path = Path::default();
            let walk = self.walk(memory, gva, access, |gpa, entry| path.push(gpa, entry))?;
            self.check(&walk, access)?;
            if self.mark(memory, &path, access)? {
                return Ok(walk.translation);
            }
        }
        Err(WalkError::Contended)
    }

    /// The error code of a fault by `access`, without the bits that say why.
    fn error_code(&self, access: Access) -> PageFaultErrorCode {
        let mut code = PageFaultErrorCode::empty();
        code.set(PageFaultErrorCode::WRITE, access.kind == AccessKind::Write);
        code.set(PageFaultErrorCode::USER, access.user);
        let fetches_tell = self.cr4.contains(Cr4::SMEP) || self.execute_disable();
        code.set(
            PageFaultErrorCode::FETCH,
            access.kind == AccessKind::Fetch && fetches_tell,
        );
        code
    }

    /// Whether XD bits mean anything.
    fn execute_disable(&self) -> bool {
        self.mode != Mode::Bits32 && self.efer.contains(Efer::NXE)
    }

    fn fault(&self, access: Access, why: PageFaultErrorCode) -> WalkError {
        WalkError::Fault(self.error_code(access) | why)
    }

    #[inline]
    fn walk<M: GuestMemory>(
        &self,
        memory: &mut M,
        gva: Gva,
        access: Access,
        mut visit: impl FnMut(Gpa, u64),
    ) -> Result<Walk, WalkError> {
        let gva = match self.mode {
            Mode::Level4 | Mode::Level5 if !is_canonical(gva, self.mode.linear_bits()) => {
                return Err(WalkError::NonCanonical)
            }
            Mode::Level4 | Mode::Level5 => gva,
            _ => Gva(gva.0 & 0xffff_ffff),
        };
        let layout = Layout::of(self.mode);
        let mut table = match self.mode {
            Mode::None => 0,
            Mode::Bits32 => self.cr3 & 0xffff_f000,
            Mode::Pae => self.page_directory(memory, gva, access)?,
            Mode::Level4 | Mode::Level5 => self.cr3 & ADDRESS & !bits_from(self.maxphyaddr),
        };
        let mut walk = Walk {
            translation: Translation {
                gpa: Gpa(gva.0),
                page_size: 1 << 32,
                writable: true,
                user: true,
                executable: true,
            },
            protection_key: 0,
        };
        let execute_disable = self.execute_disable();
        let reserved_in_small = self.reserved(0, 1, true);
        for level in (1..=layout.levels).rev() {
            let gpa = layout.entry_address(table, gva, level);
            let entry = read(memory, layout, gpa)?;
            if entry & PRESENT == 0 {
                return Err(self.fault(access, PageFaultErrorCode::empty()));
            }
            let leaf = level == 1 || self.is_large(entry, level);
            let reserved = if entry & LARGE == 0 || level == 1 {
                reserved_in_small
            } else {
                self.reserved(entry, level, leaf)
            };
            if entry & reserved != 0 {
                let why = PageFaultErrorCode::PRESENT | PageFaultErrorCode::RESERVED;
                return Err(self.fault(access, why));
            }
            visit(gpa, entry);
            let translation = &mut walk.translation;
            translation.writable &= entry & WRITABLE != 0;
            translation.user &= entry & USER != 0;
            if execute_disable {
                translation.executable &= entry & EXECUTE_DISABLE == 0;
            }
            if leaf {
                let page_size = 1u64 << layout.shift(level);
                let base = self.page_address(entry, level) & !(page_size - 1);
                translation.page_size = page_size;
                translation.gpa = Gpa(base | (gva.0 & (page_size - 1)));
                walk.protection_key = (entry >> PROTECTION_KEY_SHIFT) as u32 & 0xf;
                break;
            }
            table = entry & ADDRESS;
        }
        Ok(walk)
    }

    /// PAE's first step: the page directory that the PDPTE for `gva` names.
    fn page_directory<M: GuestMemory>(
        &self,
        memory: &mut M,
        gva: Gva,
        access: Access,
    ) -> Result<u64, WalkError> {
        let index = (gva.0 >> 30) & 3;
        let pdpte = match self.pdptes {
            Some(pdptes) => pdptes.get(index as usize).copied().unwrap_or(0),
            None => {
                let gpa = Gpa(self.cr3 & 0xffff_ffe0).offset(index * 8);
                memory.read_u64(gpa).ok_or(WalkError::Unreadable(gpa))?
            }
        };
        if pdpte & PRESENT == 0 {
            return Err(self.fault(access, PageFaultErrorCode::empty()));
        }
        Ok(pdpte & ADDRESS & !bits_from(self.maxphyaddr))
    }

    /// Whether an entry of `level` maps a page and not a table.
    fn is_large(&self, entry: u64, level: u32) -> bool {
        entry & LARGE != 0
            && match (self.mode, level) {
                (Mode::Bits32, 2) => self.cr4.contains(Cr4::PSE),
                (_, 2) => true,
                (_, 3) => self.gigabyte_pages,
                _ => false,
            }
    }

    /// The bits that must be zero in a present entry.
    fn reserved(&self, entry: u64, level: u32, leaf: bool) -> u64 {
        let large = leaf && level > 1;
        if self.mode == Mode::Bits32 {
            // PSE-36: bits 20 to 13 are address bits 39 to 32, as many as there are.
            let first = u64::from(self.maxphyaddr.clamp(32, 40)) - 19;
            return if large { (1 << 22) - (1 << first) } else { 0 };
        }
        let mut reserved = ADDRESS & bits_from(self.maxphyaddr);
        if self.mode == Mode::Pae {
            reserved |= PAE_RESERVED;
        }
        if !self.execute_disable() {
            reserved |= EXECUTE_DISABLE;
        }
        if large {
            let page_size = 1u64 << Layout::of(self.mode).shift(level);
            reserved |= (page_size - 1) & ADDRESS & !LARGE_PAT;
        } else if entry & LARGE != 0 && level > 2 {
            reserved |= LARGE;
        }
        reserved
    }

    /// The physical address in a leaf entry; the low bits may be others' for a large page.
    fn page_address(&self, entry: u64, level: u32) -> u64 {
        if self.mode == Mode::Bits32 && level == 2 {
            (entry & 0xffc0_0000) | (((entry >> 13) & 0xff) << 32)
        } else {
            entry & ADDRESS
        }
    }

    /// Access rights (SDM vol. 3, 5.6).
    fn check(&self, walk: &Walk, access: Access) -> Result<(), WalkError> {
        if self.mode == Mode::None {
            return Ok(());
        }
        let page = &walk.translation;
        let write = access.kind == AccessKind::Write;
        let obeys_read_only = access.user || self.cr0.contains(Cr0::WP);
        let allowed = match (access.user, page.user) {
            (true, false) => false,
            (true, true) | (false, false) => true,
            (false, true) if access.kind == AccessKind::Fetch => !self.cr4.contains(Cr4::SMEP),
            (false, true) => !self.cr4.contains(Cr4::SMAP) || access.ac && !access.implicit,
        } && (page.executable || access.kind != AccessKind::Fetch)
            && (page.writable || !write || !obeys_read_only);
        let key_forbids = page.user
            && access.kind != AccessKind::Fetch
            && matches!(self.mode, Mode::Level4 | Mode::Level5)
            && self.cr4.contains(Cr4::PKE)
            && match (self.pkru >> (2 * (walk.protection_key & 0xf))) & 3 {
                0 => false,
                2 => write && obeys_read_only,
                _ => true,
            };
        let mut why = PageFaultErrorCode::PRESENT;
        why.set(PageFaultErrorCode::PROTECTION_KEY, key_forbids);
        if allowed && !key_forbids {
            Ok(())
        } else {
            Err(self.fault(access, why))
        }
    }

    /// Sets accessed and dirty bits; false if an entry is no longer what the walk saw.
    fn mark<M: GuestMemory>(
        &self,
        memory: &mut M,
        path: &Path,
        access: Access,
    ) -> Result<bool, WalkError> {
        let layout = Layout::of(self.mode);
        let visited = path.visited.get(..path.depth).unwrap_or_default();
        for (index, Visited { gpa, entry }) in visited.iter().enumerate() {
            let mut wanted = entry | ACCESSED;
            if access.kind == AccessKind::Write && index + 1 == visited.len() {
                wanted |= DIRTY;
            }
            if wanted == *entry {
                continue;
            }
            let exchanged = if layout.entry_size == 4 {
                memory.compare_exchange_u32(*gpa, *entry as u32, wanted as u32)
            } else {
                memory.compare_exchange_u64(*gpa, *entry, wanted)
            };
            if !exchanged.ok_or(WalkError::Unreadable(*gpa))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn read<M: GuestMemory>(memory: &mut M, layout: Layout, gpa: Gpa) -> Result<u64, WalkError> {
    let entry = if layout.entry_size == 4 {
        memory.read_u32(gpa).map(u64::from)
    } else {
        memory.read_u64(gpa)
    };
    entry.ok_or(WalkError::Unreadable(gpa))
}
