// SPDX-License-Identifier: GPL-2.0

//! Arguments of `minivmm run`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::description::{self, Description, Options};

/// Arguments of `minivmm run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("guest").required(true).multiple(true)
    .args(["kernel", "flat", "config"]))]
#[command(after_help = "\
On the terminal: Ctrl-A X ends the machine, Ctrl-A Ctrl-A sends Ctrl-A.

The file of --config has the same names as the options, without the dashes:

  kernel = \"bzImage\"                 [[disk]]
  cmdline = \"root=/dev/vda rw\"        path = \"root.img\"
  cpus = 2                             read-only = false
  memory = 512
  virtio = \"pci\"                     [[net]]
  console = \"virtio\"                 user = true
  rng = true                           forward = [\"2222:22\"]

  [vsock]
  cid = 3                              [[net]]
  socket = \"vsock\"                   tap = \"tap0\"

SIGTERM and SIGINT press the guest's power button, so that it shuts down. The second one ends the
machine, and so does the first where the guest does not listen or is not off within a minute.

Exit status: 0 when the guest powers off, halts or reboots, or the machine is ended from the
keyboard; 1 when minivmm cannot go on; 3 when the guest dies; 128 + N when signal N ended minivmm.

  minivmm run --kernel bzImage --initrd initrd --cpus 4 --memory 512
  minivmm run --kernel bzImage --disk root.img --net user,forward=2222:22 --rng \\
              --cmdline \"root=/dev/vda rw\"
  minivmm run --config machine.toml --cpus 2 --stats
  minivmm run --kernel vmlinux --boot pvh --irqchip split --cmdline \"quiet init=/bin/sh\"
  minivmm run --kernel bzImage --cpus 2 --pin 0,1 --irqchip user --trace")]
pub struct RunArgs {
    /// A machine description in TOML; options win over what it says
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// What is said of the machine here.
    #[command(flatten)]
    pub options: Options,
}

impl RunArgs {
    /// The machine, by the file and by the options.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or with both together.
    pub fn describe(self) -> Result<Description, description::Error> {
        match self.config {
            Some(path) => self.options.over(description::read(&path)?).describe(),
            None => self.options.describe(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;
    use clap::Parser;
    use vm_memory::GuestAddress;

    use super::super::{Cli, Command};
    use super::*;
    use crate::description::{
        BootProtocol, ConsoleKind, Disk, FlatMode, Forward, Guest, IrqchipMode, Net, NetBackend,
        Transport,
    };

    fn parse(arguments: &[&str]) -> Result<Box<RunArgs>, clap::Error> {
        let line = ["minivmm", "run"].iter().chain(arguments);
        match Cli::try_parse_from(line)?.command {
            Command::Run(args) => Ok(args),
            other => panic!("parsed as {other:?}"),
        }
    }

    fn machine(arguments: &[&str]) -> Description {
        parse(arguments)
            .expect("valid options")
            .describe()
            .expect("a machine")
    }

    fn refused(arguments: &[&str]) -> clap::Error {
        parse(arguments).expect_err("not valid")
    }

    #[test]
    fn linux_with_everything() {
        let machine = machine(&[
            "--kernel=bzImage",
            "--initrd=cpio",
            "--cmdline=quiet init=/bin/sh",
            "--memory=512",
            "--cpus=8",
            "--irqchip=split",
            "--boot=pvh",
            "--pin=0,3",
            "--virtio=mmio",
            "--console=virtio",
            "--disk=root.img",
            "--disk=a,b,ro",
            "--net=user,forward=2222:22,forward=80:8080",
            "--net=tap=tap0",
            "--rng",
            "--vsock=7,socket=/run/vsock",
            "--stamp",
            "--trace",
            "--stats",
        ]);
        assert_eq!(
            machine.guest,
            Guest::Linux {
                kernel: "bzImage".into(),
                initrd: Some("cpio".into()),
                cmdline: Some("quiet init=/bin/sh".into()),
                boot: BootProtocol::Pvh,
            }
        );
        assert_eq!((machine.memory, machine.cpus), (512, 8));
        assert_eq!(machine.irqchip, IrqchipMode::Split);
        assert_eq!(machine.pin, [0, 3]);
        assert_eq!(machine.virtio, Transport::Mmio);
        assert_eq!(machine.console, ConsoleKind::Virtio);
        let disk = |path: &str, read_only| Disk {
            path: path.into(),
            read_only,
        };
        assert_eq!(machine.disks, [disk("root.img", false), disk("a,b", true)]);
        let forward = vec![
            Forward {
                host: 2222,
                guest: 22,
            },
            Forward {
                host: 80,
                guest: 8080,
            },
        ];
        assert_eq!(
            machine.nets,
            [NetBackend::User { forward }, NetBackend::Tap("tap0".into())]
                .map(|backend| Net { backend })
        );
        let vsock = machine.vsock.expect("there is one");
        assert_eq!((vsock.cid, vsock.socket), (7, "/run/vsock".into()));
        assert!(machine.rng && machine.stamp && machine.trace && machine.stats);
    }

    #[test]
    fn the_console_is_the_serial_port() {
        let machine = machine(&["--kernel", "a"]);
        assert_eq!(machine.console, ConsoleKind::Serial);
    }

    #[test]
    fn the_controllers_are_kvm_s_but_for_raw_code() {
        let linux = machine(&["--kernel", "a"]);
        assert_eq!(linux.irqchip, IrqchipMode::Kernel);
        let flat = machine(&["--flat", "a"]);
        assert_eq!(flat.irqchip, IrqchipMode::User);
        let told = machine(&["--flat", "a", "--irqchip", "kernel"]);
        assert_eq!(told.irqchip, IrqchipMode::Kernel);
    }

    #[test]
    fn what_there_is_not_is_refused() {
        for (option, value) in [
            ("--cpus", "0"),
            ("--cpus", "255"),
            ("--memory", "0"),
            ("--memory", "1048577"),
            ("--irqchip", "none"),
            ("--boot", "uefi"),
            ("--pin", "0,one"),
            ("--virtio", "isa"),
            ("--console", "vga"),
        ] {
            let error = refused(&["--kernel", "a", option, value]).kind();
            assert!(
                matches!(error, ErrorKind::ValueValidation | ErrorKind::InvalidValue),
                "{option} {value}: {error:?}"
            );
        }
    }

    #[test]
    fn a_device_that_cannot_be_is_explained() {
        for (option, value, explanation) in [
            ("--disk", ",ro", "a disk is PATH or PATH,ro"),
            ("--net", "bridge", "`bridge` is no network"),
            ("--net", "tap", "`tap` is no network"),
            ("--net", "tap=", "`` cannot be the name of an interface"),
            (
                "--net",
                "tap=a/b",
                "`a/b` cannot be the name of an interface",
            ),
            (
                "--net",
                "tap=sixteen-letters-",
                "cannot be the name of an interface",
            ),
            ("--net", "tap=t,forward=1:2", "forward is for --net user"),
            (
                "--net",
                "user,port=1",
                "`port=1` is not forward=HOSTPORT:GUESTPORT",
            ),
            ("--net", "user,forward=22", "`22` is not HOSTPORT:GUESTPORT"),
            (
                "--net",
                "user,forward=0:22",
                "`0:22` is not HOSTPORT:GUESTPORT",
            ),
            (
                "--net",
                "user,forward=1:65536",
                "`1:65536` is not HOSTPORT:GUESTPORT",
            ),
            ("--vsock", "x", "`x` is not a CID"),
            ("--vsock", "2", "2 cannot be a guest's CID"),
            ("--vsock", "4294967295", "cannot be a guest's CID"),
            ("--vsock", "3,path=a", "`path=a` is not socket=PATH"),
        ] {
            let error = refused(&["--kernel", "a", option, value]).to_string();
            assert!(error.contains(explanation), "{option} {value}: {error}");
        }
    }

    #[test]
    fn a_switch_can_be_off() {
        let machine = machine(&["--kernel", "a", "--rng=false", "--stats=true"]);
        assert!(!machine.rng && machine.stats);
        assert_eq!(
            refused(&["--kernel", "a", "--rng=maybe"]).kind(),
            ErrorKind::InvalidValue
        );
    }

    #[test]
    fn raw_code_has_defaults() {
        let machine = machine(&["--flat", "code"]);
        assert_eq!(
            machine.guest,
            Guest::Flat {
                code: "code".into(),
                load: GuestAddress(0x7c00),
                entry: GuestAddress(0x7c00),
                mode: FlatMode::Real,
            }
        );
        assert_eq!((machine.memory, machine.cpus), (256, 1));
    }

    #[test]
    fn raw_code_with_everything() {
        let machine = machine(&[
            "--flat", "code", "--load", "0x100000", "--entry", "0x100010", "--mode", "long",
        ]);
        assert_eq!(
            machine.guest,
            Guest::Flat {
                code: "code".into(),
                load: GuestAddress(0x10_0000),
                entry: GuestAddress(0x10_0010),
                mode: FlatMode::Long,
            }
        );
    }

    #[test]
    fn a_guest_is_needed() {
        assert_eq!(refused(&[]).kind(), ErrorKind::MissingRequiredArgument);
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
            assert_eq!(refused(&stray).kind(), ErrorKind::ArgumentConflict);
        }
        let error = parse(&["--kernel", "a", "--flat", "b"])
            .expect("the machine says so")
            .describe()
            .expect_err("two guests");
        assert!(matches!(error, description::Error::TwoGuests));
    }
}
