// SPDX-License-Identifier: GPL-2.0

//! Indices of MSRs (SDM vol. 4).

pub(super) const IA32_TSC: u32 = 0x10;
pub(super) const IA32_PLATFORM_ID: u32 = 0x17;
pub(super) const IA32_APIC_BASE: u32 = 0x1b;
pub(super) const EBL_CR_POWERON: u32 = 0x2a;
pub(super) const EBC_FREQUENCY_ID: u32 = 0x2c;
pub(super) const IA32_FEATURE_CONTROL: u32 = 0x3a;
pub(super) const SMI_COUNT: u32 = 0x34;
pub(super) const IA32_TSC_ADJUST: u32 = 0x3b;
pub(super) const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
pub(super) const IA32_BIOS_SIGN_ID: u32 = 0x8b;
pub(super) const FSB_FREQ: u32 = 0xcd;
pub(super) const X2APIC_FIRST: u32 = 0x800;
pub(super) const X2APIC_ICR: u32 = 0x830;
pub(super) const X2APIC_LAST: u32 = 0x8ff;
pub(super) const PLATFORM_INFO: u32 = 0xce;
pub(super) const IA32_MTRRCAP: u32 = 0xfe;
pub(super) const BBL_CR_CTL3: u32 = 0x11e;
pub(super) const MISC_FEATURES_ENABLES: u32 = 0x140;
pub(super) const IA32_SYSENTER_CS: u32 = 0x174;
pub(super) const IA32_SYSENTER_ESP: u32 = 0x175;
pub(super) const IA32_SYSENTER_EIP: u32 = 0x176;
pub(super) const IA32_PERF_STATUS: u32 = 0x198;
pub(super) const IA32_MISC_ENABLE: u32 = 0x1a0;
pub(super) const IA32_POWER_CTL: u32 = 0x1fc;
pub(super) const IA32_MTRR_PHYSBASE0: u32 = 0x200;
pub(super) const IA32_MTRR_LAST_VARIABLE: u32 = 0x20f;
pub(super) const IA32_MTRR_FIX64K: u32 = 0x250;
pub(super) const IA32_MTRR_FIX16K: u32 = 0x258;
pub(super) const IA32_MTRR_FIX4K: u32 = 0x268;
pub(super) const IA32_PAT: u32 = 0x277;
pub(super) const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
pub(super) const RAPL_POWER_UNIT: u32 = 0x606;
pub(super) const PKG_ENERGY_STATUS: u32 = 0x611;
pub(super) const DRAM_ENERGY_STATUS: u32 = 0x619;
pub(super) const PP0_ENERGY_STATUS: u32 = 0x639;
pub(super) const PP1_ENERGY_STATUS: u32 = 0x641;
pub(super) const IA32_EFER: u32 = 0xc000_0080;
pub(super) const IA32_STAR: u32 = 0xc000_0081;
pub(super) const IA32_LSTAR: u32 = 0xc000_0082;
pub(super) const IA32_CSTAR: u32 = 0xc000_0083;
pub(super) const IA32_FMASK: u32 = 0xc000_0084;
pub(super) const IA32_FS_BASE: u32 = 0xc000_0100;
pub(super) const IA32_GS_BASE: u32 = 0xc000_0101;
pub(super) const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
pub(super) const IA32_TSC_AUX: u32 = 0xc000_0103;
/// Of AMD's processors; kept here too, as by KVM.
pub(super) const K7_HWCR: u32 = 0xc001_0015;
