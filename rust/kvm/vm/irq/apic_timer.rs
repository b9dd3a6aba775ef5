// SPDX-License-Identifier: GPL-2.0

//! The timer of a vCPU's local APIC, and who makes it expire.
//!
//! What the timer is set to is `arch::apic::Timer`. While the guest runs, a processor that can
//! ends the guest's turn when the time has come, which is exact and costs no interrupt of the
//! host's. Where it cannot, and while the vCPU's thread sleeps, a timer of the host's does it. A
//! thread that is ready and waits for a CPU needs neither: the guest's turn ends as it begins.

use arch::apic::{
    Delivery,
    LocalInterrupt,
    Lvt,
    Timer,
    TimerMode,
    TimerWrite,
    MIN_PERIOD, //
};

use super::local_apic::LocalApic;
use crate::{
    host::{
        clock,
        cpu, //
    },
    vm::{
        backend::Backend,
        kick::Requests,
        vcpu::Loaded, //
    },
};

/// Who makes the timer expire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    /// It is stopped.
    Nobody,
    /// The processor, in non-root operation.
    Processor,
    /// A timer of the host's, which runs or has left its request.
    Host,
}

/// The timer as the vCPU's thread has it.
pub(crate) struct ApicTimer {
    timer: Timer,
    holder: Holder,
}

impl ApicTimer {
    /// A stopped timer. `bus_cycle` is in nanoseconds.
    pub(crate) const fn new(bus_cycle: u64) -> Self {
        Self {
            timer: Timer::new(bus_cycle, MIN_PERIOD),
            holder: Holder::Nobody,
        }
    }

