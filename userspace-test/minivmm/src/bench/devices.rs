// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench devices`: what it takes to move data through virtio devices.
//!
//! A Linux guest moves it and says when it begins and when it ends; as for a boot, the stamps of
//! those lines are turned into ticks of the TSC.

use std::io;

use vmm_sys_util::tempfile::TempFile;

use super::boot::{self, Error};
use super::cost::Cost;
use super::report::{Report, Unit};
use crate::cli::BootBenchArgs;

/// Bytes of the disk, and of what is moved: what the guest's init is told to move.
const BYTES: u64 = 64 << 20;
/// Kernel parameters; the guest's init uses its disk and switches off.
const CMDLINE: &str = "console=ttyS0 quiet minivmm.test=disk";
/// What a transfer is called, the lines of its begin and its end, and what it is for people.
const TRANSFERS: [(&str, &str, &str, &str); 2] = [
    (
        "virtio_disk_write",
        "guest: writes its disk",
        "guest: has written its disk",
        "64 MiB to a virtio disk, and synced",
    ),
    (
        "virtio_disk_read",
        "guest: reads its disk",
        "guest: has read its disk",
        "64 MiB from a virtio disk",
    ),
];

/// Measures each transfer and prints it.
///
/// # Errors
///
/// [`Error`] if the guest does not make them.
pub fn run(args: &BootBenchArgs) -> Result<(), Error> {
    let disk = TempFile::new().map_err(Error::Console)?;
    disk.as_file().set_len(BYTES)?;
    let options = ["--cpus", "1", "--disk"].map(Into::into);
    let mut options: Vec<std::ffi::OsString> = options.into();
    options.push(disk.as_path().into());
    let run = boot::run_linux(args, CMDLINE, &options)?;

    let title = "TSC ticks, one transfer each";
    let mut report = Report::new(io::stdout().lock(), args.output.json, Unit::Ticks, title)?;
    for (name, begin, end, meaning) in TRANSFERS {
        let ticks = run.between(name, begin, end)?;
        report.print(name, meaning, Cost::of(&[ticks], &[0]))?;
    }
    Ok(())
}
