// SPDX-License-Identifier: GPL-2.0

//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, NOT, NEG, INC and DEC.

use super::context::Context;
use super::flags::{self, Outcome, STATUS, STATUS_WITHOUT_CF};
use super::instruction::Shape;
use super::machine::{Intent, Machine, Stop};
use super::table::{Map::OneByte, Operation, Row, Width, LOCKABLE, NOT_LONG};
use crate::operand::Size;
use crate::rflags::Rflags;

/// Two operands, as opcodes and ModRM bytes number them; TEST, which they do not, is the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Alu {
    Add = 0,
    Or = 1,
    Adc = 2,
    Sbb = 3,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
    Test = 8,
}

/// One operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unary {
    Inc,
    Dec,
    Not,
    Neg,
}

const ALU: [Alu; 8] = [
    Alu::Add,
    Alu::Or,
    Alu::Adc,
    Alu::Sbb,
    Alu::And,
    Alu::Sub,
    Alu::Xor,
    Alu::Cmp,
];

const fn row(opcode: u8, operation: Operation, shape: Shape, width: Width) -> Row {
    Row::new(OneByte, opcode, operation, shape, width).with(LOCKABLE)
}

const BYTE: Width = Width::Fixed(Size::Byte);

pub(super) const ROWS: &[Row] = &{
    let by_reg = Operation::AluByReg;
    let test = Operation::Alu(Alu::Test);
    let first = row(0x80, by_reg, Shape::RmImmediate, BYTE);
    let mut rows = [first; 50];
    rows[1] = row(0x81, by_reg, Shape::RmImmediate, Width::Full);
    rows[2] = row(0x82, by_reg, Shape::RmImmediate, BYTE).with(NOT_LONG);
    rows[3] = row(0x83, by_reg, Shape::RmByte, Width::Full);
    let tests = [
        Row::new(OneByte, 0x84, test, Shape::RmReg, BYTE),
        Row::new(OneByte, 0x85, test, Shape::RmReg, Width::Full),
        Row::new(OneByte, 0xf6, test, Shape::RmImmediate, BYTE).reg(0),
        Row::new(OneByte, 0xf7, test, Shape::RmImmediate, Width::Full).reg(0),
    ];
    // Another encoding of the same.
    rows[48] = tests[2].reg(1);
    rows[49] = tests[3].reg(1);
    let unary = [
        (0xfe, 0, Unary::Inc),
        (0xfe, 1, Unary::Dec),
        (0xf6, 2, Unary::Not),
        (0xf6, 3, Unary::Neg),
    ];
    let mut at = 0;
    while at < 4 {
        rows[4 + at] = tests[at];
        let (opcode, reg, operation) = unary[at];
        let operation = Operation::Unary(operation);
        rows[8 + 2 * at] = row(opcode, operation, Shape::Rm, BYTE).reg(reg);
        rows[9 + 2 * at] = row(opcode + 1, operation, Shape::Rm, Width::Full).reg(reg);
        at += 1;
    }
    let mut number = 0;
    while number < 8 {
        let operation = Operation::Alu(ALU[number]);
        let opcode = 8 * number as u8;
        let to_memory = number != Alu::Cmp as usize;
        let flags = if to_memory { LOCKABLE } else { 0 };
        let at = 16 + 4 * number;
        rows[at] = Row::new(OneByte, opcode, operation, Shape::RmReg, BYTE).with(flags);
        rows[at + 1] =
            Row::new(OneByte, opcode + 1, operation, Shape::RmReg, Width::Full).with(flags);
        rows[at + 2] = Row::new(OneByte, opcode + 2, operation, Shape::RegRm, BYTE);
        rows[at + 3] = Row::new(OneByte, opcode + 3, operation, Shape::RegRm, Width::Full);
        number += 1;
    }
    rows
};

impl Alu {
    /// The operation with a number below 8.
    pub(super) fn from_number(number: u8) -> Self {
        ALU.get(usize::from(number & 7))
            .copied()
            .unwrap_or(Self::Add)
    }

    fn apply(self, a: u64, b: u64, carry: bool, size: Size) -> Outcome {
        match self {
            Self::Add => flags::add(a, b, false, size),
            Self::Adc => flags::add(a, b, carry, size),
            Self::Sub | Self::Cmp => flags::sub(a, b, false, size),
            Self::Sbb => flags::sub(a, b, carry, size),
            Self::Or => flags::logic(a | b, size),
            Self::And | Self::Test => flags::logic(a & b, size),
            Self::Xor => flags::logic(a ^ b, size),
        }
    }
}

pub(super) fn binary<M: Machine>(cx: &mut Context<'_, M>, alu: Alu) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let carry = cx.flag(Rflags::CF);
    let outcome = if cx.instruction.shape == Shape::RegRm {
        let b = cx.read_rm(Intent::Read)?;
        let outcome = alu.apply(cx.reg(size), b, carry, size);
        if alu != Alu::Cmp {
            cx.set_reg(size, outcome.value);
        }
        outcome
    } else if matches!(alu, Alu::Cmp | Alu::Test) {
        let a = cx.read_rm(Intent::Read)?;
        alu.apply(a, cx.source(), carry, size)
    } else {
        let a = cx.read_rm(Intent::Modify)?;
        let outcome = alu.apply(a, cx.source(), carry, size);
        cx.replace_rm(a, outcome.value)?;
        outcome
    };
    cx.set_flags(STATUS, outcome.flags);
    Ok(())
}

pub(super) fn unary<M: Machine>(cx: &mut Context<'_, M>, unary: Unary) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let a = cx.read_rm(Intent::Modify)?;
    let (outcome, mask) = match unary {
        Unary::Inc => (flags::add(a, 1, false, size), STATUS_WITHOUT_CF),
        Unary::Dec => (flags::sub(a, 1, false, size), STATUS_WITHOUT_CF),
        Unary::Neg => (flags::sub(0, a, false, size), STATUS),
        Unary::Not => (flags::logic(!a, size), 0),
    };
    cx.replace_rm(a, outcome.value)?;
    cx.set_flags(mask, outcome.flags);
    Ok(())
}
