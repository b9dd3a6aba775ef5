// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers: those the hardware keeps for the guest, and those kept here.

mod access;
mod exit;
pub(crate) mod filter;
mod index;
mod rules;
mod state;

use arch::machine_check::{
    IA32_MCG_CTL,
    IA32_MCG_EXT_CTL,
    IA32_MCG_STATUS, //
};

use self::index::{
    IA32_BIOS_SIGN_ID,
    IA32_CSTAR,
    IA32_FEATURE_CONTROL,
    IA32_FMASK,
    IA32_KERNEL_GS_BASE,
    IA32_LSTAR,
    IA32_MISC_ENABLE,
    IA32_PAT,
    IA32_POWER_CTL,
    IA32_STAR,
    IA32_SYSENTER_CS,
    IA32_SYSENTER_EIP,
    IA32_SYSENTER_ESP,
    IA32_TSC,
    IA32_TSC_ADJUST,
    IA32_TSC_AUX,
    K7_HWCR,
    MISC_FEATURES_ENABLES,
    PLATFORM_INFO,
    SMI_COUNT, //
};
pub(crate) use self::state::{
    pat_reset,
    read_feature_msr,
    Msrs, //
};
use super::{
    irq::IA32_TSC_DEADLINE,
    pv::msr as pv, //
};

/// What a VMM has to save and restore (api.rst, 4.3 KVM_GET_MSR_INDEX_LIST).
pub(crate) const SAVED_MSRS: &[u32] = &[
    IA32_SYSENTER_CS,
    IA32_SYSENTER_ESP,
    IA32_SYSENTER_EIP,
    IA32_STAR,
    IA32_CSTAR,
    IA32_KERNEL_GS_BASE,
    IA32_FMASK,
    IA32_LSTAR,
    IA32_TSC,
    IA32_PAT,
    IA32_TSC_AUX,
    IA32_FEATURE_CONTROL,
    IA32_TSC_ADJUST,
    IA32_TSC_DEADLINE,
    IA32_MISC_ENABLE,
    IA32_MCG_STATUS,
    IA32_MCG_CTL,
    IA32_MCG_EXT_CTL,
    SMI_COUNT,
    K7_HWCR,
    PLATFORM_INFO,
    MISC_FEATURES_ENABLES,
    IA32_POWER_CTL,
    IA32_BIOS_SIGN_ID,
    pv::MSR_KVM_WALL_CLOCK,
    pv::MSR_KVM_SYSTEM_TIME,
    pv::MSR_KVM_WALL_CLOCK_NEW,
    pv::MSR_KVM_SYSTEM_TIME_NEW,
    pv::MSR_KVM_ASYNC_PF_EN,
    pv::MSR_KVM_ASYNC_PF_INT,
    pv::MSR_KVM_ASYNC_PF_ACK,
    pv::MSR_KVM_STEAL_TIME,
    pv::MSR_KVM_PV_EOI_EN,
    pv::MSR_KVM_POLL_CONTROL,
];

/// What describes the virtual processor (api.rst, KVM_GET_MSR_FEATURE_INDEX_LIST).
pub(crate) const FEATURE_MSRS: &[u32] = &[IA32_BIOS_SIGN_ID, PLATFORM_INFO];

/// Who accesses an MSR.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MsrAccess {
    /// RDMSR or WRMSR.
    Guest,
    /// KVM_GET_MSRS or KVM_SET_MSRS.
    Vmm,
}
