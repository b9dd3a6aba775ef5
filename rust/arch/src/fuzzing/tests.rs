// SPDX-License-Identifier: GPL-2.0

//! The fuzzer's checks on random bytes, and on those that a fuzzer found to reach new code.

use proptest::prelude::*;
use std::vec::Vec;

/// The inputs of a file in userspace-test/fuzz/corpus: hexadecimal digits, a line each.
macro_rules! kept {
    ($name:literal) => {
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../userspace-test/fuzz/corpus/",
            $name
        ))
    };
}

fn replay(kept: &str, check: fn(&[u8])) {
    let mut inputs = 0;
    for line in kept.lines().filter(|line| !line.starts_with('#')) {
        let digit = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("a byte");
        let bytes: Vec<u8> = (0..line.len()).step_by(2).map(digit).collect();
        check(&bytes);
        inputs += 1;
    }
    assert!(inputs > 0, "the file is empty");
}

#[test]
fn kept_inputs() {
    replay(kept!("emulator"), |bytes| {
        let _ = super::emulator(bytes);
    });
    replay(kept!("paging"), super::paging);
    replay(kept!("apic"), super::apic);
    replay(kept!("ioapic"), super::ioapic);
    replay(kept!("pic"), super::pic);
    replay(kept!("pit"), super::pit);
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..2000)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn emulator(bytes in any_bytes()) {
        let _ = super::emulator(&bytes);
    }

    #[test]
    fn paging(bytes in any_bytes()) {
        super::paging(&bytes);
    }

    #[test]
    fn apic(bytes in any_bytes()) {
        super::apic(&bytes);
    }

    #[test]
    fn ioapic(bytes in any_bytes()) {
        super::ioapic(&bytes);
    }

    #[test]
    fn pic(bytes in any_bytes()) {
        super::pic(&bytes);
    }

    #[test]
    fn pit(bytes in any_bytes()) {
        super::pit(&bytes);
    }
}
