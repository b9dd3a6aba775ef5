// SPDX-License-Identifier: GPL-2.0

//! Numbers of the ioctls (`include/uapi/linux/kvm.h`). bindgen does not evaluate `_IO*`.

use kernel::ioctl::{
    _IO,
    _IOR,
    _IOW,
    _IOWR, //
};

use crate::host::bindings::{
    kvm_clear_dirty_log,
    kvm_clock_data,
    kvm_coalesced_mmio_zone,
    kvm_cpuid,
    kvm_cpuid2,
    kvm_create_device,
    kvm_debugregs,
    kvm_device_attr,
    kvm_dirty_log,
    kvm_enable_cap,
    kvm_fpu,
    kvm_guest_debug,
    kvm_interrupt,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irq_routing,
    kvm_irqchip,
    kvm_irqfd,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_msi,
    kvm_msr_filter,
    kvm_msr_list,
    kvm_msrs,
    kvm_one_reg,
    kvm_pit_config,
    kvm_pit_state,
    kvm_pit_state2,
    kvm_pre_fault_memory,
    kvm_reg_list,
    kvm_regs,
    kvm_signal_mask,
    kvm_sregs,
    kvm_sregs2,
    kvm_tpr_access_ctl,
    kvm_translation,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
    kvm_vapic_addr,
    kvm_vcpu_events,
    kvm_x86_mce,
    kvm_xcrs,
    kvm_xsave, //
};

/// `KVMIO`: the type in all these numbers.
pub(super) const KVMIO: u32 = 0xae;

pub(super) const KVM_GET_API_VERSION: u32 = _IO(KVMIO, 0x00);
pub(super) const KVM_CREATE_VM: u32 = _IO(KVMIO, 0x01);
pub(super) const KVM_GET_MSR_INDEX_LIST: u32 = _IOWR::<kvm_msr_list>(KVMIO, 0x02);
pub(super) const KVM_CHECK_EXTENSION: u32 = _IO(KVMIO, 0x03);
pub(super) const KVM_GET_VCPU_MMAP_SIZE: u32 = _IO(KVMIO, 0x04);
pub(super) const KVM_GET_SUPPORTED_CPUID: u32 = _IOWR::<kvm_cpuid2>(KVMIO, 0x05);
pub(super) const KVM_GET_MSR_FEATURE_INDEX_LIST: u32 = _IOWR::<kvm_msr_list>(KVMIO, 0x0a);

pub(super) const KVM_CREATE_VCPU: u32 = _IO(KVMIO, 0x41);
pub(super) const KVM_GET_DIRTY_LOG: u32 = _IOW::<kvm_dirty_log>(KVMIO, 0x42);
pub(super) const KVM_SET_NR_MMU_PAGES: u32 = _IO(KVMIO, 0x44);
pub(super) const KVM_CLEAR_DIRTY_LOG: u32 = _IOWR::<kvm_clear_dirty_log>(KVMIO, 0xc0);
pub(super) const KVM_RESET_DIRTY_RINGS: u32 = _IO(KVMIO, 0xc7);
pub(super) const KVM_SET_USER_MEMORY_REGION: u32 = _IOW::<kvm_userspace_memory_region>(KVMIO, 0x46);
pub(super) const KVM_SET_USER_MEMORY_REGION2: u32 =
    _IOW::<kvm_userspace_memory_region2>(KVMIO, 0x49);
