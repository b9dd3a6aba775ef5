// SPDX-License-Identifier: GPL-2.0
//! Hostile guests of several vCPUs at once: one rewrites the page tables, its own code and the others'
//! while they read, write, execute and take exceptions through them, and the VMM takes memory away,
//! logs writes and sends interrupts meanwhile.
//!
//! KVM_RUN ends with something that the ABI knows and leaves the host's state alone. When all is
//! quiet, the tables are as they should be and each vCPU must see, and write, what is in memory.

mod program;

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvm_bindings::*;

use crate::call::ioc;
use crate::calls;
use crate::canary::{self, Canary};
use crate::guests::is_known;
use crate::machine::{self, Machine};
use crate::random::Random;
use crate::sequence::{self, fields, ioctl, set, slot, MEMORY};
use crate::step::{Argument, Edit, On, Step, Value};
use crate::stress::taint;
use crate::sys::{self, Disturbance, Shared};

/// KVM_RUNs of each vCPU, each of which a signal ends after [`SIGNALS`] at the latest.
const RUNS: usize = 60;
const SIGNALS: Duration = Duration::from_millis(2);
/// Steps of the VMM.
const STEPS: usize = 60;
/// How long a process may take.
const PATIENCE: Duration = Duration::from_secs(60);

const GET_DIRTY_LOG: u64 = ioc(1, 0x42, 16);

/// The log of written pages, to scratch memory.
fn dirty_log() -> Step {
    let bitmap = Edit {
        at: 8,
        width: 8,
        value: Value::Scratch(0),
    };
    let log = fields(GET_DIRTY_LOG, None, vec![bitmap]);
    ioctl("GET_DIRTY_LOG", On::Vm, GET_DIRTY_LOG, log)
}

/// A step of the VMM while vCPUs run.
fn meddle(random: &mut Random, vcpus: usize) -> Vec<Step> {
    let vcpu = On::Vcpu(random.below(vcpus as u64) as usize);
    let page = || sys::PAGE as u64;
    match random.below(14) {
        0..=2 => vec![slot(MEMORY, random.pick(&[0, KVM_MEM_LOG_DIRTY_PAGES]))],
        3 => vec![
            slot(0, 0),
            slot(MEMORY, KVM_MEM_READONLY),
            slot(0, 0),
            slot(MEMORY, random.pick(&[0, KVM_MEM_LOG_DIRTY_PAGES])),
        ],
        4 => vec![slot(0, 0), slot(MEMORY, KVM_MEM_LOG_DIRTY_PAGES)],
        5 | 6 => vec![dirty_log()],
        7 => {
            let (at, len) = random.pick(&[
                (program::FRAMES, 16),
                (program::FRAMES, 1),
                (program::PML4, 1),
                (0x10_0000, 256),
            ]);
            let how = random.pick(&[Disturbance::Discard, Disturbance::Remap]);
            let len = len * page();
            vec![Step::Disturb { at, len, how }]
        }
        8 | 9 => {
            let address = [(0, random.pick(&[0xfee0_0000, 0xfee0_1000, 0xfeef_f000]))];
            let data = [(8, random.pick(&[0x30, 0x31, 0x44, 0x430]))];
            let edits = address.iter().chain(&data).map(|&(at, v)| set(at, 4, v));
            let number = ioc(1, 0xa5, 32);
            let msi = fields(number, None, edits.collect());
            (0..8)
                .map(|_| ioctl("SIGNAL_MSI", On::Vm, number, msi.clone()))
                .collect()
        }
        10 => vec![ioctl("NMI", vcpu, ioc(0, 0x9a, 0), Argument::Value(0))],
        11 => {
            let number = ioc(3, 0x85, 24);
            let address = program::PAGES + random.below(program::COUNT) * page();
            let translate = fields(number, None, vec![set(0, 8, address)]);
            vec![ioctl("TRANSLATE", vcpu, number, translate)]
        }
        12 => {
            let number = ioc(1, 0x86, 4);
            let vector = fields(number, None, vec![set(0, 4, random.pick(&[0x30, 0x21]))]);
            vec![ioctl("INTERRUPT", vcpu, number, vector)]
        }
        _ => {
            // Tables as they should be, from outside.
            let at = program::PML4 + 8 * random.below(2);
            let value = random.pick(&[0, 0x5007, 0x8007]);
            vec![Step::Poke { at, value }]
        }
    }
}

