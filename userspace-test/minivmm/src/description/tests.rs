// SPDX-License-Identifier: GPL-2.0

use std::fs;
use std::path::{Path, PathBuf};

use vmm_sys_util::tempdir::TempDir;

use super::*;

/// What a file with this text describes, and the directory that the file was in.
fn read_text(text: &str) -> (Result<Options, Error>, PathBuf) {
    let directory = TempDir::new().expect("a directory");
    let path = directory.as_path().join("machine.toml");
    fs::write(&path, text).expect("a file");
    (read(&path), directory.as_path().into())
}

fn options(text: &str) -> Options {
    read_text(text).0.expect("a valid file")
}

fn refused(text: &str) -> String {
    match read_text(text).0.and_then(Options::describe) {
        Ok(machine) => panic!("{text} was taken as {machine:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_file_says_what_options_say() {
    let text = r#"
        kernel = "/boot/vmlinuz"
        initrd = "initrd"
        cmdline = "root=/dev/vda"
        boot = "pvh"
        memory = 512
        cpus = 4
        irqchip = "split"
        pin = [0, 1]
        virtio = "mmio"
        console = "virtio"
        rng = true
        balloon = 64
        stamp = true
        trace = true
        stats = true

        [[disk]]
        path = "root.img"
        [[disk]]
        path = "/data.img"
        read-only = true

        [[net]]
        user = true
        forward = ["2222:22"]
        [[net]]
        tap = "tap0"

        [vsock]
        cid = 9
        socket = "socket"
    "#;
    let (options, directory) = read_text(text);
    let machine = options.expect("valid").describe().expect("a machine");
    let forward = vec![Forward {
        host: 2222,
        guest: 22,
    }];
    assert_eq!(
        machine,
        Description {
            guest: Guest::Linux {
                kernel: "/boot/vmlinuz".into(),
                initrd: Some(directory.join("initrd")),
                cmdline: Some("root=/dev/vda".into()),
                boot: BootProtocol::Pvh,
            },
            memory: 512,
            cpus: 4,
            irqchip: IrqchipMode::Split,
            pin: vec![0, 1],
            virtio: Transport::Mmio,
            console: ConsoleKind::Virtio,
            disks: vec![
                Disk {
                    path: directory.join("root.img"),
                    read_only: false,
                },
                Disk {
                    path: "/data.img".into(),
                    read_only: true,
                },
            ],
            nets: [NetBackend::User { forward }, NetBackend::Tap("tap0".into())]
                .map(|backend| Net { backend })
                .into(),
            rng: true,
            balloon: Some(64),
            vsock: Some(Vsock {
                cid: 9,
                socket: directory.join("socket"),
            }),
            stamp: true,
            trace: true,
            stats: true,
        }
    );
}

#[test]
fn raw_code_from_a_file() {
    let machine = options("flat = \"/code\"\nload = 0x1000\nentry = 0x1010\nmode = \"long\"")
        .describe()
        .expect("a machine");
    assert_eq!(
        machine.guest,
        Guest::Flat {
            code: "/code".into(),
            load: GuestAddress(0x1000),
            entry: GuestAddress(0x1010),
            mode: FlatMode::Long,
        }
    );
}

#[test]
fn options_win() {
    let file = options("kernel = \"/a\"\ncpus = 4\nrng = true\n[[disk]]\npath = \"/one\"");
    let said = Options {
        cpus: Some(2),
        rng: Some(false),
        disk: vec!["/two".parse().expect("a disk")],
        ..Options::default()
    };
    let machine = said.over(file).describe().expect("a machine");
    assert_eq!(machine.cpus, 2);
    assert!(!machine.rng);
    assert_eq!(machine.disks.len(), 1);
    assert_eq!(machine.disks[0].path, Path::new("/two"));
}

#[test]
fn another_kind_of_guest_takes_the_place_of_the_file_s() {
    let linux = options("kernel = \"/a\"\ninitrd = \"/b\"\ncmdline = \"c\"\nboot = \"pvh\"");
    let flat = Options {
        flat: Some("/code".into()),
        ..Options::default()
    };
    let machine = flat.over(linux).describe().expect("a machine");
    assert!(matches!(machine.guest, Guest::Flat { .. }));

    let flat = options("flat = \"/a\"\nload = 0x1000\nmode = \"long\"");
    let linux = Options {
        kernel: Some("/kernel".into()),
        ..Options::default()
    };
    let machine = linux.over(flat).describe().expect("a machine");
    assert!(matches!(machine.guest, Guest::Linux { .. }));
}

#[test]
fn a_mistake_is_named_with_its_place() {
    for (text, parts) in [
        (
            "kernel = \"a\"\nmemroy = 5",
            &["line 2", "unknown field `memroy`", "`memory`"][..],
        ),
        ("kernel = ", &["line 1"]),
        ("kernel = \"a\"\ncpus = \"two\"", &["line 2", "string"]),
        ("kernel = \"a\"\ncpus = 300", &["line 2", "300"]),
        (
            "kernel = \"a\"\ncpus = 0",
            &["cpus is 0, and not in 1 to 254"],
        ),
        (
            "kernel = \"a\"\nmemory = 0",
            &["memory is 0, and not in 1 to 1048576"],
        ),
        (
            "kernel = \"a\"\nirqchip = \"none\"",
            &["unknown variant `none`", "`split`"],
        ),
        (
            "kernel = \"a\"\n[[disk]]\nfile = \"b\"",
            &["line 3", "unknown field `file`"],
        ),
        (
            "kernel = \"a\"\n[[disk]]\nread-only = true",
            &["missing field `path`"],
        ),
        (
            "kernel = \"a\"\n[[net]]",
            &["either tap = \"NAME\" or user = true"],
        ),
        (
            "kernel = \"a\"\n[[net]]\ntap = \"a b\"",
            &["`a b` cannot be the name"],
        ),
        (
            "kernel = \"a\"\n[[net]]\ntap = \"t\"\nforward = [\"1:2\"]",
            &["forward is for user = true"],
        ),
        (
            "kernel = \"a\"\n[[net]]\nuser = true\nforward = [\"x\"]",
            &["`x` is not HOSTPORT:GUESTPORT"],
        ),
        (
            "kernel = \"a\"\n[vsock]\ncid = 1",
            &["1 cannot be a guest's CID"],
        ),
        ("cpus = 1", &["nothing to run"]),
        ("kernel = \"a\"\nflat = \"b\"", &["a machine runs one"]),
        (
            "kernel = \"a\"\nmode = \"long\"",
            &["mode is for raw code, and the guest is Linux"],
        ),
        (
            "flat = \"a\"\ncmdline = \"b\"",
            &["cmdline is for Linux, and the guest is raw code"],
        ),
    ] {
        let error = refused(text);
        for part in parts {
            assert!(error.contains(part), "{text:?} gives: {error}");
        }
    }
}

#[test]
fn what_can_be_there_once_is_not_there_twice() {
    let net = "[[net]]\ntap = \"t0\"\n";
    let error = refused(&format!("kernel = \"a\"\n{net}{net}"));
    assert_eq!(error, "the tap interface t0 is there twice");
    let net = "[[net]]\nuser = true\nforward = [\"80:1\"]\n";
    let error = refused(&format!("kernel = \"a\"\n{net}{net}"));
    assert_eq!(error, "the host's port 80 is there twice");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = read(Path::new("/nowhere/machine.toml")).expect_err("no file");
    assert_eq!(error.to_string(), "cannot read /nowhere/machine.toml");
}
