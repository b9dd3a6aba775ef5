// SPDX-License-Identifier: GPL-2.0

//! Which MSRs there are, and which values they take.

use arch::machine_check::MachineChecks;
use kernel::prelude::*;

use super::{
    super::irq::IA32_TSC_DEADLINE,
    index::{
        BBL_CR_CTL3,
        DRAM_ENERGY_STATUS,
        EBC_FREQUENCY_ID,
        EBL_CR_POWERON,
        FSB_FREQ,
        IA32_APIC_BASE,
        IA32_BIOS_UPDT_TRIG,
        IA32_EFER,
        IA32_FS_BASE,
        IA32_GS_BASE,
        IA32_MTRRCAP,
        IA32_MTRR_DEF_TYPE,
        IA32_MTRR_FIX16K,
        IA32_MTRR_FIX4K,
        IA32_MTRR_FIX64K,
        IA32_MTRR_LAST_VARIABLE,
        IA32_MTRR_PHYSBASE0,
        IA32_PERF_STATUS,
        IA32_PLATFORM_ID,
        PKG_ENERGY_STATUS,
        PP0_ENERGY_STATUS,
        PP1_ENERGY_STATUS,
        RAPL_POWER_UNIT,
        X2APIC_FIRST,
        X2APIC_LAST, //
    },
    SAVED_MSRS, //
};
use crate::host::parameters;

/// Whether an access that failed is to go well all the same, since there is no such MSR: a write of
/// `value`, or a read.
#[cold]
pub(super) fn is_ignored(index: u32, value: Option<u64>) -> bool {
    if is_known(index, value.is_some()) || !parameters::ignore_msrs() {
        return false;
    }
    if parameters::report_ignored_msrs() {
        match value {
            Some(value) => pr_info!("ignored wrmsr: {index:#x} data {value:#x}\n"),
            None => pr_info!("ignored rdmsr: {index:#x}\n"),
        }
    }
    true
}

/// Whether there is such an MSR, for some guests and some values.
pub(super) fn is_known(index: u32, is_write: bool) -> bool {
    let constant = matches!(
        index,
        IA32_MTRRCAP
            | RAPL_POWER_UNIT
            | PKG_ENERGY_STATUS
            | DRAM_ENERGY_STATUS
            | PP0_ENERGY_STATUS
            | PP1_ENERGY_STATUS
            | IA32_PERF_STATUS
            | FSB_FREQ
            | EBL_CR_POWERON
            | EBC_FREQUENCY_ID
            | IA32_PLATFORM_ID
    );
    SAVED_MSRS.contains(&index)
        || MachineChecks::is_msr(index)
        || matches!(
            index,
            IA32_APIC_BASE
                | IA32_EFER
                | IA32_FS_BASE
                | IA32_GS_BASE
                | IA32_BIOS_UPDT_TRIG
                | BBL_CR_CTL3
                | IA32_TSC_DEADLINE
                | X2APIC_FIRST..=X2APIC_LAST
                | IA32_MTRR_PHYSBASE0..=IA32_MTRR_LAST_VARIABLE
                | IA32_MTRR_FIX64K
                | IA32_MTRR_FIX16K..=0x259
                | IA32_MTRR_FIX4K..=0x26f
                | IA32_MTRR_DEF_TYPE
        )
        || (constant && !is_write)
}

/// Whether an address is canonical for four-level paging.
pub(super) fn is_canonical(value: u64) -> bool {
    ((value << 16) as i64 >> 16) as u64 == value
}
