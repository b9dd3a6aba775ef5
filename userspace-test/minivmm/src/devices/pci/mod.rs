// SPDX-License-Identifier: GPL-2.0

//! A PCI bus: one, with a host bridge and a function in each slot, found by configuration mechanism
//! 1 (PCI 3.0, 3.2.2.3.2) and by the enhanced one, where all of a configuration space is in memory
//! (PCI Express 5.0, 7.2.2).

pub mod config;
pub mod msix;

use std::ops::RangeInclusive;

use super::virtio::Stopper;
use config::ConfigSpace;

/// The address and the data register of the configuration mechanism.
pub const ADDRESS: u16 = 0xcf8;
/// As above.
pub const DATA: u16 = 0xcfc;
/// All ports of both.
pub const PORTS: RangeInclusive<u16> = ADDRESS..=DATA + 3;

/// Guest-physical addresses that the bus has for the functions' memory.
pub const WINDOW: u64 = 0xd000_0000;
/// Bytes of it.
pub const WINDOW_LENGTH: u64 = 0x1000_0000;

/// Guest-physical address of the functions' configuration spaces: those of bus 0.
pub const ECAM: u64 = 0xe000_0000;
/// Bytes of them: one space for each of 256 functions.
pub const ECAM_LENGTH: u64 = 256 << ECAM_FUNCTION;
/// From one function to the next, and from one slot to the next, as powers of two.
const ECAM_FUNCTION: u32 = 12;
const ECAM_SLOT: u32 = 15;

/// Slots of a bus, of which the first is the bridge's.
pub const SLOTS: usize = 32;

/// The interrupt lines of the functions: those of the IOAPIC that no ISA line has, in turn.
pub const FIRST_GSI: u8 = 16;
/// How many.
pub const GSIS: u8 = 8;

/// Address register: the data register leads to a configuration space.
const ENABLE: u32 = 1 << 31;

/// The interrupt line of the function in `slot`.
pub fn gsi(slot: usize) -> u8 {
    FIRST_GSI + (slot % usize::from(GSIS)) as u8
}

/// A function in a slot.
pub trait Function: Send {
    /// A load from its configuration space.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);
    /// A store to its configuration space.
    fn write_config(&mut self, offset: usize, data: &[u8]);
    /// A load from memory; false if it is not the function's.
    fn read(&mut self, address: u64, data: &mut [u8]) -> bool;
    /// A store to memory; false if it is not the function's.
    fn write(&mut self, address: u64, data: &[u8]) -> bool;
    /// What a reset of the function's waits for; once for each. When the wait is over, it is to be
    /// finished.
    fn take_stopper(&mut self) -> Option<Stopper> {
        None
    }
    /// Finishes a reset, if its wait is over.
    fn finish_reset(&mut self) {}
    /// Whether it asks for an interrupt by its line.
    fn wants_line(&self) -> bool;
}

/// The bus.
pub struct PciBus {
    address: u32,
    bridge: ConfigSpace,
    /// In the slots from 1 on.
    functions: Vec<Box<dyn Function>>,
    stopper: Option<Stopper>,
}

impl PciBus {
    /// A bus with these functions, in the slots from 1 on, [`SLOTS`] - 1 at most.
    pub fn new(functions: Vec<Box<dyn Function>>) -> Self {
        // A bridge to a bus whose host is nobody's: that of QEMU's simplest PC, which all guests
        // know to have nothing to set up.
        let bridge = ConfigSpace::new(0x1b36, 0x0008, [0x06, 0x00, 0x00]);
        Self {
            address: 0,
            bridge,
            functions,
            stopper: None,
        }
    }

    /// IN from one of [`PORTS`]: `data` is as wide as the access.
    pub fn read_port(&mut self, port: u16, data: &mut [u8]) {
        if port == ADDRESS && data.len() == 4 {
            data.copy_from_slice(&self.address.to_le_bytes());
        } else {
            self.read_config(self.target(port), data);
        }
    }

