// SPDX-License-Identifier: GPL-2.0
//! Hypercalls (Documentation/virt/kvm/x86/hypercalls.rst): what each answers and does.

use std::time::Duration;

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::layout;
use crate::machine::{Eoi, Machine};

tests! {
    "hypercalls":
    unknown, from_user, kick, send_ipi, send_ipi_nmi, send_ipi_errors,
    yield_to, clock_pairing, clock_pairing_errors,
}

/// Numbers of hypercalls and what they answer.
const VAPIC_POLL_IRQ: u64 = 1;
const KICK_CPU: u64 = 5;
const CLOCK_PAIRING: u64 = 9;
const SEND_IPI: u64 = 10;
const SCHED_YIELD: u64 = 11;
const MINUS_ENOSYS: i64 = -1000;
const MINUS_EPERM: i64 = -1;
const MINUS_EINVAL: i64 = -22;
const MINUS_EFAULT: i64 = -14;
const MINUS_EOPNOTSUPP: i64 = -95;
const VECTOR: u8 = 0xc1;

/// Memory that guest and KVM share.
const SHARED: u64 = layout::DATA + 0x4000;

fn unknown() {
    let machine = Machine::new(1);
    for number in [0, 2, 3, 4, 6, 7, 8, 12, 13, 99, u64::MAX] {
        let got = machine.cpu(0).hypercall(number, [0; 4]);
        expect::eq(&format!("hypercall {number}"), got, MINUS_ENOSYS);
    }
    let got = machine.cpu(0).hypercall(VAPIC_POLL_IRQ, [0; 4]);
    expect::eq("KVM_HC_VAPIC_POLL_IRQ", got, 0);
}

fn from_user() {
    let machine = Machine::new(1);
    let mut sregs = machine.vcpus[0].sregs();
    sregs.cs.dpl = 3;
    sregs.cs.selector = crate::guest::selector::USER_CODE64;
    sregs.ss.dpl = 3;
    sregs.ss.selector = crate::guest::selector::USER_DATA;
    machine.vcpus[0].set_sregs(&sregs);
    // With IOPL 3 the port can be written to.
    machine
        .cpu(0)
        .start(code64!("vmcall", "out 0xe9, al"), |r| {
            (r.rax, r.rflags) = (KICK_CPU, r.rflags | 3 << 12);
        });
    let regs = machine.cpu(0).finish();
    expect::eq("from ring 3", regs.map(|r| r.rax as i64), Ok(MINUS_EPERM));
}

/// Ends another vCPU's HLT, also where its IF is clear.
fn kick() {
    let machine = Machine::new(2);
    machine.cpu(0).enable_apic();
    machine.cpu(1).enable_apic();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let halted = scope.spawn(|| {
                let code = code64!("hlt", "out 0xe9, al");
                machine.cpu(1).masked().operate(code, |_| {}).is_ok()
            });
            std::thread::sleep(Duration::from_millis(10));
            let got = machine.cpu(0).hypercall(KICK_CPU, [0, 1, 0, 0]);
            expect::eq("KVM_HC_KICK_CPU", got, 0);
            let done = halted.join().expect("the vCPU's thread");
            expect::that("HLT ends", done);
        });
    }
    for absent in [2, 99, u64::MAX] {
        let got = machine.cpu(0).hypercall(KICK_CPU, [0, absent, 0, 0]);
        expect::eq("KVM_HC_KICK_CPU of nobody", got, 0);
    }
}

#[track_caller]
fn machine_for_ipis() -> Machine {
    let machine = Machine::new(4);
    machine.handle(VECTOR, Eoi::Xapic);
    machine.handle(2, Eoi::None);
    for id in 0..4 {
        machine.cpu(id).enable_apic();
    }
    machine
}

/// Lets each vCPU run for a moment; those that took something.
#[track_caller]
fn takers(machine: &Machine) -> Vec<usize> {
    (0..machine.vcpus.len())
        .filter(|&id| {
            machine.cpu(id).nop();
            !machine.order().is_empty()
        })
        .collect()
}

