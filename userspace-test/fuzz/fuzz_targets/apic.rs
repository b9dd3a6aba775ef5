// SPDX-License-Identifier: GPL-2.0

//! A local APIC and its timer, programmed at random.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| arch::fuzzing::apic(bytes));
