// SPDX-License-Identifier: GPL-2.0

//! The instructions that touch device memory: plain MOV loads and stores, decoded so that the VMM
//! can make the access and the guest get its result.
//!
//! | opcode | instruction (SDM vol. 2) |
//! | --- | --- |
//! | 88, 89 | MOV r/m, r |
//! | 8A, 8B | MOV r, r/m |
//! | A0 to A3 | MOV between the accumulator and an address in the instruction |
//! | C6 /0, C7 /0 | MOV r/m, imm |
//! | 0F B6, 0F B7 | MOVZX r, r/m |
//! | 0F BE, 0F BF | MOVSX r, r/m |
//! | 63 | MOVSXD r, r/m (64-bit code) |
//!
//! Everything else, a register instead of memory and a LOCK prefix included, is an error: there is
//! no guess here that could be wrong.
//!
//! ```
//! use arch::mmio::{decode, CodeSize, Direction, State};
//!
//! let mov = decode(&[0x89, 0x43, 0x10], CodeSize::Bits64).unwrap(); // mov [rbx + 0x10], eax
//! let mut state = State { code_size: CodeSize::Bits64, ..State::default() };
//! state.registers[0] = 0xffff_ffff_1234_5678;
//! state.registers[3] = 0xfeb0_0000;
//! assert_eq!(mov.linear_address(&state).0, 0xfeb0_0010);
//! assert_eq!((mov.length, mov.size.bytes()), (3, 4));
//! assert_eq!(mov.direction(), Direction::Store);
//! assert_eq!(mov.store_value(&state.registers), Some(0x1234_5678));
//! ```

mod decoder;

pub use decoder::decode;

use crate::addr::Gva;

/// The longest instruction, in bytes.
pub const MAX_LENGTH: usize = 15;

/// Why bytes are not an instruction that this module knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Another instruction, or an invalid one.
    NotMov,
    /// One of these instructions between two registers.
    NotMemory,
    /// The bytes end before the instruction does.
    Truncated,
    /// More than [`MAX_LENGTH`] bytes, which raises #GP.
    TooLong,
}

/// What the code segment says of operand and address sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode, and CS.D = 0.
    #[default]
    Bits16,
    /// CS.D = 1.
    Bits32,
    /// CS.L = 1 in long mode.
    Bits64,
}

impl CodeSize {
    /// From CS.L (false outside long mode) and CS.D.
    pub const fn new(long: bool, default_big: bool) -> Self {
        match (long, default_big) {
            (true, _) => Self::Bits64,
            (false, true) => Self::Bits32,
            (false, false) => Self::Bits16,
        }
    }
}

/// Size of an operand or an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Size {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
    /// 64 bits.
    Qword = 8,
}

impl Size {
    /// Bytes of this size.
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// The bits a value of this size can have.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self as u32)
    }

    /// `value`, of this size, with its sign bit repeated upwards.
    pub const fn sign_extend(self, value: u64) -> u64 {
        let unused = 64 - 8 * self as u32;
        ((value << unused) as i64 >> unused) as u64
    }
}

/// A segment register, numbered as instructions number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Segment {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

/// A general register as an operand.
///
/// # Invariants
///
/// `number` is below 16, and below 4 where `high_byte` is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Register {
    number: u8,
    high_byte: bool,
}

impl Register {
    /// Its place in [`State::registers`], below 16.
    pub const fn number(self) -> usize {
        self.number as usize
    }

    /// It is AH, CH, DH or BH: bits 15 to 8 of the register with that number.
    pub const fn is_high_byte(self) -> bool {
        self.high_byte
    }

    fn value(self, registers: &[u64; 16], size: Size) -> u64 {
        let value = registers.get(self.number()).copied().unwrap_or(0);
        let value = if self.high_byte { value >> 8 } else { value };
        value & size.mask()
    }
}

/// What of a vCPU's state an address depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Of the code segment.
    pub code_size: CodeSize,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub registers: [u64; 16],
    /// Segment bases: ES, CS, SS, DS, FS, GS.
    pub segment_bases: [u64; 6],
    /// Address of the instruction.
    pub rip: u64,
}

/// A memory operand. Its parts are those of the instruction; the vCPU's state makes an address of
/// them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// The segment the address is in.
    pub segment: Segment,
    /// Where the offset wraps round.
    pub address_size: Size,
    base: Option<u8>,
    index: Option<u8>,
    /// log2 of the index's factor.
    scale: u8,
    displacement: u64,
    rip_relative: bool,
}

