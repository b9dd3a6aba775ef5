// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench exits`: what each kind of VM exit costs.

mod immediate;

use std::io;

use kvm_ioctls::Kvm;

use super::report::{Report, Unit};
use super::{vmm, ROUNDS};
use crate::guests::{probe, Error};

/// What the exit without a guest is called.
const IMMEDIATE: (&str, &str) = (
    "run_immediate",
    "KVM_RUN with immediate_exit, no guest code",
);

/// Measures each kind of exit and prints it.
///
/// # Errors
///
/// [`Error`] for the first exit that cannot be measured.
pub fn run(json: bool) -> Result<(), Error> {
    let kvm = Kvm::new().map_err(Error::OpenKvm)?;
    let title = format!("TSC ticks an exit and the way back, {ROUNDS} rounds of each");
    let mut report = Report::new(io::stdout().lock(), json, Unit::Ticks, &title)?;
    for probe in &probe::ALL {
        report.print(probe.exit, probe.meaning, vmm::measure(&kvm, probe)?)?;
    }
    report.print(IMMEDIATE.0, IMMEDIATE.1, immediate::measure(&kvm)?)?;
    Ok(())
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
}
