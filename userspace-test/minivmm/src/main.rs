// SPDX-License-Identifier: GPL-2.0

//! The program `minivmm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    minivmm::main()
}
