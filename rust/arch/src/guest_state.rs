// SPDX-License-Identifier: GPL-2.0

//! The guest state VM entry accepts, of an unrestricted guest (SDM vol. 3, 27.3.1).
//!
//! The processor says only that the state is invalid. [`GuestState::check`] says which rule it
//! breaks, for the one who has to find out why an entry failed. Left out are rules about fields
//! this project does not load (DEBUGCTL, PERF_GLOBAL_CTRL, BNDCFGS, CET, RTIT, SMM), the bits of
//! CR0 and CR4 that capability MSRs fix, and which exceptions an inactive guest may get.

mod segments;

use crate::addr::Gva;
use crate::control_regs::{Cr0, Cr4, Efer};
use crate::memory_type::is_pat;
use crate::paging::{is_canonical, pdpte_is_valid};
use crate::rflags::Rflags;
use crate::segment::Segment;

/// A rule of VM entry that guest state can break.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// CR0.PG needs CR0.PE.
    Cr0PagingNeedsProtection,
    /// CR0 has no upper half.
    Cr0UpperHalf,
    /// CR4.CET needs CR0.WP.
    Cr4CetNeedsWriteProtect,
    /// An IA-32e mode guest has CR0.PG and CR4.PAE.
    Ia32eNeedsPagingAndPae,
    /// CR4.PCIDE is for IA-32e mode guests.
    Cr4PcideNeedsIa32e,
    /// CR3 is a physical address.
    Cr3NotPhysical,
    /// DR7 has no upper half.
    Dr7UpperHalf,
    /// IA32_SYSENTER_ESP and IA32_SYSENTER_EIP are canonical.
    SysenterNotCanonical,
    /// Each byte of IA32_PAT is a memory type.
    PatType,
    /// EFER has no reserved bits.
    EferReserved,
    /// EFER.LMA says what the entry control says and, with paging, what EFER.LME says.
    EferLongMode,
    /// TR and LDTR are selected from the GDT.
    SelectorLocal,
    /// In virtual-8086 mode bases are sixteen times selectors, limits 0xffff and rights 0xf3.
    Virtual8086Segment,
    /// Bases are canonical, and of 32 bits for CS, SS, DS and ES.
    SegmentBase,
    /// TR and CS are usable.
    SegmentUnusable,
    /// A usable segment has a type that fits its register.
    SegmentType,
    /// A usable segment is code or data, as its register needs, and not a system segment.
    SegmentSystem,
    /// DPL fits the type and the privilege level.
    SegmentDpl,
    /// A usable segment is present.
    SegmentNotPresent,
    /// Reserved access-right bits are clear.
    SegmentReserved,
    /// A 64-bit code segment has D clear.
    CodeLongAndBig,
    /// G agrees with the limit.
    SegmentGranularity,
    /// GDTR and IDTR have canonical bases.
    TableBase,
    /// GDTR and IDTR have 16-bit limits.
    TableLimit,
    /// RIP fits the code segment.
    Rip,
    /// RFLAGS has bit 1 and no reserved bit.
    RflagsReserved,
    /// RFLAGS.VM is clear in IA-32e mode and in real mode.
    RflagsVirtual8086,
    /// RFLAGS.IF is set where an external interrupt is injected.
    RflagsInterruptFlag,
    /// The activity state is defined.
    ActivityState,
    /// A halted guest runs at DPL 0 and is not in an interrupt shadow.
    ActivityBlocked,
    /// Interruptibility has no reserved bit, not two shadows, no blocking by SMI, and no enclave in
    /// the shadow of MOV SS.
    Interruptibility,
    /// A shadow of STI needs RFLAGS.IF.
    ShadowOfSti,
    /// An event is not injected into a shadow that blocks it.
    ShadowBlocksInjection,
    /// An NMI is not injected while NMIs are blocked (the control "virtual NMIs" is on).
    NmiBlocksNmi,
    /// Pending debug exceptions have no reserved bits, and one of a transaction is alone.
    PendingDebugReserved,
    /// BS is pending if, and only if, RFLAGS.TF where a shadow or HLT delays it.
    PendingDebugSingleStep,
    /// The VMCS link pointer is all ones.
    LinkPointer,
    /// PDPTEs have no reserved bits.
    Pdpte,
}

/// Segment registers of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segments {
    /// ES.
    pub es: Segment,
    /// CS.
    pub cs: Segment,
    /// SS.
    pub ss: Segment,
    /// DS.
    pub ds: Segment,
    /// FS.
    pub fs: Segment,
    /// GS.
    pub gs: Segment,
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableRegister {
    /// Linear address of the table.
    pub base: Gva,
    /// Its last byte.
    pub limit: u32,
}

