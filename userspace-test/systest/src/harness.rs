// SPDX-License-Identifier: GPL-2.0
//! Runs each test in a process of its own and reports what became of it.
//!
//! A test is a function that returns when all it expected came true. The functions in `expect`
//! end it otherwise, with a message that says what was expected and what came. A crash, a kill or a
//! test that outlives its time limit is that test's failure and nobody else's.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::sys;

/// Wall time a test may take unless it asks for more.
const DEFAULT_LIMIT: Duration = Duration::from_secs(20);
/// How long a killed test may take to disappear before the kernel is said to hold it.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// One test: what it is called, what it does and how long it may take.
#[derive(Clone, Copy)]
pub struct Test {
    /// `area/name`, unique in the suite.
    pub name: &'static str,
    /// The test itself; it runs in a child process.
    pub run: fn(),
    /// Wall time after which the test has failed.
    pub limit: Duration,
}

impl Test {
    /// A test with the default time limit.
    pub const fn new(name: &'static str, run: fn()) -> Self {
        Self {
            name,
            run,
            limit: DEFAULT_LIMIT,
        }
    }

    /// The same test with `seconds` to finish in.
    pub const fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }
}

/// What became of a test.
pub enum Outcome {
    /// All that was expected came true.
    Passed,
    /// Something else came than what was expected.
    Failed(String),
    /// The test does not apply to this machine or module.
    Skipped(String),
}

/// Where the running test writes its report; -1 in the process that runs the suite.
static REPORT: AtomicI32 = AtomicI32::new(-1);

/// What the random tests start from.
static SEED: AtomicU64 = AtomicU64::new(0x6d69_6e69_6b76_6d21);

/// What the random tests start from; not 0.
pub fn seed() -> u64 {
    SEED.load(Ordering::SeqCst)
}

/// Lets the random tests start from another number; 0 counts as 1.
pub fn set_seed(seed: u64) {
    SEED.store(seed.max(1), Ordering::SeqCst);
}

/// How many times its limit a test may take.
static PATIENCE: AtomicU64 = AtomicU64::new(1);

/// Gives each test `factor` times its limit, for kernels that are slow because they check.
pub fn set_patience(factor: u64) {
    PATIENCE.store(factor.max(1), Ordering::SeqCst);
}

/// How many times their usual rounds the tests of endurance go.
static ENDURANCE: AtomicU64 = AtomicU64::new(1);

/// How many times their usual rounds the tests of endurance go.
pub fn endurance() -> u64 {
    ENDURANCE.load(Ordering::SeqCst)
}

/// Lets the tests of endurance go on for `factor` times their usual rounds.
pub fn set_endurance(factor: u64) {
    ENDURANCE.store(factor.max(1), Ordering::SeqCst);
}

/// Whether the kernel keeps what was freed for a while, to see who still uses it: then kmemleak says
/// what was not given back, and free memory does not.
pub fn kernel_looks_for_leaks() -> bool {
    Path::new("/sys/kernel/debug/kmemleak").exists()
}

/// Sends the first report of this test to the suite; later ones are its consequences and ignored.
fn report(kind: char, text: &str) {
    let line = format!("{kind}{}\n", text.replace('\n', " "));
    sys::write_all(REPORT.load(Ordering::SeqCst), line.as_bytes());
}

/// Ends the test as not applicable here, saying why.
pub fn skip(why: &str) -> ! {
    report('S', why);
    sys::exit_now(0)
}

/// Runs `body` in this (child) process and ends the process: status 0, or 1 where `body` failed.
pub fn finish_child(body: impl FnOnce() + panic::UnwindSafe) -> ! {
    let status = match panic::catch_unwind(body) {
        Ok(()) => 0,
        Err(_) => 1,
    };
    sys::exit_now(status)
}

