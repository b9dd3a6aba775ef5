// SPDX-License-Identifier: GPL-2.0

//! The ways a PC resets itself: keyboard controller, fast A20 port, PCI reset control register.

/// Keyboard controller: data.
pub const KEYBOARD_DATA: u16 = 0x60;
/// Keyboard controller: commands; reads its status.
pub const KEYBOARD_COMMAND: u16 = 0x64;
/// PS/2 system control port A: A20 gate and fast reset.
pub const FAST_A20: u16 = 0x92;
/// PCI reset control register, in the middle of the configuration address register's bytes.
pub const RESET_CONTROL: u16 = 0xcf9;

/// What ACPI is told to write to [`RESET_CONTROL`]: reset the CPU, and the rest of the board too.
pub const RESET_VALUE: u8 = 0x06;

/// Keyboard controller: pulse the reset line.
const PULSE_RESET: u8 = 0xfe;
/// Port 0x92: reset now.
const FAST_RESET: u8 = 1 << 0;
/// Port 0x92: A20 is on, as it always is here.
const A20_ON: u8 = 1 << 1;
/// Port 0xcf9: reset the CPU.
const RESET_CPU: u8 = 1 << 2;

/// What the keyboard controller's status reads as: nothing is there (all ones), but a command is
/// taken at once (bit 1, input buffer full, is clear), or a guest would wait for long before it
/// writes the one command there is.
const NO_KEYBOARD: u8 = 0xfd;

/// How a guest asked to be reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reset {
    /// Command 0xfe to port 0x64.
    KeyboardController,
    /// Bit 0 of port 0x92.
    FastA20,
    /// Bit 2 of port 0xcf9.
    PciControl,
}

impl Reset {
    /// The way in words, as in "reset by ...".
    pub fn describe(self) -> &'static str {
        match self {
            Self::KeyboardController => "the keyboard controller (port 0x64)",
            Self::FastA20 => "the fast reset (port 0x92)",
            Self::PciControl => "the reset control register (port 0xcf9)",
        }
    }

    /// The reset, if any, that writing `value` to `port` asks for.
    pub fn asked_by(port: u16, value: u8) -> Option<Self> {
        match port {
            KEYBOARD_COMMAND if value == PULSE_RESET => Some(Self::KeyboardController),
            FAST_A20 if value & FAST_RESET != 0 => Some(Self::FastA20),
            RESET_CONTROL if value & RESET_CPU != 0 => Some(Self::PciControl),
            _ => None,
        }
    }
}

/// Reads one of the ports above.
pub fn read(port: u16) -> u8 {
    match port {
        KEYBOARD_COMMAND => NO_KEYBOARD,
        FAST_A20 => A20_ON,
        RESET_CONTROL => 0,
        _ => 0xff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_resets() {
        assert_eq!(Reset::asked_by(0x64, 0xfe), Some(Reset::KeyboardController));
        assert_eq!(Reset::asked_by(0x92, 0x03), Some(Reset::FastA20));
        assert_eq!(Reset::asked_by(0xcf9, RESET_VALUE), Some(Reset::PciControl));
    }

    #[test]
    fn other_commands_do_not() {
        for (port, value) in [(0x64, 0xaa), (0x60, 0xfe), (0x92, 0x02), (0xcf9, 0x02)] {
            assert_eq!(Reset::asked_by(port, value), None, "{port:#x} {value:#x}");
        }
    }

    #[test]
    fn a_command_can_be_sent_at_once() {
        assert_eq!(read(KEYBOARD_COMMAND) & 0x02, 0);
    }
}
