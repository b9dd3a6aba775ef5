// SPDX-License-Identifier: GPL-2.0

//! I/O instructions (SDM vol. 3, tables 28-5 and 28-9).

use arch::{
    exit::IoQualification,
    ioport::StringInfo,
    operand::{
        Segment,
        Size, //
    },
    vmcs, //
};

use super::super::vmcs::Vmcs;
use crate::vm::backend::{
    Exit,
    IoExit,
    StringOperand, //
};

/// Reads an I/O exit.
#[inline(always)]
pub(super) fn decode(f: &Vmcs) -> Exit {
    let qualification = IoQualification(f.read(vmcs::EXIT_QUALIFICATION));
    let string = qualification.is_string().then(|| {
        let info = StringInfo(f.read(vmcs::VM_EXIT_INSTRUCTION_INFO));
        StringOperand {
            address_size: info.address_size().unwrap_or(Size::Qword),
            segment: info.segment().unwrap_or(Segment::Ds),
        }
    });
    Exit::Io(IoExit {
        port: qualification.port(),
        size: match qualification.size() {
            1 => Size::Byte,
            2 => Size::Word,
            _ => Size::Dword,
        },
        is_in: qualification.is_in(),
        is_rep: qualification.is_rep(),
        string,
    })
}