    /// IA32_TSC_DEADLINE.
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// The current-count register.
    pub(super) fn current_count(&self) -> u32 {
        self.timer.current_count(clock::monotonic())
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// A register write that concerns the timer.
    pub(super) fn write_apic_timer(&mut self, apic: &LocalApic, write: TimerWrite) {
        self.state.apic_timer.timer.write(write, clock::monotonic());
        self.start_apic_timer(apic);
    }

    /// IA32_TSC_DEADLINE (SDM vol. 3, 11.5.4.1).
    pub(super) fn set_tsc_deadline(&mut self, apic: &LocalApic, deadline: u64) {
        if self.state.apic_timer.timer.set_tsc_deadline(deadline) {
            self.start_apic_timer(apic);
        }
    }

    /// As [`Self::set_tsc_deadline`], where the guest does it and nothing is needed that may not be
    /// done in guest mode. Returns whether it was done.
    #[inline]
    pub(super) fn set_tsc_deadline_fast(&mut self, deadline: u64) -> bool {
        if self.state.apic_timer.holder == Holder::Host || !self.vm.backend.has_timer() {
            return false;
        }
        if !self.state.apic_timer.timer.set_tsc_deadline(deadline) {
            return true;
        }
        if deadline == 0 {
            self.release_timer();
            return true;
        }
        match deadline.saturating_sub(self.read_tsc()) {
            0 => self.apic_timer_expired(),
            ticks => self.hold_timer(ticks),
        }
        true
    }

    /// Takes over a saved timer.
    pub(super) fn restore_apic_timer(&mut self, apic: &LocalApic, saved: &arch::apic::TimerState) {
        let timer = &mut self.state.apic_timer.timer;
        let tsc_deadline = timer.tsc_deadline();
        timer.restore(saved, clock::monotonic());
        // Another MSR, which is restored by itself.
        timer.set_tsc_deadline(tsc_deadline);
        self.start_apic_timer(apic);
    }

    /// Stops the timer, as INIT does.
    pub(super) fn reset_apic_timer(&mut self) {
        self.state.apic_timer.timer.reset();
        if let Some(apic) = self.vcpu.apic.as_deref() {
            self.start_apic_timer(apic);
        }
    }

    /// What the timer is set to, in the host's terms, is not what it was: the guest's counter was
    /// changed, or this thread has been where the host may have been suspended.
    #[inline]
    pub(crate) fn refresh_apic_timer(&mut self) {
        if self.state.apic_timer.holder != Holder::Nobody {
            if let Some(apic) = self.vcpu.apic.as_deref() {
                self.start_apic_timer(apic);
            }
        }
    }

    /// KVM_RUN begins. A count goes by the host's clock, and the processor by its counter: only a
    /// suspended host stops the one and resets the other.
    #[inline]
    pub(crate) fn resume_apic_timer(&mut self) {
        let timer = &self.state.apic_timer;
        if timer.holder == Holder::Processor && timer.timer.mode() != TimerMode::TscDeadline {
            self.refresh_apic_timer();
        }
    }

    /// Ticks of the counter until the timer expires, if it runs.
    fn timer_ticks(&self) -> Option<u64> {
        let timer = &self.state.apic_timer.timer;
        match (timer.mode(), timer.tsc_deadline(), timer.deadline()) {
            (TimerMode::TscDeadline, 0, _) => None,
            (TimerMode::TscDeadline, tsc, _) => Some(tsc.saturating_sub(self.read_tsc())),
            (_, _, deadline) => {
                let left = deadline?.saturating_sub(clock::monotonic());
                Some(cpu::ns_to_ticks(left))
            }
        }
    }

    /// When the timer expires, in nanoseconds of the host's monotonic clock, of which it is `now`.
    fn timer_time(&self, now: u64) -> Option<u64> {
        let timer = &self.state.apic_timer.timer;
        match timer.mode() {
            TimerMode::TscDeadline => {
                let ticks = self.timer_ticks()?;
                Some(now.saturating_add(self.tsc_to_ns(ticks)))
            }
            _ => timer.deadline(),
        }
    }

    /// Has somebody make the timer expire when it is set to, or nobody if it is stopped.
    fn start_apic_timer(&mut self, apic: &LocalApic) {
        if self.state.apic_timer.holder == Holder::Host {
            apic.timer.cancel();
            // What an earlier setting left was for that setting.
            apic.runner.take_requests(Requests::APIC_TIMER);
            self.state.apic_timer.holder = Holder::Nobody;
        }
        match self.timer_ticks() {
            None => self.release_timer(),
            Some(0) => self.request_timer(),
            Some(ticks) if self.vm.backend.has_timer() => self.hold_timer(ticks),
            Some(_) => {
                let now = clock::monotonic();
                if let Some(time) = self.timer_time(now) {
                    apic.timer.start(time);
                    self.state.apic_timer.holder = Holder::Host;
                }
            }
        }
    }

    /// The processor makes the timer expire.
    #[inline]
    fn hold_timer(&mut self, ticks: u64) {
        B::start_timer(self, cpu::rdtsc().saturating_add(ticks));
        self.state.apic_timer.holder = Holder::Processor;
    }

    /// The processor need not make the timer expire.
    #[inline]
    fn release_timer(&mut self) {
        if self.state.apic_timer.holder == Holder::Processor {
            B::stop_timer(self);
            self.state.apic_timer.holder = Holder::Nobody;
        }
    }

    /// The time has come: the timer expires before the guest runs again.
    fn request_timer(&mut self) {
        self.release_timer();
        self.vcpu.runner.request_own(Requests::APIC_TIMER);
        self.state.apic_timer.holder = Holder::Host;
    }

    /// When the processor would make the timer expire, in nanoseconds of the host's monotonic
    /// clock, of which it is `now`; `None` if that is not up to the processor.
    pub(crate) fn held_timer(&self, now: u64) -> Option<u64> {
        (self.state.apic_timer.holder == Holder::Processor)
            .then(|| self.timer_time(now))
            .flatten()
    }

    /// The timer, which expires at `time`, is the host's from now on: `time` is past, or the thread
    /// is about to sleep.
    pub(crate) fn hand_over_timer(&mut self, time: u64, now: u64) {
        if time <= now {
            self.request_timer();
        } else if let Some(apic) = self.vcpu.apic.as_deref() {
            self.release_timer();
            apic.timer.start(time);
            self.state.apic_timer.holder = Holder::Host;
        }
    }

    /// A timer whose time has come while the guest did not run is to be seen as such.
    pub(super) fn review_apic_timer(&mut self) {
        let now = clock::monotonic();
        if self.held_timer(now).is_some_and(|time| time <= now) {
            self.request_timer();
        }
    }

    /// The timer has expired.
    pub(crate) fn apic_timer_expired(&mut self) {
        let Some(apic) = self.vcpu.apic.as_deref() else {
            return;
        };
        self.release_timer();
        let timer = &mut self.state.apic_timer;
        timer.holder = Holder::Nobody;
        // Only a periodic timer wants to know the time.
        let now = match timer.timer.mode() {
            TimerMode::Periodic => clock::monotonic(),
            _ => 0,
        };
        if timer.timer.expire(now).is_some() {
            self.start_apic_timer(apic);
        }
        self.deliver_lvt(Lvt::Timer);
    }

    /// Delivers what an entry of the local vector table says, its source having called.
    pub(crate) fn deliver_lvt(&mut self, lvt: Lvt) {
        let Some(apic) = self.vcpu.apic.as_deref() else {
            return;
        };
        if let Some(interrupt) = apic.lapic.local(lvt) {
            self.deliver_local(apic, &interrupt);
        }
    }

    /// Takes an interrupt that arose at this processor.
    fn deliver_local(&mut self, apic: &LocalApic, interrupt: &LocalInterrupt) {
        match interrupt.delivery {
            Delivery::Fixed => {
                apic.accept_own(interrupt.vector, interrupt.level);
            }
            Delivery::Nmi => self.queue_nmi(),
            _ => {}
        }
    }
}
