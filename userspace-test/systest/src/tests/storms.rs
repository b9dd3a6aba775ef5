// SPDX-License-Identifier: GPL-2.0
//! Interrupts without end: KVM_RUN still ends at a signal, and another VM gets on.

use std::time::{Duration, Instant};

use kvm_bindings::*;
use libc::{EINTR, SIGUSR1};

use super::device_fuzz::machine;
use super::tests;
use crate::code64;
use crate::devices::*;
use crate::expect;
use crate::guest::{layout, Guest};
use crate::machine::{apic, Eoi, Machine};
use crate::sys::{self, Errno};

tests! {
    "storms":
    level, self_ipi, message, timer, pit, nmi,
}

const VECTOR: u8 = 0xd1;

/// Lets the first vCPU run in another thread for a while, and expects that another VM gets on and
/// that KVM_RUN then ends at a signal. Returns the interrupts of [`VECTOR`] that came.
#[track_caller]
fn weather(machine: &Machine, meanwhile: impl Fn()) -> u64 {
    sys::catch(SIGUSR1);
    let other = Guest::long(code64!("2: inc rax", "hlt", "jmp 2b"));
    machine
        .cpu(0)
        .start(code64!("2: inc rdi", "jmp 2b"), |_| {});
    let before = machine.count(VECTOR);
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let vcpu = &machine.vcpus[0];
        let running = scope.spawn(move || {
            tell.send(sys::this_thread())
                .expect("the other thread listens");
            vcpu.run()
        });
        let thread = told.recv().expect("the vCPU's thread");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(60) {
            other.run_to_halt();
            meanwhile();
        }
        while !running.is_finished() {
            thread.signal(SIGUSR1);
            std::thread::sleep(Duration::from_millis(1));
        }
        let exit = running.join().expect("the vCPU's thread");
        expect::eq("KVM_RUN", exit, Err(Errno(EINTR)));
    });
    machine.count(VECTOR) - before
}

/// A level-triggered line that stays up whatever the handler does.
fn level() {
    let machine = machine();
    machine.cpu(0).enable_apic();
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[20] = 1 << 15 | u64::from(VECTOR);
    machine.vm.set_ioapic(&chip);
    machine.vm.irq_line(20, true);
    let came = weather(&machine, || {});
    expect::that(&format!("many interrupts ({came})"), came > 100);
    machine.vm.irq_line(20, false);
    machine.cpu(0).nop();
    let calm = machine.count(VECTOR);
    machine.cpu(0).spin(10_000);
    machine.expect_count(VECTOR, calm);
}

/// A handler that sends its own interrupt again.
fn self_ipi() {
    let machine = machine();
    let handler = code64!(
        "push rax",
        "lock inc qword ptr [{count}]",
        "mov eax, 0xfee00300",
        "mov dword ptr [rax], 0x400d1",
        "mov eax, 0xfee000b0",
        "mov dword ptr [rax], 0",
        "pop rax",
        "iretq";
        count = const Machine::count_address(VECTOR)
    );
    machine.load(layout::CODE2 + 0x2000, handler);
    crate::guest::write_gate(&machine.memory, VECTOR, layout::CODE2 + 0x2000, 0);
    machine.cpu(0).enable_apic();
    let got = machine.vm.signal_msi(msi_address(0), VECTOR.into());
    expect::eq("KVM_SIGNAL_MSI", got, Ok(1));
    let came = weather(&machine, || {});
    expect::that(&format!("many interrupts ({came})"), came > 100);
    machine.handle(VECTOR, Eoi::Xapic);
    machine.cpu(0).nop();
}

fn message() {
    let machine = machine();
    machine.cpu(0).enable_apic();
    let came = weather(&machine, || {
        for _ in 0..100 {
            let got = machine.vm.signal_msi(msi_address(0), VECTOR.into());
            expect::eq("KVM_SIGNAL_MSI", got, Ok(1));
        }
    });
    expect::that(&format!("interrupts ({came})"), came > 0);
    machine.cpu(0).nop();
}

/// A period that no host could keep.
fn timer() {
    let machine = machine();
    let cpu = machine.cpu(0);
    cpu.enable_apic();
    cpu.apic_write(apic::TDCR, 0xb);
    cpu.apic_write(apic::LVT_TIMER, 1 << 17 | u32::from(VECTOR));
    cpu.apic_write(apic::TMICT, 1);
    let came = weather(&machine, || {});
    expect::that(&format!("interrupts ({came})"), came > 5);
    cpu.apic_write(apic::TMICT, 0);
    machine.cpu(0).nop();
}

fn pit() {
    let machine = machine();
    machine.handle(VECTOR, Eoi::Pic);
    let mut pic = machine.vm.pic(KVM_IRQCHIP_PIC_MASTER);
    pic.pic.irq_base = VECTOR;
    pic.pic.imr = 0xfe;
    machine.vm.set_pic(&pic);
    let cpu = machine.cpu(0);
    cpu.outb(0x43, 0x34);
    cpu.outb(0x40, 2);
    cpu.outb(0x40, 0);
    let came = weather(&machine, || {});
    expect::that(&format!("interrupts ({came})"), came > 5);
    // By the VMM: an interrupt may be on its way into the guest, which must not lose IF then.
    pic.pic.imr = 0xff;
    machine.vm.set_pic(&pic);
    machine.cpu(0).outb(0x43, 0x30);
}

/// NMIs from another vCPU, as fast as they come.
fn nmi() {
    let machine = machine();
    machine.cpu(1).enable_apic();
    let before = machine.count(2);
    weather(&machine, || {
        for _ in 0..20 {
            machine.cpu(1).apic_write(apic::ICR, 3 << 18 | 4 << 8);
        }
    });
    expect::that("NMIs", machine.count(2) > before);
    machine.cpu(0).nop();
}
