// SPDX-License-Identifier: GPL-2.0

use super::*;
use std::boxed::Box;

mod access;
mod destination;
mod mode;
mod priority;
mod state;
mod timer;

type Apic = Lapic<Box<Registers>>;

const ALL: Features = Features::all();
const SVR_ENABLED: u32 = 0x1ff;

/// An APIC of this id after power-up.
fn apic(id: u32) -> Apic {
    Lapic::new(Box::default(), id, id == 0, ALL)
}

/// An APIC that software has enabled.
fn enabled(id: u32) -> Apic {
    let apic = apic(id);
    assert_eq!(
        apic.write(Register::SVR.0, SVR_ENABLED),
        Effect::SoftwareEnable(true)
    );
    apic
}

/// An enabled APIC in x2APIC mode.
fn x2apic(id: u32) -> Apic {
    let apic = enabled(id);
    let base = apic.base() | BASE_X2APIC;
    assert_eq!(apic.set_base(base, 46, false), Ok(Effect::Mode));
    apic
}

/// The MSR of a register.
fn msr(register: Register) -> u32 {
    FIRST_MSR + register.0 / 16
}

/// Reads a register while the timer stands still.
fn read(apic: &Apic, register: Register) -> u32 {
    apic.read(register.0, || 0)
}
