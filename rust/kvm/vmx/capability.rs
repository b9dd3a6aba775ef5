// SPDX-License-Identifier: GPL-2.0

//! What this processor's VT-x can do (SDM vol. 3, appendix A), and what we use of it.

use arch::controls::{
    Allowed,
    CpuBased,
    EntryControls,
    EptVpidCap,
    ExitControls,
    PinBased,
    Secondary,
    VmxBasic, //
};
use core::fmt;

use kernel::prelude::*;

use super::timer;
use crate::{
    host::cpu,
    module_parameters, //
};

const IA32_FEATURE_CONTROL: u32 = 0x3a;
const IA32_VMX_BASIC: u32 = 0x480;
const IA32_VMX_MISC: u32 = 0x485;
const IA32_VMX_CR0_FIXED0: u32 = 0x486;
const IA32_VMX_CR0_FIXED1: u32 = 0x487;
const IA32_VMX_CR4_FIXED0: u32 = 0x488;
const IA32_VMX_CR4_FIXED1: u32 = 0x489;
const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;

const FEATURE_CONTROL_LOCKED: u64 = 1 << 0;
const FEATURE_CONTROL_VMX_OUTSIDE_SMX: u64 = 1 << 2;

/// One control word: what may be, what we want, what we got.
#[derive(Clone, Copy)]
pub(crate) struct Word {
    name: &'static str,
    allowed: Allowed,
    wanted: u32,
    /// The value to use.
    pub(crate) got: u32,
}

/// What the processor offers and what we made of it.
pub(crate) struct Capability {
    /// IA32_VMX_BASIC.
    pub(crate) basic: VmxBasic,
    /// IA32_VMX_MISC.
    pub(crate) misc: u64,
    /// IA32_VMX_EPT_VPID_CAP.
    pub(crate) ept_vpid: EptVpidCap,
    /// Bits of CR0 that VMX operation wants set; unrestricted guests are free of PE and PG.
    pub(crate) cr0_fixed: (u64, u64),
    /// Bits of CR4 that VMX operation wants set, and those it allows.
    pub(crate) cr4_fixed: (u64, u64),
    /// Pin-based controls.
    pub(crate) pin_based: Word,
    /// Primary processor-based controls.
    pub(crate) cpu_based: Word,
    /// Secondary processor-based controls.
    pub(crate) secondary: Word,
    /// VM-exit controls.
    pub(crate) exit: Word,
    /// VM-entry controls.
    pub(crate) entry: Word,
}

/// Controls we cannot do without, as (word's required bits, optional bits).
const PIN_REQUIRED: PinBased = PinBased::EXTERNAL_INTERRUPT_EXITING
    .union(PinBased::NMI_EXITING)
    .union(PinBased::VIRTUAL_NMIS);
const CPU_REQUIRED: CpuBased = CpuBased::HLT_EXITING
    .union(CpuBased::USE_TSC_OFFSETTING)
    .union(CpuBased::MOV_DR_EXITING)
    .union(CpuBased::CR8_LOAD_EXITING)
    .union(CpuBased::CR8_STORE_EXITING)
    .union(CpuBased::MWAIT_EXITING)
    .union(CpuBased::MONITOR_EXITING)
    .union(CpuBased::RDPMC_EXITING)
    .union(CpuBased::USE_IO_BITMAPS)
    .union(CpuBased::USE_MSR_BITMAPS)
    .union(CpuBased::ACTIVATE_SECONDARY_CONTROLS);
/// What must be 1 without the TRUE MSRs, and is not wanted: guests handle CR3 and INVLPG alone.
const CPU_UNWANTED: CpuBased = CpuBased::CR3_LOAD_EXITING
    .union(CpuBased::CR3_STORE_EXITING)
    .union(CpuBased::INVLPG_EXITING);
const SECONDARY_REQUIRED: Secondary = Secondary::ENABLE_EPT.union(Secondary::UNRESTRICTED_GUEST);
const SECONDARY_OPTIONAL: Secondary = Secondary::ENABLE_VPID
    .union(Secondary::ENABLE_RDTSCP)
    .union(Secondary::ENABLE_INVPCID)
    .union(Secondary::WBINVD_EXITING)
    .union(Secondary::PAUSE_LOOP_EXITING)
    .union(Secondary::VIRTUALIZE_X2APIC_MODE)
    .union(Secondary::APIC_REGISTER_VIRTUALIZATION)
    .union(Secondary::VIRTUAL_INTERRUPT_DELIVERY)
    .union(Secondary::ENABLE_PML)
    .union(Secondary::USE_TSC_SCALING);
