// SPDX-License-Identifier: GPL-2.0

//! The opcode table: rows that each family of instructions brings, found by opcode.

use super::instruction::Shape;
use super::{alu, bits, condition, exchange, mov, multiply, shift, stack, string, vector};
use crate::operand::Size;

/// What an instruction does, by family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Move(mov::Move),
    Alu(alu::Alu),
    /// The operation is the number in the ModRM byte's reg field.
    AluByReg,
    Unary(alu::Unary),
    ShiftByReg,
    DoubleShift(shift::DoubleShift),
    Multiply(multiply::Multiply),
    Exchange(exchange::Exchange),
    Bit(bits::Bit),
    Condition(condition::Condition),
    Stack(stack::Stack),
    String(string::StringOperation),
    Vector(vector::Vector),
}

/// Which opcodes are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Map {
    OneByte = 0,
    /// After 0F.
    TwoByte = 1,
    /// After 0F 38.
    ThreeByte38 = 2,
}

/// Prefixes that are part of an opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mandatory {
    /// None is: they keep their other meanings.
    Any,
    /// Not F2 or F3.
    NoRepeat,
    /// None of 66, F2 and F3.
    None,
    /// 66, and not F2 or F3.
    P66,
    /// F3.
    F3,
    /// F2.
    F2,
}

/// The size of the r/m operand, of an element, or of what goes on the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    /// Always this.
    Fixed(Size),
    /// By operand-size prefix and REX.W.
    Full,
    /// As `Full`, 4 bytes at most.
    UpToDword,
    /// 8 bytes with REX.W, else 4: an operand-size prefix changes nothing.
    DwordOrQword,
    /// As `Full`, but 8 bytes are the default of 64-bit code.
    Stack,
}

/// LOCK is allowed where the result goes to memory.
pub(super) const LOCKABLE: u8 = 1 << 0;
/// The form with a register for r/m is not emulated.
pub(super) const MEMORY_ONLY: u8 = 1 << 1;
/// In 64-bit code only.
pub(super) const LONG_ONLY: u8 = 1 << 2;
/// Not in 64-bit code.
pub(super) const NOT_LONG: u8 = 1 << 3;
/// With a VEX prefix, too.
pub(super) const OR_VEX: u8 = 1 << 4;
/// Always 128 bits with a VEX prefix.
pub(super) const L0: u8 = 1 << 5;

/// Any value of the ModRM byte's reg field.
const ANY: u8 = 0xff;

/// A row of the table.
#[derive(Clone, Copy)]
pub(super) struct Row {
    map: Map,
    opcode: u8,
    /// Consecutive opcodes from `opcode` on that it stands for.
    span: u8,
    /// The ModRM byte's reg field, or [`ANY`].
    reg: u8,
    mandatory: Mandatory,
    pub(super) operation: Operation,
    pub(super) shape: Shape,
    pub(super) width: Width,
    pub(super) flags: u8,
}

impl Row {
    pub(super) const fn new(
        map: Map,
        opcode: u8,
        operation: Operation,
        shape: Shape,
        width: Width,
    ) -> Self {
        Self {
            map,
            opcode,
            span: 1,
            reg: ANY,
            mandatory: Mandatory::Any,
            operation,
            shape,
            width,
            flags: 0,
        }
    }

    /// For one value of the reg field alone.
    pub(super) const fn reg(self, reg: u8) -> Self {
        Self { reg, ..self }
    }

    /// For so many opcodes in a row.
    pub(super) const fn span(self, span: u8) -> Self {
        Self { span, ..self }
    }

    pub(super) const fn prefix(self, mandatory: Mandatory) -> Self {
        Self { mandatory, ..self }
    }

    pub(super) const fn with(self, flags: u8) -> Self {
        Self {
            flags: self.flags | flags,
            ..self
        }
    }

    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn takes(&self, reg: u8, operand_size: bool, repeat: Option<u8>) -> bool {
        (self.reg == ANY || self.reg == reg)
            && match self.mandatory {
                Mandatory::Any => true,
                Mandatory::NoRepeat => repeat.is_none(),
                Mandatory::None => !operand_size && repeat.is_none(),
                Mandatory::P66 => operand_size && repeat.is_none(),
                Mandatory::F3 => repeat == Some(0xf3),
                Mandatory::F2 => repeat == Some(0xf2),
            }
    }
}

