// SPDX-License-Identifier: GPL-2.0
//! Interrupts by eventfd: KVM_IRQFD (api.rst 4.75), with and without resampling.

use std::time::Duration;

use kvm_bindings::*;
use libc::{EBADF, EBUSY, EFAULT, EINVAL};

use super::tests;
use crate::devices::*;
use crate::eventfd::Event;
use crate::expect;
use crate::machine::{apic, Eoi, Machine};
use crate::request::*;
use crate::sys::Errno;
use crate::vm::Vm;

tests! {
    "irqfd":
    message, pin, signalled_before, many_signals, wakes_halt, deassign, deassign_unknown,
    two_gsis, route_changes, no_route, sixty_four, closed_eventfd, closed_vm, split,
    resample, resample_shared, resample_many, resample_deassign, bad_flags, bad_descriptors, without_irqchip,
    resample_needs_ioapic, assigned_twice,
}

const VECTOR: u8 = 0x51;
const GSI: u32 = 21;
const DEASSIGN: u32 = KVM_IRQFD_FLAG_DEASSIGN;
const RESAMPLE: u32 = KVM_IRQFD_FLAG_RESAMPLE;
const LEVEL: u64 = 1 << 15;

fn irqfd(vm: &Vm, event: &Event, gsi: u32, flags: u32) -> Result<i32, Errno> {
    let fd = event.fd() as u32;
    vm.set(
        IRQFD,
        &kvm_irqfd {
            fd,
            gsi,
            flags,
            ..kvm_irqfd::default()
        },
    )
}

#[track_caller]
fn assign(vm: &Vm, event: &Event, gsi: u32) {
    expect::ok("KVM_IRQFD", irqfd(vm, event, gsi, 0));
}

#[track_caller]
fn assign_resample(vm: &Vm, event: &Event, resample: &Event, gsi: u32) {
    let got = vm.set(
        IRQFD,
        &kvm_irqfd {
            fd: event.fd() as u32,
            gsi,
            flags: RESAMPLE,
            resamplefd: resample.fd() as u32,
            ..kvm_irqfd::default()
        },
    );
    expect::ok("KVM_IRQFD", got);
}

/// A machine with a route from [`GSI`] to a message of [`VECTOR`].
#[track_caller]
fn machine() -> Machine {
    let machine = Machine::new(1);
    machine.handle_all(VECTOR..VECTOR + 8, Eoi::Xapic);
    machine.cpu(0).enable_apic();
    let route = Route::msi(GSI, msi_address(0), VECTOR.into());
    expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&[route]));
    machine
}

/// A machine whose pin [`GSI`] is level-triggered.
#[track_caller]
fn machine_with_level() -> Machine {
    let machine = Machine::new(1);
    machine.handle(VECTOR, Eoi::None);
    machine.cpu(0).enable_apic();
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[GSI as usize] = LEVEL | u64::from(VECTOR);
    machine.vm.set_ioapic(&chip);
    machine
}

/// Lets the guest run until `vector` came `count` times: an eventfd may reach KVM through the
/// kernel's worker threads.
#[track_caller]
fn await_count(machine: &Machine, vector: u8, count: u64) {
    for _ in 0..1000 {
        machine.cpu(0).nop();
        if machine.count(vector) >= count {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    machine.expect_count(vector, count);
}

/// Lets time pass for what must not come.
#[track_caller]
fn expect_no_more(machine: &Machine, vector: u8, count: u64) {
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(2));
        machine.cpu(0).nop();
    }
    machine.expect_count(vector, count);
}

fn message() {
    let machine = machine();
    let event = Event::new();
    assign(&machine.vm, &event, GSI);
    for count in 1..=5 {
        event.signal();
        await_count(&machine, VECTOR, count);
    }
    expect::eq("what is left to read", event.take(), 0);
}

/// An eventfd pulses the line of a pin.
fn pin() {
    let machine = Machine::new(1);
    machine.handle(VECTOR, Eoi::Xapic);
    machine.cpu(0).enable_apic();
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[GSI as usize] = VECTOR.into();
    machine.vm.set_ioapic(&chip);
    let event = Event::new();
    assign(&machine.vm, &event, GSI);
    for count in 1..=5 {
        event.signal();
        await_count(&machine, VECTOR, count);
    }
    expect::eq("the line", machine.vm.ioapic().irr, 0);
}

fn signalled_before() {
    let machine = machine();
    let event = Event::with_count(3);
    assign(&machine.vm, &event, GSI);
    await_count(&machine, VECTOR, 1);
    expect_no_more(&machine, VECTOR, 1);
}

