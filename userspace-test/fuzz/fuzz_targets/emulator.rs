// SPDX-License-Identifier: GPL-2.0

//! Any instruction on any machine, and devices that answer late.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    arch::fuzzing::emulator(bytes);
});
