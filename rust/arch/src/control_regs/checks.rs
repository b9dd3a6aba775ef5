// SPDX-License-Identifier: GPL-2.0

//! Which writes to control registers raise #GP, and which register sets a VMM may load.

use super::{Cr0, Cr4, Efer, Limits, Xcr0};

/// Bits 11 to 0 of CR3, the PCID where CR4.PCIDE is set.
const CR3_PCID: u64 = 0xfff;
/// Set in a MOV to CR3, with CR4.PCIDE: translations of the PCID stay valid. Not stored.
const CR3_NO_FLUSH: u64 = 1 << 63;
/// Linear-address masking of user pointers.
const CR3_LAM: u64 = 3 << 61;

/// CR0 bits whose change reloads the PDPTEs (SDM vol. 3, 5.4.1).
const CR0_RELOADS_PDPTES: Cr0 = Cr0::PG.union(Cr0::CD).union(Cr0::NW);
/// CR4 bits whose change reloads the PDPTEs.
const CR4_RELOADS_PDPTES: Cr4 = Cr4::PAE.union(Cr4::PGE).union(Cr4::PSE).union(Cr4::SMEP);

/// Why a value is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// A bit that is reserved, or whose feature CPUID does not have.
    ReservedBits,
    /// CR0.NW without CR0.CD.
    NotWriteThroughWithoutCacheDisable,
    /// CR0.PG without CR0.PE.
    PagingWithoutProtection,
    /// Long mode without CR4.PAE.
    LongModeWithoutPae,
    /// Long mode entered from, or EFER.LMA clear in, a 64-bit code segment.
    LongCodeSegment,
    /// Paging turned off in 64-bit mode.
    PagingNeeded,
    /// Paging turned off, CR3\[11:0\] not zero, or no long mode, with CR4.PCIDE.
    ProcessContextIdentifiers,
    /// CR4.CET without CR0.WP.
    ControlFlowWithoutWriteProtect,
    /// CR4.LA57 changed in long mode.
    LevelsChangedInLongMode,
    /// EFER.LME changed while paging is on.
    LongModeChangedWhilePaging,
    /// EFER.LMA is not EFER.LME and CR0.PG.
    LongModeActive,
    /// A part of the extended state without one it needs, or x87 missing.
    ExtendedState,
}

/// The control registers as they are before a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// CS.L; counts only in long mode.
    pub cs_long: bool,
}

/// What a MOV to CR3 does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cr3Write {
    /// The register's new value.
    pub cr3: u64,
    /// Whether translations of its PCID are flushed.
    pub flush: bool,
}

/// The registers of KVM_SET_SREGS that depend on each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sregs {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// CS.L.
    pub cs_long: bool,
}

fn refuse_if(condition: bool, violation: Violation) -> Result<(), Violation> {
    if condition {
        Err(violation)
    } else {
        Ok(())
    }
}

/// The rules for a value of CR0 by itself. Reserved bits of the lower half are ignored, as the
/// processor does.
fn check_cr0(value: u64) -> Result<Cr0, Violation> {
    let cr0 = Cr0::from_bits_truncate(value);
    refuse_if(value >> 32 != 0, Violation::ReservedBits)?;
    refuse_if(
        cr0.contains(Cr0::NW) && !cr0.contains(Cr0::CD),
        Violation::NotWriteThroughWithoutCacheDisable,
    )?;
    refuse_if(
        cr0.contains(Cr0::PG) && !cr0.contains(Cr0::PE),
        Violation::PagingWithoutProtection,
    )?;
    Ok(cr0)
}

fn check_cr4(value: u64, limits: &Limits) -> Result<Cr4, Violation> {
    refuse_if(value & !limits.cr4.bits() != 0, Violation::ReservedBits)?;
    Ok(Cr4::from_bits_retain(value))
}

fn check_cr3(value: u64, limits: &Limits) -> Result<(), Violation> {
    let address = if limits.lam { value & !CR3_LAM } else { value };
    refuse_if(!limits.is_physical(address), Violation::ReservedBits)
}