const CPU_OPTIONAL: CpuBased = CpuBased::USE_TPR_SHADOW;
const PIN_OPTIONAL: PinBased = PinBased::POSTED_INTERRUPTS.union(PinBased::PREEMPTION_TIMER);
/// What a virtual APIC in the processor takes, all at once.
const APICV: Secondary = Secondary::VIRTUALIZE_X2APIC_MODE
    .union(Secondary::APIC_REGISTER_VIRTUALIZATION)
    .union(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
const EXIT_REQUIRED: ExitControls = ExitControls::HOST_ADDRESS_SPACE_SIZE
    .union(ExitControls::ACKNOWLEDGE_INTERRUPT_ON_EXIT)
    .union(ExitControls::SAVE_DEBUG_CONTROLS)
    .union(ExitControls::SAVE_IA32_PAT)
    .union(ExitControls::LOAD_IA32_PAT)
    .union(ExitControls::SAVE_IA32_EFER)
    .union(ExitControls::LOAD_IA32_EFER);
const ENTRY_REQUIRED: EntryControls = EntryControls::LOAD_DEBUG_CONTROLS
    .union(EntryControls::LOAD_IA32_PAT)
    .union(EntryControls::LOAD_IA32_EFER);

impl Capability {
    /// Checks that this processor has VT-x, that it is ours to use, and that it can do what we
    /// need.
    ///
    /// # Errors
    ///
    /// Each with its own message in the log: EOPNOTSUPP where there is no VT-x or a capability is
    /// missing, EPERM where the firmware locked it off, EBUSY where another hypervisor has it.
    pub(crate) fn read() -> Result<Self> {
        const CPUID_1_ECX_VMX: u32 = 1 << 5;
        if cpu::cpuid(1, 0)[2] & CPUID_1_ECX_VMX == 0 {
            pr_err!("this processor has no VT-x (CPUID.1:ECX.VMX is clear)\n");
            return Err(EOPNOTSUPP);
        }

        let feature_control = cpu::rdmsr(IA32_FEATURE_CONTROL).unwrap_or(0);
        if feature_control & FEATURE_CONTROL_LOCKED != 0
            && feature_control & FEATURE_CONTROL_VMX_OUTSIDE_SMX == 0
        {
            pr_err!(
                "VT-x is locked off by the firmware (IA32_FEATURE_CONTROL is {:#x}); \
                 turn it on in the firmware's set-up\n",
                feature_control
            );
            return Err(EPERM);
        }

        if cpu::cr4() & cpu::CR4_VMXE != 0 {
            pr_err!("another hypervisor uses VT-x (CR4.VMXE is set); unload it first\n");
            return Err(EBUSY);
        }

        let basic = VmxBasic(cpu::rdmsr(IA32_VMX_BASIC)?);
        if basic.memory_type() != 6 {
            return missing("VMCS regions in write-back memory");
        }

        // The TRUE MSRs are 0x48d to 0x490, in the order of the plain ones from 0x481.
        let first = if basic.has_true_controls() {
            0x48d
        } else {
            0x481
        };
        let allowed = |i: u32| -> Result<Allowed> { Ok(Allowed::from_msr(cpu::rdmsr(first + i)?)) };

        let pin_based = Word::settle(
            "pin_based",
            allowed(0)?,
            PIN_REQUIRED.bits(),
            PIN_OPTIONAL.bits(),
        );
        let cpu_based = Word::settle(
            "cpu_based",
            allowed(1)?,
            CPU_REQUIRED.bits(),
            CPU_OPTIONAL.bits(),
        );
        if cpu_based
            .allowed
            .missing(CpuBased::ACTIVATE_SECONDARY_CONTROLS.bits())
            != 0
        {
            return missing("secondary processor-based controls");
        }
        let secondary = Word::settle(
            "secondary",
            Allowed::from_msr(cpu::rdmsr(IA32_VMX_PROCBASED_CTLS2)?),
            SECONDARY_REQUIRED.bits(),
            SECONDARY_OPTIONAL.bits(),
        );
        let exit = Word::settle("exit", allowed(2)?, EXIT_REQUIRED.bits(), 0);
        let entry = Word::settle("entry", allowed(3)?, ENTRY_REQUIRED.bits(), 0);

        pin_based.require::<PinBased>(PIN_REQUIRED.bits())?;
        cpu_based.require::<CpuBased>(CPU_REQUIRED.bits())?;
        secondary.require::<Secondary>(SECONDARY_REQUIRED.bits())?;
        exit.require::<ExitControls>(EXIT_REQUIRED.bits())?;
        entry.require::<EntryControls>(ENTRY_REQUIRED.bits())?;
        if CpuBased::from_bits_retain(cpu_based.got).intersects(CPU_UNWANTED) {
            return missing("CR3 and INVLPG without exits");
        }

        let ept_vpid = EptVpidCap::from_bits_retain(cpu::rdmsr(IA32_VMX_EPT_VPID_CAP)?);
        for (bit, name) in [
            (EptVpidCap::PAGE_WALK_4, "EPT with a four-level walk"),
            (EptVpidCap::MEMORY_TYPE_WB, "EPT in write-back memory"),
            (EptVpidCap::INVEPT, "INVEPT"),
        ] {
            if !ept_vpid.contains(bit) {
                return missing(name);
            }
        }
        if !ept_vpid
            .intersects(EptVpidCap::INVEPT_SINGLE_CONTEXT.union(EptVpidCap::INVEPT_ALL_CONTEXTS))
        {
            return missing("INVEPT of a context");
        }

        let mut capability = Self {
            basic,
            misc: cpu::rdmsr(IA32_VMX_MISC)?,
            ept_vpid,
            cr0_fixed: (
                cpu::rdmsr(IA32_VMX_CR0_FIXED0)?,
                cpu::rdmsr(IA32_VMX_CR0_FIXED1)?,
            ),
            cr4_fixed: (
                cpu::rdmsr(IA32_VMX_CR4_FIXED0)?,
                cpu::rdmsr(IA32_VMX_CR4_FIXED1)?,
            ),
            pin_based,
            cpu_based,
            secondary,
            exit,
            entry,
        };
        // A tag that cannot be flushed is of no use.
        if !ept_vpid.contains(EptVpidCap::INVVPID.union(EptVpidCap::INVVPID_SINGLE_CONTEXT)) {
            capability.secondary.got &= !Secondary::ENABLE_VPID.bits();
        }
        if !module_parameters::pml.value() || !ept_vpid.contains(EptVpidCap::ACCESSED_DIRTY) {
            capability.secondary.drop(Secondary::ENABLE_PML.bits());
        }
        capability.settle_apic();
        if !module_parameters::preemption_timer.value() || !timer::is_reliable() {
            capability.pin_based.drop(PinBased::PREEMPTION_TIMER.bits());
        }
        Ok(capability)
    }

    /// What a virtual APIC needs belongs together, and parameters of the module turn it off.
    fn settle_apic(&mut self) {
        if !module_parameters::flexpriority.value() {
            self.cpu_based.drop(CpuBased::USE_TPR_SHADOW.bits());
        }
        if !self.has_tpr_shadow() {
            self.secondary.drop(APICV.bits());
        }
        let posted = PinBased::POSTED_INTERRUPTS.bits();
        let complete = self.secondary.got & APICV.bits() == APICV.bits()
            && self.pin_based.got & posted != 0
            && module_parameters::enable_apicv.value();
        if !complete {
            let kept = Secondary::VIRTUALIZE_X2APIC_MODE;
            self.secondary.drop(APICV.difference(kept).bits());
            self.pin_based.drop(posted);
        }
    }

    /// Whether the task priority of guests is the processor's to keep.
    pub(crate) fn has_tpr_shadow(&self) -> bool {
        self.cpu_based.got & CpuBased::USE_TPR_SHADOW.bits() != 0
    }

    /// Whether the processor delivers interrupts to guests by itself.
    pub(crate) fn has_apicv(&self) -> bool {
        self.has(Secondary::VIRTUAL_INTERRUPT_DELIVERY)
    }

    /// Whether the processor can end a guest's turn by its counter.
    #[inline]
    pub(crate) fn has_preemption_timer(&self) -> bool {
        self.pin_based.got & PinBased::PREEMPTION_TIMER.bits() != 0
    }

    /// The preemption timer counts when this bit of the time-stamp counter changes.
    #[inline]
    pub(crate) fn timer_rate(&self) -> u32 {
        (self.misc & 0x1f) as u32
    }

    /// Whether a secondary control is in use.
    pub(crate) fn has(&self, control: Secondary) -> bool {
        Secondary::from_bits_retain(self.secondary.got).contains(control)
    }

    /// The control words, in the order of the VMCS's groups.
    fn words(&self) -> [&Word; 5] {
        [
            &self.pin_based,
            &self.cpu_based,
            &self.secondary,
            &self.exit,
            &self.entry,
        ]
    }
}

fn missing<T>(what: &str) -> Result<T> {
    pr_err!("this processor's VT-x lacks {}, which is required\n", what);
    Err(EOPNOTSUPP)
}

impl Word {
    fn settle(name: &'static str, allowed: Allowed, required: u32, optional: u32) -> Self {
        let wanted = required | optional;
        Self {
            name,
            allowed,
            wanted,
            got: allowed.settle(wanted),
        }
    }

    /// Does without controls that are of no use.
    fn drop(&mut self, controls: u32) {
        self.wanted &= !controls;
        self.got &= !controls;
    }

    /// Names the first of `required` that the processor does not offer.
    fn require<F: bitflags::Flags<Bits = u32>>(&self, required: u32) -> Result {
        let lacking = self.allowed.missing(required);
        if lacking == 0 {
            return Ok(());
        }
        missing(flag_name::<F>(lacking & lacking.wrapping_neg()))
    }

    fn show<F: bitflags::Flags<Bits = u32>>(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bit in 0..32 {
            let mask = 1u32 << bit;
            let name = flag_name::<F>(mask);
            if name.is_empty() {
                continue;
            }
            let offer = match (
                self.allowed.must_be_one & mask != 0,
                self.allowed.may_be_one & mask != 0,
            ) {
                (true, _) => "must",
                (false, true) => "may",
                (false, false) => "no",
            };
            let wanted = if self.wanted & mask != 0 {
                "wanted"
            } else {
                "-"
            };
            let got = if self.got & mask != 0 { "on" } else { "off" };
            writeln!(
                f,
                "flag {:<10} {:>2} {:<4} {:<6} {:<3} {}",
                self.name, bit, offer, wanted, got, name
            )?;
        }
        Ok(())
    }
}

fn flag_name<F: bitflags::Flags<Bits = u32>>(mask: u32) -> &'static str {
    F::FLAGS
        .iter()
        .find(|flag| flag.value().bits() == mask)
        .map_or("", |flag| flag.name())
}

