// SPDX-License-Identifier: GPL-2.0

//! The PC's two 8259A interrupt controllers, the slave's INTR wired to the master's input 2.
//!
//! Manual: Intel 8259A data sheet (231468-003); the ELCR is that of the 82371 (PIIX). One choice is
//! KVM's and not the chip's: a request on an edge-triggered line stays latched when the line
//! falls again before it is acknowledged, so that a device may raise and lower its line at once.
//! A PC has no use for the single and the level-triggered mode of ICW1; those bits are ignored.
//!
//! Whoever owns the controllers calls [`DualPic::pending`] after each call that takes `&mut self`
//! and, when the processor can take the interrupt, [`DualPic::acknowledge`]. Who has to know when
//! the guest is through with an interrupt asks [`DualPic::take_ended`].

mod state;

pub use state::{Chip, ChipState, InitState};

use crate::line::LineStatus;

/// Every port the controllers answer to.
pub const PORTS: [u16; 6] = [
    MASTER_COMMAND,
    MASTER_DATA,
    SLAVE_COMMAND,
    SLAVE_DATA,
    MASTER_ELCR,
    SLAVE_ELCR,
];

/// Master: ICW1, OCW2, OCW3; reads IRR, ISR or the poll byte.
pub const MASTER_COMMAND: u16 = 0x20;
/// Master: ICW2 to ICW4, OCW1; reads the mask.
pub const MASTER_DATA: u16 = 0x21;
/// Slave: as [`MASTER_COMMAND`].
pub const SLAVE_COMMAND: u16 = 0xa0;
/// Slave: as [`MASTER_DATA`].
pub const SLAVE_DATA: u16 = 0xa1;
/// Edge/level control of lines 0 to 7.
pub const MASTER_ELCR: u16 = 0x4d0;
/// Edge/level control of lines 8 to 15.
pub const SLAVE_ELCR: u16 = 0x4d1;

/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// The input whose vector the chip gives when the request has gone by the time of INTA.
const SPURIOUS: u8 = 7;

/// Lines that may be level-triggered: not the timer, the keyboard, the cascade.
const MASTER_ELCR_MASK: u8 = 0xf8;
/// Lines that may be level-triggered: not the RTC and the FPU.
const SLAVE_ELCR_MASK: u8 = 0xde;

const ICW1: u8 = 1 << 4;
const ICW1_ICW4_FOLLOWS: u8 = 1 << 0;
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;
const OCW3: u8 = 1 << 3;
const OCW3_READ_ISR: u8 = 1 << 0;
const OCW3_READ: u8 = 1 << 1;
const OCW3_POLL: u8 = 1 << 2;
const OCW3_SPECIAL_MASK: u8 = 1 << 5;
const OCW3_SPECIAL_MASK_ENABLE: u8 = 1 << 6;
const POLL_PENDING: u8 = 1 << 7;

impl ChipState {
    /// Position of the first set bit of `lines` in the order of priority (0 is the highest).
    #[inline]
    fn first(&self, lines: u8) -> Option<u8> {
        let first = lines
            .rotate_right(u32::from(self.priority_add & 7))
            .trailing_zeros();
        u8::try_from(first).ok().filter(|first| *first < 8)
    }

    /// The input at a position of the order of priority.
    fn line(&self, priority: u8) -> u8 {
        priority.wrapping_add(self.priority_add) & 7
    }

    /// The vector of an input.
    fn vector(&self, line: u8) -> u8 {
        self.irq_base.wrapping_add(line)
    }

    /// The input the chip interrupts for now.
    #[inline]
    fn request(&self, is_master: bool) -> Option<u8> {
        let wanted = self.first(self.irr & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if self.special_fully_nested && is_master {
            in_service &= !(1 << CASCADE);
        }
        match self.first(in_service) {
            Some(current) if current <= wanted => None,
            _ => Some(self.line(wanted)),
        }
    }

    fn set_line(&mut self, line: u8, level: bool) -> LineStatus {
        let bit = 1 << (line & 7);
        let rose = level && self.last_irr & bit == 0;
        let coalesced = self.irr & bit != 0 && (rose || level && self.elcr & bit != 0);
        if level {
            self.last_irr |= bit;
        } else {
            self.last_irr &= !bit;
        }
        if self.elcr & bit != 0 {
            self.irr = self.irr & !bit | self.last_irr & bit;
        } else if rose {
            self.irr |= bit;
        }
        if self.imr & bit != 0 {
            LineStatus::Ignored
        } else if coalesced {
            LineStatus::Coalesced
        } else {
            LineStatus::Delivered(1)
        }
    }

    /// What the chip does in an INTA cycle that is for `line`. Gives the line if that ends it.
    fn take(&mut self, line: u8) -> u8 {
        let bit = 1 << (line & 7);
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
            return 0;
        }
        if self.rotate_on_auto_eoi {
            self.priority_add = line.wrapping_add(1) & 7;
        }
        bit
    }

