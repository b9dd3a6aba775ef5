// SPDX-License-Identifier: GPL-2.0

//! One counter of the 8254.

mod state;

pub use state::ChannelState;

/// What a counter does with its count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    /// 0: low until the count has run out, then high.
    InterruptOnTerminalCount = 0,
    /// 1: low for the count after each rise of the gate.
    OneShot = 1,
    /// 2: low for the last tick of each period.
    RateGenerator = 2,
    /// 3: low for the second half of each period.
    SquareWave = 3,
    /// 4: low for one tick when the count has run out.
    SoftwareStrobe = 4,
    /// 5: as 4, started by a rise of the gate.
    HardwareStrobe = 5,
}

impl Mode {
    /// From bits 3 to 1 of a control word; 6 and 7 are other names of 2 and 3.
    pub const fn from_control(value: u8) -> Self {
        match (value >> 1) & 7 {
            0 => Self::InterruptOnTerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    /// Whether the count starts over by itself.
    const fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    /// Whether it is a rise of the gate that loads the count.
    const fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// Which bytes of a count a port access transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Access {
    /// Only the low byte.
    Low = 1,
    /// Only the high byte.
    High = 2,
    /// Low byte, then high byte.
    Both = 3,
}

/// The counting element: the count that is running down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Element {
    /// The count it was loaded with, in ticks.
    period: u32,
    /// Ticks it had counted at `since`.
    elapsed: u64,
    /// The tick it was last started at.
    since: u64,
    /// Whether it counts; a low gate may stop it.
    running: bool,
}

impl Element {
    fn loaded(period: u32, tick: u64, running: bool) -> Self {
        Self {
            period,
            elapsed: 0,
            since: tick,
            running,
        }
    }

    fn elapsed(&self, tick: u64) -> u64 {
        if self.running {
            self.elapsed.saturating_add(tick.saturating_sub(self.since))
        } else {
            self.elapsed
        }
    }

    /// The tick at which `elapsed` will have been counted.
    fn tick_of(&self, elapsed: u64) -> u64 {
        self.since
            .saturating_add(elapsed.saturating_sub(self.elapsed))
    }

    /// Ticks of a square wave's high half: the longer one.
    fn high_half(&self) -> u64 {
        u64::from(self.period.div_ceil(2))
    }

    /// Ticks since the period began.
    fn position(&self, tick: u64) -> u64 {
        self.elapsed(tick)
            .checked_rem(u64::from(self.period))
            .unwrap_or(0)
    }

    /// Elapsed ticks at the output's next change, if it will change.
    fn next_change(&self, mode: Mode, tick: u64) -> Option<u64> {
        let elapsed = self.elapsed(tick);
        let period = u64::from(self.period);
        let position = self.position(tick);
        let start = elapsed - position;
        let split = match mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => {
                return (elapsed < period).then_some(period)
            }
            Mode::SoftwareStrobe | Mode::HardwareStrobe if elapsed < period => return Some(period),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => {
                return (elapsed == period).then_some(period + 1)
            }
            Mode::RateGenerator => period.saturating_sub(1),
            Mode::SquareWave => self.high_half(),
        };
        Some(start.saturating_add(if position < split { split } else { period }))
    }
}

