// SPDX-License-Identifier: GPL-2.0

//! Guest memory: the VMM's own memory, seen through slots and mapped on demand.
//!
//! Nothing is pinned. The tables that the hardware walks mirror the VMM's page tables; the memory
//! manager says when those change (in `mirror`), and we unmap before it goes on. A fault that raced
//! with such a change is thrown away and happens again.

mod dirty;
mod dirty_ring;
mod fault;
mod guest;
mod mirror;
mod second_level;
mod slots;
mod sweep;

use core::{
    ops::Range,
    sync::atomic::{
        fence,
        AtomicBool,
        AtomicU32,
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

use self::{
    dirty::{
        DirtyBitmap,
        Log, //
    },
    slots::{
        Change,
        Ids, //
    },
    sweep::in_parts, //
};
pub(crate) use self::{
    dirty_ring::{
        DirtyRing,
        MAX_RING_SIZE, //
    },
    fault::Faulted,
    guest::GuestAccess,
    second_level::{
        Mapped,
        Mapping,
        SecondLevel,
        Serial,
        SpareTables, //
    },
    slots::{
        Region,
        Slot,
        Slots,
        MAX_SLOTS, //
    },
    sweep::Clear, //
};
use super::kick::{
    Requests,
    Runner,
    Runners, //
};
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

/// Frames that are unmapped without letting anybody else have a turn: 1 GiB, which takes as many
/// stores as there are tables of small pages, and no more than two of these that go in part.
const UNMAP_AT_ONCE: u64 = 1 << 18;

/// The memory of a VM.
#[pin_data]
pub(crate) struct Memory<T: SecondLevel> {
    /// What is counted of the VM, which is about its memory.
    pub(crate) stats: VmCounters,
    pub(crate) mm: Arc<AddressSpace>,
    /// Held while slots change, and by sweeps, so that these come one after another.
    #[pin]
    update: Mutex<Ids>,
    /// The slots, for whoever touches guest memory: one that went is not touched once the call
    /// that removed it has returned.
    #[pin]
    current: SrcuCell<Slots>,
    second_level: T,
    #[pin]
    tables: SpinLock<Tables>,
    /// Counts ended invalidations, for faults to see that one came between.
    invalidations: AtomicU64,
    /// Counts changes that made cached translations stale.
    generation: AtomicU64,
    /// On each CPU, the generation as of its last flush for this VM.
    flushed: PerCpu<AtomicU64>,
    /// The vCPUs, to interrupt those in guest mode.
    #[pin]
    pub(crate) runners: Runners,
    limits: Limits,
    /// KVM_DIRTY_LOG_* in force.
    log_options: AtomicU32,
    /// Bytes in the ring of each vCPU that notes what it wrote; 0 where slots have bitmaps.
    ring_size: AtomicU32,
    /// Whether there ever was a slot with a log: until then no page waits for a write to be noted.
    ever_logged: AtomicBool,
    /// Slots with a log.
    logged_slots: AtomicU32,
}

/// What the processor can do with guest memory.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// The last frame that can be mapped.
    pub(crate) max_gfn: u64,
    /// log2 of the small pages in the largest page.
    pub(crate) max_order: u32,
    /// How many written pages the processor logs by itself before it exits; 0 where it does not.
    pub(crate) logged_writes: u32,
}

/// KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE: the VMM clears bitmaps by itself.
const MANUAL_PROTECT: u32 = 1 << 0;
/// KVM_DIRTY_LOG_INITIALLY_SET: pages count as written when their log begins.
const INITIALLY_SET: u32 = 1 << 1;
/// The value of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
pub(crate) const LOG_OPTIONS: u32 = MANUAL_PROTECT | INITIALLY_SET;

struct Tables {
    serial: Serial,
    slots: Arc<Slots>,
    /// Invalidations that have begun and not ended, and the addresses they are about.
    in_progress: u32,
    in_progress_range: Range<u64>,
    /// CPUs to interrupt; here because allocating one under the lock could fail.
    kick_mask: KVVec<usize>,
}

impl<T: SecondLevel> Memory<T> {
    /// No memory yet.
    pub(crate) fn new(mm: Arc<AddressSpace>, limits: Limits) -> Result<Arc<Self>> {
        let second_level = T::new(limits.logged_writes != 0)?;
        let slots = Arc::new(Slots::empty(), GFP_KERNEL_ACCOUNT)?;
        let kick_mask = KVVec::from_elem(0, crate::host::cpu::mask_words(), GFP_KERNEL_ACCOUNT)?;
        let flushed = PerCpu::new(|_| Ok(AtomicU64::new(0)))?;
        Arc::pin_init(
            try_pin_init!(Self {
                stats: VmCounters::new(),
                mm: mm,
                update <- new_mutex!(Ids::new()),
                current <- SrcuCell::new(slots.clone()),
                second_level: second_level,
                tables <- new_spinlock!(Tables {
                    serial: Serial(()),
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
                limits: limits,
                log_options: AtomicU32::new(0),
                ring_size: AtomicU32::new(0),
                ever_logged: AtomicBool::new(false),
                logged_slots: AtomicU32::new(0),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Root of the second-level tables.
    pub(crate) fn root(&self) -> Hpa {
        self.second_level.root()
    }

    /// Changes a slot.
    ///
    /// # Errors
    ///
    /// Those of [`Slots::plan`], and ENOMEM.
    pub(crate) fn set_region(&self, region: &Region) -> Result {
        let mut ids = self.update.lock();
        let old_slots = self.tables.lock().slots.clone();
        let mut change = old_slots.plan(region, &ids, self.limits.max_gfn)?;
        if matches!(change, Change::None) {
            return Ok(());
        }
        self.choose_log(&mut change)?;
        let new_slots = Arc::new(old_slots.apply(&change)?, GFP_KERNEL_ACCOUNT)?;
        if let Some(new) = change.after() {
            ids.try_create_and_insert(new.id, new.base, GFP_KERNEL_ACCOUNT)?;
        }

        let had_log = change.before().is_some_and(|slot| slot.log.is_some());
        let has_log = change.after().is_some_and(|slot| slot.log.is_some());
        if has_log && !had_log {
            self.count_logged(true);
        }
        // From here on a fault that found the old slots starts again.
        self.tables.lock().slots = new_slots.clone();
        if let Change::Delete(old) | Change::Move { old, .. } = &change {
            self.unmap(old.frames());
        }
        // From here on nobody writes without noting it where there is a log now.
        self.current.replace(new_slots);
        match &change {
            Change::Delete(old) => {
                ids.remove(&old.id);
            }
            Change::Flags { new, .. } if !new.is_readonly() => match (had_log, has_log) {
                (false, true) if !self.initially_set() => self.start_log(new),
                (true, false) => self.join(new),
                _ => {}
            },
            _ => {}
        }
        if had_log && !has_log {
            self.count_logged(false);
        }
        Ok(())
    }

    /// Gives the new slot of a change its log, if it is to have one.
    fn choose_log(&self, change: &mut Change) -> Result {
        let old_log = change.before().and_then(|old| old.log.clone());
        let Some(new) = change.after_mut().filter(|new| new.wants_log()) else {
            return Ok(());
        };
        new.log = Some(match old_log {
            Some(log) => log,
            None if self.ring_size() != 0 => Log::Rings,
            None => Log::Bitmap(DirtyBitmap::new(new.pages, self.initially_set())?),
        });
        Ok(())
    }

    /// Counts a slot that has a log now, or has none any more. When the first one comes, no vCPU is
    /// in the guest any more without the processor's log.
    fn count_logged(&self, has_log: bool) {
        let count = if has_log {
            self.ever_logged.store(true, Ordering::Relaxed);
            self.logged_slots.fetch_add(1, Ordering::SeqCst) + 1
        } else {
            self.logged_slots.fetch_sub(1, Ordering::SeqCst) - 1
        };
        if self.logs_writes() && count <= 1 {
            self.runners.request_all(Requests::LOG_WRITES);
            if has_log {
                self.collect_writes();
            }
        }
    }

    /// Whether a slot has a log.
    pub(crate) fn is_logged(&self) -> bool {
        self.logged_slots.load(Ordering::SeqCst) != 0
    }

    /// Whether a slot ever had one.
    #[inline]
    pub(crate) fn ever_logged(&self) -> bool {
        self.ever_logged.load(Ordering::Relaxed)
    }

    /// Whether the processor logs writes by itself.
    #[inline]
    pub(crate) fn logs_writes(&self) -> bool {
        self.limits.logged_writes != 0
    }

    /// How the VMM wants bitmaps to be: KVM_DIRTY_LOG_* (api.rst, 7.11
    /// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
    ///
    /// # Errors
    ///
    /// EINVAL for options that do not exist, or not without others.
    pub(crate) fn set_log_options(&self, options: u64) -> Result {
        let allowed = if options & u64::from(MANUAL_PROTECT) != 0 {
            LOG_OPTIONS
        } else {
            MANUAL_PROTECT
        };
        if options & !u64::from(allowed) != 0 {
            return Err(EINVAL);
        }
        self.log_options.store(options as u32, Ordering::Relaxed);
        Ok(())
    }

    fn manual_protect(&self) -> bool {
        self.log_options.load(Ordering::Relaxed) & MANUAL_PROTECT != 0
    }

    fn initially_set(&self) -> bool {
        self.log_options.load(Ordering::Relaxed) & LOG_OPTIONS == LOG_OPTIONS
    }

    /// Bytes in the ring of each vCPU, or 0.
    pub(crate) fn ring_size(&self) -> u32 {
        self.ring_size.load(Ordering::Relaxed)
    }

    /// Checks the size of vCPUs' rings, in bytes.
    ///
    /// # Errors
    ///
    /// EINVAL for a size that cannot be, or where there is one already; E2BIG.
    pub(crate) fn check_ring_size(&self, size: u64) -> Result<u32> {
        let size = dirty_ring::check_size(size, self.limits.logged_writes)?;
        if self.ring_size() != 0 {
            return Err(EINVAL);
        }
        Ok(size)
    }

    /// Has each vCPU to come note what it writes in a ring of `size` bytes, which was checked.
    pub(crate) fn set_ring_size(&self, size: u32) {
        self.ring_size.store(size, Ordering::Relaxed);
    }

    /// The ring of a new vCPU, where they have one.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn new_ring(&self, runner: &Arc<Runner>) -> Result<Option<DirtyRing>> {
        match self.ring_size() {
            0 => Ok(None),
            size => DirtyRing::new(size, self.limits.logged_writes, runner.clone()).map(Some),
        }
    }

    /// Unmaps frames and returns once no CPU can use the old translations. Nobody maps them again
    /// meanwhile.
    ///
    /// The lock is given up from time to time, a large slot having many tables, and while tables are
    /// freed: whoever finds one that was unmapped finds that translations were invalidated too.
    fn unmap(&self, frames: Range<u64>) {
        for frames in in_parts(frames, UNMAP_AT_ONCE) {
            let mut tables = self.tables.lock();
            let locked = &mut *tables;
            if !self.second_level.unmap(&mut locked.serial, frames.clone()) {
                continue;
            }
            self.flush(&mut locked.kick_mask);
            let serial = &mut locked.serial;
            let mut unused = self.second_level.take_unmapped(serial, &frames);
            drop(tables);
            while unused.is_some() {
                drop(unused);
                let mut tables = self.tables.lock();
                unused = self.second_level.take_unmapped(&mut tables.serial, &frames);
            }
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
