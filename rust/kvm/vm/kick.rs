// SPDX-License-Identifier: GPL-2.0

//! Who is in guest mode, who sleeps, and how to get their attention.

use core::{
    ops::Range,
    sync::atomic::{
        fence,
        AtomicBool,
        AtomicI32,
        AtomicU32,
        AtomicUsize,
        Ordering, //
    },
};

use bitflags::bitflags;
use kernel::{
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
};

use crate::host::{
    cpu,
    wait::Waiter, //
};

bitflags! {
    /// What others want a vCPU's thread to do before it enters the guest again.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(crate) struct Requests: u32 {
        /// The local APIC got INIT.
        const INIT = 1 << 0;
        /// The local APIC got a start-up IPI.
        const SIPI = 1 << 1;
        /// An NMI came.
        const NMI = 1 << 2;
        /// The APIC timer expired.
        const APIC_TIMER = 1 << 3;
        /// Another vCPU kicked this one out of HLT (KVM_HC_KICK_CPU).
        const UNHALT = 1 << 4;
        /// The IOAPIC held back an interrupt storm for a while, which is over.
        const IOAPIC_REINJECT = 1 << 5;
        /// The guest's clock is to be brought up to date.
        const CLOCK = 1 << 6;
        /// The guest's steal time is to be brought up to date.
        const STEAL_TIME = 1 << 7;
        /// The vCPU came to another CPU.
        const MOVED = 1 << 8;
        /// Memory is there that the guest waits for.
        const PAGE_READY = 1 << 9;
        /// The processor is to log writes from now on, or not any more.
        const LOG_WRITES = 1 << 10;
        /// The VMM is to free entries of the ring that notes written pages.
        const DIRTY_RING_FULL = 1 << 11;
        /// What `pv` serves.
        const PV = Self::CLOCK.bits() | Self::STEAL_TIME.bits() | Self::MOVED.bits();
        /// What does not end a halt.
        const PASSIVE = Self::PV.bits() | Self::LOG_WRITES.bits() | Self::DIRTY_RING_FULL.bits();
    }
}

/// What others may know of a vCPU while its thread has it.
pub(crate) struct Runner {
    in_guest: AtomicBool,
    cpu: AtomicU32,
    /// The CPU that the thread last ran on, u32::MAX for none.
    last_cpu: AtomicU32,
    /// The thread that runs the vCPU, or did.
    thread: AtomicI32,
    /// That thread would run, and has no CPU.
    waits_for_cpu: AtomicBool,
    requests: AtomicU32,
    waiter: Waiter,
}

impl Runner {
    /// A vCPU that is not in guest mode.
    pub(crate) const fn new() -> Self {
        Self {
            in_guest: AtomicBool::new(false),
            cpu: AtomicU32::new(0),
            last_cpu: AtomicU32::new(u32::MAX),
            thread: AtomicI32::new(0),
            waits_for_cpu: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            waiter: Waiter::new(),
        }
    }

    /// The vCPU is about to enter the guest on `cpu`. What it reads after this is not older than
    /// what anybody wrote before looking for runners.
    #[inline]
    pub(crate) fn enter(&self, cpu: u32) {
        self.cpu.store(cpu, Ordering::Relaxed);
        self.in_guest.swap(true, Ordering::SeqCst);
    }

    /// The vCPU's thread runs on `cpu`. Returns whether it was on another CPU before.
    #[inline]
    pub(crate) fn came_to(&self, cpu: u32) -> bool {
        self.last_cpu.swap(cpu, Ordering::Relaxed) != cpu
    }

    /// Notes which thread runs the vCPU.
    #[inline]
    pub(crate) fn set_thread(&self, thread: i32) {
        self.thread.store(thread, Ordering::Relaxed);
    }

    /// The thread that runs the vCPU, or did.
    pub(crate) fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// Notes whether that thread would run and has no CPU.
    #[inline]
    pub(crate) fn set_waits_for_cpu(&self, waits: bool) {
        self.waits_for_cpu.store(waits, Ordering::Relaxed);
    }

    /// Whether the vCPU would run, if its thread had a CPU.
    pub(crate) fn waits_for_cpu(&self) -> bool {
        self.waits_for_cpu.load(Ordering::Relaxed)
    }

    /// The vCPU is out.
    #[inline]
    pub(crate) fn exit(&self) {
        self.in_guest.store(false, Ordering::Release);
    }

    /// Has the vCPU's thread look at what was written before: wakes it if it sleeps, and gets it
    /// out of the guest if it is there. For any context.
    pub(crate) fn kick(&self) {
        if self.waiter.wake() {
            return;
        }
        fence(Ordering::SeqCst);
        if self.in_guest.load(Ordering::Relaxed) {
            let cpu = self.cpu.load(Ordering::Relaxed);
            // On this CPU it is an interrupt that runs this, and that brought the guest out.
            if cpu != cpu::current() {
                cpu::interrupt(cpu);
            }
        }
    }

    /// Tells the processor that runs the vCPU of posted interrupts, which it takes without an exit;
    /// wakes the vCPU's thread if it sleeps.
    pub(crate) fn notify(&self) {
        if self.waiter.wake() {
            return;
        }
        fence(Ordering::SeqCst);
        if self.in_guest.load(Ordering::Relaxed) {
            let cpu = self.cpu.load(Ordering::Relaxed);
            if cpu != cpu::current() {
                cpu::notify_posted(cpu);
            }
        }
    }

