// SPDX-License-Identifier: GPL-2.0
//! The LAPIC's timer as a guest sees it (SDM vol. 3, 12.5.4): one-shot, periodic, by TSC deadline.

use super::tests;
use crate::code64;
use crate::expect;
use crate::machine::{apic, msr, Cpu, Eoi, Machine};

tests! {
    "apic_timer":
    one_shot, periodic, divides, stops, masked, count_reads,
    halt, deadline, deadline_past, deadline_disarmed, deadline_halt, deadline_other_modes,
    x2apic, modes_change,
}

const VECTOR: u8 = 0x61;

/// Modes of the timer in its LVT entry.
const ONE_SHOT: u32 = 0;
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 2 << 17;

/// The divide configuration for 1.
const DIVIDE_BY_1: u32 = 0xb;

/// Rounds of a loop that is long enough for anything to come.
const SPIN: u64 = 8_000_000;

#[track_caller]
fn machine(eoi: Eoi) -> Machine {
    let machine = Machine::new(1);
    machine.handle(VECTOR, eoi);
    if eoi == Eoi::X2apic {
        machine.cpu(0).enable_x2apic();
    } else {
        machine.cpu(0).enable_apic();
    }
    machine
}

#[track_caller]
fn start_timer(cpu: Cpu<'_>, mode: u32, count: u32) {
    cpu.apic_write(apic::TDCR, DIVIDE_BY_1);
    cpu.apic_write(apic::LVT_TIMER, mode | u32::from(VECTOR));
    cpu.apic_write(apic::TMICT, count);
}

#[track_caller]
fn await_timer(machine: &Machine, count: u64) {
    let came = machine.cpu(0).await_count(VECTOR, count, SPIN);
    expect::that(&format!("interrupt {count} of the timer"), came);
}

fn one_shot() {
    let machine = machine(Eoi::Xapic);
    for count in 1..=3 {
        start_timer(machine.cpu(0), ONE_SHOT, 100_000);
        await_timer(&machine, count);
        machine.cpu(0).spin(200_000);
        machine.expect_count(VECTOR, count);
        expect::eq("TMCCT", machine.cpu(0).apic_read(apic::TMCCT), 0);
    }
}

fn periodic() {
    let machine = machine(Eoi::Xapic);
    start_timer(machine.cpu(0), PERIODIC, 500_000);
    await_timer(&machine, 5);
    machine.cpu(0).apic_write(apic::TMICT, 0);
    let stopped = machine.count(VECTOR);
    machine.cpu(0).spin(1_000_000);
    machine.expect_count(VECTOR, stopped);
}

/// The same count takes 128 times as long when divided by 128.
fn divides() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    let ticks = |divide: u32| {
        cpu.apic_write(apic::LVT_TIMER, apic::MASKED | u32::from(VECTOR));
        cpu.apic_write(apic::TDCR, divide);
        cpu.apic_write(apic::TMICT, u32::MAX);
        cpu.spin(500_000);
        u32::MAX - cpu.apic_read(apic::TMCCT)
    };
    let (by_1, by_16, by_128) = (ticks(0xb), ticks(0x3), ticks(0xa));
    let about = |fast: u32, slow: u32, by: u32| fast / slow > by / 2 && fast / slow < by * 2;
    expect::that(
        &format!("counts divided by 1, 16, 128: {by_1}, {by_16}, {by_128}"),
        by_128 > 0 && about(by_1, by_16, 16) && about(by_1, by_128, 128),
    );
}

fn stops() {
    let machine = machine(Eoi::Xapic);
    start_timer(machine.cpu(0), ONE_SHOT, 3_000_000);
    machine.cpu(0).apic_write(apic::TMICT, 0);
    expect::eq("TMCCT", machine.cpu(0).apic_read(apic::TMCCT), 0);
    machine.cpu(0).spin(4_000_000);
    machine.expect_count(VECTOR, 0);
}

/// A masked timer counts and interrupts nobody.
fn masked() {
    let machine = machine(Eoi::Xapic);
    start_timer(machine.cpu(0), ONE_SHOT | apic::MASKED, 100_000);
    machine.cpu(0).spin(1_000_000);
    machine.expect_count(VECTOR, 0);
    expect::eq("TMCCT", machine.cpu(0).apic_read(apic::TMCCT), 0);
}

fn count_reads() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    start_timer(cpu, ONE_SHOT, 1_000_000_000);
    expect::eq("TMICT", cpu.apic_read(apic::TMICT), 1_000_000_000);
    let mut last = 1_000_000_000;
    for _ in 0..5 {
        cpu.spin(10_000);
        let now = cpu.apic_read(apic::TMCCT);
        expect::that(&format!("TMCCT goes down ({last}, {now})"), now < last);
        last = now;
    }
}

/// Armed with IF clear, so that it cannot come before the HLT that waits for it.
fn halt() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    start_timer(cpu, ONE_SHOT, 0);
    for count in 1..=5 {
        let code = code64!("mov [rbx], ecx", "sti", "hlt", "out 0xe9, al");
        let done = cpu.masked().operate(code, |r| {
            (r.rbx, r.rcx) = (apic::BASE + u64::from(apic::TMICT), 200_000);
        });
        expect::that("no exception", done.is_ok());
        machine.expect_count(VECTOR, count);
    }
}