/// Runs one test in a child process.
pub fn run(test: &Test) -> Outcome {
    let (reader, writer) = sys::pipe();
    let child = match sys::fork() {
        None => {
            REPORT.store(writer.as_raw_fd(), Ordering::SeqCst);
            sys::become_group_leader();
            panic::set_hook(Box::new(|info| {
                let message = info
                    .payload()
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| info.payload().downcast_ref::<&str>().map(|s| s.to_string()))
                    .unwrap_or_default();
                let place = info
                    .location()
                    .map(|l| {
                        format!(
                            " ({}:{})",
                            l.file().trim_start_matches("systest/"),
                            l.line()
                        )
                    })
                    .unwrap_or_default();
                report('F', &format!("{message}{place}"));
            }));
            finish_child(test.run)
        }
        Some(pid) => pid,
    };
    drop(writer);
    let mut limit = test.limit * PATIENCE.load(Ordering::SeqCst) as u32;
    if test.name.starts_with("endurance/") {
        limit *= endurance() as u32;
    }
    let status = wait(child, limit);
    sys::kill_group(child);
    let first = first_report(reader);
    match (status, first) {
        (Wait::Exited(0), None) => Outcome::Passed,
        (Wait::Exited(0), Some(r)) if r.starts_with('S') => Outcome::Skipped(r[1..].to_string()),
        (Wait::TimedOut, Some(r)) => Outcome::Failed(format!("{}; and it did not end", &r[1..])),
        (Wait::TimedOut, None) => Outcome::Failed(format!(
            "expected to end within {} s, it did not",
            limit.as_secs()
        )),
        (Wait::Unkillable, _) => Outcome::Failed(
            "expected to end when killed, the process is still there: held by the kernel".into(),
        ),
        (_, Some(r)) => Outcome::Failed(r[1..].to_string()),
        (Wait::Exited(code), None) => {
            Outcome::Failed(format!("expected exit status 0, got {code} and no report"))
        }
        (Wait::Signalled(signal), None) => Outcome::Failed(format!(
            "expected to end by itself, was killed by signal {signal}"
        )),
    }
}

enum Wait {
    Exited(i32),
    Signalled(i32),
    TimedOut,
    Unkillable,
}

/// Waits for `child` to end, kills it when `limit` has passed.
fn wait(child: libc::pid_t, limit: Duration) -> Wait {
    let pidfd = sys::pidfd_open(child);
    if !sys::wait_readable(pidfd.as_raw_fd(), limit) {
        sys::kill_group(child);
        if !sys::wait_readable(pidfd.as_raw_fd(), REAP_LIMIT) {
            return Wait::Unkillable;
        }
        sys::reap(child);
        return Wait::TimedOut;
    }
    match sys::reap(child) {
        sys::Ended::Exited(code) => Wait::Exited(code),
        sys::Ended::Signalled(signal) => Wait::Signalled(signal),
    }
}

/// The first line that the test wrote, if any.
fn first_report(reader: OwnedFd) -> Option<String> {
    sys::set_nonblocking(reader.as_raw_fd());
    let mut text = Vec::new();
    // A grandchild that escaped may still hold the pipe: take what is there, don't wait for the end.
    let _ = File::from(reader).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    text.lines().next().map(str::to_string)
}

/// Runs `tests` and prints a line for each. Returns the suite's exit status.
pub fn run_suite(tests: &[Test], show_times: bool) -> i32 {
    let (mut passed, mut failed) = (0, 0);
    let mut out = std::io::stdout();
    for test in tests {
        let begin = Instant::now();
        let outcome = run(test);
        let time = if show_times {
            format!(" [{} ms]", begin.elapsed().as_millis())
        } else {
            String::new()
        };
        let line = match outcome {
            Outcome::Passed => {
                passed += 1;
                format!("ok {}{time}", test.name)
            }
            Outcome::Failed(why) => {
                failed += 1;
                format!("FAILED {}: {why}{time}", test.name)
            }
            Outcome::Skipped(why) => format!("skipped {}: {why}{time}", test.name),
        };
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            process::exit(1);
        }
    }
    println!("{passed} passed, {failed} failed");
    i32::from(failed != 0)
}

/// Takes over a descriptor number as an owned descriptor.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the callers pass a descriptor that the kernel has just given to them alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
