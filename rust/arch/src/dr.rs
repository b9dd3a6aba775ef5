// SPDX-License-Identifier: GPL-2.0

//! Debug registers DR6 and DR7 (SDM vol. 3, 18.2).

use bitflags::bitflags;

bitflags! {
    /// DR6, why a debug exception was raised.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Dr6: u64 {
        /// Breakpoint 0.
        const B0 = 1 << 0;
        /// Breakpoint 1.
        const B1 = 1 << 1;
        /// Breakpoint 2.
        const B2 = 1 << 2;
        /// Breakpoint 3.
        const B3 = 1 << 3;
        /// Clear for a bus lock, set otherwise.
        const BUS_LOCK = 1 << 11;
        /// Access to a debug register while DR7.GD.
        const BD = 1 << 13;
        /// Single step.
        const BS = 1 << 14;
        /// Task switch.
        const BT = 1 << 15;
        /// Clear in a transactional region, set otherwise.
        const RTM = 1 << 16;
    }
}

impl Dr6 {
    /// Reserved bits that read as 1.
    pub const FIXED: u64 = 0xfffe_07f0;
    /// DR6 after reset.
    pub const RESET: u64 = Self::FIXED | Self::BUS_LOCK.bits() | Self::RTM.bits();

    /// A MOV of `value` to DR6: the register's new value, or `None` where it raises #GP. The bits
    /// of features the guest does not have (`bus_lock`, `rtm`) are fixed too.
    pub const fn write(value: u64, bus_lock: bool, rtm: bool) -> Option<u64> {
        if value >> 32 != 0 {
            return None;
        }
        let mut new = (value & Self::all().bits()) | Self::FIXED;
        if !bus_lock {
            new |= Self::BUS_LOCK.bits();
        }
        if !rtm {
            new |= Self::RTM.bits();
        }
        Some(new)
    }
}

bitflags! {
    /// DR7, which breakpoints are enabled; their conditions have bits 31 to 16.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Dr7: u64 {
        /// Breakpoint 0, this task.
        const L0 = 1 << 0;
        /// Breakpoint 0, all tasks.
        const G0 = 1 << 1;
        /// Breakpoint 1, this task.
        const L1 = 1 << 2;
        /// Breakpoint 1, all tasks.
        const G1 = 1 << 3;
        /// Breakpoint 2, this task.
        const L2 = 1 << 4;
        /// Breakpoint 2, all tasks.
        const G2 = 1 << 5;
        /// Breakpoint 3, this task.
        const L3 = 1 << 6;
        /// Breakpoint 3, all tasks.
        const G3 = 1 << 7;
        /// Exact breakpoints, this task.
        const LE = 1 << 8;
        /// Exact breakpoints, all tasks.
        const GE = 1 << 9;
        /// Always set.
        const FIXED = 1 << 10;
        /// Advanced debugging of transactional regions.
        const RTM = 1 << 11;
        /// Accesses to debug registers raise #DB.
        const GD = 1 << 13;
    }
}

/// What triggers a breakpoint: a R/W field of DR7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Execution.
    Execute,
    /// A data write.
    Write,
    /// An I/O access (CR4.DE), reserved otherwise.
    Io,
    /// A data read or write.
    ReadWrite,
}

/// An enabled breakpoint of DR7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Breakpoint {
    /// What triggers it.
    pub condition: Condition,
    /// Bytes it covers: 1, 2, 4 or 8.
    pub length: u8,
}

impl Dr7 {
    /// DR7 after reset.
    pub const RESET: u64 = Self::FIXED.bits();
    /// Bits software can change.
    pub const WRITABLE: u64 = 0xffff_2bff;
    /// The enable bits of all breakpoints.
    pub const ENABLED: u64 = 0xff;

    /// A MOV of `value` to DR7: the register's new value, or `None` where it raises #GP.
    pub const fn write(value: u64) -> Option<u64> {
        if value >> 32 != 0 {
            return None;
        }
        Some((value & Self::WRITABLE) | Self::FIXED.bits())
    }

    /// Breakpoint `index` (0 to 3) of the DR7 value `dr7`, if it is enabled.
    pub const fn breakpoint(dr7: u64, index: u32) -> Option<Breakpoint> {
        if index > 3 || (dr7 >> (2 * index)) & 3 == 0 {
            return None;
        }
        let field = dr7 >> (16 + 4 * index);
        let condition = match field & 3 {
            0 => Condition::Execute,
            1 => Condition::Write,
            2 => Condition::Io,
            _ => Condition::ReadWrite,
        };
        let length = match (field >> 2) & 3 {
            0 => 1,
            1 => 2,
            2 => 8,
            _ => 4,
        };
        Some(Breakpoint { condition, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_values_are_the_manual_s() {
        assert_eq!((Dr6::RESET, Dr7::RESET), (0xffff_0ff0, 0x400));
        assert_eq!(Dr6::write(0, false, false), Some(Dr6::RESET));
        assert_eq!(Dr7::write(0), Some(Dr7::RESET));
    }

    #[test]
    fn the_upper_half_is_reserved() {
        for bit in 0..64 {
            assert_eq!(Dr6::write(1 << bit, true, true).is_some(), bit < 32);
            assert_eq!(Dr7::write(1 << bit).is_some(), bit < 32);
        }
    }

    #[test]
    fn only_changeable_bits_change() {
        assert_eq!(Dr6::write(0, true, true), Some(0xfffe_07f0));
        assert_eq!(Dr6::write(0xffff_ffff, true, true), Some(0xffff_eff0 | 0xf));
        assert_eq!(Dr6::write(0, true, false), Some(0xffff_07f0));
        assert_eq!(Dr6::write(0, false, true), Some(0xfffe_0ff0));
        assert_eq!(Dr7::write(0xffff_ffff), Some(0xffff_2fff));
    }

    #[test]
    fn breakpoints_are_read_from_their_fields() {
        let dr7 = 0x400 | (1 << 0) | (2 << 6) | (0b1101 << 16) | (0b1011 << 28);
        let first = Breakpoint {
            condition: Condition::Write,
            length: 4,
        };
        let last = Breakpoint {
            condition: Condition::ReadWrite,
            length: 8,
        };
        assert_eq!(Dr7::breakpoint(dr7, 0), Some(first));
        assert_eq!(Dr7::breakpoint(dr7, 1), None);
        assert_eq!(Dr7::breakpoint(dr7, 3), Some(last));
        assert_eq!(Dr7::breakpoint(u64::MAX, 4), None);
        let io = Dr7::breakpoint(0x402 | (0b0110 << 16), 0);
        assert_eq!(
            io,
            Some(Breakpoint {
                condition: Condition::Io,
                length: 2
            })
        );
        let execute = Dr7::breakpoint(1, 0);
        assert_eq!(
            execute,
            Some(Breakpoint {
                condition: Condition::Execute,
                length: 1
            })
        );
    }
}
