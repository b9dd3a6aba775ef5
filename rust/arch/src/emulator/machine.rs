// SPDX-License-Identifier: GPL-2.0

//! What the emulator asks of the vCPU whose instructions it executes.

use crate::addr::Gva;
use crate::control_regs::{Cr0, Cr4};
use crate::exception::Exception;
use crate::operand::Segment;
use crate::segment;

/// An exception that an instruction raises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which.
    pub exception: Exception,
    /// What delivery pushes in protected mode.
    pub error_code: Option<u32>,
    /// What CR2 takes.
    pub cr2: Option<Gva>,
}

impl Fault {
    /// One whose error code is 0, or that has none.
    pub const fn new(exception: Exception) -> Self {
        let error_code = if exception.has_error_code() {
            Some(0)
        } else {
            None
        };
        Self {
            exception,
            error_code,
            cr2: None,
        }
    }
}

/// Why an instruction, or an element of a string, was not carried out. Nothing of it has happened,
/// but that devices were read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It raises an exception.
    Fault(Fault),
    /// Somebody else must provide what it reads; it is to be executed again when that is there.
    Exit,
    /// Memory changed meanwhile: let the guest try again.
    Retry,
    /// It is not emulated in this form.
    Unknown,
}

impl Stop {
    /// A [`Stop::Fault`] by [`Fault::new`].
    pub const fn fault(exception: Exception) -> Self {
        Self::Fault(Fault::new(exception))
    }
}

/// How far an instruction has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It is complete: RIP is to go on by its length.
    Done,
    /// Elements of a string are left: RIP stays.
    Again,
}

/// What a read is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// The value.
    Read,
    /// To be written back: the page must be writable.
    Modify,
}

/// A vCPU as the emulator uses it.
///
/// Reads come before writes, and both before any change of a register. A read that stops with
/// [`Stop::Exit`] is made again, after all reads before it, once what it asks for is there: each
/// device must be read once all the same, so the machine remembers the answers until
/// [`Machine::commit`].
pub trait Machine {
    /// A general register, by its number.
    fn gpr(&self, number: u8) -> u64;
    /// Sets one.
    fn set_gpr(&mut self, number: u8, value: u64);
    /// Address of the instruction.
    fn rip(&self) -> u64;
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, value: u64);
    /// The base of a segment.
    fn segment_base(&self, segment: Segment) -> u64;
    /// A segment register in full.
    fn segment(&self, segment: Segment) -> segment::Segment;
    /// CR0.
    fn cr0(&self) -> Cr0;
    /// CR4.
    fn cr4(&self) -> Cr4;
    /// XCR0.
    fn xcr0(&self) -> u64;
    /// The current privilege level.
    fn cpl(&self) -> u8;

    /// The low half of a vector register.
    fn xmm(&mut self, number: u8) -> u128;
    /// Sets it and leaves the upper half.
    fn set_xmm(&mut self, number: u8, value: u128);
    /// Bits 255 to 128 of a vector register. Asked only where XCR0 has AVX.
    fn ymm_high(&mut self, number: u8) -> u128;
    /// Sets them. Called only where XCR0 has AVX.
    fn set_ymm_high(&mut self, number: u8, value: u128);

    /// Reads memory: at most 32 bytes, which may cross a page.
    fn read(&mut self, gva: Gva, to: &mut [u8], intent: Intent) -> Result<(), Stop>;
    /// Writes memory: all of it, or none and a fault. What goes to a device may do so later, but
    /// before the guest's next instruction. Never stops with [`Stop::Exit`].
    fn write(&mut self, gva: Gva, from: &[u8]) -> Result<(), Stop>;
    /// Faults as [`Machine::write`] would.
    fn prepare_write(&mut self, gva: Gva, len: usize) -> Result<(), Stop>;
    /// Writes `new` if `old` is what a read with [`Intent::Modify`] found and memory still has,
    /// else stops with [`Stop::Retry`]. At a device it is a write.
    fn compare_exchange(&mut self, gva: Gva, old: &[u8], new: &[u8]) -> Result<(), Stop>;
    /// Reads a port: 1, 2 or 4 bytes.
    fn port_read(&mut self, port: u16, to: &mut [u8]) -> Result<(), Stop>;
    /// Writes a port. Never stops with [`Stop::Exit`].
    fn port_write(&mut self, port: u16, from: &[u8]) -> Result<(), Stop>;
    /// An element of a string is done and its registers are written. Returns whether the next one
    /// may follow at once.
    fn commit(&mut self) -> bool;
}
