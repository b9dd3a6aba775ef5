// SPDX-License-Identifier: GPL-2.0

//! A CPU in guest mode, as the scheduler, RCU and lockdep account for it, and what is due to the
//! kernel when it comes out.

use kernel::{
    error::to_result,
    prelude::*, //
};

use super::{
    bindings,
    cpu::IrqsOff, //
};

/// The CPU is accounted as running a guest. RCU regards it as quiet: nothing in between may use
/// RCU, tracing or locks.
pub(crate) struct GuestMode<'a> {
    irqs_off: &'a IrqsOff<'a>,
}

/// Guest mode is over, but time still counts as the guest's, so that an interrupt which ended it
/// is served on the guest's account.
pub(crate) struct GuestTime<'a> {
    _irqs_off: &'a IrqsOff<'a>,
}

impl<'a> GuestMode<'a> {
    /// Enters guest mode.
    #[inline]
    pub(crate) fn enter(irqs_off: &'a IrqsOff<'a>) -> Self {
        // SAFETY: Interrupts are off.
        unsafe { bindings::shim_guest_enter_irqoff() };
        Self { irqs_off }
    }

    /// Calls `f` out of guest mode, but with interrupts still off: it may take spinlocks and wake
    /// threads.
    #[inline]
    pub(crate) fn pause<R>(&self, f: impl FnOnce() -> R) -> R {
        // SAFETY: Interrupts are off and `enter` was called.
        unsafe { bindings::shim_guest_exit_irqoff() };
        let result = f();
        // SAFETY: Interrupts are off, and the CPU was in guest mode in this turn.
        unsafe { bindings::shim_guest_reenter_irqoff() };
        result
    }

    /// Leaves guest mode.
    #[inline]
    pub(crate) fn exit(self) -> GuestTime<'a> {
        // SAFETY: Interrupts are off and `enter` was called.
        unsafe { bindings::shim_guest_exit_irqoff() };
        GuestTime {
            _irqs_off: self.irqs_off,
        }
    }
}

impl GuestTime<'_> {
    /// Serves the interrupt that an exit acknowledged.
    pub(crate) fn handle_interrupt(&self, vector: u8) {
        // SAFETY: Interrupts are off, as after the interrupt gate this stands for.
        unsafe { bindings::shim_handle_interrupt(vector.into()) };
    }

    /// Serves a machine check that exited.
    pub(crate) fn handle_machine_check(&self) {
        // SAFETY: Interrupts are off; the handler takes care of the rest.
        unsafe { bindings::shim_handle_machine_check() };
    }
}

impl Drop for GuestTime<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `GuestMode::enter` started the account.
        unsafe { bindings::shim_guest_timing_exit_irqoff() };
    }
}

/// Serves an NMI that exited. NMIs stay blocked until the handler returns.
pub(crate) fn handle_nmi() {
    // SAFETY: An NMI exit blocked further NMIs, which is what the handler expects.
    unsafe { bindings::shim_handle_nmi() };
}

/// Whether the kernel wants this thread back before it runs a guest: a signal, the scheduler, or
/// work queued for the way to user space.
#[inline]
pub(crate) fn work_pending() -> bool {
    // SAFETY: Reads the thread's flags.
    unsafe { bindings::shim_guest_work_pending() }
}

/// Does that work.
///
/// # Errors
///
/// EINTR where a signal is pending.
pub(crate) fn handle_work() -> Result {
    // SAFETY: Called from a task that may sleep.
    to_result(unsafe { bindings::shim_handle_guest_work() })
}
