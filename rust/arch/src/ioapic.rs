// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC: an 82093AA with 24 inputs, as KVM has it.
//!
//! Manual: Intel 82093AA data sheet (290566-001). Messages go out through a function that the
//! caller passes along: it delivers one to every local APIC that matches and says how many took it,
//! `None` if none was addressed. A level-triggered entry's remote IRR is set only if somebody was
//! addressed and took it, and keeps the entry quiet until the EOI.
//!
//! An EOI in a local APIC comes here in three steps: [`Ioapic::pins_of`] says which inputs are
//! concerned, the caller tells whoever waits for their end (who may change their lines), and then
//! [`Ioapic::eoi`] sends again what is still asserted.

mod entry;
mod state;

pub use entry::Entry;
pub use state::State;

use crate::apic::Message;
use crate::line::LineStatus;

/// Inputs.
pub const PINS: usize = 24;
/// Where the registers are unless KVM_SET_IRQCHIP says otherwise.
pub const DEFAULT_BASE: u64 = 0xfec0_0000;
/// Bytes of the registers.
pub const LENGTH: u64 = 0x100;
/// The input of a PC's real-time clock, of which a VMM wants to know whether the guest keeps up.
pub const RTC_PIN: u8 = 8;
/// How long to wait before [`Ioapic::reinject`], in nanoseconds.
pub const REINJECT_DELAY: u64 = 10_000_000;

/// So many interrupts in a row from a level-triggered line that no EOI finds deasserted are a storm.
const STORM: u16 = 10_000;

/// Offset of the register that selects.
const SELECT: u64 = 0x00;
/// Offset of the window to the selected register.
const WINDOW: u64 = 0x10;

/// Selects the id.
const ID: u32 = 0x00;
/// Selects the version.
const VERSION: u32 = 0x01;
/// Selects the arbitration id.
const ARBITRATION: u32 = 0x02;
/// Selects the low half of entry 0; two registers an entry follow.
const FIRST_ENTRY: u32 = 0x10;

const VERSION_VALUE: u32 = 0x11 | (PINS as u32 - 1) << 16;

/// What a register write did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// Nothing that concerns anybody.
    Nothing,
    /// It changed an entry.
    Entry {
        /// Whose entry.
        pin: u8,
        /// What it was.
        old: Entry,
        /// What it is now: where they differ in destination or vector, EOI-exit bitmaps do too.
        new: Entry,
        /// The entry is level-triggered and its line asserted, and nothing keeps the interrupt back
        /// now. The line may be down in truth, if it is resampled only after an EOI: so either
        /// [`Ioapic::withdraw`] it and have it resampled, or [`Ioapic::resend`] it.
        pending: bool,
    },
}

/// Real-time clock interrupts whose end is still to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct RtcInService {
    vector: u8,
    processors: u32,
}

/// The I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ioapic {
    state: State,
    /// Edge-triggered requests in `irr` that were sent.
    delivered: u32,
    /// EOIs in a row that found the line still asserted, by input.
    streak: [u16; PINS],
    rtc: RtcInService,
}

impl Default for Ioapic {
    fn default() -> Self {
        Self::new()
    }
}

impl Ioapic {
    /// An I/O APIC after reset: every entry masked.
    pub const fn new() -> Self {
        Self {
            state: State {
                base_address: DEFAULT_BASE,
                ioregsel: 0,
                id: 0,
                irr: 0,
                redirtbl: [Entry::RESET; PINS],
            },
            delivered: 0,
            streak: [0; PINS],
            rtc: RtcInService {
                vector: 0,
                processors: 0,
            },
        }
    }

    /// Resets it.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Physical address of the registers.
    pub fn base_address(&self) -> u64 {
        self.state.base_address
    }

    /// The entry of an input.
    pub fn entry(&self, pin: u8) -> Option<Entry> {
        self.state.redirtbl.get(usize::from(pin)).copied()
    }

    /// The state to be saved.
    pub fn state(&self) -> State {
        State {
            irr: self.state.irr & !self.delivered,
            ..self.state
        }
    }

