// SPDX-License-Identifier: GPL-2.0

//! Segment and control registers, and address translation.

use arch::{
    addr::Gva,
    control_regs::{
        Cr0,
        Sregs, //
    },
    paging::{
        Access,
        AccessKind, //
    },
    segment::{
        AccessRights,
        Fields,
        Segment,
        Selector, //
    },
};
use kernel::prelude::*;

use super::copy;
use crate::{
    host::{
        abi_types::Plain,
        bindings::{
            self,
            kvm_dtable,
            kvm_segment,
            kvm_sregs,
            kvm_sregs2,
            kvm_translation, //
        },
    },
    vm::{
        backend::{
            SegmentRegister,
            TableRegister, //
        },
        Backend,
        Loaded, //
    },
};

fn to_segment(segment: &kvm_segment) -> Segment {
    Segment {
        selector: Selector(segment.selector),
        base: Gva(segment.base),
        limit: segment.limit,
        rights: AccessRights::from(Fields {
            type_: segment.type_,
            present: segment.present,
            dpl: segment.dpl,
            db: segment.db,
            s: segment.s,
            l: segment.l,
            g: segment.g,
            avl: segment.avl,
            // A segment that is not present is as good as none (kvm-intel does the same).
            unusable: u8::from(segment.unusable != 0 || segment.present == 0),
        }),
    }
}

fn from_segment(segment: &Segment) -> kvm_segment {
    let fields = Fields::from(segment.rights);
    kvm_segment {
        base: segment.base.0,
        limit: segment.limit,
        selector: segment.selector.0,
        type_: fields.type_,
        present: u8::from(fields.unusable == 0),
        dpl: fields.dpl,
        db: fields.db,
        s: fields.s,
        l: fields.l,
        g: fields.g,
        avl: fields.avl,
        unusable: fields.unusable,
        ..kvm_segment::default()
    }
}

fn from_table(table: TableRegister) -> kvm_dtable {
    kvm_dtable {
        base: table.base,
        limit: table.limit as u16,
        ..kvm_dtable::default()
    }
}

fn to_table(table: &kvm_dtable) -> TableRegister {
    TableRegister {
        base: table.base,
        limit: table.limit.into(),
    }
}

/// What KVM_GET_SREGS and KVM_GET_SREGS2 have in common.
fn common<B: Backend>(cx: &mut Loaded<'_, B>) -> kvm_sregs {
    cx.show_payload();
    let mut out = kvm_sregs::zeroed();
    out.cs = from_segment(&B::segment(cx, SegmentRegister::Cs));
    out.ds = from_segment(&B::segment(cx, SegmentRegister::Ds));
    out.es = from_segment(&B::segment(cx, SegmentRegister::Es));
    out.fs = from_segment(&B::segment(cx, SegmentRegister::Fs));
    out.gs = from_segment(&B::segment(cx, SegmentRegister::Gs));
    out.ss = from_segment(&B::segment(cx, SegmentRegister::Ss));
    out.tr = from_segment(&B::segment(cx, SegmentRegister::Tr));
    out.ldt = from_segment(&B::segment(cx, SegmentRegister::Ldtr));
    out.gdt = from_table(B::gdtr(cx));
    out.idt = from_table(B::idtr(cx));
    out.cr0 = B::cr0(cx);
    out.cr2 = cx.state.cr2;
    out.cr3 = B::cr3(cx);
    out.cr4 = B::cr4(cx);
    out.cr8 = cx.cr8();
    out.efer = B::efer(cx);
    out.apic_base = cx.apic_base();
    out
}

/// What KVM_GET_SREGS tells.
pub(super) fn collect<B: Backend>(cx: &mut Loaded<'_, B>) -> kvm_sregs {
    let mut out = common(cx);
    if let Some(vector) = cx.queued_interrupt() {
        out.interrupt_bitmap[usize::from(vector / 64)] |= 1 << (vector % 64);
    }
    out
}

/// KVM_GET_SREGS (api.rst, 4.13).
pub(super) fn get<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    copy::write(arg, &collect(cx))?;
    Ok(0)
}

/// KVM_GET_SREGS2 (api.rst, 4.132).
pub(super) fn get2<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let common = common(cx);
    let mut out = kvm_sregs2::zeroed();
    out.cs = common.cs;
    out.ds = common.ds;
    out.es = common.es;
    out.fs = common.fs;
    out.gs = common.gs;
    out.ss = common.ss;
    out.tr = common.tr;
    out.ldt = common.ldt;
    out.gdt = common.gdt;
    out.idt = common.idt;
    out.cr0 = common.cr0;
    out.cr2 = common.cr2;
    out.cr3 = common.cr3;
    out.cr4 = common.cr4;
    out.cr8 = common.cr8;
    out.efer = common.efer;
    out.apic_base = common.apic_base;
    if cx.control_state().is_pae_paging() {
        out.pdptrs = B::pdptes(cx);
        out.flags |= u64::from(bindings::KVM_SREGS2_FLAGS_PDPTRS_VALID);
    }
    copy::write(arg, &out)?;
    Ok(0)
}

/// Where PDPTE registers come from.
enum Pdptes {
    /// From memory, by the new CR3.
    Memory,
    /// From the VMM.
    Given([u64; 4]),
}

/// KVM_SET_SREGS (api.rst, 4.14).
pub(super) fn set<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let sregs: kvm_sregs = copy::read(arg)?;
    set_all(cx, &sregs)?;
    Ok(0)
}

