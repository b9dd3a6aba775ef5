// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

/// What a register reads as after all ones were written to it in xAPIC mode.
#[test]
fn writable_bits() {
    for (register, bits) in [
        (Register::ID, 0xff00_0000),
        (Register::TPR, 0xff),
        (Register::LDR, 0xff00_0000),
        (Register::DFR, 0xffff_ffff),
        (Register::SVR, 0x13ff),
        (Register::ESR, 0),
        (Register::LVT_CMCI, 0x117ff),
        (Register::ICR, 0xffff_efff),
        (Register::ICR2, 0xff00_0000),
        (Register::LVT_TIMER, 0x710ff),
        (Register::LVT_THERMAL, 0x117ff),
        (Register::LVT_PMC, 0x117ff),
        (Register::LVT_LINT0, 0x1f7ff),
        (Register::LVT_LINT1, 0x1f7ff),
        (Register::LVT_ERROR, 0x110ff),
        (Register::TMICT, 0xffff_ffff),
        (Register::TDCR, 0xb),
        (Register::VERSION, 0x0106_0014),
        (Register::APR, 0),
        (Register::TMCCT, 0),
        (Register::EOI, 0),
        (Register::SELF_IPI, 0),
        (Register::ISR, 0),
        (Register::TMR, 0),
        (Register::IRR, 0),
    ] {
        let apic = enabled(0);
        let _ = apic.write(register.0, u32::MAX);
        assert_eq!(read(&apic, register), bits, "{register:?}");
    }
}

#[test]
fn effects_of_xapic_writes() {
    let apic = enabled(2);
    assert_eq!(apic.write(Register::ICR2.0, 0x0700_0000), Effect::None);
    let message = Message::from_icr(0x0700_0000_0000_4041, false);
    assert_eq!(apic.write(Register::ICR.0, 0x5041), Effect::Send(message));
    assert_eq!(read(&apic, Register::ICR), 0x4041, "never busy");
    for register in [Register::ID, Register::LDR, Register::DFR] {
        assert_eq!(apic.write(register.0, 0), Effect::Destination);
    }
    assert_eq!(apic.write(Register::EOI.0, 0), Effect::None);
    apic.acknowledge(0x31);
    let eoi = apic.ended(0x31);
    assert_eq!(apic.write(Register::EOI.0, 0), Effect::Eoi(eoi));
    assert_eq!(
        apic.write(Register::LVT_LINT0.0, 0x400),
        Effect::Lvt(Lvt::Lint0)
    );
    assert!(apic.lint0_is_nmi() && !apic.takes_extint());
    assert_eq!(
        apic.write(Register::SELF_IPI.0, 0x40),
        Effect::None,
        "only x2APIC"
    );
}

#[test]
fn effects_on_the_timer() {
    let apic = enabled(0);
    let count = TimerWrite::InitialCount(77);
    assert_eq!(apic.write(Register::TMICT.0, 77), Effect::Timer(count));
    let divide = TimerWrite::Divide(0xb);
    assert_eq!(apic.write(Register::TDCR.0, 0xff), Effect::Timer(divide));
    let lvtt = Register::LVT_TIMER.0;
    assert_eq!(apic.write(lvtt, 0x41), Effect::Lvt(Lvt::Timer), "same mode");
    let periodic = TimerWrite::Mode(TimerMode::Periodic);
    assert_eq!(apic.write(lvtt, 0x20041), Effect::Timer(periodic));
    assert_eq!(read(&apic, Register::TMICT), 77);
    let deadline = TimerWrite::Mode(TimerMode::TscDeadline);
    assert_eq!(apic.write(lvtt, 0x40041), Effect::Timer(deadline));
    assert_eq!(read(&apic, Register::TMICT), 0);
    assert_eq!(apic.write(Register::TMICT.0, 5), Effect::None);
    assert_eq!(read(&apic, Register::TMICT), 0);

    apic.set_features(ALL.difference(Features::TSC_DEADLINE));
    let _ = apic.write(lvtt, 0x60041);
    assert_eq!(read(&apic, Register::LVT_TIMER), 0x20041);
    assert_eq!(apic.timer_mode(), TimerMode::Periodic);
}

#[test]
fn a_software_disable_masks_the_table() {
    let apic = enabled(0);
    let entries = [
        Register::LVT_CMCI,
        Register::LVT_TIMER,
        Register::LVT_THERMAL,
        Register::LVT_PMC,
        Register::LVT_LINT0,
        Register::LVT_LINT1,
        Register::LVT_ERROR,
    ];
    for register in entries {
        let _ = apic.write(register.0, 0x41);
    }
    assert_eq!(
        apic.write(Register::SVR.0, 0xff),
        Effect::SoftwareEnable(false)
    );
    for register in entries {
        assert_eq!(read(&apic, register), 0x10041);
        let _ = apic.write(register.0, 0x42);
        assert_eq!(read(&apic, register), 0x10042, "stays masked");
    }
    assert_eq!(apic.local(Lvt::Timer), None);
}

