// SPDX-License-Identifier: GPL-2.0

//! A vCPU that does not run: halted, waiting to be started, or reset by INIT (api.rst, 4.38
//! KVM_GET_MP_STATE; SDM vol. 3, 9.4).
//!
//! With a local APIC in the kernel a vCPU sleeps here, as a thread does that waits for anything.
//! Before it sleeps it polls for a while, which is cheaper where the interrupt comes soon: the time
//! adapts to how long the last waits were (`halt_poll_ns` in
//! `Documentation/virt/kvm/halt-polling.rst`).

use arch::{
    control_regs::Cr0,
    rflags::Rflags, //
};
use kernel::prelude::*;

use super::{
    backend::{
        Backend,
        SegmentRegister, //
    },
    kick::Requests,
    run::Next,
    vcpu::Loaded, //
};
use crate::{
    host::{
        clock,
        shared::UserExit,
        trace::trace,
        wait, //
    },
    module_parameters,
    stats::vcpu as stat, //
};

/// What a vCPU does, as KVM_GET_MP_STATE tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum MpState {
    /// KVM_MP_STATE_RUNNABLE.
    Runnable = 0,
    /// KVM_MP_STATE_UNINITIALIZED: an application processor that waits for INIT.
    Uninitialized = 1,
    /// KVM_MP_STATE_INIT_RECEIVED: it waits for a start-up IPI.
    InitReceived = 2,
    /// KVM_MP_STATE_HALTED.
    Halted = 3,
}

impl MpState {
    /// From its number in the ABI.
    pub(crate) const fn from_abi(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Runnable,
            1 => Self::Uninitialized,
            2 => Self::InitReceived,
            3 => Self::Halted,
            _ => return None,
        })
    }
}

/// How a halt was spent, in nanoseconds.
struct Halt {
    /// Polling, if any was to be done.
    polled: Option<u64>,
    /// Asleep, if it came to that.
    slept: Option<u64>,
}

const IA32_PAT: u32 = 0x277;
/// How long the first poll after a growth from nothing lasts, in nanoseconds (KVM's
/// `halt_poll_ns_grow_start`).
const POLL_START: u64 = 10_000;

