// SPDX-License-Identifier: GPL-2.0
//! Compares what two runs of the same sequences printed, and shows where they part.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// The sequences of a run: the hash, then the lines of each step, where they were asked for.
type Run = BTreeMap<u64, (String, Vec<String>)>;

fn read(path: &str) -> Run {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut run = Run::new();
    let mut current = None;
    for line in text.lines() {
        if line.starts_with("    ") {
            // What a step changed belongs to the step.
            let steps = current
                .and_then(|n| run.get_mut(&n))
                .map(|(_, steps)| steps);
            if let Some(step) = steps.and_then(|steps| steps.last_mut()) {
                let _ = write!(step, "\n{line}");
            }
        } else if line.starts_with("  ") {
            if let Some((_, steps)) = current.and_then(|n| run.get_mut(&n)) {
                steps.push(line.to_string());
            }
        } else if let Some((number, hash)) = line.split_once(' ') {
            current = number.parse().ok();
            if let Some(number) = current {
                run.insert(number, (hash.to_string(), Vec::new()));
            }
        }
    }
    run
}

/// The sequences of which only one run knows, or that ended differently.
pub fn disagreements(one: &str, other: &str) -> (usize, Vec<u64>) {
    let (one, other) = (read(one), read(other));
    let hash = |run: &Run, n: &u64| run.get(n).map(|(hash, _)| hash.clone());
    let all: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let bad = all.iter().filter(|n| hash(&one, n) != hash(&other, n));
    (all.len(), bad.map(|n| **n).collect())
}

/// Where each sequence that both runs have in all its steps first differs.
pub fn explain(one: &str, other: &str) -> String {
    let (first, second) = (read(one), read(other));
    let mut text = String::new();
    for (number, (_, steps)) in &first {
        let Some((_, others)) = second.get(number) else {
            continue;
        };
        let Some((a, b)) = steps.iter().zip(others).find(|(a, b)| a != b) else {
            continue;
        };
        let _ = writeln!(text, "sequence {number} parts at");
        let (a, b): (Vec<_>, Vec<_>) = (a.lines().collect(), b.lines().collect());
        if a[0] == b[0] {
            let _ = writeln!(text, "{}", a[0]);
        }
        for (path, mine, theirs) in [(one, &a, &b), (other, &b, &a)] {
            for line in mine.iter().filter(|line| !theirs.contains(line)) {
                let _ = writeln!(text, "  {path}: {}", line.trim_start());
            }
        }
    }
    text
}