/// Has `vcpu` begin its code anew.
fn restart(machine: &mut Machine, vcpu: usize) {
    let on = On::Vcpu(vcpu);
    let runnable = fields(ioc(1, 0x99, 4), None, Vec::new());
    machine.step(&ioctl("SET_MP_STATE", on, ioc(1, 0x99, 4), runnable));
    let no_events = fields(ioc(1, 0xa0, 64), None, Vec::new());
    machine.step(&ioctl("SET_VCPU_EVENTS", on, ioc(1, 0xa0, 64), no_events));
    for step in sequence::long_mode(vcpu) {
        if matches!(step, Step::Ioctl(_)) {
            machine.step(&step);
        }
    }
    let tr = offset_of!(kvm_sregs, tr);
    let edits = vec![
        set(tr, 8, program::tss_of(vcpu)),
        set(tr + offset_of!(kvm_segment, limit), 4, 0x67),
        set(tr + offset_of!(kvm_segment, type_), 1, 11),
        set(offset_of!(kvm_sregs, idt) + 8, 2, 0xfff),
        set(offset_of!(kvm_sregs, cr3), 8, program::PML4),
    ];
    let sregs = fields(calls::SET_SREGS, Some(calls::GET_SREGS), edits);
    machine.step(&ioctl("SET_SREGS", on, calls::SET_SREGS, sregs));
    let edits = vec![
        set(offset_of!(kvm_regs, rip), 8, program::code_of(vcpu)),
        set(offset_of!(kvm_regs, rsp), 8, program::stack_of(vcpu)),
    ];
    let regs = fields(calls::SET_REGS, Some(calls::GET_REGS), edits);
    machine.step(&ioctl("SET_REGS", on, calls::SET_REGS, regs));
}

/// Whether a vCPU goes no further by itself.
fn is_over(value: i64, reason: u32) -> bool {
    let over = [
        KVM_EXIT_SHUTDOWN,
        KVM_EXIT_FAIL_ENTRY,
        KVM_EXIT_INTERNAL_ERROR,
    ];
    value == -i64::from(libc::EFAULT) || value == 0 && over.contains(&reason)
}

/// How often runs ended so: (0, exit reason) or (error, 0).
pub type Ends = BTreeMap<(i64, u32), u64>;

/// Runs a vCPU; whatever has become of tables and code when it stops for good is put right.
fn run(
    machine: &mut Machine,
    vcpu: usize,
    codes: &[Vec<u8>],
    random: &mut Random,
) -> Result<Ends, String> {
    let mut canary = Canary::new(random);
    let mut ends = Ends::new();
    for _ in 0..RUNS {
        let Some((value, reason, found)) = machine.run_watched(vcpu, random.number(), &mut canary)
        else {
            return Err("the vCPU has no pages".into());
        };
        found.map_err(|what| format!("the host's state has changed: {what}"))?;
        if !is_known(value, reason) {
            return Err(format!("KVM_RUN returned {value}, exit reason {reason}"));
        }
        let key = if value < 0 { (value, 0) } else { (0, reason) };
        *ends.entry(key).or_insert(0) += 1;
        if is_over(value, reason) {
            lay_out(machine, codes);
            restart(machine, vcpu);
        }
    }
    canary
        .end()
        .map_err(|what| format!("the host's state has changed: {what}"))?;
    Ok(ends)
}

fn lay_out(machine: &Machine, codes: &[Vec<u8>]) {
    program::lay_out(machine, codes.len());
    for (vcpu, code) in codes.iter().enumerate() {
        machine.load(program::code_of(vcpu), code);
    }
}

