// SPDX-License-Identifier: GPL-2.0
//! Hostile guests: any state, then any code. KVM_RUN ends with something that the ABI knows, and
//! nothing of the host's own state is another afterwards.

use std::collections::BTreeMap;

use kvm_bindings::*;

use crate::call::ioc;
use crate::calls::{self, Calls};
use crate::canary::Canary;
use crate::machine::Machine;
use crate::program;
use crate::random::Random;
use crate::sequence;
use crate::step::{Argument, Block, Edit, Ioctl, On, Step, Value};

/// KVM_RUNs of each vCPU of a guest.
const RUNS: usize = 12;

/// The guest `number` of `seed`.
struct Guest {
    steps: Vec<Step>,
    code: Vec<u8>,
    vcpus: usize,
    /// What answers each exit.
    answers: Vec<u64>,
    /// DR7, if the debug registers are to point to this program's own memory.
    watch: Option<u64>,
    /// This thread has breakpoints of its own meanwhile.
    breakpoints: bool,
}

/// A change that no table foresees.
fn spoil(random: &mut Random, step: &mut Step) {
    let Step::Ioctl(Ioctl {
        argument: Argument::Block(block),
        ..
    }) = step
    else {
        return;
    };
    if block.bytes.len() >= 8 && random.one_in(4) {
        let at = random.below(block.bytes.len() as u64 - 7) as usize & !7;
        let value = Value::Flip(random.number());
        block.edits.push(Edit {
            at,
            width: 8,
            value,
        });
    }
}

fn guest(calls: &Calls, seed: u64, number: u64) -> Guest {
    let mut random = Random::of(seed ^ 0x6775_6573_7473, number);
    let (mut steps, vcpus) = sequence::set_up(&mut random);
    if random.one_in(2) {
        for vcpu in 0..vcpus {
            steps.extend(sequence::long_mode(vcpu));
        }
    }
    for _ in 0..random.below(8) {
        let vcpu = random.below(vcpus as u64) as usize;
        let mut step = Step::Ioctl(calls.of_vcpu(&mut random, vcpu));
        spoil(&mut random, &mut step);
        steps.push(step);
    }
    Guest {
        steps,
        breakpoints: number % 2 == 0,
        code: program::any(&mut random),
        vcpus,
        answers: (0..RUNS).map(|_| random.number()).collect(),
        watch: random
            .one_in(3)
            .then(|| random.pick(&[0xffff_07aa, 0x1_0702, 0x3333_07ff])),
    }
}

/// Points the debug registers of a guest to `address`.
fn watch(vcpu: usize, address: u64, dr7: u64) -> Step {
    let mut block = Block::of(vec![0; 128]);
    block.get = Some(calls::GET_DEBUGREGS);
    for (at, value) in [
        (0, address),
        (8, address),
        (16, address),
        (24, address),
        (40, dr7),
    ] {
        let value = Value::Set(value);
        block.edits.push(Edit {
            at,
            width: 8,
            value,
        });
    }
    Step::Ioctl(Ioctl {
        name: "SET_DEBUGREGS",
        on: On::Vcpu(vcpu),
        number: ioc(1, 0xa2, 128),
        argument: Argument::Block(block),
        comparable: true,
    })
}

/// Whether KVM_RUN may end so (api.rst, 5, and 4.10 for errors).
pub fn is_known(value: i64, reason: u32) -> bool {
    const ERRORS: [i32; 5] = [
        libc::EINTR,
        libc::EAGAIN,
        libc::EFAULT,
        libc::EINVAL,
        libc::ENOMEM,
    ];
    if value < 0 {
        return ERRORS.contains(&(-value as i32));
    }
    matches!(
        reason,
        KVM_EXIT_IO
            | KVM_EXIT_MMIO
            | KVM_EXIT_HLT
            | KVM_EXIT_SHUTDOWN
            | KVM_EXIT_FAIL_ENTRY
            | KVM_EXIT_INTERNAL_ERROR
            | KVM_EXIT_DEBUG
            | KVM_EXIT_HYPERCALL
            | KVM_EXIT_IRQ_WINDOW_OPEN
            | KVM_EXIT_SET_TPR
            | KVM_EXIT_TPR_ACCESS
            | KVM_EXIT_IOAPIC_EOI
            | KVM_EXIT_X86_RDMSR
            | KVM_EXIT_X86_WRMSR
    )
}

