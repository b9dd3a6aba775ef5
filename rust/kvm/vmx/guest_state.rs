// SPDX-License-Identifier: GPL-2.0

//! The guest-state area: registers of the guest that an exit saves and an entry loads
//! (SDM vol. 3, 25.4).

use arch::{
    addr::Gva,
    control_regs::{
        Cr0,
        Efer, //
    },
    controls::EntryControls,
    segment::{
        AccessRights,
        Segment,
        Selector,
        TYPE_ACCESSED,
        TYPE_BUSY_TSS, //
    },
    vmcs::{
        self,
        Field16,
        Field32,
        FieldNatural, //
    },
};

use super::{
    controls::CR0_GUEST_OWNED,
    vmcs::{
        SwitchedMsr,
        Vmcs, //
    },
    Vmx, //
};
use crate::{
    host::cpu,
    vm::{
        backend::{
            SegmentRegister,
            TableRegister, //
        },
        pat_reset,
        Loaded, //
    },
};

/// Blocking by STI, by MOV SS and by NMI in the interruptibility state.
pub(super) const BLOCKED_BY_STI: u32 = 1 << 0;
/// See [`BLOCKED_BY_STI`].
pub(super) const BLOCKED_BY_MOV_SS: u32 = 1 << 1;
/// See [`BLOCKED_BY_STI`].
pub(super) const BLOCKED_BY_NMI: u32 = 1 << 3;

const CR4_MCE: u64 = 1 << 6;
const CR4_VMXE: u64 = 1 << 13;
const RFLAGS_RESERVED: u64 = 1 << 1;

/// The four fields of a segment register.
struct SegmentFields {
    selector: Field16,
    base: FieldNatural,
    limit: Field32,
    rights: Field32,
}

/// The fields of each register lie in the same order, two apart.
const fn fields(register: SegmentRegister) -> SegmentFields {
    let i = register as u32 * 2;
    SegmentFields {
        selector: Field16(vmcs::GUEST_ES_SELECTOR.0 + i),
        base: FieldNatural(vmcs::GUEST_ES_BASE.0 + i),
        limit: Field32(vmcs::GUEST_ES_LIMIT.0 + i),
        rights: Field32(vmcs::GUEST_ES_AR_BYTES.0 + i),
    }
}

/// Reads a segment register.
pub(super) fn segment(f: &Vmcs, register: SegmentRegister) -> Segment {
    let fields = fields(register);
    Segment {
        selector: Selector(f.read(fields.selector)),
        base: Gva(f.read(fields.base)),
        limit: f.read(fields.limit),
        rights: AccessRights(f.read(fields.rights)),
    }
}

/// Reads the base of a segment register.
pub(super) fn segment_base(f: &Vmcs, register: SegmentRegister) -> u64 {
    f.read(fields(register).base)
}

/// Writes a segment register.
pub(super) fn set_segment(f: &Vmcs, register: SegmentRegister, segment: &Segment) {
    let fields = fields(register);
    let mut rights = segment.rights.0;
    // Entries want the accessed bit set in what is usable, and a TSS that is busy (SDM vol. 3,
    // 27.3.1.2); a VMM that loads descriptors by hand may not have set it.
    if register != SegmentRegister::Ldtr {
        rights |= u32::from(TYPE_ACCESSED);
    }
    f.write(fields.selector, segment.selector.0);
    f.write(fields.base, segment.base.0);
    f.write(fields.limit, segment.limit);
    f.write(fields.rights, rights);
}

/// Reads GDTR.
pub(super) fn gdtr(f: &Vmcs) -> TableRegister {
    TableRegister {
        base: f.read(vmcs::GUEST_GDTR_BASE),
        limit: f.read(vmcs::GUEST_GDTR_LIMIT),
    }
}

/// Writes GDTR.
pub(super) fn set_gdtr(f: &Vmcs, value: TableRegister) {
    f.write(vmcs::GUEST_GDTR_BASE, value.base);
    f.write(vmcs::GUEST_GDTR_LIMIT, value.limit);
}

/// Reads IDTR.
pub(super) fn idtr(f: &Vmcs) -> TableRegister {
    TableRegister {
        base: f.read(vmcs::GUEST_IDTR_BASE),
        limit: f.read(vmcs::GUEST_IDTR_LIMIT),
    }
}

/// Writes IDTR.
pub(super) fn set_idtr(f: &Vmcs, value: TableRegister) {
    f.write(vmcs::GUEST_IDTR_BASE, value.base);
    f.write(vmcs::GUEST_IDTR_LIMIT, value.limit);
}

