// SPDX-License-Identifier: GPL-2.0

//! EPT violations (SDM vol. 3, table 28-7).

use arch::{
    addr::Gpa,
    exit::{
        EptQualification,
        InterruptionInfo, //
    },
    vmcs, //
};

use super::super::{
    guest_state::BLOCKED_BY_NMI,
    Vmx, //
};
use crate::vm::{
    backend::Exit,
    Loaded, //
};

/// IRET had lifted the blocking of NMIs before its access to memory exited; it will run again.
pub(super) fn restore_nmi_blocking(cx: &Loaded<'_, Vmx>) {
    let f = &cx.vcpu.resident;
    let qualification = EptQualification(f.read(vmcs::EXIT_QUALIFICATION));
    let vectoring = InterruptionInfo(f.read(vmcs::IDT_VECTORING_INFO));
    if qualification.nmi_unblocking_by_iret() && !vectoring.is_valid() {
        let old = f.read(vmcs::GUEST_INTERRUPTIBILITY);
        f.write(vmcs::GUEST_INTERRUPTIBILITY, old | BLOCKED_BY_NMI);
    }
}

/// Reads an EPT violation.
pub(super) fn violation(cx: &Loaded<'_, Vmx>) -> Exit {
    restore_nmi_blocking(cx);
    let f = &cx.vcpu.resident;
    let qualification = EptQualification(f.read(vmcs::EXIT_QUALIFICATION));
    Exit::Memory {
        gpa: Gpa(f.read(vmcs::GUEST_PHYSICAL_ADDRESS)),
        gva: qualification.linear_address(f.read(vmcs::GUEST_LINEAR_ADDRESS)),
        is_write: qualification.is_write(),
        is_fetch: qualification.is_fetch(),
    }
}
