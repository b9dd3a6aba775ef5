// SPDX-License-Identifier: GPL-2.0

//! What /dev/kvm supports.

use kvm_bindings as kvm;
use kvm_ioctls::Kvm;
use serde::Serialize;
use vmm_sys_util::errno;

/// Entries asked for of KVM_GET_SUPPORTED_CPUID.
const CPUID_ENTRIES: usize = 256;

/// An extension and what KVM_CHECK_EXTENSION answers: 0 is no.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Extension {
    /// Its name, without KVM_CAP_.
    pub name: &'static str,
    /// Its number.
    pub number: u32,
    /// The answer.
    pub value: i32,
}

/// One leaf of the supported CPUID.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Leaf {
    /// EAX of the question.
    pub function: u32,
    /// ECX of the question.
    pub index: u32,
    /// The answer.
    pub eax: u32,
    /// The answer.
    pub ebx: u32,
    /// The answer.
    pub ecx: u32,
    /// The answer.
    pub edx: u32,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Support {
    /// KVM_GET_API_VERSION.
    pub api_version: i32,
    /// Bytes of the mapping of a vCPU.
    pub vcpu_mmap_size: usize,
    /// vCPUs a VM should have at most.
    pub recommended_vcpus: usize,
    /// vCPUs a VM can have at most.
    pub max_vcpus: usize,
    /// vCPU IDs are below this.
    pub max_vcpu_id: usize,
    /// Memory slots of a VM.
    pub memory_slots: usize,
    /// MSRs that a VMM should save and restore.
    pub msrs: usize,
    /// MSRs that describe what is supported.
    pub feature_msrs: usize,
    /// KVM_CHECK_EXTENSION, those that x86 can have.
    pub extensions: Vec<Extension>,
    /// KVM_GET_SUPPORTED_CPUID.
    pub cpuid: Vec<Leaf>,
}

macro_rules! extensions {
    ($($name:ident)*) => {
        &[$((stringify!($name), kvm::$name)),*]
    };
}

/// The extensions to ask for.
const EXTENSIONS: &[(&str, u32)] = extensions![
    KVM_CAP_IRQCHIP KVM_CAP_HLT KVM_CAP_MMU_SHADOW_CACHE_CONTROL KVM_CAP_USER_MEMORY
    KVM_CAP_SET_TSS_ADDR KVM_CAP_VAPIC KVM_CAP_EXT_CPUID KVM_CAP_CLOCKSOURCE KVM_CAP_NR_VCPUS
    KVM_CAP_NR_MEMSLOTS KVM_CAP_PIT KVM_CAP_NOP_IO_DELAY KVM_CAP_MP_STATE
    KVM_CAP_COALESCED_MMIO KVM_CAP_SYNC_MMU KVM_CAP_DESTROY_MEMORY_REGION_WORKS
    KVM_CAP_USER_NMI KVM_CAP_SET_GUEST_DEBUG KVM_CAP_REINJECT_CONTROL KVM_CAP_IRQ_ROUTING
    KVM_CAP_IRQ_INJECT_STATUS KVM_CAP_JOIN_MEMORY_REGIONS_WORKS KVM_CAP_MCE KVM_CAP_IRQFD
    KVM_CAP_PIT2 KVM_CAP_SET_BOOT_CPU_ID KVM_CAP_PIT_STATE2 KVM_CAP_IOEVENTFD
    KVM_CAP_SET_IDENTITY_MAP_ADDR KVM_CAP_XEN_HVM KVM_CAP_ADJUST_CLOCK
    KVM_CAP_INTERNAL_ERROR_DATA KVM_CAP_VCPU_EVENTS KVM_CAP_HYPERV KVM_CAP_HYPERV_VAPIC
    KVM_CAP_HYPERV_SPIN KVM_CAP_INTR_SHADOW KVM_CAP_DEBUGREGS KVM_CAP_X86_ROBUST_SINGLESTEP
    KVM_CAP_ENABLE_CAP KVM_CAP_XSAVE KVM_CAP_XCRS KVM_CAP_ASYNC_PF KVM_CAP_TSC_CONTROL
    KVM_CAP_GET_TSC_KHZ KVM_CAP_MAX_VCPUS KVM_CAP_ONE_REG KVM_CAP_TSC_DEADLINE_TIMER
    KVM_CAP_SYNC_REGS KVM_CAP_KVMCLOCK_CTRL KVM_CAP_SIGNAL_MSI KVM_CAP_READONLY_MEM
    KVM_CAP_IRQFD_RESAMPLE KVM_CAP_DEVICE_CTRL KVM_CAP_EXT_EMUL_CPUID KVM_CAP_HYPERV_TIME
    KVM_CAP_IOAPIC_POLARITY_IGNORED KVM_CAP_ENABLE_CAP_VM KVM_CAP_IOEVENTFD_NO_LENGTH
    KVM_CAP_VM_ATTRIBUTES KVM_CAP_CHECK_EXTENSION_VM KVM_CAP_DISABLE_QUIRKS KVM_CAP_X86_SMM
    KVM_CAP_MULTI_ADDRESS_SPACE KVM_CAP_GUEST_DEBUG_HW_BPS KVM_CAP_GUEST_DEBUG_HW_WPS
    KVM_CAP_SPLIT_IRQCHIP KVM_CAP_IOEVENTFD_ANY_LENGTH KVM_CAP_HYPERV_SYNIC
    KVM_CAP_VCPU_ATTRIBUTES KVM_CAP_MAX_VCPU_ID KVM_CAP_X2APIC_API KVM_CAP_IMMEDIATE_EXIT
    KVM_CAP_X86_DISABLE_EXITS KVM_CAP_HYPERV_SYNIC2 KVM_CAP_HYPERV_VP_INDEX
    KVM_CAP_GET_MSR_FEATURES KVM_CAP_HYPERV_EVENTFD KVM_CAP_HYPERV_TLBFLUSH
    KVM_CAP_NESTED_STATE KVM_CAP_MSR_PLATFORM_INFO KVM_CAP_HYPERV_SEND_IPI
    KVM_CAP_COALESCED_PIO KVM_CAP_HYPERV_ENLIGHTENED_VMCS KVM_CAP_EXCEPTION_PAYLOAD
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 KVM_CAP_HYPERV_CPUID KVM_CAP_PMU_EVENT_FILTER
    KVM_CAP_HYPERV_DIRECT_TLBFLUSH KVM_CAP_HALT_POLL KVM_CAP_ASYNC_PF_INT KVM_CAP_LAST_CPU
    KVM_CAP_SMALLER_MAXPHYADDR KVM_CAP_STEAL_TIME KVM_CAP_X86_USER_SPACE_MSR
    KVM_CAP_X86_MSR_FILTER KVM_CAP_ENFORCE_PV_FEATURE_CPUID KVM_CAP_SYS_HYPERV_CPUID
    KVM_CAP_DIRTY_LOG_RING KVM_CAP_X86_BUS_LOCK_EXIT KVM_CAP_SET_GUEST_DEBUG2
    KVM_CAP_SGX_ATTRIBUTE KVM_CAP_VM_COPY_ENC_CONTEXT_FROM KVM_CAP_HYPERV_ENFORCE_CPUID
    KVM_CAP_SREGS2 KVM_CAP_EXIT_HYPERCALL KVM_CAP_BINARY_STATS_FD
    KVM_CAP_EXIT_ON_EMULATION_FAILURE KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM KVM_CAP_VM_GPA_BITS
    KVM_CAP_XSAVE2 KVM_CAP_SYS_ATTRIBUTES KVM_CAP_PMU_CAPABILITY KVM_CAP_DISABLE_QUIRKS2
    KVM_CAP_VM_TSC_CONTROL KVM_CAP_SYSTEM_EVENT_DATA KVM_CAP_X86_TRIPLE_FAULT_EVENT
    KVM_CAP_X86_NOTIFY_VMEXIT KVM_CAP_VM_DISABLE_NX_HUGE_PAGES KVM_CAP_DIRTY_LOG_RING_ACQ_REL
    KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP KVM_CAP_PMU_EVENT_MASKED_EVENTS KVM_CAP_USER_MEMORY2
    KVM_CAP_MEMORY_FAULT_INFO KVM_CAP_MEMORY_ATTRIBUTES KVM_CAP_GUEST_MEMFD KVM_CAP_VM_TYPES
    KVM_CAP_PRE_FAULT_MEMORY KVM_CAP_X86_APIC_BUS_CYCLES_NS KVM_CAP_X86_GUEST_MODE
];

