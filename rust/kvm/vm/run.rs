// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN: the way into the guest and out of it (api.rst, 4.10 KVM_RUN).
//!
//! Two loops. The inner one enters the guest again and again with interrupts off, as long as its
//! exits need nothing but the vCPU: CPUID, MSRs that live in memory, hypercalls. A pending
//! interrupt ends it, since the guest then exits at once. The outer one lets interrupts,
//! signals and the scheduler have their turn, and serves exits that may sleep.

use kernel::prelude::*;

use super::{
    backend::{
        Backend,
        Exit, //
    },
    halt::MpState,
    irq::{
        Aftermath,
        Irqchip, //
    },
    vcpu::Loaded, //
};
use crate::{
    host::{
        cpu::{
            self,
            IrqsOff,
            Pinned, //
        },
        debug_regs,
        fpu::GuestFpu,
        guest_mode::{
            self,
            GuestMode, //
        },
        sched,
        shared::UserExit,
        signal::MaskGuard,
        speculation,
        trace::{
            self,
            kvm_userspace_exit,
            trace, //
        },
        xcr0, //
    },
    stats::vcpu as stat, //
};

/// KVM_INTERNAL_ERROR_EMULATION.
pub(crate) const INTERNAL_ERROR_EMULATION: u32 = 1;
/// KVM_INTERNAL_ERROR_DELIVERY_EV.
pub(crate) const INTERNAL_ERROR_DELIVERY_EV: u32 = 3;
/// KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON.
pub(crate) const INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;

/// Where to go after an exit was served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Back into the guest.
    Guest,
    /// To the VMM: `kvm_run` says why.
    User,
}

