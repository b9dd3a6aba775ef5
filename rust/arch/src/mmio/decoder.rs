// SPDX-License-Identifier: GPL-2.0

//! From bytes to a [`Mov`] (SDM vol. 2, chapter 2).

use super::{
    CodeSize, Error, Extension, Memory, Mov, Operand, Register, Segment, Size, MAX_LENGTH,
};

const REX_W: u8 = 1 << 3;
const REX_R: u8 = 1 << 2;
const REX_X: u8 = 1 << 1;
const REX_B: u8 = 1 << 0;

const RAX: u8 = 0;
const RBX: u8 = 3;
const RSP: u8 = 4;
const RBP: u8 = 5;
const RSI: u8 = 6;
const RDI: u8 = 7;

/// Decodes the instruction at the start of `bytes`, which may go on after it. A caller who gets
/// [`Error::Truncated`] for fewer than [`MAX_LENGTH`] bytes has not read enough of them.
pub fn decode(bytes: &[u8], code_size: CodeSize) -> Result<Mov, Error> {
    let mut cursor = Cursor { bytes, position: 0 };
    let (prefixes, opcode) = Prefixes::read(&mut cursor, code_size)?;
    let decoder = Decoder {
        cursor,
        prefixes,
        code_size,
    };
    decoder.instruction(opcode)
}

/// The bytes of the instruction, and how many of them have been taken.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Result<u8, Error> {
        if self.position >= MAX_LENGTH {
            return Err(Error::TooLong);
        }
        let byte = *self.bytes.get(self.position).ok_or(Error::Truncated)?;
        self.position += 1;
        Ok(byte)
    }

    /// A little-endian value, extended with zeroes.
    fn value(&mut self, size: Size) -> Result<u64, Error> {
        let mut value = 0;
        for index in 0..size.bytes() {
            value |= u64::from(self.byte()?) << (8 * index);
        }
        Ok(value)
    }

    /// A little-endian value, extended with its sign.
    fn signed(&mut self, size: Size) -> Result<u64, Error> {
        Ok(size.sign_extend(self.value(size)?))
    }
}

/// What the bytes before the opcode change.
#[derive(Default)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    segment: Option<Segment>,
    /// The REX prefix; `Some(0x40)` and none differ in what registers 4 to 7 are as bytes.
    rex: Option<u8>,
}

impl Prefixes {
    /// Takes the prefixes and the opcode's first byte.
    fn read(cursor: &mut Cursor<'_>, code_size: CodeSize) -> Result<(Self, u8), Error> {
        let long = code_size == CodeSize::Bits64;
        let mut prefixes = Self::default();
        loop {
            let byte = cursor.byte()?;
            match byte {
                0x66 => prefixes.operand_size = true,
                0x67 => prefixes.address_size = true,
                0x64 => prefixes.segment = Some(Segment::Fs),
                0x65 => prefixes.segment = Some(Segment::Gs),
                // 64-bit code ignores these, and does not let them undo an FS or GS.
                0x26 | 0x2e | 0x36 | 0x3e if long => {}
                0x26 => prefixes.segment = Some(Segment::Es),
                0x2e => prefixes.segment = Some(Segment::Cs),
                0x36 => prefixes.segment = Some(Segment::Ss),
                0x3e => prefixes.segment = Some(Segment::Ds),
                // REP prefixes mean nothing to these instructions; XRELEASE is a hint.
                0xf2 | 0xf3 => {}
                0x40..=0x4f if long => {
                    prefixes.rex = Some(byte);
                    continue;
                }
                // LOCK, too, ends here: it is an invalid opcode with any MOV.
                _ => return Ok((prefixes, byte)),
            }
            // A REX prefix counts only right before the opcode.
            prefixes.rex = None;
        }
    }

    fn rex(&self, bit: u8) -> bool {
        self.rex.unwrap_or(0) & bit != 0
    }

    /// Bit 3 of a register number.
    fn extension(&self, bit: u8) -> u8 {
        if self.rex(bit) {
            8
        } else {
            0
        }
    }
}

/// A ModRM byte.
#[derive(Clone, Copy)]
struct ModRm(u8);

impl ModRm {
    fn mode(self) -> u8 {
        self.0 >> 6
    }

    fn reg(self) -> u8 {
        (self.0 >> 3) & 7
    }

    fn rm(self) -> u8 {
        self.0 & 7
    }
}

struct Decoder<'a> {
    cursor: Cursor<'a>,
    prefixes: Prefixes,
    code_size: CodeSize,
}

