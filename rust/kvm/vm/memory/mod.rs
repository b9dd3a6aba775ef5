// SPDX-License-Identifier: GPL-2.0

//! Guest memory: the VMM's own memory, seen through slots and mapped on demand.
//!
//! Nothing is pinned. The tables that the hardware walks mirror the VMM's page tables; the memory
//! manager says when those change (in `mirror`), and we unmap before it goes on. A fault that raced
//! with such a change is thrown away and happens again.

mod fault;
mod guest;
mod mirror;
mod second_level;
mod slots;

use core::{
    ops::Range,
    sync::atomic::{
        fence,
        AtomicU64,
        Ordering, //
    },
};

use arch::addr::Hpa;
use kernel::{
    new_mutex, new_spinlock,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SpinLock, //
    },
};

pub(crate) use self::{
    fault::Faulted,
    guest::GuestAccess,
    second_level::{
        Mapping,
        SecondLevel,
        SpareTables, //
    },
    slots::{
        Change,
        Region,
        Slot,
        Slots,
        MAX_SLOTS, //
    },
};
use super::kick::Runners;
use crate::{
    host::{
        mm::AddressSpace,
        per_cpu::PerCpu,
        srcu_cell::SrcuCell, //
    },
    stats::vm::{
        self as stat,
        VmCounters, //
    },
};

/// Frames that are unmapped without letting anybody else have a turn: 1 GiB.
const UNMAP_AT_ONCE: u64 = 1 << 18;

/// The memory of a VM.
#[pin_data]
pub(crate) struct Memory<T: SecondLevel> {
    /// What is counted of the VM, which is about its memory.
    pub(crate) stats: VmCounters,
    pub(crate) mm: Arc<AddressSpace>,
    /// Held while slots change, so that changes come one after another.
    #[pin]
    update: Mutex<()>,
    /// The slots, for whoever touches guest memory: one that went is not touched once the call
    /// that removed it has returned.
    #[pin]
    current: SrcuCell<Slots>,
    #[pin]
    tables: SpinLock<Tables<T>>,
    /// Counts ended invalidations, for faults to see that one came between.
    invalidations: AtomicU64,
    /// Counts changes that made cached translations stale.
    generation: AtomicU64,
    /// On each CPU, the generation as of its last flush for this VM.
    flushed: PerCpu<AtomicU64>,
    /// The vCPUs, to interrupt those in guest mode.
    #[pin]
    pub(crate) runners: Runners,
    /// Frames at and above this cannot be mapped.
    max_gfn: u64,
}

struct Tables<T> {
    second_level: T,
    slots: Arc<Slots>,
    /// Invalidations that have begun and not ended, and the addresses they are about.
    in_progress: u32,
    in_progress_range: Range<u64>,
    /// CPUs to interrupt; here because allocating one under the lock could fail.
    kick_mask: KVVec<usize>,
}

impl<T: SecondLevel> Memory<T> {
    /// No memory yet. `max_gfn` is the last frame that can be mapped.
    pub(crate) fn new(mm: Arc<AddressSpace>, max_gfn: u64) -> Result<Arc<Self>> {
        let second_level = T::new()?;
        let slots = Arc::new(Slots::empty(), GFP_KERNEL_ACCOUNT)?;
        let kick_mask = KVVec::from_elem(0, crate::host::cpu::mask_words(), GFP_KERNEL_ACCOUNT)?;
        let flushed = PerCpu::new(|_| Ok(AtomicU64::new(0)))?;
        Arc::pin_init(
            try_pin_init!(Self {
                stats: VmCounters::new(),
                mm: mm,
                update <- new_mutex!(()),
                current <- SrcuCell::new(slots.clone()),
                tables <- new_spinlock!(Tables {
                    second_level,
                    slots,
                    in_progress: 0,
                    in_progress_range: 0..0,
                    kick_mask,
                }),
                invalidations: AtomicU64::new(0),
                // CPUs that never ran the VM have flushed nothing for it; 0 would say they had.
                generation: AtomicU64::new(1),
                flushed: flushed,
                runners <- Runners::new(),
                max_gfn: max_gfn,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Root of the second-level tables.
    pub(crate) fn root(&self) -> Hpa {
        self.tables.lock().second_level.root()
    }

    /// Changes a slot.
    ///
    /// # Errors
    ///
    /// Those of [`Slots::plan`], and ENOMEM.
    pub(crate) fn set_region(&self, region: &Region) -> Result {
        let _update = self.update.lock();
        let old_slots = self.tables.lock().slots.clone();
        let change = old_slots.plan(region, self.max_gfn)?;
        let gone = match change {
            Change::None => return Ok(()),
            Change::Create(_) | Change::Flags { .. } => None,
            Change::Delete(old) | Change::Move { old, .. } => Some(old),
        };
        let new_slots = Arc::new(old_slots.apply(&change)?, GFP_KERNEL_ACCOUNT)?;

        // From here on a fault that found the old slots starts again.
        self.tables.lock().slots = new_slots.clone();
        if let Some(old) = gone {
            self.unmap(old.frames());
        }
        self.current.replace(new_slots);
        Ok(())
    }

    /// Unmaps frames and returns once no CPU can use the old translations. Nobody maps them again
    /// meanwhile.
    ///
    /// The lock is given up from time to time: a large slot has many tables.
    fn unmap(&self, frames: Range<u64>) {
        let mut start = frames.start;
        while start < frames.end {
            let end = ((start | (UNMAP_AT_ONCE - 1)) + 1).min(frames.end);
            let mut tables = self.tables.lock();
            if tables.second_level.unmap(start..end) {
                self.flush(&mut tables.kick_mask);
                tables.second_level.free_unmapped(start..end);
            }
            drop(tables);
            start = end;
        }
    }

    /// Makes cached translations of this VM stale everywhere. CPUs in guest mode leave it before
    /// this returns, and flush before they enter again; others flush when they next enter.
    fn flush(&self, mask: &mut [usize]) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        // A runner says it is in guest mode before it looks at the generation.
        fence(Ordering::SeqCst);
        self.stats.count_shared(stat::REMOTE_TLB_FLUSH_REQUESTS);
        if self.runners.kick_all(mask) {
            self.stats.count_shared(stat::REMOTE_TLB_FLUSH);
        }
    }

    /// Calls `flush` if translations cached on CPU `cpu` for this VM may be stale. The caller is
    /// marked as in guest mode, and cannot move.
    #[inline]
    pub(crate) fn flush_if_stale(&self, cpu: u32, flush: impl FnOnce()) {
        let generation = self.generation.load(Ordering::Relaxed);
        let flushed = self.flushed.get(cpu);
        if flushed.load(Ordering::Relaxed) != generation {
            flush();
            flushed.store(generation, Ordering::Relaxed);
        }
    }
}
