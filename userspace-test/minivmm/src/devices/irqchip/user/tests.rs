// SPDX-License-Identifier: GPL-2.0

//! The controllers as the guest's CPUs see them.

use super::*;

const LOCAL_APIC: u64 = 0xfee0_0000;
const TPR: u64 = LOCAL_APIC + 0x80;
const EOI: u64 = LOCAL_APIC + 0xb0;
const SVR: u64 = LOCAL_APIC + 0xf0;
const ICR: u64 = LOCAL_APIC + 0x300;
const ICR2: u64 = LOCAL_APIC + 0x310;
const LVT_TIMER: u64 = LOCAL_APIC + 0x320;
const INITIAL_COUNT: u64 = LOCAL_APIC + 0x380;
const CURRENT_COUNT: u64 = LOCAL_APIC + 0x390;
const DIVIDE: u64 = LOCAL_APIC + 0x3e0;
const IOAPIC_SELECT: u64 = 0xfec0_0000;
const IOAPIC_WINDOW: u64 = 0xfec0_0010;

fn write(user: &mut User, cpu: usize, address: u64, value: u32) {
    user.write(cpu, address, &value.to_le_bytes(), 0);
}

fn read(user: &mut User, cpu: usize, address: u64, now: u64) -> u32 {
    let mut data = [0; 4];
    assert!(user.read(cpu, address, &mut data, now), "{address:#x}");
    u32::from_le_bytes(data)
}

/// Controllers of `cpus` CPUs that all run, their local APICs enabled and the PICs masked.
fn started(cpus: u8) -> User {
    let mut user = User::new(cpus);
    for port in [0x21, 0xa1] {
        user.pic().write(port, 0xff);
    }
    for cpu in 1..usize::from(cpus) {
        write(&mut user, 0, ICR2, (cpu as u32) << 24);
        write(&mut user, 0, ICR, 0x4500);
        write(&mut user, 0, ICR, 0x4610);
        assert_eq!(user.take_event(cpu), Some(Event::Init));
        assert_eq!(user.take_event(cpu), Some(Event::StartUp(0x10)));
    }
    for cpu in 0..usize::from(cpus) {
        write(&mut user, cpu, SVR, 0x1ff);
    }
    user
}

/// Programs the IOAPIC's entry of `pin`.
fn redirect(user: &mut User, pin: u32, low: u32, destination: u32) {
    for (register, value) in [(0x11 + 2 * pin, destination << 24), (0x10 + 2 * pin, low)] {
        write(user, 0, IOAPIC_SELECT, register);
        write(user, 0, IOAPIC_WINDOW, value);
    }
}

#[test]
fn an_ipi_reaches_the_one_it_is_for() {
    let mut user = started(4);
    write(&mut user, 1, ICR2, 3 << 24);
    write(&mut user, 1, ICR, 0x40f0);
    let pending: Vec<_> = (0..4).map(|cpu| user.pending(cpu)).collect();
    assert_eq!(pending, [false, false, false, true]);
    assert_eq!(user.acknowledge(3), Some(0xf0));
    assert!(!user.pending(3));
}

#[test]
fn a_shorthand_reaches_all_but_the_sender() {
    let mut user = started(3);
    write(&mut user, 1, ICR, 0xc_40f0);
    let pending: Vec<_> = (0..3).map(|cpu| user.pending(cpu)).collect();
    assert_eq!(pending, [true, false, true]);
}

#[test]
fn an_isa_line_goes_by_the_ioapic_to_its_cpu() {
    let mut user = started(2);
    redirect(&mut user, 4, 0x31, 1);
    user.pulse(4);
    assert!(!user.pending(0) && user.pending(1));
    assert_eq!(user.acknowledge(1), Some(0x31));
    write(&mut user, 1, EOI, 0);
    user.pulse(4);
    assert!(user.pending(1), "the second edge is lost");
}

#[test]
fn the_timer_is_at_pin_2() {
    let mut user = started(1);
    redirect(&mut user, 2, 0x30, 0);
    user.pulse(0);
    assert_eq!(user.acknowledge(0), Some(0x30));
}

#[test]
fn the_pics_reach_the_first_cpu_before_it_sets_up_anything() {
    let mut user = User::new(2);
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0)] {
        user.pic().write(port, value);
    }
    user.pulse(4);
    assert!(user.pending(0) && !user.pending(1));
    assert_eq!(user.acknowledge(0), Some(0x24));
}

#[test]
fn a_higher_task_priority_holds_an_interrupt_back() {
    let mut user = started(1);
    write(&mut user, 0, TPR, 0x80);
    write(&mut user, 0, ICR, 0x4_4070);
    assert!(!user.pending(0));
    assert_eq!(user.cr8(0), 8);
    let base = user.cpus[0].apic.base();
    user.follow(0, 0, base);
    assert!(user.pending(0));
}

#[test]
fn the_timer_counts_nanoseconds_and_interrupts() {
    let mut user = started(1);
    write(&mut user, 0, DIVIDE, 0xb);
    write(&mut user, 0, LVT_TIMER, 0xec);
    write(&mut user, 0, INITIAL_COUNT, 1000);
    let deadline = user.next_deadline().expect("it runs");
    let half = read(&mut user, 0, CURRENT_COUNT, deadline / 2);
    assert!((499..=501).contains(&half), "{half}");
    user.pass_time(deadline - 1);
    assert!(!user.pending(0), "it comes too early");
    user.pass_time(deadline);
    assert_eq!(user.acknowledge(0), Some(0xec));
    assert_eq!(user.next_deadline(), None, "it comes again");
}

#[test]
fn a_cpu_that_waits_for_its_start_takes_no_interrupt() {
    let mut user = started(2);
    write(&mut user, 0, ICR2, 1 << 24);
    write(&mut user, 0, ICR, 0x40f0);
    assert!(user.pending(1));
    write(&mut user, 0, ICR, 0x4500);
    assert_eq!(user.take_event(1), Some(Event::Init));
    assert!(!user.is_started(1) && !user.pending(1));
}

#[test]
fn where_no_register_is_nothing_answers() {
    let mut user = started(1);
    for address in [0xfec0_0100, 0xfee0_1000, 0xd000_0000, 0, u64::MAX] {
        assert!(!user.read(0, address, &mut [0; 4], 0), "{address:#x}");
        write(&mut user, 0, address, 0);
    }
}
