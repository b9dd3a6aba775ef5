// SPDX-License-Identifier: GPL-2.0

//! The fuzzer's checks on random bytes: not what a fuzzer finds, but that they hold at all.

use proptest::prelude::*;
use std::vec::Vec;

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