impl<B: Backend> Loaded<'_, B> {
    /// Runs the vCPU until the VMM has something to do. `take_registers` is called before anything
    /// depends on the registers: it may set them.
    ///
    /// # Errors
    ///
    /// EINTR for a signal or `immediate_exit`, EINVAL for nonsense in `kvm_run`, EFAULT where guest
    /// memory is not there, and `take_registers`'.
    pub(crate) fn run(&mut self, take_registers: impl FnOnce(&mut Self) -> Result) -> Result<i32> {
        let _mask = self.state.sigmask.map(MaskGuard::set);
        self.vcpu.run.clear_flags();
        self.vcpu.came_to(cpu::current());
        speculation::uses_l1d();
        self.vcpu.runner.set_thread(sched::current_thread());
        self.state.fpu.load();
        trace!(kvm_fpu(1));
        self.count(stat::FPU_RELOAD);
        let result = self.run_with_fpu(take_registers);
        self.state.fpu.unload();
        trace!(kvm_fpu(0));
        self.vcpu.steal_time.set_at_boundary(false);
        self.publish_interrupt_state();
        if kvm_userspace_exit::is_on() {
            let errno = result.err().map_or(0, |error| error.to_errno());
            kvm_userspace_exit::emit(self.vcpu.run.exit_reason(), errno);
        }
        result.map(|()| 0)
    }

    fn run_with_fpu(&mut self, take_registers: impl FnOnce(&mut Self) -> Result) -> Result {
        let run = &self.vcpu.run;
        let immediate_exit = run.immediate_exit();
        if self.state.mp_state == MpState::Uninitialized {
            return self.wait_for_init(immediate_exit);
        }
        take_registers(self)?;
        if self.apic().is_none() {
            let cr8 = run.cr8();
            if cr8 > 15 {
                return Err(EINVAL);
            }
            self.state.cr8 = cr8;
        }
        if self.complete_pending()? == Next::User {
            return Ok(());
        }
        if immediate_exit {
            return Err(EINTR);
        }

        self.resume_apic_timer();
        self.state.has_run = true;
        self.leave(&UserExit::Unknown);
        loop {
            if self.vcpu.runner.has_requests() {
                self.serve_requests();
            }
            if !self.is_running() {
                self.block()?;
            } else if self.ring_is_full() {
                self.leave(&UserExit::DirtyRingFull);
                return Ok(());
            } else if self.round()? == Next::User {
                return Ok(());
            }
            if self.has_vmm_pics()
                && self.vcpu.run.request_interrupt_window()
                && self.ready_for_interrupt()
            {
                self.leave(&UserExit::IrqWindowOpen);
                self.count(stat::REQUEST_IRQ_EXITS);
                return Ok(());
            }
            if guest_mode::work_pending() {
                self.do_kernel_work()?;
            }
        }
    }

    /// An application processor sleeps until INIT comes; KVM_RUN then fails with EAGAIN, for the VMM
    /// to notice if it wants to.
    fn wait_for_init(&mut self, immediate_exit: bool) -> Result {
        if immediate_exit {
            return Err(EINTR);
        }
        self.block()?;
        Err(EAGAIN)
    }

    /// Says in `kvm_run` why the vCPU goes to the VMM.
    pub(crate) fn leave(&self, exit: &UserExit) -> Next {
        self.vcpu.run.set_exit(exit);
        Next::User
    }

    /// Leaves for the VMM with KVM_EXIT_INTERNAL_ERROR.
    pub(crate) fn internal_error(&self, suberror: u32, words: &[u64]) -> Next {
        let mut data = [0; 16];
        let ndata = words.len().min(data.len());
        data[..ndata].copy_from_slice(&words[..ndata]);
        self.leave(&UserExit::InternalError {
            suberror,
            data,
            ndata: ndata as u32,
        })
    }

    /// What the VMM needs to know to inject interrupts.
    fn publish_interrupt_state(&self) {
        const RFLAGS_IF: u64 = 1 << 9;
        self.vcpu.run.set_interrupt_state(
            B::rflags(self) & RFLAGS_IF != 0,
            self.ready_for_interrupt(),
            self.cr8(),
            self.apic_base(),
        );
    }

    /// KVM_RUN ends for a signal.
    pub(crate) fn leave_for_signal(&self) {
        self.count(stat::SIGNAL_EXITS);
        self.leave(&UserExit::Intr);
    }

    fn do_kernel_work(&self) -> Result {
        guest_mode::handle_work().inspect_err(|_| {
            self.leave_for_signal();
        })
    }

    /// One round of the outer loop.
    fn round(&mut self) -> Result<Next> {
        if self.state.events.triple_fault {
            return Ok(self.shut_down());
        }
        self.offer_pv_eoi();
        self.sync_to_vapic();
        let watched = trace::is_watched();
        let exit = self.enter_guest(watched);
        self.sync_from_vapic();
        self.withdraw_pv_eoi();
        if self.state.events.triple_fault {
            return Ok(self.shut_down());
        }
        match exit {
            Some(exit) => {
                let next = self.handle(exit, watched)?;
                Ok(self.after(next))
            }
            None => Ok(Next::Guest),
        }
    }

    /// A triple fault that came up here.
    #[cold]
    fn shut_down(&mut self) -> Next {
        self.state.events.triple_fault = false;
        self.leave(&UserExit::Shutdown)
    }

    /// What an access to the local APIC left to do.
    #[inline]
    fn after(&mut self, next: Next) -> Next {
        if matches!(self.state.aftermath, Aftermath::None) {
            return next;
        }
        self.do_what_is_left(next)
    }

    fn do_what_is_left(&mut self, next: Next) -> Next {
        match core::mem::replace(&mut self.state.aftermath, Aftermath::None) {
            Aftermath::None => next,
            Aftermath::IoapicEoi(vector) => self.leave(&UserExit::IoapicEoi { vector }),
            Aftermath::Send(message) => {
                self.send_to_many(&message);
                next
            }
            Aftermath::Ended(vector) => {
                if let Some(irqchip) = self.vm.irqchip() {
                    irqchip.end_of_interrupt(vector);
                }
                next
            }
            Aftermath::AcknowledgePic => {
                if let Some(vector) = self.irqchip().and_then(Irqchip::acknowledge_pic) {
                    self.state.events.queue_interrupt(vector);
                }
                next
            }
            Aftermath::TprAccess { rip, is_write } => {
                self.leave(&UserExit::TprAccess { rip, is_write })
            }
        }
    }

    /// The inner loop. Returns the exit to serve, or `None` where none is due. `watched` says that
    /// somebody may listen to tracepoints: then it serves none by itself.
    fn enter_guest(&mut self, watched: bool) -> Option<Exit> {
        let wants_window = self.vcpu.run.request_interrupt_window()
            && self.has_vmm_pics()
            && self.accepts_vmm_interrupt();

        self.vcpu.steal_time.set_at_boundary(false);
        let pinned = Pinned::new();
        B::prepare_entry(self, &pinned);
        let irqs_off = IrqsOff::new(&pinned);
        let runner = &self.vcpu.runner;
        runner.enter(cpu::current());
        if guest_mode::work_pending() || runner.has_requests() {
            runner.exit();
            return None;
        }

        GuestFpu::refresh_registers(&irqs_off);
        let xcr0 = xcr0::switch_to_guest(self.state.xcr0, B::cr4(self));
        self.load_debug_regs(&irqs_off);
        B::begin(self, &irqs_off);

        let guest_mode = GuestMode::enter(&irqs_off);
        let exit = loop {
            if wants_window || self.state.events.any() || self.has_interrupt() {
                self.count(stat::REQ_EVENT);
                let again = self.state.events.injected.is_some();
                self.inject_events(wants_window, &guest_mode);
                if cfg!(CONFIG_PREEMPT_RT) && !matches!(self.state.aftermath, Aftermath::None) {
                    break Exit::Handled;
                }
                if watched {
                    self.tell_of_injection(again, &guest_mode);
                }
            }
            if self.must_withdraw_pv_eoi() {
                break Exit::Handled;
            }
            if watched {
                self.tell_of_entry(&guest_mode);
            }
            let exit = B::enter(self, &guest_mode);
            self.count(stat::EXITS);
            if watched {
                self.tell_of_exit(&guest_mode);
                break exit;
            }
            if !self.handle_fast(exit) && !self.handle_locked(exit, &guest_mode) {
                break exit;
            }
            if guest_mode::work_pending()
                || self.vcpu.runner.has_requests()
                || self.pv_eoi_is_due()
                || !matches!(self.state.aftermath, Aftermath::None)
            {
                break Exit::Handled;
            }
        };
        let time = guest_mode.exit();
        speculation::guest_left(&irqs_off);
        if self.vm.memory.logs_writes() {
            self.note_logged_writes();
        }

        debug_regs::restore_host(&irqs_off);
        xcr0::switch_to_host(xcr0);
        self.vcpu.runner.exit();
        let at_boundary = matches!(exit, Exit::Handled);
        self.vcpu.steal_time.set_at_boundary(at_boundary);
        B::finish(self, &time);
        drop(time);
        drop(irqs_off);
        drop(pinned);
        Some(exit)
    }

    /// Serves an exit without leaving the inner loop, if that can be done with interrupts off and
    /// no locks. Returns whether it was.
    #[inline]
    fn handle_fast(&mut self, exit: Exit) -> bool {
        match exit {
            Exit::Cpuid => {
                self.emulate_cpuid();
                true
            }
            Exit::MsrRead => self.read_msr_fast(),
            Exit::MsrWrite => self.write_msr_fast(),
            Exit::Hlt => self.halt_fast(),
            Exit::TimerExpired => {
                self.apic_timer_expired();
                true
            }
            Exit::Hypercall => self.hypercall_fast(),
            _ => false,
        }
    }

    /// Serves an exit that takes spinlocks or wakes a thread, but does not sleep, without leaving
    /// the inner loop. Returns whether it was served.
    #[inline]
    fn handle_locked(&mut self, exit: Exit, guest_mode: &GuestMode<'_>) -> bool {
        // There spinlocks sleep.
        if cfg!(CONFIG_PREEMPT_RT) {
            return false;
        }
        match exit {
            Exit::Io(io) if io.string.is_none() && self.has_port_devices() => {
                guest_mode.pause(|| self.device_io(&io))
            }
            Exit::MsrWrite => guest_mode.pause(|| self.write_msr_locked()),
            Exit::Memory {
                gpa,
                is_write: true,
                ..
            } if self.vm.memory.ever_logged()
                && guest_mode.pause(|| self.allow_logged_write(guest_mode, gpa)) =>
            {
                true
            }
            Exit::Hypercall => guest_mode.pause(|| self.hypercall_locked()),
            Exit::Memory {
                gpa,
                gva: Some(gva),
                is_write,
                is_fetch: false,
            } if self.is_chip(gpa) => {
                let cr2 = B::cr2(guest_mode);
                let done = guest_mode.pause(|| self.emulate_at_chip(gpa, gva, is_write));
                if !done {
                    // A page of the VMM's that was not at hand has changed it.
                    B::load_cr2(guest_mode, cr2);
                }
                done
            }
            _ => false,
        }
    }

    /// Serves an exit where the thread may sleep. `is_first` says that the inner loop has not tried to.
    fn handle(&mut self, exit: Exit, is_first: bool) -> Result<Next> {
        match exit {
            Exit::Cpuid if is_first => {
                self.serve_cpuid();
                Ok(Next::Guest)
            }
            Exit::TimerExpired if is_first => {
                self.apic_timer_expired();
                Ok(Next::Guest)
            }
            // The inner loop served these, or the kernel did.
            Exit::Handled | Exit::Cpuid | Exit::TimerExpired | Exit::LogFull => Ok(Next::Guest),
            Exit::Hypercall => Ok(self.emulate_hypercall()),
            Exit::MsrRead => self.emulate_rdmsr(),
            Exit::MsrWrite => self.emulate_wrmsr(),
            Exit::Hlt => Ok(self.handle_hlt()),
            Exit::Io(io) => self.handle_io(&io, is_first),
            Exit::Memory {
                gpa,
                gva,
                is_write,
                is_fetch,
            } => self.handle_memory(gpa, gva, is_write, is_fetch),
            Exit::Cr(access) => self.handle_cr_access(access),
            Exit::Dr(access) => self.handle_dr_access(access),
            Exit::Xsetbv => self.emulate_xsetbv(),
            Exit::Pause => Ok(self.handle_pause()),
            Exit::Ignored => {
                B::skip_instruction(self);
                Ok(Next::Guest)
            }
            Exit::Monitor => {
                self.emulate_monitor();
                Ok(Next::Guest)
            }
            Exit::InvalidOpcode => {
                self.queue_ud();
                Ok(Next::Guest)
            }
            Exit::Rdpmc => {
                self.queue_gp();
                Ok(Next::Guest)
            }
            Exit::Exception {
                vector,
                error_code,
                qualification,
            } => self.handle_exception(vector, error_code, qualification),
            Exit::InterruptEnded { vector } => {
                self.interrupt_ended(vector);
                Ok(Next::Guest)
            }
            Exit::ApicWritten { offset } => {
                self.apic_written(offset);
                Ok(Next::Guest)
            }
            Exit::TripleFault => Ok(self.leave(&UserExit::Shutdown)),
            Exit::EntryFailed { reason } => {
                self.report_entry_failure(reason);
                Ok(self.leave(&UserExit::FailEntry {
                    reason,
                    cpu: cpu::current(),
                }))
            }
            Exit::TaskSwitch => Ok(self.internal_error(INTERNAL_ERROR_EMULATION, &[])),
            Exit::Unexpected { reason } => Ok(self.internal_error(
                INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
                &[reason, cpu::current().into()],
            )),
        }
    }
}