fn check_efer(value: u64, limits: &Limits) -> Result<Efer, Violation> {
    refuse_if(value & !limits.efer.bits() != 0, Violation::ReservedBits)?;
    Ok(Efer::from_bits_retain(value))
}

impl State {
    /// Whether the processor is in 64-bit mode.
    pub fn is_64_bit_mode(&self) -> bool {
        self.efer.contains(Efer::LMA) && self.cs_long
    }

    /// Whether PAE paging is on, which works from the PDPTE registers.
    pub fn is_pae_paging(&self) -> bool {
        self.cr0.contains(Cr0::PG) && self.cr4.contains(Cr4::PAE) && !self.efer.contains(Efer::LMA)
    }

    /// A MOV to CR0 of `value`: the register's new value (SDM vol. 3, 2.5). EFER.LMA follows it,
    /// see [`Efer::with_paging_of`].
    ///
    /// # Errors
    ///
    /// The rule it breaks, for which the processor raises #GP. The PDPTEs are the caller's to
    /// check, see [`State::cr0_write_loads_pdptes`].
    pub fn check_cr0_write(&self, value: u64) -> Result<Cr0, Violation> {
        let cr0 = check_cr0(value)? | Cr0::ET;
        let enters_paging = cr0.contains(Cr0::PG) && !self.cr0.contains(Cr0::PG);
        if self.efer.contains(Efer::LME) && enters_paging {
            refuse_if(!self.cr4.contains(Cr4::PAE), Violation::LongModeWithoutPae)?;
            refuse_if(self.cs_long, Violation::LongCodeSegment)?;
        }
        if !cr0.contains(Cr0::PG) {
            refuse_if(self.is_64_bit_mode(), Violation::PagingNeeded)?;
            refuse_if(
                self.cr4.contains(Cr4::PCIDE),
                Violation::ProcessContextIdentifiers,
            )?;
        }
        refuse_if(
            self.cr4.contains(Cr4::CET) && !cr0.contains(Cr0::WP),
            Violation::ControlFlowWithoutWriteProtect,
        )?;
        Ok(cr0)
    }

    /// Whether a MOV to CR0 that makes it `new` loads the PDPTEs, and raises #GP if they are
    /// invalid.
    pub fn cr0_write_loads_pdptes(&self, new: Cr0) -> bool {
        let pae = self.cr4.contains(Cr4::PAE) && !self.efer.contains(Efer::LME);
        pae && new.contains(Cr0::PG) && (new ^ self.cr0).intersects(CR0_RELOADS_PDPTES)
    }

    /// A MOV to CR4 of `value`: the register's new value.
    ///
    /// # Errors
    ///
    /// The rule it breaks, for which the processor raises #GP. The PDPTEs are the caller's to
    /// check, see [`State::cr4_write_loads_pdptes`].
    pub fn check_cr4_write(&self, value: u64, limits: &Limits) -> Result<Cr4, Violation> {
        let cr4 = check_cr4(value, limits)?;
        let long_mode = self.efer.contains(Efer::LMA);
        if long_mode {
            refuse_if(!cr4.contains(Cr4::PAE), Violation::LongModeWithoutPae)?;
            refuse_if(
                (cr4 ^ self.cr4).contains(Cr4::LA57),
                Violation::LevelsChangedInLongMode,
            )?;
        }
        if cr4.contains(Cr4::PCIDE) && !self.cr4.contains(Cr4::PCIDE) {
            refuse_if(
                !long_mode || self.cr3 & CR3_PCID != 0,
                Violation::ProcessContextIdentifiers,
            )?;
        }
        refuse_if(
            cr4.contains(Cr4::CET) && !self.cr0.contains(Cr0::WP),
            Violation::ControlFlowWithoutWriteProtect,
        )?;
        Ok(cr4)
    }

