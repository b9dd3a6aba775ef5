// SPDX-License-Identifier: GPL-2.0

//! The vCPU's thread: run, serve the exit, deliver interrupts, and again.

use std::io;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use super::shared::{Attention, Shared};
use crate::devices::Reset;
use crate::terminal::Console;
use crate::vcpu::exit::{self, Direction, Exit, Pio};
use crate::vcpu::{interrupt, trace, Kick};

/// How a guest came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// HLT with interrupts off: it has stopped for good.
    Halted,
    /// It reset the machine.
    Reset(Reset),
    /// It cannot go on; what KVM said.
    Died(Exit),
    /// Somebody ended it from outside.
    Stopped,
}

/// What keeps minivmm from running the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM_RUN failed.
    #[error("KVM_RUN failed")]
    Run(#[source] errno::Error),
    /// KVM_INTERRUPT failed.
    #[error("KVM_INTERRUPT with vector {vector:#x} failed")]
    Interrupt {
        /// The vector.
        vector: u8,
        /// What the system said.
        source: errno::Error,
    },
    /// The guest's console cannot be written.
    #[error("cannot write the guest's console to standard output")]
    Console(#[source] io::Error),
    /// The timer cannot be set.
    #[error("cannot set the timer of the guest")]
    Timer(#[source] io::Error),
}

/// One vCPU and what it needs to run.
pub struct Cpu<'a> {
    /// The vCPU.
    pub vcpu: &'a mut VcpuFd,
    /// The machine.
    pub shared: &'a Shared,
    /// How others interrupt [`Self::run`].
    pub kick: &'a Kick,
    /// Where the guest's console goes.
    pub console: Console,
    /// Whether to print each exit.
    pub trace: bool,
}

impl Cpu<'_> {
    /// Runs the guest to its end.
    ///
    /// # Errors
    ///
    /// What keeps minivmm from running it.
    pub fn run(&mut self) -> Result<End, Error> {
        self.kick.run_by_this_thread();
        let mut number = 0;
        loop {
            self.kick.clear();
            if self.shared.is_over() {
                return Ok(End::Stopped);
            }
            self.deliver_interrupt()?;
            let exit = exit::run(self.vcpu).map_err(Error::Run)?;
            number += 1;
            // Serving the exit moves the guest on, so where it was is asked for first.
            let rip = self
                .trace
                .then(|| self.vcpu.get_regs().ok().map(|regs| regs.rip));
            let end = match &exit {
                Exit::Io(pio) => self.serve_port(pio)?,
                _ => None,
            };
            if let Some(rip) = rip {
                eprintln!(
                    "{}",
                    trace::line(number, &exit, exit::pio_data(self.vcpu), rip)
                );
            }
            if let Some(end) = end.or_else(|| self.serve(exit)) {
                return Ok(end);
            }
        }
    }

    /// Hands an interrupt to the guest if it can take one, or else asks to be told when it can.
    fn deliver_interrupt(&mut self) -> Result<(), Error> {
        let ready = interrupt::readiness(self.vcpu);
        let mut state = self.shared.lock();
        if state.board.interrupt_pending() && ready.for_injection && ready.interrupt_flag {
            let vector = state.board.acknowledge_interrupt();
            interrupt::inject(self.vcpu, vector)
                .map_err(|source| Error::Interrupt { vector, source })?;
        }
        let more = state.board.interrupt_pending();
        state.attention = if more {
            Attention::Window
        } else {
            Attention::None
        };
        interrupt::request_window(self.vcpu, more);
        Ok(())
    }

    fn serve_port(&mut self, pio: &Pio) -> Result<Option<End>, Error> {
        let data = exit::pio_data(self.vcpu);
        let mut state = self.shared.lock();
        match pio.direction {
            Direction::In => state.board.read(pio.port, pio.width, data),
            Direction::Out => state.board.write(pio.port, pio.width, data),
        }
        state.arm_timer().map_err(Error::Timer)?;
        let sent = state.board.take_console_output();
        let reset = state.board.reset_asked();
        drop(state);

        self.console
            .write(&sent, || self.shared.is_over())
            .map_err(Error::Console)?;
        Ok(reset.map(End::Reset))
    }

    fn serve(&mut self, exit: Exit) -> Option<End> {
        match exit {
            Exit::Io(_)
            | Exit::MmioRead { .. }
            | Exit::MmioWrite { .. }
            | Exit::InterruptWindow
            | Exit::Interrupted => None,
            Exit::Halt => {
                if !interrupt::readiness(self.vcpu).interrupt_flag {
                    return Some(End::Halted);
                }
                self.shared.wait_for_interrupt();
                None
            }
            Exit::Shutdown | Exit::FailEntry { .. } | Exit::InternalError(_) | Exit::Other(_) => {
                Some(End::Died(exit))
            }
        }
    }
}