pub(super) const KVM_SET_TSS_ADDR: u32 = _IO(KVMIO, 0x47);
pub(super) const KVM_SET_IDENTITY_MAP_ADDR: u32 = _IOW::<u64>(KVMIO, 0x48);
pub(super) const KVM_REGISTER_COALESCED_MMIO: u32 = _IOW::<kvm_coalesced_mmio_zone>(KVMIO, 0x67);
pub(super) const KVM_UNREGISTER_COALESCED_MMIO: u32 = _IOW::<kvm_coalesced_mmio_zone>(KVMIO, 0x68);
pub(super) const KVM_IRQFD: u32 = _IOW::<kvm_irqfd>(KVMIO, 0x76);
pub(super) const KVM_IOEVENTFD: u32 = _IOW::<kvm_ioeventfd>(KVMIO, 0x79);
pub(super) const KVM_CREATE_IRQCHIP: u32 = _IO(KVMIO, 0x60);
pub(super) const KVM_IRQ_LINE: u32 = _IOW::<kvm_irq_level>(KVMIO, 0x61);
pub(super) const KVM_GET_IRQCHIP: u32 = _IOWR::<kvm_irqchip>(KVMIO, 0x62);
pub(super) const KVM_SET_IRQCHIP: u32 = _IOR::<kvm_irqchip>(KVMIO, 0x63);
pub(super) const KVM_CREATE_PIT: u32 = _IO(KVMIO, 0x64);
pub(super) const KVM_GET_PIT: u32 = _IOWR::<kvm_pit_state>(KVMIO, 0x65);
pub(super) const KVM_SET_PIT: u32 = _IOR::<kvm_pit_state>(KVMIO, 0x66);
pub(super) const KVM_IRQ_LINE_STATUS: u32 = _IOWR::<kvm_irq_level>(KVMIO, 0x67);
pub(super) const KVM_SET_GSI_ROUTING: u32 = _IOW::<kvm_irq_routing>(KVMIO, 0x6a);
pub(super) const KVM_REINJECT_CONTROL: u32 = _IO(KVMIO, 0x71);
pub(super) const KVM_CREATE_PIT2: u32 = _IOW::<kvm_pit_config>(KVMIO, 0x77);
pub(super) const KVM_SET_BOOT_CPU_ID: u32 = _IO(KVMIO, 0x78);
pub(super) const KVM_GET_PIT2: u32 = _IOR::<kvm_pit_state2>(KVMIO, 0x9f);
pub(super) const KVM_SET_PIT2: u32 = _IOW::<kvm_pit_state2>(KVMIO, 0xa0);
pub(super) const KVM_SIGNAL_MSI: u32 = _IOW::<kvm_msi>(KVMIO, 0xa5);

pub(super) const KVM_X86_SET_MSR_FILTER: u32 = _IOW::<kvm_msr_filter>(KVMIO, 0xc6);

pub(super) const KVM_SET_CLOCK: u32 = _IOW::<kvm_clock_data>(KVMIO, 0x7b);
pub(super) const KVM_GET_CLOCK: u32 = _IOR::<kvm_clock_data>(KVMIO, 0x7c);

