// SPDX-License-Identifier: GPL-2.0
//! The LAPIC's state for the VMM: KVM_GET/SET_LAPIC (api.rst 4.57, 4.58), the x2APIC's IDs in it
//! (7.7), KVM_TPR_ACCESS_REPORTING, KVM_SET_VAPIC_ADDR (4.60), IA32_APIC_BASE and IA32_TSC_DEADLINE
//! by KVM_SET_MSRS.

use kvm_bindings::*;
use libc::{EFAULT, EINVAL};

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::expect;
use crate::guest::layout;
use crate::machine::{apic, msr, Eoi, Machine};
use crate::request::*;
use crate::vcpu::Exit;
use crate::vm::Vm;

tests! {
    "lapic_state":
    at_reset, at_reset_of_an_ap, round_trip, interrupts_move, timer_moves, deadline_moves,
    errors, x2apic_id_narrow, x2apic_id_wide, x2apic_icr, id_is_kept, tpr_and_cr8,
    apic_base_by_msr, apic_base_bad, apic_base_by_sregs, tpr_reporting, tpr_reporting_errors,
    vapic_address, vapic_errors,
}

const VECTOR: u8 = 0x81;

/// SDM vol. 3, 12.4.7.1, but for LVT0 of the bootstrap processor, which KVM makes ExtINT.
fn at_reset() {
    let machine = Machine::new(1);
    let state = machine.vcpus[0].lapic();
    for (name, register, want) in [
        ("ID", apic::ID, 0),
        ("TPR", apic::TPR, 0),
        ("LDR", apic::LDR, 0),
        ("DFR", apic::DFR, u32::MAX),
        ("SPIV", apic::SPIV, 0xff),
        ("ESR", apic::ESR, 0),
        ("ICR", apic::ICR, 0),
        ("ICR2", apic::ICR2, 0),
        ("LVT timer", apic::LVT_TIMER, apic::MASKED),
        ("LVT thermal", apic::LVT_THERMAL, apic::MASKED),
        ("LVT performance", apic::LVT_PMC, apic::MASKED),
        ("LVT0", apic::LVT0, 0x700),
        ("LVT1", apic::LVT1, apic::MASKED),
        ("LVT error", apic::LVT_ERROR, apic::MASKED),
        ("TMICT", apic::TMICT, 0),
        ("TMCCT", apic::TMCCT, 0),
        ("TDCR", apic::TDCR, 0),
    ] {
        let got = lapic_register(&state, register as usize);
        expect::eq(name, got, want);
    }
    for i in 0..24 {
        let got = lapic_register(&state, apic::ISR as usize + 16 * i);
        expect::eq("ISR, TMR and IRR", got, 0);
    }
    let version = lapic_register(&state, apic::VERSION as usize);
    expect::eq("version", version & 0xff, 0x14);
    let entries = version >> 16 & 0xff;
    expect::that(
        &format!("LVT entries ({entries})"),
        (4..=6).contains(&entries),
    );
}

fn at_reset_of_an_ap() {
    let machine = Machine::new(3);
    for id in 1..3 {
        let state = machine.vcpus[id].lapic();
        expect::eq(
            "ID",
            lapic_register(&state, apic::ID as usize),
            (id as u32) << 24,
        );
        expect::eq("SPIV", lapic_register(&state, apic::SPIV as usize), 0xff);
    }
}

fn round_trip() {
    let machine = Machine::new(1);
    let vcpu = &machine.vcpus[0];
    let mut state = vcpu.lapic();
    for (register, value) in [
        (apic::TPR, 0x20),
        (apic::LDR, 0x0400_0000),
        (apic::DFR, 0x0fff_ffff),
        (apic::SPIV, 0x1f7),
        (apic::ICR2, 0x0500_0000),
        (apic::ICR, 0x0000_0041),
        (apic::LVT_TIMER, apic::MASKED | 0x42),
        (apic::LVT0, apic::MASKED | 0x43),
        (apic::LVT1, 0x400),
        (apic::LVT_ERROR, 0x44),
        (apic::TDCR, 0xb),
        (apic::ISR + 0x20, 1 << 5),
        (apic::TMR + 0x20, 1 << 5),
        (apic::IRR + 0x50, 1 << 7),
    ] {
        set_lapic_register(&mut state, register as usize, value);
    }
    vcpu.set_lapic(&state);
    let got = vcpu.lapic();
    for register in (0..0x400).step_by(16) {
        if register == apic::PPR as usize || register == apic::VERSION as usize {
            continue;
        }
        let (got, want) = (
            lapic_register(&got, register),
            lapic_register(&state, register),
        );
        expect::eq(&format!("register {register:#x}"), got, want);
    }
    // ISR of vector 0x45 against TPR 0x20.
    let ppr = machine.cpu(0).masked().apic_read(apic::PPR);
    expect::eq("PPR in the guest", ppr, 0x40);
}

