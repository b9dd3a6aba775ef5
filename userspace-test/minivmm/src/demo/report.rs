// SPDX-License-Identifier: GPL-2.0

//! What a demo saw, and how it is printed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::guests::{Session, Subject};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What it is.
    pub what: String,
    /// What was found.
    pub seen: String,
    /// Whether that was right; nothing for a measurement, which is neither.
    pub right: Option<bool>,
}

/// All that one demo saw.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// In the order they were seen.
    pub lines: Vec<Line>,
    /// Exits to the VMM, by kind.
    pub exits: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// What a guest reported in `session`; `checks` and `notes` are what it was expected to report
    /// on. One too few or too many is a failure of its own.
    pub fn of(session: &Session, checks: &[Subject], notes: &[Subject]) -> Self {
        let mut outcome = Self {
            exits: session.exits.clone(),
            ..Self::default()
        };
        for (subject, check) in checks.iter().zip(&session.checks) {
            outcome.check(subject.what, value(*subject, check.seen), check.right);
        }
        if session.checks.len() != checks.len() {
            let seen = format!("{} of {}", session.checks.len(), checks.len());
            outcome.check("checks the guest reported", seen, false);
        }
        for (subject, note) in notes.iter().zip(&session.notes) {
            outcome.note(subject.what, value(*subject, *note));
        }
        outcome
    }

    /// A demo that could not be carried through.
    pub fn broken(error: &dyn Display) -> Self {
        let mut outcome = Self::default();
        outcome.check(&error.to_string(), "error", false);
        outcome
    }

    /// Adds something that the VMM looked at.
    pub fn check(&mut self, what: &str, seen: impl Display, right: bool) {
        self.lines.push(Line {
            what: what.into(),
            seen: seen.to_string(),
            right: Some(right),
        });
    }

    /// Adds a measurement.
    pub fn note(&mut self, what: &str, seen: impl Display) {
        self.lines.push(Line {
            what: what.into(),
            seen: seen.to_string(),
            right: None,
        });
    }

    /// Adds all of `other`, whose lines are about `whose`.
    pub fn add(&mut self, whose: &str, other: Self) {
        self.lines.extend(other.lines.into_iter().map(|line| Line {
            what: format!("{whose}: {}", line.what),
            ..line
        }));
        for (kind, count) in other.exits {
            *self.exits.entry(kind).or_default() += count;
        }
    }

    /// Whether everything was right, and there was something.
    pub fn passed(&self) -> bool {
        self.lines.iter().any(|line| line.right == Some(true))
            && self.lines.iter().all(|line| line.right != Some(false))
    }

    /// The exits in words.
    fn exits(&self) -> String {
        let total: u64 = self.exits.values().sum();
        let kinds: Vec<_> = self
            .exits
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        format!("{total} exits to the VMM ({})", kinds.join(", "))
    }
}

/// A guest's 32-bit value as people read it.
fn value(subject: Subject, seen: u32) -> String {
    if subject.counts {
        seen.to_string()
    } else {
        format!("{seen:#x}")
    }
}

/// One demo as a line of JSON.
#[derive(Serialize)]
struct Record<'a> {
    demo: &'a str,
    concept: &'a str,
    pass: bool,
    #[serde(flatten)]
    outcome: &'a Outcome,
}

/// The whole as the last line of JSON.
#[derive(Serialize)]
struct Summary<'a> {
    demos: usize,
    failed: &'a [&'static str],
}

/// Prints outcomes as they come.
pub struct Report {
    json: bool,
    colour: bool,
    current: (&'static str, &'static str),
    demos: usize,
    failed: Vec<&'static str>,
}

impl Report {
    /// A report to standard output, as text or as lines of JSON.
    pub fn new(json: bool) -> Self {
        Self {
            json,
            colour: io::stdout().is_terminal(),
            current: ("", ""),
            demos: 0,
            failed: Vec::new(),
        }
    }

    /// The demo that runs now.
    ///
    /// # Errors
    ///
    /// From writing.
    pub fn begin(&mut self, name: &'static str, concept: &'static str) -> io::Result<()> {
        self.current = (name, concept);
        self.demos += 1;
        if !self.json {
            writeln!(
                io::stdout(),
                "{}  {concept}",
                self.paint("1", &format!("{name:<14}"))
            )?;
        }
        Ok(())
    }

    /// What came of it.
    ///
    /// # Errors
    ///
    /// From writing.
    pub fn end(&mut self, outcome: &Outcome) -> io::Result<()> {
        let (name, concept) = self.current;
        let pass = outcome.passed();
        if !pass {
            self.failed.push(name);
        }
        let mut out = io::stdout().lock();
        if self.json {
            let record = Record {
                demo: name,
                concept,
                pass,
                outcome,
            };
            return writeln!(out, "{}", serde_json::to_string(&record)?);
        }
        for line in &outcome.lines {
            let mark = match line.right {
                Some(true) => self.paint("32", "ok"),
                Some(false) => self.paint("31", "NO"),
                None => "--".into(),
            };
            writeln!(out, "  {mark}  {:>10}  {}", line.seen, line.what)?;
        }
        let verdict = if pass {
            self.paint("1;32", "PASS")
        } else {
            self.paint("1;31", "FAIL")
        };
        writeln!(out, "  {verdict}  {}\n", outcome.exits())
    }

    /// The last line. Returns whether every demo passed.
    ///
    /// # Errors
    ///
    /// From writing.
    pub fn finish(&self) -> io::Result<bool> {
        let mut out = io::stdout().lock();
        let Self { demos, failed, .. } = self;
        if self.json {
            let summary = Summary {
                demos: *demos,
                failed,
            };
            writeln!(out, "{}", serde_json::to_string(&summary)?)?;
        } else if failed.is_empty() {
            writeln!(out, "{demos} of {demos} demos passed")?;
        } else {
            writeln!(
                out,
                "{} of {demos} demos FAILED: {}",
                failed.len(),
                failed.join(" ")
            )?;
        }
        Ok(failed.is_empty())
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_seen_is_no_pass() {
        assert!(!Outcome::default().passed());
        let mut measured = Outcome::default();
        measured.note("ticks", 5);
        assert!(!measured.passed());
    }

    #[test]
    fn one_wrong_line_fails_the_demo() {
        let mut outcome = Outcome::default();
        outcome.check("first", 1, true);
        outcome.note("ticks", 5);
        assert!(outcome.passed());
        outcome.check("second", 2, false);
        outcome.check("third", 3, true);
        assert!(!outcome.passed());
    }

    #[test]
    fn parts_keep_their_name_and_sum_their_exits() {
        let part = |right| {
            let mut part = Outcome {
                exits: BTreeMap::from([("out", 3)]),
                ..Outcome::default()
            };
            part.check("words", 0, right);
            part
        };
        let mut whole = Outcome::default();
        whole.add("VM A", part(true));
        whole.add("VM B", part(false));
        assert_eq!(whole.lines[1].what, "VM B: words");
        assert_eq!(whole.exits(), "6 exits to the VMM (6 out)");
        assert!(!whole.passed());
    }
}
