// SPDX-License-Identifier: GPL-2.0

//! The interrupt controllers, wherever they are (`--irqchip`).
//!
//! | | local APICs | IOAPIC, PICs, PIT |
//! | --- | --- | --- |
//! | [`Kernel`] | KVM | KVM |
//! | [`Split`] | KVM | here |
//! | [`User`] | here | here |
//!
//! Times are nanoseconds since power-on.

mod isa;
mod kernel;
mod local;
mod routes;
mod split;
mod user;

use std::sync::Arc;

use kvm_ioctls::VmFd;

pub use local::Event;
pub use routes::{Routes, FIRST_MESSAGE};

use crate::description::IrqchipMode;
use kernel::Kernel;
use split::Split;
use user::User;

/// The machine's interrupt controllers.
pub enum Irqchip {
    /// All of them in KVM.
    Kernel(Kernel),
    /// Local APICs in KVM.
    Split(Split),
    /// None in KVM.
    User(Box<User>),
}

impl Irqchip {
    /// The controllers of `vm`, which was made for this `mode`, with `cpus` vCPUs.
    pub fn new(mode: IrqchipMode, vm: &Arc<VmFd>, cpus: u8) -> Self {
        match mode {
            IrqchipMode::Kernel => Self::Kernel(Kernel::new(Arc::clone(vm))),
            IrqchipMode::Split => Self::Split(Split::new(Arc::clone(vm))),
            IrqchipMode::User => Self::user(cpus),
        }
    }

    /// Controllers that need no KVM, for `cpus` CPUs.
    pub fn user(cpus: u8) -> Self {
        Self::User(Box::new(User::new(cpus)))
    }

    /// Whether the interval timer is in KVM too.
    pub fn has_pit(&self) -> bool {
        matches!(self, Self::Kernel(_))
    }

    /// An edge on an ISA interrupt line.
    pub fn pulse(&mut self, irq: u8) {
        match self {
            Self::Kernel(kernel) => kernel.pulse(irq),
            Self::Split(split) => split.pulse(irq),
            Self::User(user) => user.pulse(irq),
        }
    }

    /// The level of a line that is the IOAPIC's alone: one after the ISA lines.
    pub fn set_line(&mut self, line: u8, level: bool) {
        match self {
            Self::Kernel(kernel) => kernel.set_line(line, level),
            Self::Split(split) => split.set_line(line, level),
            Self::User(user) => user.set_line(line, level),
        }
    }

    /// KVM's table of routes, if it has local APICs for them to lead to.
    pub fn routes(&self) -> Option<&Arc<Routes>> {
        match self {
            Self::Kernel(kernel) => Some(kernel.routes()),
            Self::Split(split) => Some(split.routes()),
            Self::User(_) => None,
        }
    }

    /// Whether CPU `cpu` may ever be given something by the functions below.
    pub fn serves(&self, cpu: usize) -> bool {
        match self {
            Self::Kernel(_) => false,
            Self::Split(_) => cpu == 0,
            Self::User(_) => true,
        }
    }

    /// Whether there is anything for CPU `cpu`: an interrupt or an event.
    pub fn wants(&self, cpu: usize) -> bool {
        match self {
            Self::User(user) => user.has_event(cpu) || user.pending(cpu),
            _ => self.pending(cpu),
        }
    }

    /// Whether CPU `cpu` is to be given an interrupt by KVM_INTERRUPT.
    pub fn pending(&self, cpu: usize) -> bool {
        match self {
            Self::Kernel(_) => false,
            Self::Split(split) => cpu == 0 && split.pending(),
            Self::User(user) => user.pending(cpu),
        }
    }

    /// CPU `cpu` takes the interrupt that is [`Self::pending`]: its vector. None if there is none.
    pub fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        match self {
            Self::Kernel(_) => None,
            Self::Split(split) => (cpu == 0 && split.pending()).then(|| split.acknowledge()),
            Self::User(user) => user.acknowledge(cpu),
        }
    }

    /// Whether an event other than an interrupt has come for CPU `cpu`.
    pub fn has_event(&self, cpu: usize) -> bool {
        match self {
            Self::User(user) => user.has_event(cpu),
            _ => false,
        }
    }

    /// Takes the next event other than an interrupt that has come for CPU `cpu`.
    pub fn take_event(&mut self, cpu: usize) -> Option<Event> {
        match self {
            Self::User(user) => user.take_event(cpu),
            _ => None,
        }
    }

    /// Whether CPU `cpu` runs, or, if that is KVM's to know, may be given to KVM: not before the
    /// first processor has started it.
    pub fn is_started(&self, cpu: usize) -> bool {
        match self {
            Self::User(user) => user.is_started(cpu),
            _ => true,
        }
    }

    /// CPU `cpu`'s task priority (CR8), if it is kept here.
    pub fn cr8(&self, cpu: usize) -> Option<u64> {
        match self {
            Self::User(user) => Some(user.cr8(cpu)),
            _ => None,
        }
    }

    /// Takes over what CPU `cpu` itself has changed: its CR8 and its IA32_APIC_BASE.
    pub fn follow(&mut self, cpu: usize, cr8: u64, apic_base: u64) {
        if let Self::User(user) = self {
            user.follow(cpu, cr8, apic_base);
        }
    }

    /// Reads a port of the controllers; `None` if it is none of theirs.
    pub fn read_port(&mut self, port: u16) -> Option<u8> {
        match self {
            Self::Kernel(_) => None,
            Self::Split(split) => split.pic().read(port),
            Self::User(user) => user.pic().read(port),
        }
    }

    /// Writes a port; nothing happens if it is none of the controllers'.
    pub fn write_port(&mut self, port: u16, value: u8) {
        match self {
            Self::Kernel(_) => {}
            Self::Split(split) => {
                split.pic().write(port, value);
            }
            Self::User(user) => {
                user.pic().write(port, value);
            }
        }
    }

    /// A load by CPU `cpu` from the registers at `address`; false if it is none of the controllers'.
    pub fn read(&mut self, cpu: usize, address: u64, data: &mut [u8], now: u64) -> bool {
        match self {
            Self::Kernel(_) => false,
            Self::Split(split) => split.read(address, data),
            Self::User(user) => user.read(cpu, address, data, now),
        }
    }

    /// A store by CPU `cpu` to the registers at `address`; nothing happens if it is none of the
    /// controllers'.
    pub fn write(&mut self, cpu: usize, address: u64, data: &[u8], now: u64) {
        match self {
            Self::Kernel(_) => {}
            Self::Split(split) => split.write(address, data),
            Self::User(user) => user.write(cpu, address, data, now),
        }
    }

    /// A local APIC in KVM has ended the interrupt `vector`, which the IOAPIC here asked to be told
    /// of.
    pub fn eoi(&mut self, vector: u8) {
        if let Self::Split(split) = self {
            split.eoi(vector);
        }
    }

    /// When a timer here is due next.
    pub fn next_deadline(&self) -> Option<u64> {
        match self {
            Self::User(user) => user.next_deadline(),
            _ => None,
        }
    }

    /// Has the timers interrupt that are due at `now`.
    pub fn pass_time(&mut self, now: u64) {
        if let Self::User(user) = self {
            user.pass_time(now);
        }
    }
}