/// An interrupt that waits in one VM's LAPIC is taken in the other's.
fn interrupts_move() {
    let first = Machine::new(1);
    first.cpu(0).enable_apic();
    expect::eq(
        "message",
        first.vm.signal_msi(msi_address(0), VECTOR.into()),
        Ok(1),
    );
    let state = first.vcpus[0].lapic();
    let irr = lapic_register(&state, apic::IRR as usize + 0x10 * (VECTOR as usize / 32));
    expect::eq("IRR", irr, 1 << (VECTOR % 32));
    let second = Machine::new(1);
    second.handle(VECTOR, Eoi::Xapic);
    second.vcpus[0].set_lapic(&state);
    second.cpu(0).nop();
    second.expect_count(VECTOR, 1);
}

fn timer_moves() {
    let first = Machine::new(1);
    let cpu = first.cpu(0);
    cpu.enable_apic();
    cpu.apic_write(apic::TDCR, 0xb);
    cpu.apic_write(apic::LVT_TIMER, VECTOR.into());
    cpu.apic_write(apic::TMICT, 400_000_000);
    let state = first.vcpus[0].lapic();
    let left = lapic_register(&state, apic::TMCCT as usize);
    expect::that(
        &format!("it counts ({left})"),
        left > 0 && left < 400_000_000,
    );
    let mut state = state;
    set_lapic_register(&mut state, apic::TMCCT as usize, 10_000);
    let second = Machine::new(1);
    second.handle(VECTOR, Eoi::Xapic);
    second.vcpus[0].set_lapic(&state);
    let came = second.cpu(0).await_count(VECTOR, 1, 2_000_000);
    expect::that("the timer's interrupt", came);
}

/// The deadline goes by IA32_TSC_DEADLINE, once the LAPIC's timer is in its mode.
fn deadline_moves() {
    let machine = Machine::new(1);
    machine.handle(VECTOR, Eoi::Xapic);
    let cpu = machine.cpu(0);
    cpu.enable_apic();
    cpu.apic_write(apic::LVT_TIMER, 2 << 17 | u32::from(VECTOR));
    let vcpu = &machine.vcpus[0];
    expect::eq("deadline at first", vcpu.msr(msr::TSC_DEADLINE), Some(0));
    let now = vcpu.msr(msr::TSC).unwrap_or(0);
    let later = now + (1 << 40);
    expect::that("KVM_SET_MSRS", vcpu.set_msr(msr::TSC_DEADLINE, later));
    expect::eq("deadline", vcpu.msr(msr::TSC_DEADLINE), Some(later));
    expect::eq(
        "deadline in the guest",
        cpu.rdmsr(msr::TSC_DEADLINE),
        Ok(later),
    );
    let soon = vcpu.msr(msr::TSC).unwrap_or(0) + 1_000_000;
    expect::that("KVM_SET_MSRS", vcpu.set_msr(msr::TSC_DEADLINE, soon));
    cpu.halt();
    machine.expect_count(VECTOR, 1);
    expect::eq("deadline afterwards", vcpu.msr(msr::TSC_DEADLINE), Some(0));
}