impl<B: Backend> Loaded<'_, B> {
    /// HLT: with interrupt controllers in user space a matter for the VMM.
    pub(crate) fn handle_hlt(&mut self) -> Next {
        self.count(stat::HALT_EXITS);
        B::skip_instruction(self);
        if self.apic().is_none() {
            return self.leave(&UserExit::Hlt);
        }
        // Kicked before it halted.
        if !core::mem::take(&mut self.state.pv.unhalted) {
            self.state.mp_state = MpState::Halted;
        }
        Next::Guest
    }

    /// HLT where the interrupt that ends it is there already. Returns whether it is.
    #[inline]
    pub(crate) fn halt_fast(&mut self) -> bool {
        let Some(apic) = self.apic() else {
            return false;
        };
        apic.take_posted();
        // HLT takes no shadow of STI with it.
        if apic.lapic.pending().is_none() || B::rflags(self) & Rflags::IF.bits() == 0 {
            return false;
        }
        self.count(stat::HALT_EXITS);
        // A kick that came before is for this HLT, not for the next.
        self.state.pv.unhalted = false;
        B::skip_instruction(self);
        true
    }

    /// Whether the vCPU is to enter the guest.
    #[inline]
    pub(crate) fn is_running(&self) -> bool {
        self.state.mp_state == MpState::Runnable && !self.state.pv.async_pf.is_halted()
    }

    /// Sleeps until there is something for the vCPU to do, and makes it runnable if that is it.
    ///
    /// # Errors
    ///
    /// EINTR for a signal.
    pub(crate) fn block(&mut self) -> Result {
        let start = clock::monotonic();
        let vcpu = self.vcpu;
        let until = start.saturating_add(self.state.halt_poll_ns);
        let timer = self.held_timer(start);
        let mut now = start;
        let mut woken = self.is_woken();
        while !woken && wait::may_poll() && now < until && timer.is_none_or(|timer| now < timer) {
            core::hint::spin_loop();
            woken = self.is_woken();
            now = clock::monotonic();
        }
        if let (false, Some(timer)) = (woken, timer) {
            self.hand_over_timer(timer, now);
            woken = self.is_woken();
        }
        let mut looks = 0u32;
        let result = if woken {
            Ok(())
        } else {
            vcpu.stats.set(stat::BLOCKING, 1);
            let result = vcpu.runner.wait(|| {
                looks = looks.saturating_add(1);
                self.is_woken()
            });
            vcpu.stats.set(stat::BLOCKING, 0);
            result
        };
        if self.state.mp_state == MpState::Halted {
            let end = clock::monotonic();
            self.count_halt(&Halt {
                polled: (until != start).then(|| now.saturating_sub(start)),
                slept: (looks > 1).then(|| end.saturating_sub(now)),
            });
            let waited = end.saturating_sub(start);
            trace!(kvm_vcpu_wakeup(waited, looks > 1, true));
            self.adapt_poll(waited);
        }
        result.inspect_err(|_| {
            self.leave_for_signal();
        })?;

        self.serve_requests();
        if self.has_event() {
            self.state.pv.async_pf.end_halt();
            if self.state.mp_state == MpState::Halted {
                self.state.mp_state = MpState::Runnable;
            }
        }
        Ok(())
    }

    fn count_halt(&self, halt: &Halt) {
        let stats = &self.vcpu.stats;
        if let Some(slept) = halt.slept {
            stats.count(stat::HALT_WAKEUP);
            stats.add(stat::HALT_WAIT_NS, slept);
            stats.count_time(stat::HALT_WAIT_HIST, slept);
        }
        let Some(polled) = halt.polled else {
            return;
        };
        stats.count(stat::HALT_ATTEMPTED_POLL);
        if halt.slept.is_none() {
            stats.count(stat::HALT_SUCCESSFUL_POLL);
            stats.add(stat::HALT_POLL_SUCCESS_NS, polled);
            stats.count_time(stat::HALT_POLL_SUCCESS_HIST, polled);
        } else {
            stats.add(stat::HALT_POLL_FAIL_NS, polled);
            stats.count_time(stat::HALT_POLL_FAIL_HIST, polled);
        }
    }

    /// Polls longer next time if this wait was a little longer than the poll, and less if it was so
    /// long that polling was a waste.
    fn adapt_poll(&mut self, waited: u64) {
        let limit = if self.state.pv.may_poll() {
            let default = || u64::from(module_parameters::halt_poll_ns.value());
            self.vm.options.halt_poll().unwrap_or_else(default)
        } else {
            0
        };
        let poll = &mut self.state.halt_poll_ns;
        let old = *poll;
        if limit == 0 || waited > limit {
            *poll = 0;
        } else if waited > *poll {
            *poll = (*poll * 2).max(POLL_START).min(limit);
        }
        let new = *poll;
        if new != old {
            trace!(kvm_halt_poll_ns(
                new > old,
                self.vcpu.id,
                new as u32,
                old as u32
            ));
        }
    }

    /// Whether a vCPU that waits has something to do. Called with the thread about to sleep: looks,
    /// and does nothing.
    fn is_woken(&self) -> bool {
        let requests = self.vcpu.runner.requests();
        match self.state.mp_state {
            MpState::Uninitialized => requests.contains(Requests::INIT),
            MpState::InitReceived => requests.intersects(Requests::INIT | Requests::SIPI),
            MpState::Runnable | MpState::Halted => {
                !requests.difference(Requests::PASSIVE).is_empty() || self.has_event()
            }
        }
    }

    /// Whether something ends a halt: not every request does, and not every interrupt.
    fn has_event(&self) -> bool {
        let events = &self.state.events;
        events.exception.is_some()
            || (events.nmi_pending != 0 && !B::nmi_masked(self))
            || (self.interrupts_enabled() && self.has_wakeup())
    }

    /// Sets what the vCPU does (api.rst, 4.39 KVM_SET_MP_STATE).
    ///
    /// # Errors
    ///
    /// EINVAL for what does not exist, and for anything but runnable without a local APIC in the
    /// kernel: nothing would ever wake the vCPU.
    pub(crate) fn set_mp_state(&mut self, number: u32) -> Result {
        /// KVM_MP_STATE_SIPI_RECEIVED: it is on its way.
        const SIPI_RECEIVED: u32 = 4;
        self.state.pv.unhalted = false;
        let state = match number {
            SIPI_RECEIVED => MpState::InitReceived,
            _ => MpState::from_abi(number).ok_or(EINVAL)?,
        };
        if state != MpState::Runnable && self.apic().is_none() {
            return Err(EINVAL);
        }
        self.state.mp_state = state;
        if number == SIPI_RECEIVED {
            self.vcpu.runner.request_own(Requests::SIPI);
        }
        Ok(())
    }

    /// Does what others asked of this vCPU.
    pub(crate) fn serve_requests(&mut self) {
        // A ring is full until the VMM did something about it.
        let served = Requests::all().difference(Requests::DIRTY_RING_FULL);
        let requests = self.vcpu.runner.take_requests(served);
        if requests.contains(Requests::NMI) {
            self.queue_nmi();
        }
        if requests.contains(Requests::APIC_TIMER) {
            self.apic_timer_expired();
        }
        if requests.contains(Requests::IOAPIC_REINJECT) {
            if let Some(irqchip) = self.vm.irqchip() {
                irqchip.reinject();
            }
        }
        if requests.intersects(Requests::PV) {
            self.serve_pv_requests(requests);
        }
        if requests.contains(Requests::LOG_WRITES) {
            B::set_write_log(self, self.vm.memory.is_logged());
        }
        if requests.contains(Requests::PAGE_READY) {
            self.tell_of_pages();
        }
        if requests.contains(Requests::INIT) {
            self.receive_init();
        }
        if requests.contains(Requests::UNHALT) {
            if self.state.mp_state == MpState::Halted {
                self.state.mp_state = MpState::Runnable;
            } else {
                self.state.pv.unhalted = true;
            }
        }
        if requests.contains(Requests::SIPI) && self.state.mp_state == MpState::InitReceived {
            self.start_up();
        }
    }

    /// INIT, from the VMM.
    pub(crate) fn request_init(&self) {
        self.vcpu.runner.request_own(Requests::INIT);
    }

    /// INIT: all registers but a few are as after reset (SDM vol. 3, table 10-1). An application
    /// processor then waits for a start-up IPI.
    fn receive_init(&mut self) {
        self.init_reset();
        self.state.mp_state = if self.is_bsp() {
            MpState::Runnable
        } else {
            MpState::InitReceived
        };
    }

    /// Whatever it waited for, it runs.
    pub(crate) fn make_runnable(&mut self) {
        self.state.mp_state = MpState::Runnable;
    }

    /// Registers as INIT leaves them. The FPU, XCR0, CR0's two bits of caching, the TSC and most MSRs
    /// stay (SDM vol. 3, table 10-1 and its notes).
    fn init_reset(&mut self) {
        const CACHING: Cr0 = Cr0::CD.union(Cr0::NW);
        let pat = B::msr(self, IA32_PAT);
        let caching = B::cr0(self) & CACHING.bits();
        self.reset_registers();
        let cr0 = B::cr0(self) & !CACHING.bits() | caching;
        B::set_cr0(self, cr0);
        if let Some(pat) = pat {
            B::set_msr(self, IA32_PAT, pat);
        }
        self.reset_pv();
        self.init_apic();
        self.update_runtime_cpuid();
    }

    /// A start-up IPI: real mode, at the start of the page that its vector names (SDM vol. 3, 9.4.4).
    fn start_up(&mut self) {
        let Some(apic) = self.apic() else {
            return;
        };
        let page = u64::from(apic.sipi_vector());
        let mut cs = B::segment(self, SegmentRegister::Cs);
        cs.selector = arch::segment::Selector((page << 8) as u16);
        cs.base = arch::addr::Gva(page << 12);
        B::set_segment(self, SegmentRegister::Cs, &cs);
        B::set_rip(self, 0);
        self.state.mp_state = MpState::Runnable;
    }
}