/// A counter with its registers and latches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Channel {
    /// It has had a control word.
    programmed: bool,
    mode: Mode,
    access: Access,
    bcd: bool,
    gate: bool,
    /// The count written since the last control word, in ticks.
    count: Option<u32>,
    /// `count` is not in `element` yet.
    null_count: bool,
    /// The tick at which a periodic element takes `count`.
    reload_at: Option<u64>,
    element: Option<Element>,
    /// The low byte of a count whose high byte is still to be written.
    low_byte: Option<u8>,
    /// The next read is of the high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    /// A counter that waits for its first control word.
    pub(super) fn new(gate: bool) -> Self {
        Self {
            programmed: false,
            mode: Mode::InterruptOnTerminalCount,
            access: Access::Both,
            bcd: false,
            gate,
            count: None,
            null_count: true,
            reload_at: None,
            element: None,
            low_byte: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// The mode it was programmed to.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Level of the gate input.
    pub fn gate(&self) -> bool {
        self.gate
    }

    /// The count last written, in ticks (1 to 65536); `None` if none was since the control word.
    pub fn count(&self) -> Option<u32> {
        self.count
    }

    /// Ticks from one rising edge to the next, if the count starts over by itself.
    pub(super) fn period(&self) -> Option<u32> {
        self.count.filter(|_| self.mode.is_periodic())
    }

    /// Values the element can hold.
    fn modulus(&self) -> u32 {
        if self.bcd {
            10_000
        } else {
            0x1_0000
        }
    }

    /// The element with a reload that was due by `tick` done.
    fn element_at(&self, tick: u64) -> Option<Element> {
        let element = self.element?;
        match (self.reload_at, self.count) {
            (Some(at), Some(period)) if at <= tick => {
                let mut next = Element::loaded(period, at, element.running);
                if self.mode == Mode::SquareWave && element.position(at) != 0 {
                    next.elapsed = next.high_half();
                }
                Some(next)
            }
            _ => Some(element),
        }
    }

    /// Does the reload that was due by `tick`.
    fn settle(&mut self, tick: u64) {
        self.element = self.element_at(tick);
        if self.reload_at.is_some_and(|at| at <= tick) {
            self.reload_at = None;
            self.null_count = false;
        }
    }

    fn load(&mut self, tick: u64) {
        if let Some(period) = self.count {
            let running = self.gate || self.mode.is_triggered();
            self.element = Some(Element::loaded(period, tick, running));
            self.null_count = false;
            self.reload_at = None;
        }
    }

    /// A control word for this channel: a latch command, or a new mode.
    pub(super) fn control(&mut self, value: u8, tick: u64) {
        let access = match (value >> 4) & 3 {
            0 => return self.latch_count(tick),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        *self = Self {
            programmed: true,
            mode: Mode::from_control(value),
            access,
            bcd: value & 1 != 0,
            ..Self::new(self.gate)
        };
    }

    pub(super) fn write(&mut self, value: u8, tick: u64) {
        self.settle(tick);
        let count = match (self.access, self.low_byte) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, None) => {
                self.low_byte = Some(value);
                if self.mode == Mode::InterruptOnTerminalCount {
                    self.element = None;
                }
                return;
            }
            (Access::Both, Some(low)) => {
                self.low_byte = None;
                u16::from_le_bytes([low, value])
            }
        };
        self.set_count(count, tick);
    }

    fn set_count(&mut self, written: u16, tick: u64) {
        let mut count = if self.bcd {
            from_bcd(written)
        } else {
            u32::from(written)
        };
        if count == 0 {
            count = self.modulus();
        }
        if self.mode.is_periodic() {
            // The data sheet forbids a period of 1.
            count = count.max(2);
        }
        self.count = Some(count);
        self.null_count = true;
        if self.mode.is_triggered() {
            return;
        }
        match self.element {
            Some(element) if self.mode.is_periodic() => {
                self.reload_at = if element.running {
                    self.period_end(&element, tick)
                } else {
                    None
                };
            }
            _ => self.load(tick),
        }
    }

    /// When a periodic element next takes a new count: at the end of a period, or of the half of a
    /// square wave.
    fn period_end(&self, element: &Element, tick: u64) -> Option<u64> {
        if self.mode == Mode::SquareWave {
            return element
                .next_change(self.mode, tick)
                .map(|elapsed| element.tick_of(elapsed));
        }
        let left = u64::from(element.period) - element.position(tick);
        Some(tick.max(element.since).saturating_add(left))
    }

    pub(super) fn set_gate(&mut self, gate: bool, tick: u64) {
        let rose = gate && !self.gate;
        let fell = !gate && self.gate;
        self.settle(tick);
        self.gate = gate;
        if rose && (self.mode.is_triggered() || self.mode.is_periodic()) {
            self.load(tick);
        } else if rose || fell && !self.mode.is_triggered() {
            if fell {
                self.reload_at = None;
            }
            if let Some(element) = &mut self.element {
                element.elapsed = element.elapsed(tick);
                element.since = tick;
                element.running = gate;
            }
        }
    }

    /// Level of the output at `tick`.
    pub(super) fn output(&self, tick: u64) -> bool {
        let Some(element) = self.element_at(tick) else {
            return self.mode != Mode::InterruptOnTerminalCount;
        };
        let period = u64::from(element.period);
        match self.mode {
            Mode::InterruptOnTerminalCount | Mode::OneShot => element.elapsed(tick) >= period,
            Mode::RateGenerator => {
                !element.running || element.position(tick) != period.saturating_sub(1)
            }
            Mode::SquareWave => !element.running || element.position(tick) < element.high_half(),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => element.elapsed(tick) != period,
        }
    }

    /// The tick at which the output next changes.
    pub(super) fn next_edge(&self, tick: u64) -> Option<u64> {
        let element = self.element_at(tick)?;
        if !element.running {
            return None;
        }
        let elapsed = element.next_change(self.mode, tick)?;
        Some(element.tick_of(elapsed))
    }

    /// The tick at which the output next rises.
    pub(super) fn next_rising_edge(&self, tick: u64) -> Option<u64> {
        let edge = self.next_edge(tick)?;
        if self.output(edge) {
            Some(edge)
        } else {
            self.next_edge(edge)
        }
    }

    /// The element's value as software reads it.
    fn current(&self, tick: u64) -> u16 {
        let Some(element) = self.element_at(tick) else {
            return 0;
        };
        let modulus = u64::from(self.modulus());
        let period = u64::from(element.period);
        let value = match self.mode {
            Mode::RateGenerator => period.saturating_sub(element.position(tick)),
            Mode::SquareWave => {
                // Each half runs down in steps of two from the count made even.
                let high = element.high_half();
                let position = element.position(tick);
                let into_half = position.checked_sub(high).unwrap_or(position);
                (period & !1).saturating_sub(into_half.saturating_mul(2))
            }
            _ => period
                .saturating_add(modulus)
                .saturating_sub(element.elapsed(tick) % modulus),
        };
        let value = (value % modulus) as u16;
        if self.bcd {
            to_bcd(value)
        } else {
            value
        }
    }

    pub(super) fn latch_count(&mut self, tick: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.current(tick));
            self.read_high = false;
        }
    }

    pub(super) fn latch_status(&mut self, tick: u64) {
        const OUTPUT: u8 = 1 << 7;
        const NULL_COUNT: u8 = 1 << 6;
        self.settle(tick);
        if self.latched_status.is_some() {
            return;
        }
        let mut status = ((self.access as u8) << 4) | ((self.mode as u8) << 1) | u8::from(self.bcd);
        if self.output(tick) {
            status |= OUTPUT;
        }
        if self.null_count {
            status |= NULL_COUNT;
        }
        self.latched_status = Some(status);
    }

    pub(super) fn read(&mut self, tick: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.current(tick))
            .to_le_bytes();
        match self.access {
            Access::Both if !self.read_high => {
                self.read_high = true;
                low
            }
            access => {
                self.read_high = false;
                self.latched_count = None;
                if access == Access::Low {
                    low
                } else {
                    high
                }
            }
        }
    }
}

/// Four decimal digits; one above nine carries, and what carries out of the fourth is lost.
fn from_bcd(value: u16) -> u32 {
    const DIGITS: u32 = 10_000;
    let sum = [12, 8, 4, 0]
        .iter()
        .fold(0, |sum, shift| sum * 10 + u32::from((value >> shift) & 0xf));
    sum % DIGITS
}

fn to_bcd(value: u16) -> u16 {
    ((value / 1000 % 10) << 12)
        | ((value / 100 % 10) << 8)
        | ((value / 10 % 10) << 4)
        | (value % 10)
}
