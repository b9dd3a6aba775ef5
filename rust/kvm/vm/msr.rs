// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers: those the hardware keeps for the guest, and those kept here.

use arch::machine_check::{
    MachineChecks,
    IA32_MCG_CTL,
    IA32_MCG_EXT_CTL,
    IA32_MCG_STATUS,
    MCG_LMCE_P, //
};
use kernel::prelude::*;

use super::{
    backend::Backend,
    io::Pending,
    irq::IA32_TSC_DEADLINE,
    msr_filter,
    options::Switches,
    pv::msr as pv,
    run::Next,
    vcpu::{
        Loaded,
        RAX,
        RCX,
        RDX, //
    },
    QUIRK_MISC_ENABLE_NO_MWAIT, //
};
use crate::host::{
    bindings,
    cpu,
    parameters,
    shared::UserExit,
    trace::trace, //
};

const IA32_TSC: u32 = 0x10;
const IA32_PLATFORM_ID: u32 = 0x17;
const IA32_APIC_BASE: u32 = 0x1b;
const EBL_CR_POWERON: u32 = 0x2a;
const IA32_FEATURE_CONTROL: u32 = 0x3a;
const SMI_COUNT: u32 = 0x34;
const IA32_TSC_ADJUST: u32 = 0x3b;
const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
const IA32_BIOS_SIGN_ID: u32 = 0x8b;
const FSB_FREQ: u32 = 0xcd;
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_ICR: u32 = 0x830;
const X2APIC_LAST: u32 = 0x8ff;
const PLATFORM_INFO: u32 = 0xce;
const IA32_MTRRCAP: u32 = 0xfe;
const BBL_CR_CTL3: u32 = 0x11e;
const MISC_FEATURES_ENABLES: u32 = 0x140;
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_PERF_STATUS: u32 = 0x198;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_POWER_CTL: u32 = 0x1fc;
const IA32_MTRR_PHYSBASE0: u32 = 0x200;
const IA32_MTRR_LAST_VARIABLE: u32 = 0x20f;
const IA32_MTRR_FIX64K: u32 = 0x250;
const IA32_MTRR_FIX16K: u32 = 0x258;
const IA32_MTRR_FIX4K: u32 = 0x268;
const IA32_PAT: u32 = 0x277;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const RAPL_POWER_UNIT: u32 = 0x606;
const PKG_ENERGY_STATUS: u32 = 0x611;
const DRAM_ENERGY_STATUS: u32 = 0x619;
const PP0_ENERGY_STATUS: u32 = 0x639;
const PP1_ENERGY_STATUS: u32 = 0x641;
const IA32_EFER: u32 = 0xc000_0080;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_CSTAR: u32 = 0xc000_0083;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_FS_BASE: u32 = 0xc000_0100;
const IA32_GS_BASE: u32 = 0xc000_0101;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
const IA32_TSC_AUX: u32 = 0xc000_0103;
/// Of AMD's processors; kept here too, as by KVM.
const K7_HWCR: u32 = 0xc001_0015;

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

/// CPUID faulting can be offered.
const PLATFORM_INFO_CPUID_FAULT: u64 = 1 << 31;
const BIOS_SIGN_ID: u64 = 0x1_0000_0000;
const APIC_BASE_RESET: u64 = 0xfee0_0000 | 1 << 11;
const APIC_BASE_BSP: u64 = 1 << 8;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// 8 variable ranges, fixed ranges, write-combining.
const MTRRCAP: u64 = 0x508;
const MISC_ENABLE_MONITOR: u64 = 1 << 18;
/// The performance can be monitored. A guest's writes do not change it.
const MISC_ENABLE_EMON: u64 = 1 << 7;
/// BTS and PEBS are unavailable.
const MISC_ENABLE_NO_PMU: u64 = 1 << 11 | 1 << 12;
/// McStatusWrEn and TscFreqSel.
const HWCR_WRITABLE: u64 = 1 << 18 | 1 << 24;
/// Controls of caches and of floating-point errors, which there is nothing here to do about.
const HWCR_IGNORED: u64 = 1 << 3 | 1 << 6 | 1 << 8;
const FEATURE_CONTROL_LOCKED: u64 = 1 << 0;
/// What a VMM may set without any effect: VMX in SMX and outside, SGX and its launch control.
const FEATURE_CONTROL_INERT: u64 = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18;
/// Machine checks can be local to a processor.
const FEATURE_CONTROL_LMCE: u64 = 1 << 20;