/// Signals that come while the interrupt waits are one.
fn many_signals() {
    let machine = machine();
    let event = Event::new();
    assign(&machine.vm, &event, GSI);
    for _ in 0..100 {
        event.signal();
    }
    await_count(&machine, VECTOR, 1);
    expect_no_more(&machine, VECTOR, 1);
}

fn wakes_halt() {
    let machine = machine();
    let event = Event::new();
    assign(&machine.vm, &event, GSI);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(10));
            event.signal();
        });
        machine.cpu(0).halt();
    });
    machine.expect_count(VECTOR, 1);
}

fn deassign() {
    let machine = machine();
    let event = Event::new();
    for count in 1..=3 {
        assign(&machine.vm, &event, GSI);
        event.signal();
        await_count(&machine, VECTOR, count);
        let got = irqfd(&machine.vm, &event, GSI, DEASSIGN);
        expect::ok("KVM_IRQFD_FLAG_DEASSIGN", got);
        event.signal();
        expect_no_more(&machine, VECTOR, count);
        expect::eq("the signal is still there", event.take(), 1);
    }
}

fn deassign_unknown() {
    let machine = machine();
    let event = Event::new();
    expect::ok("never assigned", irqfd(&machine.vm, &event, GSI, DEASSIGN));
    assign(&machine.vm, &event, GSI);
    expect::ok("another GSI", irqfd(&machine.vm, &event, 5, DEASSIGN));
    event.signal();
    await_count(&machine, VECTOR, 1);
}

/// A GSI with two eventfds.
fn two_gsis() {
    let machine = machine();
    let events = [Event::new(), Event::new()];
    for event in &events {
        assign(&machine.vm, event, GSI);
    }
    for (i, event) in events.iter().enumerate() {
        event.signal();
        await_count(&machine, VECTOR, i as u64 + 1);
    }
}

fn route_changes() {
    let machine = machine();
    let event = Event::new();
    assign(&machine.vm, &event, GSI);
    for i in 0..8 {
        let route = Route::msi(GSI, msi_address(0), u32::from(VECTOR) + i);
        expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&[route]));
        event.signal();
        await_count(&machine, VECTOR + i as u8, 1);
    }
}

fn no_route() {
    let machine = machine();
    let event = Event::new();
    assign(&machine.vm, &event, 77);
    event.signal();
    expect_no_more(&machine, VECTOR, 0);
    let route = Route::msi(77, msi_address(0), VECTOR.into());
    expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&[route]));
    event.signal();
    await_count(&machine, VECTOR, 1);
}

fn sixty_four() {
    let machine = Machine::new(1);
    machine.handle_all(0x40..0x80, Eoi::Xapic);
    machine.cpu(0).enable_apic();
    let routes: Vec<_> = (0..64)
        .map(|i| Route::msi(100 + i, msi_address(0), 0x40 + i))
        .collect();
    expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&routes));
    let events: Vec<_> = (0..64).map(|_| Event::new()).collect();
    for (gsi, event) in (100..).zip(&events) {
        assign(&machine.vm, event, gsi);
    }
    for (vector, event) in (0x40..).zip(&events) {
        event.signal();
        await_count(&machine, vector, 1);
    }
}

fn closed_eventfd() {
    let machine = machine();
    for _ in 0..10 {
        let event = Event::new();
        assign(&machine.vm, &event, GSI);
        event.signal();
    }
    let event = Event::new();
    assign(&machine.vm, &event, GSI);
    await_count(&machine, VECTOR, 1);
    let before = machine.count(VECTOR);
    event.signal();
    await_count(&machine, VECTOR, before + 1);
}

fn closed_vm() {
    let event = Event::new();
    for _ in 0..5 {
        let machine = machine();
        assign(&machine.vm, &event, GSI);
        drop(machine);
        event.signal();
    }
    expect::ne("what is left to read", event.take(), 0);
}

fn split() {
    let machine = Machine::in_vm(Vm::with_split_irqchip(24), 1);
    machine.handle(VECTOR, Eoi::Xapic);
    machine.cpu(0).enable_apic();
    let route = Route::msi(GSI, msi_address(0), VECTOR.into());
    expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&[route]));
    let event = Event::new();
    assign(&machine.vm, &event, GSI);
    event.signal();
    await_count(&machine, VECTOR, 1);
}

/// The line is up from the signal on; the guest's EOI lowers it and tells the other eventfd.
fn resample() {
    let machine = machine_with_level();
    let (event, resampled) = (Event::new(), Event::new());
    assign_resample(&machine.vm, &event, &resampled, GSI);
    for count in 1..=3 {
        event.signal();
        await_count(&machine, VECTOR, count);
        expect::eq("the line", machine.vm.ioapic().irr, 1 << GSI);
        expect::eq("told before the EOI", resampled.take(), 0);
        machine.cpu(0).apic_write(apic::EOI, 0);
        expect::eq("told after the EOI", resampled.take(), 1);
        expect::eq("the line", machine.vm.ioapic().irr, 0);
        expect_no_more(&machine, VECTOR, count);
    }
}

