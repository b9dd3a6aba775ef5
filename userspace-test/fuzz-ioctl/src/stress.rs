// SPDX-License-Identifier: GPL-2.0
//! Many threads call the same VM at once, while memory goes away under it, descriptors are closed
//! and signals come; now and then the process is killed in the middle.
//!
//! Each VM has a process of its own, which may well harm itself: arguments have pointers to anywhere.
//! What counts is that it can be ended, and that the kernel is well.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::calls::{Calls, SET_SIGNAL_MASK};
use crate::lists;
use crate::machine::{self, Machine};
use crate::random::Random;
use crate::sequence;
use crate::step::{Argument, Edit, Step, Value};
use crate::sys::{self, Disturbance, Shared};

/// Steps of each thread.
const STEPS: u64 = 60;
/// How often a VM is run to see whether it fails.
const TRIES: usize = 8;
/// How long a process may take to end that was told to, or was killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A step of a thread: what is in no sequence that has a defined result is in here.
fn wild(calls: &Calls, random: &mut Random, vcpus: usize) -> Step {
    let page = || sys::PAGE as u64;
    match random.below(24) {
        0 => Step::Disturb {
            at: random.below(512) * page(),
            len: random.pick(&[1, 1, 16, 512]) * page(),
            how: random.pick(&[
                Disturbance::Unmap,
                Disturbance::Remap,
                Disturbance::Remap,
                Disturbance::Discard,
                Disturbance::Protect(libc::PROT_READ),
                Disturbance::Protect(libc::PROT_NONE),
                Disturbance::Protect(libc::PROT_READ | libc::PROT_WRITE),
            ]),
        },
        1 => Step::RunPage {
            vcpu: random.below(vcpus as u64) as usize,
            at: random.below(256) as usize * 8,
            value: random.number(),
        },
        2 if random.one_in(4) => Step::Close(random.below(vcpus as u64) as usize),
        _ => {
            let mut step = sequence::anything(calls, random, vcpus);
            if let Step::Ioctl(call) = &mut step {
                if let Argument::Block(block) = &mut call.argument {
                    if random.one_in(3) && block.bytes.len() >= 8 {
                        let at = random.below(block.bytes.len() as u64 - 7) as usize;
                        let value = Value::Set(random.number());
                        block.edits.push(Edit {
                            at,
                            width: 8,
                            value,
                        });
                    }
                }
            }
            step
        }
    }
}

/// What the thread `thread` of a VM does, each step with its number among those of all threads.
fn steps_of(seed: u64, number: u64, thread: u64, vcpus: usize) -> Vec<(u64, Step)> {
    let calls = Calls::all();
    let mut random = Random::of(seed ^ ((thread + 1) << 48), number);
    let mut odd = Random::of(seed ^ ((thread + 1) << 48) ^ 0x006f_6464, number);
    (0..STEPS)
        .map(|step| {
            let mut what = wild(&calls, &mut random, vcpus);
            if odd.one_in(12) {
                what = Step::Ioctl(calls.strange(&mut odd, vcpus));
            }
            // However it came about: with any mask at all, nothing but SIGKILL would wake a halted vCPU.
            if let Step::Ioctl(call) = &mut what {
                if call.number as u32 == SET_SIGNAL_MASK as u32 {
                    call.argument = Argument::Block(lists::signal_mask(&mut odd));
                }
            }
            (thread * STEPS + step, what)
        })
        .collect()
}

/// The child: a VM, `threads` threads, and signals for them until all are done. Of their steps those
/// in `keep` are carried out, or all.
fn child(seed: u64, number: u64, threads: u64, keep: Option<&[u64]>, count: &AtomicU64) {
    let mut random = Random::of(seed ^ 0x7374_7265_7373, number);
    let (steps, vcpus) = sequence::set_up(&mut random);
    let mut machine = Machine::new();
    for step in &steps {
        machine.step(step);
        count.fetch_add(1, Ordering::Relaxed);
    }
    let ids: Vec<_> = (0..threads).map(|_| AtomicI32::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let mut own = machine.share(thread + 1);
            let ids = &ids;
            scope.spawn(move || {
                let id = &ids[thread as usize];
                id.store(sys::thread_id(), Ordering::SeqCst);
                for (number, step) in steps_of(seed, number, thread, vcpus) {
                    if keep.is_none_or(|keep| keep.contains(&number)) {
                        own.step_shared(&step);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
                id.store(-1, Ordering::SeqCst);
            });
        }
        // What waits in KVM_RUN has to be woken.
        while ids.iter().any(|id| id.load(Ordering::SeqCst) != -1) {
            std::thread::sleep(Duration::from_millis(2));
            ids.iter()
                .for_each(|id| sys::signal_thread(id.load(Ordering::SeqCst)));
        }
    });
}