/// CR0 as the guest sees it: its own bits, and the shadow of the host's.
pub(super) fn cr0(f: &Vmcs) -> u64 {
    f.read(vmcs::GUEST_CR0) & CR0_GUEST_OWNED | f.read(vmcs::CR0_READ_SHADOW) & !CR0_GUEST_OWNED
}

/// Sets CR0, and EFER.LMA which follows from it.
pub(super) fn set_cr0(cx: &Loaded<'_, Vmx>, value: u64) {
    let f = &cx.vcpu.resident;
    let value = value | Cr0::ET.bits();

    // Caching stays on whatever the guest says; NE and whatever else VMX wants set stays set.
    // Unrestricted guests are free of the rule for PE and PG.
    let fixed = cx.vm.backend.capability.cr0_fixed.0 & !(Cr0::PE | Cr0::PG).bits();
    let hardware = value & !(Cr0::CD | Cr0::NW).bits() | fixed;
    f.write(vmcs::GUEST_CR0, hardware);
    f.write(vmcs::CR0_READ_SHADOW, value);

    let efer = Efer::from_bits_retain(f.read(vmcs::GUEST_IA32_EFER))
        .with_paging_of(Cr0::from_bits_retain(value));
    write_efer(f, efer);
}

/// Sets EFER as given, LMA included.
pub(super) fn set_efer(cx: &Loaded<'_, Vmx>, value: u64) {
    write_efer(&cx.vcpu.resident, Efer::from_bits_retain(value));
}

fn write_efer(f: &Vmcs, efer: Efer) {
    f.write(vmcs::GUEST_IA32_EFER, efer.bits());

    let long = efer.contains(Efer::LMA);
    let old = EntryControls::from_bits_retain(f.read(vmcs::VM_ENTRY_CONTROLS));
    let mut new = old;
    new.set(EntryControls::IA32E_MODE_GUEST, long);
    if new != old {
        f.write(vmcs::VM_ENTRY_CONTROLS, new.bits());
    }

    if long {
        // Processors enter long mode with whatever TSS they have; VM entries do not.
        let rights = AccessRights(f.read(vmcs::GUEST_TR_AR_BYTES));
        if !rights.is_unusable() && rights.segment_type() != TYPE_BUSY_TSS {
            f.write(
                vmcs::GUEST_TR_AR_BYTES,
                rights.0 & !0xf | u32::from(TYPE_BUSY_TSS),
            );
        }
    }
}

/// CR4 as the guest sees it.
pub(super) fn cr4(f: &Vmcs) -> u64 {
    let host_owned = f.read(vmcs::CR4_GUEST_HOST_MASK);
    f.read(vmcs::GUEST_CR4) & !host_owned | f.read(vmcs::CR4_READ_SHADOW) & host_owned
}

/// Sets CR4.
pub(super) fn set_cr4(f: &Vmcs, value: u64) {
    // Machine checks are the host's whatever the guest says.
    let machine_check = cpu::cr4() & CR4_MCE;
    f.write(vmcs::GUEST_CR4, value & !CR4_MCE | machine_check | CR4_VMXE);
    f.write(vmcs::CR4_READ_SHADOW, value);
}

/// The PDPTE registers.
pub(super) fn pdptes(f: &Vmcs) -> [u64; 4] {
    [
        f.read(vmcs::GUEST_PDPTE0),
        f.read(vmcs::GUEST_PDPTE1),
        f.read(vmcs::GUEST_PDPTE2),
        f.read(vmcs::GUEST_PDPTE3),
    ]
}

/// Sets them.
pub(super) fn set_pdptes(f: &Vmcs, value: &[u64; 4]) {
    f.write(vmcs::GUEST_PDPTE0, value[0]);
    f.write(vmcs::GUEST_PDPTE1, value[1]);
    f.write(vmcs::GUEST_PDPTE2, value[2]);
    f.write(vmcs::GUEST_PDPTE3, value[3]);
}

/// The current privilege level: that of SS, but 0 in real mode.
pub(super) fn cpl(f: &Vmcs) -> u8 {
    if cr0(f) & Cr0::PE.bits() == 0 {
        return 0;
    }
    AccessRights(f.read(vmcs::GUEST_SS_AR_BYTES)).dpl()
}

/// An MSR that is in the VMCS or switched with the thread.
pub(super) fn msr(f: &Vmcs, index: u32) -> Option<u64> {
    Some(match index {
        0x174 => f.read(vmcs::GUEST_IA32_SYSENTER_CS).into(),
        0x175 => f.read(vmcs::GUEST_IA32_SYSENTER_ESP),
        0x176 => f.read(vmcs::GUEST_IA32_SYSENTER_EIP),
        0x277 => f.read(vmcs::GUEST_IA32_PAT),
        0xc000_0100 => f.read(vmcs::GUEST_FS_BASE),
        0xc000_0101 => f.read(vmcs::GUEST_GS_BASE),
        0xc000_0102 => f.kernel_gs_base(),
        _ => f.switched_msr(switched(index)?),
    })
}

