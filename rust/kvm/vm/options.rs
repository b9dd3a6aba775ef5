// SPDX-License-Identifier: GPL-2.0

//! What a VMM has chosen for a VM with KVM_ENABLE_CAP (api.rst, 7).

use core::sync::atomic::{
    AtomicU32,
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

/// The choices.
pub(crate) struct Options {
    switches: AtomicU32,
    user_space_msr: AtomicU32,
}

impl Options {
    /// As long as a VMM has chosen nothing.
    pub(crate) const fn new() -> Self {
        Self {
            switches: AtomicU32::new(0),
            user_space_msr: AtomicU32::new(0),
        }
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
