// SPDX-License-Identifier: GPL-2.0
//! The tests, an area a module.

use crate::harness::Test;

mod agreement;
mod allocations;
mod apart;
mod apic;
mod apic_timer;
mod attributes;
mod broadcasts;
mod charges;
mod clock;
mod coalesced;
mod control;
mod cpuid;
mod debug;
mod device_fuzz;
mod dirty_log;
mod dirty_ring;
mod emulator;
mod endurance;
mod exceptions;
mod exits;
mod faults;
mod features;
mod fpu;
mod fuzz;
mod host;
mod hypercalls;
mod interrupts;
mod io;
mod ioapic;
mod ioeventfd;
mod ipi;
mod irqchip;
mod irqfd;
mod lapic_state;
mod lifetime;
mod mce;
mod mmio;
mod modes;
mod module;
mod msr_filter;
mod msrs;
mod page_kinds;
mod paging;
mod parallel;
mod pic;
mod pit;
mod pre_fault;
mod pv;
mod regs;
mod routing;
mod signals;
mod slots;
mod smp;
mod stats;
mod storms;
mod string_faults;
mod sync_regs;
mod system;
mod threads;
mod translate;
mod vm_caps;

/// The tests of a module, named `area/function`, with a time limit in seconds where one is given.
macro_rules! tests {
    ($area:literal: $($name:ident $(($limit:literal))?),+ $(,)?) => {
        pub const TESTS: &[$crate::harness::Test] = &[
            $($crate::harness::Test::new(concat!($area, "/", stringify!($name)), $name)
                $(.limit($limit))?),+
        ];
    };
}
use tests;

/// All tests, in the order they run: what others lean on comes first.
pub fn all() -> Vec<Test> {
    [
        system::TESTS,
        exits::TESTS,
        control::TESTS,
        modes::TESTS,
        exceptions::TESTS,
        io::TESTS,
        string_faults::TESTS,
        mmio::TESTS,
        emulator::TESTS,
        slots::TESTS,
        dirty_log::TESTS,
        dirty_ring::TESTS,
        pre_fault::TESTS,
        paging::TESTS,
        page_kinds::TESTS,
        interrupts::TESTS,
        irqchip::TESTS,
        routing::TESTS,
        lapic_state::TESTS,
        pit::TESTS,
        apic::TESTS,
        apic_timer::TESTS,
        ipi::TESTS,
        ioapic::TESTS,
        pic::TESTS,
        irqfd::TESTS,
        ioeventfd::TESTS,
        coalesced::TESTS,
        debug::TESTS,
        regs::TESTS,
        sync_regs::TESTS,
        translate::TESTS,
        cpuid::TESTS,
        features::TESTS,
        msrs::TESTS,
        mce::TESTS,
        msr_filter::TESTS,
        vm_caps::TESTS,
        attributes::TESTS,
        fpu::TESTS,
        host::TESTS,
        apart::TESTS,
        signals::TESTS,
        lifetime::TESTS,
        threads::TESTS,
        smp::TESTS,
        parallel::TESTS,
        broadcasts::TESTS,
        clock::TESTS,
        pv::TESTS,
        hypercalls::TESTS,
        fuzz::TESTS,
        device_fuzz::TESTS,
        storms::TESTS,
        faults::TESTS,
        agreement::TESTS,
        allocations::TESTS,
        charges::TESTS,
        stats::TESTS,
        module::TESTS,
        endurance::TESTS,
    ]
    .concat()
}
