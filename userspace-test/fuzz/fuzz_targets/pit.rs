// SPDX-License-Identifier: GPL-2.0

//! The 8254, programmed at random.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| arch::fuzzing::pit(bytes));
