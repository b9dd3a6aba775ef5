// SPDX-License-Identifier: GPL-2.0

//! ACPI's fixed power-management registers, PM1a: where a guest switches the machine off, and where
//! it hears of the power button.
//!
//! Manual: ACPI 6.5, 4.8.3. The button is the only event there is.

use std::mem;
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

const STATUS_HIGH: u16 = EVENT_BLOCK + 1;
const ENABLE_LOW: u16 = EVENT_BLOCK + 2;
const ENABLE_HIGH: u16 = EVENT_BLOCK + 3;
const CONTROL_LOW: u16 = CONTROL_BLOCK;
const CONTROL_HIGH: u16 = CONTROL_BLOCK + 1;
/// Status and enable, high byte: the power button (PWRBTN_STS and PWRBTN_EN, bit 8).
const POWER_BUTTON: u8 = 1 << 0;
/// Control, low byte: the machine is in ACPI mode, as it always is.
const SCI_ENABLED: u8 = 1 << 0;
/// Control, high byte: sleep type.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// Control, high byte: enter that sleep state. Reads as 0.
const SLEEP_ENABLE: u8 = 1 << 5;

/// The registers.
#[derive(Default)]
pub struct Pm1 {
    /// Whether the power button was pressed, and the guest has not taken note of it.
    pressed: bool,
    /// Whether there is an interrupt on the line.
    asserted: bool,
    /// There was an edge on the line that has not been carried out.
    edge: bool,
    enable: [u8; 2],
    control: [u8; 2],
}

impl Pm1 {
    /// Reads one of [`PORTS`].
    pub fn read(&self, port: u16) -> u8 {
        match port {
            STATUS_HIGH if self.pressed => POWER_BUTTON,
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
            // Writing one clears.
            STATUS_HIGH if value & POWER_BUTTON != 0 => self.pressed = false,
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
        self.drive_line();
        false
    }

    /// Presses the power button and lets go of it. False if the guest does not want to hear of it.
    pub fn press_button(&mut self) -> bool {
        self.pressed = true;
        self.drive_line();
        self.asserted
    }

    /// Whether the system control interrupt was raised since this was last called.
    pub fn take_interrupt(&mut self) -> bool {
        mem::take(&mut self.edge)
    }

    fn drive_line(&mut self) {
        let asserted = self.pressed && self.enable[1] & POWER_BUTTON != 0;
        self.edge |= asserted && !self.asserted;
        self.asserted = asserted;
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
    fn the_button_interrupts_once_until_the_guest_has_taken_note() {
        let mut pm1 = Pm1::default();
        pm1.write(ENABLE_HIGH, POWER_BUTTON);
        assert!(!pm1.take_interrupt());
        assert!(pm1.press_button());
        assert!(pm1.take_interrupt());
        assert_eq!(pm1.read(STATUS_HIGH), POWER_BUTTON);
        assert!(pm1.press_button());
        assert!(!pm1.take_interrupt(), "the line has not been down");
        pm1.write(STATUS_HIGH, 0);
        assert_eq!(pm1.read(STATUS_HIGH), POWER_BUTTON);
        pm1.write(STATUS_HIGH, POWER_BUTTON);
        assert_eq!(pm1.read(STATUS_HIGH), 0);
        assert!(pm1.press_button());
        assert!(pm1.take_interrupt());
    }

    #[test]
    fn a_button_nobody_listens_to_waits_for_one_who_does() {
        let mut pm1 = Pm1::default();
        assert!(!pm1.press_button());
        assert!(!pm1.take_interrupt());
        pm1.write(ENABLE_HIGH, POWER_BUTTON);
        assert!(pm1.take_interrupt());
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
