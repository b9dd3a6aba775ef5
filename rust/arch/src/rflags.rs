// SPDX-License-Identifier: GPL-2.0

//! RFLAGS (SDM vol. 1, 3.4.3).

use bitflags::bitflags;

bitflags! {
    /// RFLAGS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always set.
        const FIXED = 1 << 1;
        /// Parity.
        const PF = 1 << 2;
        /// Auxiliary carry.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Single-step trap.
        const TF = 1 << 8;
        /// Interrupts enabled.
        const IF = 1 << 9;
        /// String instructions go down.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, both bits.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume: no instruction breakpoint on the next instruction.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check, and access control under SMAP.
        const AC = 1 << 18;
        /// Virtual interrupt flag.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID can be used where this can be changed.
        const ID = 1 << 21;
    }
}

impl Rflags {
    /// RFLAGS after reset.
    pub const RESET: Self = Self::FIXED;

    /// `value` as the register holds it: bit 1 set, reserved bits clear.
    pub const fn from_register(value: u64) -> Self {
        Self::from_bits_truncate(value).union(Self::FIXED)
    }

    /// I/O privilege level, 0 to 3.
    pub const fn iopl(self) -> u8 {
        ((self.bits() >> 12) & 3) as u8
    }

    /// Whether VM entry accepts `value` (SDM vol. 3, 27.3.1.4): bit 1 set, reserved bits clear.
    pub const fn is_valid(value: u64) -> bool {
        Self::from_register(value).bits() == value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bits_are_dropped_and_bit_1_is_set() {
        assert_eq!(Rflags::from_register(0), Rflags::RESET);
        assert_eq!(Rflags::from_register(u64::MAX).bits(), 0x3f_7fd7);
    }

    #[test]
    fn validity_is_bit_by_bit() {
        assert!(Rflags::is_valid(2) && !Rflags::is_valid(0));
        for bit in (0..64).filter(|bit| *bit != 1) {
            let reserved = [3, 5, 15].contains(&bit) || bit > 21;
            assert_eq!(Rflags::is_valid(2 | (1 << bit)), !reserved, "bit {bit}");
        }
    }

    #[test]
    fn iopl_is_two_bits() {
        assert_eq!(
            [0x0002, 0x1002, 0x2002, 0x3002].map(|value| Rflags::from_register(value).iopl()),
            [0, 1, 2, 3]
        );
    }
}
