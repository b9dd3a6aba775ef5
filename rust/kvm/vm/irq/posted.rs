// SPDX-License-Identifier: GPL-2.0

//! Posted interrupts: a place from where the processor itself takes interrupts into the virtual
//! APIC (SDM vol. 3, 30.6).

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use arch::addr::Hpa;
use kernel::prelude::*;

use crate::host::page::HardwarePage;

/// Where the requests are.
const REQUESTS: usize = 0;
/// Where the flags are, and the notification vector.
const CONTROL: usize = 4;
/// Outstanding notification: there are requests, and the processor was told.
const ON: u64 = 1 << 0;

/// A posted-interrupt descriptor. It has a page of its own, which is more than the manual asks for:
/// its physical address is one that the VMCS can have.
pub(crate) struct Posted(HardwarePage);

impl Posted {
    /// No requests.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(HardwarePage::new()?))
    }

    /// Its physical address.
    pub(crate) fn hpa(&self) -> Hpa {
        self.0.hpa()
    }

    #[inline]
    fn word(&self, index: usize) -> &AtomicU64 {
        // The mask keeps it in the page.
        &self.0.words()[index & 7]
    }

    /// Leaves a request. Returns whether the processor has to be told.
    #[inline]
    pub(crate) fn post(&self, vector: u8) -> bool {
        let word = self.word(REQUESTS + usize::from(vector >> 6));
        word.fetch_or(1 << (vector & 63), Ordering::SeqCst);
        self.word(CONTROL).fetch_or(ON, Ordering::SeqCst) & ON == 0
    }

    /// Takes the requests, if there are any.
    #[inline]
    pub(crate) fn take(&self) -> Option<[u64; 4]> {
        if self.word(CONTROL).load(Ordering::Relaxed) & ON == 0 {
            return None;
        }
        self.word(CONTROL).fetch_and(!ON, Ordering::SeqCst);
        Some(core::array::from_fn(|i| {
            self.word(REQUESTS + i).swap(0, Ordering::SeqCst)
        }))
    }
}