/// MSRs that are plain memory here.
pub(crate) struct Msrs {
    pub(crate) apic_base: u64,
    pub(crate) tsc_adjust: u64,
    misc_enable: u64,
    feature_control: u64,
    bios_sign_id: u64,
    platform_info: u64,
    power_ctl: u64,
    misc_features: u64,
    smi_count: u64,
    hwcr: u64,
    pub(crate) machine_checks: KBox<MachineChecks>,
    mtrr_variable: [u64; 16],
    /// One of 64 KiB, two of 16 KiB, eight of 4 KiB.
    mtrr_fixed: [u64; 11],
    mtrr_def_type: u64,
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
    fn mtrr(&mut self, index: u32) -> Option<&mut u64> {
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

/// Who accesses an MSR.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum MsrAccess {
    /// RDMSR or WRMSR.
    Guest,
    /// KVM_GET_MSRS or KVM_SET_MSRS.
    Vmm,
}

impl<B: Backend> Loaded<'_, B> {
    /// RDMSR of what needs no more than a look: without leaving the inner loop.
    #[inline]
    pub(crate) fn read_msr_fast(&mut self) -> bool {
        if self.vm.msr_filter.is_set() {
            return false;
        }
        let msrs = &self.state.msrs;
        let value = match self.state.regs[RCX] as u32 {
            IA32_APIC_BASE => self.apic_base(),
            IA32_MISC_ENABLE => msrs.misc_enable,
            IA32_BIOS_SIGN_ID => msrs.bios_sign_id,
            IA32_TSC_ADJUST => msrs.tsc_adjust,
            IA32_FEATURE_CONTROL => msrs.feature_control,
            IA32_MTRRCAP => MTRRCAP,
            IA32_MTRR_DEF_TYPE => msrs.mtrr_def_type,
            IA32_MCG_STATUS => msrs.machine_checks.status(),
            _ => return false,
        };
        self.finish_rdmsr(value);
        true
    }

    #[inline]
    fn finish_rdmsr(&mut self, value: u64) {
        self.state.regs[RAX] = value & 0xffff_ffff;
        self.state.regs[RDX] = value >> 32;
        B::skip_instruction(self);
    }

    /// RDMSR.
    pub(crate) fn emulate_rdmsr(&mut self) -> Result<Next> {
        let index = self.state.regs[RCX] as u32;
        if !self.vm.msr_filter.allows(index, msr_filter::READ) {
            return Ok(self.refuse_msr(index, None, Refusal::Filtered));
        }
        match self.read_msr(index, MsrAccess::Guest) {
            Some(value) => {
                trace!(kvm_msr(false, index, value, false));
                self.finish_rdmsr(value);
                Ok(Next::Guest)
            }
            None => {
                trace!(kvm_msr(false, index, 0, true));
                Ok(self.refuse_msr(index, None, Refusal::Failed))
            }
        }
    }

    /// The index and the value of WRMSR.
    #[inline]
    fn wrmsr_operands(&self) -> (u32, u64) {
        let regs = &self.state.regs;
        (regs[RCX] as u32, regs[RDX] << 32 | regs[RAX] & 0xffff_ffff)
    }

    /// WRMSR.
    pub(crate) fn emulate_wrmsr(&mut self) -> Result<Next> {
        let (index, value) = self.wrmsr_operands();
        if !self.vm.msr_filter.allows(index, msr_filter::WRITE) {
            return Ok(self.refuse_msr(index, Some(value), Refusal::Filtered));
        }
        let written = self.write_msr(index, value, MsrAccess::Guest);
        trace!(kvm_msr(true, index, value, written.is_err()));
        if written.is_err() {
            return Ok(self.refuse_msr(index, Some(value), Refusal::Failed));
        }
        B::skip_instruction(self);
        Ok(Next::Guest)
    }