#[test]
fn local_interrupts() {
    let apic = enabled(0);
    let _ = apic.write(Register::LVT_TIMER.0, 0xec);
    let timer = LocalInterrupt {
        delivery: Delivery::Fixed,
        vector: 0xec,
        level: false,
    };
    assert_eq!(apic.local(Lvt::Timer), Some(timer));
    let _ = apic.write(Register::LVT_LINT1.0, 0x8412);
    let nmi = LocalInterrupt {
        delivery: Delivery::Nmi,
        vector: 0x12,
        level: true,
    };
    assert_eq!(apic.local(Lvt::Lint1), Some(nmi));
    assert_eq!(apic.local(Lvt::Error), None);
    let _ = apic.write(Register::LVT_PMC.0, 0x400);
    assert!(apic.local(Lvt::PerformanceCounters).is_some());
    assert_eq!(apic.local(Lvt::PerformanceCounters), None, "masks itself");
    assert_eq!(read(&apic, Register::LVT_PMC), 0x10400);
    let _ = apic.set_base(DEFAULT_BASE, 46, false);
    assert_eq!(apic.local(Lvt::Timer), None);
    assert!(apic.takes_extint(), "the pin is INTR now");
}

#[test]
fn widths_and_alignments() {
    let apic = enabled(0);
    assert_eq!(apic.write_bytes(0x80, &[0x21, 0, 0, 0]), Effect::Tpr);
    for (offset, data) in [
        (0x80u32, &[1u8][..]),
        (0x80, &[1; 2]),
        (0x84, &[1; 4]),
        (0x80, &[1; 8]),
        (0x80, &[]),
    ] {
        assert_eq!(apic.write_bytes(offset, data), Effect::None);
        assert_eq!(apic.tpr(), 0x21);
    }
    let bytes = |offset: u32, len: usize| {
        let mut data = [0xee; 16];
        apic.read_bytes(offset, &mut data[..len], || 0x0403_0201);
        Vec::from(&data[..len])
    };
    assert_eq!(bytes(0x390, 4), [1, 2, 3, 4]);
    assert_eq!(bytes(0x391, 2), [2, 3]);
    assert_eq!(bytes(0x393, 1), [4]);
    assert_eq!(bytes(0x393, 2), [0, 0]);
    assert_eq!(bytes(0x390, 8), [0; 8]);
    assert_eq!(bytes(0x394, 1), [0]);
    assert_eq!(bytes(0xb0, 4), [0; 4], "write-only");
    assert_eq!(bytes(0xffff_fff0, 4), [0; 4]);
}

#[test]
fn which_msrs_can_be_read() {
    let apic = x2apic(0);
    let readable: Vec<u32> = (FIRST_MSR..=LAST_MSR)
        .filter(|msr| apic.read_msr(*msr, || 0).is_ok())
        .collect();
    let mut expected = std::vec![0x802, 0x803, 0x808, 0x80a, 0x80d, 0x80f];
    expected.extend(0x810..=0x828);
    expected.extend([
        0x82f, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x839, 0x83e,
    ]);
    assert_eq!(readable, expected);
    for msr in [0, FIRST_MSR - 1, LAST_MSR + 1, u32::MAX] {
        assert_eq!(apic.read_msr(msr, || 0), Err(Gp));
    }
    apic.set_features(Features::X2APIC);
    assert_eq!(apic.read_msr(0x82f, || 0), Err(Gp));
    let xapic = enabled(0);
    assert_eq!(xapic.read_msr(0x802, || 0), Err(Gp));
}

#[test]
fn which_msrs_can_be_written() {
    let writable: Vec<u32> = (FIRST_MSR..=LAST_MSR)
        .filter(|msr| x2apic(0).write_msr(*msr, 0).is_ok())
        .collect();
    let expected = [
        0x808, 0x80b, 0x80f, 0x828, 0x82f, 0x830, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838,
        0x83e, 0x83f,
    ];
    assert_eq!(writable, expected);
    assert_eq!(enabled(0).write_msr(0x808, 0), Err(Gp));
}