/// What a vCPU that is stuck was doing.
fn where_it_is(machine: &mut Machine, vcpu: usize) -> String {
    let on = On::Vcpu(vcpu);
    let mut get = |name, number| {
        let answer = machine.step(&ioctl(name, on, number, fields(number, None, Vec::new())));
        move |at: usize| {
            let bytes = answer.data.get(at..at + 8).unwrap_or(&[0; 8]);
            u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
        }
    };
    let regs = get("GET_REGS", calls::GET_REGS);
    let sregs = get("GET_SREGS", calls::GET_SREGS);
    let state = get("GET_MP_STATE", calls::GET_MP_STATE);
    let (rip, rsp) = (offset_of!(kvm_regs, rip), offset_of!(kvm_regs, rsp));
    let control = [
        offset_of!(kvm_sregs, cr0),
        offset_of!(kvm_sregs, cr2),
        offset_of!(kvm_sregs, cr3),
        offset_of!(kvm_sregs, cr4),
        offset_of!(kvm_sregs, efer),
    ];
    format!(
        "RIP {:x}, RSP {:x}, CR0, 2, 3, 4 and EFER {:x?}, state {}",
        regs(rip),
        regs(rsp),
        control.map(sregs),
        state(0) as u32
    )
}

/// What each vCPU sees and writes when nobody meddles any more.
fn check(machine: &mut Machine, vcpus: usize, random: &mut Random) -> Result<(), String> {
    // First with all that has been mapped so far, which a slot that is made anew would take away.
    for flags in [None, Some(0), Some(KVM_MEM_LOG_DIRTY_PAGES)] {
        if let Some(flags) = flags {
            machine.step(&slot(0, 0));
            machine.step(&slot(MEMORY, flags));
        }
        let logs = flags.is_some_and(|flags| flags != 0);
        for vcpu in 0..vcpus {
            check_one(machine, vcpu, logs, random)?;
        }
    }
    Ok(())
}

fn check_one(
    machine: &mut Machine,
    vcpu: usize,
    logs: bool,
    random: &mut Random,
) -> Result<(), String> {
    let marker = random.next() | 1;
    let frame = |page: u64| program::FRAMES + page * sys::PAGE as u64;
    let code = program::checker(marker);
    lay_out(machine, &vec![code; vcpu + 1]);
    for page in 0..program::COUNT {
        machine.load(frame(page), &(marker ^ (page << 32)).to_le_bytes());
    }
    let done = program::RESULT + 8 * program::COUNT;
    machine.load(done, &[0; 8]);
    machine.step(&dirty_log());
    restart(machine, vcpu);
    let mut canary = Canary::new(random);
    let word = |machine: &Machine, at| {
        let bytes = machine.dump(at, 8);
        u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
    };
    let mut last = Vec::new();
    for _ in 0..RUNS {
        if word(machine, done) == marker {
            break;
        }
        // An interrupt that still waits may come first.
        if let Some((value, reason, found)) = machine.run_briefly(vcpu, 0, &mut canary) {
            found.map_err(|what| format!("the host's state has changed: {what}"))?;
            last.push((value, reason));
        }
    }
    if word(machine, done) != marker {
        let state = where_it_is(machine, vcpu);
        return Err(format!(
            "vCPU {vcpu} does not come to the end of a check ({last:?}): {state}"
        ));
    }
    let log = machine.step(&dirty_log());
    for page in 0..program::COUNT {
        let (seen, want) = (
            word(machine, program::RESULT + 8 * page),
            marker ^ (page << 32),
        );
        if seen != want {
            return Err(format!(
                "vCPU {vcpu} reads {seen:x} from page {page}, not {want:x}"
            ));
        }
        let written = word(machine, frame(page) + 8);
        if written != marker {
            return Err(format!(
                "vCPU {vcpu} wrote {marker:x} to page {page}, not {written:x}"
            ));
        }
        let number = (frame(page) / sys::PAGE as u64) as usize;
        // The bitmap lies behind the call's structure.
        let byte = log.data.get(16 + number / 8).copied().unwrap_or(0);
        if logs && byte & 1 << (number % 8) == 0 {
            return Err(format!(
                "page {page}, which vCPU {vcpu} wrote, is not in the log"
            ));
        }
    }
    Ok(())
}

