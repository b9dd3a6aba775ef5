// SPDX-License-Identifier: GPL-2.0

//! ACPI's fixed power-management registers, PM1a: where a guest switches the machine off.
//!
//! Manual: ACPI 6.5, 4.8.3. Nobody presses a button here, so the status register stays empty and
//! no system control interrupt comes.

use std::ops::RangeInclusive;

/// Interrupt line of the system control interrupt.
pub const SCI: u8 = 9;
/// PM1a event block: status, then enable, 16 bits each.
pub const EVENT_BLOCK: u16 = 0x600;
/// Bytes of the event block.
pub const EVENT_LENGTH: u8 = 4;
/// PM1a control block: 16 bits.
pub const CONTROL_BLOCK: u16 = 0x604;
/// Bytes of the control block.
pub const CONTROL_LENGTH: u8 = 2;
/// Every port of the two.
pub const PORTS: RangeInclusive<u16> = EVENT_BLOCK..=CONTROL_HIGH;

/// The sleep type that means S5, soft off.
pub const S5: u8 = 5;

const ENABLE_LOW: u16 = EVENT_BLOCK + 2;
const ENABLE_HIGH: u16 = EVENT_BLOCK + 3;
const CONTROL_LOW: u16 = CONTROL_BLOCK;
const CONTROL_HIGH: u16 = CONTROL_BLOCK + 1;
/// Control, low byte: the machine is in ACPI mode, as it always is.
const SCI_ENABLED: u8 = 1 << 0;
/// Control, high byte: sleep type.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// Control, high byte: enter that sleep state. Reads as 0.
const SLEEP_ENABLE: u8 = 1 << 5;

/// The registers that keep what is written to them.
#[derive(Default)]
pub struct Pm1 {
    enable: [u8; 2],
    control: [u8; 2],
}

impl Pm1 {
    /// Reads one of [`PORTS`].
    pub fn read(&self, port: u16) -> u8 {
        match port {
            ENABLE_LOW => self.enable[0],
            ENABLE_HIGH => self.enable[1],
            CONTROL_LOW => self.control[0] | SCI_ENABLED,
            CONTROL_HIGH => self.control[1],
            _ => 0,
        }
    }

    /// Writes one of [`PORTS`]; says whether the machine is to be off now.
    pub fn write(&mut self, port: u16, value: u8) -> bool {
        match port {
            ENABLE_LOW => self.enable[0] = value,
            ENABLE_HIGH => self.enable[1] = value,
            CONTROL_LOW => self.control[0] = value,
            CONTROL_HIGH => {
                self.control[1] = value & !SLEEP_ENABLE;
                let sleep_type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
                return value & SLEEP_ENABLE != 0 && sleep_type == S5;
            }
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s5_is_off_and_no_other_state_is() {
        let mut pm1 = Pm1::default();
        for sleep_type in 0..8 {
            let value = sleep_type << SLEEP_TYPE_SHIFT;
            assert!(
                !pm1.write(CONTROL_HIGH, value),
                "off without the enable bit"
            );
            assert_eq!(
                pm1.write(CONTROL_HIGH, value | SLEEP_ENABLE),
                sleep_type == S5
            );
        }
    }

    #[test]
    fn acpi_mode_is_always_on() {
        let mut pm1 = Pm1::default();
        pm1.write(CONTROL_BLOCK, 0);
        assert_eq!(pm1.read(CONTROL_BLOCK) & SCI_ENABLED, SCI_ENABLED);
    }

    #[test]
    fn status_is_empty_and_enable_keeps() {
        let mut pm1 = Pm1::default();
        for port in PORTS {
            pm1.write(port, 0xff);
        }
        assert_eq!([pm1.read(0x600), pm1.read(0x601)], [0, 0]);
        assert_eq!([pm1.read(0x602), pm1.read(0x603)], [0xff, 0xff]);
        assert_eq!(pm1.read(CONTROL_HIGH) & SLEEP_ENABLE, 0);
    }
}
