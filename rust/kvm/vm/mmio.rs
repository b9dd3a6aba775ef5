// SPDX-License-Identifier: GPL-2.0

//! Memory that is not there, or not for this access: mapped now, or emulated
//! (api.rst, KVM_EXIT_MMIO).

use arch::addr::{
    Gpa,
    Gva,
    PAGE_SIZE, //
};
use kernel::prelude::*;

use super::{
    backend::Backend,
    emulate::Known,
    memory::{
        Faulted,
        GuestAccess, //
    },
    run::{
        Next,
        INTERNAL_ERROR_DELIVERY_EV,
        INTERNAL_ERROR_EMULATION, //
    },
    vcpu::Loaded, //
};
use crate::{
    host::{
        shared::UserExit,
        trace::kvm_page_fault, //
    },
    stats::vcpu as stat, //
};

impl<B: Backend> Loaded<'_, B> {
    /// The guest touched memory that is not mapped, or not for this access.
    pub(crate) fn handle_memory(
        &mut self,
        gpa: Gpa,
        gva: Option<Gva>,
        is_write: bool,
        is_fetch: bool,
    ) -> Result<Next> {
        self.count(stat::PF_TAKEN);
        let memory = self.vcpu.guest_memory();
        if kvm_page_fault::is_on() {
            let info = B::exit_info(self);
            kvm_page_fault::emit(self.vcpu.id, B::rip(self), gpa.0, info.info1);
        }
        match self
            .fault(&memory, gpa, is_write)
            .inspect_err(|_| self.leave_for_memory_fault(gpa))?
        {
            Faulted::Mapped(_) => {
                self.count(stat::PF_FIXED);
                return Ok(Next::Guest);
            }
            Faulted::Raced => return Ok(Next::Guest),
            Faulted::NotMemory | Faulted::NeedsIo(_) => {}
        }

        // An event was being delivered through memory that is not there.
        if self.state.events.injected.is_some() {
            let words = B::describe_exit(self);
            return Ok(self.internal_error(INTERNAL_ERROR_DELIVERY_EV, &words));
        }
        let Some(gva) = gva else {
            // The processor walked the guest's page tables there.
            return Ok(self.internal_error(INTERNAL_ERROR_EMULATION, &[]));
        };
        if is_fetch {
            return Ok(self.emulation_failure());
        }
        self.count(stat::PF_EMULATE);
        self.emulate(&memory, Some(Known::new(gva, gpa, is_write)))
    }

    /// Maps memory, or has it fetched while the vCPU does something else.
    fn fault(&mut self, memory: &GuestAccess<'_>, gpa: Gpa, is_write: bool) -> Result<Faulted> {
        let vm = self.vm;
        if self.may_defer_fault() {
            let spare = &mut self.state.spare;
            match vm.memory.fault(memory, gpa, is_write, true, spare)? {
                Faulted::NeedsIo(hva) if self.defer_fault(gpa, hva) => {
                    return Ok(Faulted::Raced);
                }
                Faulted::NeedsIo(_) => {}
                faulted => return Ok(faulted),
            }
        }
        let spare = &mut self.state.spare;
        vm.memory.fault(memory, gpa, is_write, false, spare)
    }

    /// KVM_RUN fails with an errno; the VMM reads where in `kvm_run`.
    fn leave_for_memory_fault(&self, gpa: Gpa) {
        self.leave(&UserExit::MemoryFault {
            gpa: gpa.page_base().0,
            size: PAGE_SIZE,
        });
    }
}
