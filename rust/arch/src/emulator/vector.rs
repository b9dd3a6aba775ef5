// SPDX-License-Identifier: GPL-2.0

//! SSE and AVX moves between a vector register and memory.

use super::context::Context;
use super::instruction::{Rm, Shape, VEX, VEX_256};
use super::machine::{Intent, Machine, Stop};
use super::table::{
    Mandatory::{self, F2, F3, P66},
    Map::{self, ThreeByte38, TwoByte},
    Operation, Row, Width, L0, MEMORY_ONLY, OR_VEX,
};
use crate::control_regs::{Cr0, Cr4};
use crate::exception::Exception;
use crate::operand::Size;
use crate::rflags::Rflags;

/// How much of the register is moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Vector {
    /// All of it, at any address.
    Unaligned,
    /// All of it, at an address that is a multiple of its size.
    Aligned,
    /// The low part, of the operand's size. A load clears the rest.
    Low,
    /// Bits 127 to 64. A load leaves the others. Without VEX.
    High,
    /// Bits 63 to 0. A load leaves the others. Without VEX.
    LowHalf,
}

const fn row(map: Map, opcode: u8, vector: Vector, shape: Shape, prefix: Mandatory) -> Row {
    let width = Width::Fixed(Size::Qword);
    Row::new(map, opcode, Operation::Vector(vector), shape, width)
        .prefix(prefix)
        .with(MEMORY_ONLY | OR_VEX)
}

const fn load(opcode: u8, vector: Vector, prefix: Mandatory) -> Row {
    row(TwoByte, opcode, vector, Shape::RegRm, prefix)
}

const fn store(opcode: u8, vector: Vector, prefix: Mandatory) -> Row {
    row(TwoByte, opcode, vector, Shape::RmReg, prefix)
}

/// A part of an XMM register whose size the opcode says.
const fn low(opcode: u8, shape: Shape, prefix: Mandatory, width: Width) -> Row {
    let operation = Operation::Vector(Vector::Low);
    Row::new(TwoByte, opcode, operation, shape, width)
        .prefix(prefix)
        .with(MEMORY_ONLY | OR_VEX | L0)
}

/// MOVSS and MOVSD, whose VEX.L is ignored.
const fn scalar(opcode: u8, shape: Shape, prefix: Mandatory, size: Size) -> Row {
    let operation = Operation::Vector(Vector::Low);
    Row::new(TwoByte, opcode, operation, shape, Width::Fixed(size))
        .prefix(prefix)
        .with(MEMORY_ONLY | OR_VEX)
}

/// MOVLPS, MOVHPS and their like. Their VEX forms load two registers and are not emulated.
const fn half(opcode: u8, vector: Vector, shape: Shape, prefix: Mandatory) -> Row {
    let width = Width::Fixed(Size::Qword);
    Row::new(TwoByte, opcode, Operation::Vector(vector), shape, width)
        .prefix(prefix)
        .with(MEMORY_ONLY)
}

const NP: Mandatory = Mandatory::None;

pub(super) const ROWS: &[Row] = &[
    load(0x10, Vector::Unaligned, NP),
    load(0x10, Vector::Unaligned, P66),
    scalar(0x10, Shape::RegRm, F3, Size::Dword),
    scalar(0x10, Shape::RegRm, F2, Size::Qword),
    store(0x11, Vector::Unaligned, NP),
    store(0x11, Vector::Unaligned, P66),
    scalar(0x11, Shape::RmReg, F3, Size::Dword),
    scalar(0x11, Shape::RmReg, F2, Size::Qword),
    half(0x12, Vector::LowHalf, Shape::RegRm, NP),
    half(0x12, Vector::LowHalf, Shape::RegRm, P66),
    half(0x13, Vector::LowHalf, Shape::RmReg, NP),
    half(0x13, Vector::LowHalf, Shape::RmReg, P66),
    half(0x16, Vector::High, Shape::RegRm, NP),
    half(0x16, Vector::High, Shape::RegRm, P66),
    half(0x17, Vector::High, Shape::RmReg, NP),
    half(0x17, Vector::High, Shape::RmReg, P66),
    load(0x28, Vector::Aligned, NP),
    load(0x28, Vector::Aligned, P66),
    store(0x29, Vector::Aligned, NP),
    store(0x29, Vector::Aligned, P66),
    store(0x2b, Vector::Aligned, NP),
    store(0x2b, Vector::Aligned, P66),
    load(0x6f, Vector::Aligned, P66),
    load(0x6f, Vector::Unaligned, F3),
    store(0x7f, Vector::Aligned, P66),
    store(0x7f, Vector::Unaligned, F3),
    store(0xe7, Vector::Aligned, P66),
    load(0xf0, Vector::Unaligned, F2),
    row(ThreeByte38, 0x2a, Vector::Aligned, Shape::RegRm, P66),
    low(0x6e, Shape::RegRm, P66, Width::DwordOrQword),
    low(0x7e, Shape::RmReg, P66, Width::DwordOrQword),
    low(0x7e, Shape::RegRm, F3, Width::Fixed(Size::Qword)),
    low(0xd6, Shape::RmReg, P66, Width::Fixed(Size::Qword)),
];

