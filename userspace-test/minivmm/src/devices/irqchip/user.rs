// SPDX-License-Identifier: GPL-2.0

//! All controllers in user space: PICs, IOAPIC, a local APIC for each CPU, and the bus that carries
//! their messages.

use arch::apic::{Effect, Message};
use arch::ioapic::{Ioapic, Written, DEFAULT_BASE, LENGTH};
use arch::pic::DualPic;

use super::isa;
use super::local::{Event, LocalApic};

/// Bytes of a local APIC's registers.
const PAGE: u64 = 4096;
/// More bits than a physical address has: which of them KVM's CPU has is KVM's to check.
const ANY_ADDRESS: u8 = 64;

/// The controllers of a machine of which KVM has none.
pub struct User {
    pic: DualPic,
    ioapic: Ioapic,
    cpus: Vec<LocalApic>,
}

impl User {
    /// The controllers of a machine with `cpus` CPUs.
    pub fn new(cpus: u8) -> Self {
        Self {
            pic: DualPic::new(),
            ioapic: Ioapic::new(),
            cpus: (0..cpus).map(LocalApic::new).collect(),
        }
    }

    /// The PICs.
    pub fn pic(&mut self) -> &mut DualPic {
        &mut self.pic
    }

    /// An edge on an ISA interrupt line.
    pub fn pulse(&mut self, irq: u8) {
        let Self { pic, ioapic, cpus } = self;
        isa::pulse(pic, ioapic, irq, |message| send(cpus, message, None));
    }

    /// The level of a line that only the IOAPIC has.
    pub fn set_line(&mut self, pin: u8, level: bool) {
        let Self { ioapic, cpus, .. } = self;
        ioapic.set_line(pin, level, false, |message| send(cpus, message, None));
    }

    /// Whether CPU `cpu` has an interrupt to take, from its local APIC or the PICs.
    pub fn pending(&self, cpu: usize) -> bool {
        let local = &self.cpus[cpu];
        local.is_started() && (local.apic.pending().is_some() || self.extint(local))
    }

    /// Whether the PICs have an interrupt that reaches the CPU of `local`.
    fn extint(&self, local: &LocalApic) -> bool {
        self.pic.pending() && local.apic.takes_extint()
    }

