// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR, and what becomes of those that are not served here.

use arch::machine_check::IA32_MCG_STATUS;
use kernel::prelude::*;

use super::{
    super::{
        backend::Backend,
        io::Pending,
        irq::IA32_TSC_DEADLINE,
        run::Next,
        vcpu::{
            Loaded,
            RAX,
            RCX,
            RDX, //
        }, //
    },
    filter,
    index::{
        IA32_APIC_BASE,
        IA32_BIOS_SIGN_ID,
        IA32_FEATURE_CONTROL,
        IA32_MISC_ENABLE,
        IA32_MTRRCAP,
        IA32_MTRR_DEF_TYPE,
        IA32_TSC_ADJUST,
        X2APIC_ICR, //
    },
    rules::is_known,
    state::MTRRCAP,
    MsrAccess, //
};
use crate::host::{
    bindings,
    shared::UserExit,
    trace::trace, //
};

/// Why an access to an MSR is not served here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The VMM does not want it served.
    Filtered,
    /// There is no such MSR, or not for this guest, or the value breaks its rules.
    Failed,
}

impl<B: Backend> Loaded<'_, B> {
    /// RDMSR of what needs no more than a look: without leaving the inner loop.
    #[inline]
    pub(crate) fn read_msr_fast(&mut self) -> bool {
        if self.vm.msr_filter.is_set() {
            return false;
        }
        let msrs = &self.state.msrs;
        let value = match self.state.regs[RCX] as u32 {
            IA32_APIC_BASE => self.apic_base(),
            IA32_MISC_ENABLE => msrs.misc_enable,
            IA32_BIOS_SIGN_ID => msrs.bios_sign_id,
            IA32_TSC_ADJUST => msrs.tsc_adjust,
            IA32_FEATURE_CONTROL => msrs.feature_control,
            IA32_MTRRCAP => MTRRCAP,
            IA32_MTRR_DEF_TYPE => msrs.mtrr_def_type,
            IA32_MCG_STATUS => msrs.machine_checks.status(),
            _ => return false,
        };
        self.finish_rdmsr(value);
        true
    }

    #[inline]
    fn finish_rdmsr(&mut self, value: u64) {
        self.state.regs[RAX] = value & 0xffff_ffff;
        self.state.regs[RDX] = value >> 32;
        B::skip_instruction(self);
    }

    /// RDMSR.
    pub(crate) fn emulate_rdmsr(&mut self) -> Result<Next> {
        let index = self.state.regs[RCX] as u32;
        if !self.vm.msr_filter.allows(index, filter::READ) {
            return Ok(self.refuse_msr(index, None, Refusal::Filtered));
        }
        match self.read_msr(index, MsrAccess::Guest) {
            Some(value) => {
                trace!(kvm_msr(false, index, value, false));
                self.finish_rdmsr(value);
                Ok(Next::Guest)
            }
            None => {
                trace!(kvm_msr(false, index, 0, true));
                Ok(self.refuse_msr(index, None, Refusal::Failed))
            }
        }
    }

    /// The index and the value of WRMSR.
    #[inline]
    fn wrmsr_operands(&self) -> (u32, u64) {
        let regs = &self.state.regs;
        (regs[RCX] as u32, regs[RDX] << 32 | regs[RAX] & 0xffff_ffff)
    }

    /// WRMSR.
    pub(crate) fn emulate_wrmsr(&mut self) -> Result<Next> {
        let (index, value) = self.wrmsr_operands();
        if !self.vm.msr_filter.allows(index, filter::WRITE) {
            return Ok(self.refuse_msr(index, Some(value), Refusal::Filtered));
        }
        let written = self.write_msr(index, value, MsrAccess::Guest);
        trace!(kvm_msr(true, index, value, written.is_err()));
        if written.is_err() {
            return Ok(self.refuse_msr(index, Some(value), Refusal::Failed));
        }
        B::skip_instruction(self);
        Ok(Next::Guest)
    }

    /// RDMSR or WRMSR (of `value`) that is not served here: the VMM's, if it wants to hear of those
    /// (api.rst, 7.22 KVM_CAP_X86_USER_SPACE_MSR), or else #GP.
    #[cold]
    fn refuse_msr(&mut self, index: u32, value: Option<u64>, why: Refusal) -> Next {
        let reason = match why {
            Refusal::Filtered => bindings::KVM_MSR_EXIT_REASON_FILTER,
            Refusal::Failed if is_known(index, value.is_some()) => {
                bindings::KVM_MSR_EXIT_REASON_INVAL
            }
            Refusal::Failed => bindings::KVM_MSR_EXIT_REASON_UNKNOWN,
        };
        if self.vm.options.user_space_msr() & reason == 0 {
            self.queue_gp();
            return Next::Guest;
        }
        self.state.pending = match value {
            Some(_) => Pending::MsrWrite,
            None => Pending::MsrRead,
        };
        self.leave(&UserExit::Msr {
            is_write: value.is_some(),
            reason,
            index,
            data: value.unwrap_or(0),
        })
    }

    /// The VMM has answered RDMSR.
    pub(crate) fn complete_rdmsr(&mut self) -> Next {
        match self.vcpu.run.msr_answer() {
            Some(value) => self.finish_rdmsr(value),
            None => self.queue_gp(),
        }
        Next::Guest
    }

    /// The VMM has answered WRMSR.
    pub(crate) fn complete_wrmsr(&mut self) -> Next {
        match self.vcpu.run.msr_answer() {
            Some(_) => B::skip_instruction(self),
            None => self.queue_gp(),
        }
        Next::Guest
    }

    /// WRMSR without leaving the inner loop. Returns whether it was served.
    #[inline]
    pub(crate) fn write_msr_fast(&mut self) -> bool {
        let (index, value) = self.wrmsr_operands();
        if !self.write_apic_msr_fast(index, value) {
            return false;
        }
        B::skip_instruction(self);
        true
    }

    /// WRMSR that sends an interrupt to another processor or sets the timer, with interrupts off.
    /// Returns whether it was served.
    pub(crate) fn write_msr_locked(&mut self) -> bool {
        let (index, value) = self.wrmsr_operands();
        if !matches!(index, X2APIC_ICR | IA32_TSC_DEADLINE)
            || self.write_apic_msr(index, value).is_err()
        {
            return false;
        }
        B::skip_instruction(self);
        true
    }
}
