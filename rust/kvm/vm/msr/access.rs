// SPDX-License-Identifier: GPL-2.0

//! Reading and setting an MSR, for a guest or for its VMM.

use arch::{
    machine_check::{
        MachineChecks,
        MCG_LMCE_P, //
    },
    memory_type::{
        is_mtrr,
        is_pat, //
    }, //
};
use kernel::prelude::*;

use super::{
    super::{
        backend::Backend,
        irq::IA32_TSC_DEADLINE,
        options::Switches,
        vcpu::Loaded,
        QUIRK_MISC_ENABLE_NO_MWAIT, //
    },
    index::{
        BBL_CR_CTL3,
        DRAM_ENERGY_STATUS,
        EBC_FREQUENCY_ID,
        EBL_CR_POWERON,
        FSB_FREQ,
        IA32_APIC_BASE,
        IA32_BIOS_SIGN_ID,
        IA32_BIOS_UPDT_TRIG,
        IA32_CSTAR,
        IA32_EFER,
        IA32_FEATURE_CONTROL,
        IA32_FS_BASE,
        IA32_GS_BASE,
        IA32_KERNEL_GS_BASE,
        IA32_LSTAR,
        IA32_MISC_ENABLE,
        IA32_MTRRCAP,
        IA32_PAT,
        IA32_PERF_STATUS,
        IA32_PLATFORM_ID,
        IA32_POWER_CTL,
        IA32_SYSENTER_EIP,
        IA32_SYSENTER_ESP,
        IA32_TSC,
        IA32_TSC_ADJUST,
        IA32_TSC_AUX,
        K7_HWCR,
        MISC_FEATURES_ENABLES,
        PKG_ENERGY_STATUS,
        PLATFORM_INFO,
        PP0_ENERGY_STATUS,
        PP1_ENERGY_STATUS,
        RAPL_POWER_UNIT,
        SMI_COUNT, //
    },
    rules::{
        is_canonical,
        is_ignored, //
    },
    state::{
        FEATURE_CONTROL_INERT,
        FEATURE_CONTROL_LMCE,
        FEATURE_CONTROL_LOCKED,
        HWCR_IGNORED,
        HWCR_WRITABLE,
        MISC_ENABLE_EMON,
        MISC_ENABLE_MONITOR,
        MISC_ENABLE_NO_PMU,
        MTRRCAP,
        PLATFORM_INFO_CPUID_FAULT, //
    },
    MsrAccess, //
};

