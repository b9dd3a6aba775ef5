// SPDX-License-Identifier: GPL-2.0

//! From bytes to an [`Instruction`] (SDM vol. 2, chapter 2).

use super::instruction::{
    Instruction, Memory, Rm, Shape, LOCK, REP, REPNE, REX, VEX, VEX_256, WIDE,
};
use super::table::{
    Map, Operation, Row, Rows, Width, L0, LOCKABLE, LONG_ONLY, MEMORY_ONLY, NOT_LONG, OR_VEX,
};
use super::{alu, mov::Move, MAX_LENGTH};
use crate::operand::{CodeSize, Segment, Size};

/// Why bytes are not an instruction that this emulator executes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// Another instruction, which may well be valid.
    Unknown,
    /// It raises #UD.
    Invalid,
    /// The bytes end before the instruction does.
    Truncated,
    /// More than [`MAX_LENGTH`] bytes, which raises #GP.
    TooLong,
}

const REX_W: u8 = 1 << 3;
const REX_R: u8 = 1 << 2;
const REX_X: u8 = 1 << 1;
const REX_B: u8 = 1 << 0;

const RBX: u8 = 3;
const RSP: u8 = 4;
const RBP: u8 = 5;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// Decodes the instruction at the start of `bytes`, which may go on after it. A caller who gets
/// [`DecodeError::Truncated`] for fewer than [`MAX_LENGTH`] bytes has not read enough of them.
pub fn decode(bytes: &[u8], code_size: CodeSize) -> Result<Instruction, DecodeError> {
    let mut decoder = Decoder {
        cursor: Cursor { bytes, position: 0 },
        code_size,
        operand_size: false,
        address_size: false,
        segment: None,
        repeat: None,
        rex: 0,
        flags: 0,
    };
    decoder.instruction()
}

/// The bytes of the instruction, and how many of them have been taken.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Cursor<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = self.peek()?;
        self.position += 1;
        Ok(byte)
    }

    #[inline]
    fn peek(&self) -> Result<u8, DecodeError> {
        if self.position >= MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        self.bytes
            .get(self.position)
            .copied()
            .ok_or(DecodeError::Truncated)
    }

    /// A little-endian value, extended with zeroes.
    fn value(&mut self, size: Size) -> Result<u64, DecodeError> {
        let mut value = 0;
        for index in 0..size.bytes() {
            value |= u64::from(self.byte()?) << (8 * index);
        }
        Ok(value)
    }

    /// A little-endian value, extended with its sign.
    fn signed(&mut self, size: Size) -> Result<u64, DecodeError> {
        Ok(size.sign_extend(self.value(size)?))
    }
}

/// A ModRM byte.
#[derive(Clone, Copy)]
struct ModRm(u8);

impl ModRm {
    const fn mode(self) -> u8 {
        self.0 >> 6
    }

    const fn reg(self) -> u8 {
        (self.0 >> 3) & 7
    }

    const fn rm(self) -> u8 {
        self.0 & 7
    }
}

struct Decoder<'a> {
    cursor: Cursor<'a>,
    code_size: CodeSize,
    /// Prefix 66.
    operand_size: bool,
    /// Prefix 67.
    address_size: bool,
    segment: Option<Segment>,
    /// The last of F2 and F3.
    repeat: Option<u8>,
    /// Bits of a REX prefix, or those of a VEX prefix in the same order.
    rex: u8,
    /// As [`Instruction::prefixes`].
    flags: u8,
}

