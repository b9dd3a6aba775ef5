// SPDX-License-Identifier: GPL-2.0

//! kvmclock: the guest's time, as a function of its time-stamp counter (Linux,
//! `Documentation/virt/kvm/x86/msr.rst`, MSR_KVM_SYSTEM_TIME_NEW).
//!
//! Where the host keeps its own time by the time-stamp counter, and the guest's counters are one,
//! all vCPUs are given one and the same moment, so that their clocks agree to the nanosecond
//! whichever reads what: the master clock. It changes with no vCPU in the guest. Elsewhere each
//! vCPU gets a moment of its own whenever it comes to another CPU.
//!
//! The host's time here is CLOCK_MONOTONIC_RAW, which goes at the counter's rate, plus the time
//! that the host was suspended.

use arch::{
    addr::Gpa,
    pvclock::{
        self,
        ClockPairing,
        Moment,
        Scale,
        VcpuTime,
        WallClock, //
    },
    tsc_sync::{
        Group,
        Written, //
    },
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        SpinLock, //
    },
};

use super::Feature;
use crate::{
    host::{
        clock::{
            self,
            Snapshot, //
        },
        cpu,
        trace::trace, //
    },
    vm::{
        backend::Backend,
        hypercall::error,
        kick::Requests,
        msr::MsrAccess,
        vcpu::{
            Loaded,
            Vcpu, //
        },
        Vm, //
    },
};

/// Bit 0 of MSR_KVM_SYSTEM_TIME: the clock is on.
const ENABLED: u64 = 1;

/// The clocks of a VM.
#[pin_data]
pub(crate) struct Clock {
    /// Turns ticks of the counter into nanoseconds.
    scale: Scale,
    #[pin]
    shared: SpinLock<Shared>,
}

/// What vCPUs share.
struct Shared {
    counters: Group,
    /// The host's counter and time that all vCPUs go by, where they can.
    master: Option<Moment>,
    /// The guest's clock minus the host's time.
    offset: u64,
    /// vCPU 0 uses the old MSR: such a guest does not know clocks that are one.
    old_guest: bool,
    /// MSR_KVM_WALL_CLOCK.
    wall_clock: u64,
    /// CPUs to interrupt; here because allocating one under the lock could fail.
    kick_mask: KVVec<usize>,
}

/// What KVM_GET_CLOCK tells.
#[derive(Clone, Copy)]
pub(crate) struct Reading {
    /// The guest's clock.
    pub(crate) ns: u64,
    /// All vCPUs go by one moment.
    pub(crate) is_stable: bool,
    /// The host's counter at that time.
    pub(crate) host_tsc: Option<u64>,
    /// The host's time of day at that time, in nanoseconds.
    pub(crate) realtime: Option<u64>,
}

impl Clock {
    /// Clocks that read 0 now.
    pub(crate) fn new() -> Result<impl PinInit<Self>> {
        let kick_mask = KVVec::from_elem(0, cpu::mask_words(), GFP_KERNEL_ACCOUNT)?;
        Ok(pin_init!(Self {
            scale: Scale::to_nanoseconds(cpu::tsc_khz()),
            shared <- new_spinlock!(Shared {
                counters: Group::new(),
                master: None,
                offset: host_time().wrapping_neg(),
                old_guest: false,
                wall_clock: 0,
                kick_mask,
            }),
        }))
    }
}

/// The host's time now.
fn host_time() -> u64 {
    clock::monotonic_raw().wrapping_add(clock::suspended())
}

/// The host's counter and its time now, and whether the host itself goes by that counter.
fn host_now() -> (Moment, bool) {
    match Snapshot::take(clock::Clock::Boot) {
        Some(now) => (
            Moment {
                tsc: now.tsc,
                ns: now.monotonic_raw.wrapping_add(clock::suspended()),
            },
            true,
        ),
        None => {
            let _pinned = cpu::Pinned::new();
            let now = Moment {
                tsc: cpu::rdtsc(),
                ns: host_time(),
            };
            (now, false)
        }
    }
}

impl<B: Backend> Vm<B> {
    /// Chooses the moment that all vCPUs go by from now on, if there can be one. Nobody is in the
    /// guest with the old one when this returns, and nobody enters without the new one.
    fn renew_master(&self, shared: &mut Shared) {
        let runners = &self.memory.runners;
        runners.request_all(Requests::CLOCK);
        runners.kick_all(&mut shared.kick_mask);
        let (now, by_tsc) = host_now();
        let in_step = shared.counters.in_step(runners.count());
        let is_one = by_tsc && in_step && !shared.old_guest;
        trace!(kvm_update_master_clock(is_one, by_tsc.into(), in_step));
        shared.master = is_one.then_some(now);
    }

