// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench boot`: what it takes to boot Linux to its user space.
//!
//! Each boot is a `minivmm run --stamp` of its own, whose console goes to a file: somebody who read
//! it meanwhile would have to be woken for each line, on the one CPU there is. When it is over, the
//! stamp of the line that says that user space runs is turned into ticks of the TSC, by how many of
//! them there were in the time that the whole run took.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vmm_sys_util::tempfile::TempFile;

use super::cost::Cost;
use super::report::{Report, Unit};
use super::tsc;
use crate::cli::BootBenchArgs;

/// What the guest's init prints first.
pub const USER_SPACE: &str = "guest userspace reached";
/// Kernel parameters; the guest's init switches off as soon as it has said so.
pub const CMDLINE: &str = "console=ttyS0 minivmm.test=poweroff";
/// What a boot is called, its vCPUs, and what it is for people.
const BOOTS: [(&str, &str, &str); 2] = [
    ("linux_boot_1", "1", "Linux to user space, 1 vCPU"),
    ("linux_boot_2", "2", "Linux to user space, 2 vCPUs"),
];

/// Why a boot could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The VMM cannot be run, or the report not be written.
    #[error("cannot run a boot")]
    Io(#[from] io::Error),
    /// No file for the guest's console.
    #[error("cannot make a file for the guest's console")]
    Console(#[source] vmm_sys_util::errno::Error),
    /// The machine ended before Linux had come so far.
    #[error("{boot}: the guest has not said \"{what}\":\n{console}\n{said}")]
    NotReached {
        /// Which measurement.
        boot: &'static str,
        /// What it should have said.
        what: &'static str,
        /// The end of its console.
        console: String,
        /// What the VMM said.
        said: String,
    },
}

/// Measures a boot with each number of vCPUs and prints it.
///
/// # Errors
///
/// [`Error`] for the first boot that does not succeed.
pub fn run(args: &BootBenchArgs) -> Result<(), Error> {
    cache(args)?;
    let title = "TSC ticks, one boot each";
    let mut report = Report::new(io::stdout().lock(), args.output.json, Unit::Ticks, title)?;
    for (name, cpus, meaning) in BOOTS {
        let ticks = boot(name, cpus, args)?;
        report.print(name, meaning, Cost::of(&[ticks], &[0]))?;
    }
    Ok(())
}

/// Has what is to be booted in the host's page cache from now on.
///
/// # Errors
///
/// [`Error::Read`].
pub fn cache(args: &BootBenchArgs) -> Result<(), Error> {
    for path in [&args.kernel, &args.initrd] {
        read(path)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// Boots once, on this thread's CPU, and returns the ticks from the machine's start to user space.
fn boot(name: &'static str, cpus: &str, args: &BootBenchArgs) -> Result<u64, Error> {
    let run = run_linux(args, CMDLINE, &["--cpus".into(), cpus.into()])?;
    let reached = run.stamp(name, USER_SPACE)?;
    Ok(run.ticks_in(reached))
}

/// A machine that has run to its end.
pub struct Run {
    console: String,
    said: String,
    /// The ticks and the time that it took.
    ticks: u64,
    time: Duration,
}

/// Runs Linux to its end, on this thread's CPU, with these kernel parameters and `options` of
/// minivmm's.
///
/// # Errors
///
/// What keeps it from being run.
pub fn run_linux(args: &BootBenchArgs, cmdline: &str, options: &[OsString]) -> Result<Run, Error> {
    let mut command = Command::new(env::current_exe()?);
    command
        .args(["run", "--stamp", "--cmdline", cmdline])
        .args(options)
        .arg("--kernel")
        .arg(&args.kernel)
        .arg("--initrd")
        .arg(&args.initrd);
    run_machine(&mut command)
}

/// Runs a VMM to its end, on this thread's CPU. The guest's console is its standard output.
///
/// # Errors
///
/// What keeps it from being run.
pub fn run_machine(vmm: &mut Command) -> Result<Run, Error> {
    let console = TempFile::new().map_err(Error::Console)?;
    let start = (tsc::read(), Instant::now());
    let ended = vmm
        .stdin(Stdio::null())
        .stdout(console.as_file().try_clone()?)
        .stderr(Stdio::piped())
        .output()?;
    let (ticks, time) = (tsc::read() - start.0, start.1.elapsed());
    Ok(Run {
        console: String::from_utf8_lossy(&read(console.as_path())?).into_owned(),
        said: String::from_utf8_lossy(&ended.stderr).trim_end().to_owned(),
        ticks,
        time,
    })
}

impl Run {
    /// When the guest said `what`, since the machine's start.
    ///
    /// # Errors
    ///
    /// [`Error::NotReached`] for the measurement `name` if it never did.
    fn stamp(&self, name: &'static str, what: &'static str) -> Result<Duration, Error> {
        stamp_of(&self.console, what).ok_or_else(|| self.not_reached(name, what))
    }

    fn not_reached(&self, boot: &'static str, what: &'static str) -> Error {
        Error::NotReached {
            boot,
            what,
            console: last_lines(&self.console, 5),
            said: self.said.clone(),
        }
    }

    /// The ticks that the whole run took.
    ///
    /// # Errors
    ///
    /// [`Error::NotReached`] for the measurement `name` if the guest has not said `what` in it.
    pub fn ticks_if_said(&self, name: &'static str, what: &'static str) -> Result<u64, Error> {
        if self.console.contains(what) {
            Ok(self.ticks)
        } else {
            Err(self.not_reached(name, what))
        }
    }

    fn ticks_in(&self, part: Duration) -> u64 {
        ticks_in(part, self.ticks, self.time)
    }

    /// The ticks between two lines of the guest's.
    ///
    /// # Errors
    ///
    /// [`Error::NotReached`] for the measurement `name` if one is missing.
    pub fn between(
        &self,
        name: &'static str,
        begin: &'static str,
        end: &'static str,
    ) -> Result<u64, Error> {
        let (begin, end) = (self.stamp(name, begin)?, self.stamp(name, end)?);
        Ok(self.ticks_in(end.saturating_sub(begin)))
    }
}

/// The stamp, `<seconds>`, of the first line that shows `what`.
fn stamp_of(console: &str, what: &str) -> Option<Duration> {
    let line = console.lines().find(|line| line.contains(what))?;
    let (seconds, _) = line.strip_prefix('<')?.split_once('>')?;
    Duration::try_from_secs_f64(seconds.trim().parse().ok()?).ok()
}

/// The ticks in `part` of a time that had `ticks`.
fn ticks_in(part: Duration, ticks: u64, whole: Duration) -> u64 {
    let ticks = u128::from(ticks) * part.as_nanos() / whole.as_nanos().max(1);
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
<     0.000012> Linux version 7\r
<     1.250000> Run /init as init process\r
<     1.500000> guest userspace reached\r
<     1.750000> reboot: Power down\r
";

    #[test]
    fn the_line_s_own_stamp_counts() {
        assert_eq!(
            stamp_of(CONSOLE, USER_SPACE),
            Some(Duration::from_millis(1500))
        );
        assert_eq!(stamp_of(CONSOLE, "login:"), None);
        assert_eq!(stamp_of("guest userspace reached\n", USER_SPACE), None);
        assert_eq!(stamp_of("< -1> guest userspace reached", USER_SPACE), None);
    }

    #[test]
    fn ticks_are_a_share_of_the_whole() {
        let (part, whole) = (Duration::from_millis(1500), Duration::from_secs(3));
        assert_eq!(ticks_in(part, 5_000_000_000, whole), 2_500_000_000);
        assert_eq!(ticks_in(Duration::ZERO, 1, Duration::ZERO), 0);
    }

    #[test]
    fn an_error_shows_the_end_of_the_console() {
        assert!(last_lines(CONSOLE, 1).contains("Power down"));
        assert_eq!(last_lines(CONSOLE, 9).lines().count(), 4);
        assert_eq!(last_lines("", 3), "");
    }

    #[test]
    fn boots_have_the_names_that_other_programs_look_for() {
        assert_eq!(
            BOOTS.map(|(name, cpus, _)| (name, cpus)),
            [("linux_boot_1", "1"), ("linux_boot_2", "2")]
        );
    }
}
