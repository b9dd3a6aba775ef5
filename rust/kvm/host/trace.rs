// SPDX-License-Identifier: GPL-2.0

//! Tracepoints (`kvm_trace.h` has them; C header: `include/linux/tracepoint.h`).
//!
//! [`trace!`] looks whether anybody listens before it so much as evaluates the arguments: that is a
//! jump which the kernel patches, or where it does not patch, one look at memory.

/// Tells those who listen to a tracepoint: `trace!(kvm_cr(true, 0, value))`.
///
/// Nothing may be traced in guest mode, where RCU may not be watching.
macro_rules! trace {
    ($name:ident($($argument:expr),* $(,)?)) => {
        if $crate::host::trace::$name::is_on() {
            $crate::host::trace::$name::emit($($argument),*);
        }
    };
}
pub(crate) use trace;

/// `kvm_emulate_insn`: protected mode.
pub(crate) const INSN_PE: u8 = 1;
/// Virtual-8086 mode.
pub(crate) const INSN_VM: u8 = 2;
/// 32-bit code.
pub(crate) const INSN_CS_D: u8 = 4;
/// 64-bit code.
pub(crate) const INSN_CS_L: u8 = 8;

macro_rules! tracepoints {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),* $(,)?);)*) => {$(
        $(#[$doc])*
        pub(crate) mod $name {
            /// Whether anybody listens.
            #[inline(always)]
            pub(crate) fn is_on() -> bool {
                #[cfg(all(CONFIG_TRACEPOINTS, CONFIG_JUMP_LABEL))]
                // SAFETY: It is the key of a tracepoint of ours.
                return unsafe {
                    kernel::macros::paste! {
                        kernel::jump_label::static_branch_unlikely!(
                            $crate::host::bindings::[<__tracepoint_ $name>],
                            kernel::bindings::tracepoint,
                            key
                        )
                    }
                };
                #[cfg(all(CONFIG_TRACEPOINTS, not(CONFIG_JUMP_LABEL)))]
                {
                    kernel::macros::paste! {
                        // SAFETY: The key of a tracepoint of ours; it changes atomically.
                        return unsafe {
                            (&raw const $crate::host::bindings::[<__tracepoint_ $name>]
                                .key.key.enabled.counter).read_volatile() > 0
                        };
                    }
                }
                #[cfg(not(CONFIG_TRACEPOINTS))]
                false
            }

            /// Tells them.
            // As many as the event has fields.
            #[allow(clippy::too_many_arguments)]
            #[cold]
            #[inline(never)]
            pub(crate) fn emit($($argument: $type),*) {
                #[cfg(CONFIG_TRACEPOINTS)]
                // SAFETY: The arguments are numbers, and pointers to what is there during the call.
                unsafe {
                    kernel::macros::paste! {
                        $crate::host::bindings::[<rust_do_trace_ $name>]($($argument),*)
                    }
                }
                #[cfg(not(CONFIG_TRACEPOINTS))]
                let _ = ($($argument,)*);
            }
        }
    )*};
}