    /// Replaces the state and sends what it has as requested.
    pub fn set_state(&mut self, state: State, mut deliver: impl FnMut(&Message) -> Option<u32>) {
        self.state = State { irr: 0, ..state };
        self.delivered = 0;
        self.rtc = RtcInService::default();
        for pin in 0..PINS as u8 {
            if state.irr & (1 << pin) != 0 {
                self.set_line(pin, true, true, &mut deliver);
            }
        }
    }

    /// Sets the level of input `pin`; a number past the last does nothing. With `line_status`
    /// (KVM_IRQ_LINE_STATUS) a tick of the real-time clock is coalesced with one that some processor
    /// has not ended.
    #[inline]
    pub fn set_line(
        &mut self,
        pin: u8,
        level: bool,
        line_status: bool,
        deliver: impl FnMut(&Message) -> Option<u32>,
    ) -> LineStatus {
        let Some(entry) = self.entry(pin) else {
            return LineStatus::Ignored;
        };
        let bit = 1 << pin;
        if !level {
            self.state.irr &= !bit;
            return LineStatus::Delivered(1);
        }
        let rtc = line_status && pin == RTC_PIN;
        if rtc && self.rtc.processors > 0 {
            return LineStatus::Coalesced;
        }
        let was_high = self.state.irr & bit != 0;
        self.state.irr |= bit;
        if !entry.is_level() {
            self.delivered &= !bit;
            if was_high {
                return LineStatus::Coalesced;
            }
        }
        let status = self.resend(pin, deliver);
        if rtc {
            self.rtc = RtcInService {
                vector: entry.vector(),
                processors: match status {
                    LineStatus::Delivered(processors) => processors,
                    _ => 0,
                },
            };
        }
        status
    }

    /// Sends an input's interrupt, unless its entry is masked or waits for an EOI.
    #[inline]
    pub fn resend(
        &mut self,
        pin: u8,
        mut deliver: impl FnMut(&Message) -> Option<u32>,
    ) -> LineStatus {
        let Some(entry) = self.state.redirtbl.get_mut(usize::from(pin)) else {
            return LineStatus::Ignored;
        };
        if entry.is_masked() || entry.is_level() && entry.remote_irr() {
            return LineStatus::Ignored;
        }
        if !entry.is_level() {
            self.delivered |= 1 << pin;
        }
        let takers = deliver(&entry.message());
        // As with KVM, an interrupt for which there is no processor at all waits for its EOI too.
        if entry.is_level() && takers != Some(0) {
            entry.set_remote_irr(true);
        }
        LineStatus::from_takers(takers)
    }

    /// Forgets an input's request: its line is about to be sampled again.
    pub fn withdraw(&mut self, pin: u8) {
        if usize::from(pin) < PINS {
            self.state.irr &= !(1 << pin);
        }
    }

    /// The inputs whose interrupt has `vector`, a bit each, now that a local APIC has ended it: who
    /// waits for their end is to be told before [`Self::eoi`].
    pub fn pins_of(&mut self, vector: u8) -> u32 {
        if self.rtc.vector == vector {
            self.rtc.processors = self.rtc.processors.saturating_sub(1);
        }
        (0u32..)
            .zip(&self.state.redirtbl)
            .filter(|(_, entry)| entry.vector() == vector)
            .fold(0, |pins, (pin, _)| pins | 1 << pin)
    }

    /// A level-triggered interrupt has ended in a local APIC that did not suppress the broadcast:
    /// of `pins`, what [`Self::pins_of`] said, those whose lines are asserted send again.
    ///
    /// True if one of them did that too often in a row and was kept back: the caller is to call
    /// [`Self::reinject`] in [`REINJECT_DELAY`], so that a guest that forgets to quiet its device
    /// gets on all the same.
    #[must_use]
    pub fn eoi(&mut self, pins: u32, mut deliver: impl FnMut(&Message) -> Option<u32>) -> bool {
        let mut storm = false;
        for pin in 0..PINS as u8 {
            if pins & (1 << pin) == 0 {
                continue;
            }
            let index = usize::from(pin);
            let (Some(entry), Some(streak)) = (
                self.state.redirtbl.get_mut(index),
                self.streak.get_mut(index),
            ) else {
                continue;
            };
            if !entry.is_level() {
                continue;
            }
            entry.set_remote_irr(false);
            if entry.is_masked() || self.state.irr & (1 << pin) == 0 {
                *streak = 0;
                continue;
            }
            *streak = streak.saturating_add(1);
            if *streak >= STORM {
                *streak = 0;
                storm = true;
            } else {
                self.resend(pin, &mut deliver);
            }
        }
        storm
    }

