// SPDX-License-Identifier: GPL-2.0

//! The processor this code runs on: MSRs, control registers, preemption and interrupts.

use core::{
    arch::asm,
    marker::PhantomData, //
};

use kernel::{
    error::to_result,
    prelude::*,
    types::NotThreadSafe, //
};

use super::bindings;

/// Number of the CPU this thread runs on now. It means something only while the thread cannot
/// move, or as a hint.
#[inline]
pub(crate) fn current() -> u32 {
    kernel::cpu::CpuId::current().as_u32()
}

/// The time-stamp counter.
#[inline]
pub(crate) fn rdtsc() -> u64 {
    // SAFETY: RDTSC reads a counter and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Frequency of the time-stamp counter in kHz.
pub(crate) fn tsc_khz() -> u32 {
    // SAFETY: Reads a variable of the kernel's.
    unsafe { bindings::shim_tsc_khz() }
}

/// How far the time-stamp counter gets in `ns` nanoseconds.
pub(crate) fn ns_to_ticks(ns: u64) -> u64 {
    const NS_PER_MS: u64 = 1_000_000;
    let khz = u64::from(tsc_khz());
    // In two parts, so that nothing overflows.
    let (ms, rest) = (ns / NS_PER_MS, ns % NS_PER_MS);
    ms.saturating_mul(khz)
        .saturating_add(rest * khz / NS_PER_MS)
}

/// EAX, EBX, ECX and EDX of CPUID.
pub(crate) fn cpuid(function: u32, index: u32) -> [u32; 4] {
    // SAFETY: CPUID exists on every processor that runs this kernel and touches no memory.
    let r = unsafe { core::arch::x86_64::__cpuid_count(function, index) };
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// As [`cpuid`], without the features that the kernel does not use: they do not work on this machine,
/// or somebody switched them off.
pub(crate) fn cpuid_in_use(function: u32, index: u32) -> [u32; 4] {
    let mut words = cpuid(function, index);
    // SAFETY: `words` is valid for the writes.
    unsafe { bindings::shim_mask_cpuid(function, index, words.as_mut_ptr()) };
    words
}

/// Reads an MSR.
///
/// # Errors
///
/// EIO where the processor has no such MSR.
pub(crate) fn rdmsr(msr: u32) -> Result<u64> {
    let mut value = 0;
    // SAFETY: `value` is valid for the write; a fault is caught.
    to_result(unsafe { bindings::shim_rdmsr_safe(msr, &mut value) })?;
    Ok(value)
}

/// Writes an MSR.
///
/// # Safety
///
/// The kernel must go on working with the value.
pub(crate) unsafe fn wrmsr(msr: u32, value: u64) -> Result {
    // SAFETY: The caller answers for the value; a fault is caught.
    to_result(unsafe { bindings::shim_wrmsr_safe(msr, value) })
}

/// Reads an MSR that exists: the way in and out of guests has no time for more.
///
/// # Safety
///
/// The processor has the MSR; otherwise this faults.
#[inline(always)]
pub(crate) unsafe fn rdmsr_unchecked(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: By the contract of this function.
    unsafe {
        asm!(
            "rdmsr",
            in("ecx") msr,
            out("eax") low,
            out("edx") high,
            options(nomem, nostack, preserves_flags),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR that exists with a value it can have.
///
/// # Safety
///
/// As for [`wrmsr`]; and the write must not fault.
#[inline(always)]
pub(crate) unsafe fn wrmsr_unchecked(msr: u32, value: u64) {
    // SAFETY: By the contract of this function.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") msr,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}

/// CR4 as the kernel believes it to be.
pub(crate) fn cr4() -> u64 {
    // SAFETY: Reads a per-CPU variable; callers cannot move, or ask for a bit that is the same on
    // every CPU.
    unsafe { bindings::shim_cr4_read_shadow() }
}

/// CR3 as VM exits must load it.
///
/// The guard is proof that the thread cannot move and that no interrupt can change the PCID.
pub(crate) fn cr3(_irqs_off: &IrqsOff<'_>) -> u64 {
    // SAFETY: Interrupts are off.
    unsafe { bindings::shim_current_cr3() }
}

/// CR4.VMXE, through the kernel's shadow: any later write of CR4 from a stale shadow would fault in
/// VMX operation.
pub(crate) fn set_cr4_vmxe(_pinned: &Pinned) {
    // SAFETY: Setting CR4.VMXE changes nothing until VMXON.
    unsafe { bindings::shim_cr4_set_bits(CR4_VMXE) }
}

/// Undoes [`set_cr4_vmxe`].
pub(crate) fn clear_cr4_vmxe(_pinned: &Pinned) {
    // SAFETY: Callers are out of VMX operation, where the bit may be cleared.
    unsafe { bindings::shim_cr4_clear_bits(CR4_VMXE) }
}

/// CR4.VMXE.
pub(crate) const CR4_VMXE: u64 = 1 << 13;

/// Whether the machine is going down and VMX may be off already, so that VMX instructions fault.
pub(crate) fn is_rebooting() -> bool {
    // SAFETY: Reads a variable of the kernel's.
    unsafe { bindings::shim_virt_rebooting() }
}

/// Preemption is off: the thread stays on its CPU.
pub(crate) struct Pinned {
    _not_send: NotThreadSafe,
}

impl Pinned {
    /// Turns preemption off until the guard is dropped.
    #[inline]
    pub(crate) fn new() -> Self {
        // SAFETY: Undone by drop.
        unsafe { bindings::shim_preempt_disable() };
        Self {
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for Pinned {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `new` turned preemption off.
        unsafe { bindings::shim_preempt_enable() };
    }
}

/// Interrupts are off on this CPU.
pub(crate) struct IrqsOff<'a> {
    _pinned: PhantomData<&'a Pinned>,
    _not_send: NotThreadSafe,
}

impl<'a> IrqsOff<'a> {
    /// Turns interrupts off, which must be on, until the guard is dropped.
    #[inline]
    pub(crate) fn new(_pinned: &'a Pinned) -> Self {
        // SAFETY: Undone by drop.
        unsafe { bindings::shim_irq_disable() };
        Self {
            _pinned: PhantomData,
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for IrqsOff<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `new` turned interrupts off.
        unsafe { bindings::shim_irq_enable() };
    }
}

/// Whether interrupts are off here: what takes long has to wait then.
pub(crate) fn irqs_are_off() -> bool {
    // SAFETY: Reads a flag of this CPU's.
    unsafe { bindings::shim_irqs_disabled() }
}

/// Whether a CPU is online, at this moment.
pub(crate) fn is_online(cpu: u32) -> bool {
    // SAFETY: Reads a mask of the kernel's.
    unsafe { bindings::shim_cpu_online(cpu as i32) }
}

/// Calls `f` on CPU `cpu` from an interrupt there and waits for it. Does nothing where the CPU is
/// offline.
pub(crate) fn call_on<T: Sync>(cpu: u32, arg: &T, f: unsafe extern "C" fn(*mut c_void)) {
    // SAFETY: `arg` outlives the call, which waits.
    unsafe {
        bindings::shim_call_on_cpu(cpu as i32, Some(f), core::ptr::from_ref(arg) as *mut c_void)
    };
}

/// Interrupts CPUs and waits until each has left what it was doing, a guest for one.
///
/// `cpus` has [`mask_words`] words, a bit a CPU. Preemption is off.
pub(crate) fn kick(cpus: &[usize]) {
    debug_assert!(cpus.len() >= mask_words());
    // SAFETY: A cpumask is an array of as many words; it is only read.
    unsafe { bindings::shim_kick_cpus(cpus.as_ptr().cast()) }
}

/// Interrupts CPU `cpu`, and does not wait for it.
pub(crate) fn interrupt(cpu: u32) {
    // SAFETY: The interrupt does nothing but have the CPU look at its flags.
    unsafe { bindings::shim_reschedule_cpu(cpu) };
}

/// Has CPU `cpu`, if it runs a guest, take the guest's posted interrupts. Does not wait.
pub(crate) fn notify_posted(cpu: u32) {
    // SAFETY: Outside a guest the handler of the interrupt does nothing.
    unsafe { bindings::shim_notify_posted(cpu) };
}

/// The vector by which that is done.
pub(crate) const POSTED_INTR_VECTOR: u16 = 0xf2;

/// Words in a mask of CPUs.
pub(crate) fn mask_words() -> usize {
    // SAFETY: Computes from constants of the running kernel.
    unsafe { bindings::shim_cpumask_longs() as usize }
}
