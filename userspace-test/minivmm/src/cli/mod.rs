// SPDX-License-Identifier: GPL-2.0

//! The command line.

pub mod address;
mod run;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use run::RunArgs;

/// A small virtual machine monitor on the KVM API.
#[derive(Debug, Parser)]
#[command(name = "minivmm", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What minivmm can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run Linux, or a piece of raw code, in a virtual machine
    Run(Box<RunArgs>),
    /// Show what VT-x and /dev/kvm on this machine can do
    Info(JsonArgs),
    /// Run small guests that show one concept of virtualisation each
    Demo(DemoArgs),
    /// Measure
    Bench(BenchArgs),
}

/// Arguments of `minivmm demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The demos to run, in this order; all of them unless said
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How to print.
    #[command(flatten)]
    pub output: JsonArgs,
}

/// Arguments of `minivmm bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub command: BenchCommand,
}

/// What `minivmm bench` can measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// What each kind of VM exit costs, in TSC ticks
    Exits(JsonArgs),
    /// What interrupts and the interrupt controllers in the kernel cost, in TSC ticks
    Interrupts(JsonArgs),
    /// What memory of the kernel a VM and a vCPU take, in bytes
    Memory(JsonArgs),
    /// What it takes to boot Linux to its user space, in TSC ticks
    Boot(BootBenchArgs),
    /// What it takes a Linux guest to move 64 MiB to and from a virtio disk, and to and from the host
    /// through a virtio network, in TSC ticks
    Devices(BootBenchArgs),
    /// What it takes QEMU to boot Linux, in TSC ticks
    Qemu(QemuBenchArgs),
}

/// Arguments of `minivmm bench boot` and `minivmm bench devices`.
#[derive(Debug, Args)]
pub struct BootBenchArgs {
    /// Linux to boot
    #[arg(long, value_name = "FILE", default_value = "/boot/guest-kernel")]
    pub kernel: PathBuf,

    /// Its initial RAM disk, whose init says "guest userspace reached"
    #[arg(long, value_name = "FILE", default_value = "/boot/guest-initrd")]
    pub initrd: PathBuf,

    /// How to print.
    #[command(flatten)]
    pub output: JsonArgs,
}

/// Arguments of `minivmm bench qemu`.
#[derive(Debug, Args)]
pub struct QemuBenchArgs {
    /// QEMU
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    pub qemu: PathBuf,

    /// What it boots.
    #[command(flatten)]
    pub linux: BootBenchArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, Args)]
pub struct JsonArgs {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;
    use clap::CommandFactory;

    fn refused(line: &[&str]) -> ErrorKind {
        Cli::try_parse_from(line)
            .expect_err("the line is not valid")
            .kind()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_bench_takes_json() {
        for what in ["exits", "interrupts", "memory", "boot", "devices", "qemu"] {
            let cli = Cli::try_parse_from(["minivmm", "bench", what, "--json"]).expect("valid");
            let Command::Bench(args) = cli.command else {
                panic!("parsed as another command");
            };
            let (name, json) = match args.command {
                BenchCommand::Exits(args) => ("exits", args.json),
                BenchCommand::Interrupts(args) => ("interrupts", args.json),
                BenchCommand::Memory(args) => ("memory", args.json),
                BenchCommand::Boot(args) => ("boot", args.output.json),
                BenchCommand::Devices(args) => ("devices", args.output.json),
                BenchCommand::Qemu(args) => ("qemu", args.linux.output.json),
            };
            assert_eq!((name, json), (what, true));
        }
    }

    #[test]
    fn demo_takes_names_and_json() {
        let cli = Cli::try_parse_from(["minivmm", "demo", "pae", "--json", "mmio"]).expect("valid");
        let Command::Demo(args) = cli.command else {
            panic!("parsed as another command");
        };
        assert_eq!(args.names, ["pae", "mmio"]);
        assert!(args.output.json);
    }

    #[test]
    fn a_command_is_needed() {
        assert_eq!(
            refused(&["minivmm"]),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        assert_eq!(refused(&["minivmm", "fly"]), ErrorKind::InvalidSubcommand);
    }
}
