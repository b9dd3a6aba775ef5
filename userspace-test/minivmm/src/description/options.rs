// SPDX-License-Identifier: GPL-2.0

//! What can be said about a machine, by options and, under the same names, by a file.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Deserializer};
use vm_memory::GuestAddress;

use super::{
    BootProtocol, ConsoleKind, Description, Disk, Error, FlatMode, Guest, IrqchipMode, Net,
    Transport, Vsock, BOOT_SECTOR, CPUS, MAX_CPUS, MAX_MEMORY, MEMORY,
};
use crate::cli::address;

/// Everything that can be said about a machine, and nothing that has to be.
#[derive(Clone, PartialEq, Default, Debug, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Linux to boot: a bzImage or a vmlinux
    #[arg(long, value_name = "BZIMAGE|VMLINUX")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk for the kernel
    #[arg(long, value_name = "FILE", conflicts_with = "flat")]
    pub initrd: Option<PathBuf>,

    /// Kernel parameters; they follow, and so win over, those that describe this machine
    #[arg(long, value_name = "PARAMETERS", conflicts_with = "flat")]
    pub cmdline: Option<String>,

    /// How to enter Linux [default: linux64]
    #[arg(long, value_enum, conflicts_with = "flat")]
    pub boot: Option<BootProtocol>,

    /// Raw code to run, as it is
    #[arg(long, value_name = "FILE")]
    pub flat: Option<PathBuf>,

    /// Guest-physical address to load the raw code at [default: 0x7c00]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "kernel", value_parser = address::parse)]
    #[serde(deserialize_with = "guest_address")]
    pub load: Option<GuestAddress>,

    /// Guest-physical address to start the raw code at [default: where it is loaded]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "kernel", value_parser = address::parse)]
    #[serde(deserialize_with = "guest_address")]
    pub entry: Option<GuestAddress>,

    /// Processor mode to start the raw code in [default: real]
    #[arg(long, value_enum, conflicts_with = "kernel")]
    pub mode: Option<FlatMode>,

    /// Guest memory, in MiB [default: 256]
    #[arg(long, value_name = "MIB")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_MEMORY)))]
    pub memory: Option<u32>,

    /// Virtual CPUs [default: 1]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_CPUS)))]
    pub cpus: Option<u8>,

    /// Where the interrupt controllers are [default: kernel; for raw code user]
    #[arg(long, value_enum)]
    pub irqchip: Option<IrqchipMode>,

    /// Host CPUs to keep the vCPUs on: the first for vCPU 0 and so on, from the start again when
    /// there are more vCPUs
    #[arg(long, value_name = "CPU,..", value_delimiter = ',')]
    pub pin: Vec<usize>,

    /// How the guest finds its virtio devices [default: pci]
    #[arg(long, value_enum)]
    pub virtio: Option<Transport>,

    /// A disk, by its raw image, that the guest can write, or with `,ro` cannot; may be repeated
    #[arg(long = "disk", value_name = "PATH[,ro]")]
    pub disk: Vec<Disk>,

    /// A network card; may be repeated. `tap=NAME`: connected to this tap interface. `user`: to the
    /// host's network by way of passt, without any privilege; TCP ports of the host's that are
    /// forwarded lead to the guest's
    #[arg(long = "net", value_name = "tap=NAME|user[,forward=HOST:GUEST]..")]
    pub net: Vec<Net>,

    /// A source of random numbers
    #[arg(
        long,
        value_name = "BOOL",
        hide_possible_values = true,
        hide_default_value = true
    )]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rng: Option<bool>,

    /// A balloon that takes this much memory from the guest, which may have it back rather than run
    /// out; memory that the guest does not use goes back to the host
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_MEMORY)))]
    pub balloon: Option<u32>,

    /// Sockets between host and guest, whose context ID this is. On the host they begin at a Unix
    /// socket [default: minivmm-vsock-CID in $XDG_RUNTIME_DIR or /tmp]
    #[arg(long, value_name = "CID[,socket=PATH]")]
    pub vsock: Option<Vsock>,

    /// The guest's console [default: serial]
    #[arg(long, value_enum)]
    pub console: Option<ConsoleKind>,

    /// Begin each line of the guest's console with the host's time since the start, in seconds
    #[arg(long, value_name = "BOOL", hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub stamp: Option<bool>,

    /// Print each VM exit that reaches minivmm, decoded, on standard error
    #[arg(long, value_name = "BOOL", hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub trace: Option<bool>,

    /// Print at the end how often the machine exited, by reason, on standard error
    #[arg(long, value_name = "BOOL", hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub stats: Option<bool>,
}

/// An address is a number in the file, which can be hexadecimal there.
fn guest_address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<GuestAddress>, D::Error> {
    u64::deserialize(from).map(|address| Some(GuestAddress(address)))
}

