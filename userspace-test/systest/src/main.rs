// SPDX-License-Identifier: GPL-2.0
//! System tests of `/dev/kvm`, whichever module is behind it.
//!
//! `systest` runs them all, `systest FILTER...` those whose names contain one of the words,
//! `systest --list` names them, `--times` adds what each took, `--seed=N`
//! gives the random tests another start, `--patience=N` gives each test N times the time,
//! `--endurance=N` lets those that repeat go on N times as long. Runs as root.

mod devices;
mod eventfd;
mod expect;
mod guest;
mod harness;
mod machine;
mod memory;
mod request;
mod statistics;
mod sys;
mod tests;
mod vcpu;
mod vm;

use std::process::exit;

fn main() {
    let (options, filters): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    let chosen: Vec<_> = tests::all()
        .into_iter()
        .filter(|t| wanted(t.name))
        .collect();
    let mut show_times = false;
    for option in &options {
        match option.as_str() {
            "--list" => {
                chosen.iter().for_each(|test| println!("{}", test.name));
                exit(0);
            }
            "--times" => show_times = true,
            other => match number(other) {
                Some(("--seed", seed)) => harness::set_seed(seed),
                Some(("--patience", factor)) => harness::set_patience(factor),
                Some(("--endurance", factor)) => harness::set_endurance(factor),
                _ => {
                    eprintln!(
                        "usage: systest [--list] [--times] [--seed=N] [--patience=N] [--endurance=N] \
                         [FILTER...]"
                    );
                    exit(2);
                }
            },
        }
    }
    exit(harness::run_suite(&chosen, show_times));
}

/// The name and the number of an option such as `--seed=1`.
fn number(option: &str) -> Option<(&str, u64)> {
    let (name, value) = option.split_once('=')?;
    Some((name, value.parse().ok()?))
}
