// SPDX-License-Identifier: GPL-2.0
//! One interrupt for many vCPUs, some of which sleep: by each way that leads there.

use std::time::Duration;

use kvm_bindings::*;

use super::tests;
use crate::devices::*;
use crate::eventfd::Event;
use crate::expect;
use crate::machine::{apic, Eoi, Machine};
use crate::request::*;

tests! {
    "broadcasts":
    command(60), logical_command(60), x2apic_command(60), non_maskable(60), hypercall(60),
    message(60), logical_message(60), pin(60), level(60), message_by_eventfd(60),
    pin_by_eventfd(60), timer(60),
}

const VECTOR: u8 = 0xa3;
const CPUS: usize = 160;
/// vCPUs that sleep in HLT, those after the first.
const ASLEEP: usize = 32;
/// Some of the others.
const AWAKE: [usize; 4] = [ASLEEP + 1, 64, 100, CPUS - 1];
/// An entry or a message for everybody.
const EVERYBODY: u8 = 0xff;
const PIN: u32 = 19;
/// Of the ICR and of redirection entries.
const LOGICAL: u32 = 1 << 11;
const LEVEL: u64 = 1 << 15;
const NMI: u32 = 4 << 8;
const OTHERS: u32 = 3 << 18;

#[track_caller]
fn machine(eoi: Eoi) -> Machine {
    Machine::with_apics(CPUS, VECTOR, eoi)
}

/// All have the same bit in their logical destination.
#[track_caller]
fn logical_machine() -> Machine {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        machine.cpu(id).apic_write(apic::LDR, 1 << 24);
    }
    machine
}

/// Sends while some sleep. They wake, and the others find the interrupt when they next run.
#[track_caller]
fn expect_all_take(machine: &Machine, vector: u8, send: impl FnOnce()) {
    std::thread::scope(|scope| {
        let asleep: Vec<_> = (1..=ASLEEP)
            .map(|id| scope.spawn(move || machine.cpu(id).halt()))
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        send();
        for thread in asleep {
            expect::that("HLT ends", thread.join().is_ok());
        }
    });
    machine.expect_count(vector, ASLEEP as u64);
    for (more, id) in (1..).zip(AWAKE) {
        machine.cpu(id).nop();
        machine.expect_count(vector, ASLEEP as u64 + more);
    }
}

#[track_caller]
fn set_entry(machine: &Machine, pin: u32, entry: u64) {
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[pin as usize] = entry;
    machine.vm.set_ioapic(&chip);
}

#[track_caller]
fn assign(machine: &Machine, event: &Event) {
    let irqfd = kvm_irqfd {
        fd: event.fd() as u32,
        gsi: PIN,
        ..kvm_irqfd::default()
    };
    expect::ok("KVM_IRQFD", machine.vm.set(IRQFD, &irqfd));
}

fn command() {
    let machine = machine(Eoi::Xapic);
    let icr = OTHERS | u32::from(VECTOR);
    expect_all_take(&machine, VECTOR, || {
        machine.cpu(0).apic_write(apic::ICR, icr);
    });
}

fn logical_command() {
    let machine = logical_machine();
    machine.cpu(0).apic_write(apic::ICR2, 1 << 24);
    let icr = LOGICAL | u32::from(VECTOR);
    expect_all_take(&machine, VECTOR, || {
        machine.cpu(0).masked().apic_write(apic::ICR, icr);
    });
}

fn x2apic_command() {
    let machine = machine(Eoi::X2apic);
    let icr = OTHERS | u32::from(VECTOR);
    expect_all_take(&machine, VECTOR, || {
        machine.cpu(0).x2apic_write(apic::ICR, icr.into());
    });
}

fn non_maskable() {
    let machine = machine(Eoi::Xapic);
    expect_all_take(&machine, 2, || {
        machine.cpu(0).apic_write(apic::ICR, OTHERS | NMI);
    });
}

fn hypercall() {
    const SEND_IPI: u64 = 10;
    let machine = machine(Eoi::Xapic);
    let vector = u64::from(VECTOR);
    expect_all_take(&machine, VECTOR, || {
        let all = [u64::MAX << 1, u64::MAX, 0, vector];
        expect::eq("the first", machine.cpu(0).hypercall(SEND_IPI, all), 127);
        let rest = [u64::MAX, 0, 128, vector];
        expect::eq("the rest", machine.cpu(0).hypercall(SEND_IPI, rest), 32);
    });
}

fn message() {
    let machine = machine(Eoi::Xapic);
    expect_all_take(&machine, VECTOR, || {
        let got = machine.vm.signal_msi(msi_address(EVERYBODY), VECTOR.into());
        expect::eq("KVM_SIGNAL_MSI", got, Ok(CPUS as i32));
    });
}

fn logical_message() {
    const MSI_LOGICAL: u64 = 1 << 2;
    let machine = logical_machine();
    expect_all_take(&machine, VECTOR, || {
        let address = msi_address(1) | MSI_LOGICAL;
        let got = machine.vm.signal_msi(address, VECTOR.into());
        expect::eq("KVM_SIGNAL_MSI", got, Ok(CPUS as i32));
    });
}

fn pin() {
    let machine = machine(Eoi::Xapic);
    set_entry(
        &machine,
        PIN,
        u64::from(EVERYBODY) << 56 | u64::from(VECTOR),
    );
    expect_all_take(&machine, VECTOR, || {
        let got = machine.vm.irq_line_status(PIN, true);
        expect::eq("KVM_IRQ_LINE_STATUS", got, CPUS as i32);
        machine.vm.irq_line(PIN, false);
    });
}

/// The first EOI ends it for the IOAPIC, which sends it again as long as the line is up.
fn level() {
    let machine = machine(Eoi::None);
    set_entry(
        &machine,
        PIN,
        u64::from(EVERYBODY) << 56 | LEVEL | u64::from(VECTOR),
    );
    expect_all_take(&machine, VECTOR, || {
        machine.vm.irq_line(PIN, true);
    });
    let before = machine.count(VECTOR);
    machine.cpu(1).apic_write(apic::EOI, 0);
    machine.cpu(1).nop();
    machine.expect_count(VECTOR, before + 1);
    machine.vm.irq_line(PIN, false);
    for id in [1, 64] {
        machine.cpu(id).apic_write(apic::EOI, 0);
    }
}

fn message_by_eventfd() {
    let machine = machine(Eoi::Xapic);
    let route = Route::msi(PIN, msi_address(EVERYBODY), VECTOR.into());
    expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&[route]));
    let event = Event::new();
    assign(&machine, &event);
    expect_all_take(&machine, VECTOR, || event.signal());
}

fn pin_by_eventfd() {
    let machine = machine(Eoi::Xapic);
    set_entry(
        &machine,
        PIN,
        u64::from(EVERYBODY) << 56 | u64::from(VECTOR),
    );
    let event = Event::new();
    assign(&machine, &event);
    expect_all_take(&machine, VECTOR, || event.signal());
}

/// One shot of the timer chip, on pin 0.
fn timer() {
    let machine = machine(Eoi::Xapic);
    machine.vm.create_pit2(0);
    set_entry(&machine, 0, u64::from(EVERYBODY) << 56 | u64::from(VECTOR));
    expect_all_take(&machine, VECTOR, || {
        for (port, value) in [(0x43, 0x30), (0x40, 0x00), (0x40, 0x10)] {
            machine.cpu(0).masked().outb(port, value);
        }
    });
}
