// SPDX-License-Identifier: GPL-2.0

//! PUSH and POP.

use super::context::{Context, RSP};
use super::instruction::{Rm, Shape};
use super::machine::{Intent, Machine, Stop};
use super::table::{Map::OneByte, Operation, Row, Width};
use crate::addr::Gva;
use crate::operand::{Segment, Size};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stack {
    Push,
    Pop,
}

const fn row(opcode: u8, stack: Stack, shape: Shape) -> Row {
    let operation = Operation::Stack(stack);
    Row::new(OneByte, opcode, operation, shape, Width::Stack)
}

pub(super) const ROWS: &[Row] = &[
    row(0x50, Stack::Push, Shape::Opcode).span(8),
    row(0x58, Stack::Pop, Shape::Opcode).span(8),
    row(0x68, Stack::Push, Shape::Immediate),
    row(0x6a, Stack::Push, Shape::Byte),
    row(0xff, Stack::Push, Shape::Rm).reg(6),
    row(0x8f, Stack::Pop, Shape::Rm).reg(0),
];

/// How much of RSP is used (SDM vol. 1, 6.2.3).
fn address_size<M: Machine>(cx: &Context<'_, M>) -> Size {
    if cx.is_64_bit() {
        Size::Qword
    } else if cx.machine.segment(Segment::Ss).rights.is_default_big() {
        Size::Dword
    } else {
        Size::Word
    }
}

/// Linear address of what lies `offset` from the top of the stack.
fn top<M: Machine>(cx: &Context<'_, M>, offset: u64, write: bool) -> Result<Gva, Stop> {
    let size = cx.instruction.size.bytes() as u64;
    let offset = cx.machine.gpr(RSP).wrapping_add(offset) & address_size(cx).mask();
    cx.linear(Segment::Ss, offset, size, size, write)
}

fn move_top<M: Machine>(cx: &mut Context<'_, M>, distance: u64) {
    let old = cx.machine.gpr(RSP);
    let new = address_size(cx).merge(old, old.wrapping_add(distance));
    cx.machine.set_gpr(RSP, new);
}

pub(super) fn execute<M: Machine>(cx: &mut Context<'_, M>, stack: Stack) -> Result<(), Stop> {
    match stack {
        Stack::Push => push(cx),
        Stack::Pop => pop(cx),
    }
}

fn push<M: Machine>(cx: &mut Context<'_, M>) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let down = (size.bytes() as u64).wrapping_neg();
    let value = match cx.instruction.shape {
        Shape::Opcode => cx.reg(size),
        Shape::Rm => {
            if cx.instruction.rm == Rm::Memory {
                // A device is not to be read for nothing.
                let to = top(cx, down, true)?;
                cx.machine.prepare_write(to, size.bytes())?;
            }
            cx.read_rm(Intent::Read)?
        }
        _ => cx.instruction.immediate,
    };
    let to = top(cx, down, true)?;
    cx.write(to, size, value)?;
    move_top(cx, down);
    Ok(())
}

fn pop<M: Machine>(cx: &mut Context<'_, M>) -> Result<(), Stop> {
    let size = cx.instruction.size;
    let bytes = size.bytes() as u64;
    let from = top(cx, 0, false)?;
    if cx.instruction.shape == Shape::Opcode {
        let value = cx.read(from, size, Intent::Read)?;
        move_top(cx, bytes);
        // Last, for it may be RSP.
        cx.set_reg(size, value);
        return Ok(());
    }
    if cx.instruction.rm == Rm::Memory {
        // An address with RSP in it takes RSP as it is after the POP.
        cx.stack_offset = bytes;
        let to = cx.address(bytes, bytes, true)?;
        cx.machine.prepare_write(to, size.bytes())?;
        let value = cx.read(from, size, Intent::Read)?;
        cx.write_rm(value)?;
        move_top(cx, bytes);
    } else {
        let value = cx.read(from, size, Intent::Read)?;
        move_top(cx, bytes);
        cx.write_rm(value)?;
    }
    Ok(())
}
