// SPDX-License-Identifier: GPL-2.0
//! Sequences whose results are the same on every KVM: a line each, with a hash of all that the steps
//! returned and of the state after each.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::calls::Calls;
use crate::machine::{Answer, Machine};
use crate::sequence;
use crate::state::{self, Reader};
use crate::step::Step;

/// Fowler, Noll and Vo's hash, 64 bits.
struct Hash(u64);

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x100_0000_01b3);
            self.0 ^= self.0 >> 29;
        }
    }
}

/// What is returned where no LAPIC is an interrupt's destination: KVM says this or 0, depending on
/// whether it made its map of LAPICs yet.
const NOBODY: i64 = -1;

/// What KVM_RUN of a vCPU that waits to be started returns if an interrupt waits, too; ours goes on
/// waiting, as processors do, until the signal.
const WOKEN: i64 = -libc::EAGAIN as i64;

/// What a step's result looks like.
fn describe(answer: &Answer, comparable: bool) -> String {
    let Some(value) = answer.value else {
        return "nobody".into();
    };
    let mut text = match value {
        NOBODY => "0".into(),
        WOKEN => return format!("{}", -libc::EINTR),
        0.. if !comparable => return "success".into(),
        _ => format!("{value}"),
    };
    if comparable && value >= 0 {
        for (i, word) in answer.data.chunks(8).enumerate() {
            if word.iter().any(|&byte| byte != 0) {
                let _ = write!(text, " {:x}:{}", 8 * i, state::hex(word));
            }
        }
    }
    text
}

/// Carries out one sequence without the steps in `without`; returns the hash, and text where
/// `verbose`.
pub fn sequence(steps: &[Step], without: &[usize], verbose: bool) -> (u64, String) {
    let mut machine = Machine::new();
    let reader = Reader::new();
    let (mut hash, mut text) = (Hash(0xcbf2_9ce4_8422_2325), String::new());
    let mut before = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        if without.contains(&number) {
            continue;
        }
        if let Step::Run { vcpu, .. } = step {
            // Of several events KVM loses one, and not always the same.
            if reader.has_several_events(&machine, *vcpu) {
                break;
            }
        }
        let answer = machine.step(step);
        let comparable = !matches!(step, Step::Ioctl(call) if !call.comparable);
        let result = describe(&answer, comparable);
        hash.add(result.as_bytes());
        // After an entry that failed it is not defined what became of the event it was to inject.
        let failed = matches!(step, Step::Run { .. }) && answer.has_failed_to_enter();
        let after = if failed {
            Vec::new()
        } else {
            reader.read(&machine)
        };
        for part in &after {
            hash.add(&part.value.to_le_bytes());
            hash.add(&part.data);
        }
        if verbose {
            let _ = writeln!(text, "  {number}: {step} -> {result}");
            text += &state::differences(&before, &after);
            before = after;
        }
        if failed {
            break;
        }
    }
    (hash.0, text)
}

/// What is to be carried out.
pub struct Options {
    /// What all is derived from.
    pub seed: u64,
    /// The first sequence.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// These and no others, if there are any, with all that happens.
    pub cases: Vec<u64>,
    /// Steps left out.
    pub without: Vec<usize>,
}

/// Carries sequences out and prints what came of them.
pub fn run(options: &Options) {
    let calls = Calls::all();
    let mut out = std::io::stdout().lock();
    let verbose = !options.cases.is_empty();
    let all = (options.first..options.first + options.count).collect();
    let cases: &Vec<u64> = if verbose { &options.cases } else { &all };
    for &number in cases {
        let steps = sequence::of(&calls, options.seed, number);
        let (hash, text) = sequence(&steps, &options.without, verbose);
        let _ = write!(out, "{number} {hash:016x}\n{text}");
    }
    let _ = out.flush();
}
