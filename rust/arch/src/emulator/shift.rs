// SPDX-License-Identifier: GPL-2.0

//! ROL, ROR, RCL, RCR, SHL, SHR, SAR, SHLD and SHRD.

use super::context::{Context, RCX};
use super::flags::{self, sign, when, STATUS};
use super::instruction::Shape;
use super::machine::{Intent, Machine, Stop};
use super::table::{
    Map::{OneByte, TwoByte},
    Operation, Row, Width,
};
use crate::operand::Size;
use crate::rflags::Rflags;

/// Which way the bits of a register come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DoubleShift {
    Left,
    Right,
}

const fn one(opcode: u8, shape: Shape, width: Width) -> Row {
    Row::new(OneByte, opcode, Operation::ShiftByReg, shape, width)
}

const fn double(opcode: u8, direction: DoubleShift, shape: Shape) -> Row {
    let operation = Operation::DoubleShift(direction);
    Row::new(TwoByte, opcode, operation, shape, Width::Full)
}

const BYTE: Width = Width::Fixed(Size::Byte);

pub(super) const ROWS: &[Row] = &[
    one(0xc0, Shape::RmByte, BYTE),
    one(0xc1, Shape::RmByte, Width::Full),
    one(0xd0, Shape::RmOne, BYTE),
    one(0xd1, Shape::RmOne, Width::Full),
    one(0xd2, Shape::RmCl, BYTE),
    one(0xd3, Shape::RmCl, Width::Full),
    double(0xa4, DoubleShift::Left, Shape::RmRegByte),
    double(0xa5, DoubleShift::Left, Shape::RmRegCl),
    double(0xac, DoubleShift::Right, Shape::RmRegByte),
    double(0xad, DoubleShift::Right, Shape::RmRegCl),
];

/// A value and CF.
type Shifted = (u64, bool);

const ROTATE_FLAGS: u64 = Rflags::CF.union(Rflags::OF).bits();

/// Shifts count modulo 32, or 64 where the operand is that large.
fn masked(count: u64, size: Size) -> u32 {
    (count & if size == Size::Qword { 63 } else { 31 }) as u32
}

/// `value << count`, 0 for a count that is too large.
fn shl(value: u64, count: u32) -> u64 {
    value.checked_shl(count).unwrap_or(0)
}

/// `value >> count`, 0 for a count that is too large.
fn shr(value: u64, count: u32) -> u64 {
    value.checked_shr(count).unwrap_or(0)
}

fn bit(value: u64, number: u32) -> bool {
    shr(value, number) & 1 != 0
}

/// Rotates by `count`, which is not 0.
fn rotate(value: u64, count: u32, size: Size, left: bool) -> Shifted {
    let bits = size.bits();
    let count = count % bits;
    let (up, down) = if left {
        (count, bits - count)
    } else {
        (bits - count, count)
    };
    let result = if count == 0 {
        value
    } else {
        (shl(value, up) | shr(value, down)) & size.mask()
    };
    let carry = if left {
        bit(result, 0)
    } else {
        sign(result, size)
    };
    (result, carry)
}

/// Rotates through CF by `count`, which is not 0.
fn rotate_through_carry(value: u64, carry: bool, count: u32, size: Size, left: bool) -> Shifted {
    let ring = size.bits() + 1;
    let count = count % ring;
    let up = if left { count } else { ring - count };
    let value = u128::from(value) | u128::from(carry) << size.bits();
    let result = if count == 0 {
        value
    } else {
        value << up | value >> (ring - up)
    };
    (result as u64 & size.mask(), result >> size.bits() & 1 != 0)
}

/// The operation that `number` in the reg field names, by `count`, which is not 0.
fn shift(number: u8, value: u64, carry: bool, count: u32, size: Size) -> (Shifted, u64) {
    let rotates = number < 4;
    let (value, carry) = match number {
        0 => rotate(value, count, size, true),
        1 => rotate(value, count, size, false),
        2 => rotate_through_carry(value, carry, count, size, true),
        3 => rotate_through_carry(value, carry, count, size, false),
        5 => (shr(value, count), bit(value, count - 1)),
        7 => {
            let value = size.sign_extend(value) as i64;
            let result = value >> count.min(63);
            (result as u64 & size.mask(), value >> (count - 1) & 1 != 0)
        }
        // 6 is another encoding of SHL.
        _ => {
            let carry = count <= size.bits() && bit(value, size.bits() - count);
            (shl(value, count) & size.mask(), carry)
        }
    };
    // Defined for a count of 1: whether the sign changes.
    let top = sign(value, size);
    let below = shr(value, size.bits() - 2) & 1 != 0;
    let overflow = match number {
        1 | 3 => top != below,
        // The sign of what was shifted, which is the bit below now.
        5 => below,
        7 => false,
        _ => top != carry,
    };
    let mut flags = when(carry, Rflags::CF) | when(overflow, Rflags::OF);
    if !rotates {
        flags |= flags::of_result(value, size);
    }
    ((value, carry), flags)
}

pub(super) fn execute<M: Machine>(cx: &mut Context<'_, M>) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let number = cx.instruction.reg & 7;
    let count = masked(cx.source(), size);
    let old = cx.read_rm(Intent::Modify)?;
    if count == 0 {
        // Memory is written all the same, and a register is as an operand of its size.
        return cx.write_rm(old);
    }
    let carry = cx.flag(Rflags::CF);
    let ((new, _), flags) = shift(number, old, carry, count, size);
    cx.write_rm(new)?;
    let mask = if number < 4 { ROTATE_FLAGS } else { STATUS };
    cx.set_flags(mask, flags);
    Ok(())
}

pub(super) fn execute_double<M: Machine>(
    cx: &mut Context<'_, M>,
    direction: DoubleShift,
) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let count = match cx.instruction.shape {
        Shape::RmRegCl => cx.machine.gpr(RCX),
        _ => cx.instruction.immediate,
    };
    let count = masked(count, size);
    let old = cx.read_rm(Intent::Modify)?;
    if count == 0 {
        return cx.write_rm(old);
    }
    if count > size.bits() {
        // The result is undefined.
        return Err(Stop::Unknown);
    }
    let other = cx.reg(size);
    let rest = size.bits() - count;
    let (new, carry) = match direction {
        DoubleShift::Left => (shl(old, count) | shr(other, rest), bit(old, rest)),
        DoubleShift::Right => (shr(old, count) | shl(other, rest), bit(old, count - 1)),
    };
    let new = new & size.mask();
    let overflow = sign(old, size) != sign(new, size);
    cx.write_rm(new)?;
    let flags = flags::of_result(new, size) | when(carry, Rflags::CF) | when(overflow, Rflags::OF);
    cx.set_flags(STATUS, flags);
    Ok(())
}
