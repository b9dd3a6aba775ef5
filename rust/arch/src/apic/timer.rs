// SPDX-License-Identifier: GPL-2.0

//! The APIC's timer (SDM vol. 3, 11.5.4). Time comes in as nanoseconds of a monotonic clock.
//!
//! In TSC-deadline mode the timer only keeps the deadline: turning it into a time is for whoever
//! knows the guest's TSC.

/// The shortest period in nanoseconds that a guest gets unless something else is configured: KVM's
/// `min_timer_period_us`. Shorter ones would keep the host busy with nothing else.
pub const MIN_PERIOD: u64 = 200_000;

/// What the timer does, by bits 18 and 17 of LVT_TIMER.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TimerMode {
    /// Counts down once.
    OneShot = 0,
    /// Starts again at zero.
    Periodic = 1,
    /// Fires when the TSC reaches IA32_TSC_DEADLINE.
    TscDeadline = 2,
    /// Does nothing.
    Reserved = 3,
}

impl TimerMode {
    /// From the two bits.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    /// Whether it counts bus cycles.
    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// A register write that concerns the timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimerWrite {
    /// LVT_TIMER: another mode.
    Mode(TimerMode),
    /// TMICT: start, or with zero stop.
    InitialCount(u32),
    /// TDCR.
    Divide(u32),
}

/// The timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer {
    mode: TimerMode,
    /// Bus cycles to a count, as a power of two: 0 to 7.
    divide_shift: u32,
    /// Nanoseconds to a bus cycle.
    bus_cycle: u64,
    /// The shortest period granted, in nanoseconds.
    min_period: u64,
    initial_count: u32,
    /// When it fires, unless it is stopped.
    deadline: Option<u64>,
    /// IA32_TSC_DEADLINE; 0 if disarmed.
    tsc_deadline: u64,
}

impl Timer {
    /// A stopped timer. `bus_cycle` is in nanoseconds (KVM_CAP_X86_APIC_BUS_CYCLES_NS; 1 unless
    /// that says otherwise), `min_period` too ([`MIN_PERIOD`]).
    pub const fn new(bus_cycle: u64, min_period: u64) -> Self {
        Self {
            mode: TimerMode::OneShot,
            divide_shift: 1,
            bus_cycle,
            min_period,
            initial_count: 0,
            deadline: None,
            tsc_deadline: 0,
        }
    }

    /// Stops it, as INIT and reset do.
    pub fn reset(&mut self) {
        *self = Self::new(self.bus_cycle, self.min_period);
    }

    /// The mode.
    pub fn mode(&self) -> TimerMode {
        self.mode
    }

    /// Sets the length of a bus cycle in nanoseconds, before the timer is first used.
    pub fn set_bus_cycle(&mut self, bus_cycle: u64) {
        self.bus_cycle = bus_cycle;
    }

    /// When it fires next, in nanoseconds. `None` if it is stopped or in TSC-deadline mode.
    #[inline]
    pub fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// IA32_TSC_DEADLINE: the guest's TSC at which it fires, 0 if it will not.
    #[inline]
    pub fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Writes IA32_TSC_DEADLINE; 0 disarms. Ignored, and false, in another mode.
    #[inline]
    pub fn set_tsc_deadline(&mut self, deadline: u64) -> bool {
        if self.mode != TimerMode::TscDeadline {
            return false;
        }
        self.tsc_deadline = deadline;
        true
    }

    /// Follows a register write at time `now`. Afterwards [`Self::deadline`] has to be asked again.
    pub fn write(&mut self, write: TimerWrite, now: u64) {
        match write {
            TimerWrite::Mode(mode) => self.set_mode(mode),
            TimerWrite::InitialCount(count) => self.set_initial_count(count, now),
            TimerWrite::Divide(value) => self.set_divide(value, now),
        }
    }

    fn set_mode(&mut self, mode: TimerMode) {
        // Between counting once and periodically the count goes on.
        if (mode == TimerMode::TscDeadline) != (self.mode == TimerMode::TscDeadline) {
            self.deadline = None;
            self.initial_count = 0;
            self.tsc_deadline = 0;
        }
        self.mode = mode;
    }

    fn set_initial_count(&mut self, count: u32, now: u64) {
        if self.mode == TimerMode::TscDeadline {
            return;
        }
        self.initial_count = count;
        self.deadline = self
            .period()
            .filter(|_| self.mode.counts())
            .map(|period| now.saturating_add(period));
    }

    /// The divide configuration register: bits 3, 1 and 0 are a power of two, 7 is "by 1".
    fn set_divide(&mut self, value: u32, now: u64) {
        let register = (value & 3) | ((value & 8) >> 1);
        let shift = (register + 1) & 7;
        if let Some(deadline) = self.deadline {
            // What is left of the count is now counted at the new pace.
            let left = deadline.saturating_sub(now) >> (self.divide_shift & 7);
            let left = left.saturating_mul(1 << shift);
            self.deadline = Some(now.saturating_add(left));
        }
        self.divide_shift = shift;
    }

    /// Nanoseconds to a count; not 0.
    fn unit(&self) -> u64 {
        self.bus_cycle
            .saturating_mul(1 << (self.divide_shift & 7))
            .max(1)
    }

    /// Nanoseconds from the initial count to zero.
    fn period(&self) -> Option<u64> {
        if self.initial_count == 0 {
            return None;
        }
        let period = self.unit().saturating_mul(u64::from(self.initial_count));
        Some(if self.mode == TimerMode::Periodic {
            period.max(self.min_period)
        } else {
            period
        })
    }

    /// The current count register at time `now`.
    pub fn current_count(&self, now: u64) -> u32 {
        let Some(deadline) = self.deadline else {
            return 0;
        };
        let left = deadline.saturating_sub(now) / self.unit();
        u32::try_from(left).map_or(self.initial_count, |left| left.min(self.initial_count))
    }

    /// The deadline has passed at time `now`: the caller delivers one timer interrupt
    /// ([`super::Lvt::Timer`]). Gives the deadline that follows, which a periodic timer that was
    /// looked after late does not make up for: it is never before `now`.
    pub fn expire(&mut self, now: u64) -> Option<u64> {
        self.tsc_deadline = 0;
        self.deadline = match (self.mode, self.deadline, self.period()) {
            (TimerMode::Periodic, Some(deadline), Some(period)) => {
                Some(deadline.saturating_add(period).max(now))
            }
            _ => None,
        };
        self.deadline
    }

    /// Takes over a saved timer at time `now`: it goes on from its current count. A current count
    /// of zero is a whole period for a periodic timer, and has a timer that counts once fire at
    /// once, as KVM has it.
    pub fn restore(&mut self, saved: &super::TimerState, now: u64) {
        self.reset();
        self.mode = saved.mode;
        self.set_divide(saved.divide, now);
        self.set_initial_count(saved.initial_count, now);
        let Some(deadline) = self.deadline else {
            return;
        };
        let current = u64::from(saved.current_count);
        if current == 0 && self.mode == TimerMode::Periodic {
            return;
        }
        let left = self.unit().saturating_mul(current);
        self.deadline = Some(deadline.min(now.saturating_add(left)));
    }
}