impl Decoder<'_> {
    fn instruction(&mut self) -> Result<Instruction, DecodeError> {
        let mut opcode = self.prefixes()?;
        let mut map = Map::OneByte;
        match opcode {
            0x0f => {
                opcode = self.cursor.byte()?;
                map = Map::TwoByte;
                if opcode == 0x38 {
                    opcode = self.cursor.byte()?;
                    map = Map::ThreeByte38;
                }
            }
            0xc4 | 0xc5 if self.is_vex()? => {
                map = self.vex(opcode == 0xc4)?;
                opcode = self.cursor.byte()?;
            }
            _ => {}
        }

        let rows = Rows::of(map, opcode);
        let first = rows.first().ok_or(DecodeError::Unknown)?;
        let modrm = if first.shape.has_modrm() {
            Some(ModRm(self.cursor.byte()?))
        } else {
            None
        };
        let row = rows
            .find(modrm.map_or(0, ModRm::reg), self.operand_size, self.repeat)
            .ok_or(DecodeError::Unknown)?;
        self.check_row(row)?;
        self.operands(row, opcode, modrm)
    }

    /// Takes the prefixes and the opcode's first byte.
    #[inline]
    fn prefixes(&mut self) -> Result<u8, DecodeError> {
        let long = self.code_size == CodeSize::Bits64;
        loop {
            let byte = self.cursor.byte()?;
            match byte {
                0x40..=0x4f if long => {
                    self.rex = byte & 0xf;
                    self.flags |= REX;
                    continue;
                }
                0x66 => self.operand_size = true,
                0x67 => self.address_size = true,
                0x64 => self.segment = Some(Segment::Fs),
                0x65 => self.segment = Some(Segment::Gs),
                // 64-bit code ignores these, and does not let them undo an FS or GS.
                0x26 | 0x2e | 0x36 | 0x3e if long => {}
                0x26 => self.segment = Some(Segment::Es),
                0x2e => self.segment = Some(Segment::Cs),
                0x36 => self.segment = Some(Segment::Ss),
                0x3e => self.segment = Some(Segment::Ds),
                0xf0 => self.flags |= LOCK,
                0xf2 | 0xf3 => self.repeat = Some(byte),
                _ => break Ok(byte),
            }
            // A REX prefix counts only right before the opcode.
            self.rex = 0;
            self.flags &= !REX;
        }
    }

    /// Whether C4 or C5 is a VEX prefix here, and not LES or LDS.
    fn is_vex(&self) -> Result<bool, DecodeError> {
        Ok(self.code_size == CodeSize::Bits64 || self.cursor.peek()? >= 0xc0)
    }

    /// Takes a VEX prefix (SDM vol. 2, 2.3.5).
    fn vex(&mut self, three_bytes: bool) -> Result<Map, DecodeError> {
        let other = self.operand_size || self.repeat.is_some() || self.flags & (LOCK | REX) != 0;
        let mut last = self.cursor.byte()?;
        // R, X and B are stored inverted.
        let mut rex = !last >> 5 & REX_R;
        let mut map = 1;
        if three_bytes {
            rex = !last >> 5 & (REX_R | REX_X | REX_B);
            map = last & 0x1f;
            last = self.cursor.byte()?;
            rex |= last >> 4 & REX_W;
        }
        if other {
            return Err(DecodeError::Invalid);
        }
        let long = self.code_size == CodeSize::Bits64;
        self.rex = if long { rex } else { 0 };
        self.flags |= VEX;
        if last & 4 != 0 {
            self.flags |= VEX_256;
        }
        match last & 3 {
            1 => self.operand_size = true,
            2 => self.repeat = Some(0xf3),
            3 => self.repeat = Some(0xf2),
            _ => {}
        }
        // None of the instructions here has a third operand. Outside 64-bit code the field's
        // highest bit is ignored.
        let unused = if long { 0x78 } else { 0x38 };
        if last & unused != unused {
            return Err(DecodeError::Unknown);
        }
        match map {
            1 => Ok(Map::TwoByte),
            2 => Ok(Map::ThreeByte38),
            _ => Err(DecodeError::Unknown),
        }
    }

    fn check_row(&self, row: &Row) -> Result<(), DecodeError> {
        let long = self.code_size == CodeSize::Bits64;
        let vex = self.flags & VEX != 0;
        if row.has(LONG_ONLY) && !long
            || row.has(NOT_LONG) && long
            || vex && !row.has(OR_VEX)
            || self.flags & VEX_256 != 0 && row.has(L0)
        {
            return Err(DecodeError::Unknown);
        }
        Ok(())
    }

    fn operands(
        &mut self,
        row: &Row,
        opcode: u8,
        modrm: Option<ModRm>,
    ) -> Result<Instruction, DecodeError> {
        let operand_size = self.operand_size();
        let size = match row.width {
            Width::Fixed(size) => size,
            Width::Full => operand_size,
            Width::UpToDword => operand_size.min(Size::Dword),
            Width::DwordOrQword if self.rex & REX_W != 0 => Size::Qword,
            Width::DwordOrQword => Size::Dword,
            Width::Stack if self.code_size == CodeSize::Bits64 && !self.operand_size => Size::Qword,
            Width::Stack => operand_size,
        };
        if self.rex & REX_W != 0 {
            self.flags |= WIDE;
        }
        match self.repeat {
            Some(0xf3) => self.flags |= REP,
            Some(_) => self.flags |= REPNE,
            None => {}
        }

        let mut reg = 0;
        let mut rm = Rm::Register(0);
        let mut memory = self.operand_in(Segment::Ds);
        if let Some(modrm) = modrm {
            reg = modrm.reg() | self.extension(REX_R);
            if modrm.mode() == 3 {
                rm = Rm::Register(modrm.rm() | self.extension(REX_B));
            } else {
                rm = Rm::Memory;
                memory = if self.effective_address_size() == Size::Word {
                    self.memory16(modrm)?
                } else {
                    self.memory32(modrm)?
                };
            }
        }
        let immediate = match row.shape {
            Shape::RmImmediate | Shape::RegRmImmediate | Shape::Immediate => {
                self.cursor.signed(size.min(Size::Dword))?
            }
            Shape::RmByte | Shape::RegRmByte | Shape::RmRegByte | Shape::Byte => {
                self.cursor.signed(Size::Byte)?
            }
            Shape::AccumulatorOffset | Shape::OffsetAccumulator => {
                rm = Rm::Memory;
                memory.displacement = self.cursor.value(memory.address_size)?;
                0
            }
            Shape::Opcode => {
                reg = opcode & 7 | self.extension(REX_B);
                0
            }
            _ => 0,
        };
        let instruction = Instruction {
            length: self.cursor.position as u8,
            code_size: self.code_size,
            opcode,
            operation: row.operation,
            shape: row.shape,
            prefixes: self.flags,
            size,
            operand_size,
            reg,
            rm,
            memory,
            immediate,
        };
        if self.flags & LOCK != 0 && !is_lockable(row, &instruction) {
            return Err(DecodeError::Invalid);
        }
        if row.operation == Operation::Move(Move::Segment)
            && Segment::from_number(reg & 7).is_none()
        {
            return Err(DecodeError::Invalid);
        }
        if row.has(MEMORY_ONLY) && rm != Rm::Memory {
            return Err(DecodeError::Unknown);
        }
        Ok(instruction)
    }

    fn operand_size(&self) -> Size {
        match (self.code_size, self.operand_size) {
            (CodeSize::Bits64, _) if self.rex & REX_W != 0 => Size::Qword,
            (CodeSize::Bits16, false) | (CodeSize::Bits32 | CodeSize::Bits64, true) => Size::Word,
            (CodeSize::Bits16, true) | (CodeSize::Bits32 | CodeSize::Bits64, false) => Size::Dword,
        }
    }

    fn effective_address_size(&self) -> Size {
        match (self.code_size, self.address_size) {
            (CodeSize::Bits64, false) => Size::Qword,
            (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => Size::Word,
            (CodeSize::Bits16 | CodeSize::Bits64, true) | (CodeSize::Bits32, false) => Size::Dword,
        }
    }

    /// Bit 3 of a register number.
    const fn extension(&self, bit: u8) -> u8 {
        if self.rex & bit != 0 {
            8
        } else {
            0
        }
    }

    /// An operand with no parts yet, in `default` if no prefix says otherwise.
    fn operand_in(&self, default: Segment) -> Memory {
        Memory {
            segment: self.segment.unwrap_or(default),
            address_size: self.effective_address_size(),
            base: None,
            index: None,
            scale: 0,
            displacement: 0,
            rip_relative: false,
        }
    }

    /// SDM vol. 2, table 2-1.
    fn memory16(&mut self, modrm: ModRm) -> Result<Memory, DecodeError> {
        let (base, index) = match modrm.rm() {
            0 => (Some(RBX), Some(RSI)),
            1 => (Some(RBX), Some(RDI)),
            2 => (Some(RBP), Some(RSI)),
            3 => (Some(RBP), Some(RDI)),
            4 => (Some(RSI), None),
            5 => (Some(RDI), None),
            6 if modrm.mode() == 0 => (None, None),
            6 => (Some(RBP), None),
            _ => (Some(RBX), None),
        };
        let displacement = match (modrm.mode(), base) {
            (0, Some(_)) => 0,
            (1, _) => self.cursor.signed(Size::Byte)?,
            _ => self.cursor.signed(Size::Word)?,
        };
        let segment = if base == Some(RBP) {
            Segment::Ss
        } else {
            Segment::Ds
        };
        Ok(Memory {
            base,
            index,
            displacement,
            ..self.operand_in(segment)
        })
    }

    /// SDM vol. 2, tables 2-2 and 2-3, and 2.2.1 for 64-bit code.
    #[inline]
    fn memory32(&mut self, modrm: ModRm) -> Result<Memory, DecodeError> {
        let mut index = None;
        let mut scale = 0;
        let mut rip_relative = false;
        let mut base = Some(modrm.rm() | self.extension(REX_B));
        if modrm.rm() == RSP {
            let sib = self.cursor.byte()?;
            let number = ((sib >> 3) & 7) | self.extension(REX_X);
            scale = sib >> 6;
            index = (number != RSP).then_some(number);
            base = Some((sib & 7) | self.extension(REX_B));
            if sib & 7 == RBP && modrm.mode() == 0 {
                base = None;
            }
        } else if modrm.rm() == RBP && modrm.mode() == 0 {
            base = None;
            rip_relative = self.code_size == CodeSize::Bits64;
        }
        let displacement = match (modrm.mode(), base) {
            (0, Some(_)) => 0,
            (1, _) => self.cursor.signed(Size::Byte)?,
            _ => self.cursor.signed(Size::Dword)?,
        };
        let segment = match base {
            Some(RSP | RBP) => Segment::Ss,
            _ => Segment::Ds,
        };
        Ok(Memory {
            base,
            index,
            scale,
            displacement,
            rip_relative,
            ..self.operand_in(segment)
        })
    }
}

/// Whether a LOCK prefix is allowed (SDM vol. 2, LOCK).
fn is_lockable(row: &Row, instruction: &Instruction) -> bool {
    row.has(LOCKABLE)
        && instruction.rm == Rm::Memory
        && row.shape.writes_rm()
        && !(row.operation == Operation::AluByReg && instruction.reg & 7 == alu::Alu::Cmp as u8)
}
