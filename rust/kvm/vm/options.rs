// SPDX-License-Identifier: GPL-2.0

//! What a VMM has chosen for a VM with KVM_ENABLE_CAP (api.rst, 7).

use core::sync::atomic::{
    AtomicU32,
    AtomicU64,
    Ordering, //
};

use bitflags::bitflags;

bitflags! {
    /// What is on or off.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Switches: u32 {
        /// Guests get #GP for reading MSR_PLATFORM_INFO (KVM_CAP_MSR_PLATFORM_INFO).
        const HIDES_PLATFORM_INFO = 1 << 0;
        /// The VMM knows what an exception leaves in DR6 or CR2 (KVM_CAP_EXCEPTION_PAYLOAD).
        const EXCEPTION_PAYLOAD = 1 << 1;
        /// The VMM knows of triple faults on their way (KVM_CAP_X86_TRIPLE_FAULT_EVENT).
        const TRIPLE_FAULT_EVENT = 1 << 2;
        /// The VMM hears of every instruction that cannot be emulated
        /// (KVM_CAP_EXIT_ON_EMULATION_FAILURE).
        const EXIT_ON_EMULATION_FAILURE = 1 << 3;
    }
}

bitflags! {
    /// What guests do without an exit (KVM_CAP_X86_DISABLE_EXITS).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct DisabledExits: u32 {
        /// MONITOR and MWAIT.
        const MWAIT = 1 << 0;
        /// HLT.
        const HLT = 1 << 1;
        /// Loops of PAUSEs.
        const PAUSE = 1 << 2;
        /// Reading how long the processor slept.
        const CSTATE = 1 << 3;
        /// Reading how fast it ran.
        const APERFMPERF = 1 << 4;
    }
}

/// The choices.
pub(crate) struct Options {
    switches: AtomicU32,
    user_space_msr: AtomicU32,
    disabled_exits: AtomicU32,
    hypercall_exits: AtomicU32,
    /// In nanoseconds; the module's parameter decides where this is `u64::MAX`.
    halt_poll: AtomicU64,
}

impl Options {
    /// As long as a VMM has chosen nothing.
    pub(crate) const fn new() -> Self {
        Self {
            switches: AtomicU32::new(0),
            user_space_msr: AtomicU32::new(0),
            disabled_exits: AtomicU32::new(0),
            hypercall_exits: AtomicU32::new(0),
            halt_poll: AtomicU64::new(u64::MAX),
        }
    }

    /// What guests do without an exit.
    pub(crate) fn disabled_exits(&self) -> DisabledExits {
        DisabledExits::from_bits_retain(self.disabled_exits.load(Ordering::Relaxed))
    }

    /// Adds to that. There are no vCPUs yet.
    pub(super) fn disable_exits(&self, exits: DisabledExits) {
        self.disabled_exits
            .fetch_or(exits.bits(), Ordering::Relaxed);
    }

    /// Whether the VMM serves the hypercall with this number (KVM_CAP_EXIT_HYPERCALL).
    pub(crate) fn exits_for_hypercall(&self, number: u32) -> bool {
        self.hypercall_exits.load(Ordering::Relaxed) >> number & 1 != 0
    }

    /// Sets which it does, a bit each.
    pub(crate) fn set_hypercall_exits(&self, numbers: u32) {
        self.hypercall_exits.store(numbers, Ordering::Relaxed);
    }

    /// How long a halted vCPU may poll, in nanoseconds, if the VMM has said so (KVM_CAP_HALT_POLL).
    pub(crate) fn halt_poll(&self) -> Option<u64> {
        Some(self.halt_poll.load(Ordering::Relaxed)).filter(|time| *time != u64::MAX)
    }

    /// Says so.
    pub(crate) fn set_halt_poll(&self, nanoseconds: u32) {
        self.halt_poll.store(nanoseconds.into(), Ordering::Relaxed);
    }

    /// Whether something is on.
    #[inline]
    pub(crate) fn has(&self, switch: Switches) -> bool {
        self.switches.load(Ordering::Relaxed) & switch.bits() != 0
    }

    /// Turns something on or off.
    pub(crate) fn set(&self, switch: Switches, on: bool) {
        if on {
            self.switches.fetch_or(switch.bits(), Ordering::Relaxed);
        } else {
            self.switches.fetch_and(!switch.bits(), Ordering::Relaxed);
        }
    }

    /// KVM_MSR_EXIT_REASON_*: the accesses to MSRs that the VMM wants to serve.
    pub(crate) fn user_space_msr(&self) -> u32 {
        self.user_space_msr.load(Ordering::Relaxed)
    }

    /// Sets them.
    pub(crate) fn set_user_space_msr(&self, reasons: u32) {
        self.user_space_msr.store(reasons, Ordering::Relaxed);
    }
}