    /// Whether a MOV to CR4 that makes it `new` loads the PDPTEs, and raises #GP if they are
    /// invalid.
    pub fn cr4_write_loads_pdptes(&self, new: Cr4) -> bool {
        Self { cr4: new, ..*self }.is_pae_paging()
            && (new ^ self.cr4).intersects(CR4_RELOADS_PDPTES)
    }

    /// A MOV to CR3 of `value`. With PAE paging it loads the PDPTEs too.
    ///
    /// # Errors
    ///
    /// [`Violation::ReservedBits`], for which the processor raises #GP.
    pub fn check_cr3_write(&self, value: u64, limits: &Limits) -> Result<Cr3Write, Violation> {
        let mut cr3 = value;
        let mut flush = true;
        if self.cr4.contains(Cr4::PCIDE) {
            cr3 &= !CR3_NO_FLUSH;
            flush = value & CR3_NO_FLUSH == 0;
        }
        check_cr3(cr3, limits)?;
        Ok(Cr3Write { cr3, flush })
    }

    /// A WRMSR of `value` to EFER: the register's new value. LMA is not the guest's to write and
    /// stays.
    ///
    /// # Errors
    ///
    /// The rule it breaks, for which the processor raises #GP.
    pub fn check_efer_write(&self, value: u64, limits: &Limits) -> Result<Efer, Violation> {
        let efer = check_efer(value, limits)?;
        refuse_if(
            self.cr0.contains(Cr0::PG) && (efer ^ self.efer).contains(Efer::LME),
            Violation::LongModeChangedWhilePaging,
        )?;
        Ok((efer - Efer::LMA) | (self.efer & Efer::LMA))
    }
}

impl Sregs {
    /// Whether a VMM may load these (api.rst, KVM_SET_SREGS): the rules by which KVM answers
    /// EINVAL.
    ///
    /// # Errors
    ///
    /// The rule they break.
    pub fn check(&self, limits: &Limits) -> Result<(), Violation> {
        let efer = Efer::from_bits_retain(self.efer);
        let cr0 = Cr0::from_bits_retain(self.cr0);
        if efer.contains(Efer::LME) && cr0.contains(Cr0::PG) {
            let pae = Cr4::from_bits_retain(self.cr4).contains(Cr4::PAE);
            refuse_if(!pae, Violation::LongModeWithoutPae)?;
            refuse_if(!efer.contains(Efer::LMA), Violation::LongModeActive)?;
            check_cr3(self.cr3, limits)?;
        } else {
            refuse_if(efer.contains(Efer::LMA), Violation::LongModeActive)?;
            refuse_if(self.cs_long, Violation::LongCodeSegment)?;
        }
        check_cr4(self.cr4, limits)?;
        check_cr0(self.cr0)?;
        check_efer(self.efer, limits)?;
        Ok(())
    }
}

impl Xcr0 {
    /// An XSETBV of `value` to XCR0, of which the guest may have `supported`: the register's new
    /// value (SDM vol. 1, 13.3).
    ///
    /// # Errors
    ///
    /// The rule it breaks, for which the processor raises #GP.
    pub fn check(value: u64, supported: Self) -> Result<Self, Violation> {
        let xcr0 = Self::from_bits_retain(value);
        let all_or_none = |parts: Self| !xcr0.intersects(parts) || xcr0.contains(parts);
        let needs = |part: Self, other: Self| !xcr0.intersects(part) || xcr0.contains(other);
        let known = value & !(supported | Self::FP).bits() == 0;
        refuse_if(!known, Violation::ReservedBits)?;
        let consistent = xcr0.contains(Self::FP)
            && needs(Self::YMM, Self::SSE)
            && needs(Self::AVX512, Self::YMM)
            && all_or_none(Self::AVX512)
            && all_or_none(Self::MPX)
            && all_or_none(Self::AMX);
        refuse_if(!consistent, Violation::ExtendedState)?;
        Ok(xcr0)
    }
}