    /// Looks whether the master clock still can be, or can be again.
    fn review_master(&self, shared: &mut Shared, renew: bool) {
        let (_, by_tsc) = host_now();
        let processors = self.memory.runners.count();
        let is_one = by_tsc && shared.counters.in_step(processors) && !shared.old_guest;
        if is_one != shared.master.is_some() || (is_one && renew) {
            self.renew_master(shared);
        }
    }

    /// The guest's clock.
    fn clock_now(&self, shared: &Shared) -> Reading {
        let Some(master) = shared.master else {
            return Reading {
                ns: host_time().wrapping_add(shared.offset),
                is_stable: false,
                host_tsc: None,
                realtime: None,
            };
        };
        let real = Snapshot::take(clock::Clock::Real);
        let tsc = real.map_or_else(cpu::rdtsc, |real| real.tsc);
        Reading {
            ns: master.at(tsc, self.clock.scale).wrapping_add(shared.offset),
            is_stable: true,
            host_tsc: real.map(|real| real.tsc),
            realtime: real.map(|real| real.time),
        }
    }

    /// Reads the guest's clock (api.rst, 4.30 KVM_GET_CLOCK).
    pub(crate) fn read_clock(&self) -> Reading {
        self.clock_now(&self.clock.shared.lock())
    }

    /// Sets the guest's clock to `ns`, plus what has passed since the time of day was `realtime`
    /// (api.rst, 4.29 KVM_SET_CLOCK).
    pub(crate) fn set_clock(&self, ns: u64, realtime: Option<u64>) {
        let mut shared = self.clock.shared.lock();
        self.renew_master(&mut shared);
        // A time of day that is yet to come does not turn the clock back.
        let passed = realtime.map_or(0, |then| clock::real().saturating_sub(then));
        let host = shared.master.map_or_else(host_time, |master| master.ns);
        shared.offset = ns.wrapping_add(passed).wrapping_sub(host);
    }

    /// The time of day when the guest's clock read 0, in nanoseconds since 1970.
    fn epoch(&self) -> u64 {
        let now = self.read_clock();
        now.realtime
            .unwrap_or_else(clock::real)
            .wrapping_sub(now.ns)
    }

