// SPDX-License-Identifier: GPL-2.0

//! What is counted of a VM.

use super::{
    table::{
        place,
        words_before, //
    },
    Counters,
    Place,
    Statistic, //
};

/// The statistics of a VM.
pub(crate) const TABLE: [Statistic; 16] = [
    Statistic::counter(c"remote_tlb_flush"),
    Statistic::counter(c"remote_tlb_flush_requests"),
    Statistic::counter(c"mmu_shadow_zapped"),
    Statistic::counter(c"mmu_pte_write"),
    Statistic::counter(c"mmu_pde_zapped"),
    Statistic::counter(c"mmu_flooded"),
    Statistic::counter(c"mmu_recycled"),
    Statistic::counter(c"mmu_cache_miss"),
    Statistic::gauge(c"mmu_unsync"),
    Statistic::gauge(c"mmu_shadow_pages"),
    Statistic::gauge(c"pages_4k"),
    Statistic::gauge(c"pages_2m"),
    Statistic::gauge(c"pages_1g"),
    Statistic::gauge(c"nx_lpage_splits"),
    Statistic::peak(c"max_mmu_rmap_size"),
    Statistic::peak(c"max_mmu_page_hash_collisions"),
];

const WORDS: usize = words_before(&TABLE, TABLE.len());

/// The numbers of a VM.
pub(crate) type VmCounters = Counters<WORDS>;

/// vCPUs were got out of the guest because translations were stale.
pub(crate) const REMOTE_TLB_FLUSH: Place<WORDS> = place(&TABLE, c"remote_tlb_flush");
/// Translations became stale, whether or not a vCPU was in the guest.
pub(crate) const REMOTE_TLB_FLUSH_REQUESTS: Place<WORDS> =
    place(&TABLE, c"remote_tlb_flush_requests");
