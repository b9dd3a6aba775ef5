// SPDX-License-Identifier: GPL-2.0

//! Instructions executed in place of the processor: those that touch a device, memory that the
//! guest may only read, or an APIC page, and string I/O.
//!
//! [`decode`] reads an instruction by a table to which each family of instructions brings its
//! rows; [`execute`] carries it out on a [`Machine`]. What the table does not have is
//! [`DecodeError::Unknown`]: there is no guess here that could be wrong. A call does a bounded
//! amount of work: a repeated string instruction comes back from time to time with
//! [`Progress::Again`].
//!
//! | file | instructions (SDM vol. 2) |
//! | --- | --- |
//! | `mov` | MOV, MOVZX, MOVSX, MOVSXD, MOVBE, MOVNTI, MOVDIRI |
//! | `alu` | ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NOT, NEG |
//! | `shift` | ROL, ROR, RCL, RCR, SHL, SHR, SAR, SHLD, SHRD |
//! | `multiply` | MUL, IMUL, DIV, IDIV |
//! | `exchange` | XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B |
//! | `bits` | BT, BTS, BTR, BTC |
//! | `condition` | SETcc, CMOVcc |
//! | `stack` | PUSH, POP |
//! | `string` | MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS with REP |
//! | `vector` | MOVUPS, MOVAPS, MOVDQU, MOVDQA, MOVSS, MOVSD, MOVD, MOVQ and more, with and without VEX |

mod alu;
mod bits;
mod condition;
mod context;
mod decoder;
mod exchange;
mod flags;
mod instruction;
mod machine;
mod mov;
mod multiply;
mod shift;
mod stack;
mod string;
mod table;
mod vector;

pub use decoder::{decode, DecodeError};
pub use instruction::{Instruction, Memory, Rm};
pub use machine::{Fault, Intent, Machine, Progress, Stop};

use context::Context;
use table::Operation;

/// The longest instruction, in bytes.
pub const MAX_LENGTH: usize = 15;

/// The longest operand in memory, in bytes.
pub const MAX_OPERAND: usize = 32;

/// Executes an instruction. RIP is the caller's to move on, and so are the flags RF and TF.
///
/// Nothing has changed where this stops, or, of a repeated string instruction, nothing after its
/// last whole element.
pub fn execute<M: Machine>(instruction: &Instruction, machine: &mut M) -> Result<Progress, Stop> {
    let cx = &mut Context::new(machine, instruction);
    match instruction.operation {
        Operation::Move(kind) => mov::execute(cx, kind),
        Operation::Alu(operation) => alu::binary(cx, operation),
        Operation::AluByReg => alu::binary(cx, alu::Alu::from_number(instruction.reg)),
        Operation::Unary(operation) => alu::unary(cx, operation),
        Operation::ShiftByReg => shift::execute(cx),
        Operation::DoubleShift(direction) => shift::execute_double(cx, direction),
        Operation::Multiply(kind) => multiply::execute(cx, kind),
        Operation::Exchange(kind) => exchange::execute(cx, kind),
        Operation::Bit(bit) => bits::execute(cx, bit),
        Operation::Condition(kind) => condition::execute(cx, kind),
        Operation::Stack(stack) => stack::execute(cx, stack),
        Operation::String(operation) => return string::execute(cx, operation),
        Operation::Vector(vector) => vector::execute(cx, vector),
    }?;
    Ok(Progress::Done)
}

#[cfg(test)]
mod tests;
