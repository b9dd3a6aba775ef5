// SPDX-License-Identifier: GPL-2.0

//! Following the VMM's page tables.

use core::{
    ops::Range,
    sync::atomic::Ordering, //
};

use arch::addr::{
    Hva,
    PAGE_SHIFT, //
};

use super::{
    slots::Slot,
    Memory,
    SecondLevel, //
};
use crate::host::{
    mmu_notifier::Mirror,
    trace::trace, //
};

/// The frames of `slot` whose memory is in `range`.
fn frames_in(slot: &Slot, range: &Range<Hva>) -> Option<Range<u64>> {
    let hvas = slot.hvas();
    let start = hvas.start.max(range.start.0);
    let end = hvas.end.min(range.end.0);
    if start >= end {
        return None;
    }
    let first = (start - hvas.start) >> PAGE_SHIFT;
    let last = (end - 1 - hvas.start) >> PAGE_SHIFT;
    Some(slot.base.0 + first..slot.base.0 + last + 1)
}

impl<T: SecondLevel> Mirror for Memory<T> {
    fn invalidate_start(&self, range: Range<Hva>) {
        trace!(kvm_unmap_hva_range(range.start.0, range.end.0));
        let mut tables = self.tables.lock();

        if tables.in_progress == 0 {
            tables.in_progress_range = range.start.0..range.end.0;
        } else {
            let all = &mut tables.in_progress_range;
            *all = all.start.min(range.start.0)..all.end.max(range.end.0);
        }
        tables.in_progress += 1;
        let slots = tables.slots.clone();
        drop(tables);

        for frames in slots
            .near(&range)
            .filter_map(|slot| frames_in(slot, &range))
        {
            self.unmap(frames);
        }
    }

    fn invalidate_end(&self, _range: Range<Hva>) {
        let mut tables = self.tables.lock();
        self.invalidations.fetch_add(1, Ordering::Release);
        tables.in_progress -= 1;
    }

    fn test_young(&self, range: Range<Hva>, clear: bool) -> bool {
        let mut tables = self.tables.lock();
        let slots = tables.slots.clone();
        let mut young = false;
        for frames in slots
            .near(&range)
            .filter_map(|slot| frames_in(slot, &range))
        {
            young |= self
                .second_level
                .test_young(&mut tables.serial, frames, clear);
        }
        young
    }

    fn release(&self) {
        let slots = self.tables.lock().slots.clone();
        for slot in slots.iter() {
            self.unmap(slot.frames());
        }
    }
}
