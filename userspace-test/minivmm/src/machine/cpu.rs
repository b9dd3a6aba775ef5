// SPDX-License-Identifier: GPL-2.0

//! A vCPU's thread: run, serve the exit, deliver interrupts, and again.

use std::io;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

use super::shared::{Shared, Until};
use super::vm;
use super::{pin, start};
use crate::boot::CpuState;
use crate::devices::irqchip::Event;
use crate::devices::Request;
use crate::statistics::Tally;
use crate::vcpu::exit::{self, Direction, Exit, Pio};
use crate::vcpu::{interrupt, trace};

/// How a guest came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// HLT with interrupts off on every CPU: it has stopped for good.
    Halted,
    /// It asked its board for it.
    Asked(Request),
    /// It cannot go on; what KVM said.
    Died(Exit),
    /// Somebody ended it from outside.
    Stopped,
}

/// What keeps minivmm from running the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The vCPU's thread cannot be kept on a CPU of the host.
    #[error("cannot keep vCPU {cpu} on host CPU {host} (see --pin)")]
    Pin {
        /// The vCPU.
        cpu: usize,
        /// The host's CPU.
        host: usize,
        /// What the system said.
        source: io::Error,
    },
    /// KVM_RUN failed.
    #[error("KVM_RUN of vCPU {cpu} failed")]
    Run {
        /// The vCPU.
        cpu: usize,
        /// What the system said.
        source: errno::Error,
    },
    /// KVM_INTERRUPT failed.
    #[error("KVM_INTERRUPT with vector {vector:#x} failed")]
    Interrupt {
        /// The vector.
        vector: u8,
        /// What the system said.
        source: errno::Error,
    },
    /// KVM_NMI failed.
    #[error("KVM_NMI failed")]
    Nmi(#[source] errno::Error),
    /// The vCPU cannot be reset or started.
    #[error(transparent)]
    State(vm::Error),
    /// The guest's console cannot be written.
    #[error("cannot write the guest's console to standard output")]
    Console(#[source] io::Error),
    /// The timer cannot be set.
    #[error("cannot set the timer of the guest")]
    Timer(#[source] io::Error),
}

/// One vCPU and what it needs to run.
pub struct Cpu<'a> {
    /// Its number, which is its APIC ID.
    pub id: usize,
    /// The vCPU.
    pub vcpu: &'a mut VcpuFd,
    /// The machine.
    pub shared: &'a Shared,
    /// The state after reset, to go back to at INIT.
    pub reset: CpuState,
    /// Whether the controllers in user space give it anything.
    pub is_served: bool,
    /// Host CPU to keep it on.
    pub pin: Option<usize>,
    /// Whether to print each exit.
    pub trace: bool,
    /// The exits so far.
    pub exits: Tally,
}

impl Cpu<'_> {
    /// Runs the guest's CPU to its end.
    ///
    /// # Errors
    ///
    /// What keeps minivmm from running it.
    pub fn run(&mut self) -> Result<End, Error> {
        if let Some(host) = self.pin {
            let cpu = self.id;
            pin::this_thread(host).map_err(|source| Error::Pin { cpu, host, source })?;
        }
        self.shared.kick(self.id).run_by_this_thread();
        let mut exits = 0;
        loop {
            self.shared.kick(self.id).clear();
            if self.shared.is_over() {
                return Ok(End::Stopped);
            }
            match self.prepare(exits > 0)? {
                Next::Run => {}
                Next::Again => continue,
                Next::End(end) => return Ok(end),
            }
            let exit = exit::run(self.vcpu).map_err(|source| Error::Run {
                cpu: self.id,
                source,
            })?;
            exits += 1;
            self.exits.count(&exit);
            // Serving the exit moves the guest on, so where it was is asked for first.
            let rip = self
                .trace
                .then(|| self.vcpu.get_regs().ok().map(|regs| regs.rip));
            let end = self.serve(&exit)?;
            if let Some(rip) = rip {
                let data = exit::data(self.vcpu);
                eprintln!("{}", trace::line(self.id, exits, &exit, data, rip));
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Gives the CPU what the interrupt controllers have for it, or waits until it can run. What
    /// the `kvm_run` page says of it counts once it `has_run`.
    fn prepare(&mut self, has_run: bool) -> Result<Next, Error> {
        if !self.is_served {
            return Ok(Next::Run);
        }
        let (id, ready) = (self.id, interrupt::readiness(self.vcpu));
        let (cr8, apic_base) = interrupt::apic_state(self.vcpu);
        let found = self.shared.deliver(id, |board| {
            let irqchip = board.irqchip();
            if has_run {
                irqchip.follow(id, cr8, apic_base);
            }
            if let Some(event) = irqchip.take_event(id) {
                return (Found::Event(event), false);
            }
            if !irqchip.is_started(id) {
                return (Found::NotStarted, false);
            }
            let vector = if ready.for_injection && ready.interrupt_flag {
                irqchip.acknowledge(id)
            } else {
                None
            };
            let cr8 = irqchip.cr8(id);
            (Found::Ready { vector, cr8 }, irqchip.pending(id))
        });
        match found {
            (Found::Event(event), _) => {
                self.handle(event)?;
                Ok(Next::Again)
            }
            (Found::NotStarted, _) => Ok(self.wait(Until::Event)),
            (Found::Ready { vector, cr8 }, more) => {
                if let Some(cr8) = cr8 {
                    interrupt::set_cr8(self.vcpu, cr8);
                }
                if let Some(vector) = vector {
                    interrupt::inject(self.vcpu, vector)
                        .map_err(|source| Error::Interrupt { vector, source })?;
                }
                interrupt::request_window(self.vcpu, more);
                Ok(Next::Run)
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Init => start::reset(self.vcpu, &self.reset).map_err(Error::State),
            Event::StartUp(page) => start::at_page(self.vcpu, page).map_err(Error::State),
            Event::Nmi => self.vcpu.nmi().map_err(Error::Nmi),
        }
    }

    fn wait(&self, until: Until) -> Next {
        if self.shared.wait(self.id, until) {
            Next::Again
        } else {
            Next::End(End::Halted)
        }
    }

    fn serve(&mut self, exit: &Exit) -> Result<Option<End>, Error> {
        match exit {
            Exit::Io(pio) => return self.serve_port(pio),
            Exit::MmioRead { address } => {
                let (id, data) = (self.id, exit::mmio_data(self.vcpu));
                self.shared
                    .access(Some(id), |board| board.load(id, *address, data))
                    .map_err(Error::Timer)?;
            }
            Exit::MmioWrite { address } => {
                let (id, data) = (self.id, exit::mmio_data(self.vcpu));
                self.shared
                    .access(Some(id), |board| board.store(id, *address, data))
                    .map_err(Error::Timer)?;
            }
            Exit::IoapicEoi { vector } => {
                self.shared
                    .access(Some(self.id), |board| board.irqchip().eoi(*vector))
                    .map_err(Error::Timer)?;
            }
            Exit::Halt => {
                let until = if interrupt::readiness(self.vcpu).interrupt_flag {
                    Until::Interrupt
                } else {
                    Until::Event
                };
                if let Next::End(end) = self.wait(until) {
                    return Ok(Some(end));
                }
            }
            Exit::SetTpr | Exit::InterruptWindow | Exit::Interrupted => {}
            Exit::Shutdown | Exit::FailEntry { .. } | Exit::InternalError(_) | Exit::Other(_) => {
                return Ok(Some(End::Died(exit.clone())));
            }
        }
        Ok(None)
    }

    fn serve_port(&mut self, pio: &Pio) -> Result<Option<End>, Error> {
        let data = exit::pio_data(self.vcpu);
        let (sent, request) = self
            .shared
            .access(Some(self.id), |board| {
                match pio.direction {
                    Direction::In => board.read(pio.port, pio.width, data),
                    Direction::Out => board.write(pio.port, pio.width, data),
                }
                (board.take_console_output(), board.request())
            })
            .map_err(Error::Timer)?;
        self.shared.write_console(&sent).map_err(Error::Console)?;
        Ok(request.map(End::Asked))
    }
}

/// What a CPU finds before it runs.
enum Found {
    Event(Event),
    NotStarted,
    Ready {
        vector: Option<u8>,
        cr8: Option<u64>,
    },
}

/// What the thread does next.
enum Next {
    Run,
    Again,
    End(End),
}
