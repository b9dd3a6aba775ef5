// SPDX-License-Identifier: GPL-2.0

//! The devices of the machine that are in user space, and the wires between them.

pub mod cmos;
pub mod irqchip;
pub mod pci;
pub mod power;
pub mod reset;
pub mod serial;
pub mod virtio;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arch::pit::{self, Pit};

use cmos::Cmos;
use irqchip::Irqchip;
use pci::PciBus;
use power::Pm1;
pub use reset::Reset;
use serial::Com1;
use virtio::console::Input;
use virtio::{MmioBus, Stopper};

/// Interrupt line of the timer's channel 0.
const IRQ_TIMER: u8 = 0;
/// What a port reads as that no device answers to: the bus floats high.
const FLOATING: u8 = 0xff;
const COM1: RangeInclusive<u16> = serial::BASE..=serial::LAST;

/// What a guest asked its board for that ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// To be reset.
    Reset(Reset),
    /// To be switched off.
    PowerOff,
}

/// The mainboard: every device and the wires between them.
pub struct Board {
    irqchip: Irqchip,
    /// The interval timer, unless KVM has it.
    pit: Option<Pit>,
    cmos: Cmos,
    com1: Com1,
    /// Where what is typed goes instead of to the serial port.
    input: Option<Arc<Input>>,
    pm1: Pm1,
    virtio: Option<MmioBus>,
    pci: Option<PciBus>,
    /// The interrupt lines of the PCI bus that are high.
    pci_lines: u8,
    power_on: Instant,
    /// When channel 0 of the timer interrupts next, in nanoseconds since `power_on`.
    tick: Option<u64>,
    request: Option<Request>,
}

impl Board {
    /// A board that has just been switched on.
    pub fn new(irqchip: Irqchip) -> Self {
        Self {
            pit: (!irqchip.has_pit()).then(Pit::new),
            irqchip,
            cmos: Cmos::new(),
            com1: Com1::new(),
            input: None,
            pm1: Pm1::default(),
            virtio: None,
            pci: None,
            pci_lines: 0,
            power_on: Instant::now(),
            tick: None,
            request: None,
        }
    }

    /// Puts virtio devices on the board.
    pub fn add_virtio(&mut self, bus: MmioBus) {
        self.virtio = Some(bus);
    }

    /// Puts a PCI bus on the board.
    pub fn add_pci(&mut self, bus: PciBus) {
        self.pci = Some(bus);
    }

    /// What is typed goes to a virtio console from now on.
    pub fn type_into(&mut self, input: Arc<Input>) {
        self.input = Some(input);
    }

    /// IN: fills `data` from `port`, with one or more accesses of `width` bytes each.
    pub fn read(&mut self, port: u16, width: usize, data: &mut [u8]) {
        for access in data.chunks_mut(width.max(1)) {
            if let Some(bus) = self.pci.as_mut().filter(|_| is_pci(port, width)) {
                bus.read_port(port, access);
                self.move_pci_lines();
                continue;
            }
            for (port, byte) in bytes_of(port, access.len()).zip(access) {
                *byte = port.map_or(FLOATING, |port| self.read_byte(port));
            }
        }
        self.wire();
    }

    /// OUT: sends `data` to `port`, with one or more accesses of `width` bytes each.
    pub fn write(&mut self, port: u16, width: usize, data: &[u8]) {
        for access in data.chunks(width.max(1)) {
            if let Some(bus) = self.pci.as_mut().filter(|_| is_pci(port, width)) {
                bus.write_port(port, access);
                self.move_pci_lines();
                continue;
            }
            for (port, byte) in bytes_of(port, access.len()).zip(access) {
                if let Some(port) = port {
                    self.write_byte(port, *byte);
                }
            }
        }
        self.wire();
    }

    /// A load by CPU `cpu` from an address without memory.
    pub fn load(&mut self, cpu: usize, address: u64, data: &mut [u8]) {
        let now = self.now();
        let pci = self.pci.as_mut();
        if pci.is_some_and(|bus| bus.read(address, data)) {
            self.move_pci_lines();
            return;
        }
        let virtio = self.virtio.as_ref();
        if !virtio.is_some_and(|bus| bus.read(address, data))
            && !self.irqchip.read(cpu, address, data, now)
        {
            data.fill(FLOATING);
        }
    }

    /// A store by CPU `cpu` to an address without memory.
    pub fn store(&mut self, cpu: usize, address: u64, data: &[u8]) {
        let now = self.now();
        let pci = self.pci.as_mut();
        if pci.is_some_and(|bus| bus.write(address, data)) {
            self.move_pci_lines();
            return;
        }
        let virtio = self.virtio.as_mut();
        if !virtio.is_some_and(|bus| bus.write(address, data)) {
            self.irqchip.write(cpu, address, data, now);
        }
    }

    /// What the reset of a device waits for that an access was since this was last called, if one
    /// was. Whoever has it is to wait with the board left to others, and then to
    /// [`Self::finish_resets`].
    pub fn take_stopper(&mut self) -> Option<Stopper> {
        let pci = self.pci.as_mut().and_then(PciBus::take_stopper);
        pci.or_else(|| self.virtio.as_mut().and_then(MmioBus::take_stopper))
    }

    /// Finishes the resets of devices whose waits are over.
    pub fn finish_resets(&mut self) {
        if let Some(bus) = &mut self.pci {
            bus.finish_resets();
        }
        if let Some(bus) = &mut self.virtio {
            bus.finish_resets();
        }
        self.move_pci_lines();
    }

    /// Carries what virtio devices have done to their interrupt lines to the interrupt controllers.
    pub fn move_lines(&mut self) {
        if let Some(bus) = &self.virtio {
            for gsi in bus.take_edges() {
                self.irqchip.pulse(gsi);
            }
        }
        self.move_pci_lines();
    }

