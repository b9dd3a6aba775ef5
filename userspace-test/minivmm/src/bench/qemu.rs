// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench qemu`: what it takes QEMU to boot the Linux that `minivmm bench boot` boots.
//!
//! QEMU tells nobody when the guest's user space begins, so its whole run counts: its start, its
//! firmware, Linux, whose init switches off at once, and its end.

use std::io;
use std::process::Command;

use super::boot::{self, Error};
use super::cost::Cost;
use super::report::{Report, Unit};
use crate::cli::QemuBenchArgs;

/// What a boot is called, its vCPUs, and what it is for people.
const BOOTS: [(&str, &str, &str); 2] = [
    ("qemu_boot_1", "1", "QEMU boots Linux, 1 vCPU"),
    ("qemu_boot_2", "2", "QEMU boots Linux, 2 vCPUs"),
];
/// A machine with nothing but a serial port for its console.
const MACHINE: [&str; 13] = [
    "-accel",
    "kvm",
    "-cpu",
    "host",
    "-m",
    "256",
    "-nodefaults",
    "-no-reboot",
    "-display",
    "none",
    "-serial",
    "stdio",
    "-append",
];

/// Measures a boot with each number of vCPUs and prints it. A boot before them has the system read
/// QEMU and all that it brings along from their disk.
///
/// # Errors
///
/// [`Error`] for the first boot that does not succeed.
pub fn run(args: &QemuBenchArgs) -> Result<(), Error> {
    let linux = &args.linux;
    boot::cache(linux)?;
    let title = "TSC ticks, one boot each";
    let mut report = Report::new(io::stdout().lock(), linux.output.json, Unit::Ticks, title)?;
    boot::run_machine(&mut qemu(args, "1"))?;
    for (name, cpus, meaning) in BOOTS {
        let run = boot::run_machine(&mut qemu(args, cpus))?;
        let ticks = run.ticks_if_said(name, boot::USER_SPACE)?;
        report.print(name, meaning, Cost::of(&[ticks], &[0]))?;
    }
    Ok(())
}

/// A QEMU with that many vCPUs.
fn qemu(args: &QemuBenchArgs, cpus: &str) -> Command {
    let mut command = Command::new(&args.qemu);
    command
        .args(MACHINE)
        .arg(boot::CMDLINE)
        .args(["-smp", cpus])
        .arg("-kernel")
        .arg(&args.linux.kernel)
        .arg("-initrd")
        .arg(&args.linux.initrd);
    command
}