const XCR0_SSE_AVX: u64 = 0b110;

/// Whether the state that the instruction uses is enabled (SDM vol. 2, tables 2-18 to 2-21).
fn check_enabled<M: Machine>(cx: &Context<'_, M>) -> Result<(), Stop> {
    let (cr0, cr4) = (cx.machine.cr0(), cx.machine.cr4());
    let enabled = if cx.instruction.has(VEX) {
        cr4.contains(Cr4::OSXSAVE)
            && cx.machine.xcr0() & XCR0_SSE_AVX == XCR0_SSE_AVX
            && cr0.contains(Cr0::PE)
            && !cx.flag(Rflags::VM)
    } else {
        cr4.contains(Cr4::OSFXSR) && !cr0.contains(Cr0::EM)
    };
    if !enabled {
        Err(Stop::fault(Exception::InvalidOpcode))
    } else if cr0.contains(Cr0::TS) {
        Err(Stop::fault(Exception::DeviceNotAvailable))
    } else {
        Ok(())
    }
}

pub(super) fn execute<M: Machine>(cx: &mut Context<'_, M>, vector: Vector) -> Result<(), Stop> {
    check_enabled(cx)?;
    if cx.instruction.rm != Rm::Memory {
        return Err(Stop::Unknown);
    }
    let whole = matches!(vector, Vector::Unaligned | Vector::Aligned);
    let len = match (whole, cx.instruction.has(VEX_256)) {
        (true, true) => 32,
        (true, false) => 16,
        _ => cx.instruction.size.bytes(),
    };
    let write = cx.instruction.shape == Shape::RmReg;
    // Alignment checks are for the parts; where alignment is demanded of the whole it is #GP.
    let alignment = if whole { 1 } else { len as u64 };
    let address = cx.address(len as u64, alignment, write)?;
    if vector == Vector::Aligned && address.0 & (len as u64 - 1) != 0 {
        return Err(Stop::fault(Exception::GeneralProtection));
    }

    let register = cx.instruction.reg;
    let mut bytes = [0; 32];
    if write {
        let value = cx.machine.xmm(register);
        let value = if vector == Vector::High {
            value >> 64
        } else {
            value
        };
        put(&mut bytes, 0, value);
        if len == 32 {
            put(&mut bytes, 16, cx.machine.ymm_high(register));
        }
        return match bytes.get(..len) {
            Some(bytes) => cx.machine.write(address, bytes),
            None => Err(Stop::Unknown),
        };
    }

    let Some(part) = bytes.get_mut(..len) else {
        return Err(Stop::Unknown);
    };
    cx.machine.read(address, part, Intent::Read)?;
    let value = get(&bytes, 0);
    let value = match vector {
        Vector::High => cx.machine.xmm(register) & u128::from(u64::MAX) | value << 64,
        Vector::LowHalf => cx.machine.xmm(register) & !u128::from(u64::MAX) | value,
        _ => value,
    };
    cx.machine.set_xmm(register, value);
    // With VEX the part above is cleared, without it is left.
    if cx.instruction.has(VEX) {
        cx.machine.set_ymm_high(register, get(&bytes, 16));
    }
    Ok(())
}

fn put(bytes: &mut [u8; 32], at: usize, value: u128) {
    if let Some(part) = bytes.get_mut(at..at + 16) {
        part.copy_from_slice(&value.to_le_bytes());
    }
}

fn get(bytes: &[u8; 32], at: usize) -> u128 {
    let mut part = [0; 16];
    if let Some(from) = bytes.get(at..at + 16) {
        part.copy_from_slice(from);
    }
    u128::from_le_bytes(part)
}
