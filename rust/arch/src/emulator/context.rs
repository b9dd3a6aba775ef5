// SPDX-License-Identifier: GPL-2.0

//! An instruction on a machine: its operands, and where they lie.

use super::instruction::{Instruction, Memory, Rm, Shape, LOCK, REX};
use super::machine::{Intent, Machine, Stop};
use crate::addr::Gva;
use crate::control_regs::{Cr0, Cr4};
use crate::exception::Exception;
use crate::operand::{CodeSize, Segment, Size};
use crate::paging::is_canonical;
use crate::rflags::Rflags;
use crate::segment::{TYPE_READABLE, TYPE_WRITABLE};

pub(super) const RAX: u8 = 0;
pub(super) const RCX: u8 = 1;
pub(super) const RDX: u8 = 2;
pub(super) const RBX: u8 = 3;
pub(super) const RSP: u8 = 4;
pub(super) const RSI: u8 = 6;
pub(super) const RDI: u8 = 7;

/// An instruction that is being executed.
pub(super) struct Context<'a, M> {
    pub(super) machine: &'a mut M,
    pub(super) instruction: &'a Instruction,
    /// Linear address of the r/m operand, once it is known.
    address: Option<Gva>,
    /// What RSP counts for in addresses, beyond its value: POP has moved it.
    pub(super) stack_offset: u64,
    /// Bytes beyond what the instruction says: where the bit lies that BT means.
    pub(super) displacement: u64,
}

impl<'a, M: Machine> Context<'a, M> {
    pub(super) fn new(machine: &'a mut M, instruction: &'a Instruction) -> Self {
        Self {
            machine,
            instruction,
            address: None,
            stack_offset: 0,
            displacement: 0,
        }
    }

    pub(super) fn is_64_bit(&self) -> bool {
        self.instruction.code_size == CodeSize::Bits64
    }

    /// A register as an operand of `size`: bytes 4 to 7 are AH, CH, DH and BH, but with REX.
    pub(super) fn register(&self, number: u8, size: Size) -> u64 {
        if self.is_high_byte(number, size) {
            (self.machine.gpr(number & 3) >> 8) & 0xff
        } else {
            self.machine.gpr(number) & size.mask()
        }
    }

    /// Writes a register as an operand of `size`.
    pub(super) fn set_register(&mut self, number: u8, size: Size, value: u64) {
        if self.is_high_byte(number, size) {
            let old = self.machine.gpr(number & 3);
            let value = (value & 0xff) << 8;
            self.machine.set_gpr(number & 3, old & !0xff00 | value);
        } else if size >= Size::Dword {
            self.machine.set_gpr(number, value & size.mask());
        } else {
            let old = self.machine.gpr(number);
            self.machine.set_gpr(number, size.merge(old, value));
        }
    }

    fn is_high_byte(&self, number: u8, size: Size) -> bool {
        size == Size::Byte && matches!(number, 4..=7) && !self.instruction.has(REX)
    }

    /// The register in the reg field.
    pub(super) fn reg(&self, size: Size) -> u64 {
        self.register(self.instruction.reg, size)
    }

    /// Writes it.
    pub(super) fn set_reg(&mut self, size: Size, value: u64) {
        self.set_register(self.instruction.reg, size, value);
    }

    /// The second operand of an instruction whose first is the destination.
    pub(super) fn source(&self) -> u64 {
        let size = self.instruction.size;
        match self.instruction.shape {
            Shape::RmImmediate | Shape::RmByte => self.instruction.immediate & size.mask(),
            Shape::RmOne => 1,
            Shape::RmCl => self.machine.gpr(RCX) & 0xff,
            _ => self.reg(size),
        }
    }

    /// Offset of a memory operand in its segment (SDM vol. 1, 3.7.5).
    fn effective_address(&self, memory: &Memory) -> u64 {
        let mut offset = memory.displacement.wrapping_add(self.displacement);
        if let Some(base) = memory.base {
            offset = offset.wrapping_add(self.machine.gpr(base));
            if base == RSP {
                offset = offset.wrapping_add(self.stack_offset);
            }
        }
        if let Some(index) = memory.index {
            offset = offset.wrapping_add(self.machine.gpr(index) << (memory.scale & 3));
        }
        if memory.rip_relative {
            let next = self
                .machine
                .rip()
                .wrapping_add(self.instruction.length.into());
            offset = offset.wrapping_add(next);
        }
        offset & memory.address_size.mask()
    }

    /// Linear address of `len` bytes in a segment, checked as the processor does: limit, type and
    /// canonical form, then alignment to `alignment` bytes (SDM vol. 3, 6.3 and 7.15).
    #[inline]
    pub(super) fn linear(
        &self,
        segment: Segment,
        offset: u64,
        len: u64,
        alignment: u64,
        write: bool,
    ) -> Result<Gva, Stop> {
        let gva = if self.is_64_bit() {
            let base = match segment {
                Segment::Fs | Segment::Gs => self.machine.segment_base(segment),
                _ => 0,
            };
            let gva = Gva(base.wrapping_add(offset));
            self.check_canonical(segment, gva, len)?;
            gva
        } else {
            self.check_segment(segment, offset, len, write)?;
            let base = self.machine.segment_base(segment);
            Gva(base.wrapping_add(offset) & Size::Dword.mask())
        };
        if gva.0 & alignment.wrapping_sub(1) != 0 && self.checks_alignment() {
            return Err(Stop::fault(Exception::AlignmentCheck));
        }
        Ok(gva)
    }

