// SPDX-License-Identifier: GPL-2.0

//! Arguments of `minivmm run`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use vm_memory::GuestAddress;

use super::address;

/// Arguments of `minivmm run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("guest").required(true).args(["kernel", "flat"]))]
#[command(after_help = "\
On the terminal: Ctrl-A X ends the machine, Ctrl-A Ctrl-A sends Ctrl-A.

Exit status: 0 when the guest powers off, halts or reboots, or the machine is ended from the
keyboard; 1 when minivmm cannot go on; 3 when the guest dies; 128 + N when signal N ended minivmm.

  minivmm run --kernel bzImage --initrd initrd --cpus 4 --memory 512
  minivmm run --kernel vmlinux --boot pvh --irqchip split --cmdline \"quiet init=/bin/sh\"
  minivmm run --kernel bzImage --cpus 2 --pin 0,1 --irqchip user --trace")]
pub struct RunArgs {
    /// Linux to boot: a bzImage or a vmlinux
    #[arg(long, value_name = "BZIMAGE|VMLINUX")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk for the kernel
    #[arg(long, value_name = "FILE", conflicts_with = "flat")]
    pub initrd: Option<PathBuf>,

    /// Kernel parameters; they follow, and so win over, those that describe this machine
    #[arg(long, value_name = "PARAMETERS", conflicts_with = "flat")]
    pub cmdline: Option<String>,

    /// Raw code to run, as it is
    #[arg(long, value_name = "FILE")]
    pub flat: Option<PathBuf>,

    /// Guest-physical address to load the raw code at
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "0x7c00",
        conflicts_with = "kernel"
    )]
    #[arg(value_parser = address::parse)]
    pub load: GuestAddress,

    /// Guest-physical address to start the raw code at [default: where it is loaded]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "kernel", value_parser = address::parse)]
    pub entry: Option<GuestAddress>,

    /// Processor mode to start the raw code in
    #[arg(long, value_enum, default_value_t = FlatMode::Real, conflicts_with = "kernel")]
    pub mode: FlatMode,

    /// Guest memory, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub memory: u32,

    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CPUS)))]
    pub cpus: u8,

    /// Where the interrupt controllers are [default: kernel; for raw code user]
    #[arg(long, value_enum)]
    pub irqchip: Option<IrqchipMode>,

    /// How to enter Linux
    #[arg(long, value_enum, default_value_t = BootProtocol::Linux64, conflicts_with = "flat")]
    pub boot: BootProtocol,

    /// Host CPUs to keep the vCPUs on: the first for vCPU 0 and so on, from the start again when
    /// there are more vCPUs
    #[arg(long, value_name = "CPU,..", value_delimiter = ',')]
    pub pin: Vec<usize>,

    /// Begin each line of the guest's console with the host's time since the start, in seconds
    #[arg(long)]
    pub stamp: bool,

    /// Print each VM exit that reaches minivmm, decoded, on standard error
    #[arg(long)]
    pub trace: bool,
}

impl RunArgs {
    /// Where the interrupt controllers are. Raw code ends with a HLT, which only a machine whose
    /// controllers are minivmm's can tell from waiting.
    pub fn irqchip(&self) -> IrqchipMode {
        self.irqchip.unwrap_or(match self.flat {
            Some(_) => IrqchipMode::User,
            None => IrqchipMode::Kernel,
        })
    }
}

/// vCPUs at most: as many as 8-bit APIC IDs name, 255 being all of them.
const MAX_CPUS: u8 = 254;

/// Where the interrupt controllers of the machine are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum IrqchipMode {
    /// All in KVM: local APICs, IOAPIC, PICs and PIT
    Kernel,
    /// Local APICs in KVM; IOAPIC, PICs and PIT in minivmm
    Split,
    /// All in minivmm
    User,
}

/// How Linux is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BootProtocol {
    /// Linux's own 64-bit boot protocol: in 64-bit mode, with a zero page
    Linux64,
    /// The PVH entry that the kernel's ELF note names: in 32-bit mode, with a start info
    Pvh,
}