    /// Sends what [`Self::eoi`] kept back.
    pub fn reinject(&mut self, mut deliver: impl FnMut(&Message) -> Option<u32>) {
        for pin in 0..PINS as u8 {
            let level = self.entry(pin).is_some_and(Entry::is_level);
            if level && self.state.irr & (1 << pin) != 0 {
                self.resend(pin, &mut deliver);
            }
        }
    }

    /// Messages whose EOIs have to come here: those of level-triggered entries, of the real-time
    /// clock, and of the inputs in `watched`, a bit each, for whose end somebody waits.
    pub fn ended_here(&self, watched: u32) -> impl Iterator<Item = Message> + '_ {
        (0u32..)
            .zip(&self.state.redirtbl)
            .filter(move |(pin, entry)| {
                entry.is_level() || watched & (1 << *pin) != 0 || *pin == u32::from(RTC_PIN)
            })
            .map(|(_, entry)| entry.message())
    }

    /// Reads the register at `offset`.
    pub fn read(&self, offset: u64) -> u32 {
        match offset & (LENGTH - 1) {
            SELECT => self.state.ioregsel,
            WINDOW => self.read_selected(),
            _ => 0,
        }
    }

    /// A read of `data.len()` bytes at `offset`: the register, cut off or with zeroes after it.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let value = self.read(offset).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(value) {
            *byte = value;
        }
    }

    fn read_selected(&self) -> u32 {
        match self.state.ioregsel {
            VERSION => VERSION_VALUE,
            ID | ARBITRATION => (self.state.id & 0xf) << 24,
            select => {
                let bits = self
                    .selected_pin()
                    .and_then(|pin| self.entry(pin))
                    .map_or(u64::MAX, |entry| entry.0);
                if select & 1 != 0 {
                    (bits >> 32) as u32
                } else {
                    bits as u32
                }
            }
        }
    }

    fn selected_pin(&self) -> Option<u8> {
        let register = self.state.ioregsel.checked_sub(FIRST_ENTRY)?;
        u8::try_from(register >> 1)
            .ok()
            .filter(|pin| usize::from(*pin) < PINS)
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) -> Written {
        match offset & (LENGTH - 1) {
            SELECT => {
                self.state.ioregsel = value & 0xff;
                Written::Nothing
            }
            WINDOW => self.write_selected(value),
            _ => Written::Nothing,
        }
    }

    /// A write of `data` at `offset`: 1, 2, 4 or 8 bytes, of which the first 4 count. Another length
    /// is ignored.
    pub fn write_bytes(&mut self, offset: u64, data: &[u8]) -> Written {
        if !matches!(data.len(), 1 | 2 | 4 | 8) {
            return Written::Nothing;
        }
        let value = data
            .iter()
            .take(4)
            .rev()
            .fold(0, |value, byte| value << 8 | u32::from(*byte));
        self.write(offset, value)
    }

    fn write_selected(&mut self, value: u32) -> Written {
        if self.state.ioregsel == ID {
            self.state.id = (value >> 24) & 0xf;
        }
        let high = self.state.ioregsel & 1 != 0;
        let Some(pin) = self.selected_pin() else {
            return Written::Nothing;
        };
        let Some(entry) = self.state.redirtbl.get_mut(usize::from(pin)) else {
            return Written::Nothing;
        };
        let old = *entry;
        *entry = old.with_half(high, value);
        let new = *entry;
        let pending = new.is_level()
            && !new.is_masked()
            && !new.remote_irr()
            && self.state.irr & (1 << pin) != 0;
        Written::Entry {
            pin,
            old,
            new,
            pending,
        }
    }
}

#[cfg(test)]
mod tests;
