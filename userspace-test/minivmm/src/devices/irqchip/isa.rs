// SPDX-License-Identifier: GPL-2.0

//! How the ISA interrupt lines reach two controllers at once: the PICs, and the IOAPIC, whose pins
//! have the lines' numbers but for the timer's.

use arch::apic::Message;
use arch::ioapic::Ioapic;
use arch::pic::DualPic;

/// The timer's line, and its pin of the IOAPIC, which is free because the PICs' cascade has no line.
const TIMER: u8 = 0;
const TIMER_PIN: u8 = 2;

/// The IOAPIC's pin for an ISA line.
fn pin_of(irq: u8) -> u8 {
    match irq {
        TIMER => TIMER_PIN,
        irq => irq,
    }
}

/// An edge on line `irq`. The PIC latches it, the IOAPIC sends its message by `deliver`.
pub fn pulse(
    pic: &mut DualPic,
    ioapic: &mut Ioapic,
    irq: u8,
    mut deliver: impl FnMut(&Message) -> Option<u32>,
) {
    for level in [true, false] {
        pic.set_irq(irq, level);
        ioapic.set_line(pin_of(irq), level, false, &mut deliver);
    }
}