fn errors() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let got = vcpu.get(GET_LAPIC).map(|_| ());
    expect::errno("KVM_GET_LAPIC without an irqchip", got, EINVAL);
    let got = vcpu.set(SET_LAPIC, &kvm_lapic_state::default());
    expect::errno("KVM_SET_LAPIC without an irqchip", got, EINVAL);
    let vm = Vm::with_irqchip();
    let vcpu = vm.create_vcpu(0);
    expect::errno("KVM_GET_LAPIC", vcpu.fault(GET_LAPIC.number), EFAULT);
    expect::errno("KVM_SET_LAPIC", vcpu.fault(SET_LAPIC.number), EFAULT);
}

/// Without KVM_X2APIC_API_USE_32BIT_IDS the ID is told as the xAPIC has it.
fn x2apic_id_narrow() {
    let machine = Machine::new(4);
    machine.cpu(3).enable_x2apic();
    let vcpu = &machine.vcpus[3];
    let mut state = vcpu.lapic();
    expect::eq("ID", lapic_register(&state, apic::ID as usize), 3 << 24);
    expect::eq("LDR", lapic_register(&state, apic::LDR as usize), 1 << 3);
    // Another ID is not an error, and has no effect.
    set_lapic_register(&mut state, apic::ID as usize, 7 << 24);
    set_lapic_register(&mut state, apic::LDR as usize, 77);
    vcpu.set_lapic(&state);
    expect::eq("ID in the guest", machine.cpu(3).x2apic_read(apic::ID), 3);
    expect::eq(
        "LDR in the guest",
        machine.cpu(3).x2apic_read(apic::LDR),
        1 << 3,
    );
}

fn x2apic_id_wide() {
    let vm = Vm::with_irqchip();
    let flag = KVM_X2APIC_API_USE_32BIT_IDS;
    expect::ok(
        "KVM_CAP_X2APIC_API",
        vm.enable(KVM_CAP_X2APIC_API, flag.into()),
    );
    let machine = Machine::in_vm(vm, 4);
    machine.cpu(3).enable_x2apic();
    let vcpu = &machine.vcpus[3];
    let mut state = vcpu.lapic();
    expect::eq("ID", lapic_register(&state, apic::ID as usize), 3);
    vcpu.set_lapic(&state);
    set_lapic_register(&mut state, apic::ID as usize, 4);
    let got = vcpu.set(SET_LAPIC, &state);
    expect::errno("another ID", got, EINVAL);
    set_lapic_register(&mut state, apic::ID as usize, 3 << 24);
    let got = vcpu.set(SET_LAPIC, &state);
    expect::errno("the ID as the xAPIC has it", got, EINVAL);
}

/// The x2APIC's ICR is one register of 64 bits, told as two.
fn x2apic_icr() {
    let machine = Machine::new(1);
    let cpu = machine.cpu(0);
    cpu.enable_x2apic();
    let icr = 0x1234_5678_0000_0041;
    cpu.x2apic_write(apic::ICR, icr);
    expect::eq("ICR in the guest", cpu.x2apic_read(apic::ICR), icr);
    let mut state = machine.vcpus[0].lapic();
    expect::eq("ICR", lapic_register(&state, apic::ICR as usize), 0x41);
    expect::eq(
        "ICR2",
        lapic_register(&state, apic::ICR2 as usize),
        0x1234_5678,
    );
    set_lapic_register(&mut state, apic::ICR2 as usize, 0x4321);
    machine.vcpus[0].set_lapic(&state);
    expect::eq(
        "ICR in the guest",
        cpu.x2apic_read(apic::ICR),
        0x4321_0000_0041,
    );
}

/// The xAPIC's ID can be written by the guest in KVM and stays what it was by KVM_SET_LAPIC.
fn id_is_kept() {
    let machine = Machine::new(2);
    let cpu = machine.cpu(1);
    expect::eq("ID", cpu.apic_read(apic::ID), 1 << 24);
    let state = machine.vcpus[1].lapic();
    machine.vcpus[1].set_lapic(&state);
    expect::eq("ID", cpu.apic_read(apic::ID), 1 << 24);
}