    /// A vCPU that joined the counters never came to be.
    pub(crate) fn leave_counters(&self, vcpu: &Vcpu<B>) {
        // Nobody else has the vCPU; where the thread is to die the VM goes too.
        let _ = vcpu.with_state(|state| {
            let mut shared = self.clock.shared.lock();
            shared.counters.leave(&state.pv.counter);
            self.review_master(&mut shared, false);
            Ok(())
        });
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// Changes the vCPU's counter by the rules for those of a VM.
    pub(crate) fn change_counter(
        &mut self,
        change: impl FnOnce(&mut Group, &mut arch::tsc_sync::Member, Moment, bool) -> Written,
    ) {
        let mut shared = self.vm.clock.shared.lock();
        let (now, _) = host_now();
        let written = change(
            &mut shared.counters,
            &mut self.state.pv.counter,
            now,
            clock::is_tsc_stable(),
        );
        let previous = B::tsc_offset(self);
        trace!(kvm_write_tsc_offset(self.vcpu.id, previous, written.offset));
        B::set_tsc_offset(self, written.offset);
        self.vm.review_master(&mut shared, written.is_new);
        drop(shared);
        self.refresh_apic_timer();
        self.vcpu.runner.request_own(Requests::CLOCK);
    }

    /// The vCPU came to another CPU. Returns whether its time needs a new moment: not with a master
    /// clock.
    pub(super) fn clock_moved(&mut self) -> bool {
        let mut shared = self.vm.clock.shared.lock();
        if shared.master.is_some() && !clock::is_tsc_stable() {
            self.vm.renew_master(&mut shared);
        }
        shared.master.is_none()
    }

    /// Brings the guest's time up to date ([`Requests::CLOCK`]).
    pub(crate) fn update_clock(&mut self) {
        if !self.clock_is_on() {
            return;
        }
        let shared = self.vm.clock.shared.lock();
        let (host, flags) = match shared.master {
            Some(master) => (master, pvclock::TSC_STABLE),
            None => (host_now().0, 0),
        };
        let offset = shared.offset;
        drop(shared);

        let mut time = VcpuTime {
            moment: Moment {
                tsc: host.tsc.wrapping_add(B::tsc_offset(self)),
                ns: host.ns.wrapping_add(offset),
            },
            scale: self.vm.clock.scale,
            flags,
        };
        if core::mem::take(&mut self.state.pv.guest_stopped) {
            time.flags |= pvclock::GUEST_STOPPED;
        }
        let gpa = Gpa(self.state.pv.system_time & !ENABLED);
        // Where the guest has no memory there is nothing to tell it.
        let _ = self.write_time(gpa, time);
    }

    fn write_time(&self, gpa: Gpa, mut time: VcpuTime) -> Result {
        let access = self.vcpu.guest_memory();
        let mut version = [0; 4];
        access.read(gpa, &mut version)?;
        let mut flags = [0];
        access.read(gpa.offset(VcpuTime::FLAGS as u64), &mut flags)?;
        // The guest has not seen it yet.
        time.flags |= flags[0] & pvclock::GUEST_STOPPED;

        let begun = pvclock::version_begin(u32::from_le_bytes(version));
        trace!(kvm_pvclock_update(
            self.vcpu.id,
            pvclock::version_end(begun),
            time.moment.tsc,
            time.moment.ns,
            time.scale.multiplier,
            time.scale.shift,
            time.flags
        ));
        access.write(gpa, &begun.to_le_bytes())?;
        access.write(gpa.offset(VcpuTime::BODY as u64), &time.body())?;
        access.write(gpa, &pvclock::version_end(begun).to_le_bytes())
    }

    /// Whether the guest's clock is on, at a place that it can be at.
    fn clock_is_on(&self) -> bool {
        let msr = self.state.pv.system_time;
        let in_page = Gpa(msr & !ENABLED).page_offset() + VcpuTime::SIZE as u64;
        msr & ENABLED != 0 && in_page <= arch::addr::PAGE_SIZE
    }

    /// The guest is to learn that it was paused (api.rst, 4.79 KVM_KVMCLOCK_CTRL).
    ///
    /// # Errors
    ///
    /// EINVAL where its clock is off.
    pub(crate) fn guest_was_stopped(&mut self) -> Result {
        if !self.clock_is_on() {
            return Err(EINVAL);
        }
        self.state.pv.guest_stopped = true;
        self.vcpu.runner.request_own(Requests::CLOCK);
        Ok(())
    }

    /// MSR_KVM_SYSTEM_TIME, by its old or its new number.
    pub(super) fn write_system_time(&mut self, value: u64, feature: Feature, by: MsrAccess) {
        let old = feature == Feature::Clocksource;
        let mut shared = self.vm.clock.shared.lock();
        if self.vcpu.id == 0 && by == MsrAccess::Guest && shared.old_guest != old {
            shared.old_guest = old;
            self.vm.renew_master(&mut shared);
        }
        let is_alone = shared.master.is_none();
        drop(shared);
        self.state.pv.system_time = value;
        if is_alone {
            // Moments of about the same time: the best there is without a master clock.
            self.vm.memory.runners.request_all(Requests::CLOCK);
        }
        self.vcpu.runner.request_own(Requests::CLOCK);
    }

    /// MSR_KVM_SYSTEM_TIME.
    pub(super) fn system_time(&self) -> u64 {
        self.state.pv.system_time
    }

    /// KVM_HC_CLOCK_PAIRING: writes the guest's counter and the host's time of day at one moment to
    /// `gpa`. Returns 0, or an error.
    pub(crate) fn pair_clocks(&self, gpa: u64, kind: u64) -> u64 {
        const WALL_CLOCK: u64 = 0;
        let real = match Snapshot::take(clock::Clock::Real) {
            Some(real) if kind == WALL_CLOCK => real,
            _ => return error::EOPNOTSUPP,
        };
        let pairing = ClockPairing {
            moment: Moment {
                tsc: real.tsc.wrapping_add(B::tsc_offset(self)),
                ns: real.time,
            },
        };
        match self.vcpu.guest_memory().write(Gpa(gpa), &pairing.bytes()) {
            Ok(()) => 0,
            Err(_) => error::EFAULT,
        }
    }

    /// MSR_KVM_WALL_CLOCK: writes the time of day when the guest's clock read 0 to `gpa`, once.
    pub(super) fn write_wall_clock(&mut self, gpa: u64) {
        self.vm.clock.shared.lock().wall_clock = gpa;
        if gpa != 0 {
            let _ = self.write_epoch(Gpa(gpa));
        }
    }

    /// MSR_KVM_WALL_CLOCK.
    pub(super) fn wall_clock(&self) -> u64 {
        self.vm.clock.shared.lock().wall_clock
    }

    fn write_epoch(&self, gpa: Gpa) -> Result {
        let epoch = self.vm.epoch();
        let access = self.vcpu.guest_memory();
        let mut version = [0; 4];
        access.read(gpa, &mut version)?;
        let begun = pvclock::version_begin(u32::from_le_bytes(version));
        access.write(gpa, &begun.to_le_bytes())?;
        access.write(
            gpa.offset(WallClock::BODY as u64),
            &WallClock { epoch }.body(),
        )?;
        access.write(gpa, &pvclock::version_end(begun).to_le_bytes())
    }
}