fn send_ipi() {
    let machine = machine_for_ipis();
    for mask in 0..16u64 {
        let got = machine
            .cpu(0)
            .hypercall(SEND_IPI, [mask, 0, 0, VECTOR.into()]);
        expect::eq("how many", got, i64::from(mask.count_ones()));
        let want: Vec<_> = (0..4).filter(|id| mask >> id & 1 != 0).collect();
        expect::eq(&format!("takers of {mask:#b}"), takers(&machine), want);
    }
    let got = machine
        .cpu(0)
        .hypercall(SEND_IPI, [0b11, 0, 2, VECTOR.into()]);
    expect::eq("from 2 on", (got, takers(&machine)), (2, vec![2, 3]));
    let got = machine
        .cpu(0)
        .hypercall(SEND_IPI, [u64::MAX, u64::MAX, 0, VECTOR.into()]);
    expect::eq(
        "to all there could be",
        (got, takers(&machine).len()),
        (4, 4),
    );
    let got = machine
        .cpu(0)
        .hypercall(SEND_IPI, [0, u64::MAX, 0, VECTOR.into()]);
    expect::eq("to 64 and up", (got, takers(&machine).len()), (0, 0));
    let got = machine
        .cpu(0)
        .hypercall(SEND_IPI, [1, 1, u64::from(u32::MAX), VECTOR.into()]);
    expect::eq("from 2^32-1 on", (got, takers(&machine).len()), (0, 0));
}

fn send_ipi_nmi() {
    let machine = machine_for_ipis();
    let got = machine.cpu(0).hypercall(SEND_IPI, [0b1010, 0, 0, 4 << 8]);
    expect::eq("NMI", (got, takers(&machine)), (2, vec![1, 3]));
    machine.expect_count(2, 2);
}

/// An ICR with a shorthand or a logical destination contradicts the bitmap.
fn send_ipi_errors() {
    let machine = machine_for_ipis();
    for icr in [1 << 18, 2 << 18, 3 << 18, 1 << 11] {
        let icr = icr | u64::from(VECTOR);
        let got = machine.cpu(0).hypercall(SEND_IPI, [0b1111, 0, 0, icr]);
        expect::eq(&format!("ICR {icr:#x}"), got, MINUS_EINVAL);
    }
    expect::eq("takers", takers(&machine), vec![]);
}

fn yield_to() {
    let machine = Machine::new(2);
    for id in [0, 1, 2, 77, 1 << 32, u64::MAX] {
        let got = machine.cpu(0).hypercall(SCHED_YIELD, [id, 0, 0, 0]);
        expect::eq(&format!("KVM_HC_SCHED_YIELD to {id}"), got, 0);
    }
}

/// Time of day and TSC at one moment, where the host's clock is the TSC.
fn clock_pairing() {
    let machine = Machine::new(1);
    let got = machine.cpu(0).hypercall(CLOCK_PAIRING, [SHARED, 0, 0, 0]);
    let source =
        std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if source.is_ok_and(|source| source.trim() != "tsc") {
        expect::eq("without a TSC clock", got, MINUS_EOPNOTSUPP);
        return;
    }
    expect::eq("KVM_HC_CLOCK_PAIRING", got, 0);
    let seconds = machine.peek(SHARED);
    let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let real = real.expect("a time after 1970").as_secs();
    expect::that(
        &format!("the time of day ({seconds}, {real})"),
        seconds.abs_diff(real) <= 1,
    );
    expect::that("nanoseconds", machine.peek(SHARED + 8) < 1_000_000_000);
    let tsc = machine.cpu(0).rdmsr(0x10).unwrap_or(0);
    let then = machine.peek(SHARED + 16);
    expect::that(&format!("the TSC ({then}, {tsc})"), then < tsc && then > 0);
}

fn clock_pairing_errors() {
    let machine = Machine::new(1);
    for kind in [1, 2, u64::MAX] {
        let got = machine
            .cpu(0)
            .hypercall(CLOCK_PAIRING, [SHARED, kind, 0, 0]);
        expect::eq(&format!("kind {kind}"), got, MINUS_EOPNOTSUPP);
    }
    if machine.cpu(0).hypercall(CLOCK_PAIRING, [SHARED, 0, 0, 0]) == 0 {
        for address in [layout::MMIO, 1 << 60, u64::MAX] {
            let got = machine.cpu(0).hypercall(CLOCK_PAIRING, [address, 0, 0, 0]);
            expect::eq(&format!("address {address:#x}"), got, MINUS_EFAULT);
        }
    }
}
