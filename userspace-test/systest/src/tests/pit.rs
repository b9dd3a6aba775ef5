// SPDX-License-Identifier: GPL-2.0
//! The timer in the kernel: KVM_CREATE_PIT (obsolete), KVM_CREATE_PIT2 (api.rst 4.71),
//! KVM_GET/SET_PIT and PIT2 (4.72, 4.73), KVM_REINJECT_CONTROL (4.74), and guests that use it.

use kvm_bindings::*;
use libc::{EEXIST, EFAULT, ENOENT, ENXIO};

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::expect;
use crate::machine::{apic, Eoi, Machine};
use crate::request::*;
use crate::vcpu::Exit;
use crate::vm::Vm;

tests! {
    "pit":
    create, create_old, create_without_irqchip, get_state, set_state, set_state2, state_errors,
    reinject, ports_are_the_kernels, speaker_without, counts_down, latch, readback, status,
    second_channel, second_channel_gate, ticks, one_shot, ticks_stop, ticks_after_set,
}

/// Ports of the 8254 and of the speaker.
const COUNTER: u16 = 0x40;
const CONTROL: u16 = 0x43;
const SPEAKER: u16 = 0x61;
const VECTOR: u8 = 0x71;

#[track_caller]
fn machine(flags: u32) -> Machine {
    let vm = Vm::with_irqchip();
    vm.create_pit2(flags);
    Machine::in_vm(vm, 1)
}

#[track_caller]
fn state(vm: &Vm) -> kvm_pit_state2 {
    expect::ok("KVM_GET_PIT2", vm.get(GET_PIT2))
}

/// A channel's mode and count.
#[track_caller]
fn program(machine: &Machine, channel: u16, mode: u8, count: u16) {
    let cpu = machine.cpu(0);
    cpu.outb(CONTROL, (channel as u8) << 6 | 0x30 | mode << 1);
    cpu.outb(COUNTER + channel, count as u8);
    cpu.outb(COUNTER + channel, (count >> 8) as u8);
}

fn create() {
    let vm = Vm::with_irqchip();
    vm.create_pit2(0);
    let again = vm.set(CREATE_PIT2, &kvm_pit_config::default());
    expect::errno("again", again, EEXIST);
    expect::errno("again the old way", vm.call(CREATE_PIT, 0), EEXIST);
    expect::errno("no memory", vm.fault(CREATE_PIT2.number), EFAULT);
    // After a vCPU is not too late.
    let vm = Vm::with_irqchip();
    let _vcpu = vm.create_vcpu(0);
    vm.create_pit2(KVM_PIT_SPEAKER_DUMMY);
}

/// KVM_CREATE_PIT brings the speaker's port too.
fn create_old() {
    let vm = Vm::with_irqchip();
    expect::ok("KVM_CREATE_PIT", vm.call(CREATE_PIT, 0));
    expect::errno("again", vm.call(CREATE_PIT, 0), EEXIST);
    let machine = Machine::in_vm(vm, 1);
    machine.cpu(0).inb(SPEAKER);
}

fn create_without_irqchip() {
    for vm in [Vm::new(), Vm::with_split_irqchip(24)] {
        let got = vm.set(CREATE_PIT2, &kvm_pit_config::default());
        expect::errno("KVM_CREATE_PIT2", got, ENOENT);
        expect::errno("KVM_CREATE_PIT", vm.call(CREATE_PIT, 0), ENOENT);
    }
}

fn get_state() {
    let vm = Vm::with_irqchip();
    vm.create_pit2(0);
    let state = state(&vm);
    expect::eq("flags", state.flags, 0);
    for (i, channel) in state.channels.iter().enumerate() {
        expect::eq(&format!("count of channel {i}"), channel.count, 0x10000);
        expect::eq(
            &format!("gate of channel {i}"),
            channel.gate,
            u8::from(i != 2),
        );
    }
    let mut old = kvm_pit_state::default();
    expect::ok("KVM_GET_PIT", vm.update(GET_PIT, &mut old));
    expect::eq("the same the old way", old.channels[1], state.channels[1]);
}

