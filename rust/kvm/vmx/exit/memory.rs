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

/// Reads an EPT violation.
pub(super) fn violation(cx: &Loaded<'_, Vmx>) -> Exit {
    let f = &cx.vcpu.resident;
    let qualification = EptQualification(f.read(vmcs::EXIT_QUALIFICATION));

    // IRET had lifted the blocking of NMIs before it faulted; it will run again.
    let vectoring = InterruptionInfo(f.read(vmcs::IDT_VECTORING_INFO));
    if qualification.nmi_unblocking_by_iret() && !vectoring.is_valid() {
        let old = f.read(vmcs::GUEST_INTERRUPTIBILITY);
        f.write(vmcs::GUEST_INTERRUPTIBILITY, old | BLOCKED_BY_NMI);
    }

    Exit::Memory {
        gpa: Gpa(f.read(vmcs::GUEST_PHYSICAL_ADDRESS)),
        gva: qualification.linear_address(f.read(vmcs::GUEST_LINEAR_ADDRESS)),
        is_write: qualification.is_write(),
        is_fetch: qualification.is_fetch(),
    }
}