    /// RDMSR or WRMSR (of `value`) that is not served here: the VMM's, if it wants to hear of those
    /// (api.rst, 7.22 KVM_CAP_X86_USER_SPACE_MSR), or else #GP.
    #[cold]
    fn refuse_msr(&mut self, index: u32, value: Option<u64>, why: Refusal) -> Next {
        let reason = match why {
            Refusal::Filtered => bindings::KVM_MSR_EXIT_REASON_FILTER,
            Refusal::Failed if is_known(index, value.is_some()) => {
                bindings::KVM_MSR_EXIT_REASON_INVAL
            }
            Refusal::Failed => bindings::KVM_MSR_EXIT_REASON_UNKNOWN,
        };
        if self.vm.options.user_space_msr() & reason == 0 {
            self.queue_gp();
            return Next::Guest;
        }
        self.state.pending = match value {
            Some(_) => Pending::MsrWrite,
            None => Pending::MsrRead,
        };
        self.leave(&UserExit::Msr {
            is_write: value.is_some(),
            reason,
            index,
            data: value.unwrap_or(0),
        })
    }

    /// The VMM has answered RDMSR.
    pub(crate) fn complete_rdmsr(&mut self) -> Next {
        match self.vcpu.run.msr_answer() {
            Some(value) => self.finish_rdmsr(value),
            None => self.queue_gp(),
        }
        Next::Guest
    }

    /// The VMM has answered WRMSR.
    pub(crate) fn complete_wrmsr(&mut self) -> Next {
        match self.vcpu.run.msr_answer() {
            Some(_) => B::skip_instruction(self),
            None => self.queue_gp(),
        }
        Next::Guest
    }

    /// WRMSR without leaving the inner loop. Returns whether it was served.
    #[inline]
    pub(crate) fn write_msr_fast(&mut self) -> bool {
        let (index, value) = self.wrmsr_operands();
        if !self.write_apic_msr_fast(index, value) {
            return false;
        }
        B::skip_instruction(self);
        true
    }

    /// WRMSR that sends an interrupt to another processor or sets the timer, with interrupts off.
    /// Returns whether it was served.
    pub(crate) fn write_msr_locked(&mut self) -> bool {
        let (index, value) = self.wrmsr_operands();
        if !matches!(index, X2APIC_ICR | IA32_TSC_DEADLINE)
            || self.write_apic_msr(index, value).is_err()
        {
            return false;
        }
        B::skip_instruction(self);
        true
    }

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
            // A ratio of 10 between processor and bus, as real ones report somewhere.
            IA32_PERF_STATUS => 1000,
            FSB_FREQ => 3,
            // 133 MHz, ratio 1.
            EBL_CR_POWERON => 1 << 24,
            BBL_CR_CTL3 => 0xbe70_2111,
            IA32_PLATFORM_ID => 0,
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
            if !is_mtrr(index, value) {
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
    pub(super) fn write_own_apic_base(&mut self, value: u64) -> Result {
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

/// Why an access to an MSR is not served here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// The VMM does not want it served.
    Filtered,
    /// There is no such MSR, or not for this guest, or the value breaks its rules.
    Failed,
}

/// Whether an access that failed is to go well all the same, since there is no such MSR: a write of
/// `value`, or a read.
#[cold]
fn is_ignored(index: u32, value: Option<u64>) -> bool {
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
fn is_known(index: u32, is_write: bool) -> bool {
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
            | BBL_CR_CTL3
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
fn is_canonical(value: u64) -> bool {
    ((value << 16) as i64 >> 16) as u64 == value
}

/// Whether each byte of a PAT is a memory type: 2 and 3 are not, nor anything above 7.
fn is_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// Whether a value is one that an MTRR can have (SDM vol. 3, 12.11).
fn is_mtrr(index: u32, value: u64) -> bool {
    let is_type = |kind: u64| matches!(kind, 0 | 1 | 4..=6);
    match index {
        IA32_MTRR_DEF_TYPE => value & !0xcff == 0 && is_type(value & 0xff),
        0x250..=0x26f => value
            .to_le_bytes()
            .iter()
            .all(|kind| is_type((*kind).into())),
        // Even ones are bases with a type, odd ones masks with a valid bit.
        _ if index & 1 == 0 => is_type(value & 0xff) && value & 0xf00 == 0,
        _ => value & 0x7ff == 0,
    }
}

/// What IA32_PAT is after reset.
pub(crate) const fn pat_reset() -> u64 {
    PAT_RESET
}
