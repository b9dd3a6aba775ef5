// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

fn saved(apic: &Apic, wide: bool) -> [u8; 0x400] {
    let mut state = [0xee; 0x400];
    apic.save(&mut state, wide, 0);
    state
}

fn word(state: &[u8; 0x400], register: Register) -> u32 {
    let at = register.0 as usize;
    u32::from_le_bytes(state[at..at + 4].try_into().unwrap())
}

fn set_word(state: &mut [u8; 0x400], register: Register, value: u32) {
    let at = register.0 as usize;
    state[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn an_xapic_goes_round() {
    let apic = enabled(3);
    for (register, value) in [
        (Register::TPR, 0x21),
        (Register::LDR, 0x0800_0000),
        (Register::LVT_TIMER, 0x200ec),
        (Register::TDCR, 0xb),
        (Register::TMICT, 1_000_000),
        (Register::ICR2, 0x0100_0000),
        (Register::ICR, 0x4041),
    ] {
        let _ = apic.write(register.0, value);
    }
    apic.accept(0x44, true);
    apic.accept(0x35, false);
    apic.acknowledge(0x35);
    let mut state = [0; 0x400];
    apic.save(&mut state, false, 777);
    assert_eq!(word(&state, Register::ID), 0x0300_0000);
    assert_eq!(word(&state, Register::ICR2), 0x0100_0000);
    assert_eq!(word(&state, Register::TMCCT), 777);
    assert_eq!(word(&state, Register::PPR), 0x30);

    let other = super::apic(3);
    let timer = TimerState {
        mode: TimerMode::Periodic,
        initial_count: 1_000_000,
        current_count: 777,
        divide: 0xb,
    };
    assert_eq!(other.restore(&state, false), Ok(timer));
    assert!(other.takes_interrupts());
    assert_eq!(
        (other.highest_irr(), other.highest_isr()),
        (Some(0x44), Some(0x35))
    );
    assert_eq!(read(&other, Register::TMCCT), 0);
    assert_eq!(saved(&other, false), saved(&apic, false));
}

#[test]
fn how_an_x2apic_shows_its_id() {
    let apic = x2apic(0x25);
    let _ = apic.write_msr(msr(Register::ICR), 0x123_0000_0041);
    for (wide, id) in [(true, 0x25), (false, 0x2500_0000)] {
        let mut state = saved(&apic, wide);
        assert_eq!(word(&state, Register::ID), id);
        assert_eq!(word(&state, Register::LDR), 0x0002_0020);
        assert_eq!(word(&state, Register::ICR), 0x41);
        assert_eq!(word(&state, Register::ICR2), 0x123);

        // Nothing that is derived from the id is taken over.
        set_word(&mut state, Register::LDR, 0xffff_ffff);
        let other = x2apic(0x25);
        assert!(other.restore(&state, wide).is_ok());
        assert_eq!(
            other.read_msr(msr(Register::ICR), || 0),
            Ok(0x123_0000_0041)
        );
        assert_eq!(other.read_msr(msr(Register::ID), || 0), Ok(0x25));
        assert_eq!(other.read_msr(msr(Register::LDR), || 0), Ok(0x0002_0020));

        set_word(&mut state, Register::ID, 0x2600_0000);
        assert_eq!(other.restore(&state, wide).is_ok(), !wide);
        assert_eq!(other.read_msr(msr(Register::ID), || 0), Ok(0x25));
    }
}

#[test]
fn the_version_is_this_apics() {
    let apic = enabled(0);
    let mut state = saved(&apic, false);
    set_word(&mut state, Register::VERSION, 0x1234_5678);
    assert!(apic.restore(&state, false).is_ok());
    assert_eq!(read(&apic, Register::VERSION), 0x0106_0014);
}

#[test]
fn a_software_disable_is_restored() {
    let apic = enabled(0);
    let mut state = saved(&apic, false);
    set_word(&mut state, Register::SVR, 0xff);
    assert!(apic.restore(&state, false).is_ok());
    assert!(!apic.is_software_enabled());
}

#[test]
fn restoring_to_a_processor_that_delivers_itself() {
    let apic = enabled(0);
    apic.accept(0x44, false);
    let state = saved(&apic, false);
    let other = super::apic(0);
    other.set_hardware_delivery(true);
    assert!(other.restore(&state, false).is_ok());
    assert!(other.is_hardware_delivery());
    assert_eq!(other.highest_irr(), Some(0x44));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_state_goes_round(
        words in prop::collection::vec(any::<u32>(), 0x100),
        in_x2apic: bool,
        wide: bool,
    ) {
        let mut state = [0; 0x400];
        for (bytes, word) in state.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let apic = if in_x2apic { x2apic(9) } else { enabled(9) };
        if wide && in_x2apic {
            set_word(&mut state, Register::ID, 9);
        }
        let timer = apic.restore(&state, wide);
        prop_assert!(timer.is_ok());
        let once = saved(&apic, wide);
        prop_assert!(apic.restore(&once, wide).is_ok());
        prop_assert_eq!(saved(&apic, wide), once);

        // It does not harm what follows either.
        if let Ok(state) = timer {
            let mut timer = Timer::new(1, MIN_PERIOD);
            timer.restore(&state, 5);
            timer.current_count(6);
        }
        while let Some(vector) = apic.pending() {
            apic.acknowledge(vector);
        }
        while apic.eoi().is_some() {}
        prop_assert_eq!(apic.highest_isr(), None);
    }
}