/// Runs a guest without the steps in `without`; says how its runs ended, or what went wrong.
fn run(guest: &Guest, canary: &mut Canary, without: &[usize]) -> Result<Vec<(i64, u32)>, String> {
    let mut machine = Machine::new();
    machine.load(
        program::GDT,
        &program::DESCRIPTORS.map(u64::to_le_bytes).concat(),
    );
    machine.load(program::IDT, &program::gates());
    machine.load(program::HANDLERS, &program::handlers());
    machine.load(program::CODE, &guest.code);
    for (number, step) in guest.steps.iter().enumerate() {
        if !without.contains(&number) {
            machine.step(step);
        }
    }
    let mut ends = Vec::new();
    canary.begin(guest.breakpoints);
    for vcpu in 0..guest.vcpus {
        if let Some(dr7) = guest.watch {
            machine.step(&watch(vcpu, canary.trap_address(), dr7));
        }
        for &answer in &guest.answers {
            let Some((value, reason, found)) = machine.run_briefly(vcpu, answer, canary) else {
                break;
            };
            found.map_err(changed)?;
            if !is_known(value, reason) {
                return Err(format!("KVM_RUN returned {value}, exit reason {reason}"));
            }
            ends.push((value.min(0), reason));
            let over = [
                KVM_EXIT_SHUTDOWN,
                KVM_EXIT_FAIL_ENTRY,
                KVM_EXIT_INTERNAL_ERROR,
            ];
            if value != 0 || over.contains(&reason) {
                break;
            }
        }
    }
    canary.end().map_err(changed)?;
    Ok(ends)
}

fn changed(what: String) -> String {
    format!("the host's state has changed: {what}")
}

/// Leaves out steps as long as it still fails.
fn shrink(guest: &Guest, canary: &mut Canary) -> Vec<usize> {
    let mut without = Vec::new();
    for number in (0..guest.steps.len()).rev() {
        without.push(number);
        if run(guest, canary, &without).is_ok() {
            without.pop();
        }
    }
    without
}

/// What came of guests none of which failed.
pub struct Report {
    /// How often runs ended so: (0, exit reason) or (error, 0).
    pub ends: BTreeMap<(i64, u32), u64>,
    /// What was compared.
    pub canaries: String,
}

/// Runs guests `first` to `first + count - 1`; `Err` with the number of the first that fails, and
/// what it was.
pub fn run_all(
    seed: u64,
    first: u64,
    count: u64,
    mut progress: impl FnMut(u64),
) -> Result<Report, (u64, String)> {
    let calls = Calls::all();
    let mut canary = Canary::new(&mut Random::of(seed, u64::MAX));
    let mut ends = BTreeMap::new();
    for number in first..first + count {
        let guest = guest(&calls, seed, number);
        let found = match run(&guest, &mut canary, &[]) {
            Ok(found) => found,
            Err(what) => {
                let without = shrink(&guest, &mut canary);
                let steps = guest.steps.iter().enumerate();
                let left: Vec<_> = steps
                    .filter(|(n, _)| !without.contains(n))
                    .map(|(_, step)| format!("  {step}"))
                    .collect();
                let code = &guest.code;
                return Err((
                    number,
                    format!("{what}\n{}\n  {code:02x?}", left.join("\n")),
                ));
            }
        };
        for (value, reason) in found {
            let key = if value < 0 { (value, 0) } else { (0, reason) };
            *ends.entry(key).or_insert(0) += 1;
        }
        progress(number - first + 1);
    }
    let canaries = canary.describe();
    Ok(Report { ends, canaries })
}
