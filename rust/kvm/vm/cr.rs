// SPDX-License-Identifier: GPL-2.0

//! Control registers that the guest does not own, XCR0 and EFER.

use arch::{
    control_regs::{
        Cr0,
        Cr4,
        Efer,
        Xcr0, //
    },
    exit::CrAccess,
    paging::pdpte_is_valid, //
};
use kernel::prelude::*;

use super::{
    backend::Backend,
    run::{
        Next,
        INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, //
    },
    vcpu::{
        Loaded,
        RAX,
        RCX,
        RDX, //
    },
};
use crate::host::{
    shared::UserExit,
    trace::trace, //
};

impl<B: Backend> Loaded<'_, B> {
    /// MOV to or from a control register, CLTS or LMSW.
    pub(crate) fn handle_cr_access(&mut self, access: CrAccess) -> Result<Next> {
        match access {
            CrAccess::MovTo { cr, gpr } => {
                let mut value = self.reg(gpr.into());
                if !self.is_64_bit_mode() {
                    value = u64::from(value as u32);
                }
                trace!(kvm_cr(true, cr.into(), value));
                match cr {
                    0 => Ok(self.finish_cr_write(|cx| cx.write_cr0(value))),
                    4 => Ok(self.finish_cr_write(|cx| cx.write_cr4(value))),
                    8 => Ok(self.write_cr8(value)),
                    _ => Ok(self
                        .internal_error(INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, &[u64::from(cr)])),
                }
            }
            CrAccess::MovFrom { cr: 8, gpr } => {
                let value = self.cr8();
                trace!(kvm_cr(false, 8, value));
                self.set_reg(gpr.into(), value);
                B::skip_instruction(self);
                Ok(Next::Guest)
            }
            CrAccess::MovFrom { cr, .. } => {
                Ok(self.internal_error(INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, &[u64::from(cr)]))
            }
            CrAccess::Clts => {
                let cr0 = B::cr0(self) & !Cr0::TS.bits();
                trace!(kvm_cr(true, 0, cr0));
                B::set_cr0(self, cr0);
                B::skip_instruction(self);
                Ok(Next::Guest)
            }
            CrAccess::Lmsw { source } => {
                // LMSW loads PE, MP, EM and TS, and cannot clear PE.
                const LOADED: u64 = 0xf;
                let old = B::cr0(self);
                let pe = old & Cr0::PE.bits();
                let value = old & !LOADED | u64::from(source) & LOADED | pe;
                trace!(kvm_cr(true, 0, value));
                Ok(self.finish_cr_write(|cx| cx.write_cr0(value)))
            }
        }
    }

    /// Goes on after a write that the rules allow, or raises #GP.
    fn finish_cr_write(&mut self, write: impl FnOnce(&mut Self) -> Result<(), ()>) -> Next {
        if write(self).is_ok() {
            B::skip_instruction(self);
        } else {
            self.queue_gp();
        }
        Next::Guest
    }

    fn write_cr0(&mut self, value: u64) -> Result<(), ()> {
        let control = self.control_state();
        let new = control.check_cr0_write(value).map_err(drop)?;
        if control.cr0_write_loads_pdptes(new) {
            self.load_pdptes(control.cr3)?;
        }
        B::set_cr0(self, new.bits());
        if (new ^ control.cr0).intersects(Cr0::PG | Cr0::WP) {
            B::flush_guest_tlb(self);
        }
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), ()> {
        let control = self.control_state();
        let new = control
            .check_cr4_write(value, self.state.cpuid.limits())
            .map_err(drop)?;
        if control.cr4_write_loads_pdptes(new) {
            self.load_pdptes(control.cr3)?;
        }
        B::set_cr4(self, new.bits());
        if (new ^ control.cr4).contains(Cr4::OSXSAVE) {
            self.update_runtime_cpuid();
        }
        B::flush_guest_tlb(self);
        Ok(())
    }

    /// Without an interrupt controller in the kernel the VMM has to know when the task priority
    /// falls (api.rst, KVM_EXIT_SET_TPR).
    fn write_cr8(&mut self, value: u64) -> Next {
        if value > 15 {
            self.queue_gp();
            return Next::Guest;
        }
        let old = self.cr8();
        self.set_cr8(value);
        B::skip_instruction(self);
        if value >= old || self.apic().is_some() {
            return Next::Guest;
        }
        self.leave(&UserExit::SetTpr)
    }

    /// Loads the PDPTE registers from memory, as MOV to CR3 does with PAE paging.
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> Result<(), ()> {
        const TABLE: u64 = 0xffff_ffe0;
        let mut bytes = [0; 32];
        let memory = self.vcpu.guest_memory();
        memory
            .read(arch::addr::Gpa(cr3 & TABLE), &mut bytes)
            .map_err(drop)?;
        drop(memory);
        let maxphyaddr = self.state.cpuid.limits().maxphyaddr;
        let mut pdptes = [0; 4];
        for (pdpte, chunk) in pdptes.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            *pdpte = u64::from_le_bytes(eight);
            if !pdpte_is_valid(*pdpte, maxphyaddr) {
                return Err(());
            }
        }
        B::set_pdptes(self, &pdptes);
        Ok(())
    }

    /// WRMSR to EFER.
    pub(crate) fn write_efer(&mut self, value: u64) -> Result<(), ()> {
        let control = self.control_state();
        let new = control
            .check_efer_write(value, self.state.cpuid.limits())
            .map_err(drop)?;
        B::set_efer(self, new.bits());
        if (new ^ control.efer).contains(Efer::NXE) {
            B::flush_guest_tlb(self);
        }
        Ok(())
    }

    /// XSETBV.
    pub(crate) fn emulate_xsetbv(&mut self) -> Result<Next> {
        let index = self.state.regs[RCX] as u32;
        let value = self.state.regs[RDX] << 32 | self.state.regs[RAX] & 0xffff_ffff;
        if B::cpl(self) != 0 || index != 0 || self.set_xcr0(value).is_err() {
            self.queue_gp();
        } else {
            B::skip_instruction(self);
        }
        Ok(Next::Guest)
    }

    /// Sets XCR0.
    ///
    /// # Errors
    ///
    /// EINVAL where the combination is not one the guest's CPUID offers.
    pub(crate) fn set_xcr0(&mut self, value: u64) -> Result {
        let supported = self.state.cpuid.limits().xcr0;
        Xcr0::check(value, supported).map_err(|_| EINVAL)?;
        self.state.xcr0 = value;
        self.update_runtime_cpuid();
        Ok(())
    }
}