    /// CPU `cpu` takes an interrupt: its vector.
    pub fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        if self.extint(&self.cpus[cpu]) {
            return Some(self.pic.acknowledge());
        }
        let apic = &self.cpus[cpu].apic;
        let vector = apic.pending()?;
        apic.acknowledge(vector);
        Some(vector)
    }

    /// Whether an event other than an interrupt has come for CPU `cpu`.
    pub fn has_event(&self, cpu: usize) -> bool {
        self.cpus[cpu].has_event()
    }

    /// Takes it.
    pub fn take_event(&mut self, cpu: usize) -> Option<Event> {
        self.cpus[cpu].take_event()
    }

    /// Whether CPU `cpu` runs.
    pub fn is_started(&self, cpu: usize) -> bool {
        self.cpus[cpu].is_started()
    }

    /// CPU `cpu`'s task priority as its CR8 has it.
    pub fn cr8(&self, cpu: usize) -> u64 {
        self.cpus[cpu].apic.cr8()
    }

    /// Takes over what CPU `cpu` has changed without an access to its APIC's registers.
    pub fn follow(&mut self, cpu: usize, cr8: u64, apic_base: u64) {
        let apic = &self.cpus[cpu].apic;
        if apic.cr8() != cr8 {
            apic.set_cr8(cr8);
        }
        if apic.base() != apic_base {
            // KVM has taken it from the guest; what this APIC cannot be, it does not become.
            let _ = apic.set_base(apic_base, ANY_ADDRESS, true);
        }
    }

    /// A load by CPU `cpu`; false if no register is at `address`.
    pub fn read(&mut self, cpu: usize, address: u64, data: &mut [u8], now: u64) -> bool {
        let local = &self.cpus[cpu];
        if let Some(offset) = local_offset(local, address) {
            local
                .apic
                .read_bytes(offset, data, || local.timer.current_count(now));
        } else if let Some(offset) = ioapic_offset(address) {
            self.ioapic.read_bytes(offset, data);
        } else {
            return false;
        }
        true
    }

    /// A store by CPU `cpu`; nothing happens if no register is at `address`.
    pub fn write(&mut self, cpu: usize, address: u64, data: &[u8], now: u64) {
        if let Some(offset) = local_offset(&self.cpus[cpu], address) {
            let effect = self.cpus[cpu].apic.write_bytes(offset, data);
            self.carry_out(cpu, effect, now);
        } else if let Some(offset) = ioapic_offset(address) {
            let written = self.ioapic.write_bytes(offset, data);
            if let Written::Entry {
                pin, pending: true, ..
            } = written
            {
                let Self { ioapic, cpus, .. } = self;
                ioapic.resend(pin, |message| send(cpus, message, None));
            }
        }
    }

    fn carry_out(&mut self, cpu: usize, effect: Effect, now: u64) {
        match effect {
            Effect::Send(message) => {
                send(&mut self.cpus, &message, Some(cpu));
            }
            Effect::Eoi(eoi) if eoi.level && !eoi.suppressed => {
                let Self { ioapic, cpus, .. } = self;
                let pins = ioapic.pins_of(eoi.vector);
                if ioapic.eoi(pins, |message| send(cpus, message, None)) {
                    ioapic.reinject(|message| send(cpus, message, None));
                }
            }
            Effect::Timer(write) => {
                let local = &mut self.cpus[cpu];
                // What is due by now is not lost to the timer's new program.
                local.pass_time(now);
                local.timer.write(write, now);
            }
            // Who asks next what is pending, or which APIC matches, sees the change.
            Effect::None
            | Effect::Eoi(_)
            | Effect::Tpr
            | Effect::SoftwareEnable(_)
            | Effect::Destination
            | Effect::Mode
            | Effect::Lvt(_) => {}
        }
    }

    /// When the first timer is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.cpus
            .iter()
            .filter_map(|local| local.timer.deadline())
            .min()
    }

    /// Has the timers interrupt that are due at `now`.
    pub fn pass_time(&mut self, now: u64) {
        self.cpus.iter_mut().for_each(|local| local.pass_time(now));
    }
}

fn local_offset(local: &LocalApic, address: u64) -> Option<u32> {
    let offset = address.checked_sub(local.apic.address())?;
    let mapped = local.apic.is_memory_mapped() && offset < PAGE;
    mapped.then_some(offset as u32)
}

fn ioapic_offset(address: u64) -> Option<u64> {
    address
        .checked_sub(DEFAULT_BASE)
        .filter(|offset| *offset < LENGTH)
}

/// Sends a message from the APIC of `sender`, if it is a local APIC, to whom it is for. How many
/// took it, `None` if none was addressed.
fn send(cpus: &mut [LocalApic], message: &Message, sender: Option<usize>) -> Option<u32> {
    if message.is_deassert() {
        return None;
    }
    let mut addressed: Vec<_> = cpus
        .iter_mut()
        .enumerate()
        .filter(|(cpu, local)| local.apic.matches(message, sender == Some(*cpu)))
        .map(|(_, local)| local)
        .collect();
    if message.is_lowest_priority() {
        addressed.retain(|local| local.apic.takes_interrupts());
        let chosen = message.choose(u32::try_from(addressed.len()).ok()?)?;
        let local = addressed.into_iter().nth(chosen as usize)?;
        return Some(u32::from(local.take(message)));
    }
    if addressed.is_empty() {
        return None;
    }
    let taken = addressed
        .into_iter()
        .map(|local| u32::from(local.take(message)))
        .sum();
    Some(taken)
}

#[cfg(test)]
mod tests;