#[test]
fn reserved_bits_of_msrs() {
    let apic = x2apic(0);
    for register in [Register::TPR, Register::SVR, Register::TMICT] {
        assert_eq!(apic.write_msr(msr(register), 1 << 32), Err(Gp));
    }
    assert_eq!(apic.write_msr(msr(Register::ESR), 1), Err(Gp));
    assert_eq!(apic.write_msr(msr(Register::SELF_IPI), 0x100), Err(Gp));
    for bit in (0..64).filter(|bit| matches!(bit, 13 | 16 | 17 | 20..=31)) {
        assert_eq!(
            apic.write_msr(msr(Register::ICR), 1 << bit),
            Err(Gp),
            "{bit}"
        );
    }
    for bit in (0..64).filter(|bit| !matches!(bit, 13 | 16 | 17 | 20..=31)) {
        assert!(
            apic.write_msr(msr(Register::ICR), 1 << bit).is_ok(),
            "{bit}"
        );
    }
}

#[test]
fn x2apic_commands() {
    let apic = x2apic(0);
    let icr = 0x0000_0123_0000_4841;
    let message = Message::from_icr(icr, true);
    let sent = apic.write_msr(msr(Register::ICR), icr | 1 << 12);
    assert_eq!(sent, Ok(Effect::Send(message)));
    assert_eq!(apic.read_msr(msr(Register::ICR), || 0), Ok(icr));
    let to_itself = Message::to_itself(0x71);
    let sent = apic.write_msr(msr(Register::SELF_IPI), 0x71);
    assert_eq!(sent, Ok(Effect::Send(to_itself)));
    assert!(apic.matches(&to_itself, true) && !apic.matches(&to_itself, false));
    assert_eq!(apic.read_msr(msr(Register::TMCCT), || 9), Ok(9));
    apic.set_tpr(0x33);
    assert_eq!(apic.read_msr(msr(Register::PPR), || 0), Ok(0x33));
}

/// The processor wrote the page; what follows is the same as of a write that exited.
#[test]
fn writes_by_the_processor() {
    for (register, value) in [
        (Register::ICR, 0x5041),
        (Register::SVR, 0xfff0_00ff),
        (Register::LVT_TIMER, 0xffff_ffff),
        (Register::LVT_LINT0, 0xffff_ffff),
        (Register::TDCR, 0xff),
        (Register::TMICT, 1000),
        (Register::LDR, 0x1234_5678),
        (Register::ID, 0x1234_5678),
        (Register::EOI, 0),
    ] {
        let (exited, by_itself) = (enabled(0), enabled(0));
        exited.acknowledge(0x44);
        by_itself.acknowledge(0x44);
        let effect = exited.write(register.0, value);
        by_itself.registers().store(register, value);
        assert_eq!(
            by_itself.after_write(register.0 + 4),
            effect,
            "{register:?}"
        );
        assert_eq!(read(&by_itself, register), read(&exited, register));
    }
    let apic = x2apic(0);
    let icr = 0x0000_0123_0000_4841u64;
    apic.registers().store(Register::ICR, icr as u32 | 1 << 12);
    apic.registers().store(Register(0x304), (icr >> 32) as u32);
    let message = Message::from_icr(icr, true);
    assert_eq!(apic.after_write(0x300), Effect::Send(message));
    apic.registers().store(Register::SELF_IPI, 0x51);
    assert_eq!(
        apic.after_write(0x3f0),
        Effect::Send(Message::to_itself(0x51))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_access_is_too_much(
        accesses in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u64>()), 1..100),
        features: u8,
        id: u32,
    ) {
        let features = Features::from_bits_truncate(features);
        let apic = Lapic::new(Box::<Registers>::default(), id, id % 2 == 0, features);
        let mut timer = Timer::new(1, MIN_PERIOD);
        let mut now = 0u64;
        for (what, at, value) in accesses {
            let offset = at & 0x3f0;
            let effect = match what % 10 {
                0..3 => apic.write(offset, value as u32),
                3..5 => apic.write_msr(FIRST_MSR + offset / 16, value).unwrap_or(Effect::None),
                5 => apic.write(at, value as u32),
                6 => apic.write_msr(at, value).unwrap_or(Effect::None),
                7 => apic.after_write(at),
                8 => apic.set_base(value & 0xd00 | DEFAULT_BASE, 40, at % 2 == 0).unwrap_or(Effect::None),
                _ => apic.set_base(value, at as u8, at % 2 == 0).unwrap_or(Effect::None),
            };
            now = now.wrapping_add(value >> 20);
            match effect {
                Effect::Timer(write) => timer.write(write, now),
                Effect::Send(message) => {
                    apic.matches(&message, true);
                    apic.matches(&message, false);
                    apic.accept(message.vector, message.level);
                }
                _ => {}
            }
            if let Some(vector) = apic.pending() {
                apic.acknowledge(vector);
            }
            timer.expire(now);
            apic.read(at, || timer.current_count(now));
            apic.read_bytes(at, &mut [0; 7][..usize::from(what) % 8], || 0);
            let _ = apic.read_msr(at, || 0);
            apic.local(Lvt::Timer);
            prop_assert_eq!(apic.timer_mode(), timer.mode());
        }
    }
}