    /// Carries the levels of the PCI bus's interrupt lines to the interrupt controllers.
    fn move_pci_lines(&mut self) {
        let wanted = self.pci.as_ref().map_or(0, PciBus::wanted_lines);
        let changed = wanted ^ self.pci_lines;
        self.pci_lines = wanted;
        for line in (0..pci::GSIS).filter(|line| changed & 1 << line != 0) {
            self.irqchip
                .set_line(pci::FIRST_GSI + line, wanted & 1 << line != 0);
        }
    }

    /// Sends typed bytes to the guest's console.
    pub fn type_in(&mut self, bytes: &[u8]) {
        match &self.input {
            Some(input) => input.type_in(bytes),
            None => self.com1.type_in(bytes),
        }
        self.wire();
    }

    /// Presses the power button, which asks the guest to shut down. False if it does not listen.
    pub fn press_power_button(&mut self) -> bool {
        let heard = self.pm1.press_button();
        self.wire();
        heard
    }

    /// How many bytes [`Self::type_in`] takes now without losing any.
    pub fn typing_room(&self) -> usize {
        let input = self.input.as_ref();
        input.map_or_else(|| self.com1.room(), |input| input.room())
    }

    /// What the guest wrote to its console since this was last called.
    pub fn take_console_output(&mut self) -> Vec<u8> {
        self.com1.take_sent()
    }

    /// What the guest asked for that ends it, if it did.
    pub fn request(&self) -> Option<Request> {
        self.request
    }

    /// The interrupt controllers.
    pub fn irqchip(&mut self) -> &mut Irqchip {
        &mut self.irqchip
    }

    /// When time has something to do next ([`Self::pass_time`]): an identity to compare, and how
    /// far it is away.
    pub fn next_deadline(&self) -> Option<(u64, Duration)> {
        let deadlines = [self.tick, self.irqchip.next_deadline()];
        let deadline = deadlines.into_iter().flatten().min()?;
        let away = Duration::from_nanos(deadline.saturating_sub(self.now()));
        Some((deadline, away))
    }

    /// Lets time pass: a timer interrupt that is due happens. Several that have been missed become
    /// one, which is all an interrupt controller could have remembered of them.
    pub fn pass_time(&mut self) {
        let now = self.now();
        self.pass_time_until(now);
        self.irqchip.pass_time(now);
    }

    fn pass_time_until(&mut self, now: u64) {
        if self.tick.is_some_and(|tick| tick <= now) {
            self.irqchip.pulse(IRQ_TIMER);
            self.find_next_tick(now);
        }
    }

    fn find_next_tick(&mut self, now: u64) {
        self.tick = self
            .pit
            .as_ref()
            .and_then(|pit| pit.next_rising_edge(0, now));
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        let now = self.now();
        match port {
            port if COM1.contains(&port) => self.com1.read(port),
            port if power::PORTS.contains(&port) => self.pm1.read(port),
            cmos::INDEX | cmos::DATA => self.cmos.read(port),
            reset::KEYBOARD_DATA
            | reset::KEYBOARD_COMMAND
            | reset::FAST_A20
            | reset::RESET_CONTROL => reset::read(port),
            port => self
                .pit
                .as_mut()
                .and_then(|pit| pit.read(port, now))
                .or_else(|| self.irqchip.read_port(port))
                .unwrap_or(FLOATING),
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        match port {
            port if COM1.contains(&port) => self.com1.write(port, value),
            port if power::PORTS.contains(&port) => {
                if self.pm1.write(port, value) {
                    self.request = Some(Request::PowerOff);
                }
            }
            cmos::INDEX | cmos::DATA => self.cmos.write(port, value),
            port if pit::PORTS.contains(&port) => self.write_timer(port, value, self.now()),
            port => {
                if let Some(reset) = Reset::asked_by(port, value) {
                    self.request = Some(Request::Reset(reset));
                } else {
                    self.irqchip.write_port(port, value);
                }
            }
        }
    }

    /// Programs the timer at `now`. An interrupt that is due by then is not lost to it, and neither
    /// is one that becomes due while this runs.
    fn write_timer(&mut self, port: u16, value: u8, now: u64) {
        self.pass_time_until(now);
        if let Some(pit) = &mut self.pit {
            pit.write(port, value, now);
        }
        self.find_next_tick(now);
    }

    /// Carries what the devices ask for to the interrupt controllers.
    fn wire(&mut self) {
        if self.com1.take_request() {
            self.irqchip.pulse(serial::IRQ);
        }
        if self.pm1.take_interrupt() {
            self.irqchip.pulse(power::SCI);
        }
    }

    /// Nanoseconds since power-on, of a clock that never goes back.
    fn now(&self) -> u64 {
        u64::try_from(self.power_on.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Whether an access is the PCI bus's: its address register is 32 bits wide, and among its bytes is
/// another register's.
fn is_pci(port: u16, width: usize) -> bool {
    pci::PORTS.contains(&port) && (port >= pci::DATA || port == pci::ADDRESS && width == 4)
}

/// The ports of the bytes of one access. Every device here is eight bits wide, and the bus breaks
/// a wider access up; a wide access to the PCI configuration address at 0xcf8 is that register's
/// and never reaches the reset control register among its bytes.
fn bytes_of(port: u16, width: usize) -> impl Iterator<Item = Option<u16>> {
    (port..=u16::MAX)
        .map(Some)
        .chain(std::iter::repeat(None))
        .take(width)
        .map(move |byte| byte.filter(|byte| width == 1 || *byte != reset::RESET_CONTROL))
}

#[cfg(test)]
mod tests;
