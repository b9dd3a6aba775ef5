// SPDX-License-Identifier: GPL-2.0

//! A local APIC and its timer, programmed at random.

use super::input::{Input, Source};
use crate::apic::{Effect, Features, Lapic, Register, Registers, Timer, FIRST_MSR};
use std::boxed::Box;

type Apic = Lapic<Box<Registers>>;

/// Vectors are found where the registers have them, none is taken that the priority forbids, the
/// state goes round, and no timer fires in the past.
pub fn apic(bytes: &[u8]) {
    let mut input = Input(bytes);
    let features = Features::from_bits_truncate(input.below(0x100) as u8);
    let id = input.below(0x200) as u32;
    let apic: Apic = Lapic::new(Box::default(), id, id == 0, features);
    let mut timer = Timer::new(1 + input.below(100), 200_000);
    let mut now = 0u64;
    while !input.is_empty() {
        now += input.below(0x100) << input.below(20);
        if timer.deadline().is_some_and(|deadline| deadline <= now) {
            let next = timer.expire(now);
            assert!(next.is_none_or(|next| next >= now));
        }
        step(&apic, &mut timer, now, &mut input);
        assert_eq!(apic.highest_irr(), apic.registers().highest(Register::IRR));
        assert_eq!(apic.highest_isr(), apic.registers().highest(Register::ISR));
        assert!(timer.current_count(now) == 0 || timer.deadline().is_some());
    }
    goes_round(&apic);
}

fn step(apic: &Apic, timer: &mut Timer, now: u64, input: &mut Input<'_>) {
    let offset = input.below(0x40) as u32 * 16;
    let effect = match input.below(7) {
        0 | 1 if apic.is_memory_mapped() => apic.write(offset, number(input) as u32),
        2 => {
            let value = number(input);
            apic.write_msr(FIRST_MSR + offset / 16, value)
                .unwrap_or(Effect::None)
        }
        3 => {
            let mut data = [0; 4];
            apic.read_bytes(offset, &mut data, || timer.current_count(now));
            let _ = apic.read_msr(FIRST_MSR + offset / 16, || timer.current_count(now));
            Effect::None
        }
        4 => {
            let vector = input.below(0x100) as u8;
            let _ = apic.accept(vector, input.below(2) != 0);
            Effect::None
        }
        5 => {
            take(apic);
            Effect::None
        }
        6 => {
            let base = 0xfee0_0000 | input.below(0x10) << 8;
            let host = input.below(2) != 0;
            apic.set_base(base, 46, host).unwrap_or(Effect::None)
        }
        _ => Effect::None,
    };
    if let Effect::Timer(write) = effect {
        timer.write(write, now);
        assert!(timer.deadline().is_none_or(|deadline| deadline >= now));
    }
}

/// A number with one bit set, a small one, or any.
fn number(input: &mut Input<'_>) -> u64 {
    match input.below(3) {
        0 => 1 << input.below(64),
        1 => input.below(0x100),
        _ => input.next(),
    }
}

/// The processor takes what there is, which is above its priority, and is then at that priority.
fn take(apic: &Apic) {
    let Some(vector) = apic.pending() else {
        return;
    };
    assert!(u32::from(vector & 0xf0) > apic.ppr());
    apic.acknowledge(vector);
    assert_eq!(apic.ppr(), u32::from(vector & 0xf0));
    assert_eq!(apic.highest_isr(), Some(vector));
}

/// What is saved and restored is what was there.
fn goes_round(apic: &Apic) {
    let mut state = [0; 0x400];
    apic.save(&mut state, true, 0);
    let other: Apic = Lapic::new(Box::default(), apic.id(), apic.id() == 0, apic.features());
    assert!(other.set_base(apic.base(), 46, true).is_ok());
    assert!(other.restore(&state, true).is_ok());
    let mut again = [0; 0x400];
    other.save(&mut again, true, 0);
    for register in (0..state.len()).step_by(16) {
        let word = register..register + 4;
        assert_eq!(again[word.clone()], state[word], "register {register:#x}");
    }
    assert_eq!(other.pending(), apic.pending());
}
