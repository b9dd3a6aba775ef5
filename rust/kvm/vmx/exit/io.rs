// SPDX-License-Identifier: GPL-2.0

//! I/O instructions (SDM vol. 3, tables 28-5 and 28-9).

use arch::{
    exit::{
        IoQualification,
        StringIoInfo, //
    },
    vmcs, //
};

use super::super::vmcs::Vmcs;
use crate::vm::backend::{
    Exit,
    IoExit,
    SegmentRegister,
    StringIo, //
};

/// Reads an I/O exit.
#[inline]
pub(super) fn decode(f: &Vmcs) -> Exit {
    let qualification = IoQualification(f.read(vmcs::EXIT_QUALIFICATION));
    let string = qualification.is_string().then(|| {
        let info = StringIoInfo(f.read(vmcs::VM_EXIT_INSTRUCTION_INFO));
        StringIo {
            address_bits: 16 << info.address_size().min(2),
            segment: match info.segment() {
                0 => SegmentRegister::Es,
                1 => SegmentRegister::Cs,
                2 => SegmentRegister::Ss,
                3 => SegmentRegister::Ds,
                4 => SegmentRegister::Fs,
                _ => SegmentRegister::Gs,
            },
        }
    });
    Exit::Io(IoExit {
        port: qualification.port(),
        size: qualification.size(),
        is_in: qualification.is_in(),
        is_rep: qualification.is_rep(),
        string,
    })
}
