// SPDX-License-Identifier: GPL-2.0

//! MOVS, CMPS, STOS, LODS, SCAS, INS and OUTS, with and without REP (SDM vol. 1, 7.3.9).
//!
//! An element is an instruction of its own: its registers are written before the next one begins,
//! so an exception or an interrupt finds them as the processor would have left them.

use super::context::{Context, RAX, RCX, RDI, RDX, RSI};
use super::flags::{self, STATUS};
use super::instruction::{Shape, REP};
use super::machine::{Intent, Machine, Progress, Stop};
use super::table::{Map::OneByte, Operation, Row, Width};
use crate::addr::Gva;
use crate::operand::{Segment, Size};
use crate::rflags::Rflags;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StringOperation {
    Move,
    Compare,
    Store,
    Load,
    Scan,
    In,
    Out,
}

/// Elements at most before the vCPU's thread looks around.
const MAX_ELEMENTS: u32 = 1024;

const fn row(opcode: u8, operation: StringOperation, width: Width) -> Row {
    let operation = Operation::String(operation);
    Row::new(OneByte, opcode, operation, Shape::Implied, width)
}

const BYTE: Width = Width::Fixed(Size::Byte);

pub(super) const ROWS: &[Row] = &[
    row(0xa4, StringOperation::Move, BYTE),
    row(0xa5, StringOperation::Move, Width::Full),
    row(0xa6, StringOperation::Compare, BYTE),
    row(0xa7, StringOperation::Compare, Width::Full),
    row(0xaa, StringOperation::Store, BYTE),
    row(0xab, StringOperation::Store, Width::Full),
    row(0xac, StringOperation::Load, BYTE),
    row(0xad, StringOperation::Load, Width::Full),
    row(0xae, StringOperation::Scan, BYTE),
    row(0xaf, StringOperation::Scan, Width::Full),
    row(0x6c, StringOperation::In, BYTE),
    row(0x6d, StringOperation::In, Width::UpToDword),
    row(0x6e, StringOperation::Out, BYTE),
    row(0x6f, StringOperation::Out, Width::UpToDword),
];

impl StringOperation {
    const fn uses_source(self) -> bool {
        matches!(self, Self::Move | Self::Compare | Self::Load | Self::Out)
    }

    const fn uses_destination(self) -> bool {
        !matches!(self, Self::Load | Self::Out)
    }

    const fn compares(self) -> bool {
        matches!(self, Self::Compare | Self::Scan)
    }
}

pub(super) fn execute<M: Machine>(
    cx: &mut Context<'_, M>,
    operation: StringOperation,
) -> Result<Progress, Stop> {
    if !cx.instruction.repeats() {
        element(cx, operation)?;
        return Ok(Progress::Done);
    }
    let address_size = cx.instruction.memory.address_size;
    for _ in 0..MAX_ELEMENTS {
        let count = cx.machine.gpr(RCX);
        if count & address_size.mask() == 0 {
            return Ok(Progress::Done);
        }
        element(cx, operation)?;
        let count = address_size.merge(count, count.wrapping_sub(1));
        cx.machine.set_gpr(RCX, count);
        let more = cx.machine.commit();
        if count & address_size.mask() == 0
            || operation.compares() && cx.flag(Rflags::ZF) != cx.instruction.has(REP)
        {
            return Ok(Progress::Done);
        }
        if !more {
            break;
        }
    }
    Ok(Progress::Again)
}

/// Address of the element in DS:RSI, or in the segment of a prefix.
fn source<M: Machine>(cx: &Context<'_, M>) -> Result<Gva, Stop> {
    let memory = &cx.instruction.memory;
    address(cx, memory.segment, RSI, false)
}

/// Address of the element in ES:RDI.
fn destination<M: Machine>(cx: &Context<'_, M>, write: bool) -> Result<Gva, Stop> {
    address(cx, Segment::Es, RDI, write)
}

fn address<M: Machine>(
    cx: &Context<'_, M>,
    segment: Segment,
    register: u8,
    write: bool,
) -> Result<Gva, Stop> {
    let offset = cx.machine.gpr(register) & cx.instruction.memory.address_size.mask();
    let size = cx.instruction.size.bytes() as u64;
    cx.linear(segment, offset, size, size, write)
}

fn element<M: Machine>(cx: &mut Context<'_, M>, operation: StringOperation) -> Result<(), Stop> {
    let size = cx.instruction.size;
    match operation {
        StringOperation::Move => {
            let from = source(cx)?;
            let to = destination(cx, true)?;
            // A device is not to be read for nothing.
            cx.machine.prepare_write(to, size.bytes())?;
            let value = cx.read(from, size, Intent::Read)?;
            cx.write(to, size, value)?;
        }
        StringOperation::Compare => {
            let (from, to) = (source(cx)?, destination(cx, false)?);
            let a = cx.read(from, size, Intent::Read)?;
            let b = cx.read(to, size, Intent::Read)?;
            cx.set_flags(STATUS, flags::sub(a, b, false, size).flags);
        }
        StringOperation::Store => {
            let to = destination(cx, true)?;
            let value = cx.register(RAX, size);
            cx.write(to, size, value)?;
        }
        StringOperation::Load => {
            let from = source(cx)?;
            let value = cx.read(from, size, Intent::Read)?;
            cx.set_register(RAX, size, value);
        }
        StringOperation::Scan => {
            let to = destination(cx, false)?;
            let b = cx.read(to, size, Intent::Read)?;
            let a = cx.register(RAX, size);
            cx.set_flags(STATUS, flags::sub(a, b, false, size).flags);
        }
        StringOperation::In => {
            let to = destination(cx, true)?;
            cx.machine.prepare_write(to, size.bytes())?;
            let port = cx.machine.gpr(RDX) as u16;
            let mut bytes = [0; 8];
            if let Some(bytes) = bytes.get_mut(..size.bytes()) {
                cx.machine.port_read(port, bytes)?;
            }
            cx.write(to, size, u64::from_le_bytes(bytes))?;
        }
        StringOperation::Out => {
            let from = source(cx)?;
            let value = cx.read(from, size, Intent::Read)?;
            let port = cx.machine.gpr(RDX) as u16;
            if let Some(bytes) = value.to_le_bytes().get(..size.bytes()) {
                cx.machine.port_write(port, bytes)?;
            }
        }
    }
    if operation.uses_source() {
        step(cx, RSI);
    }
    if operation.uses_destination() {
        step(cx, RDI);
    }
    Ok(())
}

/// Moves an index register to the next element.
fn step<M: Machine>(cx: &mut Context<'_, M>, register: u8) {
    let distance = cx.instruction.size.bytes() as u64;
    let old = cx.machine.gpr(register);
    let new = if cx.flag(Rflags::DF) {
        old.wrapping_sub(distance)
    } else {
        old.wrapping_add(distance)
    };
    let address_size = cx.instruction.memory.address_size;
    cx.machine.set_gpr(register, address_size.merge(old, new));
}
