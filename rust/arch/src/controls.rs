// SPDX-License-Identifier: GPL-2.0

//! VMX control words (SDM vol. 3, 25.6 to 25.8) and what a processor allows of them (appendix A).

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls (SDM vol. 3, table 25-5).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PinBased: u32 {
        /// External interrupts exit.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// NMIs exit.
        const NMI_EXITING = 1 << 3;
        /// NMI blocking is tracked for the guest ("virtual NMIs").
        const VIRTUAL_NMIS = 1 << 5;
        /// The VMX-preemption timer counts in non-root operation.
        const PREEMPTION_TIMER = 1 << 6;
        /// Posted interrupts are processed without an exit.
        const POSTED_INTERRUPTS = 1 << 7;
        const _ = !0;
    }

    /// Primary processor-based VM-execution controls (SDM vol. 3, table 25-6).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CpuBased: u32 {
        /// Exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        /// RDTSC, RDTSCP and reads of IA32_TSC see TSC_OFFSET.
        const USE_TSC_OFFSETTING = 1 << 3;
        /// HLT exits.
        const HLT_EXITING = 1 << 7;
        /// INVLPG exits.
        const INVLPG_EXITING = 1 << 9;
        /// MWAIT exits.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC exits.
        const RDPMC_EXITING = 1 << 11;
        /// RDTSC and RDTSCP exit.
        const RDTSC_EXITING = 1 << 12;
        /// MOV to CR3 exits.
        const CR3_LOAD_EXITING = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE_EXITING = 1 << 16;
        /// MOV to CR8 exits.
        const CR8_LOAD_EXITING = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE_EXITING = 1 << 20;
        /// CR8 is served from the virtual-APIC page.
        const USE_TPR_SHADOW = 1 << 21;
        /// Exit as soon as the guest can take an NMI.
        const NMI_WINDOW_EXITING = 1 << 22;
        /// MOV DR exits.
        const MOV_DR_EXITING = 1 << 23;
        /// Every I/O instruction exits.
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        /// The I/O bitmaps say which ports exit.
        const USE_IO_BITMAPS = 1 << 25;
        /// A debug exception after every instruction becomes an exit.
        const MONITOR_TRAP_FLAG = 1 << 27;
        /// The MSR bitmaps say which MSRs exit.
        const USE_MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR_EXITING = 1 << 29;
        /// PAUSE exits.
        const PAUSE_EXITING = 1 << 30;
        /// The secondary controls are in force.
        const ACTIVATE_SECONDARY_CONTROLS = 1 << 31;
        const _ = !0;
    }

    /// Secondary processor-based VM-execution controls (SDM vol. 3, table 25-7).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Secondary: u32 {
        /// Accesses to the APIC-access page are virtualised.
        const VIRTUALIZE_APIC_ACCESSES = 1 << 0;
        /// Extended page tables are in force.
        const ENABLE_EPT = 1 << 1;
        /// Descriptor-table instructions exit.
        const DESCRIPTOR_TABLE_EXITING = 1 << 2;
        /// RDTSCP and RDPID work.
        const ENABLE_RDTSCP = 1 << 3;
        /// x2APIC MSRs are virtualised.
        const VIRTUALIZE_X2APIC_MODE = 1 << 4;
        /// Translations are tagged with a VPID.
        const ENABLE_VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD_EXITING = 1 << 6;
        /// The guest may run unpaged or in real mode.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// APIC registers are virtualised.
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        /// Virtual interrupts are delivered without an exit.
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        /// A loop of PAUSEs exits.
        const PAUSE_LOOP_EXITING = 1 << 10;
        /// RDRAND exits.
        const RDRAND_EXITING = 1 << 11;
        /// INVPCID works.
        const ENABLE_INVPCID = 1 << 12;
        /// VMFUNC works.
        const ENABLE_VM_FUNCTIONS = 1 << 13;
        /// VMREAD and VMWRITE of the guest go to a shadow VMCS.
        const VMCS_SHADOWING = 1 << 14;
        /// RDSEED exits.
        const RDSEED_EXITING = 1 << 16;
        /// Writes are logged by page.
        const ENABLE_PML = 1 << 17;
        /// EPT violations can become #VE.
        const EPT_VIOLATION_VE = 1 << 18;
        /// XSAVES and XRSTORS work.
        const ENABLE_XSAVES = 1 << 20;
        /// TSC_MULTIPLIER is in force.
        const USE_TSC_SCALING = 1 << 25;
        /// TPAUSE, UMONITOR and UMWAIT work.
        const ENABLE_USER_WAIT_AND_PAUSE = 1 << 26;
        const _ = !0;
    }

    /// Primary VM-exit controls (SDM vol. 3, table 25-14).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        /// The host runs in 64-bit mode after an exit.
        const HOST_ADDRESS_SPACE_SIZE = 1 << 9;
        /// The interrupt controller is asked for the vector of an interrupt that exits.
        const ACKNOWLEDGE_INTERRUPT_ON_EXIT = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_IA32_PAT = 1 << 18;
        /// IA32_PAT is loaded.
        const LOAD_IA32_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_IA32_EFER = 1 << 20;
        /// IA32_EFER is loaded.
        const LOAD_IA32_EFER = 1 << 21;
        const _ = !0;
    }

    /// VM-entry controls (SDM vol. 3, table 25-17).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        /// The guest is in IA-32e mode after the entry.
        const IA32E_MODE_GUEST = 1 << 9;
        /// The entry is to system-management mode.
        const ENTRY_TO_SMM = 1 << 10;
        /// IA32_PAT is loaded.
        const LOAD_IA32_PAT = 1 << 14;
        /// IA32_EFER is loaded.
        const LOAD_IA32_EFER = 1 << 15;
        const _ = !0;
    }
}

