// SPDX-License-Identifier: GPL-2.0

//! Structures of KVM's ABI as bytes, which is how they pass between kernel and user space.

use core::mem::MaybeUninit;

use super::bindings::{
    kvm_clear_dirty_log,
    kvm_clock_data,
    kvm_coalesced_mmio_zone,
    kvm_cpuid,
    kvm_cpuid2,
    kvm_cpuid_entry,
    kvm_cpuid_entry2,
    kvm_create_device,
    kvm_debugregs,
    kvm_device_attr,
    kvm_dirty_log,
    kvm_enable_cap,
    kvm_fpu,
    kvm_guest_debug,
    kvm_interrupt,
    kvm_ioeventfd,
    kvm_irq_routing,
    kvm_irqfd,
    kvm_mp_state,
    kvm_msi,
    kvm_msr_entry,
    kvm_msr_list,
    kvm_msrs,
    kvm_one_reg,
    kvm_pit_config,
    kvm_pre_fault_memory,
    kvm_regs,
    kvm_reinject_control,
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
    kvm_xcrs, //
};

/// A structure made of integers, without padding: any bytes are a value of it, and none of its
/// bytes is undefined.
///
/// # Safety
///
/// Just that.
pub(crate) unsafe trait Plain: Sized {
    /// A value of zeroes.
    fn zeroed() -> Self {
        // SAFETY: Any bytes are a value.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// A value whose every byte was copied from somewhere.
    fn assume_copied(value: MaybeUninit<Self>) -> Self {
        // SAFETY: Any bytes are a value; callers copied them all, or failed.
        unsafe { value.assume_init() }
    }

    /// The bytes of a value to be.
    fn raw_bytes(value: &mut MaybeUninit<Self>) -> &mut [MaybeUninit<u8>] {
        // SAFETY: The bytes are those of `value`, borrowed as long.
        unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast(), size_of::<Self>()) }
    }

    /// The bytes of a value.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: No byte is undefined.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

macro_rules! plain {
    ($($ty:ty),* $(,)?) => {
        $(
            // SAFETY: The ABI lays it out in integers and explicit padding.
            unsafe impl Plain for $ty {}
        )*
    };
}

plain! {
    u64, u32, [u32; 2], [u32; 12], [u64; 49], [u64; 65],
    kvm_clear_dirty_log, kvm_dirty_log, kvm_pre_fault_memory,
    kvm_clock_data, kvm_device_attr, kvm_userspace_memory_region2,
    kvm_coalesced_mmio_zone, kvm_cpuid, kvm_cpuid_entry, kvm_create_device, kvm_one_reg, kvm_cpuid2, kvm_cpuid_entry2, kvm_debugregs, kvm_enable_cap, kvm_fpu,
    kvm_guest_debug, kvm_interrupt, kvm_ioeventfd, kvm_irq_routing, kvm_irqfd, kvm_mp_state,
    kvm_msi, kvm_msr_entry, kvm_msr_list, kvm_msrs, kvm_pit_config, kvm_regs, kvm_reinject_control,
    kvm_signal_mask, kvm_sregs, kvm_sregs2, kvm_tpr_access_ctl, kvm_translation,
    kvm_userspace_memory_region, kvm_vapic_addr, kvm_vcpu_events, kvm_x86_mce, kvm_xcrs,
}

/// The bytes of words.
pub(crate) fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: The bytes are those of `words`, borrowed as long; a byte needs no alignment.
    unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

/// The bytes of words, to change them.
pub(crate) fn bytes_of_mut(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: As above, and any bytes make words.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

impl kvm_dirty_log {
    /// Where the VMM has the bitmap.
    pub(crate) fn bitmap(&self) -> usize {
        // SAFETY: Both members of the union are 64 bits.
        unsafe { self.__bindgen_anon_1.padding2 as usize }
    }
}

impl kvm_clear_dirty_log {
    /// Where the VMM has the bitmap.
    pub(crate) fn bitmap(&self) -> usize {
        // SAFETY: Both members of the union are 64 bits.
        unsafe { self.__bindgen_anon_1.padding2 as usize }
    }
}

impl kvm_coalesced_mmio_zone {
    /// What is 1 for a zone of ports, and 0 for one of memory.
    pub(crate) fn pio(&self) -> u32 {
        // SAFETY: Both members of the union are the same.
        unsafe { self.__bindgen_anon_1.pio }
    }
}