/// The kind of event that the entry injects, as far as the rules care.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Injection {
    /// None.
    #[default]
    None,
    /// An external interrupt.
    ExternalInterrupt,
    /// An NMI.
    Nmi,
    /// An exception or a software interrupt.
    Other,
}

/// The guest-state area, and what of the entry controls the rules depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GuestState {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER; loaded by the entry.
    pub efer: u64,
    /// DR7; loaded by the entry.
    pub dr7: u64,
    /// IA32_PAT, if loaded by the entry.
    pub pat: Option<u64>,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// IA32_SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// IA32_SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// The segment registers.
    pub segments: Segments,
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
    /// Activity state: 0 active, 1 HLT, 2 shutdown, 3 wait-for-SIPI.
    pub activity: u32,
    /// Interruptibility state.
    pub interruptibility: u32,
    /// Pending debug exceptions.
    pub pending_debug: u64,
    /// VMCS link pointer.
    pub link_pointer: u64,
    /// PDPTEs; they matter with PAE paging.
    pub pdptes: [u64; 4],
    /// Entry control "IA-32e mode guest".
    pub ia32e_mode: bool,
    /// The event injected.
    pub injection: Injection,
    /// Bits of a physical address.
    pub maxphyaddr: u8,
    /// Bits of a linear address: 48, or 57 with 5-level paging.
    pub linear_bits: u32,
}

const SHADOW_STI: u32 = 1 << 0;
const SHADOW_MOV_SS: u32 = 1 << 1;
const BLOCKED_BY_NMI: u32 = 1 << 3;
const ENCLAVE: u32 = 1 << 4;
/// All but blocking by SMI, which is for guests in SMM.
const INTERRUPTIBILITY_DEFINED: u32 = 0x1b;
const ACTIVITY_HLT: u32 = 1;
const ACTIVITY_LAST: u32 = 3;
const PENDING_BS: u64 = 1 << 14;
const PENDING_ENABLED: u64 = 1 << 12;
const PENDING_RTM: u64 = 1 << 16;
/// B0 to B3, BLD, enabled breakpoint, BS, RTM.
const PENDING_DEFINED: u64 = 0x1_580f;

fn ensure(holds: bool, rule: Rule) -> Result<(), Rule> {
    if holds {
        Ok(())
    } else {
        Err(rule)
    }
}

impl GuestState {
    /// Holds the state against the rules, in the manual's order.
    ///
    /// # Errors
    ///
    /// The first rule it breaks.
    pub fn check(&self) -> Result<(), Rule> {
        self.check_control_registers()?;
        self.check_msrs()?;
        self.check_segments()?;
        self.check_tables()?;
        self.check_rip_and_rflags()?;
        self.check_non_register_state()?;
        self.check_pdptes()
    }

    fn is_canonical(&self, address: u64) -> bool {
        is_canonical(Gva(address), self.linear_bits)
    }

    fn has_cr0(&self, bits: Cr0) -> bool {
        self.cr0 & bits.bits() == bits.bits()
    }

    fn has_cr4(&self, bits: Cr4) -> bool {
        self.cr4 & bits.bits() == bits.bits()
    }

    fn has_rflags(&self, bits: Rflags) -> bool {
        self.rflags & bits.bits() == bits.bits()
    }

    fn is_virtual_8086(&self) -> bool {
        self.has_rflags(Rflags::VM)
    }

    /// SDM vol. 3, 27.3.1.1, control and debug registers.
    fn check_control_registers(&self) -> Result<(), Rule> {
        let paging = self.has_cr0(Cr0::PG);
        ensure(self.cr0 >> 32 == 0, Rule::Cr0UpperHalf)?;
        ensure(
            !paging || self.has_cr0(Cr0::PE),
            Rule::Cr0PagingNeedsProtection,
        )?;
        ensure(
            !self.has_cr4(Cr4::CET) || self.has_cr0(Cr0::WP),
            Rule::Cr4CetNeedsWriteProtect,
        )?;
        ensure(
            !self.ia32e_mode || paging && self.has_cr4(Cr4::PAE),
            Rule::Ia32eNeedsPagingAndPae,
        )?;
        ensure(
            self.ia32e_mode || !self.has_cr4(Cr4::PCIDE),
            Rule::Cr4PcideNeedsIa32e,
        )?;
        let physical = self.maxphyaddr >= 64 || self.cr3 >> self.maxphyaddr == 0;
        ensure(physical, Rule::Cr3NotPhysical)?;
        ensure(self.dr7 >> 32 == 0, Rule::Dr7UpperHalf)
    }

