// SPDX-License-Identifier: GPL-2.0

//! The emulator's machine: registers, and a copy of the buffer that the processor uses.

use super::processor::{Registers, BUFFER};
use arch::addr::Gva;
use arch::control_regs::{Cr0, Cr4};
use arch::emulator::{Intent, Machine, Stop};
use arch::operand::Segment;
use arch::segment;

pub struct Emulated {
    pub registers: Registers,
    pub memory: Vec<u8>,
}

impl Emulated {
    pub fn new(registers: &Registers, memory: &[u8]) -> Self {
        Self {
            registers: registers.clone(),
            memory: memory.to_vec(),
        }
    }

    /// Makes RDX:RAX, of which each has `half` bytes, equal to memory at RBX.
    pub fn make_equal(&mut self, half: usize) {
        let at = (self.registers.general[3] - BUFFER) as usize;
        let word = |at: usize| u64::from_le_bytes(self.memory[at..at + 8].try_into().unwrap());
        self.registers.general[0] = word(at);
        self.registers.general[2] = word(at + half);
    }

    fn place(&self, gva: Gva, len: usize) -> Result<usize, Stop> {
        let at = gva.0.wrapping_sub(BUFFER) as usize;
        match at.checked_add(len) {
            Some(end) if end <= self.memory.len() => Ok(at),
            _ => Err(Stop::Unknown),
        }
    }

    fn half(&self, number: u8, at: usize) -> u128 {
        let register = &self.registers.vectors[usize::from(number)];
        u128::from_le_bytes(register[at..at + 16].try_into().unwrap())
    }

    fn set_half(&mut self, number: u8, at: usize, value: u128) {
        let register = &mut self.registers.vectors[usize::from(number)];
        register[at..at + 16].copy_from_slice(&value.to_le_bytes());
    }
}

impl Machine for Emulated {
    fn gpr(&self, number: u8) -> u64 {
        self.registers.general[usize::from(number)]
    }

    fn set_gpr(&mut self, number: u8, value: u64) {
        self.registers.general[usize::from(number)] = value;
    }

    fn rip(&self) -> u64 {
        0
    }

    fn rflags(&self) -> u64 {
        self.registers.flags
    }

    fn set_rflags(&mut self, value: u64) {
        self.registers.flags = value;
    }

    fn segment_base(&self, _segment: Segment) -> u64 {
        0
    }

    fn segment(&self, _segment: Segment) -> segment::Segment {
        segment::Segment::default()
    }

    fn cr0(&self) -> Cr0 {
        Cr0::PE | Cr0::PG
    }

    fn cr4(&self) -> Cr4 {
        Cr4::OSFXSR | Cr4::OSXSAVE
    }

    fn xcr0(&self) -> u64 {
        7
    }

    fn cpl(&self) -> u8 {
        3
    }

    fn xmm(&mut self, number: u8) -> u128 {
        self.half(number, 0)
    }

    fn set_xmm(&mut self, number: u8, value: u128) {
        self.set_half(number, 0, value);
    }

    fn ymm_high(&mut self, number: u8) -> u128 {
        self.half(number, 16)
    }

    fn set_ymm_high(&mut self, number: u8, value: u128) {
        self.set_half(number, 16, value);
    }

    fn read(&mut self, gva: Gva, to: &mut [u8], _intent: Intent) -> Result<(), Stop> {
        let at = self.place(gva, to.len())?;
        to.copy_from_slice(&self.memory[at..at + to.len()]);
        Ok(())
    }

    fn write(&mut self, gva: Gva, from: &[u8]) -> Result<(), Stop> {
        let at = self.place(gva, from.len())?;
        self.memory[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }

    fn prepare_write(&mut self, gva: Gva, len: usize) -> Result<(), Stop> {
        self.place(gva, len).map(|_| ())
    }

    fn compare_exchange(&mut self, gva: Gva, _old: &[u8], new: &[u8]) -> Result<(), Stop> {
        self.write(gva, new)
    }

    fn port_read(&mut self, _port: u16, _to: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Unknown)
    }

    fn port_write(&mut self, _port: u16, _from: &[u8]) -> Result<(), Stop> {
        Err(Stop::Unknown)
    }

    fn commit(&mut self) -> bool {
        true
    }
}