fn set_state() {
    let machine = machine(0);
    program(&machine, 2, 2, 0x1234);
    let mut old = kvm_pit_state::default();
    expect::ok("KVM_GET_PIT", machine.vm.update(GET_PIT, &mut old));
    let channel = old.channels[2];
    expect::eq("count", channel.count, 0x1234);
    expect::eq("mode and access", (channel.mode, channel.rw_mode), (2, 3));
    old.channels[2].count = 0x4321;
    old.channels[2].mode = 3;
    expect::ok("KVM_SET_PIT", machine.vm.update(SET_PIT, &mut old));
    let channel = state(&machine.vm).channels[2];
    expect::eq("what was set", (channel.count, channel.mode), (0x4321, 3));
}

fn set_state2() {
    let vm = Vm::with_irqchip();
    vm.create_pit2(0);
    let mut new = state(&vm);
    new.channels[2].count = 0x2000;
    new.channels[2].gate = 1;
    new.channels[2].mode = 2;
    new.flags = KVM_PIT_FLAGS_HPET_LEGACY;
    expect::ok("KVM_SET_PIT2", vm.set(SET_PIT2, &new));
    let got = state(&vm);
    expect::eq("flags", got.flags, KVM_PIT_FLAGS_HPET_LEGACY);
    let channel = got.channels[2];
    let told = (channel.count, channel.gate, channel.mode);
    expect::eq("channel 2", told, (0x2000, 1, 2));
    // A count of 0 stands for 65536.
    new.channels[1].count = 0;
    expect::ok("KVM_SET_PIT2", vm.set(SET_PIT2, &new));
    expect::eq("count set to 0", state(&vm).channels[1].count, 0x10000);
}

fn state_errors() {
    let vm = Vm::with_irqchip();
    let mut old = kvm_pit_state::default();
    expect::errno("KVM_GET_PIT", vm.update(GET_PIT, &mut old), ENXIO);
    expect::errno("KVM_SET_PIT", vm.update(SET_PIT, &mut old), ENXIO);
    expect::errno("KVM_GET_PIT2", vm.get(GET_PIT2).map(|_| ()), ENXIO);
    let new = kvm_pit_state2::default();
    expect::errno("KVM_SET_PIT2", vm.set(SET_PIT2, &new), ENXIO);
    let mut control = kvm_reinject_control::default();
    let got = vm.update(REINJECT_CONTROL, &mut control);
    expect::errno("KVM_REINJECT_CONTROL", got, ENXIO);
    vm.create_pit2(0);
    for (name, number) in [
        ("KVM_GET_PIT", GET_PIT.number),
        ("KVM_SET_PIT", SET_PIT.number),
        ("KVM_GET_PIT2", GET_PIT2.number),
        ("KVM_SET_PIT2", SET_PIT2.number),
        ("KVM_REINJECT_CONTROL", REINJECT_CONTROL.number),
    ] {
        expect::errno(&format!("{name} without memory"), vm.fault(number), EFAULT);
    }
}

fn reinject() {
    let machine = ticking(Eoi::Pic, 2, 2000);
    for on in [1, 0, 1, 255, 0] {
        let mut control = kvm_reinject_control {
            pit_reinject: on,
            ..kvm_reinject_control::default()
        };
        let got = machine.vm.update(REINJECT_CONTROL, &mut control);
        expect::ok("KVM_REINJECT_CONTROL", got);
        let want = machine.count(VECTOR) + 2;
        let came = machine.cpu(0).await_count(VECTOR, want, SPIN);
        expect::that("ticks go on", came);
    }
}

