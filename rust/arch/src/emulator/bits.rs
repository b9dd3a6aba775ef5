// SPDX-License-Identifier: GPL-2.0

//! BT, BTS, BTR and BTC.

use super::context::Context;
use super::flags::when;
use super::instruction::{Rm, Shape};
use super::machine::{Intent, Machine, Stop};
use super::table::{Map::TwoByte, Operation, Row, Width, LOCKABLE};
use crate::rflags::Rflags;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bit {
    Test,
    Set,
    Reset,
    Complement,
}

const fn by_register(opcode: u8, bit: Bit) -> Row {
    let operation = Operation::Bit(bit);
    Row::new(TwoByte, opcode, operation, Shape::RmReg, Width::Full)
}

const fn by_immediate(reg: u8, bit: Bit) -> Row {
    let operation = Operation::Bit(bit);
    Row::new(TwoByte, 0xba, operation, Shape::RmByte, Width::Full).reg(reg)
}

pub(super) const ROWS: &[Row] = &[
    by_register(0xa3, Bit::Test),
    by_register(0xab, Bit::Set).with(LOCKABLE),
    by_register(0xb3, Bit::Reset).with(LOCKABLE),
    by_register(0xbb, Bit::Complement).with(LOCKABLE),
    by_immediate(4, Bit::Test),
    by_immediate(5, Bit::Set).with(LOCKABLE),
    by_immediate(6, Bit::Reset).with(LOCKABLE),
    by_immediate(7, Bit::Complement).with(LOCKABLE),
];

pub(super) fn execute<M: Machine>(cx: &mut Context<'_, M>, bit: Bit) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let number = cx.source();
    if cx.instruction.shape == Shape::RmReg && cx.instruction.rm == Rm::Memory {
        // A register may name a bit far from the operand, in either direction.
        let operands = (size.sign_extend(number) as i64) >> size.bits().trailing_zeros();
        cx.displacement = (operands as u64).wrapping_mul(size.bytes() as u64);
    }
    let mask = 1u64 << (number & u64::from(size.bits() - 1));

    let old = if bit == Bit::Test {
        cx.read_rm(Intent::Read)?
    } else {
        cx.read_rm(Intent::Modify)?
    };
    let new = match bit {
        Bit::Test => old,
        Bit::Set => old | mask,
        Bit::Reset => old & !mask,
        Bit::Complement => old ^ mask,
    };
    if bit != Bit::Test {
        cx.replace_rm(old, new)?;
    }
    cx.set_flags(Rflags::CF.bits(), when(old & mask != 0, Rflags::CF));
    Ok(())
}
