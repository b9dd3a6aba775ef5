// SPDX-License-Identifier: GPL-2.0

//! Guest page tables: from a guest-virtual to a guest-physical address, as the processor would do
//! it (SDM vol. 3, chapter 5).
//!
//! ```text
//! mode     enabled by                   levels   entry     large pages
//! None     CR0.PG = 0                   none
//! Bits32   CR0.PG                       2        4 bytes   4 MiB (CR4.PSE, with PSE-36)
//! Pae      CR0.PG, CR4.PAE              3        8 bytes   2 MiB
//! Level4   CR0.PG, CR4.PAE, EFER.LME    4        8 bytes   2 MiB, 1 GiB
//! Level5   those and CR4.LA57           5        8 bytes   2 MiB, 1 GiB
//! ```

mod walk;

use crate::addr::{Gpa, Gva};
use crate::control_regs::{Cr0, Cr4, Efer};
use bitflags::bitflags;

/// What translates linear addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nothing: linear is physical.
    None,
    /// 32-bit paging.
    Bits32,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

impl Mode {
    /// The mode that control registers select (SDM vol. 3, 5.1.1).
    #[inline]
    pub fn from_registers(cr0: Cr0, cr4: Cr4, efer: Efer) -> Self {
        if !cr0.contains(Cr0::PG) {
            Self::None
        } else if !cr4.contains(Cr4::PAE) {
            Self::Bits32
        } else if !efer.contains(Efer::LME) {
            Self::Pae
        } else if !cr4.contains(Cr4::LA57) {
            Self::Level4
        } else {
            Self::Level5
        }
    }

    /// Bits of a linear address that are translated.
    #[inline]
    pub const fn linear_bits(self) -> u32 {
        match self {
            Self::None | Self::Bits32 | Self::Pae => 32,
            Self::Level4 => 48,
            Self::Level5 => 57,
        }
    }
}

/// Whether `gva` is canonical for `bits` linear-address bits: its upper bits repeat the highest of
/// those.
#[inline]
pub const fn is_canonical(gva: Gva, bits: u32) -> bool {
    let unused = 64 - if bits > 64 { 64 } else { bits };
    if unused >= 64 {
        return gva.0 == 0;
    }
    ((gva.0 << unused) as i64 >> unused) as u64 == gva.0
}

/// What of the processor's state decides a translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// The mode.
    pub mode: Mode,
    /// CR3 as the guest has it.
    pub cr3: u64,
    /// The four PDPTE registers of PAE paging; `None` reads them from memory at CR3 instead.
    pub pdptes: Option<[u64; 4]>,
    /// CR0; WP matters.
    pub cr0: Cr0,
    /// CR4; PSE, SMEP, SMAP and PKE matter.
    pub cr4: Cr4,
    /// EFER; NXE matters.
    pub efer: Efer,
    /// Bits of a physical address (CPUID 80000008H:EAX\[7:0\]).
    pub maxphyaddr: u8,
    /// CPUID has 1 GiB pages.
    pub gigabyte_pages: bool,
    /// PKRU, used where CR4.PKE is set.
    pub pkru: u32,
}

impl Paging {
    /// Paging as control registers have it, with 1 GiB pages, all protection keys open and PAE's
    /// PDPTEs in memory.
    #[inline]
    pub fn new(cr0: Cr0, cr3: u64, cr4: Cr4, efer: Efer, maxphyaddr: u8) -> Self {
        Self {
            mode: Mode::from_registers(cr0, cr4, efer),
            cr3,
            pdptes: None,
            cr0,
            cr4,
            efer,
            maxphyaddr,
            gigabyte_pages: true,
            pkru: 0,
        }
    }
}