const FAMILIES: [&[Row]; 10] = [
    mov::ROWS,
    alu::ROWS,
    shift::ROWS,
    multiply::ROWS,
    exchange::ROWS,
    bits::ROWS,
    condition::ROWS,
    stack::ROWS,
    string::ROWS,
    vector::ROWS,
];

const COUNT: usize = {
    let mut count = 0;
    let mut family = 0;
    while family < FAMILIES.len() {
        count += FAMILIES[family].len();
        family += 1;
    }
    count
};

/// No row, where the number of one is expected.
const NONE: u8 = 0xff;
const _: () = assert!(COUNT < NONE as usize);

static ROWS: [Row; COUNT] = {
    let mut rows = [mov::ROWS[0]; COUNT];
    let mut at = 0;
    let mut family = 0;
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            rows[at] = FAMILIES[family][row];
            at += 1;
            row += 1;
        }
        family += 1;
    }
    rows
};

struct Index {
    /// The first row for each opcode of each map.
    first: [[u8; 256]; 3],
    /// The next row for the same opcode. Rows that span several opcodes come alone.
    next: [u8; COUNT],
}

static INDEX: Index = {
    let mut index = Index {
        first: [[NONE; 256]; 3],
        next: [NONE; COUNT],
    };
    let mut at = COUNT;
    while at > 0 {
        at -= 1;
        let row = &ROWS[at];
        let mut opcode = row.opcode as usize;
        let end = opcode + row.span as usize;
        while opcode < end {
            let first = &mut index.first[row.map as usize][opcode];
            assert!(row.span == 1 || *first == NONE);
            index.next[at] = *first;
            *first = at as u8;
            opcode += 1;
        }
    }
    index
};

/// The rows for an opcode.
pub(super) struct Rows(u8);

impl Rows {
    pub(super) fn of(map: Map, opcode: u8) -> Self {
        let first = INDEX.first.get(map as usize);
        Self(
            first
                .and_then(|first| first.get(usize::from(opcode)))
                .copied()
                .unwrap_or(NONE),
        )
    }

    /// The first of them, which says whether a ModRM byte follows: they all agree.
    pub(super) fn first(&self) -> Option<&'static Row> {
        ROWS.get(usize::from(self.0))
    }

    /// The one for these prefixes and this reg field.
    pub(super) fn find(
        self,
        reg: u8,
        operand_size: bool,
        repeat: Option<u8>,
    ) -> Option<&'static Row> {
        let mut at = self.0;
        while let Some(row) = ROWS.get(usize::from(at)) {
            if row.takes(reg, operand_size, repeat) {
                return Some(row);
            }
            at = INDEX.next.get(usize::from(at)).copied()?;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_an_opcode_agree_on_modrm() {
        for map in [Map::OneByte, Map::TwoByte, Map::ThreeByte38] {
            for opcode in 0..=255 {
                let rows = Rows::of(map, opcode);
                let mut at = rows.0;
                while let Some(row) = ROWS.get(usize::from(at)) {
                    assert_eq!(
                        row.shape.has_modrm(),
                        rows.first().unwrap().shape.has_modrm(),
                        "{map:?} {opcode:#x}"
                    );
                    at = INDEX.next[usize::from(at)];
                }
            }
        }
    }

    #[test]
    fn every_row_can_be_found() {
        for (number, row) in ROWS.iter().enumerate() {
            let reg = if row.reg == ANY { 0 } else { row.reg };
            let (operand_size, repeat) = match row.mandatory {
                Mandatory::P66 => (true, None),
                Mandatory::F3 => (false, Some(0xf3)),
                Mandatory::F2 => (false, Some(0xf2)),
                _ => (false, None),
            };
            for opcode in row.opcode..=row.opcode + (row.span - 1) {
                let found = Rows::of(row.map, opcode)
                    .find(reg, operand_size, repeat)
                    .unwrap();
                assert!(core::ptr::eq(found, row), "row {number}");
            }
        }
    }
}
