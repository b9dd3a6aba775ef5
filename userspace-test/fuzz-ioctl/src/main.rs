// SPDX-License-Identifier: GPL-2.0
//! Random calls of `/dev/kvm` and random guests. All is derived from a seed and a number, so that
//! each sequence, VM and guest can be had again by itself. Runs as root.

mod agree;
mod call;
mod calls;
mod canary;
mod compare;
mod cpuid;
mod fields;
mod guests;
mod lists;
mod machine;
mod program;
mod races;
mod random;
mod sequence;
mod shrink;
mod state;
mod step;
mod stress;
mod sys;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::exit;
use std::time::Instant;

const USAGE: &str = "usage: fuzz-ioctl agree [--seed=N] [--first=N] [--count=N]
       fuzz-ioctl agree --seed=N --case=N[,N...] [--without=STEP[,STEP...]]
       fuzz-ioctl compare FILE FILE
       fuzz-ioctl stress [--seed=N] [--first=N] [--count=N] [--threads=N] [--json]
       fuzz-ioctl stress --seed=N --first=N [--threads=N] --keep=STEP[-STEP][,..]
       fuzz-ioctl shrink [--threads=N] COMMAND...
       fuzz-ioctl guests [--seed=N] [--first=N] [--count=N] [--json]
       fuzz-ioctl races [--seed=N] [--first=N] [--count=N] [--json]

agree    prints a hash of what each sequence of calls returned, and of the state after each call;
         the same seed gives the same on every KVM. With --case all of it, in words.
compare  two outputs of that; status 1 where they differ.
stress   VMs, each called by some threads at once while memory goes away, signals come and the
         process may be killed, until --count calls were made. With --keep one VM, some times, of whose
         threads' steps only those that are named are carried out.
shrink   looks for the fewest such steps with which COMMAND --keep=STEPS still fails.
guests   --count guests of any state and any code, each KVM_RUN with canaries in the host's registers.
races    --count guests of two or three vCPUs that run at once on page tables which one of them rewrites,
         while the VMM takes memory away and sends interrupts.";

/// How many of the sequences that disagree are named.
const NAMED: usize = 20;

/// Compares what two runs printed; status 1 where they disagree. The last line is how many did.
fn compare(one: &str, other: &str) -> ! {
    print!("{}", compare::explain(one, other));
    let (all, bad) = compare::disagreements(one, other);
    if !bad.is_empty() {
        let named: Vec<_> = bad.iter().take(NAMED).map(u64::to_string).collect();
        println!("disagree: {}", named.join(","));
    }
    println!("{} agree, {} disagree", all - bad.len(), bad.len());
    exit(i32::from(!bad.is_empty()));
}

/// What was asked for.
struct Options {
    seed: u64,
    first: u64,
    count: u64,
    threads: u64,
    json: bool,
    cases: Vec<u64>,
    without: Vec<usize>,
    keep: Option<Vec<u64>>,
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split(',').map(|part| part.parse().ok()).collect()
}

fn options(arguments: &[String]) -> Option<Options> {
    let mut options = Options {
        seed: 1,
        first: 0,
        count: 1000,
        threads: 4,
        json: false,
        cases: Vec::new(),
        without: Vec::new(),
        keep: None,
    };
    for argument in arguments {
        if argument == "--json" {
            options.json = true;
            continue;
        }
        let (name, value) = argument.split_once('=')?;
        if name == "--keep" {
            options.keep = Some(shrink::numbers(value)?);
            continue;
        }
        let values = numbers(value)?;
        match name {
            "--seed" => options.seed = values[0],
            "--first" => options.first = values[0],
            "--count" => options.count = values[0],
            "--threads" => options.threads = values[0].clamp(1, 64),
            "--case" => options.cases = values,
            "--without" => options.without = values.iter().map(|&n| n as usize).collect(),
            _ => return None,
        }
    }
    Some(options)
}

/// A line on a terminal that says how far it is.
fn progress(what: &str, of: u64) -> impl FnMut(u64) {
    let shown = std::io::stderr().is_terminal();
    let what = what.to_string();
    let mut last = Instant::now();
    move |done| {
        if shown && last.elapsed().as_millis() > 200 {
            last = Instant::now();
            let _ = write!(std::io::stderr(), "\r{what}: {done} of {of}");
        }
    }
}

/// What failed, with how to have it again.
fn fail(mode: &str, options: &Options, number: u64, what: &str) -> ! {
    println!("FAILED {mode} {number} of seed {}: {what}", options.seed);
    println!(
        "again: fuzz-ioctl {mode} --seed={} --first={number} --count=1",
        options.seed
    );
    println!("0 passed, 1 failed");
    exit(1)
}

