// SPDX-License-Identifier: GPL-2.0

//! The task priority as a VMM's firmware may keep it in guest memory, for guests that change it all
//! the time on processors without a TPR shadow: KVM_TPR_ACCESS_REPORTING tells the VMM which
//! instructions access it, and KVM_SET_VAPIC_ADDR where the patched ones find it.

use arch::addr::Gpa;

use super::Aftermath;
use crate::vm::{
    backend::Backend,
    vcpu::Loaded, //
};

/// Offset of the task priority in the register page.
const TPR: u32 = 0x80;

impl<B: Backend> Loaded<'_, B> {
    /// Takes note of an access to the register page, if the VMM wants to hear of it.
    #[inline]
    pub(super) fn note_tpr_access(&mut self, offset: u32, is_write: bool) {
        if self.state.reports_tpr && offset & !0xf == TPR {
            self.state.aftermath = Aftermath::TprAccess {
                rip: B::rip(self),
                is_write,
            };
        }
    }

    /// Before the guest runs: the task priority, the vector in service and the one that waits.
    pub(crate) fn sync_to_vapic(&mut self) {
        let (Some(gpa), Some(apic)) = (self.state.vapic, self.apic()) else {
            return;
        };
        if !apic.lapic.is_software_enabled() {
            return;
        }
        let in_service = u32::from(apic.lapic.highest_isr().unwrap_or(0) & 0xf0);
        let waiting = u32::from(apic.lapic.highest_irr().unwrap_or(0));
        let word = u32::from(apic.lapic.tpr()) | in_service << 8 | waiting << 24;
        // A guest that has no memory there any more harms itself alone.
        let _ = self
            .vcpu
            .guest_memory()
            .write(Gpa(gpa), &word.to_le_bytes());
    }

    /// After the guest ran: the task priority that it left there.
    pub(crate) fn sync_from_vapic(&mut self) {
        let (Some(gpa), Some(apic)) = (self.state.vapic, self.apic()) else {
            return;
        };
        let mut word = [0; 4];
        if self.vcpu.guest_memory().read(Gpa(gpa), &mut word).is_ok() {
            apic.lapic.set_tpr(word[0]);
        }
    }
}
