// SPDX-License-Identifier: GPL-2.0

//! The host's clocks, in nanoseconds.
//!
//! C header: `include/linux/timekeeping.h`.

use kernel::bindings;

/// CLOCK_MONOTONIC: does not count while the host is suspended. This is what timers go by.
#[inline]
pub(crate) fn monotonic() -> u64 {
    // SAFETY: Reads the clock, outside of NMIs.
    unsafe { bindings::ktime_get() as u64 }
}

/// CLOCK_REALTIME.
#[inline]
pub(crate) fn real() -> u64 {
    // SAFETY: As above.
    unsafe { bindings::ktime_get_real() as u64 }
}

/// CLOCK_MONOTONIC_RAW: at the rate of the hardware's counter, which nobody corrects.
#[inline]
pub(crate) fn monotonic_raw() -> u64 {
    // SAFETY: As above.
    unsafe { bindings::ktime_get_raw() as u64 }
}

/// How long the host was suspended: what CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC.
#[inline]
pub(crate) fn suspended() -> u64 {
    // SAFETY: As above.
    unsafe { bindings::ktime_mono_to_any(0, bindings::tk_offsets_TK_OFFS_BOOT) as u64 }
}

/// Whether the time-stamp counters of all CPUs are one, for all the kernel knows.
#[inline]
pub(crate) fn is_tsc_stable() -> bool {
    // SAFETY: Reads a variable of the kernel's.
    unsafe { super::bindings::shim_tsc_stable() }
}

/// A clock that [`Snapshot::take`] reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Boot,
    Real,
}

/// What clocks and the time-stamp counter said at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot {
    /// The time-stamp counter.
    pub(crate) tsc: u64,
    /// The clock that was asked for.
    pub(crate) time: u64,
    /// CLOCK_MONOTONIC_RAW.
    pub(crate) monotonic_raw: u64,
}

impl Snapshot {
    /// Reads `clock`, CLOCK_MONOTONIC_RAW and the time-stamp counter together; `None` where the
    /// kernel keeps its time by anything but the time-stamp counter, or is suspended.
    pub(crate) fn take(clock: Clock) -> Option<Self> {
        let id = match clock {
            Clock::Boot => bindings::CLOCK_BOOTTIME,
            Clock::Real => bindings::CLOCK_REALTIME,
        };
        let mut snapshot = bindings::system_time_snapshot::default();
        // SAFETY: `snapshot` is valid for the write.
        unsafe { bindings::ktime_get_snapshot_id(id as bindings::clockid_t, &mut snapshot) };
        let by_tsc = snapshot.cs_id == bindings::clocksource_ids_CSID_X86_TSC
            || snapshot.cs_id == bindings::clocksource_ids_CSID_X86_TSC_EARLY;
        (snapshot.valid != 0 && by_tsc).then_some(Self {
            tsc: snapshot.cycles,
            time: snapshot.systime as u64,
            monotonic_raw: snapshot.monoraw as u64,
        })
    }
}
