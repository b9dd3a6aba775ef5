// SPDX-License-Identifier: GPL-2.0

//! SETcc and CMOVcc.

use super::context::Context;
use super::instruction::Shape;
use super::machine::{Intent, Machine, Stop};
use super::table::{Map::TwoByte, Operation, Row, Width};
use crate::operand::Size;
use crate::rflags::Rflags;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    Set,
    Move,
}

const SET: Operation = Operation::Condition(Condition::Set);
const MOVE: Operation = Operation::Condition(Condition::Move);

pub(super) const ROWS: &[Row] = &[
    Row::new(TwoByte, 0x40, MOVE, Shape::RegRm, Width::Full).span(16),
    Row::new(TwoByte, 0x90, SET, Shape::Rm, Width::Fixed(Size::Byte)).span(16),
];

/// Whether the condition in an opcode's low four bits holds (SDM vol. 1, appendix B).
pub(super) fn holds(opcode: u8, rflags: u64) -> bool {
    let flag = |flag: Rflags| rflags & flag.bits() != 0;
    let holds = match opcode >> 1 & 7 {
        0 => flag(Rflags::OF),
        1 => flag(Rflags::CF),
        2 => flag(Rflags::ZF),
        3 => flag(Rflags::CF) || flag(Rflags::ZF),
        4 => flag(Rflags::SF),
        5 => flag(Rflags::PF),
        6 => flag(Rflags::SF) != flag(Rflags::OF),
        _ => flag(Rflags::ZF) || flag(Rflags::SF) != flag(Rflags::OF),
    };
    holds != (opcode & 1 != 0)
}

pub(super) fn execute<M: Machine>(cx: &mut Context<'_, M>, kind: Condition) -> Result<(), Stop> {
    let holds = holds(cx.instruction.opcode, cx.machine.rflags());
    match kind {
        Condition::Set => cx.write_rm(holds.into()),
        Condition::Move => {
            let size = cx.instruction.size;
            // The source is read, and the upper half of the register cleared, in either case.
            let value = cx.read_rm(Intent::Read)?;
            let value = if holds { value } else { cx.reg(size) };
            cx.set_reg(size, value);
            Ok(())
        }
    }
}
