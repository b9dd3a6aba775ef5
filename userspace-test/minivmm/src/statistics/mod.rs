// SPDX-License-Identifier: GPL-2.0

//! The summary of `--stats`: how often the machine exited, and why.

mod binary;

use std::fmt;

use kvm_ioctls::VcpuFd;

use crate::devices::virtio::balloon;
use crate::vcpu::exit::{Direction, Exit};

pub use binary::Statistic;

/// Why vCPUs came back to minivmm, in the order they are shown in.
const REASONS: [&str; 13] = [
    "port read",
    "port write",
    "MMIO read",
    "MMIO write",
    "HLT",
    "end of interrupt",
    "task priority",
    "interrupt window",
    "signal",
    "shutdown",
    "failed entry",
    "internal error",
    "other",
];

fn reason(exit: &Exit) -> &'static str {
    match exit {
        Exit::Io(pio) if pio.direction == Direction::In => "port read",
        Exit::Io(_) => "port write",
        Exit::MmioRead { .. } => "MMIO read",
        Exit::MmioWrite { .. } => "MMIO write",
        Exit::Halt => "HLT",
        Exit::IoapicEoi { .. } => "end of interrupt",
        Exit::SetTpr => "task priority",
        Exit::InterruptWindow => "interrupt window",
        Exit::Interrupted => "signal",
        Exit::Shutdown => "shutdown",
        Exit::FailEntry { .. } => "failed entry",
        Exit::InternalError(_) => "internal error",
        Exit::Other(_) => "other",
    }
}

/// Exits to minivmm, counted by their reason.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally([u64; REASONS.len()]);

impl Tally {
    /// Counts one.
    pub fn count(&mut self, exit: &Exit) {
        let name = reason(exit);
        if let Some(index) = REASONS.iter().position(|reason| *reason == name) {
            self.0[index] += 1;
        }
    }

    /// Adds those of another vCPU.
    pub fn add(&mut self, other: &Self) {
        for (count, other) in self.0.iter_mut().zip(other.0) {
            *count += other;
        }
    }
}

/// All of it.
pub struct Summary {
    exits: Tally,
    kvm: Vec<Statistic>,
    /// What the guest has last said of its memory.
    memory: Vec<(&'static str, u64)>,
}

impl Summary {
    /// What minivmm has counted, what KVM has, if it says, and what the guest has said of its memory
    /// by a balloon, if there is one.
    pub fn new(exits: Tally, vcpus: &[VcpuFd], memory: Option<&balloon::Statistics>) -> Self {
        Self {
            exits,
            kvm: binary::read(vcpus),
            memory: memory.map(balloon::Statistics::list).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.exits.0.iter().sum();
        writeln!(f, "exits to minivmm: {total}")?;
        for (reason, count) in REASONS.iter().zip(self.exits.0) {
            if count > 0 {
                writeln!(f, "  {reason:<36} {count:>12}")?;
            }
        }
        if self.kvm.is_empty() {
            writeln!(f, "KVM counts nothing here")?;
        } else {
            writeln!(f, "counted by KVM, all vCPUs together")?;
        }
        for statistic in self.kvm.iter().filter(|statistic| statistic.value > 0) {
            writeln!(f, "  {:<36} {:>12}", statistic.name, statistic.value)?;
        }
        if !self.memory.is_empty() {
            writeln!(f, "the guest's memory, as it has last said")?;
        }
        for (name, value) in &self.memory {
            writeln!(f, "  {name:<36} {value:>12}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::exit::Pio;

    #[test]
    fn each_exit_has_its_line() {
        let port = |direction| {
            Exit::Io(Pio {
                direction,
                port: 0x3f8,
                width: 1,
                count: 1,
            })
        };
        let mut tally = Tally::default();
        for exit in [
            port(Direction::In),
            port(Direction::Out),
            port(Direction::Out),
            Exit::Halt,
            Exit::Other(99),
        ] {
            tally.count(&exit);
        }
        let mut twice = tally;
        twice.add(&tally);
        let kvm = vec![
            Statistic {
                name: "exits".into(),
                value: 7,
            },
            Statistic {
                name: "nmi_injections".into(),
                value: 0,
            },
        ];
        let exits = twice;
        let memory = vec![("free, bytes", 4096)];
        let text = Summary { exits, kvm, memory }.to_string();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                vec!["exits", "to", "minivmm:", "10"],
                vec!["port", "read", "2"],
                vec!["port", "write", "4"],
                vec!["HLT", "2"],
                vec!["other", "2"],
                "counted by KVM, all vCPUs together".split(' ').collect(),
                vec!["exits", "7"],
                "the guest's memory, as it has last said"
                    .split(' ')
                    .collect(),
                vec!["free,", "bytes", "4096"],
            ]
        );
    }
}