    /// OUT to one of [`PORTS`].
    pub fn write_port(&mut self, port: u16, data: &[u8]) {
        if let (ADDRESS, Ok(address)) = (port, data.try_into()) {
            self.address = u32::from_le_bytes(address);
        } else {
            self.write_config(self.target(port), data);
        }
    }

    /// A load from the configuration space of a slot, if it is one: what is not there reads as ones.
    fn read_config(&mut self, target: Option<(usize, usize)>, data: &mut [u8]) {
        data.fill(0xff);
        let Some((slot, offset)) = target else { return };
        match slot.checked_sub(1) {
            None => self.bridge.read(offset, data),
            Some(index) => {
                if let Some(function) = self.functions.get_mut(index) {
                    function.read_config(offset, data);
                }
            }
        }
    }

    /// A store to the configuration space of a slot, if it is one.
    fn write_config(&mut self, target: Option<(usize, usize)>, data: &[u8]) {
        let Some((slot, offset)) = target else { return };
        match slot.checked_sub(1) {
            None => self.bridge.write(offset, data),
            Some(index) => {
                if let Some(function) = self.functions.get_mut(index) {
                    function.write_config(offset, data);
                    self.stopper = self.stopper.take().or(function.take_stopper());
                }
            }
        }
    }

    /// The slot and the register that the data port `port` leads to. Only bus 0, and function 0 of
    /// each slot, are there.
    fn target(&self, port: u16) -> Option<(usize, usize)> {
        let byte = usize::from(port.checked_sub(DATA)?);
        let is_there = self.address & ENABLE != 0 && self.address & 0x00ff_0700 == 0;
        let slot = (self.address >> 11 & 0x1f) as usize;
        let register = (self.address & 0xfc) as usize;
        is_there.then_some((slot, register + byte))
    }

    /// A load; false if neither a configuration space nor a function is at `address`.
    pub fn read(&mut self, address: u64, data: &mut [u8]) -> bool {
        if let Some(offset) = ecam_offset(address) {
            self.read_config(ecam_target(offset), data);
            return true;
        }
        let mut functions = self.functions.iter_mut();
        functions.any(|function| function.read(address, data))
    }

    /// A store; false if neither a configuration space nor a function is at `address`.
    pub fn write(&mut self, address: u64, data: &[u8]) -> bool {
        if let Some(offset) = ecam_offset(address) {
            self.write_config(ecam_target(offset), data);
            return true;
        }
        let mut functions = self.functions.iter_mut();
        match functions.find_map(|function| function.write(address, data).then_some(function)) {
            Some(function) => self.stopper = self.stopper.take().or(function.take_stopper()),
            None => return false,
        }
        true
    }

    /// What the reset waits for that a store was since this was last called, if one was.
    pub fn take_stopper(&mut self) -> Option<Stopper> {
        self.stopper.take()
    }

    /// Finishes the resets whose waits are over.
    pub fn finish_resets(&mut self) {
        self.functions
            .iter_mut()
            .for_each(|function| function.finish_reset());
    }

    /// The interrupt lines that some function wants, a bit each from [`FIRST_GSI`] on.
    pub fn wanted_lines(&self) -> u8 {
        (1..)
            .zip(&self.functions)
            .filter(|(_, function)| function.wants_line())
            .fold(0, |lines, (slot, _)| lines | 1 << (gsi(slot) - FIRST_GSI))
    }
}

fn ecam_offset(address: u64) -> Option<u64> {
    address
        .checked_sub(ECAM)
        .filter(|offset| *offset < ECAM_LENGTH)
}

/// The slot and the register at `offset`; none of a function that no slot has: all but the first.
fn ecam_target(offset: u64) -> Option<(usize, usize)> {
    let slot = offset >> ECAM_SLOT;
    let within = offset & ((1 << ECAM_SLOT) - 1);
    (within < 1 << ECAM_FUNCTION).then_some((slot as usize, within as usize))
}

#[cfg(test)]
mod tests;
