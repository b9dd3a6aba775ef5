// SPDX-License-Identifier: GPL-2.0

//! MUL, IMUL, DIV and IDIV.

use super::context::{Context, RAX, RDX};
use super::flags::{self, when, STATUS};
use super::instruction::Shape;
use super::machine::{Intent, Machine, Stop};
use super::table::{
    Map::{OneByte, TwoByte},
    Operation, Row, Width,
};
use crate::exception::Exception;
use crate::operand::Size;
use crate::rflags::Rflags;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Multiply {
    /// MUL: RDX:RAX is RAX times the operand.
    Unsigned,
    /// IMUL with one operand.
    Signed,
    /// IMUL with two or three: as large as its operands.
    Truncated,
    /// DIV.
    Divide,
    /// IDIV.
    DivideSigned,
}

const fn unary(opcode: u8, reg: u8, kind: Multiply, width: Width) -> Row {
    Row::new(OneByte, opcode, Operation::Multiply(kind), Shape::Rm, width).reg(reg)
}

const TRUNCATED: Operation = Operation::Multiply(Multiply::Truncated);
const BYTE: Width = Width::Fixed(Size::Byte);

pub(super) const ROWS: &[Row] = &[
    unary(0xf6, 4, Multiply::Unsigned, BYTE),
    unary(0xf7, 4, Multiply::Unsigned, Width::Full),
    unary(0xf6, 5, Multiply::Signed, BYTE),
    unary(0xf7, 5, Multiply::Signed, Width::Full),
    unary(0xf6, 6, Multiply::Divide, BYTE),
    unary(0xf7, 6, Multiply::Divide, Width::Full),
    unary(0xf6, 7, Multiply::DivideSigned, BYTE),
    unary(0xf7, 7, Multiply::DivideSigned, Width::Full),
    Row::new(OneByte, 0x69, TRUNCATED, Shape::RegRmImmediate, Width::Full),
    Row::new(OneByte, 0x6b, TRUNCATED, Shape::RegRmByte, Width::Full),
    Row::new(TwoByte, 0xaf, TRUNCATED, Shape::RegRm, Width::Full),
];

fn signed(value: u64, size: Size) -> i128 {
    i128::from(size.sign_extend(value) as i64)
}

/// Whether `value` is what is left of it in `size`.
fn fits(value: i128, size: Size) -> bool {
    signed(value as u64, size) == value
}

pub(super) fn execute<M: Machine>(cx: &mut Context<'_, M>, kind: Multiply) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let operand = cx.read_rm(Intent::Read)?;
    let (low, overflow) = match kind {
        Multiply::Truncated => {
            let other = match cx.instruction.shape {
                Shape::RegRm => cx.reg(size),
                _ => cx.instruction.immediate,
            };
            let product = signed(operand, size).wrapping_mul(signed(other, size));
            let low = product as u64 & size.mask();
            cx.set_reg(size, low);
            (low, !fits(product, size))
        }
        Multiply::Unsigned => {
            let other = cx.register(RAX, size);
            let product = u128::from(operand).wrapping_mul(u128::from(other));
            set_pair(cx, product);
            (product as u64, product >> size.bits() != 0)
        }
        Multiply::Signed => {
            let other = cx.register(RAX, size);
            let product = signed(operand, size).wrapping_mul(signed(other, size));
            set_pair(cx, product as u128);
            (product as u64, !fits(product, size))
        }
        Multiply::Divide => return divide(cx, operand),
        Multiply::DivideSigned => return divide_signed(cx, operand),
    };
    let carry = when(overflow, Rflags::CF) | when(overflow, Rflags::OF);
    cx.set_flags(STATUS, flags::of_result(low, size) | carry);
    Ok(())
}

/// RDX:RAX, or AH:AL for bytes, which is AX.
fn pair<M: Machine>(cx: &Context<'_, M>) -> u128 {
    let size = cx.instruction.size;
    if size == Size::Byte {
        return cx.register(RAX, Size::Word).into();
    }
    u128::from(cx.register(RDX, size)) << size.bits() | u128::from(cx.register(RAX, size))
}

fn set_pair<M: Machine>(cx: &mut Context<'_, M>, value: u128) {
    let size = cx.instruction.size;
    if size == Size::Byte {
        cx.set_register(RAX, Size::Word, value as u64);
    } else {
        cx.set_register(RAX, size, value as u64);
        cx.set_register(RDX, size, (value >> size.bits()) as u64);
    }
}

/// The quotient goes to the low half of the pair, the remainder to the high one. The flags are
/// undefined.
fn set_quotient<M: Machine>(cx: &mut Context<'_, M>, quotient: u64, remainder: u64) {
    let size = cx.instruction.size;
    let mask = u128::from(size.mask());
    let value = u128::from(remainder) & mask;
    set_pair(cx, value << size.bits() | u128::from(quotient) & mask);
}

/// Quotient and remainder by long division: the kernel has no division of 128 bits. `None` where
/// the divisor is 0 or the quotient has more than 64 bits.
fn divide_wide(dividend: u128, divisor: u64) -> Option<(u64, u64)> {
    let (mut remainder, mut low) = ((dividend >> 64) as u64, dividend as u64);
    if remainder == 0 {
        return Some((low.checked_div(divisor)?, low.checked_rem(divisor)?));
    }
    if remainder >= divisor {
        return None;
    }
    for _ in 0..64 {
        let carry = remainder >> 63 != 0;
        remainder = remainder << 1 | low >> 63;
        low <<= 1;
        if carry || remainder >= divisor {
            remainder = remainder.wrapping_sub(divisor);
            low |= 1;
        }
    }
    Some((low, remainder))
}

fn divide<M: Machine>(cx: &mut Context<'_, M>, divisor: u64) -> Result<(), Stop> {
    match divide_wide(pair(cx), divisor) {
        Some((quotient, remainder)) if quotient & !cx.instruction.size.mask() == 0 => {
            set_quotient(cx, quotient, remainder);
            Ok(())
        }
        _ => Err(Stop::fault(Exception::DivideError)),
    }
}

fn divide_signed<M: Machine>(cx: &mut Context<'_, M>, divisor: u64) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let unused = 128 - 2 * size.bits();
    let dividend = (pair(cx) << unused) as i128 >> unused;
    let divisor = size.sign_extend(divisor) as i64;
    let negative = (dividend < 0) != (divisor < 0);
    let with_sign = |magnitude: u64, negative: bool| {
        let value = i128::from(magnitude);
        if negative {
            -value
        } else {
            value
        }
    };
    match divide_wide(dividend.unsigned_abs(), divisor.unsigned_abs()) {
        Some((quotient, remainder)) if fits(with_sign(quotient, negative), size) => {
            let quotient = with_sign(quotient, negative) as u64;
            // The remainder has the dividend's sign.
            set_quotient(cx, quotient, with_sign(remainder, dividend < 0) as u64);
            Ok(())
        }
        _ => Err(Stop::fault(Exception::DivideError)),
    }
}