/// Has a guest whose HLTs do not exit go on after one: most events cannot be injected into a halted
/// processor (SDM vol. 3, 27.3.1.5).
pub(super) fn end_halt(f: &Vmcs) {
    const ACTIVE: u32 = 0;
    const HALTED: u32 = 1;
    if f.read(vmcs::GUEST_ACTIVITY_STATE) == HALTED {
        f.write(vmcs::GUEST_ACTIVITY_STATE, ACTIVE);
    }
}

/// Sets one. Returns false if it is none of those.
pub(super) fn set_msr(f: &Vmcs, index: u32, value: u64) -> bool {
    match index {
        0x174 => f.write(vmcs::GUEST_IA32_SYSENTER_CS, value as u32),
        0x175 => f.write(vmcs::GUEST_IA32_SYSENTER_ESP, value),
        0x176 => f.write(vmcs::GUEST_IA32_SYSENTER_EIP, value),
        0x277 => f.write(vmcs::GUEST_IA32_PAT, value),
        0xc000_0100 => f.write(vmcs::GUEST_FS_BASE, value),
        0xc000_0101 => f.write(vmcs::GUEST_GS_BASE, value),
        0xc000_0102 => f.set_kernel_gs_base(value),
        _ => {
            let Some(msr) = switched(index) else {
                return false;
            };
            f.set_switched_msr(msr, value);
        }
    }
    true
}

fn switched(index: u32) -> Option<SwitchedMsr> {
    Some(match index {
        0xc000_0081 => SwitchedMsr::Star,
        0xc000_0082 => SwitchedMsr::Lstar,
        0xc000_0083 => SwitchedMsr::Cstar,
        0xc000_0084 => SwitchedMsr::Fmask,
        0xc000_0103 => SwitchedMsr::TscAux,
        _ => return None,
    })
}

/// Writes the state that reset leaves (SDM vol. 3, table 10-1).
pub(super) fn write_reset(cx: &Loaded<'_, Vmx>) {
    let f = &cx.vcpu.resident;
    const RESET_CS: u16 = 0xf000;
    const RESET_CS_BASE: u64 = 0xffff_0000;
    const RESET_RIP: u64 = 0xfff0;

    for register in [
        SegmentRegister::Es,
        SegmentRegister::Ss,
        SegmentRegister::Ds,
        SegmentRegister::Fs,
        SegmentRegister::Gs,
    ] {
        set_segment(f, register, &table_segment(0, 0x93));
    }
    set_segment(
        f,
        SegmentRegister::Cs,
        &Segment {
            selector: Selector(RESET_CS),
            base: Gva(RESET_CS_BASE),
            limit: 0xffff,
            rights: AccessRights(0x9b),
        },
    );
    set_segment(f, SegmentRegister::Ldtr, &table_segment(0, 0x82));
    set_segment(f, SegmentRegister::Tr, &table_segment(0, 0x8b));
    let table = TableRegister {
        base: 0,
        limit: 0xffff,
    };
    set_gdtr(f, table);
    set_idtr(f, table);

    f.write(vmcs::GUEST_IA32_EFER, 0);
    set_cr0(cx, (Cr0::ET | Cr0::CD | Cr0::NW).bits());
    f.write(vmcs::GUEST_CR3, 0);
    set_cr4(f, 0);
    f.write(vmcs::GUEST_DR7, 0x400);
    f.write(vmcs::GUEST_RSP, 0);
    f.write(vmcs::GUEST_RIP, RESET_RIP);
    f.write(vmcs::GUEST_RFLAGS, RFLAGS_RESERVED);
    f.write(vmcs::GUEST_PENDING_DBG_EXCEPTIONS, 0);
    f.write(vmcs::GUEST_INTERRUPTIBILITY, 0);
    f.write(vmcs::GUEST_ACTIVITY_STATE, 0);
    f.write(vmcs::GUEST_IA32_DEBUGCTL, 0);
    f.write(vmcs::GUEST_IA32_PAT, pat_reset());
    f.write(vmcs::GUEST_IA32_SYSENTER_CS, 0);
    f.write(vmcs::GUEST_IA32_SYSENTER_ESP, 0);
    f.write(vmcs::GUEST_IA32_SYSENTER_EIP, 0);
    f.write(vmcs::VMCS_LINK_POINTER, u64::MAX);
}

fn table_segment(selector: u16, rights: u32) -> Segment {
    Segment {
        selector: Selector(selector),
        base: Gva(0),
        limit: 0xffff,
        rights: AccessRights(rights),
    }
}