/// What is done at the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// A data read.
    Read,
    /// A data write, or a read that will be followed by one.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// An access to a linear address (SDM vol. 3, 5.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What is done.
    pub kind: AccessKind,
    /// A user-mode access: at CPL 3 and not implicit.
    pub user: bool,
    /// A supervisor access the processor makes by itself: to a descriptor table or a TSS.
    pub implicit: bool,
    /// RFLAGS.AC, which opens user pages to explicit supervisor accesses under SMAP.
    pub ac: bool,
}

impl Access {
    /// An access by code at CPL 0, 1 or 2 with RFLAGS.AC clear.
    pub const fn supervisor(kind: AccessKind) -> Self {
        Self {
            kind,
            user: false,
            implicit: false,
            ac: false,
        }
    }

    /// An access by code at CPL 3.
    pub const fn user(kind: AccessKind) -> Self {
        Self {
            kind,
            user: true,
            implicit: false,
            ac: false,
        }
    }

    /// An access by the processor itself, at whatever CPL.
    pub const fn implicit(kind: AccessKind) -> Self {
        Self {
            kind,
            user: false,
            implicit: true,
            ac: false,
        }
    }

    /// The same with RFLAGS.AC as given.
    pub const fn with_ac(self, ac: bool) -> Self {
        Self { ac, ..self }
    }
}

bitflags! {
    /// Error code of a page fault (SDM vol. 3, 5.7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PageFaultErrorCode: u32 {
        /// The page was present: a protection violation.
        const PRESENT = 1 << 0;
        /// A write.
        const WRITE = 1 << 1;
        /// A user-mode access.
        const USER = 1 << 2;
        /// A reserved bit was set in an entry.
        const RESERVED = 1 << 3;
        /// An instruction fetch.
        const FETCH = 1 << 4;
        /// A protection key forbade it.
        const PROTECTION_KEY = 1 << 5;
        /// A shadow-stack access.
        const SHADOW_STACK = 1 << 6;
        /// Refused by SGX.
        const SGX = 1 << 15;
    }
}

/// Where a linear address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// Bytes in the page, a power of two; without paging 4 GiB.
    pub page_size: u64,
    /// R/W is set at every level.
    pub writable: bool,
    /// U/S is set at every level.
    pub user: bool,
    /// XD is set at no level, or is not enabled.
    pub executable: bool,
}

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError {
    /// The processor would raise a page fault with this error code.
    Fault(PageFaultErrorCode),
    /// The address is not canonical: #GP or #SS and no page fault.
    NonCanonical,
    /// A paging-structure entry lies where the guest has no memory.
    Unreadable(Gpa),
    /// Entries kept changing while accessed and dirty bits were set. Letting the guest run and
    /// fault again is right.
    Contended,
}

/// Guest-physical memory as the walk sees it. All reads and writes are of naturally aligned,
/// little-endian entries.
pub trait GuestMemory {
    /// Reads an entry of 32-bit paging; `None` where there is no memory.
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32>;

    /// Reads an entry of the other modes; `None` where there is no memory.
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64>;

    /// Atomically replaces `old` by `new`. `Some(false)` if the entry was no longer `old`, `None`
    /// where there is no writable memory.
    fn compare_exchange_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Option<bool>;

    /// As [`GuestMemory::compare_exchange_u32`].
    fn compare_exchange_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Option<bool>;
}

/// Whether PAE paging may load `pdpte`: a present one must have no reserved bit set, or the
/// MOV to CR3 (or CR0, or CR4) that loads it raises #GP (SDM vol. 3, 5.4.1).
pub const fn pdpte_is_valid(pdpte: u64, maxphyaddr: u8) -> bool {
    const PRESENT: u64 = 1;
    const RESERVED_LOW: u64 = 0b1_1110_0110;
    pdpte & PRESENT == 0 || pdpte & (RESERVED_LOW | bits_from(maxphyaddr)) == 0
}

/// Bits 63 down to `first`.
#[inline]
const fn bits_from(first: u8) -> u64 {
    if first >= 64 {
        0
    } else {
        u64::MAX << first
    }
}

#[cfg(test)]
mod tests;
