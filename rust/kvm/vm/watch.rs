// SPDX-License-Identifier: GPL-2.0

//! The inner loop while somebody listens to its tracepoints.
//!
//! In guest mode nothing may be traced: RCU may not be watching this CPU. So while there are
//! listeners each exit leaves the loop and is served outside, where whoever serves it can tell of it.
//! A round of the outer loop looks for them once; when the first listener comes, every CPU is
//! interrupted once, which ends the rounds that found none.

use super::{
    backend::Backend,
    event::Event,
    vcpu::{
        Loaded,
        RAX,
        RCX, //
    },
};
use crate::host::{
    guest_mode::GuestMode,
    trace::{
        kvm_entry,
        kvm_exit,
        trace, //
    },
};

impl<B: Backend> Loaded<'_, B> {
    /// Tells what is injected, if anything is; for another time, where `again` says so.
    #[cold]
    pub(super) fn tell_of_injection(&self, again: bool, guest_mode: &GuestMode<'_>) {
        let Some(event) = self.state.events.injected else {
            return;
        };
        aside::<B>(guest_mode, || match event {
            Event::Interrupt { vector } => trace!(kvm_inj_virq(vector.into(), false, again)),
            Event::SoftwareInterrupt { vector, .. } => {
                trace!(kvm_inj_virq(vector.into(), true, again));
            }
            Event::Exception { vector, error_code } => {
                let code = error_code.unwrap_or(0);
                trace!(kvm_inj_exception(vector, error_code.is_some(), code, again));
            }
            Event::SoftwareException { vector, .. } => {
                trace!(kvm_inj_exception(vector, false, 0, again));
            }
            Event::Nmi => {}
        });
    }

    /// Tells of an entry that is about to be.
    #[cold]
    pub(super) fn tell_of_entry(&self, guest_mode: &GuestMode<'_>) {
        if kvm_entry::is_on() {
            let [info, code] = B::entry_info(self);
            aside::<B>(guest_mode, || {
                kvm_entry::emit(self.vcpu.id, B::rip(self), false, info, code);
            });
        }
    }

    /// Tells of an exit.
    #[cold]
    pub(super) fn tell_of_exit(&self, guest_mode: &GuestMode<'_>) {
        if kvm_exit::is_on() {
            let info = B::exit_info(self);
            aside::<B>(guest_mode, || {
                kvm_exit::emit(
                    self.vcpu.id,
                    B::rip(self),
                    B::ISA,
                    info.reason,
                    info.info1,
                    info.info2,
                    info.intr_info,
                    info.error_code,
                    self.vcpu.runner.requests().bits().into(),
                );
            });
        }
    }

    /// CPUID, told of.
    #[cold]
    pub(super) fn serve_cpuid(&mut self) {
        let (function, index) = (self.state.regs[RAX] as u32, self.state.regs[RCX] as u32);
        let answer = self.state.cpuid.answer(function, index);
        let (found, used_max_basic) = self.state.cpuid.provenance(function, index);
        let [eax, ebx, ecx, edx] = answer.map(u64::from);
        trace!(kvm_cpuid(
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            found,
            used_max_basic
        ));
        self.emulate_cpuid();
    }
}

/// Calls `f` out of guest mode. CR2 is the guest's, and a listener may look at memory that is not
/// there: it is put back.
fn aside<B: Backend>(guest_mode: &GuestMode<'_>, f: impl FnOnce()) {
    let cr2 = B::cr2(guest_mode);
    guest_mode.pause(f);
    B::load_cr2(guest_mode, cr2);
}
