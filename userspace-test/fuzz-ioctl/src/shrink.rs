// SPDX-License-Identifier: GPL-2.0
//! Looks for the fewest items with which something still fails.

use std::process::{Command, Stdio};

/// Leaves out parts of `items`, halves first and single ones at last, as long as what is left still
/// `fails`. What comes back fails, and does not without any single one of its items.
pub fn fewest(mut items: Vec<u64>, mut fails: impl FnMut(&[u64]) -> bool) -> Vec<u64> {
    let mut part = items.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shorter = false;
        while at < items.len() {
            let mut left = items.clone();
            left.drain(at..(at + part).min(items.len()));
            if fails(&left) {
                items = left;
                shorter = true;
            } else {
                at += part;
            }
        }
        if part > 1 {
            part = part.div_ceil(2);
        } else if !shorter {
            return items;
        }
    }
}

/// Numbers as an option has them: `0-3,7`; `none` for none.
pub fn ranges(items: &[u64]) -> String {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    for &item in items {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == item => *last = item,
            _ => parts.push((item, item)),
        }
    }
    let words = parts.iter().map(|&(first, last)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    });
    match items {
        [] => "none".into(),
        _ => words.collect::<Vec<_>>().join(","),
    }
}

/// The numbers of [`ranges`].
pub fn numbers(text: &str) -> Option<Vec<u64>> {
    if text == "none" {
        return Some(Vec::new());
    }
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<u64>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

/// The fewest of the numbers below `count` with which `command`, which gets them as a last argument
/// `--keep=`, still has a status other than 0; `None` if it has 0 with all of them.
pub fn with_command(command: &[String], count: u64) -> Option<Vec<u64>> {
    let fails = |items: &[u64]| {
        let keep = format!("--keep={}", ranges(items));
        let done = Command::new(&command[0])
            .args(&command[1..])
            .arg(&keep)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let failed = !done.is_ok_and(|status| status.success());
        eprintln!("{} {keep}", if failed { "fails:" } else { "passes:" });
        failed
    };
    let all: Vec<_> = (0..count).collect();
    fails(&all).then(|| fewest(all, fails))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_has_to_be_there_together() {
        for culprits in [vec![0], vec![239], vec![17, 42], vec![0, 100, 101, 239]] {
            let mut runs = 0;
            let found = fewest((0..240).collect(), |items| {
                runs += 1;
                culprits.iter().all(|culprit| items.contains(culprit))
            });
            assert_eq!(found, culprits);
            assert!(runs < 120, "{culprits:?} took {runs} runs");
        }
    }

    #[test]
    fn finds_one_of_several() {
        let found = fewest((0..100).collect(), |items| {
            items.contains(&7) || items.contains(&80)
        });
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn needs_nothing_where_all_fails() {
        assert_eq!(fewest((0..10).collect(), |_| true), Vec::<u64>::new());
    }

    #[test]
    fn ranges_are_read_back() {
        for items in [vec![], vec![3], vec![0, 1, 2, 5, 7, 8]] {
            assert_eq!(numbers(&ranges(&items)), Some(items));
        }
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        assert_eq!(numbers("1-x"), None);
    }

    #[test]
    fn asks_a_command() {
        // Fails where 5 is there.
        let script = r#"case ",${1#--keep=}," in *,5,* | *,5-* | *-5,*) exit 1;; *,0-7,* | *,4-7,* | *,4-5,*) exit 1;; esac"#;
        let command = ["sh", "-c", script, "sh"].map(String::from);
        assert_eq!(with_command(&command, 8), Some(vec![5]));
        let command = ["true"].map(String::from);
        assert_eq!(with_command(&command, 8), None);
    }
}