/// Sets what KVM_SET_SREGS sets.
///
/// # Errors
///
/// EINVAL for what no processor has.
pub(super) fn set_all<B: Backend>(cx: &mut Loaded<'_, B>, sregs: &kvm_sregs) -> Result {
    apply(cx, sregs, Pdptes::Memory)?;

    // One interrupt can be on its way; the lowest one counts.
    let queued = sregs
        .interrupt_bitmap
        .iter()
        .enumerate()
        .find(|(_, word)| **word != 0)
        .map(|(i, word)| (i as u32 * 64 + word.trailing_zeros()) as u8);
    if let Some(vector) = queued {
        cx.state.events.queue_interrupt(vector);
    }
    Ok(())
}

/// KVM_SET_SREGS2 (api.rst, 4.133).
pub(super) fn set2<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let sregs: kvm_sregs2 = copy::read(arg)?;
    let valid = u64::from(bindings::KVM_SREGS2_FLAGS_PDPTRS_VALID);
    if sregs.flags & !valid != 0 {
        return Err(EINVAL);
    }
    let has_pdptes = sregs.flags & valid != 0;
    let pae = sregs.cr0 & 1 << 31 != 0 && sregs.cr4 & 1 << 5 != 0 && sregs.efer & 1 << 10 == 0;
    if has_pdptes && !pae {
        return Err(EINVAL);
    }

    let mut common = kvm_sregs::zeroed();
    common.cs = sregs.cs;
    common.ds = sregs.ds;
    common.es = sregs.es;
    common.fs = sregs.fs;
    common.gs = sregs.gs;
    common.ss = sregs.ss;
    common.tr = sregs.tr;
    common.ldt = sregs.ldt;
    common.gdt = sregs.gdt;
    common.idt = sregs.idt;
    common.cr0 = sregs.cr0;
    common.cr2 = sregs.cr2;
    common.cr3 = sregs.cr3;
    common.cr4 = sregs.cr4;
    common.cr8 = sregs.cr8;
    common.efer = sregs.efer;
    common.apic_base = sregs.apic_base;
    let pdptes = if has_pdptes {
        Pdptes::Given(sregs.pdptrs)
    } else {
        Pdptes::Memory
    };
    apply(cx, &common, pdptes)?;
    Ok(0)
}

fn apply<B: Backend>(cx: &mut Loaded<'_, B>, sregs: &kvm_sregs, pdptes: Pdptes) -> Result {
    Sregs {
        cr0: sregs.cr0,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
        cs_long: sregs.cs.l != 0,
    }
    .check(cx.state.cpuid.limits())
    .map_err(|_| EINVAL)?;
    if sregs.apic_base != cx.apic_base() {
        cx.write_apic_base(sregs.apic_base, true)?;
    }

    B::set_gdtr(cx, to_table(&sregs.gdt));
    B::set_idtr(cx, to_table(&sregs.idt));
    cx.state.cr2 = sregs.cr2;
    B::set_cr3(cx, sregs.cr3);
    // What cannot stand in CR8 is passed over, the other registers count all the same.
    if sregs.cr8 <= 15 {
        cx.set_cr8(sregs.cr8);
    }

    B::set_efer(cx, sregs.efer);
    B::set_cr4(cx, sregs.cr4);
    B::set_cr0(cx, sregs.cr0);
    // After the control registers: entering long mode makes TR fit, and what the VMM says counts.
    B::set_segment(cx, SegmentRegister::Tr, &to_segment(&sregs.tr));
    B::set_segment(cx, SegmentRegister::Ldtr, &to_segment(&sregs.ldt));
    B::set_segment(cx, SegmentRegister::Cs, &to_segment(&sregs.cs));
    B::set_segment(cx, SegmentRegister::Ds, &to_segment(&sregs.ds));
    B::set_segment(cx, SegmentRegister::Es, &to_segment(&sregs.es));
    B::set_segment(cx, SegmentRegister::Fs, &to_segment(&sregs.fs));
    B::set_segment(cx, SegmentRegister::Gs, &to_segment(&sregs.gs));
    B::set_segment(cx, SegmentRegister::Ss, &to_segment(&sregs.ss));
    cx.update_runtime_cpuid();
    // Where a VMM resets the boot processor by its registers alone, that ends a HLT, too.
    let at_reset = sregs.cs.selector == 0xf000
        && sregs.cs.base == 0xffff_0000
        && B::rip(cx) == 0xfff0
        && !cx.control_state().cr0.contains(Cr0::PE);
    if at_reset && cx.is_bsp() {
        cx.make_runnable();
    }
    if cx.control_state().is_pae_paging() {
        match pdptes {
            // What memory holds may be nonsense until the VMM has filled it: the guest then gets
            // what it would get from hardware.
            Pdptes::Memory => drop(cx.load_pdptes(sregs.cr3)),
            Pdptes::Given(values) => B::set_pdptes(cx, &values),
        }
    }
    B::flush_guest_tlb(cx);
    Ok(())
}

/// KVM_TRANSLATE (api.rst, 4.15).
pub(super) fn translate<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let mut translation: kvm_translation = copy::read(arg)?;
    let address = translation.linear_address;
    let found = if cx.control_state().cr0.contains(Cr0::PG) {
        let memory = cx.vcpu.guest_memory();
        let access = Access::implicit(AccessKind::Read);
        let found = cx.paging().translate(&mut &memory, Gva(address), access);
        found.ok().map(|t| t.gpa.0)
    } else {
        // All of it: no access comes with more than 32 bits then, but the VMM's question may.
        Some(address).filter(|&address| address != u64::MAX)
    };
    translation.physical_address = found.unwrap_or(u64::MAX);
    translation.valid = found.is_some().into();
    translation.writeable = 1;
    translation.usermode = 0;
    copy::write(arg, &translation)?;
    Ok(0)
}
