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

/// log2 of the bytes in the smallest page.
const SMALL_SHIFT: u32 = 12;

/// How entries of a mode are laid out.
#[derive(Clone, Copy)]
struct Layout {
    /// log2 of what an entry of the highest table in memory spans; PAE's third is a register.
    top_shift: u32,
    /// log2 of the entries in a table.
    index_bits: u32,
    /// log2 of the bytes in an entry.
    entry_shift: u32,
}

impl Layout {
    #[inline]
    fn of(mode: Mode) -> Self {
        let top_shift = match mode {
            Mode::Bits32 => {
                return Self {
                    top_shift: 22,
                    index_bits: 10,
                    entry_shift: 2,
                }
            }
            Mode::None | Mode::Pae => 21,
            Mode::Level4 => 39,
            Mode::Level5 => 48,
        };
        Self {
            top_shift,
            index_bits: 9,
            entry_shift: 3,
        }
    }

    /// The entry for `gva` in a table whose entries span `1 << shift` bytes.
    #[inline]
    fn entry_address(self, table: u64, gva: Gva, shift: u32) -> Gpa {
        Gpa(table | ((gva.0 >> (shift & 63)) << (self.entry_shift & 63)) & 0xfff)
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

impl Walk {
    /// Without paging.
    #[inline]
    fn identity(gva: Gva) -> Self {
        Self {
            translation: Translation {
                gpa: Gpa(gva.0),
                page_size: 1 << 32,
                writable: true,
                user: true,
                executable: true,
            },
            protection_key: 0,
        }
    }
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
    #[inline]
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
        let mut table = match self.mode {
            Mode::None => return Ok(Walk::identity(gva)),
            Mode::Bits32 => self.cr3 & 0xffff_f000,
            Mode::Pae => self.page_directory(memory, gva, access)?,
            Mode::Level4 | Mode::Level5 => self.cr3 & ADDRESS & !bits_from(self.maxphyaddr),
        };
        let layout = Layout::of(self.mode);
        let always_reserved = self.reserved();
        let mut shift = layout.top_shift;
        // A right must be given at every level, XD denies at any.
        let mut given = WRITABLE | USER;
        let mut denied = 0;
        let (entry, base) = loop {
            let gpa = layout.entry_address(table, gva, shift);
            let entry = read(memory, layout, gpa)?;
            if entry & PRESENT == 0 {
                return Err(self.fault(access, PageFaultErrorCode::empty()));
            }
            let mut reserved = always_reserved;
            let mut leaf = shift == SMALL_SHIFT;
            if entry & LARGE != 0 && !leaf {
                leaf = self.has_large(shift);
                reserved |= self.reserved_with_large(shift, leaf);
            }
            if entry & reserved != 0 {
                let why = PageFaultErrorCode::PRESENT | PageFaultErrorCode::RESERVED;
                return Err(self.fault(access, why));
            }
            visit(gpa, entry);
            given &= entry;
            denied |= entry;
            if leaf {
                break (entry, self.page_address(entry, shift));
            }
            table = entry & ADDRESS;
            shift = shift.wrapping_sub(layout.index_bits);
        };
        let page_size = 1u64 << (shift & 63);
        let in_page = page_size.wrapping_sub(1);
        Ok(Walk {
            translation: Translation {
                gpa: Gpa(base & !in_page | gva.0 & in_page),
                page_size,
                writable: given & WRITABLE != 0,
                user: given & USER != 0,
                executable: denied & EXECUTE_DISABLE == 0 || !self.execute_disable(),
            },
            protection_key: (entry >> PROTECTION_KEY_SHIFT) as u32 & 0xf,
        })
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

    /// Whether an entry that spans `1 << shift` bytes and has the large bit set maps a page.
    #[inline]
    fn has_large(&self, shift: u32) -> bool {
        match shift {
            21 => true,
            22 => self.cr4.contains(Cr4::PSE),
            30 => self.gigabyte_pages,
            _ => false,
        }
    }

    /// The bits that must be zero in every present entry.
    #[inline]
    fn reserved(&self) -> u64 {
        if self.mode == Mode::Bits32 {
            return 0;
        }
        let mut reserved = ADDRESS & bits_from(self.maxphyaddr);
        if self.mode == Mode::Pae {
            reserved |= PAE_RESERVED;
        }
        if !self.execute_disable() {
            reserved |= EXECUTE_DISABLE;
        }
        reserved
    }

    /// The bits that must be zero besides in an entry above the last level that has the large bit
    /// set, and maps a page or does not.
    #[inline]
    fn reserved_with_large(&self, shift: u32, leaf: bool) -> u64 {
        match (self.mode, leaf) {
            // PSE-36: bits 20 to 13 are address bits 39 to 32, as many as there are.
            (Mode::Bits32, true) => {
                let first = u64::from(self.maxphyaddr.clamp(32, 40)) - 19;
                (1 << 22) - (1 << first)
            }
            (Mode::Bits32, false) => 0,
            (_, true) => ((1u64 << (shift & 63)) - 1) & ADDRESS & !LARGE_PAT,
            (_, false) => LARGE,
        }
    }

    /// The physical address in a leaf entry; the low bits may be others' for a large page.
    #[inline]
    fn page_address(&self, entry: u64, shift: u32) -> u64 {
        if shift == 22 {
            (entry & 0xffc0_0000) | (((entry >> 13) & 0xff) << 32)
        } else {
            entry & ADDRESS
        }
    }

    /// Access rights (SDM vol. 3, 5.6).
    #[inline]
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
            let exchanged = if layout.entry_shift == 2 {
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

#[inline]
fn read<M: GuestMemory>(memory: &mut M, layout: Layout, gpa: Gpa) -> Result<u64, WalkError> {
    let entry = if layout.entry_shift == 2 {
        memory.read_u32(gpa).map(u64::from)
    } else {
        memory.read_u64(gpa)
    };
    entry.ok_or(WalkError::Unreadable(gpa))
}