/// CR8, the TPR and what the VMM is told of them are one (SDM vol. 3, 12.8.6).
fn tpr_and_cr8() {
    let machine = Machine::new(1);
    let cpu = machine.cpu(0);
    cpu.enable_apic();
    cpu.set_cr8(5);
    expect::eq("TPR", cpu.apic_read(apic::TPR), 0x50);
    expect::eq(
        "TPR of the state",
        machine.vcpus[0].lapic_register(apic::TPR as usize),
        0x50,
    );
    expect::eq("CR8 by KVM_GET_SREGS", machine.vcpus[0].sregs().cr8, 5);
    cpu.apic_write(apic::TPR, 0x93);
    expect::eq("CR8", cpu.cr8(), 9);
    let mut sregs = machine.vcpus[0].sregs();
    sregs.cr8 = 3;
    machine.vcpus[0].set_sregs(&sregs);
    expect::eq("TPR", cpu.apic_read(apic::TPR), 0x30);
    let mut state = machine.vcpus[0].lapic();
    set_lapic_register(&mut state, apic::TPR as usize, 0x70);
    machine.vcpus[0].set_lapic(&state);
    expect::eq("CR8", cpu.cr8(), 7);
}

fn apic_base_by_msr() {
    let machine = Machine::new(2);
    let base = machine.vcpus[0].msr(msr::APIC_BASE);
    let want = apic::BASE | msr::APIC_BASE_ENABLE | msr::APIC_BASE_BSP;
    expect::eq("of the first", base, Some(want));
    let base = machine.vcpus[1].msr(msr::APIC_BASE);
    expect::eq(
        "of the second",
        base,
        Some(apic::BASE | msr::APIC_BASE_ENABLE),
    );
    let x2apic = want | msr::APIC_BASE_X2APIC;
    expect::that(
        "to x2APIC mode",
        machine.vcpus[0].set_msr(msr::APIC_BASE, x2apic),
    );
    expect::eq(
        "ID as the x2APIC has it",
        machine.cpu(0).x2apic_read(apic::ID),
        0,
    );
    // The VMM, other than the guest, goes back at once.
    expect::that(
        "to xAPIC mode",
        machine.vcpus[0].set_msr(msr::APIC_BASE, want),
    );
    expect::eq(
        "ID as the xAPIC has it",
        machine.cpu(0).apic_read(apic::ID),
        0,
    );
}

fn apic_base_bad() {
    let machine = Machine::new(1);
    let base = apic::BASE | msr::APIC_BASE_ENABLE | msr::APIC_BASE_BSP;
    for (what, bad) in [
        (
            "x2APIC without its enable bit",
            apic::BASE | msr::APIC_BASE_X2APIC,
        ),
        ("reserved bit 0", base | 1),
        ("reserved bit 9", base | 1 << 9),
        ("an address too wide", base | 1 << 60),
    ] {
        expect::eq(what, machine.vcpus[0].set_msr(msr::APIC_BASE, bad), false);
    }
    let now = machine.vcpus[0].msr(msr::APIC_BASE);
    expect::eq("afterwards", now, Some(base));
}

fn apic_base_by_sregs() {
    let machine = Machine::new(1);
    let mut sregs = machine.vcpus[0].sregs();
    expect::eq(
        "IA32_APIC_BASE",
        Some(sregs.apic_base),
        machine.vcpus[0].msr(msr::APIC_BASE),
    );
    sregs.apic_base |= msr::APIC_BASE_X2APIC;
    machine.vcpus[0].set_sregs(&sregs);
    expect::eq(
        "ID as the x2APIC has it",
        machine.cpu(0).x2apic_read(apic::ID),
        0,
    );
    sregs.apic_base = apic::BASE | msr::APIC_BASE_X2APIC;
    let got = machine.vcpus[0].set(SET_SREGS, &sregs);
    expect::errno("x2APIC without its enable bit", got, EINVAL);
}

