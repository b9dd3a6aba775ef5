// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench`: what an exit costs.
//!
//! The unit is the tick of the time-stamp counter, read by the guest itself on both sides of one
//! instruction (see [`crate::guests::probe`]): what is measured is all that happens from leaving
//! the guest to being back in it, in the kernel and, for some exits, in this program.

mod cost;
mod immediate;
mod vmm;

use std::io::{self, Write};
use std::process::ExitCode;

use kvm_ioctls::Kvm;
use serde::Serialize;

use crate::guests::{affinity, probe, Error};
use cost::Cost;

/// Measurements before those that count: caches, EPT entries and branch predictors settle.
const WARM_UP: usize = 64;
/// Measurements that count.
const ROUNDS: usize = 2048;

/// What the exit without a guest is called.
const IMMEDIATE: (&str, &str) = (
    "run_immediate",
    "KVM_RUN with immediate_exit, no guest code",
);

/// One exit as a line of JSON, its fields in the order they are printed.
#[derive(Serialize)]
struct Record<'a> {
    exit: &'a str,
    median: u64,
    min: u64,
    max: u64,
    unit: &'a str,
}

/// Measures each kind of exit; prints a table, or with `json` a line of JSON an exit.
///
/// # Errors
///
/// [`Error`] for the first exit that cannot be measured.
pub fn run(json: bool) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // Counters of different CPUs need not agree, so all happens on one.
    if let Some(&cpu) = affinity::allowed()?.first() {
        affinity::pin(cpu)?;
    }
    let kvm = Kvm::new().map_err(Error::OpenKvm)?;
    let mut out = io::stdout().lock();
    if !json {
        writeln!(
            out,
            "TSC ticks an exit and the way back, {ROUNDS} rounds of each\n"
        )?;
        writeln!(out, "{:<14}{:>9}{:>9}{:>9}", "exit", "median", "min", "max")?;
    }
    let mut print = |exit, meaning, cost: Cost| {
        let Cost { median, min, max } = cost;
        if json {
            let record = Record {
                exit,
                median,
                min,
                max,
                unit: "tsc",
            };
            writeln!(out, "{}", serde_json::to_string(&record)?)
        } else {
            writeln!(out, "{exit:<14}{median:>9}{min:>9}{max:>9}  {meaning}")
        }
    };
    for probe in &probe::ALL {
        print(probe.exit, probe.meaning, vmm::measure(&kvm, probe)?)?;
    }
    print(IMMEDIATE.0, IMMEDIATE.1, immediate::measure(&kvm)?)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_have_the_names_that_other_programs_look_for() {
        let names: Vec<_> = probe::ALL
            .iter()
            .map(|probe| probe.exit)
            .chain([IMMEDIATE.0])
            .collect();
        let expected = [
            "cpuid",
            "hlt",
            "vmcall",
            "rdmsr",
            "wrmsr",
            "pio_user",
            "mmio_user",
            "ept_fault",
            "run_immediate",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_record_reads_as_documented() {
        let record = Record {
            exit: "hlt",
            median: 2,
            min: 1,
            max: 3,
            unit: "tsc",
        };
        assert_eq!(
            serde_json::to_string(&record).unwrap(),
            r#"{"exit":"hlt","median":2,"min":1,"max":3,"unit":"tsc"}"#
        );
    }
}