pub(super) const KVM_PRE_FAULT_MEMORY: u32 = _IOWR::<kvm_pre_fault_memory>(KVMIO, 0xd5);
pub(super) const KVM_RUN: u32 = _IO(KVMIO, 0x80);
pub(super) const KVM_GET_REGS: u32 = _IOR::<kvm_regs>(KVMIO, 0x81);
pub(super) const KVM_SET_REGS: u32 = _IOW::<kvm_regs>(KVMIO, 0x82);
pub(super) const KVM_GET_SREGS: u32 = _IOR::<kvm_sregs>(KVMIO, 0x83);
pub(super) const KVM_SET_SREGS: u32 = _IOW::<kvm_sregs>(KVMIO, 0x84);
pub(super) const KVM_TRANSLATE: u32 = _IOWR::<kvm_translation>(KVMIO, 0x85);
pub(super) const KVM_INTERRUPT: u32 = _IOW::<kvm_interrupt>(KVMIO, 0x86);
pub(super) const KVM_GET_MSRS: u32 = _IOWR::<kvm_msrs>(KVMIO, 0x88);
pub(super) const KVM_SET_MSRS: u32 = _IOW::<kvm_msrs>(KVMIO, 0x89);
pub(super) const KVM_SET_SIGNAL_MASK: u32 = _IOW::<kvm_signal_mask>(KVMIO, 0x8b);
pub(super) const KVM_GET_FPU: u32 = _IOR::<kvm_fpu>(KVMIO, 0x8c);
pub(super) const KVM_SET_FPU: u32 = _IOW::<kvm_fpu>(KVMIO, 0x8d);
pub(super) const KVM_SET_CPUID2: u32 = _IOW::<kvm_cpuid2>(KVMIO, 0x90);
pub(super) const KVM_GET_CPUID2: u32 = _IOWR::<kvm_cpuid2>(KVMIO, 0x91);
pub(super) const KVM_GET_LAPIC: u32 = _IOR::<kvm_lapic_state>(KVMIO, 0x8e);
pub(super) const KVM_SET_LAPIC: u32 = _IOW::<kvm_lapic_state>(KVMIO, 0x8f);
pub(super) const KVM_TPR_ACCESS_REPORTING: u32 = _IOWR::<kvm_tpr_access_ctl>(KVMIO, 0x92);
pub(super) const KVM_SET_VAPIC_ADDR: u32 = _IOW::<kvm_vapic_addr>(KVMIO, 0x93);
pub(super) const KVM_GET_MP_STATE: u32 = _IOR::<kvm_mp_state>(KVMIO, 0x98);
pub(super) const KVM_SET_MP_STATE: u32 = _IOW::<kvm_mp_state>(KVMIO, 0x99);
pub(super) const KVM_NMI: u32 = _IO(KVMIO, 0x9a);
pub(super) const KVM_SET_GUEST_DEBUG: u32 = _IOW::<kvm_guest_debug>(KVMIO, 0x9b);
pub(super) const KVM_GET_VCPU_EVENTS: u32 = _IOR::<kvm_vcpu_events>(KVMIO, 0x9f);
pub(super) const KVM_SET_VCPU_EVENTS: u32 = _IOW::<kvm_vcpu_events>(KVMIO, 0xa0);
pub(super) const KVM_GET_DEBUGREGS: u32 = _IOR::<kvm_debugregs>(KVMIO, 0xa1);
pub(super) const KVM_SET_DEBUGREGS: u32 = _IOW::<kvm_debugregs>(KVMIO, 0xa2);
pub(super) const KVM_SET_TSC_KHZ: u32 = _IO(KVMIO, 0xa2);
pub(super) const KVM_GET_TSC_KHZ: u32 = _IO(KVMIO, 0xa3);
pub(super) const KVM_GET_XSAVE: u32 = _IOR::<kvm_xsave>(KVMIO, 0xa4);
pub(super) const KVM_SET_XSAVE: u32 = _IOW::<kvm_xsave>(KVMIO, 0xa5);
pub(super) const KVM_GET_XCRS: u32 = _IOR::<kvm_xcrs>(KVMIO, 0xa6);
pub(super) const KVM_SET_XCRS: u32 = _IOW::<kvm_xcrs>(KVMIO, 0xa7);
pub(super) const KVM_GET_STATS_FD: u32 = _IO(KVMIO, 0xce);
pub(super) const KVM_KVMCLOCK_CTRL: u32 = _IO(KVMIO, 0xad);
pub(super) const KVM_X86_GET_MCE_CAP_SUPPORTED: u32 = _IOR::<u64>(KVMIO, 0x9d);
pub(super) const KVM_X86_SETUP_MCE: u32 = _IOW::<u64>(KVMIO, 0x9c);
pub(super) const KVM_X86_SET_MCE: u32 = _IOW::<kvm_x86_mce>(KVMIO, 0x9e);
pub(super) const KVM_GET_SREGS2: u32 = _IOR::<kvm_sregs2>(KVMIO, 0xcc);
pub(super) const KVM_SET_SREGS2: u32 = _IOW::<kvm_sregs2>(KVMIO, 0xcd);
pub(super) const KVM_GET_XSAVE2: u32 = _IOR::<kvm_xsave>(KVMIO, 0xcf);
pub(super) const KVM_ENABLE_CAP: u32 = _IOW::<kvm_enable_cap>(KVMIO, 0xa3);
pub(super) const KVM_SET_DEVICE_ATTR: u32 = _IOW::<kvm_device_attr>(KVMIO, 0xe1);
pub(super) const KVM_GET_DEVICE_ATTR: u32 = _IOW::<kvm_device_attr>(KVMIO, 0xe2);
pub(super) const KVM_HAS_DEVICE_ATTR: u32 = _IOW::<kvm_device_attr>(KVMIO, 0xe3);
pub(super) const KVM_GET_EMULATED_CPUID: u32 = _IOWR::<kvm_cpuid2>(KVMIO, 0x09);
pub(super) const KVM_SET_CPUID: u32 = _IOW::<kvm_cpuid>(KVMIO, 0x8a);
pub(super) const KVM_GET_ONE_REG: u32 = _IOW::<kvm_one_reg>(KVMIO, 0xab);
pub(super) const KVM_SET_ONE_REG: u32 = _IOW::<kvm_one_reg>(KVMIO, 0xac);
pub(super) const KVM_GET_REG_LIST: u32 = _IOWR::<kvm_reg_list>(KVMIO, 0xb0);
pub(super) const KVM_SMI: u32 = _IO(KVMIO, 0xb7);
pub(super) const KVM_CREATE_DEVICE: u32 = _IOWR::<kvm_create_device>(KVMIO, 0xe0);
