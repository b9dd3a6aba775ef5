// SPDX-License-Identifier: GPL-2.0

//! MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI and MOVDIRI.

use super::context::{Context, RAX};
use super::instruction::{Rm, Shape};
use super::machine::{Intent, Machine, Stop};
use super::table::{
    Mandatory,
    Map::{OneByte, ThreeByte38, TwoByte},
    Operation, Row, Width, LONG_ONLY, MEMORY_ONLY,
};
use crate::operand::{Segment, Size};

/// How the value goes from one operand to the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Move {
    /// As it is.
    Plain,
    /// Extended to the operand size with zeroes.
    Zeroes,
    /// Extended to the operand size with its sign.
    Signed,
    /// In the other byte order.
    Swapped,
    /// From a segment register.
    Segment,
}

const fn one(opcode: u8, kind: Move, shape: Shape, width: Width) -> Row {
    Row::new(OneByte, opcode, Operation::Move(kind), shape, width)
}

const fn two(opcode: u8, kind: Move, shape: Shape, width: Width) -> Row {
    Row::new(TwoByte, opcode, Operation::Move(kind), shape, width)
}

const fn three(opcode: u8, kind: Move, shape: Shape, width: Width) -> Row {
    Row::new(ThreeByte38, opcode, Operation::Move(kind), shape, width).with(MEMORY_ONLY)
}

const BYTE: Width = Width::Fixed(Size::Byte);
const WORD: Width = Width::Fixed(Size::Word);

pub(super) const ROWS: &[Row] = &[
    one(0x88, Move::Plain, Shape::RmReg, BYTE),
    one(0x89, Move::Plain, Shape::RmReg, Width::Full),
    one(0x8a, Move::Plain, Shape::RegRm, BYTE),
    one(0x8b, Move::Plain, Shape::RegRm, Width::Full),
    one(0x8c, Move::Segment, Shape::RmReg, WORD),
    one(0xa0, Move::Plain, Shape::AccumulatorOffset, BYTE),
    one(0xa1, Move::Plain, Shape::AccumulatorOffset, Width::Full),
    one(0xa2, Move::Plain, Shape::OffsetAccumulator, BYTE),
    one(0xa3, Move::Plain, Shape::OffsetAccumulator, Width::Full),
    one(0xc6, Move::Plain, Shape::RmImmediate, BYTE).reg(0),
    one(0xc7, Move::Plain, Shape::RmImmediate, Width::Full).reg(0),
    one(0x63, Move::Signed, Shape::RegRm, Width::UpToDword).with(LONG_ONLY),
    two(0xb6, Move::Zeroes, Shape::RegRm, BYTE),
    two(0xb7, Move::Zeroes, Shape::RegRm, WORD),
    two(0xbe, Move::Signed, Shape::RegRm, BYTE),
    two(0xbf, Move::Signed, Shape::RegRm, WORD),
    two(0xc3, Move::Plain, Shape::RmReg, Width::DwordOrQword)
        .prefix(Mandatory::None)
        .with(MEMORY_ONLY),
    three(0xf0, Move::Swapped, Shape::RegRm, Width::Full).prefix(Mandatory::NoRepeat),
    three(0xf1, Move::Swapped, Shape::RmReg, Width::Full).prefix(Mandatory::NoRepeat),
    three(0xf9, Move::Plain, Shape::RmReg, Width::DwordOrQword).prefix(Mandatory::None),
];

fn swap(value: u64, size: Size) -> u64 {
    value.swap_bytes() >> (64 - size.bits())
}

pub(super) fn execute<M: Machine>(cx: &mut Context<'_, M>, kind: Move) -> Result<(), Stop> {
    let instruction = cx.instruction;
    let size = instruction.size;
    match instruction.shape {
        Shape::RegRm | Shape::AccumulatorOffset => {
            let value = cx.read_rm(Intent::Read)?;
            let value = match kind {
                Move::Signed => size.sign_extend(value),
                Move::Swapped => swap(value, size),
                _ => value,
            };
            let to_size = match kind {
                Move::Zeroes | Move::Signed => instruction.operand_size,
                _ => size,
            };
            let to = if instruction.shape == Shape::RegRm {
                instruction.reg
            } else {
                RAX
            };
            cx.set_register(to, to_size, value);
            Ok(())
        }
        Shape::RmImmediate => cx.write_rm(instruction.immediate),
        Shape::OffsetAccumulator => {
            let value = cx.register(RAX, size);
            cx.write_rm(value)
        }
        _ if kind == Move::Segment => store_segment(cx),
        _ => {
            let value = cx.reg(size);
            let value = if kind == Move::Swapped {
                swap(value, size)
            } else {
                value
            };
            cx.write_rm(value)
        }
    }
}

/// A word in memory, but all of a register.
fn store_segment<M: Machine>(cx: &mut Context<'_, M>) -> Result<(), Stop> {
    let number = cx.instruction.reg & 7;
    let segment = Segment::from_number(number).ok_or(Stop::Unknown)?;
    let selector = cx.machine.segment(segment).selector.0;
    match cx.instruction.rm {
        Rm::Register(to) => {
            cx.set_register(to, cx.instruction.operand_size, selector.into());
            Ok(())
        }
        Rm::Memory => cx.write_rm(selector.into()),
    }
}