    /// Gives the lines whose interrupt ends with it.
    fn write_command(&mut self, value: u8) -> u8 {
        let mut under_way = self.isr;
        if value & ICW1 != 0 {
            // What was requested by an edge is forgotten.
            under_way |= self.irr & !self.elcr;
            // The edge detector is reset: a line that is high now must fall and rise to count.
            *self = Self {
                last_irr: self.last_irr,
                irr: self.irr & self.elcr,
                irq_base: self.irq_base,
                elcr: self.elcr,
                init_state: InitState::Icw2,
                expect_icw4: value & ICW1_ICW4_FOLLOWS != 0,
                ..Self::POWER_ON
            };
        } else if value & OCW3 != 0 {
            self.poll = value & OCW3_POLL != 0;
            if value & OCW3_READ != 0 {
                self.read_isr = value & OCW3_READ_ISR != 0;
            }
            if value & OCW3_SPECIAL_MASK_ENABLE != 0 {
                self.special_mask = value & OCW3_SPECIAL_MASK != 0;
            }
        } else {
            self.end_of_interrupt(value);
        }
        under_way & !self.isr
    }

    /// OCW2: bits 7 to 5 are rotate, specific and EOI; bits 2 to 0 the input where it is specific.
    fn end_of_interrupt(&mut self, value: u8) {
        let line = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            command @ (0b001 | 0b101) => {
                let mut candidates = self.isr;
                if self.special_mask {
                    candidates &= !self.imr;
                }
                if let Some(priority) = self.first(candidates) {
                    let line = self.line(priority);
                    self.isr &= !(1 << line);
                    if command == 0b101 {
                        self.priority_add = (line + 1) & 7;
                    }
                }
            }
            0b011 => self.isr &= !(1 << line),
            0b111 => {
                self.isr &= !(1 << line);
                self.priority_add = (line + 1) & 7;
            }
            0b110 => self.priority_add = (line + 1) & 7,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        self.init_state = match self.init_state {
            InitState::Ready => {
                self.imr = value;
                InitState::Ready
            }
            InitState::Icw2 => {
                self.irq_base = value & 0xf8;
                InitState::Icw3
            }
            InitState::Icw3 if self.expect_icw4 => InitState::Icw4,
            InitState::Icw3 => InitState::Ready,
            InitState::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                InitState::Ready
            }
        };
    }

    fn write_elcr(&mut self, value: u8, mask: u8) {
        self.elcr = value & mask;
        self.irr = self.irr & !self.elcr | self.last_irr & self.elcr;
    }
}

/// The pair of 8259As.
///
/// # Invariants
///
/// The slave's request, if any, is the level of the master's input 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DualPic {
    master: ChipState,
    slave: ChipState,
    /// Lines whose interrupt has ended since they were last asked for.
    ended: u16,
}

impl Default for DualPic {
    fn default() -> Self {
        Self::new()
    }
}

impl DualPic {
    /// Both chips as after power-on: not programmed, nothing masked, edge-triggered.
    pub const fn new() -> Self {
        Self {
            master: ChipState::POWER_ON,
            slave: ChipState::POWER_ON,
            ended: 0,
        }
    }

    /// The state of the master and of the slave.
    pub fn state(&self) -> (ChipState, ChipState) {
        (self.master, self.slave)
    }

    /// Replaces the whole state. It is taken as it is, as KVM takes it: a vector base that is no
    /// multiple of 8 counts, and so does a level-triggered line that the ELCR cannot have.
    pub fn set_state(&mut self, master: ChipState, slave: ChipState) {
        *self = Self {
            master,
            slave,
            ended: 0,
        };
        self.cascade();
    }