tracepoints! {
    /// The guest is entered.
    kvm_entry(
        vcpu_id: u32,
        rip: u64,
        immediate_exit: bool,
        intr_info: u32,
        error_code: u32,
    );
    /// The guest exited.
    kvm_exit(
        vcpu_id: u32,
        rip: u64,
        isa: u32,
        reason: u32,
        info1: u64,
        info2: u64,
        intr_info: u32,
        error_code: u32,
        requests: u64,
    );
    /// KVM_RUN returns: KVM_EXIT_*, and an errno, negated.
    kvm_userspace_exit(reason: u32, errno: i32);
    /// The guest's FPU state comes (1) or goes (0).
    kvm_fpu(load: u32);
    /// CPUID.
    kvm_cpuid(
        function: u32,
        index: u32,
        rax: u64,
        rbx: u64,
        rcx: u64,
        rdx: u64,
        found: bool,
        used_max_basic: bool,
    );
    /// VMCALL.
    kvm_hypercall(number: u64, a0: u64, a1: u64, a2: u64, a3: u64);
    /// RDMSR or WRMSR; `exception` where it raises #GP.
    kvm_msr(write: bool, index: u32, value: u64, exception: bool);
    /// A control register.
    kvm_cr(write: bool, cr: u32, value: u64);
    /// IN or OUT: of several items the first.
    kvm_pio(write: bool, port: u32, size: u32, count: u32, value: u32);
    /// Memory that is not mapped, or not for this; the exit's qualification.
    kvm_page_fault(vcpu_id: u32, rip: u64, address: u64, error_code: u64);
    /// Memory that is a device's: 0 is a read that is yet to be answered, 1 one that is, 2 a write.
    kvm_mmio(kind: u32, len: u32, gpa: u64, value: u64);
    /// Memory of the VMM's goes.
    kvm_unmap_hva_range(start: u64, end: u64);
    /// An interrupt is injected.
    kvm_inj_virq(vector: u32, soft: bool, again: bool);
    /// An exception is injected.
    kvm_inj_exception(vector: u8, has_error: bool, error_code: u32, again: bool);
    /// A register of the local APIC, by its offset.
    kvm_apic(write: bool, register: u32, value: u64);
    /// An interrupt command.
    kvm_apic_ipi(icr_low: u32, destination: u32);
    /// A local APIC takes a message; its delivery mode is where the ICR has it.
    kvm_apic_accept_irq(apic_id: u32, delivery: u16, level: bool, vector: u8);
    /// The end of an interrupt.
    kvm_eoi(apic_id: u32, vector: i32);
    /// The end of an interrupt that the guest did not write.
    kvm_pv_eoi(apic_id: u32, vector: i32);
    /// An interrupt line.
    kvm_set_irq(gsi: u32, level: i32, source: i32);
    /// A pin of the IOAPIC, and its redirection entry.
    kvm_ioapic_set_irq(entry: u64, pin: i32, coalesced: bool);
    /// A pin of one of the PICs.
    kvm_pic_set_irq(chip: u8, pin: u8, elcr: u8, imr: u8, coalesced: bool);
    /// A message-signalled interrupt.
    kvm_msi_set_irq(address: u64, data: u64);
    /// The end of an interrupt that a chip's pin is the cause of.
    kvm_ack_irq(chip: u32, pin: u32);
    /// A halted vCPU goes on, after so many nanoseconds.
    kvm_vcpu_wakeup(nanoseconds: u64, waited: bool, valid: bool);
    /// For how long a halted vCPU polls, in nanoseconds, is another.
    kvm_halt_poll_ns(grow: bool, vcpu_id: u32, new: u32, old: u32);
    /// The guest's TSC is moved.
    kvm_write_tsc_offset(vcpu_id: u32, previous: u64, next: u64);
    /// It was decided whether all vCPUs share one clock.
    kvm_update_master_clock(use_master_clock: bool, host_clock: u32, offset_matched: bool);
    /// A vCPU's clock is brought up to date.
    kvm_pvclock_update(
        vcpu_id: u32,
        version: u32,
        tsc_timestamp: u64,
        system_time: u64,
        tsc_to_system_mul: u32,
        tsc_shift: i8,
        flags: u8,
    );
    /// An instruction is emulated, or cannot be.
    kvm_emulate_insn(
        rip: u64,
        cs_base: u32,
        bytes: *const u8,
        len: u8,
        flags: u8,
        failed: bool,
    );
}

/// Whether anybody listens to a tracepoint of the inner loop.
#[inline(always)]
pub(crate) fn is_watched() -> bool {
    #[cfg(CONFIG_TRACEPOINTS)]
    // SAFETY: The counter is ours, and changes atomically.
    return unsafe { (&raw const super::bindings::minikvm_watchers.counter).read_volatile() != 0 };
    #[cfg(not(CONFIG_TRACEPOINTS))]
    false
}