impl<B: Backend> Loaded<'_, B> {
    /// The value of an MSR; `None` where this virtual processor has no such MSR.
    pub(crate) fn read_msr(&mut self, index: u32, by: MsrAccess) -> Option<u64> {
        self.read_known_msr(index, by)
            .or_else(|| is_ignored(index, None).then_some(0))
    }

    fn read_known_msr(&mut self, index: u32, by: MsrAccess) -> Option<u64> {
        if index == IA32_TSC_AUX && by == MsrAccess::Guest && !self.has_tsc_aux() {
            return None;
        }
        if let Some(value) = B::msr(self, index) {
            return Some(value);
        }
        if let Some(mtrr) = self.state.msrs.mtrr(index) {
            return Some(*mtrr);
        }
        let msrs = &self.state.msrs;
        Some(match index {
            IA32_TSC => self.read_tsc(),
            IA32_TSC_ADJUST => msrs.tsc_adjust,
            IA32_EFER => B::efer(self),
            IA32_APIC_BASE => self.apic_base(),
            // As with KVM, the deadline is there without an APIC that would heed it.
            IA32_TSC_DEADLINE if self.vcpu.apic.is_none() => 0,
            _ if Self::is_apic_msr(index) => return self.read_apic_msr(index),
            _ if MachineChecks::is_msr(index) => {
                let lmce = msrs.feature_control & FEATURE_CONTROL_LMCE != 0;
                let checks = &msrs.machine_checks;
                return checks.read(index, by == MsrAccess::Vmm, lmce).ok();
            }
            IA32_MISC_ENABLE => msrs.misc_enable,
            IA32_FEATURE_CONTROL => msrs.feature_control,
            IA32_BIOS_SIGN_ID => msrs.bios_sign_id,
            PLATFORM_INFO
                if by == MsrAccess::Guest && self.vm.options.has(Switches::HIDES_PLATFORM_INFO) =>
            {
                return None;
            }
            PLATFORM_INFO => msrs.platform_info,
            IA32_POWER_CTL => msrs.power_ctl,
            MISC_FEATURES_ENABLES => msrs.misc_features,
            SMI_COUNT => msrs.smi_count,
            K7_HWCR => msrs.hwcr,
            IA32_MTRRCAP => MTRRCAP,
            // TSC ticks to a tick of the bus, and that ratio once more.
            IA32_PERF_STATUS => 1000 | 4 << 40,
            FSB_FREQ => 3,
            // A ratio of 1 between the processor and its bus: guests divide by it.
            EBC_FREQUENCY_ID => 1 << 24,
            BBL_CR_CTL3 => 0xbe70_2111,
            IA32_PLATFORM_ID | EBL_CR_POWERON => 0,
            // What the host consumes is not for guests to see.
            RAPL_POWER_UNIT | PKG_ENERGY_STATUS | DRAM_ENERGY_STATUS | PP0_ENERGY_STATUS
            | PP1_ENERGY_STATUS => 0,
            _ => return self.read_pv_msr(index),
        })
    }

    /// Sets an MSR.
    ///
    /// # Errors
    ///
    /// EINVAL where there is no such MSR, or the value breaks its rules: #GP for a guest.
    pub(crate) fn write_msr(&mut self, index: u32, value: u64, by: MsrAccess) -> Result {
        self.write_known_msr(index, value, by).or_else(|error| {
            if is_ignored(index, Some(value)) {
                return Ok(());
            }
            Err(error)
        })
    }

    fn write_known_msr(&mut self, index: u32, value: u64, by: MsrAccess) -> Result {
        match index {
            IA32_LSTAR | IA32_CSTAR | IA32_KERNEL_GS_BASE | IA32_FS_BASE | IA32_GS_BASE
                if !is_canonical(value) =>
            {
                return Err(EINVAL);
            }
            IA32_SYSENTER_ESP | IA32_SYSENTER_EIP if !is_canonical(value) => {
                // KVM lets a VMM store what a processor would refuse, made canonical; so do we,
                // for either: it cannot be told from a guest's.
                let sign_extended = ((value << 16) as i64 >> 16) as u64;
                B::set_msr(self, index, sign_extended);
                return Ok(());
            }
            IA32_PAT if !is_pat(value) => return Err(EINVAL),
            IA32_TSC_AUX => {
                if value >> 32 != 0 {
                    return Err(EINVAL);
                }
                if by == MsrAccess::Guest && !self.has_tsc_aux() {
                    return Err(EINVAL);
                }
            }
            _ => {}
        }
        if B::set_msr(self, index, value) {
            return Ok(());
        }
        if let Some(mtrr) = self.state.msrs.mtrr(index) {
            let physical = self.state.cpuid.limits().maxphyaddr;
            if !is_mtrr(index, value, physical) {
                return Err(EINVAL);
            }
            *mtrr = value;
            return Ok(());
        }
        self.write_own_msr(index, value, by)
    }

    fn write_own_msr(&mut self, index: u32, value: u64, by: MsrAccess) -> Result {
        match index {
            IA32_TSC if by == MsrAccess::Guest => self.guest_writes_tsc(value),
            IA32_TSC => self.vmm_writes_tsc(value),
            IA32_TSC_ADJUST if by == MsrAccess::Guest => self.guest_writes_tsc_adjust(value),
            IA32_TSC_ADJUST => self.state.msrs.tsc_adjust = value,
            IA32_EFER => self.write_efer(value).map_err(|()| EINVAL)?,
            IA32_APIC_BASE => self.write_apic_base(value, by == MsrAccess::Vmm)?,
            IA32_TSC_DEADLINE if self.vcpu.apic.is_none() => {}
            _ if Self::is_apic_msr(index) => self.write_apic_msr(index, value)?,
            IA32_MISC_ENABLE => self.write_misc_enable(value, by)?,
            SMI_COUNT if by == MsrAccess::Vmm => self.state.msrs.smi_count = value,
            K7_HWCR => {
                let kept = value & !HWCR_IGNORED;
                if kept & !HWCR_WRITABLE != 0 {
                    return Err(EINVAL);
                }
                self.state.msrs.hwcr = kept;
            }
            IA32_FEATURE_CONTROL => {
                let locked = self.state.msrs.feature_control & FEATURE_CONTROL_LOCKED != 0;
                // Neither VMX nor SGX is offered.
                let mut valid = FEATURE_CONTROL_LOCKED;
                if self.state.msrs.machine_checks.cap() & MCG_LMCE_P != 0 || by == MsrAccess::Vmm {
                    valid |= FEATURE_CONTROL_LMCE;
                }
                if by == MsrAccess::Vmm {
                    valid |= FEATURE_CONTROL_INERT;
                }
                if value & !valid != 0 || (locked && by == MsrAccess::Guest) {
                    return Err(EINVAL);
                }
                self.state.msrs.feature_control = value;
            }
            IA32_BIOS_SIGN_ID if by == MsrAccess::Vmm => self.state.msrs.bios_sign_id = value,
            // What a guest writes there before it asks with CPUID has no effect.
            IA32_BIOS_SIGN_ID | IA32_BIOS_UPDT_TRIG => {}
            // Old guests set bits there that never had a meaning they could rely on.
            BBL_CR_CTL3 => {}
            PLATFORM_INFO if by == MsrAccess::Vmm => {
                let loses_fault = value & PLATFORM_INFO_CPUID_FAULT == 0;
                if loses_fault && self.state.msrs.misc_features != 0 {
                    return Err(EINVAL);
                }
                self.state.msrs.platform_info = value;
            }
            // CPUID faulting would need an exit to decide; none is set up, so it stays off.
            MISC_FEATURES_ENABLES if value == 0 => self.state.msrs.misc_features = 0,
            _ if MachineChecks::is_msr(index) => {
                let msrs = &mut self.state.msrs;
                let lmce = msrs.feature_control & FEATURE_CONTROL_LMCE != 0;
                let checks = &mut msrs.machine_checks;
                checks
                    .write(index, value, by == MsrAccess::Vmm, lmce)
                    .map_err(|_| EINVAL)?;
            }
            IA32_POWER_CTL => self.state.msrs.power_ctl = value,
            _ => return self.write_pv_msr(index, value, by),
        }
        Ok(())
    }

    /// IA32_MISC_ENABLE, which may decide whether CPUID shows MONITOR.
    ///
    /// # Errors
    ///
    /// EINVAL where a guest would change what it cannot, and without SSE3 for MONITOR, which came
    /// with it.
    fn write_misc_enable(&mut self, value: u64, by: MsrAccess) -> Result {
        const LEAF_1_ECX_SSE3: u32 = 1 << 0;
        let old = self.state.msrs.misc_enable;
        let mut value = value;
        if by == MsrAccess::Guest {
            if (value ^ old) & MISC_ENABLE_NO_PMU != 0 {
                return Err(EINVAL);
            }
            value = value & !MISC_ENABLE_EMON | old & MISC_ENABLE_EMON;
        }
        let decides = (value ^ old) & MISC_ENABLE_MONITOR != 0
            && !self.vm.has_quirk(QUIRK_MISC_ENABLE_NO_MWAIT);
        if decides && self.state.cpuid.words(1, 0)[2] & LEAF_1_ECX_SSE3 == 0 {
            return Err(EINVAL);
        }
        self.state.msrs.misc_enable = value;
        if decides {
            self.update_runtime_cpuid();
        }
        Ok(())
    }

    /// IA32_APIC_BASE where the APIC is the VMM's (SDM vol. 3, 11.4.4).
    ///
    /// # Errors
    ///
    /// EINVAL for reserved bits.
    pub(in crate::vm) fn write_own_apic_base(&mut self, value: u64) -> Result {
        const BSP: u64 = 1 << 8;
        const X2APIC: u64 = 1 << 10;
        const ENABLE: u64 = 1 << 11;
        let has_x2apic = self.state.cpuid.words(1, 0)[2] & 1 << 21 != 0;
        let address = (1u64 << self.state.cpuid.limits().maxphyaddr.min(52)) - 1 & !0xfff;
        let mut allowed = BSP | ENABLE | address;
        if has_x2apic {
            allowed |= X2APIC;
        }
        if value & !allowed != 0 || value & (X2APIC | ENABLE) == X2APIC {
            return Err(EINVAL);
        }
        self.state.msrs.apic_base = value;
        Ok(())
    }

    /// Whether the guest's CPUID offers RDTSCP or RDPID.
    pub(crate) fn has_tsc_aux(&self) -> bool {
        let cpuid = &self.state.cpuid;
        cpuid.words(0x8000_0001, 0)[3] & 1 << 27 != 0 || cpuid.words(7, 0)[2] & 1 << 22 != 0
    }
}
