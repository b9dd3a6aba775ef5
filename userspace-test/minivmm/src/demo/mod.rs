// SPDX-License-Identifier: GPL-2.0

//! `minivmm demo`.

use std::error::Error;
use std::process::ExitCode;

/// Runs the demonstrations one after the other.
pub fn run() -> Result<ExitCode, Box<dyn Error>> {
    Err("the demonstrations are not in this build".into())
}