/// Every access to the TPR of the xAPIC by a 32-bit or 64-bit MOV exits with KVM_EXIT_TPR_ACCESS.
fn tpr_reporting() {
    let machine = Machine::new(1);
    let cpu = machine.cpu(0);
    cpu.enable_apic();
    let mut control = kvm_tpr_access_ctl {
        enabled: 1,
        ..kvm_tpr_access_ctl::default()
    };
    let vcpu = &machine.vcpus[0];
    let got = vcpu.update(TPR_ACCESS_REPORTING, &mut control);
    expect::ok("KVM_TPR_ACCESS_REPORTING", got);
    cpu.start(
        code64!("mov [rbx], ecx", "mov eax, [rbx]", "out 0xe9, al"),
        |r| {
            (r.rbx, r.rcx) = (apic::BASE + u64::from(apic::TPR), 0x40);
        },
    );
    let (mut reads, mut writes) = (0, 0);
    let mut exit = vcpu.run();
    while let Ok(Exit::TprAccess { rip, is_write }) = exit {
        expect::that(
            &format!("RIP {rip:#x} is in the code"),
            (layout::PROBE..layout::PROBE + 8).contains(&rip),
        );
        if is_write {
            writes += 1;
        } else {
            reads += 1;
        }
        exit = vcpu.run();
    }
    let done = Ok(Exit::Out {
        port: 0xe9,
        size: 1,
        data: vec![0x40],
    });
    expect::eq("the end", exit, done);
    expect::eq("reads and writes told", (reads, writes), (1, 1));
    control.enabled = 0;
    let got = vcpu.update(TPR_ACCESS_REPORTING, &mut control);
    expect::ok("KVM_TPR_ACCESS_REPORTING", got);
    cpu.apic_write(apic::TPR, 0x20);
    expect::eq("TPR", cpu.apic_read(apic::TPR), 0x20);
}

fn tpr_reporting_errors() {
    let machine = Machine::new(1);
    let vcpu = &machine.vcpus[0];
    for flags in [1, 1 << 31] {
        let mut control = kvm_tpr_access_ctl {
            enabled: 1,
            flags,
            ..kvm_tpr_access_ctl::default()
        };
        let got = vcpu.update(TPR_ACCESS_REPORTING, &mut control);
        expect::errno("flags", got, EINVAL);
    }
    expect::errno("no memory", vcpu.fault(TPR_ACCESS_REPORTING.number), EFAULT);
    machine.cpu(0).apic_write(apic::TPR, 0x10);
}

/// The word at the address has the TPR, the highest vector in service and the highest that waits.
fn vapic_address() {
    let machine = Machine::new(1);
    machine.handle_all([0x41, 0x55], Eoi::None);
    let vcpu = &machine.vcpus[0];
    machine.cpu(0).enable_apic();
    let at = layout::DATA + 0x8000;
    let address = kvm_vapic_addr { vapic_addr: at };
    expect::ok("KVM_SET_VAPIC_ADDR", vcpu.set(SET_VAPIC_ADDR, &address));
    machine.cpu(0).store(at, 0x70);
    expect::eq("CR8 is what the word had", machine.cpu(0).cr8(), 7);
    machine.cpu(0).store(at, 0);
    expect::eq(
        "message",
        machine.vm.signal_msi(msi_address(0), 0x41),
        Ok(1),
    );
    machine.cpu(0).nop();
    machine.expect_count(0x41, 1);
    expect::eq(
        "message",
        machine.vm.signal_msi(msi_address(0), 0x55),
        Ok(1),
    );
    machine.cpu(0).masked().nop();
    let word = machine.peek(at) as u32;
    expect::eq("class in service, vector that waits", word, 0x5500_4000);
    let none = kvm_vapic_addr { vapic_addr: 0 };
    expect::ok("KVM_SET_VAPIC_ADDR", vcpu.set(SET_VAPIC_ADDR, &none));
    machine.cpu(0).store(at, 0x90);
    expect::eq("CR8", machine.cpu(0).cr8(), 0);
}

fn vapic_errors() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let address = kvm_vapic_addr { vapic_addr: 0x1000 };
    let got = vcpu.set(SET_VAPIC_ADDR, &address);
    expect::errno("without an irqchip", got, EINVAL);
    let machine = Machine::new(1);
    let vcpu = &machine.vcpus[0];
    for vapic_addr in [layout::MMIO, 1 << 60, u64::MAX] {
        let got = vcpu.set(SET_VAPIC_ADDR, &kvm_vapic_addr { vapic_addr });
        expect::errno(&format!("address {vapic_addr:#x}"), got, EINVAL);
    }
    expect::errno("no memory", vcpu.fault(SET_VAPIC_ADDR.number), EFAULT);
    machine.cpu(0).nop();
}
