// SPDX-License-Identifier: GPL-2.0

//! Whether the time-stamp counters of a machine's processors are the same counter.
//!
//! A VMM that restores a machine writes one counter after the other, each a little later than the
//! one before, and means all of them to be one. KVM's rule, which VMMs rely on: a value within a
//! second of what the counter written last reads now means that counter; so does 0, which is also
//! what a new processor starts with (Linux, `Documentation/virt/kvm/x86/timekeeping.rst`, and
//! `Documentation/virt/kvm/devices/vcpu.rst`, KVM_VCPU_TSC_CTRL).

#[cfg(test)]
mod tests;

use crate::pvclock::{
    Moment,
    Scale, //
};

/// The counters of a machine. Offsets are a guest's counter minus the host's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group {
    /// Counts writes that started a counter of their own.
    generation: u64,
    /// The offset of those who are of that generation.
    offset: u64,
    /// How many processors are.
    members: usize,
    /// The last write: the value, when, at what frequency (kHz; 0 before any), and its offset.
    last: Moment,
    last_khz: u32,
    last_offset: u64,
    /// A VMM wrote a counter: what it wrote first stands for itself, however small.
    set_by_vmm: bool,
}

/// A processor's part: the generation it is of, 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Member {
    generation: u64,
}

impl Member {
    /// Of no generation.
    pub const NONE: Self = Self { generation: 0 };
}

/// The outcome of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// What the processor's offset is now.
    pub offset: u64,
    /// The write started a counter that the others are not in step with.
    pub is_new: bool,
}

impl Group {
    /// No counters.
    pub const fn new() -> Self {
        Self {
            generation: 0,
            offset: 0,
            members: 0,
            last: Moment { tsc: 0, ns: 0 },
            last_khz: 0,
            last_offset: 0,
            set_by_vmm: false,
        }
    }

    /// Whether the counters of `processors` processors are one.
    pub const fn in_step(&self, processors: usize) -> bool {
        self.members == processors && processors != 0
    }

    /// A new processor's counter, at `khz` kHz, starts in step with the others, or at 0.
    ///
    /// `now` is the host's counter and its time. `stable` says that the host's counters are one.
    pub fn join(&mut self, member: &mut Member, khz: u32, now: Moment, stable: bool) -> Written {
        self.synchronise(member, 0, khz, now, stable)
    }

    /// A VMM writes `value` to a counter.
    pub fn write(
        &mut self,
        member: &mut Member,
        value: u64,
        khz: u32,
        now: Moment,
        stable: bool,
    ) -> Written {
        let written = self.synchronise(member, value, khz, now, stable);
        self.set_by_vmm = true;
        written
    }

    /// A VMM sets an offset (KVM_VCPU_TSC_OFFSET): equal ones are one counter.
    pub fn set_offset(
        &mut self,
        member: &mut Member,
        offset: u64,
        khz: u32,
        now: Moment,
    ) -> Written {
        let matched = khz != 0 && khz == self.last_khz && offset == self.last_offset;
        let value = now.tsc.wrapping_add(offset);
        self.set_by_vmm = true;
        self.note(member, offset, value, khz, now, matched)
    }

    /// A processor that joined goes.
    pub fn leave(&mut self, member: &Member) {
        if *member != Member::NONE && member.generation == self.generation {
            self.members = self.members.saturating_sub(1);
        }
    }

    fn synchronise(
        &mut self,
        member: &mut Member,
        value: u64,
        khz: u32,
        now: Moment,
        stable: bool,
    ) -> Written {
        let since_last = Scale::from_nanoseconds(khz).apply(now.ns.wrapping_sub(self.last.ns));
        let meant = khz != 0
            && khz == self.last_khz
            && (value == 0 || (self.set_by_vmm && self.is_near(value, since_last, khz)));
        if !meant {
            let offset = value.wrapping_sub(now.tsc);
            return self.note(member, offset, value, khz, now, false);
        }
        if stable {
            return self.note(member, self.offset, value, khz, now, true);
        }
        // Offsets from different processors cannot be compared; time can.
        let value = value.wrapping_add(since_last);
        let offset = value.wrapping_sub(now.tsc);
        self.note(member, offset, value, khz, now, true)
    }

    /// Whether `value` is within a second of what the counter written last reads now.
    fn is_near(&self, value: u64, since_last: u64, khz: u32) -> bool {
        let second = u64::from(khz) * 1000;
        let expected = self.last.tsc.wrapping_add(since_last);
        value < expected.wrapping_add(second) && value.wrapping_add(second) > expected
    }

    fn note(
        &mut self,
        member: &mut Member,
        offset: u64,
        value: u64,
        khz: u32,
        now: Moment,
        matched: bool,
    ) -> Written {
        self.last = Moment {
            tsc: value,
            ns: now.ns,
        };
        self.last_khz = khz;
        self.last_offset = offset;
        if !matched {
            self.generation = self.generation.wrapping_add(1);
            self.offset = offset;
            self.members = 1;
        } else if member.generation != self.generation {
            self.members = self.members.saturating_add(1);
        }
        member.generation = self.generation;
        Written {
            offset,
            is_new: !matched,
        }
    }
}