/// Two devices on a line are both told; one that signals again gets another interrupt.
fn resample_shared() {
    let machine = machine_with_level();
    let devices = [(Event::new(), Event::new()), (Event::new(), Event::new())];
    for (event, resampled) in &devices {
        assign_resample(&machine.vm, event, resampled, GSI);
    }
    devices[1].0.signal();
    await_count(&machine, VECTOR, 1);
    machine.cpu(0).apic_write(apic::EOI, 0);
    for (_, resampled) in &devices {
        expect::eq("told", resampled.take(), 1);
    }
    devices[0].0.signal();
    await_count(&machine, VECTOR, 2);
}

/// Many devices on a line: all hear of the end of its interrupt.
fn resample_many() {
    let machine = machine_with_level();
    let devices: Vec<_> = (0..40).map(|_| (Event::new(), Event::new())).collect();
    for (event, resampled) in &devices {
        assign_resample(&machine.vm, event, resampled, GSI);
    }
    for round in 1..=2 {
        devices[7].0.signal();
        await_count(&machine, VECTOR, round);
        machine.cpu(0).apic_write(apic::EOI, 0);
        for (_, resampled) in &devices {
            expect::eq("told", resampled.take(), 1);
        }
    }
}

fn resample_deassign() {
    let machine = machine_with_level();
    let (event, resampled) = (Event::new(), Event::new());
    assign_resample(&machine.vm, &event, &resampled, GSI);
    event.signal();
    await_count(&machine, VECTOR, 1);
    let got = irqfd(&machine.vm, &event, GSI, DEASSIGN);
    expect::ok("KVM_IRQFD_FLAG_DEASSIGN", got);
    expect::eq("the line", machine.vm.ioapic().irr, 0);
    machine.cpu(0).apic_write(apic::EOI, 0);
    expect::eq("told", resampled.take(), 0);
    expect_no_more(&machine, VECTOR, 1);
}

fn bad_flags() {
    let vm = Vm::with_irqchip();
    let event = Event::new();
    for bit in 2..32 {
        let got = irqfd(&vm, &event, GSI, 1 << bit);
        expect::errno(&format!("bit {bit}"), got, EINVAL);
    }
    expect::errno("no memory", vm.fault(IRQFD.number), EFAULT);
}

fn bad_descriptors() {
    let vm = Vm::with_irqchip();
    let event = Event::new();
    let (not_an_event, _writer) = crate::sys::pipe();
    let number = std::os::fd::AsRawFd::as_raw_fd(&not_an_event) as u32;
    let call = |fd: u32, flags: u32, resamplefd: u32| {
        vm.set(
            IRQFD,
            &kvm_irqfd {
                fd,
                gsi: GSI,
                flags,
                resamplefd,
                ..kvm_irqfd::default()
            },
        )
    };
    let good = event.fd() as u32;
    for flags in [0, DEASSIGN] {
        expect::errno("no descriptor", call(9999, flags, 0), EBADF);
        expect::errno("descriptor -1", call(u32::MAX, flags, 0), EBADF);
        expect::errno("a pipe", call(number, flags, 0), EINVAL);
    }
    expect::errno("no resample descriptor", call(good, RESAMPLE, 9999), EBADF);
    expect::errno(
        "a pipe to resample by",
        call(good, RESAMPLE, number),
        EINVAL,
    );
}

fn without_irqchip() {
    let vm = Vm::new();
    let event = Event::new();
    expect::errno("KVM_IRQFD", irqfd(&vm, &event, GSI, 0), EINVAL);
    expect::ok("deassign", irqfd(&vm, &event, GSI, DEASSIGN));
}

fn resample_needs_ioapic() {
    let vm = Vm::with_split_irqchip(24);
    let (event, resampled) = (Event::new(), Event::new());
    let request = kvm_irqfd {
        fd: event.fd() as u32,
        gsi: GSI,
        flags: RESAMPLE,
        resamplefd: resampled.fd() as u32,
        ..kvm_irqfd::default()
    };
    expect::errno("KVM_IRQFD", vm.set(IRQFD, &request), EINVAL);
}

/// An eventfd is for one GSI of one VM.
fn assigned_twice() {
    let machine = machine();
    let event = Event::new();
    assign(&machine.vm, &event, GSI);
    expect::errno("the same", irqfd(&machine.vm, &event, GSI, 0), EBUSY);
    expect::errno("another GSI", irqfd(&machine.vm, &event, 3, 0), EBUSY);
    event.signal();
    await_count(&machine, VECTOR, 1);
}
