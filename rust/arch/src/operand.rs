// SPDX-License-Identifier: GPL-2.0

//! Sizes of operands, addresses and code, and the names of segment registers.

/// What the code segment says of operand and address sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode, and CS.D = 0.
    #[default]
    Bits16,
    /// CS.D = 1.
    Bits32,
    /// CS.L = 1 in long mode.
    Bits64,
}

impl CodeSize {
    /// From CS.L (false outside long mode) and CS.D.
    pub const fn new(long: bool, default_big: bool) -> Self {
        match (long, default_big) {
            (true, _) => Self::Bits64,
            (false, true) => Self::Bits32,
            (false, false) => Self::Bits16,
        }
    }
}

/// Size of an operand or an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Size {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
    /// 64 bits.
    Qword = 8,
}

impl Size {
    /// Bytes of this size.
    #[inline]
    pub const fn bytes(self) -> usize {
        self as usize
    }

    /// Bits of this size.
    #[inline]
    pub const fn bits(self) -> u32 {
        8 * self as u32
    }

    /// The bits a value of this size can have.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    /// `value`, of this size, with its sign bit repeated upwards.
    #[inline]
    pub const fn sign_extend(self, value: u64) -> u64 {
        let unused = 64 - self.bits();
        ((value << unused) as i64 >> unused) as u64
    }

    /// A register that held `old` after a write of `value` in this size: bytes and words leave
    /// the rest alone, doublewords clear the upper half (SDM vol. 1, 3.4.1.1).
    #[inline]
    pub const fn merge(self, old: u64, value: u64) -> u64 {
        match self {
            Self::Byte | Self::Word => (old & !self.mask()) | (value & self.mask()),
            Self::Dword | Self::Qword => value & self.mask(),
        }
    }
}

/// A segment register, numbered as instructions number them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Segment {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

impl Segment {
    /// The register with that number; `None` from 6 on.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            3 => Self::Ds,
            4 => Self::Fs,
            5 => Self::Gs,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_size_follows_cs() {
        let sizes =
            [(false, false), (false, true), (true, false)].map(|(l, d)| CodeSize::new(l, d));
        assert_eq!(
            sizes,
            [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64]
        );
    }

    #[test]
    fn writes_merge_by_size() {
        const OLD: u64 = 0x8877_6655_4433_2211;
        const NEW: u64 = 0xa1a2_a3a4_a5a6_a7a8;
        for (size, merged) in [
            (Size::Byte, 0x8877_6655_4433_22a8),
            (Size::Word, 0x8877_6655_4433_a7a8),
            (Size::Dword, 0xa5a6_a7a8),
            (Size::Qword, NEW),
        ] {
            assert_eq!(size.merge(OLD, NEW), merged);
            assert_eq!(size.sign_extend(size.mask()), u64::MAX);
        }
    }

    #[test]
    fn segments_by_number() {
        for number in 0..=255 {
            match Segment::from_number(number) {
                Some(segment) => assert_eq!(segment as u8, number),
                None => assert!(number > 5),
            }
        }
    }
}