/// The text of `/sys/kernel/debug/kvm/vmx_capabilities`.
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "revision_id {:#x}", self.basic.revision_id())?;
        writeln!(f, "region_size {}", self.basic.region_size())?;
        writeln!(
            f,
            "true_controls {}",
            u8::from(self.basic.has_true_controls())
        )?;
        writeln!(f, "misc {:#x}", self.misc)?;
        writeln!(f, "ept_vpid_cap {:#x}", self.ept_vpid.bits())?;
        writeln!(
            f,
            "cr0_fixed {:#x} {:#x}",
            self.cr0_fixed.0, self.cr0_fixed.1
        )?;
        writeln!(
            f,
            "cr4_fixed {:#x} {:#x}",
            self.cr4_fixed.0, self.cr4_fixed.1
        )?;
        for word in self.words() {
            writeln!(
                f,
                "control {} must_be_one={:#010x} may_be_one={:#010x} wanted={:#010x} got={:#010x}",
                word.name, word.allowed.must_be_one, word.allowed.may_be_one, word.wanted, word.got
            )?;
        }
        self.pin_based.show::<PinBased>(f)?;
        self.cpu_based.show::<CpuBased>(f)?;
        self.secondary.show::<Secondary>(f)?;
        self.exit.show::<ExitControls>(f)?;
        self.entry.show::<EntryControls>(f)
    }
}
