// SPDX-License-Identifier: GPL-2.0

//! The I/O bitmaps and the MSR bitmap that the vCPUs of a VM share (SDM vol. 3, 25.6.4 and 25.6.9).

use core::sync::atomic::Ordering;

use kernel::prelude::*;

use crate::host::page::HardwarePage;

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

/// Words in each quarter of the MSR bitmap: reads of low and high MSRs, writes of low and high.
const QUARTER: usize = 128;

/// What the vCPUs of a VM share.
pub(crate) struct Bitmaps {
    /// Ports 0 to 0x7fff.
    pub(super) io_a: HardwarePage,
    /// Ports 0x8000 to 0xffff.
    pub(super) io_b: HardwarePage,
    pub(super) msr: HardwarePage,
}

impl Bitmaps {
    /// Every port exits, and every MSR but a few.
    pub(super) fn new() -> Result<Self> {
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
        };
        for msr in PASSED_THROUGH {
            bitmaps.pass(msr, 0);
            bitmaps.pass(msr, 2);
        }
        bitmaps.pass(IA32_TSC, 0);
        Ok(bitmaps)
    }

    /// Clears an MSR's bit for reads (`quarter` 0) or writes (2).
    fn pass(&self, msr: u32, quarter: usize) {
        let high = usize::from(msr >= 0xc000_0000);
        let bit = (msr & 0x1fff) as usize;
        let word = (quarter + high) * QUARTER + bit / 64;
        self.msr.words()[word].fetch_and(!(1 << (bit % 64)), Ordering::Relaxed);
    }
}