impl Support {
    /// Asks.
    ///
    /// # Errors
    ///
    /// The call that failed.
    pub fn of(kvm: &Kvm) -> Result<Self, (&'static str, errno::Error)> {
        let cpuid = kvm
            .get_supported_cpuid(CPUID_ENTRIES)
            .map_err(|error| ("KVM_GET_SUPPORTED_CPUID", error))?;
        let msrs = kvm
            .get_msr_index_list()
            .map_err(|error| ("KVM_GET_MSR_INDEX_LIST", error))?;
        let feature_msrs = kvm
            .get_msr_feature_index_list()
            .map_err(|error| ("KVM_GET_MSR_FEATURE_INDEX_LIST", error))?;
        Ok(Self {
            api_version: kvm.get_api_version(),
            vcpu_mmap_size: kvm
                .get_vcpu_mmap_size()
                .map_err(|error| ("KVM_GET_VCPU_MMAP_SIZE", error))?,
            recommended_vcpus: kvm.get_nr_vcpus(),
            max_vcpus: kvm.get_max_vcpus(),
            max_vcpu_id: kvm.get_max_vcpu_id(),
            memory_slots: kvm.get_nr_memslots(),
            msrs: msrs.as_slice().len(),
            feature_msrs: feature_msrs.as_slice().len(),
            extensions: EXTENSIONS
                .iter()
                .map(|(name, number)| Extension {
                    name: name.trim_start_matches("KVM_CAP_"),
                    number: *number,
                    value: kvm.check_extension_raw(u64::from(*number)),
                })
                .collect(),
            cpuid: cpuid
                .as_slice()
                .iter()
                .map(|entry| Leaf {
                    function: entry.function,
                    index: entry.index,
                    eax: entry.eax,
                    ebx: entry.ebx,
                    ecx: entry.ecx,
                    edx: entry.edx,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_extension_is_asked_for_twice() {
        let numbers: HashSet<_> = EXTENSIONS.iter().map(|(_, number)| number).collect();
        assert_eq!(numbers.len(), EXTENSIONS.len());
    }
}
