// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench devices`: what it takes to move data through virtio devices.
//!
//! A Linux guest moves it and says when it begins and when it ends; as for a boot, the stamps of
//! those lines are turned into ticks of the TSC. The network is passt's, and what the guest is
//! connected to is a thread of this program.

mod peer;

use std::ffi::OsString;
use std::io;

use vmm_sys_util::tempfile::TempFile;

use self::peer::Peer;
use super::boot::{self, Run};
use super::cost::Cost;
use super::report::{Report, Unit};
use crate::cli::BootBenchArgs;

/// Bytes of the disk, and of what is moved: what the guest's init is told to move.
const BYTES: u64 = 64 << 20;
/// Kernel parameters; the guest's init uses its disk and switches off.
const DISK_CMDLINE: &str = "console=ttyS0 quiet minivmm.test=disk";
/// The same for its network; the ports follow.
const NET_CMDLINE: &str = "console=ttyS0 quiet minivmm.test=net";

/// Something that the guest does.
struct Transfer {
    name: &'static str,
    /// The lines of its begin and its end.
    begin: &'static str,
    end: &'static str,
    /// What it is for people.
    meaning: &'static str,
}

const DISK: [Transfer; 2] = [
    Transfer {
        name: "virtio_disk_write",
        begin: "guest: writes its disk",
        end: "guest: has written its disk",
        meaning: "64 MiB to a virtio disk, and synced",
    },
    Transfer {
        name: "virtio_disk_read",
        begin: "guest: reads its disk",
        end: "guest: has read its disk",
        meaning: "64 MiB from a virtio disk",
    },
];
const NET_SEND: Transfer = Transfer {
    name: "virtio_net_send",
    begin: "guest: sends",
    end: "guest: has sent",
    meaning: "64 MiB through a virtio network to the host",
};
const NET_RECEIVE: Transfer = Transfer {
    name: "virtio_net_receive",
    begin: "guest: receives",
    end: "guest: has received",
    meaning: "64 MiB through a virtio network from the host",
};

/// Why a transfer could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guest cannot be run, or has not done it.
    #[error(transparent)]
    Guest(#[from] boot::Error),
    /// The report cannot be written, a disk not be made, or the host's end of a connection failed.
    #[error("cannot measure devices")]
    Io(#[from] io::Error),
    /// Not all bytes came to the other end.
    #[error("{name}: {moved} of {BYTES} bytes went through")]
    Lost {
        /// Which measurement.
        name: &'static str,
        /// How many did.
        moved: u64,
    },
}

type Out<'a> = Report<io::StdoutLock<'a>>;

/// Measures each transfer and prints it.
///
/// # Errors
///
/// [`Error`] if the guest does not make them.
pub fn run(args: &BootBenchArgs) -> Result<(), Error> {
    let title = "TSC ticks, one transfer each";
    let mut report = Report::new(io::stdout().lock(), args.output.json, Unit::Ticks, title)?;
    disk(args, &mut report)?;
    network(args, &mut report)
}

fn disk(args: &BootBenchArgs, report: &mut Out<'_>) -> Result<(), Error> {
    let disk = TempFile::new().map_err(boot::Error::Console)?;
    disk.as_file().set_len(BYTES)?;
    let mut options: Vec<OsString> = ["--cpus", "1", "--disk"].map(Into::into).into();
    options.push(disk.as_path().into());
    let run = boot::run_linux(args, DISK_CMDLINE, &options)?;
    for transfer in &DISK {
        print(report, transfer, &run)?;
    }
    Ok(())
}

fn network(args: &BootBenchArgs, report: &mut Out<'_>) -> Result<(), Error> {
    let (sink, source) = (Peer::sink()?, Peer::source(BYTES)?);
    let cmdline = format!(
        "{NET_CMDLINE} minivmm.sink={} minivmm.source={}",
        sink.port(),
        source.port()
    );
    let options = ["--cpus", "1", "--net", "user"].map(Into::into);
    let run = boot::run_linux(args, &cmdline, &options)?;
    for (transfer, peer) in [(NET_SEND, sink), (NET_RECEIVE, source)] {
        print(report, &transfer, &run)?;
        let moved = peer.moved()?;
        if moved != BYTES {
            return Err(Error::Lost {
                name: transfer.name,
                moved,
            });
        }
    }
    Ok(())
}

fn print(report: &mut Out<'_>, transfer: &Transfer, run: &Run) -> Result<(), Error> {
    let ticks = run.between(transfer.name, transfer.begin, transfer.end)?;
    report.print(transfer.name, transfer.meaning, Cost::of(&[ticks], &[0]))?;
    Ok(())
}