    #[inline]
    fn check_canonical(&self, segment: Segment, gva: Gva, len: u64) -> Result<(), Stop> {
        let last = gva.offset(len.wrapping_sub(1));
        // What is canonical with 48 bits is so with 57.
        let both = |bits| is_canonical(gva, bits) && is_canonical(last, bits);
        if both(48) || self.machine.cr4().contains(Cr4::LA57) && both(57) {
            Ok(())
        } else {
            Err(segment_fault(segment))
        }
    }

    fn check_segment(&self, name: Segment, offset: u64, len: u64, write: bool) -> Result<(), Stop> {
        let segment = self.machine.segment(name);
        let rights = segment.rights;
        let allowed = if !self.machine.cr0().contains(Cr0::PE) {
            true
        } else if write {
            !rights.is_code() && rights.segment_type() & TYPE_WRITABLE != 0
        } else {
            !rights.is_code() || rights.segment_type() & TYPE_READABLE != 0
        };
        if allowed && !rights.is_unusable() && segment.contains(offset as u32, len as u32) {
            Ok(())
        } else {
            Err(segment_fault(name))
        }
    }

    fn checks_alignment(&self) -> bool {
        self.machine.rflags() & Rflags::AC.bits() != 0
            && self.machine.cr0().contains(Cr0::AM)
            && self.machine.cpl() == 3
    }

    /// Linear address of the r/m operand of `len` bytes; it is worked out once.
    #[inline]
    pub(super) fn address(&mut self, len: u64, alignment: u64, write: bool) -> Result<Gva, Stop> {
        if let Some(address) = self.address {
            return Ok(address);
        }
        let memory = &self.instruction.memory;
        let offset = self.effective_address(memory);
        let address = self.linear(memory.segment, offset, len, alignment, write)?;
        self.address = Some(address);
        Ok(address)
    }

    /// The r/m operand.
    pub(super) fn read_rm(&mut self, intent: Intent) -> Result<u64, Stop> {
        let size = self.instruction.size;
        match self.instruction.rm {
            Rm::Register(number) => Ok(self.register(number, size)),
            Rm::Memory => {
                let len = size.bytes() as u64;
                let address = self.address(len, len, intent == Intent::Modify)?;
                self.read(address, size, intent)
            }
        }
    }

    /// Writes the r/m operand, which nothing has read.
    pub(super) fn write_rm(&mut self, value: u64) -> Result<(), Stop> {
        let size = self.instruction.size;
        match self.instruction.rm {
            Rm::Register(number) => self.set_register(number, size, value),
            Rm::Memory => {
                let len = size.bytes() as u64;
                let address = self.address(len, len, true)?;
                self.write(address, size, value)?;
            }
        }
        Ok(())
    }

    /// Writes the r/m operand, which was read with [`Intent::Modify`] and held `old`; at once,
    /// with a LOCK prefix.
    pub(super) fn replace_rm(&mut self, old: u64, new: u64) -> Result<(), Stop> {
        if self.instruction.has(LOCK) {
            self.exchange_rm(old, new)
        } else {
            self.write_rm(new)
        }
    }

    /// As [`Self::replace_rm`] with a LOCK prefix.
    pub(super) fn exchange_rm(&mut self, old: u64, new: u64) -> Result<(), Stop> {
        let size = self.instruction.size;
        match self.instruction.rm {
            Rm::Register(number) => {
                self.set_register(number, size, new);
                Ok(())
            }
            Rm::Memory => {
                let len = size.bytes() as u64;
                let address = self.address(len, len, true)?;
                let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
                match (old.get(..size.bytes()), new.get(..size.bytes())) {
                    (Some(old), Some(new)) => self.machine.compare_exchange(address, old, new),
                    _ => Err(Stop::Unknown),
                }
            }
        }
    }

    /// Reads memory.
    pub(super) fn read(&mut self, gva: Gva, size: Size, intent: Intent) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        if let Some(bytes) = bytes.get_mut(..size.bytes()) {
            self.machine.read(gva, bytes, intent)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes memory.
    pub(super) fn write(&mut self, gva: Gva, size: Size, value: u64) -> Result<(), Stop> {
        match value.to_le_bytes().get(..size.bytes()) {
            Some(bytes) => self.machine.write(gva, bytes),
            None => Err(Stop::Unknown),
        }
    }

    /// Sets the flags in `mask` as `flags` has them.
    pub(super) fn set_flags(&mut self, mask: u64, flags: u64) {
        let old = self.machine.rflags();
        self.machine.set_rflags(old & !mask | flags & mask);
    }

    pub(super) fn flag(&self, flag: Rflags) -> bool {
        self.machine.rflags() & flag.bits() != 0
    }
}

/// What an access that a segment does not allow raises.
fn segment_fault(segment: Segment) -> Stop {
    Stop::fault(if segment == Segment::Ss {
        Exception::StackFault
    } else {
        Exception::GeneralProtection
    })
}