/// Processor mode that raw code starts in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum FlatMode {
    /// 16-bit real mode, as after power-on
    Real,
    /// 32-bit protected mode, flat segments, no paging
    Protected,
    /// 64-bit mode, the first 4 GiB mapped one to one
    Long,
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn parse(arguments: &[&str]) -> Result<RunArgs, ErrorKind> {
        let line = ["minivmm", "run"].iter().chain(arguments);
        match Cli::try_parse_from(line)
            .map_err(|error| error.kind())?
            .command
        {
            Command::Run(args) => Ok(args),
            other => panic!("parsed as {other:?}"),
        }
    }

    #[test]
    fn linux_with_everything() {
        let args = parse(&[
            "--kernel",
            "bzImage",
            "--initrd",
            "cpio",
            "--cmdline",
            "quiet init=/bin/sh",
            "--memory",
            "512",
            "--cpus",
            "8",
            "--irqchip",
            "split",
            "--boot",
            "pvh",
            "--pin",
            "0,3",
            "--stamp",
            "--trace",
        ])
        .expect("valid");
        assert_eq!(args.kernel, Some("bzImage".into()));
        assert_eq!(args.initrd, Some("cpio".into()));
        assert_eq!(args.cmdline.as_deref(), Some("quiet init=/bin/sh"));
        assert_eq!((args.memory, args.cpus), (512, 8));
        assert_eq!(args.irqchip(), IrqchipMode::Split);
        assert_eq!(args.boot, BootProtocol::Pvh);
        assert_eq!(args.pin, [0, 3]);
        assert!(args.stamp && args.trace);
    }

    #[test]
    fn the_controllers_are_kvm_s_but_for_raw_code() {
        let linux = parse(&["--kernel", "a"]).expect("valid");
        assert_eq!(linux.irqchip(), IrqchipMode::Kernel);
        assert_eq!(linux.boot, BootProtocol::Linux64);
        let flat = parse(&["--flat", "a"]).expect("valid");
        assert_eq!(flat.irqchip(), IrqchipMode::User);
        let told = parse(&["--flat", "a", "--irqchip", "kernel"]).expect("valid");
        assert_eq!(told.irqchip(), IrqchipMode::Kernel);
    }

    #[test]
    fn what_there_is_not_is_refused() {
        for (option, value) in [
            ("--cpus", "0"),
            ("--cpus", "255"),
            ("--irqchip", "none"),
            ("--boot", "uefi"),
            ("--pin", "0,one"),
        ] {
            let error = parse(&["--kernel", "a", option, value]).expect_err("refused");
            assert!(
                matches!(error, ErrorKind::ValueValidation | ErrorKind::InvalidValue),
                "{option} {value}: {error:?}"
            );
        }
    }

    #[test]
    fn raw_code_has_defaults() {
        let args = parse(&["--flat", "code"]).expect("valid");
        assert_eq!(args.load, GuestAddress(0x7c00));
        assert_eq!(args.entry, None);
        assert_eq!(args.mode, FlatMode::Real);
        assert_eq!(args.memory, 256);
    }

    #[test]
    fn raw_code_with_everything() {
        let args = parse(&[
            "--flat", "code", "--load", "0x100000", "--entry", "0x100010", "--mode", "long",
        ])
        .expect("valid");
        assert_eq!(args.load, GuestAddress(0x10_0000));
        assert_eq!(args.entry, Some(GuestAddress(0x10_0010)));
        assert_eq!(args.mode, FlatMode::Long);
    }

    #[test]
    fn exactly_one_kind_of_guest() {
        assert_eq!(parse(&[]).err(), Some(ErrorKind::MissingRequiredArgument));
        assert_eq!(
            parse(&["--kernel", "a", "--flat", "b"]).err(),
            Some(ErrorKind::ArgumentConflict)
        );
    }

    #[test]
    fn options_belong_to_their_kind_of_guest() {
        for stray in [
            ["--kernel", "a", "--mode", "long"],
            ["--kernel", "a", "--load", "0x1000"],
            ["--flat", "a", "--initrd", "b"],
            ["--flat", "a", "--cmdline", "b"],
            ["--flat", "a", "--boot", "pvh"],
        ] {
            assert!(parse(&stray).is_err(), "{stray:?} was taken");
        }
    }

    #[test]
    fn memory_has_limits() {
        assert_eq!(
            parse(&["--kernel", "a", "--memory", "0"]).err(),
            Some(ErrorKind::ValueValidation)
        );
        assert_eq!(
            parse(&["--kernel", "a", "--memory", "1048577"]).err(),
            Some(ErrorKind::ValueValidation)
        );
    }
}