/// One VM of stress, with some of its steps.
fn stress_kept(options: &Options, keep: &[u64]) {
    let Options {
        seed,
        first,
        threads,
        ..
    } = *options;
    print!("{}", stress::describe(seed, first, threads, keep));
    match stress::run_kept(seed, first, threads, keep) {
        Ok(()) => println!("1 passed, 0 failed"),
        Err(what) => {
            println!("FAILED stress {first} of seed {seed}: {what}");
            println!("0 passed, 1 failed");
            exit(1);
        }
    }
}

/// The fewest steps with which a command still fails; status 1 if it does not fail with all.
fn shrink(threads: u64, command: &[String]) -> ! {
    match shrink::with_command(command, stress::steps(threads)) {
        Some(steps) => {
            println!("--keep={}", shrink::ranges(&steps));
            exit(0)
        }
        None => {
            println!("with all steps it does not fail: it is rare, or needs the VMs before it");
            exit(1)
        }
    }
}

fn stress(options: &Options) {
    if let Some(keep) = &options.keep {
        return stress_kept(options, keep);
    }
    let progress = progress("calls", options.count);
    let Options {
        seed,
        first,
        count,
        threads,
        ..
    } = *options;
    match stress::run_all(seed, first, count, threads, progress) {
        Ok([vms, made, killed]) if options.json => {
            println!(
                "{{\"vms\":{vms},\"calls\":{made},\"killed\":{killed},\"threads\":{threads}}}"
            );
        }
        Ok([vms, made, killed]) => {
            println!(
                "{made} calls on {vms} VMs by {threads} threads each, {killed} of them killed"
            );
            println!("1 passed, 0 failed");
        }
        Err((number, what)) => fail("stress", options, number, &what),
    }
}

/// The words for how a KVM_RUN ended.
fn end(value: i64, reason: u32) -> String {
    if value < 0 {
        return format!("errno_{}", -value);
    }
    format!("exit_{reason}")
}

fn guests(options: &Options) {
    let before = stress::taint();
    let progress = progress("guests", options.count);
    let found = guests::run_all(options.seed, options.first, options.count, progress);
    let guests::Report { ends, canaries } = match found {
        Ok(report) => report,
        Err((number, what)) => fail("guests", options, number, &what),
    };
    if stress::taint() != before {
        fail(
            "guests",
            options,
            options.first,
            "the kernel is tainted: its log says why",
        );
    }
    print_ends(options, &ends);
    if !options.json {
        println!("canaries: {canaries}");
        println!("1 passed, 0 failed");
    }
}

fn races(options: &Options) {
    let progress = progress("guests", options.count);
    match races::run_all(options.seed, options.first, options.count, progress) {
        Ok(ends) => print_ends(options, &ends),
        Err((number, what)) => fail("races", options, number, &what),
    }
    if !options.json {
        println!("1 passed, 0 failed");
    }
}

/// How the KVM_RUNs of guests ended.
fn print_ends(options: &Options, ends: &BTreeMap<(i64, u32), u64>) {
    let ends: Vec<_> = ends.iter().map(|((v, r), n)| (end(*v, *r), n)).collect();
    if options.json {
        let ends: Vec<_> = ends
            .iter()
            .map(|(what, n)| format!("\"{what}\":{n}"))
            .collect();
        println!("{{\"guests\":{},{}}}", options.count, ends.join(","));
    } else {
        let ends: Vec<_> = ends.iter().map(|(what, n)| format!("{what} {n}")).collect();
        println!("{} guests: {}", options.count, ends.join(", "));
    }
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    sys::catch(libc::SIGALRM);
    let mode = arguments.first().map_or("", String::as_str);
    if mode == "compare" && arguments.len() == 3 {
        compare(&arguments[1], &arguments[2]);
    }
    if mode == "shrink" && arguments.len() > 1 {
        let threads = arguments[1].strip_prefix("--threads=");
        let command = &arguments[if threads.is_some() { 2 } else { 1 }..];
        let threads = threads.map_or(Some(4), |number| number.parse().ok());
        if let (Some(threads), false) = (threads, command.is_empty()) {
            shrink(threads, command);
        }
    }
    let Some(options) = arguments.get(1..).and_then(options) else {
        eprintln!("{USAGE}");
        exit(2);
    };
    match mode {
        "agree" => agree::run(&agree::Options {
            seed: options.seed,
            first: options.first,
            count: options.count,
            cases: options.cases,
            without: options.without,
        }),
        "stress" => stress(&options),
        "guests" => guests(&options),
        "races" => races(&options),
        _ => {
            eprintln!("{USAGE}");
            exit(2);
        }
    }
}
