// SPDX-License-Identifier: GPL-2.0

//! The devices of the machine, all behind ports and all in user space.

mod cmos;
mod reset;
mod serial;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use arch::pic::DualPic;
use arch::pit::{self, Pit};

use cmos::Cmos;
pub use reset::Reset;
use serial::Com1;

/// Interrupt line of the timer's channel 0.
const IRQ_TIMER: u8 = 0;
/// Interrupt line of the first serial port.
const IRQ_COM1: u8 = 4;
/// What a port reads as that no device answers to: the bus floats high.
const FLOATING: u8 = 0xff;
const COM1: RangeInclusive<u16> = serial::BASE..=serial::LAST;

/// The mainboard: every device and the wires between them.
pub struct Board {
    pic: DualPic,
    pit: Pit,
    cmos: Cmos,
    com1: Com1,
    power_on: Instant,
    /// When channel 0 interrupts next, in nanoseconds since `power_on`.
    tick: Option<u64>,
    reset: Option<Reset>,
}

impl Board {
    /// A board that has just been switched on.
    pub fn new() -> Self {
        Self {
            pic: DualPic::new(),
            pit: Pit::new(),
            cmos: Cmos::new(),
            com1: Com1::new(),
            power_on: Instant::now(),
            tick: None,
            reset: None,
        }
    }

    /// IN: fills `data` from `port`, with one or more accesses of `width` bytes each.
    pub fn read(&mut self, port: u16, width: usize, data: &mut [u8]) {
        for access in data.chunks_mut(width.max(1)) {
            for (port, byte) in bytes_of(port, access.len()).zip(access) {
                *byte = port.map_or(FLOATING, |port| self.read_byte(port));
            }
        }
        self.wire();
    }

    /// OUT: sends `data` to `port`, with one or more accesses of `width` bytes each.
    pub fn write(&mut self, port: u16, width: usize, data: &[u8]) {
        for access in data.chunks(width.max(1)) {
            for (port, byte) in bytes_of(port, access.len()).zip(access) {
                if let Some(port) = port {
                    self.write_byte(port, *byte);
                }
            }
        }
        self.wire();
    }

    /// Sends typed bytes to the guest's console.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.com1.type_in(bytes);
        self.wire();
    }

    /// How many bytes [`Self::type_in`] takes now without losing any.
    pub fn typing_room(&self) -> usize {
        self.com1.room()
    }

    /// What the guest wrote to its console since this was last called.
    pub fn take_console_output(&mut self) -> Vec<u8> {
        self.com1.take_sent()
    }

    /// The reset the guest asked for, if it did.
    pub fn reset_asked(&self) -> Option<Reset> {
        self.reset
    }

    /// Whether the interrupt controllers have an interrupt for the CPU.
    pub fn interrupt_pending(&self) -> bool {
        self.pic.pending()
    }

    /// The CPU takes the interrupt: its vector.
    pub fn acknowledge_interrupt(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    /// The timer's next interrupt: an identity to compare, and how far it is away.
    pub fn next_tick(&self) -> Option<(u64, Duration)> {
        let tick = self.tick?;
        Some((tick, Duration::from_nanos(tick.saturating_sub(self.now()))))
    }

    /// Lets time pass: a timer interrupt that is due happens. Several that have been missed become
    /// one, which is all an interrupt controller could have remembered of them.
    pub fn pass_time(&mut self) {
        self.pass_time_until(self.now());
    }

    fn pass_time_until(&mut self, now: u64) {
        if self.tick.is_some_and(|tick| tick <= now) {
            self.pulse(IRQ_TIMER);
            self.tick = self.pit.next_rising_edge(0, now);
        }
    }

    fn read_byte(&mut self, port: u16) -> u8 {
        match port {
            port if COM1.contains(&port) => self.com1.read(port),
            cmos::INDEX | cmos::DATA => self.cmos.read(port),
            reset::KEYBOARD_DATA
            | reset::KEYBOARD_COMMAND
            | reset::FAST_A20
            | reset::RESET_CONTROL => reset::read(port),
            port if pit::PORTS.contains(&port) => {
                let now = self.now();
                self.pit.read(port, now).unwrap_or(FLOATING)
            }
            port => self.pic.read(port).unwrap_or(FLOATING),
        }
    }

    fn write_byte(&mut self, port: u16, value: u8) {
        match port {
            port if COM1.contains(&port) => self.com1.write(port, value),
            cmos::INDEX | cmos::DATA => self.cmos.write(port, value),
            port if pit::PORTS.contains(&port) => self.write_timer(port, value, self.now()),
            port => {
                if let Some(reset) = Reset::asked_by(port, value) {
                    self.reset = Some(reset);
                } else {
                    self.pic.write(port, value);
                }
            }
        }
    }

    /// Programs the timer at `now`. An interrupt that is due by then is not lost to it, and neither
    /// is one that becomes due while this runs.
    fn write_timer(&mut self, port: u16, value: u8, now: u64) {
        self.pass_time_until(now);
        self.pit.write(port, value, now);
        self.tick = self.pit.next_rising_edge(0, now);
    }

    /// Carries what the devices ask for to the interrupt controllers.
    fn wire(&mut self) {
        if self.com1.take_request() {
            self.pulse(IRQ_COM1);
        }
    }

    /// An edge on an interrupt line; the controller latches it.
    fn pulse(&mut self, line: u8) {
        self.pic.set_irq(line, true);
        self.pic.set_irq(line, false);
    }

    /// Nanoseconds since power-on, of a clock that never goes back.
    fn now(&self) -> u64 {
        u64::try_from(self.power_on.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
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
