// SPDX-License-Identifier: GPL-2.0

//! Walks through page tables that lead anywhere.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| arch::fuzzing::paging(bytes));
