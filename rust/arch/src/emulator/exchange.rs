// SPDX-License-Identifier: GPL-2.0

//! XCHG, XADD, CMPXCHG, CMPXCHG8B and CMPXCHG16B.

use super::context::{Context, RAX, RBX, RCX, RDX};
use super::flags::{self, STATUS};
use super::instruction::{Shape, LOCK, WIDE};
use super::machine::{Intent, Machine, Stop};
use super::table::{
    Map::{OneByte, TwoByte},
    Operation, Row, Width, LOCKABLE, MEMORY_ONLY,
};
use crate::exception::Exception;
use crate::operand::Size;
use crate::rflags::Rflags;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exchange {
    /// XCHG.
    Plain,
    /// XADD.
    Add,
    /// CMPXCHG.
    Compare,
    /// CMPXCHG8B, and CMPXCHG16B with REX.W.
    Pair,
}

const fn one(opcode: u8, kind: Exchange, width: Width) -> Row {
    let operation = Operation::Exchange(kind);
    Row::new(OneByte, opcode, operation, Shape::RmReg, width).with(LOCKABLE)
}

const fn two(opcode: u8, kind: Exchange, width: Width) -> Row {
    let operation = Operation::Exchange(kind);
    Row::new(TwoByte, opcode, operation, Shape::RmReg, width).with(LOCKABLE)
}

const BYTE: Width = Width::Fixed(Size::Byte);

pub(super) const ROWS: &[Row] = &[
    one(0x86, Exchange::Plain, BYTE),
    one(0x87, Exchange::Plain, Width::Full),
    two(0xc0, Exchange::Add, BYTE),
    two(0xc1, Exchange::Add, Width::Full),
    two(0xb0, Exchange::Compare, BYTE),
    two(0xb1, Exchange::Compare, Width::Full),
    two(0xc7, Exchange::Pair, Width::DwordOrQword)
        .reg(1)
        .with(MEMORY_ONLY),
];

pub(super) fn execute<M: Machine>(cx: &mut Context<'_, M>, kind: Exchange) -> Result<(), Stop> {
    let size = cx.instruction.size;
    if kind == Exchange::Pair {
        return pair(cx);
    }
    let old = cx.read_rm(Intent::Modify)?;
    let reg = cx.reg(size);
    match kind {
        Exchange::Add => {
            let sum = flags::add(old, reg, false, size);
            if cx.instruction.memory_operand().is_some() {
                cx.replace_rm(old, sum.value)?;
                cx.set_reg(size, old);
            } else {
                // Where both are one register the sum stays.
                cx.set_reg(size, old);
                cx.write_rm(sum.value)?;
            }
            cx.set_flags(STATUS, sum.flags);
        }
        Exchange::Compare => {
            let accumulator = cx.register(RAX, size);
            let compared = flags::sub(accumulator, old, false, size);
            let equal = compared.value == 0;
            // Memory is written in either case.
            if equal {
                cx.replace_rm(old, reg)?;
            } else {
                if cx.instruction.memory_operand().is_some() {
                    cx.replace_rm(old, old)?;
                }
                cx.set_register(RAX, size, old);
            }
            cx.set_flags(STATUS, compared.flags);
        }
        // XCHG with memory is locked with the prefix and without.
        _ => {
            cx.exchange_rm(old, reg)?;
            cx.set_reg(size, old);
        }
    }
    Ok(())
}

/// CMPXCHG8B compares EDX:EAX and stores ECX:EBX; CMPXCHG16B the same with 64-bit registers.
fn pair<M: Machine>(cx: &mut Context<'_, M>) -> Result<(), Stop> {
    let half = if cx.instruction.has(WIDE) {
        Size::Qword
    } else {
        Size::Dword
    };
    let len = 2 * half.bytes();
    let address = cx.address(len as u64, len as u64, true)?;
    if half == Size::Qword && address.0 & 15 != 0 {
        return Err(Stop::fault(Exception::GeneralProtection));
    }
    let value = |cx: &Context<'_, M>, low: u8, high: u8| {
        u128::from(cx.register(high, half)) << half.bits() | u128::from(cx.register(low, half))
    };

    let mut bytes = [0; 16];
    let Some(part) = bytes.get_mut(..len) else {
        return Err(Stop::Unknown);
    };
    cx.machine.read(address, part, Intent::Modify)?;
    let old = u128::from_le_bytes(bytes);
    let equal = old == value(cx, RAX, RDX);
    let new = if equal { value(cx, RBX, RCX) } else { old };
    let new = new.to_le_bytes();
    let (Some(old_bytes), Some(new_bytes)) = (bytes.get(..len), new.get(..len)) else {
        return Err(Stop::Unknown);
    };
    if cx.instruction.has(LOCK) {
        cx.machine.compare_exchange(address, old_bytes, new_bytes)?;
    } else {
        cx.machine.write(address, new_bytes)?;
    }
    if !equal {
        cx.set_register(RAX, half, old as u64);
        cx.set_register(RDX, half, (old >> half.bits()) as u64);
    }
    cx.set_flags(Rflags::ZF.bits(), if equal { Rflags::ZF.bits() } else { 0 });
    Ok(())
}
