// SPDX-License-Identifier: GPL-2.0
//! How long a thread that nothing may delay is delayed while a command runs: it has the highest
//! real-time priority, sleeps for a while, and compares the time at which it wakes with that at which
//! it should have. What delays it is code that keeps interrupts or preemption off, and the way from a
//! timer's interrupt to a thread.
//!
//! ```text
//! sampler COMMAND [ARG...]
//! ```

use std::fs;
use std::path::Path;
use std::process::{exit, Command};

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

#[repr(C)]
struct SchedParam {
    priority: i32,
}

const CLOCK_MONOTONIC: i32 = 1;
const TIMER_ABSTIME: i32 = 1;
const SCHED_FIFO: i32 = 1;
const MCL_CURRENT: i32 = 1;
/// Between two samples, in nanoseconds; no multiple of the tick.
const PERIOD: u64 = 307_000;
/// Delays in KVM that are shown.
const SHOWN: usize = 8;
/// A delay from which on stacks are looked at, in nanoseconds: what the kernel takes by itself is less.
const LONG: u64 = 80_000;
/// Functions of a stack that are shown.
const DEPTH: usize = 14;

extern "C" {
    fn clock_gettime(clock: i32, now: *mut Timespec) -> i32;
    fn clock_nanosleep(clock: i32, flags: i32, until: *const Timespec, left: *mut Timespec) -> i32;
    fn sched_setscheduler(pid: i32, policy: i32, param: *const SchedParam) -> i32;
    fn mlockall(flags: i32) -> i32;
}

/// Nanoseconds since some moment.
fn now() -> u64 {
    let mut now = Timespec {
        seconds: 0,
        nanoseconds: 0,
    };
    // SAFETY: The structure outlives the call.
    unsafe { clock_gettime(CLOCK_MONOTONIC, &mut now) };
    now.seconds as u64 * 1_000_000_000 + now.nanoseconds as u64
}

fn sleep_until(moment: u64) {
    let until = Timespec {
        seconds: (moment / 1_000_000_000) as i64,
        nanoseconds: (moment % 1_000_000_000) as i64,
    };
    // SAFETY: The structure outlives the call, and an absolute sleep has nothing left.
    unsafe { clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, std::ptr::null_mut()) };
}

/// The functions, innermost first, in which threads were preempted, a line for each thread that has
/// KVM's among them.
fn stacks() -> String {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let is_number = |name: &str| name.parse::<u32>().is_ok();
    let mut stacks = String::new();
    for process in entries(Path::new("/proc")) {
        if !process.file_name().to_str().is_some_and(is_number) {
            continue;
        }
        for thread in entries(&process.path().join("task")) {
            let text = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let stack = text("stack");
            let functions = stack
                .lines()
                .filter_map(|line| line.split_whitespace().nth(1));
            let functions: Vec<_> = functions.take(DEPTH).collect();
            let is_preempted = functions
                .first()
                .is_some_and(|f| f.starts_with("preempt_schedule") || f.starts_with("irqentry"));
            if is_preempted && functions.iter().any(|f| f.contains("kvm")) {
                stacks += &format!("    {}\n", functions.join(" "));
            }
        }
    }
    stacks
}

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("a command");
    // Before this thread is a real-time one, which a child would inherit.
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .expect("the command starts");
    let param = SchedParam { priority: 99 };
    // SAFETY: The structure outlives the call; the other has no memory arguments.
    let done = unsafe { mlockall(MCL_CURRENT) | sched_setscheduler(0, SCHED_FIFO, &param) };
    assert_eq!(done, 0, "only root is never delayed");

    let (begin, mut samples) = (now(), 0u64);
    // Delay and stacks, the longest first.
    let mut longest: Vec<(u64, String)> = Vec::new();
    let mut of_all = 0;
    let mut next = begin + PERIOD;
    let status = loop {
        sleep_until(next);
        let woke = now();
        let delay = woke - next;
        samples += 1;
        of_all = delay.max(of_all);
        if delay >= LONG
            && longest
                .last()
                .is_none_or(|last| last.0 < delay || longest.len() < SHOWN)
        {
            let stacks = stacks();
            if !stacks.is_empty() {
                longest.push((delay, stacks));
                longest.sort_by(|a, b| b.0.cmp(&a.0));
                longest.truncate(SHOWN);
            }
        }
        if samples % 64 == 0 {
            if let Some(status) = child.try_wait().expect("the child's status") {
                break status;
            }
        }
        next = now() + PERIOD;
    };
    for (delay, stacks) in &longest {
        print!("delayed by {delay} ns, in\n{stacks}");
    }
    println!("longest of {samples}: {of_all} ns");
    exit(status.code().unwrap_or(1));
}
