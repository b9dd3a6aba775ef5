// SPDX-License-Identifier: GPL-2.0

//! High-resolution timers whose callbacks run in the timer interrupt.
//!
//! The `kernel` crate has timers too, but a handle that must be kept for as long as one runs, one
//! timer a type, and restarts by multiples of an interval only. What is emulated here starts, stops
//! and moves its timers from anywhere.
//!
//! C header: `include/linux/hrtimer.h`.

use core::{
    ops::Deref,
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};

use kernel::{
    bindings,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

use super::clock;

/// What a timer calls.
pub(crate) trait Target: Send + Sync {
    /// Whether `expired` is called in the interrupt itself even by a kernel with PREEMPT_RT, whose
    /// spinlocks sleep. Then it takes none.
    const TAKES_NO_LOCK: bool;

    /// The time has come: it is `now`, in nanoseconds of CLOCK_MONOTONIC. Returns when to call
    /// again, if at all.
    ///
    /// Runs in an interrupt, with interrupts off: nothing may sleep, and no lock may be taken that
    /// others hold with interrupts on, or while they cancel this timer.
    fn expired(&self, now: u64) -> Option<u64>;
}

impl<T: Target> Target for Arc<T> {
    const TAKES_NO_LOCK: bool = T::TAKES_NO_LOCK;

    fn expired(&self, now: u64) -> Option<u64> {
        (**self).expired(now)
    }
}

/// A timer and what it calls. Dropping it cancels it.
///
/// # Invariants
///
/// `inner` was set up with [`Self::run`] and is the first field.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub(crate) struct Timer<T: Target> {
    #[pin]
    inner: Opaque<bindings::hrtimer>,
    /// What the last start asked for, or [`NEVER`] if the callback began after it.
    asked: AtomicU64,
    target: T,
}

const NEVER: u64 = u64::MAX;

// SAFETY: The timer functions lock, so any thread may call them, and the target may be called in
// any.
unsafe impl<T: Target> Send for Timer<T> {}
// SAFETY: As above.
unsafe impl<T: Target> Sync for Timer<T> {}

impl<T: Target> Timer<T> {
    const MODE: bindings::hrtimer_mode = if T::TAKES_NO_LOCK {
        bindings::hrtimer_mode_HRTIMER_MODE_ABS_HARD
    } else {
        bindings::hrtimer_mode_HRTIMER_MODE_ABS
    };

    /// A timer that is not running.
    pub(crate) fn new(target: T) -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: Set up with `run`.
            inner <- Opaque::ffi_init(|slot: *mut bindings::hrtimer| {
                // SAFETY: `slot` is valid and pinned.
                unsafe {
                    bindings::hrtimer_setup(
                        slot,
                        Some(Self::run),
                        bindings::CLOCK_MONOTONIC as bindings::clockid_t,
                        Self::MODE,
                    )
                };
            }),
            asked: AtomicU64::new(NEVER),
            target,
        })
    }

    /// Has the target called at `expires`, in nanoseconds of CLOCK_MONOTONIC, or at once if that is
    /// past. Replaces what was asked before. Never waits; may be called with interrupts off.
    pub(crate) fn start(&self, expires: u64) {
        self.asked.store(expires, Ordering::SeqCst);
        self.program(expires);
    }

    /// Stops the timer and returns once the target is not being called. Returns whether the timer
    /// was running.
    ///
    /// The caller holds no lock that the target takes.
    pub(crate) fn cancel(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::hrtimer_cancel(self.inner.get()) != 0 }
    }

    fn program(&self, expires: u64) {
        let expires = expires.min(i64::MAX as u64) as bindings::ktime_t;
        // SAFETY: By the type invariants. The timer stays in place until it is cancelled on drop.
        unsafe { bindings::hrtimer_start_range_ns(self.inner.get(), expires, 0, Self::MODE) };
    }

    /// # Safety
    ///
    /// Called by the kernel, with the `inner` of a `Timer<T>` that has not been dropped.
    unsafe extern "C" fn run(inner: *mut bindings::hrtimer) -> bindings::hrtimer_restart {
        // SAFETY: `inner` is the first field; drop waits until we return.
        let this = unsafe { &*inner.cast::<Self>() };
        this.asked.store(NEVER, Ordering::SeqCst);
        if let Some(next) = this.target.expired(clock::monotonic()) {
            // Not by HRTIMER_RESTART: that wants the expiry written, which must not be done to a
            // timer that a start on another CPU has queued meanwhile. Such a start is the newer
            // word, so it goes last.
            this.program(next);
            let asked = this.asked.load(Ordering::SeqCst);
            if asked != NEVER {
                this.program(asked);
            }
        }
        bindings::hrtimer_restart::HRTIMER_NORESTART
    }
}

impl<T: Target> Deref for Timer<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.target
    }
}

#[pinned_drop]
impl<T: Target> PinnedDrop for Timer<T> {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
    }
}