#[track_caller]
fn set_deadline(cpu: Cpu<'_>, after: u64) -> u64 {
    // The deadline is relative to the instruction before.
    let code = code64!(
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "add rax, rbx",
        "mov rdx, rax",
        "mov rsi, rax",
        "shr rdx, 32",
        "mov ecx, 0x6e0",
        "wrmsr",
        "out 0xe9, al"
    );
    match cpu.operate(code, |r| r.rbx = after) {
        Ok(regs) => regs.rsi,
        Err(fault) => panic!("IA32_TSC_DEADLINE: expected success, got {fault:?}"),
    }
}

#[track_caller]
fn deadline_machine() -> Machine {
    let machine = machine(Eoi::Xapic);
    machine
        .cpu(0)
        .apic_write(apic::LVT_TIMER, DEADLINE | u32::from(VECTOR));
    machine
}

fn deadline() {
    let machine = deadline_machine();
    let cpu = machine.cpu(0);
    for count in 1..=3 {
        let deadline = set_deadline(cpu, 2_000_000);
        if machine.count(VECTOR) < count {
            expect::eq(
                "IA32_TSC_DEADLINE",
                cpu.rdmsr(msr::TSC_DEADLINE),
                Ok(deadline),
            );
        }
        await_timer(&machine, count);
        let tsc = cpu.rdmsr(msr::TSC).unwrap_or(0);
        expect::that("not before its time", tsc >= deadline);
        expect::eq("afterwards", cpu.rdmsr(msr::TSC_DEADLINE), Ok(0));
    }
}

fn deadline_past() {
    let machine = deadline_machine();
    let cpu = machine.cpu(0);
    expect::eq("deadline 1", cpu.wrmsr(msr::TSC_DEADLINE, 1), Ok(()));
    cpu.nop();
    await_timer(&machine, 1);
}

fn deadline_disarmed() {
    let machine = deadline_machine();
    let cpu = machine.cpu(0);
    set_deadline(cpu, 3_000_000);
    expect::eq("deadline 0", cpu.wrmsr(msr::TSC_DEADLINE, 0), Ok(()));
    cpu.spin(4_000_000);
    machine.expect_count(VECTOR, 0);
}

fn deadline_halt() {
    let machine = deadline_machine();
    for count in 1..=5 {
        let code = code64!(
            "rdtsc",
            "add eax, ebx",
            "adc edx, 0",
            "mov ecx, 0x6e0",
            "wrmsr",
            "sti",
            "hlt",
            "out 0xe9, al"
        );
        let done = machine.cpu(0).masked().operate(code, |r| r.rbx = 300_000);
        expect::that("no exception", done.is_ok());
        machine.expect_count(VECTOR, count);
    }
}

/// The MSR does nothing and reads 0 in other modes of the timer.
fn deadline_other_modes() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    for mode in [ONE_SHOT, PERIODIC] {
        cpu.apic_write(apic::LVT_TIMER, mode | u32::from(VECTOR));
        expect::eq("write", cpu.wrmsr(msr::TSC_DEADLINE, 1000), Ok(()));
        expect::eq("read", cpu.rdmsr(msr::TSC_DEADLINE), Ok(0));
    }
    cpu.apic_write(apic::LVT_TIMER, DEADLINE | u32::from(VECTOR));
    cpu.apic_write(apic::TMICT, 100_000);
    expect::eq("TMCCT in deadline mode", cpu.apic_read(apic::TMCCT), 0);
    cpu.spin(500_000);
    machine.expect_count(VECTOR, 0);
}

fn x2apic() {
    let machine = machine(Eoi::X2apic);
    let cpu = machine.cpu(0);
    cpu.x2apic_write(apic::TDCR, DIVIDE_BY_1.into());
    cpu.x2apic_write(apic::LVT_TIMER, u64::from(PERIODIC) | u64::from(VECTOR));
    cpu.x2apic_write(apic::TMICT, 500_000);
    await_timer(&machine, 3);
    cpu.x2apic_write(apic::LVT_TIMER, u64::from(DEADLINE) | u64::from(VECTOR));
    let before = machine.count(VECTOR);
    set_deadline(cpu, 100_000);
    await_timer(&machine, before + 1);
}

/// A change between the deadline's mode and the others disarms the timer (SDM vol. 3, 12.5.4.1).
fn modes_change() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    start_timer(cpu, ONE_SHOT, 3_000_000);
    cpu.apic_write(apic::LVT_TIMER, DEADLINE | u32::from(VECTOR));
    cpu.spin(4_000_000);
    machine.expect_count(VECTOR, 0);
    set_deadline(cpu, 3_000_000);
    cpu.apic_write(apic::LVT_TIMER, ONE_SHOT | u32::from(VECTOR));
    cpu.spin(4_000_000);
    machine.expect_count(VECTOR, 0);
}