impl Options {
    /// These, and where they say nothing, `file`. A guest of these takes the place of the file's
    /// with all that was said of it, and lists take the place of lists.
    pub fn over(self, mut file: Self) -> Self {
        if self.flat.is_some() {
            (file.kernel, file.initrd, file.cmdline, file.boot) = (None, None, None, None);
        }
        if self.kernel.is_some() {
            (file.flat, file.load, file.entry, file.mode) = (None, None, None, None);
        }
        fn list<T>(ours: Vec<T>, theirs: Vec<T>) -> Vec<T> {
            if ours.is_empty() {
                theirs
            } else {
                ours
            }
        }
        Self {
            kernel: self.kernel.or(file.kernel),
            initrd: self.initrd.or(file.initrd),
            cmdline: self.cmdline.or(file.cmdline),
            boot: self.boot.or(file.boot),
            flat: self.flat.or(file.flat),
            load: self.load.or(file.load),
            entry: self.entry.or(file.entry),
            mode: self.mode.or(file.mode),
            memory: self.memory.or(file.memory),
            cpus: self.cpus.or(file.cpus),
            irqchip: self.irqchip.or(file.irqchip),
            pin: list(self.pin, file.pin),
            virtio: self.virtio.or(file.virtio),
            disk: list(self.disk, file.disk),
            net: list(self.net, file.net),
            rng: self.rng.or(file.rng),
            balloon: self.balloon.or(file.balloon),
            vsock: self.vsock.or(file.vsock),
            console: self.console.or(file.console),
            stamp: self.stamp.or(file.stamp),
            trace: self.trace.or(file.trace),
            stats: self.stats.or(file.stats),
        }
    }

    /// Each path that is relative, from `directory` on.
    pub fn relative_to(&mut self, directory: &Path) {
        let files = [&mut self.kernel, &mut self.initrd, &mut self.flat];
        let files = files.into_iter().flatten();
        let disks = self.disk.iter_mut().map(|disk| &mut disk.path);
        let sockets = self.vsock.iter_mut().map(|vsock| &mut vsock.socket);
        for path in files.chain(disks).chain(sockets) {
            *path = directory.join(&*path);
        }
    }

    /// The machine that this comes to, with what is usual where nothing was said.
    ///
    /// # Errors
    ///
    /// What contradicts itself, or is missing.
    pub fn describe(self) -> Result<Description, Error> {
        self.check_devices()?;
        let is_flat = self.flat.is_some();
        let irqchip = self.irqchip.unwrap_or(if is_flat {
            // Raw code ends with a HLT, which only a machine whose controllers are minivmm's can
            // tell from waiting.
            IrqchipMode::User
        } else {
            IrqchipMode::Kernel
        });
        Ok(Description {
            memory: self.memory.unwrap_or(MEMORY),
            cpus: self.cpus.unwrap_or(CPUS),
            irqchip,
            virtio: self.virtio.unwrap_or(Transport::Pci),
            rng: self.rng.unwrap_or(false),
            balloon: self.balloon,
            console: self.console.unwrap_or(ConsoleKind::Serial),
            stamp: self.stamp.unwrap_or(false),
            trace: self.trace.unwrap_or(false),
            stats: self.stats.unwrap_or(false),
            guest: self.guest()?,
            pin: self.pin,
            disks: self.disk,
            nets: self.net,
            vsock: self.vsock,
        })
    }

    fn guest(&self) -> Result<Guest, Error> {
        let stray = |words: &[(&'static str, bool)], wanted, guest| match words
            .iter()
            .find(|(_, said)| *said)
        {
            Some((key, _)) => Err(Error::OtherGuest { key, wanted, guest }),
            None => Ok(()),
        };
        match (&self.kernel, &self.flat) {
            (Some(_), Some(_)) => Err(Error::TwoGuests),
            (None, None) => Err(Error::NoGuest),
            (Some(kernel), None) => {
                let words = [
                    ("load", self.load.is_some()),
                    ("entry", self.entry.is_some()),
                    ("mode", self.mode.is_some()),
                ];
                stray(&words, "raw code", "Linux")?;
                Ok(Guest::Linux {
                    kernel: kernel.clone(),
                    initrd: self.initrd.clone(),
                    cmdline: self.cmdline.clone(),
                    boot: self.boot.unwrap_or(BootProtocol::Linux64),
                })
            }
            (None, Some(code)) => {
                let words = [
                    ("initrd", self.initrd.is_some()),
                    ("cmdline", self.cmdline.is_some()),
                    ("boot", self.boot.is_some()),
                ];
                stray(&words, "Linux", "raw code")?;
                let load = self.load.unwrap_or(BOOT_SECTOR);
                Ok(Guest::Flat {
                    code: code.clone(),
                    load,
                    entry: self.entry.unwrap_or(load),
                    mode: self.mode.unwrap_or(FlatMode::Real),
                })
            }
        }
    }

    fn check_devices(&self) -> Result<(), Error> {
        for (index, net) in self.net.iter().enumerate() {
            let before = &self.net[..index];
            if let super::NetBackend::Tap(name) = &net.backend {
                if before.contains(net) {
                    let what = format!("the tap interface {name}");
                    return Err(Error::Twice { what });
                }
            }
        }
        let forwards = self.net.iter().flat_map(|net| match &net.backend {
            super::NetBackend::User { forward } => &forward[..],
            super::NetBackend::Tap(_) => &[],
        });
        let mut ports: Vec<_> = forwards.map(|forward| forward.host).collect();
        ports.sort_unstable();
        match ports.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Error::Twice {
                what: format!("the host's port {}", pair[0]),
            }),
            None => Ok(()),
        }
    }
}
