// SPDX-License-Identifier: GPL-2.0

//! The MSRs that are plain memory here.

use arch::machine_check::MachineChecks;
use kernel::prelude::*;

use super::index::{
    IA32_BIOS_SIGN_ID,
    IA32_MTRR_DEF_TYPE,
    IA32_MTRR_FIX16K,
    IA32_MTRR_FIX4K,
    IA32_MTRR_FIX64K,
    IA32_MTRR_LAST_VARIABLE,
    IA32_MTRR_PHYSBASE0,
    PLATFORM_INFO, //
};
use crate::host::cpu;

/// CPUID faulting can be offered.
pub(super) const PLATFORM_INFO_CPUID_FAULT: u64 = 1 << 31;
const BIOS_SIGN_ID: u64 = 0x1_0000_0000;
const APIC_BASE_RESET: u64 = 0xfee0_0000 | 1 << 11;
const APIC_BASE_BSP: u64 = 1 << 8;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// 8 variable ranges, fixed ranges, write-combining.
pub(super) const MTRRCAP: u64 = 0x508;
pub(super) const MISC_ENABLE_MONITOR: u64 = 1 << 18;
/// The performance can be monitored. A guest's writes do not change it.
pub(super) const MISC_ENABLE_EMON: u64 = 1 << 7;
/// BTS and PEBS are unavailable.
pub(super) const MISC_ENABLE_NO_PMU: u64 = 1 << 11 | 1 << 12;
/// McStatusWrEn and TscFreqSel.
pub(super) const HWCR_WRITABLE: u64 = 1 << 18 | 1 << 24;
/// Controls of caches and of floating-point errors, which there is nothing here to do about.
pub(super) const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
pub(super) const FEATURE_CONTROL_LOCKED: u64 = 1 << 0;
/// What a VMM may set without any effect: VMX in SMX and outside, SGX and its launch control.
pub(super) const FEATURE_CONTROL_INERT: u64 = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18;
/// Machine checks can be local to a processor.
pub(super) const FEATURE_CONTROL_LMCE: u64 = 1 << 20;

/// MSRs that are plain memory here.
pub(crate) struct Msrs {
    pub(crate) apic_base: u64,
    pub(crate) tsc_adjust: u64,
    pub(super) misc_enable: u64,
    pub(super) feature_control: u64,
    pub(super) bios_sign_id: u64,
    pub(super) platform_info: u64,
    pub(super) power_ctl: u64,
    pub(super) misc_features: u64,
    pub(super) smi_count: u64,
    pub(super) hwcr: u64,
    pub(crate) machine_checks: KBox<MachineChecks>,
    mtrr_variable: [u64; 16],
    /// One of 64 KiB, two of 16 KiB, eight of 4 KiB.
    mtrr_fixed: [u64; 11],
    pub(super) mtrr_def_type: u64,
}

impl Msrs {
    /// As after reset; `is_bsp` for the bootstrap processor.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new(is_bsp: bool) -> Result<Self> {
        Ok(Self {
            apic_base: APIC_BASE_RESET | if is_bsp { APIC_BASE_BSP } else { 0 },
            tsc_adjust: 0,
            misc_enable: MISC_ENABLE_NO_PMU,
            feature_control: 0,
            bios_sign_id: BIOS_SIGN_ID,
            platform_info: PLATFORM_INFO_CPUID_FAULT,
            power_ctl: 0,
            misc_features: 0,
            smi_count: 0,
            hwcr: 0,
            machine_checks: KBox::new(MachineChecks::new(), GFP_KERNEL_ACCOUNT)?,
            mtrr_variable: [0; 16],
            mtrr_fixed: [0; 11],
            mtrr_def_type: 0,
        })
    }

    /// Whether IA32_MISC_ENABLE lets MONITOR be.
    pub(crate) fn enables_monitor(&self) -> bool {
        self.misc_enable & MISC_ENABLE_MONITOR != 0
    }

    /// Takes back what describes the processor, for a VMM that sets it itself
    /// (KVM_X86_QUIRK_STUFF_FEATURE_MSRS).
    pub(crate) fn clear_features(&mut self) {
        self.platform_info = 0;
        self.bios_sign_id = 0;
    }

    /// The MTRR that `index` names.
    pub(super) fn mtrr(&mut self, index: u32) -> Option<&mut u64> {
        match index {
            IA32_MTRR_PHYSBASE0..=IA32_MTRR_LAST_VARIABLE => self
                .mtrr_variable
                .get_mut((index - IA32_MTRR_PHYSBASE0) as usize),
            IA32_MTRR_FIX64K => Some(&mut self.mtrr_fixed[0]),
            0x258..=0x259 => self
                .mtrr_fixed
                .get_mut((index - IA32_MTRR_FIX16K + 1) as usize),
            0x268..=0x26f => self
                .mtrr_fixed
                .get_mut((index - IA32_MTRR_FIX4K + 3) as usize),
            IA32_MTRR_DEF_TYPE => Some(&mut self.mtrr_def_type),
            _ => None,
        }
    }
}

/// The value of a feature MSR that every vCPU starts with.
///
/// # Errors
///
/// EINVAL where it is none.
pub(crate) fn read_feature_msr(index: u32) -> Result<u64> {
    match index {
        IA32_BIOS_SIGN_ID => Ok(cpu::rdmsr(IA32_BIOS_SIGN_ID).unwrap_or(BIOS_SIGN_ID)),
        PLATFORM_INFO => Ok(PLATFORM_INFO_CPUID_FAULT),
        _ => Err(EINVAL),
    }
}

/// What IA32_PAT is after reset.
pub(crate) const fn pat_reset() -> u64 {
    PAT_RESET
}
