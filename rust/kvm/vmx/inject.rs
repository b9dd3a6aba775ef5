// SPDX-License-Identifier: GPL-2.0

//! Event injection by the VM-entry interruption-information field (SDM vol. 3, 25.8.3 and 27.6).

use arch::{
    exit::{
        EventKind,
        InterruptionInfo, //
    },
    vmcs, //
};

use super::vmcs::Vmcs;
use crate::vm::Event;

const CR0_PE: u64 = 1 << 0;

/// Has the next entry inject `event`.
pub(super) fn write(f: &Vmcs, event: &Event, cr0: u64) {
    let info = match *event {
        Event::Exception { vector, error_code } => {
            // In real mode exceptions push no error code.
            let error_code = error_code.filter(|_| cr0 & CR0_PE != 0);
            if let Some(code) = error_code {
                // A VMM may have set more than there is in an error code; the entry would fail.
                f.write(vmcs::VM_ENTRY_EXCEPTION_ERROR_CODE, code & 0xffff);
            }
            // INT3 and INTO are software exceptions: the entry checks their descriptor's DPL only
            // for those, and a VMM that queues them means the exception itself.
            let kind = match vector {
                3 | 4 => {
                    f.write(vmcs::VM_ENTRY_INSTRUCTION_LEN, 1);
                    EventKind::SOFTWARE_EXCEPTION
                }
                _ => EventKind::HARDWARE_EXCEPTION,
            };
            InterruptionInfo::new(vector, kind, error_code.is_some())
        }
        Event::SoftwareException { vector, length } => {
            f.write(vmcs::VM_ENTRY_INSTRUCTION_LEN, length.into());
            let kind = if vector == 1 {
                EventKind::PRIVILEGED_SOFTWARE_EXCEPTION
            } else {
                EventKind::SOFTWARE_EXCEPTION
            };
            InterruptionInfo::new(vector, kind, false)
        }
        Event::Interrupt { vector } => {
            InterruptionInfo::new(vector, EventKind::EXTERNAL_INTERRUPT, false)
        }
        Event::SoftwareInterrupt { vector, length } => {
            f.write(vmcs::VM_ENTRY_INSTRUCTION_LEN, length.into());
            InterruptionInfo::new(vector, EventKind::SOFTWARE_INTERRUPT, false)
        }
        Event::Nmi => InterruptionInfo::new(2, EventKind::NMI, false),
    };
    f.write(vmcs::VM_ENTRY_INTR_INFO, info.0);
}