fn ports_are_the_kernels() {
    let machine = machine(KVM_PIT_SPEAKER_DUMMY);
    for port in COUNTER..=CONTROL {
        machine.cpu(0).inb(port);
        machine.cpu(0).outb(port, 0x34);
    }
    machine.cpu(0).inb(SPEAKER);
    machine.cpu(0).outb(SPEAKER, 0);
}

/// Without KVM_PIT_SPEAKER_DUMMY port 61H is the VMM's.
fn speaker_without() {
    let machine = machine(0);
    machine
        .cpu(0)
        .start(code64!("in al, 0x61", "out 0xe9, al"), |_| {});
    machine.vcpus[0].expect_exit(Exit::In {
        port: SPEAKER,
        size: 1,
        count: 1,
    });
    machine.vcpus[0].answer_io(&[0x20]);
    let regs = machine.cpu(0).finish();
    expect::eq("AL", regs.map(|r| r.rax & 0xff), Ok(0x20));
}

/// What a channel counts to now.
#[track_caller]
fn latched(machine: &Machine, channel: u16) -> u16 {
    let cpu = machine.cpu(0);
    cpu.outb(CONTROL, (channel as u8) << 6);
    u16::from(cpu.inb(COUNTER + channel)) | u16::from(cpu.inb(COUNTER + channel)) << 8
}

fn counts_down() {
    let machine = machine(0);
    program(&machine, 1, 2, 0xf000);
    let first = latched(&machine, 1);
    machine.cpu(0).spin(20_000);
    let second = latched(&machine, 1);
    expect::that(
        &format!("less and less ({first:#x}, {second:#x})"),
        second < first && first <= 0xf000,
    );
}

/// A latched count stays until it is read.
fn latch() {
    let machine = machine(0);
    let cpu = machine.cpu(0);
    program(&machine, 1, 2, 0xffff);
    cpu.outb(CONTROL, 0x40);
    cpu.spin(20_000);
    cpu.outb(CONTROL, 0x40);
    let low = cpu.inb(COUNTER + 1);
    cpu.spin(20_000);
    let high = cpu.inb(COUNTER + 1);
    let old = u16::from(low) | u16::from(high) << 8;
    let new = latched(&machine, 1);
    expect::that(&format!("an older count ({old:#x}, {new:#x})"), new < old);
}

fn readback() {
    let machine = machine(0);
    let cpu = machine.cpu(0);
    program(&machine, 1, 2, 0x8000);
    program(&machine, 2, 3, 0x4000);
    // Counts and states of channels 1 and 2 at once.
    cpu.outb(CONTROL, 0xcc);
    let status1 = cpu.inb(COUNTER + 1);
    let count1 = u16::from(cpu.inb(COUNTER + 1)) | u16::from(cpu.inb(COUNTER + 1)) << 8;
    let status2 = cpu.inb(COUNTER + 2);
    expect::eq("access and mode of channel 1", status1 & 0x3f, 0x34);
    expect::eq("access and mode of channel 2", status2 & 0x3f, 0x36);
    expect::that(&format!("count {count1:#x}"), count1 <= 0x8000);
}

/// The output of a counter in mode 0 rises at its end.
fn status() {
    let machine = machine(KVM_PIT_SPEAKER_DUMMY);
    let cpu = machine.cpu(0);
    program(&machine, 1, 0, 60_000);
    let output = || {
        cpu.outb(CONTROL, 0xe4);
        cpu.inb(COUNTER + 1) & 0x80 != 0
    };
    expect::eq("output at first", output(), false);
    let mut rounds = 0;
    while !output() && rounds < 5000 {
        cpu.spin(20_000);
        rounds += 1;
    }
    expect::that("the output rises", output());
}

