// SPDX-License-Identifier: GPL-2.0

//! KVM_CHECK_EXTENSION (api.rst, 4.4).

use arch::machine_check::MAX_BANKS;

use super::{
    clock,
    irqchip,
    options,
    regs,
    sync_regs, //
};
use crate::{
    host::{
        bindings,
        cpu,
        sched, //
    },
    vm::{
        irq::MAX_ROUTES,
        LOG_OPTIONS,
        MAX_RING_SIZE,
        MAX_SLOTS,
        MAX_VCPUS,
        MAX_VCPU_ID,
        SUPPORTED_QUIRKS, //
    },
};

/// What the module says of an extension: 0 for no, and a positive number for yes. `xsave_size` is
/// the number of bytes that KVM_GET_XSAVE2 copies.
pub(super) fn check(extension: usize, xsave_size: usize) -> i32 {
    let Ok(extension) = u32::try_from(extension) else {
        return 0;
    };
    match extension {
        bindings::KVM_CAP_HLT
        | bindings::KVM_CAP_USER_MEMORY
        | bindings::KVM_CAP_USER_MEMORY2
        | bindings::KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | bindings::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | bindings::KVM_CAP_SYNC_MMU
        | bindings::KVM_CAP_READONLY_MEM
        | bindings::KVM_CAP_EXT_CPUID
        | bindings::KVM_CAP_SET_TSS_ADDR
        | bindings::KVM_CAP_SET_IDENTITY_MAP_ADDR
        | bindings::KVM_CAP_NOP_IO_DELAY
        | bindings::KVM_CAP_CLOCKSOURCE
        | bindings::KVM_CAP_ASYNC_PF
        | bindings::KVM_CAP_ASYNC_PF_INT
        | bindings::KVM_CAP_KVMCLOCK_CTRL
        | bindings::KVM_CAP_VCPU_ATTRIBUTES
        | bindings::KVM_CAP_ENFORCE_PV_FEATURE_CPUID
        | bindings::KVM_CAP_MP_STATE
        | bindings::KVM_CAP_USER_NMI
        | bindings::KVM_CAP_SET_GUEST_DEBUG
        | bindings::KVM_CAP_VCPU_EVENTS
        | bindings::KVM_CAP_X86_ROBUST_SINGLESTEP
        | bindings::KVM_CAP_DEBUGREGS
        | bindings::KVM_CAP_XSAVE
        | bindings::KVM_CAP_XCRS
        | bindings::KVM_CAP_GET_TSC_KHZ
        | bindings::KVM_CAP_IMMEDIATE_EXIT
        | bindings::KVM_CAP_BINARY_STATS_FD
        | bindings::KVM_CAP_GET_MSR_FEATURES
        | bindings::KVM_CAP_CHECK_EXTENSION_VM
        | bindings::KVM_CAP_MULTI_ADDRESS_SPACE
        | bindings::KVM_CAP_INTERNAL_ERROR_DATA
        | bindings::KVM_CAP_SREGS2
        | bindings::KVM_CAP_MEMORY_FAULT_INFO
        | bindings::KVM_CAP_IRQFD
        | bindings::KVM_CAP_IRQFD_RESAMPLE
        | bindings::KVM_CAP_IOEVENTFD
        | bindings::KVM_CAP_IOEVENTFD_NO_LENGTH
        | bindings::KVM_CAP_IOEVENTFD_ANY_LENGTH
        | bindings::KVM_CAP_COALESCED_PIO
        | bindings::KVM_CAP_IRQCHIP
        | bindings::KVM_CAP_IRQ_INJECT_STATUS
        | bindings::KVM_CAP_PIT
        | bindings::KVM_CAP_PIT2
        | bindings::KVM_CAP_PIT_STATE2
        | bindings::KVM_CAP_REINJECT_CONTROL
        | bindings::KVM_CAP_SIGNAL_MSI
        | bindings::KVM_CAP_IOAPIC_POLARITY_IGNORED
        | bindings::KVM_CAP_TSC_DEADLINE_TIMER
        | bindings::KVM_CAP_SET_BOOT_CPU_ID
        | bindings::KVM_CAP_SPLIT_IRQCHIP
        | bindings::KVM_CAP_VAPIC
        | bindings::KVM_CAP_ENABLE_CAP
        | bindings::KVM_CAP_X86_USER_SPACE_MSR
        | bindings::KVM_CAP_DISABLE_QUIRKS
        | bindings::KVM_CAP_HALT_POLL
        | bindings::KVM_CAP_VM_DISABLE_NX_HUGE_PAGES
        | bindings::KVM_CAP_EXT_EMUL_CPUID
        | bindings::KVM_CAP_SYS_ATTRIBUTES
        | bindings::KVM_CAP_DEVICE_CTRL
        | bindings::KVM_CAP_ONE_REG
        | bindings::KVM_CAP_X86_MSR_FILTER
        | bindings::KVM_CAP_MSR_PLATFORM_INFO
        | bindings::KVM_CAP_EXCEPTION_PAYLOAD
        | bindings::KVM_CAP_X86_TRIPLE_FAULT_EVENT
        | bindings::KVM_CAP_EXIT_ON_EMULATION_FAILURE
        | bindings::KVM_CAP_ENABLE_CAP_VM => 1,
        bindings::KVM_CAP_PRE_FAULT_MEMORY | bindings::KVM_CAP_MMU_SHADOW_CACHE_CONTROL => 1,
        bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => LOG_OPTIONS as i32,
        bindings::KVM_CAP_DIRTY_LOG_RING | bindings::KVM_CAP_DIRTY_LOG_RING_ACQ_REL => {
            MAX_RING_SIZE as i32
        }
        // As long as nobody sets another for a VM.
        bindings::KVM_CAP_X86_APIC_BUS_CYCLES_NS => 1,
        bindings::KVM_CAP_SYNC_REGS => sync_regs::FIELDS as i32,
        bindings::KVM_CAP_MCE => MAX_BANKS as i32,
        bindings::KVM_CAP_IRQ_ROUTING => MAX_ROUTES as i32,
        // Where a VM is not asked about one of its own.
        bindings::KVM_CAP_X2APIC_API => i32::from(irqchip::X2APIC_API),
        bindings::KVM_CAP_X86_DISABLE_EXITS => options::allowed_disabled_exits() as i32,
        bindings::KVM_CAP_EXIT_HYPERCALL => options::HYPERCALL_EXITS as i32,
        bindings::KVM_CAP_SET_GUEST_DEBUG2 => regs::GUEST_DEBUG_FLAGS as i32,
        // The default one.
        bindings::KVM_CAP_VM_TYPES => 1,
        bindings::KVM_CAP_DISABLE_QUIRKS2 => SUPPORTED_QUIRKS as i32,
        bindings::KVM_CAP_COALESCED_MMIO => bindings::KVM_COALESCED_MMIO_PAGE_OFFSET as i32,
        bindings::KVM_CAP_NR_VCPUS => MAX_VCPUS.min(online_cpus()) as i32,
        bindings::KVM_CAP_MAX_VCPUS => MAX_VCPUS as i32,
        bindings::KVM_CAP_MAX_VCPU_ID => MAX_VCPU_ID as i32,
        bindings::KVM_CAP_NR_MEMSLOTS => MAX_SLOTS as i32,
        bindings::KVM_CAP_ADJUST_CLOCK => clock::CLOCK_FLAGS as i32,
        bindings::KVM_CAP_STEAL_TIME => sched::counts_run_delay().into(),
        bindings::KVM_CAP_XSAVE2 => xsave_size as i32,
        _ => 0,
    }
}

fn online_cpus() -> usize {
    (0..kernel::cpu::nr_cpu_ids())
        .filter(|cpu| cpu::is_online(*cpu))
        .count()
}
