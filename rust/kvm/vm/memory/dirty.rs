// SPDX-License-Identifier: GPL-2.0

//! Which pages of a slot were written since the VMM last asked
//! (api.rst, 4.8 KVM_GET_DIRTY_LOG and 8.29 KVM_CAP_DIRTY_LOG_RING).
//!
//! Whoever writes a page notes that afterwards, or at least after the guest was let to: whoever
//! takes the note away first and then looks for writes to come misses none.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Pages in a word of a bitmap.
pub(super) const WORD: u64 = 64;

/// How the VMM of a slot with KVM_MEM_LOG_DIRTY_PAGES learns of written pages.
#[derive(Clone)]
pub(crate) enum Log {
    /// From a bitmap.
    Bitmap(Arc<DirtyBitmap>),
    /// From the rings of the vCPUs that wrote.
    Rings,
}

/// A bit for each page of a slot, set if it was written.
pub(crate) struct DirtyBitmap(KVVec<AtomicU64>);

impl DirtyBitmap {
    /// A bitmap for `pages` pages, with none of them written, or all.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(super) fn new(pages: u64, all: bool) -> Result<Arc<Self>> {
        let count = pages.div_ceil(WORD);
        let mut words = KVVec::with_capacity(count as usize, GFP_KERNEL_ACCOUNT)?;
        for index in 0..count {
            let in_word = (pages - index * WORD).min(WORD) as u32;
            let word = if all {
                u64::MAX >> (u64::BITS - in_word)
            } else {
                0
            };
            words.push(AtomicU64::new(word), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Arc::new(Self(words), GFP_KERNEL_ACCOUNT)?)
    }

    /// Notes that a page was written.
    #[inline]
    pub(super) fn mark(&self, page: u64) {
        if let Some(word) = self.0.get((page / WORD) as usize) {
            let bit = 1 << (page % WORD);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// The words of the bitmap.
    pub(super) fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}
