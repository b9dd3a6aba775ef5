// SPDX-License-Identifier: GPL-2.0

//! The VMX-preemption timer: the guest's turn ends at a value of the time-stamp counter (SDM
//! vol. 3, 25.5.1 and 26.2).
//!
//! It counts down in non-root operation only, so every entry with a deadline says anew how much is
//! left. Once in use it stays on: without a deadline it starts from the top, which costs an exit in
//! seconds at worst, and no VMWRITE of the controls whenever a deadline comes and goes.

use arch::{
    controls::PinBased,
    vmcs, //
};

use super::{
    controls,
    Vmx, //
};
use crate::{
    host::cpu,
    vm::Loaded, //
};

/// Models whose timer counts wrongly, as CPUID.1:EAX without the reserved bits: Nehalem and
/// Westmere (errata AAJ124, AAK139, AAM126, AAN92, AAO95, AAP86, AAT59, AAU65, AAX65, BA86), and an
/// Ivy Bridge.
const BROKEN: [u32; 9] = [
    0x106a0, 0x106a1, 0x106a4, 0x106a5, 0x106e5, 0x20652, 0x20655, 0x206e6, 0x306a8,
];

/// No deadline.
const NEVER: u64 = u64::MAX;

/// When the guest's turn ends.
pub(super) struct PreemptionTimer {
    /// Value of the host's time-stamp counter.
    deadline: u64,
}

impl PreemptionTimer {
    /// No deadline.
    pub(super) const fn new() -> Self {
        Self { deadline: NEVER }
    }
}

/// Whether this processor's timer can be relied on.
pub(super) fn is_reliable() -> bool {
    const RESERVED: u32 = 3 << 14 | 0xf << 28;
    !BROKEN.contains(&(cpu::cpuid(1, 0)[0] & !RESERVED))
}

/// Ends the guest's turn when the host's counter is at `deadline`.
#[inline]
pub(super) fn start(cx: &mut Loaded<'_, Vmx>, deadline: u64) {
    cx.state.hw.timer.deadline = deadline;
    controls::set_pin_based(cx, PinBased::PREEMPTION_TIMER, true);
}

/// The guest's turn has no end.
#[inline]
pub(super) fn stop(cx: &mut Loaded<'_, Vmx>) {
    cx.state.hw.timer.deadline = NEVER;
    cx.vcpu
        .resident
        .write(vmcs::VMX_PREEMPTION_TIMER_VALUE, u32::MAX);
}

/// Says how much of the guest's turn is left.
#[inline]
pub(super) fn prepare_entry(cx: &Loaded<'_, Vmx>) {
    let deadline = cx.state.hw.timer.deadline;
    if deadline != NEVER {
        let left = deadline.saturating_sub(cpu::rdtsc());
        // More than fits ends in an exit that does not count.
        let value =
            u32::try_from(left >> cx.vm.backend.capability.timer_rate()).unwrap_or(u32::MAX);
        cx.vcpu
            .resident
            .write(vmcs::VMX_PREEMPTION_TIMER_VALUE, value);
    }
}

/// Whether the deadline has come, after an exit by the timer.
pub(super) fn has_expired(cx: &Loaded<'_, Vmx>) -> bool {
    // The timer may be early by what it cannot count, which is less than an entry takes.
    let grain = 2 << cx.vm.backend.capability.timer_rate();
    let deadline = cx.state.hw.timer.deadline;
    deadline != NEVER && deadline <= cpu::rdtsc().saturating_add(grain)
}