impl Decoder<'_> {
    fn instruction(mut self, opcode: u8) -> Result<Mov, Error> {
        let full = self.operand_size();
        match opcode {
            0x88 => self.store(Size::Byte),
            0x89 => self.store(full),
            0x8a => self.load(Size::Byte, Size::Byte, Extension::Zero),
            0x8b => self.load(full, full, Extension::Zero),
            0xa0 => self.accumulator(Size::Byte, true),
            0xa1 => self.accumulator(full, true),
            0xa2 => self.accumulator(Size::Byte, false),
            0xa3 => self.accumulator(full, false),
            0xc6 => self.store_immediate(Size::Byte),
            0xc7 => self.store_immediate(full),
            0x63 if self.code_size == CodeSize::Bits64 => {
                self.load(full.min(Size::Dword), full, Extension::Sign)
            }
            0x0f => match self.cursor.byte()? {
                0xb6 => self.load(Size::Byte, full, Extension::Zero),
                0xb7 => self.load(Size::Word, full, Extension::Zero),
                0xbe => self.load(Size::Byte, full, Extension::Sign),
                0xbf => self.load(Size::Word, full, Extension::Sign),
                _ => Err(Error::NotMov),
            },
            _ => Err(Error::NotMov),
        }
    }

    fn operand_size(&self) -> Size {
        match (self.code_size, self.prefixes.operand_size) {
            (CodeSize::Bits64, _) if self.prefixes.rex(REX_W) => Size::Qword,
            (CodeSize::Bits16, false) | (CodeSize::Bits32 | CodeSize::Bits64, true) => Size::Word,
            (CodeSize::Bits16, true) | (CodeSize::Bits32 | CodeSize::Bits64, false) => Size::Dword,
        }
    }

    fn address_size(&self) -> Size {
        match (self.code_size, self.prefixes.address_size) {
            (CodeSize::Bits64, false) => Size::Qword,
            (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => Size::Word,
            (CodeSize::Bits16 | CodeSize::Bits64, true) | (CodeSize::Bits32, false) => Size::Dword,
        }
    }

    /// The register in the ModRM byte's reg field, accessed as `size`.
    fn register(&self, modrm: ModRm, size: Size) -> Register {
        let number = modrm.reg() | self.prefixes.extension(REX_R);
        // Without REX, bytes 4 to 7 are AH, CH, DH and BH.
        let high_byte = size == Size::Byte && self.prefixes.rex.is_none() && number >= RSP;
        Register {
            number: if high_byte { number - RSP } else { number },
            high_byte,
        }
    }

    fn store(mut self, size: Size) -> Result<Mov, Error> {
        let (modrm, memory) = self.modrm()?;
        let operand = Operand::Store(self.register(modrm, size));
        Ok(self.finish(size, memory, operand))
    }

    fn load(mut self, size: Size, to_size: Size, extension: Extension) -> Result<Mov, Error> {
        let (modrm, memory) = self.modrm()?;
        let to = self.register(modrm, to_size);
        Ok(self.finish(
            size,
            memory,
            Operand::Load {
                to,
                to_size,
                extension,
            },
        ))
    }

    fn store_immediate(mut self, size: Size) -> Result<Mov, Error> {
        let modrm = ModRm(self.cursor.byte()?);
        if modrm.reg() != 0 {
            return Err(Error::NotMov);
        }
        let memory = self.memory(modrm)?;
        let value = self.cursor.signed(size.min(Size::Dword))?;
        Ok(self.finish(size, memory, Operand::StoreImmediate(value)))
    }

    /// MOV between AL, AX, EAX or RAX and an address that is all in the instruction.
    fn accumulator(mut self, size: Size, is_load: bool) -> Result<Mov, Error> {
        let register = Register {
            number: RAX,
            high_byte: false,
        };
        let displacement = self.cursor.value(self.address_size())?;
        let memory = Memory {
            displacement,
            ..self.operand_in(Segment::Ds)
        };
        let operand = if is_load {
            Operand::Load {
                to: register,
                to_size: size,
                extension: Extension::Zero,
            }
        } else {
            Operand::Store(register)
        };
        Ok(self.finish(size, memory, operand))
    }

    fn finish(self, size: Size, memory: Memory, operand: Operand) -> Mov {
        Mov {
            length: self.cursor.position as u8,
            size,
            memory,
            operand,
        }
    }

    /// An operand with no parts yet, in `default` if no prefix says otherwise.
    fn operand_in(&self, default: Segment) -> Memory {
        Memory {
            segment: self.prefixes.segment.unwrap_or(default),
            address_size: self.address_size(),
            base: None,
            index: None,
            scale: 0,
            displacement: 0,
            rip_relative: false,
        }
    }

    fn modrm(&mut self) -> Result<(ModRm, Memory), Error> {
        let modrm = ModRm(self.cursor.byte()?);
        Ok((modrm, self.memory(modrm)?))
    }

    fn memory(&mut self, modrm: ModRm) -> Result<Memory, Error> {
        if modrm.mode() == 3 {
            Err(Error::NotMemory)
        } else if self.address_size() == Size::Word {
            self.memory16(modrm)
        } else {
            self.memory32(modrm)
        }
    }

    /// SDM vol. 2, table 2-1.
    fn memory16(&mut self, modrm: ModRm) -> Result<Memory, Error> {
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
    fn memory32(&mut self, modrm: ModRm) -> Result<Memory, Error> {
        let mut index = None;
        let mut scale = 0;
        let mut rip_relative = false;
        let mut base = Some(modrm.rm() | self.prefixes.extension(REX_B));
        if modrm.rm() == RSP {
            let sib = self.cursor.byte()?;
            let number = ((sib >> 3) & 7) | self.prefixes.extension(REX_X);
            scale = sib >> 6;
            index = (number != RSP).then_some(number);
            base = Some((sib & 7) | self.prefixes.extension(REX_B));
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
        let operand = self.operand_in(segment);
        Ok(Memory {
            base,
            index,
            scale,
            displacement,
            rip_relative,
            ..operand
        })
    }
}