    /// The lines, a bit each, whose interrupt has ended since this was last called: by an EOI, by
    /// being acknowledged in automatic-EOI mode, or by an initialisation. Who has their device look
    /// at its line again is waiting for that.
    #[inline]
    pub fn take_ended(&mut self) -> u16 {
        core::mem::take(&mut self.ended)
    }

    /// Carries the slave's INTR to the master. The line needs no edge detector: the slave lets
    /// its INTR fall in each INTA cycle, so that one still (or again) high is a new request.
    fn cascade(&mut self) {
        const BIT: u8 = 1 << CASCADE;
        let level = if self.slave.request(false).is_some() {
            BIT
        } else {
            0
        };
        self.master.irr = self.master.irr & !BIT | level;
        self.master.last_irr = self.master.last_irr & !BIT | level;
    }

    /// Sets the level of input `line`, 0 to 15. Line 2 is the slave's and, like a number past 15,
    /// does nothing.
    pub fn set_irq(&mut self, line: u8, level: bool) -> LineStatus {
        match line {
            CASCADE => LineStatus::Ignored,
            0..=7 => self.master.set_line(line, level),
            8..=15 => {
                let status = self.slave.set_line(line & 7, level);
                self.cascade();
                status
            }
            _ => LineStatus::Ignored,
        }
    }

    /// Whether the master asserts INTR.
    #[inline]
    pub fn pending(&self) -> bool {
        self.master.request(true).is_some()
    }

    /// The processor's INTA cycles: the vector to deliver. Input 7's vector of the chip in question
    /// when its request has gone in the meantime (a spurious interrupt).
    pub fn acknowledge(&mut self) -> u8 {
        match self.master.request(true) {
            Some(CASCADE) => {
                self.take(true, CASCADE);
                let line = self.slave.request(false);
                if let Some(line) = line {
                    self.take(false, line);
                }
                self.cascade();
                self.slave.vector(line.unwrap_or(SPURIOUS))
            }
            Some(line) => {
                self.take(true, line);
                self.master.vector(line)
            }
            None => self.master.vector(SPURIOUS),
        }
    }

    fn take(&mut self, is_master: bool, line: u8) {
        if is_master {
            self.ended |= u16::from(self.master.take(line));
        } else {
            self.ended |= u16::from(self.slave.take(line)) << 8;
        }
    }

    /// Reads a port; `None` if it is not one of [`PORTS`].
    #[inline]
    pub fn read(&mut self, port: u16) -> Option<u8> {
        Some(match port {
            MASTER_COMMAND | MASTER_DATA if self.master.poll => {
                self.master.poll = false;
                match self.master.request(true) {
                    Some(line) => {
                        self.take(true, line);
                        self.cascade();
                        POLL_PENDING | line
                    }
                    None => 0,
                }
            }
            SLAVE_COMMAND | SLAVE_DATA if self.slave.poll => {
                self.slave.poll = false;
                match self.slave.request(false) {
                    Some(line) => {
                        self.take(false, line);
                        self.cascade();
                        POLL_PENDING | line
                    }
                    None => 0,
                }
            }
            MASTER_COMMAND if self.master.read_isr => self.master.isr,
            MASTER_COMMAND => self.master.irr,
            SLAVE_COMMAND if self.slave.read_isr => self.slave.isr,
            SLAVE_COMMAND => self.slave.irr,
            MASTER_DATA => self.master.imr,
            SLAVE_DATA => self.slave.imr,
            MASTER_ELCR => self.master.elcr,
            SLAVE_ELCR => self.slave.elcr,
            _ => return None,
        })
    }

    /// Writes a port; false if it is not one of [`PORTS`].
    pub fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            MASTER_COMMAND => {
                self.ended |= u16::from(self.master.write_command(value));
                self.cascade();
            }
            MASTER_DATA => self.master.write_data(value),
            SLAVE_COMMAND => {
                self.ended |= u16::from(self.slave.write_command(value)) << 8;
                self.cascade();
            }
            SLAVE_DATA => {
                self.slave.write_data(value);
                self.cascade();
            }
            MASTER_ELCR => self.master.write_elcr(value, MASTER_ELCR_MASK),
            SLAVE_ELCR => {
                self.slave.write_elcr(value, SLAVE_ELCR_MASK);
                self.cascade();
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests;
