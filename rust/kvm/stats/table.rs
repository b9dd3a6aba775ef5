// SPDX-License-Identifier: GPL-2.0

//! What a statistic is.

use kernel::prelude::*;

use super::{
    Place,
    BUCKETS, //
};

/// How a number is to be read (KVM_STATS_TYPE_*).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It grows, and can be set back to zero.
    Cumulative,
    /// It is so now.
    Instant,
    /// The highest value that there was.
    Peak,
    /// A histogram whose buckets double in width.
    LogHistogram,
}

/// What is counted (KVM_STATS_UNIT_*, KVM_STATS_BASE_* and the exponent).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things that happened, or that there are.
    None,
    /// 10^-9 seconds.
    Nanoseconds,
    /// Yes or no.
    Boolean,
}

/// A statistic.
pub(crate) struct Statistic {
    pub(crate) name: &'static CStr,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    /// How many words it takes.
    pub(crate) words: usize,
}

impl Statistic {
    const fn new(name: &'static CStr, kind: Kind, unit: Unit) -> Self {
        let words = match kind {
            Kind::LogHistogram => BUCKETS,
            Kind::Cumulative | Kind::Instant | Kind::Peak => 1,
        };
        Self {
            name,
            kind,
            unit,
            words,
        }
    }

    /// How often something happened.
    pub(super) const fn counter(name: &'static CStr) -> Self {
        Self::new(name, Kind::Cumulative, Unit::None)
    }

    /// How many there are.
    pub(super) const fn gauge(name: &'static CStr) -> Self {
        Self::new(name, Kind::Instant, Unit::None)
    }

    /// How many there were at most.
    pub(super) const fn peak(name: &'static CStr) -> Self {
        Self::new(name, Kind::Peak, Unit::None)
    }

    /// Whether something is so.
    pub(super) const fn flag(name: &'static CStr) -> Self {
        Self::new(name, Kind::Instant, Unit::Boolean)
    }

    /// How long something took in all.
    pub(super) const fn time(name: &'static CStr) -> Self {
        Self::new(name, Kind::Cumulative, Unit::Nanoseconds)
    }

    /// How long it took each time.
    pub(super) const fn times(name: &'static CStr) -> Self {
        Self::new(name, Kind::LogHistogram, Unit::Nanoseconds)
    }

    /// Whether user space may set it to zero.
    pub(crate) const fn is_clearable(&self) -> bool {
        !matches!(self.kind, Kind::Instant)
    }
}

/// How many words come before the statistic at `index`.
pub(crate) const fn words_before(table: &[Statistic], index: usize) -> usize {
    let mut words = 0;
    let mut i = 0;
    while i < index {
        words += table[i].words;
        i += 1;
    }
    words
}

/// Where the statistic called `name` is. For constants: there has to be one.
pub(super) const fn place<const WORDS: usize>(table: &[Statistic], name: &CStr) -> Place<WORDS> {
    let mut i = 0;
    while !is_same(table[i].name.to_bytes(), name.to_bytes()) {
        i += 1;
    }
    Place(words_before(table, i))
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    a.len() == b.len()
}
