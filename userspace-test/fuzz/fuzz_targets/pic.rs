// SPDX-License-Identifier: GPL-2.0

//! The pair of 8259As, programmed at random.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| arch::fuzzing::pic(bytes));
