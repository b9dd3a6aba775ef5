// SPDX-License-Identifier: GPL-2.0

use super::*;

#[test]
fn power_up() {
    for (id, base) in [(0, 0xfee0_0900), (7, 0xfee0_0800)] {
        let apic = apic(id);
        assert_eq!(apic.base(), base);
        assert_eq!(apic.address(), 0xfee0_0000);
        assert!(apic.is_enabled() && !apic.is_software_enabled() && !apic.is_x2apic());
        assert!(apic.is_memory_mapped() && !apic.takes_interrupts());
        assert_eq!(read(&apic, Register::ID), id << 24);
        assert_eq!(read(&apic, Register::VERSION), 0x0106_0014);
        assert_eq!(read(&apic, Register::DFR), u32::MAX);
        assert_eq!(read(&apic, Register::SVR), 0xff);
        for register in [Register::TPR, Register::LDR, Register::ESR, Register::TMICT] {
            assert_eq!(read(&apic, register), 0);
        }
        let lint0 = if id == 0 { 0x700 } else { 0x10000 };
        assert_eq!(read(&apic, Register::LVT_LINT0), lint0);
        assert_eq!(apic.takes_extint(), id == 0);
        for register in [
            Register::LVT_CMCI,
            Register::LVT_TIMER,
            Register::LVT_THERMAL,
            Register::LVT_PMC,
            Register::LVT_LINT1,
            Register::LVT_ERROR,
        ] {
            assert_eq!(read(&apic, register), 0x10000);
        }
    }
}

#[test]
fn features_are_seen_in_the_version() {
    let plain = Lapic::new(Box::<Registers>::default(), 0, true, Features::empty());
    assert_eq!(plain.read(0x30, || 0), 0x0005_0014);
    assert_eq!(plain.read(0x350, || 0), 0x10000, "no quirk");
    assert_eq!(plain.read(0x2f0, || 0), 0, "no such entry");
    plain.set_features(Features::CMCI | Features::SUPPRESS_EOI_BROADCAST);
    assert_eq!(plain.read(0x30, || 0), 0x0006_0014, "not without x2APIC");
    assert_eq!(plain.read(0x2f0, || 0), 0x10000);
}

/// SDM vol. 3, figure 11-27.
#[test]
fn mode_transitions() {
    const OFF: u64 = DEFAULT_BASE;
    const XAPIC: u64 = DEFAULT_BASE | BASE_ENABLE;
    const X2APIC: u64 = XAPIC | BASE_X2APIC;
    for (from, to, allowed) in [
        (OFF, XAPIC, true),
        (OFF, X2APIC, false),
        (XAPIC, OFF, true),
        (XAPIC, X2APIC, true),
        (X2APIC, OFF, true),
        (X2APIC, XAPIC, false),
        (X2APIC, DEFAULT_BASE | BASE_X2APIC, false),
        (OFF, DEFAULT_BASE | BASE_X2APIC, false),
    ] {
        let apic = enabled(5);
        let _ = apic.set_base(from, 46, true);
        assert_eq!(apic.base(), from);
        let expected = if allowed {
            Ok(Effect::Mode)
        } else {
            Err(Invalid)
        };
        assert_eq!(apic.set_base(to, 46, false), expected, "{from:#x} {to:#x}");
        assert_eq!(apic.base(), if allowed { to } else { from });
        let host = to & BASE_ENABLE != 0 || to & BASE_X2APIC == 0;
        assert_eq!(apic.set_base(to, 46, true).is_ok(), host);
        assert_eq!(apic.set_base(apic.base(), 46, false), Ok(Effect::None));
    }
}

#[test]
fn reserved_bits_of_the_base() {
    let apic = enabled(0);
    for bit in [0, 7, 9, 40, 63] {
        let value = apic.base() | 1 << bit;
        assert_eq!(apic.set_base(value, 40, true), Err(Invalid), "{bit}");
    }
    assert_eq!(
        apic.set_base(apic.base() ^ BASE_BSP, 40, false),
        Ok(Effect::Mode)
    );
    assert_eq!(apic.set_base(0x80_1234_5800, 40, false), Ok(Effect::Mode));
    assert_eq!(apic.address(), 0x80_1234_5000);
    apic.set_features(Features::empty());
    assert_eq!(
        apic.set_base(apic.base() | BASE_X2APIC, 64, true),
        Err(Invalid)
    );
}

#[test]
fn the_id_register_follows_the_mode() {
    let apic = enabled(0x25);
    let _ = apic.write(Register::ID.0, 0x4400_0000);
    let _ = apic.set_base(apic.base() | BASE_X2APIC, 46, false);
    assert_eq!(apic.registers().load(Register::ID), 0x25);
    assert_eq!(apic.registers().load(Register::LDR), 0x0002_0020);
    assert!(!apic.is_memory_mapped());
    let _ = apic.set_base(DEFAULT_BASE, 46, false);
    let _ = apic.set_base(DEFAULT_BASE | BASE_ENABLE, 46, false);
    assert_eq!(apic.registers().load(Register::ID), 0x2500_0000);
    let _ = apic.set_base(DEFAULT_BASE | BASE_ENABLE | BASE_X2APIC, 46, true);
    let _ = apic.set_base(DEFAULT_BASE | BASE_ENABLE, 46, true);
    assert_eq!(apic.registers().load(Register::ID), 0x2500_0000);
}

#[test]
fn init_keeps_base_and_id() {
    let apic = x2apic(0x25);
    apic.accept(0x40, true);
    apic.accept(0x51, true);
    apic.acknowledge(0x51);
    let _ = apic.write_msr(msr(Register::ICR), 0x5_0000_0041);
    let _ = apic.write_msr(msr(Register::LVT_TIMER), 0x40041);
    apic.set_tpr(0x20);
    apic.init_reset();
    assert!(apic.is_x2apic());
    assert_eq!(apic.read_msr(msr(Register::ID), || 0), Ok(0x25));
    assert_eq!(apic.read_msr(msr(Register::LDR), || 0), Ok(0x0002_0020));
    assert_eq!(apic.read_msr(msr(Register::ICR), || 0), Ok(0));
    assert_eq!(apic.timer_mode(), TimerMode::OneShot);
    assert_eq!(
        (apic.highest_irr(), apic.highest_isr(), apic.tpr()),
        (None, None, 0)
    );
    assert!(!apic.is_software_enabled());
    apic.reset();
    assert!(!apic.is_x2apic());
    assert_eq!(read(&apic, Register::ID), 0x2500_0000);
    assert_eq!(read(&apic, Register::LDR), 0);
}