    /// SDM vol. 3, 27.3.1.1, MSRs.
    fn check_msrs(&self) -> Result<(), Rule> {
        let canonical =
            self.is_canonical(self.sysenter_esp) && self.is_canonical(self.sysenter_eip);
        ensure(canonical, Rule::SysenterNotCanonical)?;
        ensure(self.pat.is_none_or(is_pat), Rule::PatType)?;
        let efer = Efer::from_bits(self.efer).ok_or(Rule::EferReserved)?;
        let active = efer.contains(Efer::LMA);
        ensure(active == self.ia32e_mode, Rule::EferLongMode)?;
        let paging = self.has_cr0(Cr0::PG);
        ensure(
            !paging || active == efer.contains(Efer::LME),
            Rule::EferLongMode,
        )
    }

    /// SDM vol. 3, 27.3.1.3.
    fn check_tables(&self) -> Result<(), Rule> {
        for table in [&self.gdtr, &self.idtr] {
            ensure(self.is_canonical(table.base.0), Rule::TableBase)?;
            ensure(table.limit <= 0xffff, Rule::TableLimit)?;
        }
        Ok(())
    }

    /// SDM vol. 3, 27.3.1.4.
    fn check_rip_and_rflags(&self) -> Result<(), Rule> {
        let long_code = self.ia32e_mode && self.segments.cs.rights.is_long();
        // Not quite canonical: the highest linear-address bit may differ from those above it.
        let fits = if long_code {
            is_canonical(Gva(self.rip), self.linear_bits.saturating_add(1))
        } else {
            self.rip >> 32 == 0
        };
        ensure(fits, Rule::Rip)?;
        ensure(Rflags::is_valid(self.rflags), Rule::RflagsReserved)?;
        let may_be_8086 = !self.ia32e_mode && self.has_cr0(Cr0::PE);
        ensure(
            may_be_8086 || !self.is_virtual_8086(),
            Rule::RflagsVirtual8086,
        )?;
        ensure(
            self.injection != Injection::ExternalInterrupt || self.has_rflags(Rflags::IF),
            Rule::RflagsInterruptFlag,
        )
    }

    /// SDM vol. 3, 27.3.1.5.
    fn check_non_register_state(&self) -> Result<(), Rule> {
        let sti = self.interruptibility & SHADOW_STI != 0;
        let mov_ss = self.interruptibility & SHADOW_MOV_SS != 0;
        let shadow = sti || mov_ss;
        ensure(self.activity <= ACTIVITY_LAST, Rule::ActivityState)?;
        let halted_below = self.activity == ACTIVITY_HLT && self.segments.ss.rights.dpl() != 0;
        ensure(
            !halted_below && (self.activity == 0 || !shadow),
            Rule::ActivityBlocked,
        )?;

        let defined = self.interruptibility & !INTERRUPTIBILITY_DEFINED == 0;
        let enclave = self.interruptibility & ENCLAVE != 0;
        ensure(
            defined && !(mov_ss && (sti || enclave)),
            Rule::Interruptibility,
        )?;
        ensure(!sti || self.has_rflags(Rflags::IF), Rule::ShadowOfSti)?;
        let blocked = match self.injection {
            Injection::ExternalInterrupt => shadow,
            Injection::Nmi => mov_ss,
            Injection::None | Injection::Other => false,
        };
        ensure(!blocked, Rule::ShadowBlocksInjection)?;
        let nmis_blocked = self.interruptibility & BLOCKED_BY_NMI != 0;
        ensure(
            self.injection != Injection::Nmi || !nmis_blocked,
            Rule::NmiBlocksNmi,
        )?;

        let of_transaction = self.pending_debug & PENDING_RTM != 0;
        let alone = self.pending_debug == PENDING_RTM | PENDING_ENABLED && !mov_ss;
        ensure(
            self.pending_debug & !PENDING_DEFINED == 0 && (alone || !of_transaction),
            Rule::PendingDebugReserved,
        )?;
        if shadow || self.activity == ACTIVITY_HLT {
            let pending = self.pending_debug & PENDING_BS != 0;
            ensure(
                pending == self.has_rflags(Rflags::TF),
                Rule::PendingDebugSingleStep,
            )?;
        }
        ensure(self.link_pointer == u64::MAX, Rule::LinkPointer)
    }

    /// SDM vol. 3, 27.3.1.6.
    fn check_pdptes(&self) -> Result<(), Rule> {
        let pae = self.has_cr0(Cr0::PG) && self.has_cr4(Cr4::PAE) && !self.ia32e_mode;
        let valid = self
            .pdptes
            .iter()
            .all(|pdpte| pdpte_is_valid(*pdpte, self.maxphyaddr));
        ensure(!pae || valid, Rule::Pdpte)
    }
}

#[cfg(test)]
mod tests;
