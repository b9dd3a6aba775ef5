// SPDX-License-Identifier: GPL-2.0

//! The local APIC (SDM vol. 3, chapter 11).

mod local;
mod messages;
mod priority;

use arch::apic::{Features, Lapic, Register, Registers};

type Apic = Lapic<Box<Registers>>;

/// An enabled APIC with every feature, which is not the bootstrap processor's.
fn enabled(id: u32) -> Apic {
    let apic = Lapic::new(Box::default(), id, false, Features::all());
    let _ = apic.write(Register::SVR.0, 0x1ff);
    apic
}

/// The same in x2APIC mode.
fn x2apic(id: u32) -> Apic {
    let apic = enabled(id);
    let _ = apic.set_base(apic.base() | 1 << 10, 46, false).unwrap();
    apic
}
