// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC, programmed at random.

use super::input::{Input, Source};
use crate::ioapic::{Ioapic, Written, PINS};

/// Nothing leaves an input that is masked, registers read as what they hold, and the state goes
/// round.
pub fn ioapic(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut ioapic = Ioapic::new();
    while !input.is_empty() {
        let mut sent = 0;
        let takers = input.below(3) as u32;
        let mut deliver = |_: &crate::apic::Message| {
            sent += 1;
            takers.checked_sub(1)
        };
        match input.below(5) {
            0 => {
                let register = input.below(0x48) as u32;
                assert_eq!(ioapic.write(0, register), Written::Nothing);
                let value = match input.below(2) {
                    0 => input.next() as u32,
                    _ => 1 << input.below(32),
                };
                let written = ioapic.write(0x10, value);
                if let Written::Entry {
                    pin, new, pending, ..
                } = written
                {
                    assert_eq!(ioapic.entry(pin), Some(new));
                    if pending {
                        ioapic.resend(pin, deliver);
                    }
                }
            }
            1 | 2 => {
                let pin = input.below(PINS as u64 + 1) as u8;
                let masked = ioapic.entry(pin).is_none_or(|entry| entry.is_masked());
                let (level, line_status) = (input.below(2) != 0, input.below(2) != 0);
                let _ = ioapic.set_line(pin, level, line_status, &mut deliver);
                assert!(sent == 0 || !masked && level);
            }
            3 => {
                let pins = ioapic.pins_of(input.below(0x100) as u8);
                if ioapic.eoi(pins, &mut deliver) {
                    ioapic.reinject(&mut deliver);
                }
            }
            _ => {
                let mut data = [0xee; 8];
                let len = input.below(9) as usize;
                ioapic.read_bytes(input.below(0x100), &mut data[..len]);
                assert!(data[len..].iter().all(|byte| *byte == 0xee));
            }
        }
        let state = ioapic.state();
        assert_eq!(crate::ioapic::State::from_bytes(&state.to_bytes()), state);
    }
}
