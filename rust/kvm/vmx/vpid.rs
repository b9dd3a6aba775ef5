// SPDX-License-Identifier: GPL-2.0

//! Virtual-processor identifiers: tags that keep vCPUs' translations apart (SDM vol. 3, 29.1).

use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
};

const WORDS: usize = 65536 / 64;

/// The identifiers in use.
#[pin_data]
pub(crate) struct Vpids {
    #[pin]
    used: SpinLock<KVVec<u64>>,
}

/// An identifier, given back on drop.
pub(crate) struct Vpid {
    vpids: Arc<Vpids>,
    number: u16,
}

impl Vpids {
    /// None in use but 0, which is the host's.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let mut used = KVVec::from_elem(0u64, WORDS, GFP_KERNEL)?;
        used[0] = 1;
        Arc::pin_init(
            pin_init!(Self {
                used <- new_spinlock!(used),
            }),
            GFP_KERNEL,
        )
    }

    /// One that nobody uses, or `None` where all are taken: then a vCPU does without.
    pub(crate) fn allocate(this: &Arc<Self>) -> Option<Vpid> {
        let mut used = this.used.lock();
        let word = used.iter().position(|word| *word != u64::MAX)?;
        let bit = used[word].trailing_ones();
        used[word] |= 1 << bit;
        Some(Vpid {
            vpids: this.clone(),
            number: (word * 64) as u16 + bit as u16,
        })
    }
}

impl Vpid {
    /// Its number.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        self.vpids.used.lock()[usize::from(self.number / 64)] &= !(1 << (self.number % 64));
    }
}