/// The kernel's taint flags: a WARN or an oops sets one.
pub fn taint() -> String {
    std::fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default()
}

/// The steps that [`child`] carries out, for people.
pub fn describe(seed: u64, number: u64, threads: u64, keep: &[u64]) -> String {
    let mut random = Random::of(seed ^ 0x7374_7265_7373, number);
    let (steps, vcpus) = sequence::set_up(&mut random);
    let set_up = steps.iter().map(|step| format!("  first: {step}\n"));
    let rest = (0..threads).flat_map(|thread| {
        let kept = steps_of(seed, number, thread, vcpus).into_iter();
        kept.filter(|(number, _)| keep.contains(number))
            .map(move |(number, step)| format!("  thread {thread}, {number}: {step}\n"))
    });
    set_up.chain(rest).collect()
}

/// Steps of all threads together.
pub fn steps(threads: u64) -> u64 {
    threads * STEPS
}

/// Runs one VM, with `threads` threads of which all steps or those in `keep` are carried out; whether
/// it was killed.
///
/// # Errors
///
/// Says what went wrong where it could not be ended, or the kernel is unwell after it.
pub fn run_one(
    seed: u64,
    number: u64,
    threads: u64,
    keep: Option<&[u64]>,
    made: &AtomicU64,
) -> Result<bool, String> {
    let before = taint();
    let mut random = Random::of(seed ^ 0x6b69_6c6c, number);
    let kill = random
        .one_in(4)
        .then(|| Duration::from_micros(random.below(20_000)));
    let pid = sys::fork(|| child(seed, number, threads, keep, made));
    let mut deadline = Instant::now() + PATIENCE;
    if let Some(after) = kill {
        std::thread::sleep(after);
        sys::kill(pid);
    }
    let mut told = false;
    while sys::has_ended(pid).is_none() {
        if Instant::now() > deadline {
            if told || kill.is_some() {
                return Err("a killed process does not end".into());
            }
            sys::kill(pid);
            told = true;
            deadline = Instant::now() + PATIENCE;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    if told {
        return Err("the threads did not come to an end by themselves".into());
    }
    if taint() != before {
        return Err("the kernel is tainted: its log says why".into());
    }
    Ok(kill.is_some())
}

/// Runs VMs from `first` on until `count` calls were made; returns how many VMs and calls that were,
/// and how many processes were killed.
///
/// # Errors
///
/// The number of a VM that could not be ended, or after which the kernel was unwell, and the words
/// for that.
pub fn run_all(
    seed: u64,
    first: u64,
    count: u64,
    threads: u64,
    mut progress: impl FnMut(u64),
) -> Result<[u64; 3], (u64, String)> {
    machine::pages();
    let made = Shared::new();
    let (mut number, mut killed) = (first, 0);
    while made.counter().load(Ordering::Relaxed) < count {
        let done = run_one(seed, number, threads, None, made.counter());
        killed += u64::from(done.map_err(|what| (number, what))?);
        number += 1;
        progress(made.counter().load(Ordering::Relaxed));
    }
    Ok([
        number - first,
        made.counter().load(Ordering::Relaxed),
        killed,
    ])
}

/// Runs the VM `number` some times with the steps in `keep`: those of different threads come in
/// another order each time.
///
/// # Errors
///
/// As [`run_one`].
pub fn run_kept(seed: u64, number: u64, threads: u64, keep: &[u64]) -> Result<(), String> {
    machine::pages();
    let made = Shared::new();
    for _ in 0..TRIES {
        run_one(seed, number, threads, Some(keep), made.counter())?;
    }
    Ok(())
}
