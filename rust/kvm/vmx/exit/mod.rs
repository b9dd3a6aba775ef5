// SPDX-License-Identifier: GPL-2.0

//! From an exit reason to what the rest of the module understands (SDM vol. 3, appendix C).
//!
//! Here is what an exit *is*; what is done about it is in `vm`: CPUID in `vm/cpuid.rs`, I/O in
//! `vm/io.rs`, and so on under the same names.

mod interrupt;
mod io;
mod memory;

use arch::{
    exit::{
        CrAccess,
        DrAccess,
        Reason, //
    },
    vmcs, //
};

use super::{
    timer,
    Vmx, //
};
use crate::{
    stats::vcpu as stat,
    vm::{
        backend::Exit,
        Loaded, //
    },
};

/// Says why the guest exited, after taking care of the event that the exit may have cut short.
#[inline(always)]
pub(super) fn decode(cx: &mut Loaded<'_, Vmx>, reason: Reason) -> Exit {
    interrupt::recover_vectoring(cx);
    let f = &cx.vcpu.resident;
    match reason {
        Reason::CPUID => Exit::Cpuid,
        Reason::RDMSR => Exit::MsrRead,
        Reason::WRMSR => Exit::MsrWrite,
        Reason::IO_INSTRUCTION => {
            cx.count(stat::IO_EXITS);
            io::decode(f)
        }
        Reason::EXTERNAL_INTERRUPT => interrupt::external(cx),
        Reason::EPT_VIOLATION => memory::violation(cx),
        Reason::PML_FULL => {
            memory::restore_nmi_blocking(cx);
            Exit::LogFull
        }
        Reason::HLT => Exit::Hlt,
        Reason::VMCALL => Exit::Hypercall,
        Reason::CR_ACCESS => Exit::Cr(CrAccess::decode(f.read(vmcs::EXIT_QUALIFICATION))),
        Reason::MOV_DR => Exit::Dr(DrAccess::decode(f.read(vmcs::EXIT_QUALIFICATION))),
        Reason::INTERRUPT_WINDOW => interrupt::window(cx),
        Reason::NMI_WINDOW => interrupt::nmi_window(cx),
        Reason::EXCEPTION_NMI => interrupt::exception(cx),
        Reason::TRIPLE_FAULT => Exit::TripleFault,
        Reason::XSETBV => Exit::Xsetbv,
        Reason::PAUSE => Exit::Pause,
        Reason::INVD | Reason::WBINVD => Exit::Ignored,
        Reason::MWAIT | Reason::MONITOR => Exit::Monitor,
        Reason::RDPMC => Exit::Rdpmc,
        // There may be an interrupt to inject now.
        Reason::TPR_BELOW_THRESHOLD => Exit::Handled,
        Reason::EOI_INDUCED => Exit::InterruptEnded {
            vector: f.read(vmcs::EXIT_QUALIFICATION) as u8,
        },
        Reason::APIC_WRITE => Exit::ApicWritten {
            offset: f.read(vmcs::EXIT_QUALIFICATION) as u32 & 0xff0,
        },
        Reason::PREEMPTION_TIMER => {
            if timer::has_expired(cx) {
                Exit::TimerExpired
            } else {
                Exit::Handled
            }
        }
        Reason::TASK_SWITCH => Exit::TaskSwitch,
        Reason::VMCLEAR
        | Reason::VMLAUNCH
        | Reason::VMPTRLD
        | Reason::VMPTRST
        | Reason::VMREAD
        | Reason::VMRESUME
        | Reason::VMWRITE
        | Reason::VMXOFF
        | Reason::VMXON
        | Reason::INVEPT
        | Reason::INVVPID
        | Reason::VMFUNC => Exit::InvalidOpcode,
        other => Exit::Unexpected {
            reason: other.0.into(),
        },
    }
}
