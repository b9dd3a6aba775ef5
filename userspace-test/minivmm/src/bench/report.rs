// SPDX-License-Identifier: GPL-2.0

//! How figures are printed: a table for people, or a line of JSON each for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::cost::Cost;

/// One figure as a line of JSON, its fields in the order they are printed.
#[derive(Serialize)]
struct Record<'a> {
    exit: &'a str,
    median: u64,
    min: u64,
    max: u64,
    unit: &'a str,
}

/// What figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Ticks of the time-stamp counter.
    Ticks,
    /// Bytes.
    Bytes,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Ticks => "tsc",
            Self::Bytes => "bytes",
        }
    }
}

/// Figures on their way to standard output.
pub struct Report<W> {
    out: W,
    json: bool,
    unit: Unit,
}

impl<W: Write> Report<W> {
    /// Begins with `title` and what the columns are, if people are to read it.
    ///
    /// # Errors
    ///
    /// As writing gives them.
    pub fn new(mut out: W, json: bool, unit: Unit, title: &str) -> io::Result<Self> {
        if !json {
            writeln!(out, "{title}\n")?;
            let (median, min, max) = ("median", "min", "max");
            writeln!(out, "{:<18}{median:>11}{min:>11}{max:>11}", "what")?;
        }
        Ok(Self { out, json, unit })
    }

    /// Prints one figure. `meaning` is for people.
    ///
    /// # Errors
    ///
    /// As writing gives them.
    pub fn print(&mut self, exit: &str, meaning: &str, cost: Cost) -> io::Result<()> {
        let Cost { median, min, max } = cost;
        if self.json {
            let unit = self.unit.name();
            let record = Record {
                exit,
                median,
                min,
                max,
                unit,
            };
            writeln!(self.out, "{}", serde_json::to_string(&record)?)
        } else {
            writeln!(
                self.out,
                "{exit:<18}{median:>11}{min:>11}{max:>11}  {meaning}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost {
        median: 2,
        min: 1,
        max: 3,
    };

    fn printed(json: bool, unit: Unit) -> String {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out, json, unit, "a title").expect("written");
        report.print("hlt", "halting", COST).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_record_reads_as_documented() {
        assert_eq!(
            printed(true, Unit::Ticks),
            "{\"exit\":\"hlt\",\"median\":2,\"min\":1,\"max\":3,\"unit\":\"tsc\"}\n"
        );
        assert!(printed(true, Unit::Bytes).contains("\"unit\":\"bytes\""));
    }

    #[test]
    fn a_table_has_a_title_and_columns_in_line() {
        let text = printed(false, Unit::Ticks);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "a title");
        assert!(lines[3].ends_with("halting"));
        assert_eq!(
            lines[2].find("median").map(|at| at + "median".len()),
            lines[3].find('2').map(|at| at + 1)
        );
    }
}
