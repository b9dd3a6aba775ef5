// SPDX-License-Identifier: GPL-2.0

//! Which rule of SDM vol. 3, 27.3.1 a guest state breaks, since the processor does not say.

use arch::{
    addr::Gva,
    controls::EntryControls,
    exit::{
        EventKind,
        InterruptionInfo, //
    },
    guest_state::{
        GuestState,
        Injection,
        Rule,
        Segments,
        TableRegister, //
    },
    vmcs, //
};

use super::{
    guest_state,
    vmcs::Vmcs, //
};
use crate::{
    host::cpu,
    vm::backend::{
        self,
        SegmentRegister, //
    },
};

/// The first rule that the guest-state area breaks, if it breaks one.
pub(super) fn broken_rule(f: &Vmcs) -> Option<Rule> {
    let table = |register: backend::TableRegister| TableRegister {
        base: Gva(register.base),
        limit: register.limit,
    };
    let segment = |register| guest_state::segment(f, register);
    let entry = EntryControls::from_bits_retain(f.read(vmcs::VM_ENTRY_CONTROLS));
    let event = InterruptionInfo(f.read(vmcs::VM_ENTRY_INTR_INFO));
    let address_bits = cpu::cpuid(0x8000_0008, 0)[0];

    GuestState {
        cr0: f.read(vmcs::GUEST_CR0),
        cr3: f.read(vmcs::GUEST_CR3),
        cr4: f.read(vmcs::GUEST_CR4),
        efer: f.read(vmcs::GUEST_IA32_EFER),
        dr7: f.read(vmcs::GUEST_DR7),
        pat: Some(f.read(vmcs::GUEST_IA32_PAT)),
        rip: f.read(vmcs::GUEST_RIP),
        rflags: f.read(vmcs::GUEST_RFLAGS),
        sysenter_esp: f.read(vmcs::GUEST_IA32_SYSENTER_ESP),
        sysenter_eip: f.read(vmcs::GUEST_IA32_SYSENTER_EIP),
        segments: Segments {
            es: segment(SegmentRegister::Es),
            cs: segment(SegmentRegister::Cs),
            ss: segment(SegmentRegister::Ss),
            ds: segment(SegmentRegister::Ds),
            fs: segment(SegmentRegister::Fs),
            gs: segment(SegmentRegister::Gs),
            ldtr: segment(SegmentRegister::Ldtr),
            tr: segment(SegmentRegister::Tr),
        },
        gdtr: table(guest_state::gdtr(f)),
        idtr: table(guest_state::idtr(f)),
        activity: f.read(vmcs::GUEST_ACTIVITY_STATE),
        interruptibility: f.read(vmcs::GUEST_INTERRUPTIBILITY),
        pending_debug: f.read(vmcs::GUEST_PENDING_DBG_EXCEPTIONS),
        link_pointer: f.read(vmcs::VMCS_LINK_POINTER),
        pdptes: guest_state::pdptes(f),
        ia32e_mode: entry.contains(EntryControls::IA32E_MODE_GUEST),
        injection: match (event.is_valid(), event.kind()) {
            (false, _) => Injection::None,
            (true, EventKind::EXTERNAL_INTERRUPT) => Injection::ExternalInterrupt,
            (true, EventKind::NMI) => Injection::Nmi,
            (true, _) => Injection::Other,
        },
        maxphyaddr: address_bits as u8,
        linear_bits: (address_bits >> 8) & 0xff,
    }
    .check()
    .err()
}
