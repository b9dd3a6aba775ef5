// SPDX-License-Identifier: GPL-2.0

//! What is counted of a VM and of a vCPU, under the names that the kernel's own KVM has for it.
//!
//! A table names the statistics of a kind of object, in the order in which user space sees them
//! (api.rst, 4.133 KVM_GET_STATS_FD). The numbers themselves are [`Counters`], words side by side.
//! Those of the tables that cannot happen here (shadow paging, nested guests) stay zero, as they do
//! on kvm-intel with EPT and no nested guest.

mod table;
pub(crate) mod vcpu;
pub(crate) mod vm;

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};

pub(crate) use self::table::{
    words_before,
    Kind,
    Statistic,
    Unit, //
};

/// Buckets of a logarithmic histogram of times (KVM's `HALT_POLL_HIST_COUNT`).
const BUCKETS: usize = 32;

/// The numbers of one VM or vCPU: `WORDS` words.
pub(crate) struct Counters<const WORDS: usize>([AtomicU64; WORDS]);

/// Where a statistic is among [`Counters`] of as many words.
#[derive(Clone, Copy)]
pub(crate) struct Place<const WORDS: usize>(usize);

impl<const WORDS: usize> Counters<WORDS> {
    /// Nothing has happened yet.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; WORDS])
    }

    /// Counts one more. For the one thread that counts here: others may read, and what they clear
    /// in the same moment may be back.
    #[inline(always)]
    pub(crate) fn count(&self, place: Place<WORDS>) {
        self.add(place, 1);
    }

    /// Adds to a sum, on the same terms.
    #[inline(always)]
    pub(crate) fn add(&self, place: Place<WORDS>, amount: u64) {
        let word = &self.0[place.0];
        word.store(
            word.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    /// Counts one more where several threads may do so at once.
    #[inline]
    pub(crate) fn count_shared(&self, place: Place<WORDS>) {
        self.0[place.0].fetch_add(1, Ordering::Relaxed);
    }

    /// Sets what is so at the moment.
    #[inline(always)]
    pub(crate) fn set(&self, place: Place<WORDS>, value: u64) {
        self.0[place.0].store(value, Ordering::Relaxed);
    }

    /// Counts a time in a logarithmic histogram: bucket 0 is for 0, bucket n for times from
    /// 2^(n-1) on, the last for all that are longer.
    pub(crate) fn count_time(&self, histogram: Place<WORDS>, nanoseconds: u64) {
        let bucket = (u64::BITS - nanoseconds.leading_zeros()) as usize;
        if let Some(word) = self.0.get(histogram.0 + bucket.min(BUCKETS - 1)) {
            word.store(
                word.load(Ordering::Relaxed).wrapping_add(1),
                Ordering::Relaxed,
            );
        }
    }

    /// Word number `word`, if there is one.
    pub(crate) fn word(&self, word: usize) -> u64 {
        self.0
            .get(word)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Sets it to zero.
    pub(crate) fn clear_word(&self, word: usize) {
        if let Some(word) = self.0.get(word) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// All words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}