bitflags! {
    /// IA32_VMX_EPT_VPID_CAP, MSR 0x48c (SDM vol. 3, A.10).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct EptVpidCap: u64 {
        /// Execute-only translations.
        const EXECUTE_ONLY = 1 << 0;
        /// A page walk of four levels.
        const PAGE_WALK_4 = 1 << 6;
        /// A page walk of five levels.
        const PAGE_WALK_5 = 1 << 7;
        /// EPT structures in uncacheable memory.
        const MEMORY_TYPE_UC = 1 << 8;
        /// EPT structures in write-back memory.
        const MEMORY_TYPE_WB = 1 << 14;
        /// 2-MiB pages.
        const PAGE_2M = 1 << 16;
        /// 1-GiB pages.
        const PAGE_1G = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags.
        const ACCESSED_DIRTY = 1 << 21;
        /// INVEPT of one context.
        const INVEPT_SINGLE_CONTEXT = 1 << 25;
        /// INVEPT of all contexts.
        const INVEPT_ALL_CONTEXTS = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// INVVPID of one address.
        const INVVPID_INDIVIDUAL_ADDRESS = 1 << 40;
        /// INVVPID of one context.
        const INVVPID_SINGLE_CONTEXT = 1 << 41;
        /// INVVPID of all contexts.
        const INVVPID_ALL_CONTEXTS = 1 << 42;
        /// INVVPID of one context but for global translations.
        const INVVPID_SINGLE_CONTEXT_NON_GLOBAL = 1 << 43;
        const _ = !0;
    }
}

/// IA32_VMX_BASIC, MSR 0x480 (SDM vol. 3, A.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmxBasic(pub u64);

impl VmxBasic {
    /// What the first word of every VMCS and VMXON region must hold.
    pub const fn revision_id(self) -> u32 {
        self.0 as u32 & 0x7fff_ffff
    }

    /// Bytes in a VMCS or VMXON region, at most 4096.
    pub const fn region_size(self) -> u32 {
        (self.0 >> 32) as u32 & 0x1fff
    }

    /// Memory type of the regions: 6 is write-back.
    pub const fn memory_type(self) -> u8 {
        (self.0 >> 50) as u8 & 0xf
    }

    /// Whether the TRUE capability MSRs exist.
    pub const fn has_true_controls(self) -> bool {
        self.0 & (1 << 55) != 0
    }
}

/// What a processor allows of one control word (SDM vol. 3, A.2): a capability MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowed {
    /// Bits that must be 1.
    pub must_be_one: u32,
    /// Bits that may be 1.
    pub may_be_one: u32,
}

impl Allowed {
    /// Splits a capability MSR.
    pub const fn from_msr(value: u64) -> Self {
        Self {
            must_be_one: value as u32,
            may_be_one: (value >> 32) as u32,
        }
    }

    /// The word to use: what must be, and of `wanted` what may be.
    pub const fn settle(self, wanted: u32) -> u32 {
        (wanted | self.must_be_one) & self.may_be_one
    }

    /// Bits of `required` that the processor does not offer.
    pub const fn missing(self, required: u32) -> u32 {
        required & !self.may_be_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn basic_is_split_as_the_manual_says() {
        // As Bochs' Haswell answers.
        let basic = VmxBasic(0x00d8_1000_0000_002b);
        assert_eq!(basic.revision_id(), 0x2b);
        assert_eq!(basic.region_size(), 4096);
        assert_eq!(basic.memory_type(), 6);
        assert!(basic.has_true_controls());
    }

    proptest! {
        #[test]
        fn settled_words_are_always_allowed(one: u32, zero: u32, wanted: u32) {
            // A bit that must be 1 may be 1: the hardware's own rule.
            let allowed = Allowed { must_be_one: one, may_be_one: one | zero };
            let got = allowed.settle(wanted);
            prop_assert_eq!(got & allowed.must_be_one, allowed.must_be_one);
            prop_assert_eq!(got & !allowed.may_be_one, 0);
            prop_assert_eq!(got & wanted, wanted & !allowed.missing(wanted));
        }
    }
}