/// The child: a VM, a thread for each vCPU and one for the VMM, and signals until all are done.
fn child(seed: u64, number: u64, ends: &[Shared]) {
    let mut random = Random::of(seed ^ 0x0072_6163_6573, number);
    let vcpus = random.pick(&[2, 2, 3]);
    let steps = sequence::set_up_long(&mut random, vcpus);
    let codes: Vec<_> = (0..vcpus)
        .map(|vcpu| program::code(&mut random, vcpu))
        .collect();
    let mut machine = Machine::new();
    steps.iter().for_each(|step| drop(machine.step(step)));
    lay_out(&machine, &codes);
    (0..vcpus).for_each(|vcpu| restart(&mut machine, vcpu));

    let ids: Vec<_> = (0..=vcpus).map(|_| AtomicI32::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..=vcpus {
            let mut own = machine.share(thread as u64 + 1);
            let (ids, codes) = (&ids, &codes);
            scope.spawn(move || {
                let id = &ids[thread];
                id.store(sys::thread_id(), Ordering::SeqCst);
                let mut random = Random::of(seed ^ ((thread as u64 + 1) << 48), number);
                let done = if thread < vcpus {
                    run(&mut own, thread, codes, &mut random)
                } else {
                    for _ in 0..STEPS {
                        for step in meddle(&mut random, vcpus) {
                            own.step(&step);
                        }
                    }
                    Ok(Ends::new())
                };
                id.store(-1, Ordering::SeqCst);
                match done {
                    Ok(found) => found
                        .into_iter()
                        .for_each(|(key, count)| count_end(ends, key, count)),
                    Err(what) => fail(number, &what),
                }
            });
        }
        while ids.iter().any(|id| id.load(Ordering::SeqCst) != -1) {
            std::thread::sleep(SIGNALS);
            ids.iter()
                .for_each(|id| sys::signal_thread(id.load(Ordering::SeqCst)));
        }
    });
    if let Err(what) = check(&mut machine, vcpus, &mut random) {
        fail(number, &what);
    }
}

/// Ends the child.
fn fail(number: u64, what: &str) -> ! {
    println!("guest {number}: {what}");
    std::process::exit(1)
}

/// Exit reasons and errors that are counted.
const KINDS: usize = 256;

fn count_end(ends: &[Shared], (value, reason): (i64, u32), count: u64) {
    let at = if value < 0 {
        KINDS / 2 + (-value) as usize
    } else {
        reason as usize
    };
    let counter: &AtomicU64 = ends[at % KINDS].counter();
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Runs guests `first` to `first + count - 1`; how their KVM_RUNs ended.
///
/// # Errors
///
/// The number of the first that fails, and what it was.
pub fn run_all(
    seed: u64,
    first: u64,
    count: u64,
    mut progress: impl FnMut(u64),
) -> Result<Ends, (u64, String)> {
    machine::pages();
    canary::prepare();
    let ends: Vec<_> = (0..KINDS).map(|_| Shared::new()).collect();
    let before = taint();
    for number in first..first + count {
        let pid = sys::fork(|| child(seed, number, &ends));
        let deadline = Instant::now() + PATIENCE;
        let well = loop {
            if let Some(well) = sys::has_ended(pid) {
                break well;
            }
            if Instant::now() > deadline {
                sys::kill(pid);
                return Err((number, "the threads did not come to an end".into()));
            }
            std::thread::sleep(Duration::from_micros(500));
        };
        if !well {
            return Err((number, "it says above what it found".into()));
        }
        if taint() != before {
            return Err((number, "the kernel is tainted: its log says why".into()));
        }
        progress(number - first + 1);
    }
    let found = ends.iter().enumerate().filter_map(|(at, counter)| {
        let count = counter.counter().load(Ordering::Relaxed);
        let key = if at < KINDS / 2 {
            (0, at as u32)
        } else {
            ((KINDS / 2) as i64 - at as i64, 0)
        };
        (count > 0).then_some((key, count))
    });
    Ok(found.collect())
}
