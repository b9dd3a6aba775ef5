// SPDX-License-Identifier: GPL-2.0

//! Arithmetic with the flags it leaves (SDM vol. 1, 3.4.3.1 and appendix A).

use crate::operand::Size;
use crate::rflags::Rflags;

/// The status flags.
pub(super) const STATUS: u64 = Rflags::CF
    .union(Rflags::PF)
    .union(Rflags::AF)
    .union(Rflags::ZF)
    .union(Rflags::SF)
    .union(Rflags::OF)
    .bits();

/// The status flags but CF, which INC and DEC leave.
pub(super) const STATUS_WITHOUT_CF: u64 = STATUS & !Rflags::CF.bits();

/// A result and the status flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    pub(super) value: u64,
    pub(super) flags: u64,
}

pub(super) const fn when(condition: bool, flag: Rflags) -> u64 {
    if condition {
        flag.bits()
    } else {
        0
    }
}

/// The highest bit of a value of that size.
pub(super) const fn sign(value: u64, size: Size) -> bool {
    value >> (size.bits() - 1) & 1 != 0
}

/// SF, ZF and PF of a result.
pub(super) const fn of_result(value: u64, size: Size) -> u64 {
    let value = value & size.mask();
    when(sign(value, size), Rflags::SF)
        | when(value == 0, Rflags::ZF)
        | when((value as u8).count_ones() % 2 == 0, Rflags::PF)
}

/// CF, AF and OF by the carries, or borrows, out of each bit.
const fn of_carries(carries: u64, size: Size) -> u64 {
    let top = size.bits() - 1;
    when(carries >> top & 1 != 0, Rflags::CF)
        | when(carries >> 3 & 1 != 0, Rflags::AF)
        | when((carries >> top ^ carries >> (top - 1)) & 1 != 0, Rflags::OF)
}

/// `a + b + carry`.
pub(super) const fn add(a: u64, b: u64, carry: bool, size: Size) -> Outcome {
    let value = a.wrapping_add(b).wrapping_add(carry as u64) & size.mask();
    let carries = a & b | (a | b) & !value;
    Outcome {
        value,
        flags: of_result(value, size) | of_carries(carries, size),
    }
}

/// `a - b - borrow`.
pub(super) const fn sub(a: u64, b: u64, borrow: bool, size: Size) -> Outcome {
    let value = a.wrapping_sub(b).wrapping_sub(borrow as u64) & size.mask();
    let borrows = !a & b | (!a | b) & value;
    Outcome {
        value,
        flags: of_result(value, size) | of_carries(borrows, size),
    }
}

/// The result of AND, OR or XOR: CF and OF clear. AF is undefined.
pub(super) const fn logic(value: u64, size: Size) -> Outcome {
    Outcome {
        value: value & size.mask(),
        flags: of_result(value, size),
    }
}