/// Which way data goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From memory to a register.
    Load,
    /// From a register or the instruction to memory.
    Store,
}

/// How a load fills a register larger than what it loads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// With zeroes. Also where there is nothing to fill.
    Zero,
    /// With the sign bit.
    Sign,
}

/// The operand that is not memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// Memory to register.
    Load {
        /// The register.
        to: Register,
        /// How much of it is written, [`Size::Dword`] clearing the upper half.
        to_size: Size,
        /// How the value becomes `to_size`.
        extension: Extension,
    },
    /// Register to memory.
    Store(Register),
    /// A value in the instruction, extended to 64 bits, to memory.
    StoreImmediate(u64),
}

/// A decoded load or store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mov {
    /// Bytes of the instruction.
    pub length: u8,
    /// Size of the access to memory.
    pub size: Size,
    /// Where in memory.
    pub memory: Memory,
    /// What with it.
    pub operand: Operand,
}

impl Mov {
    /// Which way data goes.
    pub const fn direction(&self) -> Direction {
        match self.operand {
            Operand::Load { .. } => Direction::Load,
            Operand::Store(_) | Operand::StoreImmediate(_) => Direction::Store,
        }
    }

    /// Address of the instruction after this one.
    pub const fn next_rip(&self, state: &State) -> u64 {
        let next = state.rip.wrapping_add(self.length as u64);
        match state.code_size {
            CodeSize::Bits64 => next,
            CodeSize::Bits32 => next & Size::Dword.mask(),
            CodeSize::Bits16 => next & Size::Word.mask(),
        }
    }

    /// Offset of the operand in its segment (SDM vol. 1, 3.7.5).
    pub fn effective_address(&self, state: &State) -> u64 {
        let memory = &self.memory;
        let register = |number: Option<u8>| {
            number
                .and_then(|n| state.registers.get(usize::from(n)))
                .copied()
                .unwrap_or(0)
        };
        let mut offset = memory
            .displacement
            .wrapping_add(register(memory.base))
            .wrapping_add(register(memory.index) << (memory.scale & 3));
        if memory.rip_relative {
            offset = offset.wrapping_add(self.next_rip(state));
        }
        offset & memory.address_size.mask()
    }

    /// Linear address of the operand. In 64-bit code the bases of ES, CS, SS and DS are zero,
    /// whatever the state says.
    pub fn linear_address(&self, state: &State) -> Gva {
        let segment = self.memory.segment;
        let base = state
            .segment_bases
            .get(segment as usize)
            .copied()
            .unwrap_or(0);
        let offset = self.effective_address(state);
        Gva(match (state.code_size, segment) {
            (CodeSize::Bits64, Segment::Fs | Segment::Gs) => base.wrapping_add(offset),
            (CodeSize::Bits64, _) => offset,
            _ => base.wrapping_add(offset) & Size::Dword.mask(),
        })
    }

    /// What a store writes: [`Mov::size`] bytes of it count, the others are zero. `None` for a
    /// load.
    pub fn store_value(&self, registers: &[u64; 16]) -> Option<u64> {
        match self.operand {
            Operand::Load { .. } => None,
            Operand::Store(register) => Some(register.value(registers, self.size)),
            Operand::StoreImmediate(value) => Some(value & self.size.mask()),
        }
    }

    /// The register a load writes and its new value, when memory held `value` and the register
    /// `registers`' one. `None` for a store.
    pub fn apply_load(&self, value: u64, registers: &[u64; 16]) -> Option<(Register, u64)> {
        let Operand::Load {
            to,
            to_size,
            extension,
        } = self.operand
        else {
            return None;
        };
        let value = match extension {
            Extension::Zero => value & self.size.mask(),
            Extension::Sign => self.size.sign_extend(value),
        } & to_size.mask();
        let old = registers.get(to.number()).copied().unwrap_or(0);
        let new = match to_size {
            Size::Byte if to.high_byte => old & !0xff00 | (value << 8),
            Size::Byte | Size::Word => old & !to_size.mask() | value,
            // A 32-bit result clears the upper half (SDM vol. 1, 3.4.1.1).
            Size::Dword | Size::Qword => value,
        };
        Some((to, new))
    }
}

#[cfg(test)]
mod tests;
