// SPDX-License-Identifier: GPL-2.0

//! What the decoder makes of an instruction's bytes.

use super::table::Operation;
use crate::operand::{CodeSize, Segment, Size};

/// A memory operand. Its parts are those of the instruction; the vCPU's state makes an address of
/// them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// The segment the address is in.
    pub segment: Segment,
    /// Where the offset wraps round.
    pub address_size: Size,
    /// Number of the base register.
    pub base: Option<u8>,
    /// Number of the index register.
    pub index: Option<u8>,
    /// log2 of the index's factor.
    pub scale: u8,
    /// Extended to 64 bits with its sign.
    pub displacement: u64,
    /// The address of the next instruction is added.
    pub rip_relative: bool,
}

/// The operand in the ModRM byte's r/m field, or what stands for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rm {
    /// A register, by number.
    Register(u8),
    /// The memory operand.
    Memory,
}

/// How the operands lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shape {
    /// All of them are implied by the opcode.
    Implied,
    /// r/m alone.
    Rm,
    /// r/m, 1.
    RmOne,
    /// r/m, CL.
    RmCl,
    /// r/m, r.
    RmReg,
    /// r, r/m.
    RegRm,
    /// r/m, an immediate of the operand's size (4 bytes at most).
    RmImmediate,
    /// r/m, an immediate byte that is extended with its sign.
    RmByte,
    /// r, r/m, an immediate of the operand's size.
    RegRmImmediate,
    /// r, r/m, an immediate byte that is extended with its sign.
    RegRmByte,
    /// r/m, r, an immediate byte.
    RmRegByte,
    /// r/m, r, CL.
    RmRegCl,
    /// Accumulator, memory at an address in the instruction.
    AccumulatorOffset,
    /// Memory at an address in the instruction, accumulator.
    OffsetAccumulator,
    /// The register that the opcode's lowest bits name.
    Opcode,
    /// An immediate of the operand's size.
    Immediate,
    /// An immediate byte that is extended with its sign.
    Byte,
}

impl Shape {
    /// Whether a ModRM byte follows the opcode.
    pub(super) const fn has_modrm(self) -> bool {
        !matches!(
            self,
            Self::Implied
                | Self::AccumulatorOffset
                | Self::OffsetAccumulator
                | Self::Opcode
                | Self::Immediate
                | Self::Byte
        )
    }

    /// Whether r/m is where the result goes.
    pub(super) const fn writes_rm(self) -> bool {
        !matches!(
            self,
            Self::RegRm | Self::RegRmImmediate | Self::RegRmByte | Self::AccumulatorOffset
        )
    }
}

/// A LOCK prefix.
pub(super) const LOCK: u8 = 1 << 0;
/// F3 is the last of the repeat prefixes.
pub(super) const REP: u8 = 1 << 1;
/// F2 is the last of the repeat prefixes.
pub(super) const REPNE: u8 = 1 << 2;
/// A REX prefix: registers 4 to 7 as bytes are SPL, BPL, SIL and DIL.
pub(super) const REX: u8 = 1 << 3;
/// A VEX prefix.
pub(super) const VEX: u8 = 1 << 4;
/// VEX.L: 256 bits.
pub(super) const VEX_256: u8 = 1 << 5;
/// REX.W or VEX.W.
pub(super) const WIDE: u8 = 1 << 6;

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Bytes of the instruction.
    pub length: u8,
    /// Of the code it lies in.
    pub code_size: CodeSize,
    /// The last byte of the opcode.
    pub(super) opcode: u8,
    pub(super) operation: Operation,
    pub(super) shape: Shape,
    /// Prefixes that matter to what is done.
    pub(super) prefixes: u8,
    /// Size of the r/m operand, an element of a string, or what goes on the stack.
    pub(super) size: Size,
    /// Operand size by prefixes: that of the other operand, where it has a size of its own.
    pub(super) operand_size: Size,
    /// Register in the ModRM byte's reg field.
    pub(super) reg: u8,
    pub(super) rm: Rm,
    pub(super) memory: Memory,
    /// Extended to 64 bits with its sign.
    pub(super) immediate: u64,
}

impl Instruction {
    pub(super) const fn has(&self, prefix: u8) -> bool {
        self.prefixes & prefix != 0
    }

    /// Whether it moves data between a register, or from the instruction itself, and its one
    /// operand in memory, without anything else.
    #[inline]
    pub const fn is_move(&self) -> bool {
        matches!(self.operation, Operation::Move(_))
    }

    /// Whether it repeats: a string instruction with a REP prefix.
    pub const fn repeats(&self) -> bool {
        matches!(self.operation, Operation::String(_)) && self.has(REP | REPNE)
    }

    /// The memory operand that the instruction spells out; `None` if it has none but implied ones:
    /// the stack, and those of string instructions.
    pub const fn memory_operand(&self) -> Option<&Memory> {
        match (self.rm, self.operation) {
            (_, Operation::String(_)) => None,
            (Rm::Memory, _) => Some(&self.memory),
            _ => None,
        }
    }

    /// `rip` cut to the size that the instruction pointer has in this code.
    pub const fn wrap_rip(&self, rip: u64) -> u64 {
        match self.code_size {
            CodeSize::Bits64 => rip,
            CodeSize::Bits32 => rip & Size::Dword.mask(),
            CodeSize::Bits16 => rip & Size::Word.mask(),
        }
    }
}
