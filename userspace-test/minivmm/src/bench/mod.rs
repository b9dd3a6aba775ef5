// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench`: what things cost.
//!
//! The unit of time is the tick of the time-stamp counter. For exits and interrupts the guest
//! itself reads it, on both sides of what it measures (see [`crate::guests::probe`] and
//! [`crate::guests::interrupt_probe`]): what is measured is all that happens from leaving the guest
//! to being back in it, in the kernel and, for some exits, in this program.

mod boot;
mod cost;
mod devices;
mod exits;
mod interrupts;
mod memory;
mod qemu;
mod report;
mod tsc;
mod vmm;
mod watchdog;

use std::process::ExitCode;

use crate::cli::BenchCommand;
use crate::guests::affinity;

/// Measurements before those that count: caches, EPT entries and branch predictors settle.
const WARM_UP: usize = 64;
/// Measurements that count.
const ROUNDS: usize = 2048;
/// Measurements of either kind that a guest makes.
const COUNT: usize = WARM_UP + ROUNDS;

/// Measures what is asked for; prints a table, or lines of JSON.
///
/// # Errors
///
/// The first thing that cannot be measured.
pub fn run(command: &BenchCommand) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // Counters of different CPUs need not agree, so all happens on one.
    if let Some(&cpu) = affinity::allowed()?.first() {
        affinity::pin(cpu)?;
    }
    match command {
        BenchCommand::Exits(args) => exits::run(args.json)?,
        BenchCommand::Interrupts(args) => interrupts::run(args.json)?,
        BenchCommand::Memory(args) => memory::run(args.json)?,
        BenchCommand::Boot(args) => boot::run(args)?,
        BenchCommand::Devices(args) => devices::run(args)?,
        BenchCommand::Qemu(args) => qemu::run(args)?,
    }
    Ok(ExitCode::SUCCESS)
}
