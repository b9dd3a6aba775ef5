// SPDX-License-Identifier: GPL-2.0

//! minivmm: a small virtual machine monitor on the KVM API.
//!
//! It drives `/dev/kvm` the way QEMU does and uses nothing that is particular to one provider of
//! it, so that this project's module and the kernel's own KVM can be compared by running the same
//! program on both.

#![warn(missing_docs)]

mod bench;
mod boot;
mod cli;
mod demo;
mod description;
mod devices;
mod guests;
mod info;
mod machine;
mod statistics;
mod terminal;
mod vcpu;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[cfg(feature = "fuzzing")]
pub use devices::virtio::fuzz::drive as drive_devices;

/// The program: does what its command line says.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => args
            .describe()
            .map_err(Into::into)
            .and_then(|machine| machine::run(&machine).map_err(Into::into)),
        Command::Info(args) => info::run(args.json).map_err(Into::into),
        Command::Demo(args) => demo::run(&args.names, args.output.json),
        Command::Bench(args) => bench::run(&args.command),
    };
    outcome.unwrap_or_else(|error| {
        report(error.as_ref());
        ExitCode::FAILURE
    })
}

/// Prints an error and what caused it, as far as it has not said so itself.
fn report(error: &dyn Error) {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line.push_str(": ");
            line.push_str(&cause_text);
        }
        source = cause.source();
    }
    eprintln!("minivmm: {line}");
}
