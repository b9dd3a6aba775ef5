// SPDX-License-Identifier: GPL-2.0

//! The I/O bitmaps and the MSR bitmap that the vCPUs of a VM share (SDM vol. 3, 25.6.4 and 25.6.9).

use core::sync::atomic::Ordering;

use kernel::prelude::*;

use crate::{
    host::page::HardwarePage,
    vm::{
        msr_filter,
        DisabledExits, //
    },
};

/// MSRs that a guest reads and writes without an exit: an entry loads them and an exit saves them,
/// or they are switched with the thread.
const PASSED_THROUGH: [u32; 7] = [
    0x174,       // IA32_SYSENTER_CS
    0x175,       // IA32_SYSENTER_ESP
    0x176,       // IA32_SYSENTER_EIP
    0x277,       // IA32_PAT
    0xc000_0100, // IA32_FS_BASE
    0xc000_0101, // IA32_GS_BASE
    0xc000_0102, // IA32_KERNEL_GS_BASE
];
/// IA32_TSC: reads see the offset; writes exit.
const IA32_TSC: u32 = 0x10;

/// How long a core was in C1, C3, C6 and C7.
const CSTATE_RESIDENCY: [u32; 4] = [0x660, 0x3fc, 0x3fd, 0x3fe];
/// IA32_MPERF and IA32_APERF.
const APERFMPERF: [u32; 2] = [0xe7, 0xe8];

const X2APIC_TPR: u32 = 0x808;
const X2APIC_EOI: u32 = 0x80b;
/// The first of ISR, TMR and IRR, eight words each, with the ESR after them.
const X2APIC_VECTORS: u32 = 0x810;
const X2APIC_ESR: u32 = 0x828;
const X2APIC_SELF_IPI: u32 = 0x83f;
/// Registers that can be read from the page: all but the current count, which is computed.
const X2APIC_READABLE: [u32; 14] = [
    0x802, // ID
    0x803, // version
    0x80a, // PPR
    0x80d, // LDR
    0x80f, // SVR
    0x830, // ICR
    0x832, // LVT timer
    0x833, // LVT thermal sensor
    0x834, // LVT performance counters
    0x835, // LVT LINT0
    0x836, // LVT LINT1
    0x837, // LVT error
    0x838, // initial count
    0x83e, // divide configuration
];

/// The first quarters: reads.
const READ: usize = 0;
/// The last quarters: writes.
const WRITE: usize = 2;
/// Words in each quarter of the MSR bitmap: reads of low and high MSRs, writes of low and high.
const QUARTER: usize = 128;

/// What the vCPUs of a VM share.
pub(crate) struct Bitmaps {
    /// Ports 0 to 0x7fff.
    pub(super) io_a: HardwarePage,
    /// Ports 0x8000 to 0xffff.
    pub(super) io_b: HardwarePage,
    pub(super) msr: HardwarePage,
    /// The same for vCPUs whose x2APIC the processor virtualises: only for those it is safe to let
    /// an access through.
    pub(super) msr_x2apic: HardwarePage,
}

impl Bitmaps {
    /// Every port exits, and every MSR but a few. With `apicv` the processor has all of an x2APIC,
    /// not just its task priority.
    pub(super) fn new(apicv: bool) -> Result<Self> {
        let all_exit = || -> Result<HardwarePage> {
            let page = HardwarePage::new()?;
            for word in page.words() {
                word.store(u64::MAX, Ordering::Relaxed);
            }
            Ok(page)
        };
        let bitmaps = Self {
            io_a: all_exit()?,
            io_b: all_exit()?,
            msr: all_exit()?,
            msr_x2apic: all_exit()?,
        };
        bitmaps.filter_msrs(DisabledExits::empty(), |_, _| true);
        bitmaps.pass_x2apic(apicv);
        Ok(bitmaps)
    }

    /// Lets accesses through that the processor can serve, as far as `allows` allows them. The
    /// registers of an x2APIC are not filtered.
    pub(super) fn filter_msrs(
        &self,
        disabled_exits: DisabledExits,
        allows: impl Fn(u32, u32) -> bool,
    ) {
        let own = [
            (DisabledExits::CSTATE, &CSTATE_RESIDENCY[..]),
            (DisabledExits::APERFMPERF, &APERFMPERF[..]),
        ];
        for page in [&self.msr, &self.msr_x2apic] {
            for msr in PASSED_THROUGH {
                set_passed(page, msr, READ, allows(msr, msr_filter::READ));
                set_passed(page, msr, WRITE, allows(msr, msr_filter::WRITE));
            }
            let reads_tsc = allows(IA32_TSC, msr_filter::READ);
            set_passed(page, IA32_TSC, READ, reads_tsc);
            for (exit, msrs) in own {
                for &msr in msrs {
                    let passed = disabled_exits.contains(exit) && allows(msr, msr_filter::READ);
                    set_passed(page, msr, READ, passed);
                }
            }
        }
    }

    /// Lets x2APIC accesses through that the processor serves from the virtual-APIC page
    /// (SDM vol. 3, 30.5).
    fn pass_x2apic(&self, apicv: bool) {
        pass(&self.msr_x2apic, X2APIC_TPR, READ);
        pass(&self.msr_x2apic, X2APIC_TPR, WRITE);
        if !apicv {
            return;
        }
        for msr in X2APIC_READABLE {
            pass(&self.msr_x2apic, msr, READ);
        }
        for msr in X2APIC_VECTORS..=X2APIC_ESR {
            pass(&self.msr_x2apic, msr, READ);
        }
        pass(&self.msr_x2apic, X2APIC_EOI, WRITE);
        pass(&self.msr_x2apic, X2APIC_SELF_IPI, WRITE);
    }
}

/// Clears an MSR's bit in the quarters for reads or for writes.
fn pass(page: &HardwarePage, msr: u32, quarter: usize) {
    set_passed(page, msr, quarter, true);
}

/// Clears or sets an MSR's bit in the quarters for reads or for writes.
fn set_passed(page: &HardwarePage, msr: u32, quarter: usize, passed: bool) {
    let high = usize::from(msr >= 0xc000_0000);
    let bit = (msr & 0x1fff) as usize;
    let word = &page.words()[(quarter + high) * QUARTER + bit / 64];
    if passed {
        word.fetch_and(!(1 << (bit % 64)), Ordering::Relaxed);
    } else {
        word.fetch_or(1 << (bit % 64), Ordering::Relaxed);
    }
}