fn second_channel() {
    let machine = machine(KVM_PIT_SPEAKER_DUMMY);
    let cpu = machine.cpu(0);
    cpu.outb(SPEAKER, 1);
    program(&machine, 2, 0, 2000);
    let mut rounds = 0;
    while cpu.inb(SPEAKER) & 0x20 == 0 && rounds < 5000 {
        cpu.spin(5000);
        rounds += 1;
    }
    expect::eq(
        "output of channel 2 at port 61H",
        cpu.inb(SPEAKER) & 0x21,
        0x21,
    );
    let toggles = (0..64).map(|_| cpu.inb(SPEAKER) & 0x10).collect::<Vec<_>>();
    expect::that(
        "the refresh bit toggles",
        toggles.contains(&0) && toggles.contains(&0x10),
    );
}

/// In mode 1 the gate's rise starts the count; port 61H holds the gate and the speaker's bit.
fn second_channel_gate() {
    let machine = machine(KVM_PIT_SPEAKER_DUMMY);
    let cpu = machine.cpu(0);
    for bits in [0, 1, 2, 3] {
        cpu.outb(SPEAKER, bits);
        expect::eq("gate and speaker", cpu.inb(SPEAKER) & 3, bits);
        expect::eq("gate", state(&machine.vm).channels[2].gate, bits & 1);
        let flag = state(&machine.vm).flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0;
        expect::eq("KVM_PIT_FLAGS_SPEAKER_DATA_ON", flag, bits & 2 != 0);
    }
}

/// Rounds of a loop that is long enough for anything to come.
const SPIN: u64 = 100_000_000;

/// A machine whose channel 0 runs in `mode`, its interrupt going through the master PIC.
#[track_caller]
fn ticking(eoi: Eoi, mode: u8, count: u16) -> Machine {
    let machine = machine(0);
    machine.handle(VECTOR, eoi);
    let mut pic = machine.vm.pic(KVM_IRQCHIP_PIC_MASTER);
    pic.pic.irq_base = VECTOR;
    pic.pic.imr = 0xfe;
    machine.vm.set_pic(&pic);
    expect::eq(
        "LINT0 of the first vCPU is the PIC's",
        machine.vcpus[0].lapic_register(apic::LVT0 as usize) & 0x1_0700,
        0x700,
    );
    program(&machine, 0, mode, count);
    machine
}

fn ticks() {
    let machine = ticking(Eoi::Pic, 2, 5000);
    let came = machine.cpu(0).await_count(VECTOR, 10, SPIN);
    expect::that("ten ticks", came);
    for count in 1..=3 {
        let before = machine.count(VECTOR);
        machine.cpu(0).halt();
        expect::that(
            &format!("tick {count} ends HLT"),
            machine.count(VECTOR) > before,
        );
    }
}

fn one_shot() {
    let machine = ticking(Eoi::Pic, 0, 5000);
    expect::that("it comes", machine.cpu(0).await_count(VECTOR, 1, SPIN));
    machine.cpu(0).spin(500_000);
    machine.expect_count(VECTOR, 1);
}

/// A count that is being loaded stops the ticks.
fn ticks_stop() {
    let machine = ticking(Eoi::Pic, 2, 5000);
    expect::that("ticks", machine.cpu(0).await_count(VECTOR, 3, SPIN));
    program(&machine, 0, 0, 0xffff);
    machine.cpu(0).nop();
    let before = machine.count(VECTOR);
    machine.cpu(0).spin(200_000);
    expect::that(
        "no more than one left over",
        machine.count(VECTOR) <= before + 1,
    );
}

fn ticks_after_set() {
    let first = ticking(Eoi::Pic, 2, 5000);
    let kept = state(&first.vm);
    expect::eq(
        "count and mode",
        (kept.channels[0].count, kept.channels[0].mode),
        (5000, 2),
    );
    let second = machine(0);
    second.handle(VECTOR, Eoi::Pic);
    second.vm.set_pic(&first.vm.pic(KVM_IRQCHIP_PIC_MASTER));
    expect::ok("KVM_SET_PIT2", second.vm.set(SET_PIT2, &kept));
    expect::that("ticks", second.cpu(0).await_count(VECTOR, 3, SPIN));
}
