// SPDX-License-Identifier: GPL-2.0

//! What is counted of a vCPU.

use super::{
    table::{
        place,
        words_before, //
    },
    Counters,
    Place,
    Statistic, //
};

/// The statistics of a vCPU.
pub(crate) const TABLE: [Statistic; 45] = [
    Statistic::counter(c"halt_successful_poll"),
    Statistic::counter(c"halt_attempted_poll"),
    Statistic::counter(c"halt_poll_invalid"),
    Statistic::counter(c"halt_wakeup"),
    Statistic::time(c"halt_poll_success_ns"),
    Statistic::time(c"halt_poll_fail_ns"),
    Statistic::time(c"halt_wait_ns"),
    Statistic::times(c"halt_poll_success_hist"),
    Statistic::times(c"halt_poll_fail_hist"),
    Statistic::times(c"halt_wait_hist"),
    Statistic::flag(c"blocking"),
    Statistic::counter(c"pf_taken"),
    Statistic::counter(c"pf_fixed"),
    Statistic::counter(c"pf_emulate"),
    Statistic::counter(c"pf_spurious"),
    Statistic::counter(c"pf_fast"),
    Statistic::counter(c"pf_mmio_spte_created"),
    Statistic::counter(c"pf_guest"),
    Statistic::counter(c"tlb_flush"),
    Statistic::counter(c"invlpg"),
    Statistic::counter(c"exits"),
    Statistic::counter(c"io_exits"),
    Statistic::counter(c"mmio_exits"),
    Statistic::counter(c"signal_exits"),
    Statistic::counter(c"irq_window_exits"),
    Statistic::counter(c"nmi_window_exits"),
    Statistic::counter(c"l1d_flush"),
    Statistic::counter(c"halt_exits"),
    Statistic::counter(c"request_irq_exits"),
    Statistic::counter(c"irq_exits"),
    Statistic::counter(c"host_state_reload"),
    Statistic::counter(c"fpu_reload"),
    Statistic::counter(c"insn_emulation"),
    Statistic::counter(c"insn_emulation_fail"),
    Statistic::counter(c"hypercalls"),
    Statistic::counter(c"irq_injections"),
    Statistic::counter(c"nmi_injections"),
    Statistic::counter(c"req_event"),
    Statistic::counter(c"nested_run"),
    Statistic::counter(c"directed_yield_attempted"),
    Statistic::counter(c"directed_yield_successful"),
    Statistic::counter(c"preemption_reported"),
    Statistic::counter(c"preemption_other"),
    Statistic::flag(c"guest_mode"),
    Statistic::counter(c"notify_window_exits"),
];

const WORDS: usize = words_before(&TABLE, TABLE.len());

/// The numbers of a vCPU.
pub(crate) type VcpuCounters = Counters<WORDS>;
/// Where one of them is.
pub(crate) type VcpuPlace = Place<WORDS>;

macro_rules! places {
    ($($(#[$attr:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$attr])* pub(crate) const $name: Place<WORDS> = place(&TABLE, $text);)*
    };
}

places! {
    /// A halt ended while it was polled for.
    HALT_SUCCESSFUL_POLL = c"halt_successful_poll";
    /// A halt was polled for.
    HALT_ATTEMPTED_POLL = c"halt_attempted_poll";
    /// A vCPU slept and was woken.
    HALT_WAKEUP = c"halt_wakeup";
    /// How long was polled with success.
    HALT_POLL_SUCCESS_NS = c"halt_poll_success_ns";
    /// How long was polled in vain.
    HALT_POLL_FAIL_NS = c"halt_poll_fail_ns";
    /// How long a vCPU slept.
    HALT_WAIT_NS = c"halt_wait_ns";
    /// Each time that was polled with success.
    HALT_POLL_SUCCESS_HIST = c"halt_poll_success_hist";
    /// Each time that was polled in vain.
    HALT_POLL_FAIL_HIST = c"halt_poll_fail_hist";
    /// Each time that a vCPU slept.
    HALT_WAIT_HIST = c"halt_wait_hist";
    /// The vCPU polls or sleeps.
    BLOCKING = c"blocking";
    /// The guest touched memory that is not mapped, or not for this.
    PF_TAKEN = c"pf_taken";
    /// Memory was mapped for it.
    PF_FIXED = c"pf_fixed";
    /// The access was emulated.
    PF_EMULATE = c"pf_emulate";
    /// A write that exited was allowed without any lock.
    PF_FAST = c"pf_fast";
    /// The processor's translations of this vCPU were flushed.
    TLB_FLUSH = c"tlb_flush";
    /// Exits from the guest.
    EXITS = c"exits";
    /// Exits for an I/O instruction.
    IO_EXITS = c"io_exits";
    /// MMIO that went to the VMM.
    MMIO_EXITS = c"mmio_exits";
    /// KVM_RUN ended for a signal.
    SIGNAL_EXITS = c"signal_exits";
    /// Exits because an interrupt can be injected.
    IRQ_WINDOW_EXITS = c"irq_window_exits";
    /// Exits because an NMI can be injected.
    NMI_WINDOW_EXITS = c"nmi_window_exits";
    /// Exits for HLT.
    HALT_EXITS = c"halt_exits";
    /// KVM_RUN ended because the VMM asked for the interrupt window.
    REQUEST_IRQ_EXITS = c"request_irq_exits";
    /// Exits for an interrupt of the host.
    IRQ_EXITS = c"irq_exits";
    /// The guest's MSRs were put in the processor, for the host's to come back later.
    HOST_STATE_RELOAD = c"host_state_reload";
    /// The guest's FPU state was put in the processor.
    FPU_RELOAD = c"fpu_reload";
    /// Instructions emulated.
    INSN_EMULATION = c"insn_emulation";
    /// Instructions that cannot be.
    INSN_EMULATION_FAIL = c"insn_emulation_fail";
    /// Hypercalls.
    HYPERCALLS = c"hypercalls";
    /// Interrupts injected.
    IRQ_INJECTIONS = c"irq_injections";
    /// NMIs injected.
    NMI_INJECTIONS = c"nmi_injections";
    /// It was looked whether there is an event to inject.
    REQ_EVENT = c"req_event";
    /// The guest spun or asked to yield, and another vCPU was to have the CPU.
    DIRECTED_YIELD_ATTEMPTED = c"directed_yield_attempted";
    /// Another vCPU got it.
    DIRECTED_YIELD_SUCCESSFUL = c"directed_yield_successful";
    /// The vCPU lost its CPU, and the guest was told.
    PREEMPTION_REPORTED = c"preemption_reported";
    /// The vCPU lost its CPU where it was not in the middle of anything.
    PREEMPTION_OTHER = c"preemption_other";
}
