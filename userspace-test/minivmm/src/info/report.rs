// SPDX-License-Identifier: GPL-2.0

//! What this project's module says of itself in debugfs.
//!
//! Its text has a line for each thing and is read leniently, so that a module a little newer or
//! older than this program still shows what both know: `KEY VALUE...`, then
//! `control NAME must_be_one=N may_be_one=N wanted=N got=N`. The lines for single flags say the
//! same once more, bit by bit.

use std::fs;

use serde::Serialize;

/// Where the module puts it.
const PATH: &str = "/sys/kernel/debug/kvm/vmx_capabilities";

/// One control word as the module settled it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Settled {
    /// Its name.
    pub name: String,
    /// Bits the processor wants set.
    pub must_be_one: u32,
    /// Bits the processor allows to be set.
    pub may_be_one: u32,
    /// Bits the module asked for.
    pub wanted: u32,
    /// The word it uses.
    pub got: u32,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// Keys and what follows them.
    pub values: Vec<(String, String)>,
    /// The control words.
    pub controls: Vec<Settled>,
}

/// The report of the module that is loaded; `None` if that is not ours, or debugfs is not there.
pub fn read() -> Option<Report> {
    let report = parse(&fs::read_to_string(PATH).ok()?);
    (!report.controls.is_empty()).then_some(report)
}

fn parse(text: &str) -> Report {
    let mut report = Report::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("control"), Some(name)) => {
                let of = |key: &str| value_of(line, key);
                report.controls.push(Settled {
                    name: name.to_string(),
                    must_be_one: of("must_be_one"),
                    may_be_one: of("may_be_one"),
                    wanted: of("wanted"),
                    got: of("got"),
                });
            }
            (Some("flag"), _) | (None, _) => {}
            (Some(key), Some(first)) => {
                let value: Vec<_> = std::iter::once(first).chain(words).collect();
                report.values.push((key.to_string(), value.join(" ")));
            }
            (Some(_), None) => {}
        }
    }
    report
}

/// The number after `KEY=` in a line, 0 if there is none.
fn value_of(line: &str, key: &str) -> u32 {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .and_then(number)
        .unwrap_or(0)
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_s_text_is_understood() {
        let report = parse(
            "revision_id 0x2b\n\
             cr0_fixed 0x80000021 0xffffffff\n\
             control pin_based must_be_one=0x00000016 may_be_one=0x000000ff wanted=0x00000029 \
             got=0x0000003f\n\
             flag pin_based   0 may  wanted on  EXTERNAL_INTERRUPT_EXITING\n",
        );
        assert_eq!(
            report.values[1],
            ("cr0_fixed".into(), "0x80000021 0xffffffff".into())
        );
        assert_eq!(
            report.controls,
            [Settled {
                name: "pin_based".into(),
                must_be_one: 0x16,
                may_be_one: 0xff,
                wanted: 0x29,
                got: 0x3f
            }]
        );
    }

    #[test]
    fn what_is_new_or_missing_does_no_harm() {
        let report = parse("\nlonely\ncontrol tertiary may_be_one=3 colour=blue got=zz\n");
        assert_eq!(report.values, []);
        assert_eq!(
            (report.controls[0].may_be_one, report.controls[0].got),
            (3, 0)
        );
    }
}