    /// Leaves requests for the vCPU's thread, and kicks it.
    pub(crate) fn request(&self, requests: Requests) {
        self.requests.fetch_or(requests.bits(), Ordering::Release);
        self.kick();
    }

    /// Leaves requests that the vCPU's own thread is to see.
    pub(crate) fn request_own(&self, requests: Requests) {
        self.requests.fetch_or(requests.bits(), Ordering::Relaxed);
    }

    /// Whether there are requests.
    #[inline]
    pub(crate) fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Relaxed) != 0
    }

    /// The requests, which stay.
    #[inline]
    pub(crate) fn requests(&self) -> Requests {
        Requests::from_bits_retain(self.requests.load(Ordering::Acquire))
    }

    /// Takes those of `mask` that there are.
    pub(crate) fn take_requests(&self, mask: Requests) -> Requests {
        let old = self.requests.fetch_and(!mask.bits(), Ordering::AcqRel);
        Requests::from_bits_retain(old) & mask
    }

    /// Sleeps until `done` says so; see [`Waiter::wait`].
    pub(crate) fn wait(&self, done: impl FnMut() -> bool) -> Result {
        self.waiter.wait(done)
    }
}

/// vCPUs that are looked at under the lock of their list.
const MANY: usize = 128;
/// vCPUs that are woken under it.
const FEW: usize = 8;

/// The vCPUs of a VM.
#[pin_data]
pub(crate) struct Runners {
    #[pin]
    list: SpinLock<KVec<Arc<Runner>>>,
    /// Whom [`Self::next_waiting`] found last.
    last_found: AtomicUsize,
}

impl Runners {
    /// No vCPUs.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- kernel::new_spinlock!(KVec::new()),
            last_found: AtomicUsize::new(0),
        })
    }

    /// Adds a vCPU. Calls come one after another.
    pub(crate) fn add(&self, runner: Arc<Runner>) -> Result {
        let count = self.count();
        let mut grown = KVec::with_capacity(count + 1, GFP_KERNEL_ACCOUNT)?;
        self.each(MANY, |old| {
            let _always_fits = grown.push_within_capacity(old.clone());
        });
        let _always_fits = grown.push_within_capacity(runner);
        core::mem::swap(&mut *self.list.lock(), &mut grown);
        Ok(())
    }

    /// Takes back the last [`Self::add`].
    pub(crate) fn remove_last(&self) {
        let last = self.list.lock().pop();
        drop(last);
    }

    /// How many vCPUs there are.
    pub(crate) fn count(&self) -> usize {
        self.list.lock().len()
    }

    /// Calls `f` for each vCPU, for so many at a time with the lock held.
    fn each(&self, at_once: usize, mut f: impl FnMut(&Arc<Runner>)) {
        let mut done = 0;
        loop {
            let list = self.list.lock();
            let some = list.get(done..).unwrap_or(&[]);
            if some.is_empty() {
                return;
            }
            some.iter().take(at_once).for_each(&mut f);
            done += at_once;
        }
    }

    /// The thread of a vCPU that waits for a CPU, if there is one: the next after that which was
    /// found last, and not `own`.
    pub(crate) fn next_waiting(&self, own: &Runner) -> Option<i32> {
        let count = self.count();
        let start = (self.last_found.load(Ordering::Relaxed) + 1).min(count);
        let (place, thread) = self
            .waiting_in(start..count, own)
            .or_else(|| self.waiting_in(0..start, own))?;
        self.last_found.store(place, Ordering::Relaxed);
        Some(thread)
    }

    /// The first of those at `places` that waits for a CPU and is not `own`: its place and its
    /// thread.
    fn waiting_in(&self, places: Range<usize>, own: &Runner) -> Option<(usize, i32)> {
        places.clone().step_by(MANY).find_map(|first| {
            let list = self.list.lock();
            let some = list.get(first..places.end.min(first + MANY).min(list.len()))?;
            let found = some
                .iter()
                .position(|runner| runner.waits_for_cpu() && !core::ptr::eq(&**runner, own))?;
            Some((first + found, some.get(found)?.thread()))
        })
    }

    /// Leaves requests for all vCPUs. Those that are in guest mode see them when they next exit.
    pub(crate) fn request_all(&self, requests: Requests) {
        self.each(MANY, |runner| {
            runner.requests.fetch_or(requests.bits(), Ordering::SeqCst);
        });
    }

    /// Interrupts every vCPU that is in guest mode, without waiting for it to come out.
    pub(crate) fn interrupt_all(&self) {
        self.each(FEW, |runner| runner.kick());
    }

    /// Interrupts every vCPU that is in guest mode, and returns when all are out: whether there were
    /// any. `mask` has room for a bit a CPU.
    pub(crate) fn kick_all(&self, mask: &mut [usize]) -> bool {
        mask.fill(0);
        let mut any = false;
        self.each(MANY, |runner| {
            if runner.in_guest.load(Ordering::SeqCst) {
                let cpu = runner.cpu.load(Ordering::Relaxed) as usize;
                mask[cpu / usize::BITS as usize] |= 1 << (cpu % usize::BITS as usize);
                any = true;
            }
        });
        if any {
            let _pinned = cpu::Pinned::new();
            cpu::kick(mask);
        }
        any
    }
}
