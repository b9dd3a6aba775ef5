// SPDX-License-Identifier: GPL-2.0

//! kvmclock: structures that a guest reads its time from, and the arithmetic it does with them
//! (Linux, `Documentation/virt/kvm/x86/msr.rst`, MSR_KVM_SYSTEM_TIME_NEW and MSR_KVM_WALL_CLOCK_NEW).
//!
//! A guest computes `system_time + scale(TSC - tsc_timestamp)`. Whoever writes the structure makes
//! `version` odd before it touches the rest and even afterwards; whoever reads it looks at `version`
//! before and after.

#[cfg(test)]
mod tests;

/// Nanoseconds in a second.
pub const NSEC_PER_SEC: u64 = 1_000_000_000;

/// The structure can be used across processors: all clocks of the machine are one.
pub const TSC_STABLE: u8 = 1 << 0;
/// The guest was paused by its host; the guest clears this.
pub const GUEST_STOPPED: u8 = 1 << 1;

/// A ratio of two frequencies as guests compute with it: shift left by `shift`, or right where it is
/// negative, then multiply by `multiplier / 2^32`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scale {
    /// A binary fraction. Its highest bit is set in what [`Self::new`] makes.
    pub multiplier: u32,
    /// Power of two that goes with it.
    pub shift: i8,
}

impl Scale {
    /// Turns ticks of a clock of `from` Hz into ticks of one of `to` Hz. Frequencies of 0 count as
    /// 1 Hz, those above 2^60 Hz as that.
    pub const fn new(to: u64, from: u64) -> Self {
        let (mut numerator, mut denominator) = (frequency(to), frequency(from));
        let mut shift = 0i8;
        while numerator >= denominator {
            denominator <<= 1;
            shift += 1;
        }
        while numerator << 1 < denominator {
            numerator <<= 1;
            shift -= 1;
        }
        // Division bit by bit: the quotient is below 1, and 128-bit division is not to be had.
        let mut multiplier = 0;
        let mut bit = 0;
        while bit < u32::BITS {
            numerator <<= 1;
            multiplier <<= 1;
            if numerator >= denominator {
                numerator -= denominator;
                multiplier |= 1;
            }
            bit += 1;
        }
        Self { multiplier, shift }
    }

    /// Turns ticks of a counter of `khz` kHz into nanoseconds.
    pub const fn to_nanoseconds(khz: u32) -> Self {
        Self::new(NSEC_PER_SEC, khz as u64 * 1000)
    }

    /// Turns nanoseconds into ticks of a counter of `khz` kHz.
    pub const fn from_nanoseconds(khz: u32) -> Self {
        Self::new(khz as u64 * 1000, NSEC_PER_SEC)
    }

    /// Scales a number of ticks, with the guest's own rounding. What does not fit is lost.
    pub const fn apply(self, ticks: u64) -> u64 {
        let by = self.shift.unsigned_abs() as u32;
        let shifted = if self.shift < 0 {
            match ticks.checked_shr(by) {
                Some(shifted) => shifted,
                None => 0,
            }
        } else {
            match ticks.checked_shl(by) {
                Some(shifted) => shifted,
                None => 0,
            }
        };
        ((shifted as u128 * self.multiplier as u128) >> 32) as u64
    }
}

/// A frequency that [`Scale::new`] can compute with.
const fn frequency(hz: u64) -> u64 {
    const MAX: u64 = 1 << 60;
    if hz == 0 {
        1
    } else if hz > MAX {
        MAX
    } else {
        hz
    }
}

/// A moment on two clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    /// A time-stamp counter.
    pub tsc: u64,
    /// Nanoseconds.
    pub ns: u64,
}

impl Moment {
    /// Nanoseconds when the counter reads `tsc`, which may be before this moment.
    pub const fn at(self, tsc: u64, scale: Scale) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc);
        if ticks >> 63 == 0 {
            self.ns.wrapping_add(scale.apply(ticks))
        } else {
            self.ns.wrapping_sub(scale.apply(ticks.wrapping_neg()))
        }
    }
}

/// The version that says that the structure is being written, after `old`.
pub const fn version_begin(old: u32) -> u32 {
    old.wrapping_add(1) | 1
}

/// The version that says that it is whole again, after [`version_begin`].
pub const fn version_end(begun: u32) -> u32 {
    begun.wrapping_add(1)
}

/// What a guest reads the time from, but for the version (`struct pvclock_vcpu_time_info`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VcpuTime {
    /// The guest's counter and its clock at one moment.
    pub moment: Moment,
    /// Turns ticks since then into nanoseconds.
    pub scale: Scale,
    /// [`TSC_STABLE`] and [`GUEST_STOPPED`].
    pub flags: u8,
}

impl VcpuTime {
    /// Bytes of the structure.
    pub const SIZE: usize = 32;
    /// Where the flags are in it.
    pub const FLAGS: usize = 29;
    /// Where what follows the version begins.
    pub const BODY: usize = 4;

    /// The structure from [`Self::BODY`] on.
    pub fn body(&self) -> [u8; Self::SIZE - Self::BODY] {
        let mut bytes = [0; Self::SIZE - Self::BODY];
        put(&mut bytes, 4, &self.moment.tsc.to_le_bytes());
        put(&mut bytes, 12, &self.moment.ns.to_le_bytes());
        put(&mut bytes, 20, &self.scale.multiplier.to_le_bytes());
        put(&mut bytes, 24, &self.scale.shift.to_le_bytes());
        put(&mut bytes, 25, &[self.flags]);
        bytes
    }
}

/// The time of day when the guest's clock read 0, but for the version
/// (`struct pvclock_wall_clock`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WallClock {
    /// Nanoseconds since 1970.
    pub epoch: u64,
}

impl WallClock {
    /// Bytes of the structure.
    pub const SIZE: usize = 12;
    /// Where what follows the version begins.
    pub const BODY: usize = 4;

    /// The structure from [`Self::BODY`] on: seconds, which wrap in 2106, and nanoseconds.
    pub fn body(&self) -> [u8; Self::SIZE - Self::BODY] {
        let seconds = (self.epoch / NSEC_PER_SEC) as u32;
        let nanoseconds = (self.epoch % NSEC_PER_SEC) as u32;
        let mut bytes = [0; Self::SIZE - Self::BODY];
        put(&mut bytes, 0, &seconds.to_le_bytes());
        put(&mut bytes, 4, &nanoseconds.to_le_bytes());
        bytes
    }
}

/// What KVM_HC_CLOCK_PAIRING tells (`struct kvm_clock_pairing`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockPairing {
    /// The guest's counter, and the host's time of day in nanoseconds since 1970.
    pub moment: Moment,
}

impl ClockPairing {
    /// Bytes of the structure.
    pub const SIZE: usize = 64;

    /// The structure.
    pub fn bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        put(
            &mut bytes,
            0,
            &(self.moment.ns / NSEC_PER_SEC).to_le_bytes(),
        );
        put(
            &mut bytes,
            8,
            &(self.moment.ns % NSEC_PER_SEC).to_le_bytes(),
        );
        put(&mut bytes, 16, &self.moment.tsc.to_le_bytes());
        bytes
    }
}

/// Copies `from` to `to[at..]`; what does not fit is lost.
fn put(to: &mut [u8], at: usize, from: &[u8]) {
    for (to, from) in to.iter_mut().skip(at).zip(from) {
        *to = *from;
    }
}
