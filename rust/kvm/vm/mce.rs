// SPDX-License-Identifier: GPL-2.0

//! Machine checks that a VMM reports to a vCPU. What the registers do is `arch::machine_check`'s.

use arch::{
    apic::{
        Features,
        Lvt, //
    },
    exception::Exception,
    machine_check::{
        Outcome,
        Report,
        MCG_CMCI_P, //
    },
};
use kernel::prelude::*;

use super::{
    backend::Backend,
    vcpu::Loaded, //
};

impl<B: Backend> Loaded<'_, B> {
    /// Sets what IA32_MCG_CAP says (KVM_X86_SETUP_MCE); with MCG_CMCI_P the local APIC has the
    /// interrupt of corrected errors.
    ///
    /// # Errors
    ///
    /// EINVAL for what no vCPU can have.
    pub(crate) fn set_up_mce(&mut self, cap: u64) -> Result {
        let checks = &mut self.state.msrs.machine_checks;
        checks.set_up(cap).map_err(|_| EINVAL)?;
        if let Some(apic) = self.apic() {
            let mut features = apic.lapic.features();
            features.set(Features::CMCI, cap & MCG_CMCI_P != 0);
            apic.lapic.set_features(features);
        }
        Ok(())
    }

    /// Reports an error (KVM_X86_SET_MCE).
    ///
    /// # Errors
    ///
    /// EINVAL where there is no such bank, or the report is none.
    pub(crate) fn report_mce(&mut self, report: &Report) -> Result {
        const CR4_MCE: u64 = 1 << 6;
        let enabled = B::cr4(self) & CR4_MCE != 0;
        let checks = &mut self.state.msrs.machine_checks;
        match checks.report(report, enabled).map_err(|_| EINVAL)? {
            Outcome::Recorded => {}
            Outcome::Interrupt => self.deliver_lvt(Lvt::Cmci),
            Outcome::Exception => {
                let vector = Exception::MachineCheck.vector();
                self.state.events.queue_exception(vector, None, None);
            }
            Outcome::Shutdown => self.state.events.triple_fault = true,
        }
        Ok(())
    }
}
