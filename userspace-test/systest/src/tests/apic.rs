// SPDX-License-Identifier: GPL-2.0
//! The LAPIC as a guest sees it (SDM vol. 3, ch. 12): priorities, local vectors, errors, its modes.

use kvm_bindings::*;

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::expect;
use crate::machine::{apic, msr, Cpu, Eoi, Fault, Machine};
use crate::request::*;
use crate::vcpu::Exit;
use crate::vm::Vm;

tests! {
    "apic":
    version_and_id, priority_order, tpr_holds_back, cr8_holds_back, ppr, in_service_holds_back,
    eoi_of_nothing, self_ipi, self_ipi_x2apic, lvt_masks, lvt_masked_by_software, esr_send_vector,
    esr_x2apic, spurious_enable, registers_read_only, registers_reserved, isr_and_irr, disable,
    relocated_base, x2apic_transitions, x2apic_registers, x2apic_no_page, page_without_quirk,
    x2apic_faults, hidden_without_x2apic, access_sizes,
}

const VECTOR: u8 = 0x61;

/// The vector of #GP.
const GP: Fault = Fault(13);

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

fn version_and_id() {
    let machine = Machine::new(3);
    for id in 0..3 {
        let cpu = machine.cpu(id);
        expect::eq("ID", cpu.apic_read(apic::ID), (id as u32) << 24);
        let version = cpu.apic_read(apic::VERSION);
        expect::eq("version", version & 0xff, 0x14);
        expect::eq("DFR", cpu.apic_read(apic::DFR), u32::MAX);
        expect::eq("SPIV", cpu.apic_read(apic::SPIV), 0xff);
    }
}

#[track_caller]
fn send_self(cpu: Cpu<'_>, vector: u8) {
    cpu.apic_write(apic::ICR, 1 << 18 | u32::from(vector));
}

/// What waits is taken from the highest vector down.
fn priority_order() {
    let machine = machine(Eoi::Xapic);
    let vectors = [0x31, 0x35, 0x51, 0x72, 0xe3];
    machine.handle_all(vectors, Eoi::Xapic);
    for vector in [0x51, 0xe3, 0x31, 0x72, 0x35] {
        send_self(machine.cpu(0).masked(), vector);
    }
    expect::eq("taken with IF clear", machine.order(), vec![]);
    machine.cpu(0).nop();
    expect::eq("order", machine.order(), vec![0xe3, 0x72, 0x51, 0x35, 0x31]);
}

#[track_caller]
fn held_back(machine: &Machine, hold: impl Fn(Cpu<'_>, u32), release: u32) {
    machine.handle_all([0x45, 0x50], Eoi::Xapic);
    let cpu = machine.cpu(0);
    hold(cpu, 4);
    send_self(cpu, 0x45);
    cpu.nop();
    machine.expect_count(0x45, 0);
    send_self(cpu, 0x50);
    machine.expect_count(0x50, 1);
    hold(cpu, release);
    cpu.nop();
    machine.expect_count(0x45, 1);
    hold(cpu, 15);
    send_self(cpu, 0x50);
    cpu.nop();
    machine.expect_count(0x50, 1);
    hold(cpu, 0);
    machine.expect_count(0x50, 2);
}

fn tpr_holds_back() {
    held_back(
        &machine(Eoi::Xapic),
        |cpu, class| cpu.apic_write(apic::TPR, class << 4 | 0xf),
        3,
    );
}

fn cr8_holds_back() {
    held_back(
        &machine(Eoi::Xapic),
        |cpu, class| cpu.set_cr8(class.into()),
        3,
    );
}

/// The higher of the TPR and the class of what is in service (SDM vol. 3, 12.8.3.1).
fn ppr() {
    let machine = machine(Eoi::None);
    machine.handle(0x45, Eoi::None);
    let cpu = machine.cpu(0);
    for (tpr, want) in [(0, 0), (0x23, 0x23), (0xff, 0xff)] {
        cpu.apic_write(apic::TPR, tpr);
        expect::eq(
            "PPR with nothing in service",
            cpu.apic_read(apic::PPR),
            want,
        );
    }
    cpu.apic_write(apic::TPR, 0);
    send_self(cpu, 0x45);
    machine.expect_count(0x45, 1);
    for (tpr, want) in [(0, 0x40), (0x23, 0x40), (0x47, 0x47), (0x57, 0x57)] {
        cpu.apic_write(apic::TPR, tpr);
        let what = format!("PPR with 0x45 in service and TPR {tpr:#x}");
        expect::eq(&what, cpu.apic_read(apic::PPR), want);
    }
}

/// Until its EOI an interrupt keeps those of its class and below back.
fn in_service_holds_back() {
    let machine = machine(Eoi::Xapic);
    machine.handle_all([0x45, 0x4f, 0x41, 0x50], Eoi::None);
    let cpu = machine.cpu(0);
    send_self(cpu, 0x45);
    send_self(cpu, 0x4f);
    send_self(cpu, 0x41);
    expect::eq("taken", machine.order(), vec![0x45]);
    send_self(cpu, 0x50);
    expect::eq("taken", machine.order(), vec![0x50]);
    cpu.apic_write(apic::EOI, 0);
    expect::eq("taken after the EOI of 0x50", machine.order(), vec![]);
    cpu.apic_write(apic::EOI, 0);
    expect::eq("taken after the EOI of 0x45", machine.order(), vec![0x4f]);
    cpu.apic_write(apic::EOI, 0);
    expect::eq("taken after the EOI of 0x4f", machine.order(), vec![0x41]);
    cpu.apic_write(apic::EOI, 0);
    expect::eq("PPR", cpu.apic_read(apic::PPR), 0);
}

fn eoi_of_nothing() {
    let machine = machine(Eoi::Xapic);
    for value in [0, 1, u32::MAX] {
        machine.cpu(0).apic_write(apic::EOI, value);
    }
    send_self(machine.cpu(0), VECTOR);
    machine.expect_count(VECTOR, 1);
}

fn self_ipi() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    for (what, icr2, icr) in [
        ("shorthand self", 0, 1 << 18),
        ("shorthand all", 0, 2 << 18),
        ("physical ID", 0, 0),
        ("physical broadcast", 0xff << 24, 0),
    ] {
        let before = machine.count(VECTOR);
        cpu.apic_write(apic::ICR2, icr2);
        cpu.apic_write(apic::ICR, icr | u32::from(VECTOR));
        expect::eq(what, machine.count(VECTOR), before + 1);
        expect::eq(
            "ICR's delivery status",
            cpu.apic_read(apic::ICR) >> 12 & 1,
            0,
        );
    }
    cpu.apic_write(apic::ICR, 3 << 18 | u32::from(VECTOR));
    expect::eq("shorthand others", machine.count(VECTOR), 4);
}

fn self_ipi_x2apic() {
    let machine = machine(Eoi::X2apic);
    let cpu = machine.cpu(0);
    cpu.x2apic_write(apic::SELF_IPI, VECTOR.into());
    machine.expect_count(VECTOR, 1);
    cpu.x2apic_write(apic::ICR, 1 << 18 | u64::from(VECTOR));
    machine.expect_count(VECTOR, 2);
    cpu.x2apic_write(apic::ICR, VECTOR.into());
    machine.expect_count(VECTOR, 3);
    cpu.x2apic_write(apic::ICR, 0xffff_ffff << 32 | u64::from(VECTOR));
    machine.expect_count(VECTOR, 4);
}

/// Entries read back what may be set in them, in either mode of the LAPIC.
fn lvt_masks() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    for (name, register, settable) in [
        ("timer", apic::LVT_TIMER, 0x7_00ff),
        ("thermal", apic::LVT_THERMAL, 0x1_07ff),
        ("performance", apic::LVT_PMC, 0x1_07ff),
        ("LINT0", apic::LVT0, 0x1_a7ff),
        ("LINT1", apic::LVT1, 0x1_a7ff),
        ("error", apic::LVT_ERROR, 0x1_00ff),
    ] {
        cpu.apic_write(register, u32::MAX);
        let got = cpu.apic_read(register) & !0x5000;
        expect::eq(&format!("LVT {name}"), got, settable);
        cpu.apic_write(register, apic::MASKED);
        expect::eq(
            &format!("LVT {name}"),
            cpu.apic_read(register),
            apic::MASKED,
        );
    }
}

/// While the LAPIC is off by software, entries are masked and stay so.
fn lvt_masked_by_software() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    cpu.apic_write(apic::LVT_ERROR, 0x45);
    expect::eq("LVT error", cpu.apic_read(apic::LVT_ERROR), 0x45);
    cpu.apic_write(apic::SPIV, 0xff);
    expect::eq(
        "LVT error, off",
        cpu.apic_read(apic::LVT_ERROR),
        apic::MASKED | 0x45,
    );
    cpu.apic_write(apic::LVT_ERROR, 0x46);
    expect::eq(
        "LVT error, off",
        cpu.apic_read(apic::LVT_ERROR),
        apic::MASKED | 0x46,
    );
    cpu.enable_apic();
    expect::eq(
        "LVT error, on",
        cpu.apic_read(apic::LVT_ERROR),
        apic::MASKED | 0x46,
    );
    cpu.apic_write(apic::LVT_ERROR, 0x46);
    expect::eq("LVT error, on", cpu.apic_read(apic::LVT_ERROR), 0x46);
}

/// KVM detects no illegal vectors; the register is there, and a write clears it.
fn esr_send_vector() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    send_self(cpu, 5);
    cpu.nop();
    cpu.apic_write(apic::ESR, 0);
    expect::eq("ESR", cpu.apic_read(apic::ESR), 0);
    cpu.apic_write(apic::ESR, u32::MAX);
    expect::eq("ESR", cpu.apic_read(apic::ESR), 0);
}

/// In x2APIC mode only 0 may be written there.
fn esr_x2apic() {
    let machine = machine(Eoi::X2apic);
    let cpu = machine.cpu(0);
    let esr = msr::X2APIC + apic::ESR / 16;
    expect::eq("write of 0", cpu.wrmsr(esr, 0), Ok(()));
    expect::eq("write of 1", cpu.wrmsr(esr, 1), Err(GP));
    expect::eq("read", cpu.rdmsr(esr), Ok(0));
}

/// A LAPIC that is off by software takes no fixed interrupts, but those that it had are delivered
/// (SDM vol. 3, 12.4.7.2).
fn spurious_enable() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    send_self(cpu.masked(), VECTOR);
    cpu.masked().apic_write(apic::SPIV, 0xff);
    expect::eq(
        "message",
        machine.vm.signal_msi(msi_address(0), 0x70),
        Ok(0),
    );
    cpu.nop();
    machine.expect_count(VECTOR, 1);
    cpu.enable_apic();
    send_self(cpu, VECTOR);
    machine.expect_count(VECTOR, 2);
    // The register's low bits can all be written, as on processors of this family.
    cpu.apic_write(apic::SPIV, 0x120);
    expect::eq("SPIV", cpu.apic_read(apic::SPIV), 0x120);
}

fn registers_read_only() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    for (name, register) in [
        ("version", apic::VERSION),
        ("PPR", apic::PPR),
        ("ISR", apic::ISR),
        ("TMR", apic::TMR),
        ("IRR", apic::IRR + 0x70),
        ("TMCCT", apic::TMCCT),
    ] {
        let before = cpu.apic_read(register);
        cpu.apic_write(register, 0x5555_5555);
        expect::eq(name, cpu.apic_read(register), before);
    }
    send_self(cpu, VECTOR);
    machine.expect_count(VECTOR, 1);
}

/// Reserved places read 0 and take writes.
fn registers_reserved() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    for register in [
        0x0, 0x10, 0x40, 0x70, 0x290, 0x2e0, 0x3a0, 0x3d0, 0x3f0, 0x400, 0x800, 0xff0,
    ] {
        cpu.apic_write(register, u32::MAX);
        expect::eq(
            &format!("register {register:#x}"),
            cpu.apic_read(register),
            0,
        );
    }
    send_self(cpu, VECTOR);
    machine.expect_count(VECTOR, 1);
}

fn isr_and_irr() {
    let machine = machine(Eoi::None);
    let cpu = machine.cpu(0);
    let vectors = [0x31u8, 0x62, 0x93, 0xf4];
    machine.handle_all(vectors, Eoi::None);
    let bit = |base: u32, vector: u8| {
        let word = cpu.masked().apic_read(base + 0x10 * u32::from(vector / 32));
        word >> (vector % 32) & 1
    };
    for vector in vectors {
        send_self(cpu.masked(), vector);
        expect::eq("IRR", bit(apic::IRR, vector), 1);
        expect::eq("ISR", bit(apic::ISR, vector), 0);
    }
    cpu.nop();
    expect::eq("taken: one, the highest", machine.order(), vec![0xf4]);
    expect::eq("IRR of 0xf4", bit(apic::IRR, 0xf4), 0);
    expect::eq("ISR of 0xf4", bit(apic::ISR, 0xf4), 1);
    expect::eq("IRR of 0x93", bit(apic::IRR, 0x93), 1);
    cpu.masked().apic_write(apic::EOI, 0);
    expect::eq("ISR of 0xf4", bit(apic::ISR, 0xf4), 0);
}

/// With the LAPIC off in IA32_APIC_BASE its page is not there and its CPUID bit is gone.
fn disable() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    let base = cpu.rdmsr(msr::APIC_BASE).unwrap_or(0);
    cpu.apic_write(apic::LVT_TIMER, 0x45);
    let off = base & !msr::APIC_BASE_ENABLE;
    expect::eq("off", cpu.wrmsr(msr::APIC_BASE, off), Ok(()));
    let cpuid = code64!("mov eax, 1", "cpuid", "out 0xe9, al");
    let apic_bit = || cpu.operate(cpuid, |_| {}).map(|r| r.rdx >> 9 & 1);
    expect::eq("CPUID's APIC bit", apic_bit(), Ok(0));
    expect::eq(
        "message",
        machine
            .vm
            .signal_msi(msi_address(0), VECTOR.into())
            .ok()
            .filter(|&n| n > 0),
        None,
    );
    expect::eq("IA32_TSC_DEADLINE", cpu.rdmsr(msr::TSC_DEADLINE), Ok(0));
    expect::eq("the page", cpu.apic_read(apic::VERSION), u32::MAX);
    cpu.apic_write(apic::TPR, 0x20);
    expect::eq("on", cpu.wrmsr(msr::APIC_BASE, base), Ok(()));
    expect::eq("CPUID's APIC bit", apic_bit(), Ok(1));
    cpu.enable_apic();
    send_self(cpu, VECTOR);
    machine.expect_count(VECTOR, 1);
}

/// KVM offers the page at its usual place alone; the register holds what is written.
fn relocated_base() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    let base = cpu.rdmsr(msr::APIC_BASE).unwrap_or(0);
    let bad = cpu.wrmsr(msr::APIC_BASE, base | 1 << 50);
    expect::eq("an address too wide", bad, Err(GP));
    let bad = cpu.wrmsr(msr::APIC_BASE, base | 1);
    expect::eq("reserved bits", bad, Err(GP));
    expect::eq("the same", cpu.wrmsr(msr::APIC_BASE, base), Ok(()));
    send_self(cpu, VECTOR);
    machine.expect_count(VECTOR, 1);
}

/// SDM vol. 3, figure 12-27.
fn x2apic_transitions() {
    let machine = Machine::new(1);
    let cpu = machine.cpu(0);
    let rest = apic::BASE | msr::APIC_BASE_BSP;
    let off = rest;
    let xapic = rest | msr::APIC_BASE_ENABLE;
    let x2apic = xapic | msr::APIC_BASE_X2APIC;
    let illegal = rest | msr::APIC_BASE_X2APIC;
    let go = |from: &str, to: u64, want: Result<(), Fault>| {
        let what = format!("from {from} to {to:#x}");
        expect::eq(&what, cpu.wrmsr(msr::APIC_BASE, to), want);
    };
    expect::eq("at first", cpu.rdmsr(msr::APIC_BASE), Ok(xapic));
    go("xAPIC", illegal, Err(GP));
    go("xAPIC", x2apic, Ok(()));
    go("x2APIC", xapic, Err(GP));
    go("x2APIC", illegal, Err(GP));
    go("x2APIC", x2apic, Ok(()));
    go("x2APIC", off, Ok(()));
    go("disabled", x2apic, Err(GP));
    go("disabled", illegal, Err(GP));
    go("disabled", xapic, Ok(()));
    go("xAPIC", off, Ok(()));
    go("disabled", xapic, Ok(()));
    expect::eq("at last", cpu.rdmsr(msr::APIC_BASE), Ok(xapic));
}

fn x2apic_registers() {
    let machine = Machine::new(2);
    let cpu = machine.cpu(1);
    cpu.apic_write(apic::LDR, 0x55 << 24);
    cpu.enable_x2apic();
    expect::eq("ID", cpu.x2apic_read(apic::ID), 1);
    expect::eq("LDR", cpu.x2apic_read(apic::LDR), 2);
    expect::eq("version", cpu.x2apic_read(apic::VERSION) & 0xff, 0x14);
    expect::eq("SPIV", cpu.x2apic_read(apic::SPIV), 0x1ff);
    cpu.x2apic_write(apic::TPR, 0x30);
    expect::eq("TPR", cpu.x2apic_read(apic::TPR), 0x30);
    expect::eq("CR8", cpu.cr8(), 3);
    expect::eq("PPR", cpu.x2apic_read(apic::PPR), 0x30);
    cpu.x2apic_write(apic::LVT_ERROR, 0x1_0045);
    expect::eq("LVT error", cpu.x2apic_read(apic::LVT_ERROR), 0x1_0045);
}

/// In x2APIC mode KVM answers loads from the page's place with ones and ignores stores.
fn x2apic_no_page() {
    let machine = machine(Eoi::X2apic);
    let cpu = machine.cpu(0);
    for register in [apic::ID, apic::VERSION, 0] {
        expect::eq("the page", cpu.apic_read(register), u32::MAX);
    }
    cpu.apic_write(apic::TPR, 0x20);
    expect::eq("TPR", cpu.x2apic_read(apic::TPR), 0);
}

/// With KVM_X86_QUIRK_LAPIC_MMIO_HOLE off (api.rst 7.13) such accesses are the VMM's.
fn page_without_quirk() {
    let vm = Vm::with_irqchip();
    let quirk = KVM_X86_QUIRK_LAPIC_MMIO_HOLE;
    expect::ok(
        "KVM_CAP_DISABLE_QUIRKS2",
        vm.enable(KVM_CAP_DISABLE_QUIRKS2, quirk.into()),
    );
    let machine = Machine::in_vm(vm, 1);
    machine.cpu(0).enable_x2apic();
    let gpa = apic::BASE + u64::from(apic::VERSION);
    machine
        .cpu(0)
        .start(code64!("mov eax, [rbx]", "out 0xe9, al"), |r| r.rbx = gpa);
    machine.vcpus[0].expect_exit(Exit::MmioRead { gpa, len: 4 });
    machine.vcpus[0].answer_mmio(&[0x77, 0, 0, 0]);
    let regs = machine.cpu(0).finish();
    expect::eq("EAX", regs.map(|r| r.rax), Ok(0x77));
}

/// Registers that are not there, reads of what can only be written, and the other way round.
fn x2apic_faults() {
    let machine = machine(Eoi::X2apic);
    let cpu = machine.cpu(0);
    for register in [apic::DFR, apic::ICR2, 0x0, 0x10, 0x40, 0x290, 0x3a0] {
        let index = msr::X2APIC + register / 16;
        expect::eq(&format!("read of {register:#x}"), cpu.rdmsr(index), Err(GP));
        expect::eq(
            &format!("write of {register:#x}"),
            cpu.wrmsr(index, 0),
            Err(GP),
        );
    }
    for register in [apic::EOI, apic::SELF_IPI] {
        let index = msr::X2APIC + register / 16;
        expect::eq(&format!("read of {register:#x}"), cpu.rdmsr(index), Err(GP));
    }
    for register in [
        apic::ID,
        apic::VERSION,
        apic::PPR,
        apic::LDR,
        apic::TMCCT,
        apic::IRR,
    ] {
        let index = msr::X2APIC + register / 16;
        expect::eq(
            &format!("write of {register:#x}"),
            cpu.wrmsr(index, 0),
            Err(GP),
        );
    }
    let tpr = msr::X2APIC + apic::TPR / 16;
    expect::eq(
        "the upper half of the TPR",
        cpu.wrmsr(tpr, 1 << 32),
        Err(GP),
    );
    cpu.x2apic_write(apic::SELF_IPI, VECTOR.into());
    machine.expect_count(VECTOR, 1);
}

/// A guest without the x2APIC in its CPUID gets neither the mode nor the MSRs.
fn hidden_without_x2apic() {
    let machine = Machine::new(1);
    let mut cpuid = crate::vm::Kvm::open().supported_cpuid();
    cpuid.find(1, 0).expect("leaf 1").ecx &= !(1 << 21);
    let vm = Vm::with_irqchip();
    let hidden = Machine::in_vm(vm, 0);
    let vcpu = hidden.vm.create_vcpu(0);
    hidden.prepare(&vcpu, 0);
    expect::ok("KVM_SET_CPUID2", vcpu.set(SET_CPUID2, &cpuid));
    let hidden = hidden.with_vcpus(vec![vcpu]);
    let base = apic::BASE | msr::APIC_BASE_BSP | msr::APIC_BASE_ENABLE | msr::APIC_BASE_X2APIC;
    let got = hidden.cpu(0).wrmsr(msr::APIC_BASE, base);
    expect::eq("x2APIC mode", got, Err(GP));
    // In xAPIC mode the MSRs are not there in either guest.
    for machine in [&machine, &hidden] {
        let id = machine.cpu(0).rdmsr(msr::X2APIC + apic::ID / 16);
        expect::eq("x2APIC ID in xAPIC mode", id, Err(GP));
    }
}

/// Loads of a byte, 16, 32 and 64 bits; what lies beside a register's 32 bits is not defined.
fn access_sizes() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    let version = u64::from(cpu.apic_read(apic::VERSION));
    let at = apic::BASE + u64::from(apic::VERSION);
    let byte = cpu.operate(code64!("movzx eax, byte ptr [rbx]", "out 0xe9, al"), |r| {
        r.rbx = at
    });
    expect::eq("byte 0", byte.map(|r| r.rax), Ok(version & 0xff));
    let byte = cpu.operate(
        code64!("movzx eax, byte ptr [rbx + 2]", "out 0xe9, al"),
        |r| r.rbx = at,
    );
    expect::eq("byte 2", byte.map(|r| r.rax), Ok(version >> 16 & 0xff));
    let word = cpu.operate(code64!("movzx eax, word ptr [rbx]", "out 0xe9, al"), |r| {
        r.rbx = at
    });
    expect::eq("16 bits", word.map(|r| r.rax), Ok(version & 0xffff));
    // Stores that are not of 32 bits at a register's start have no effect.
    cpu.apic_write(apic::TPR, 0x20);
    let store = code64!(
        "mov byte ptr [rbx], 0x50",
        "mov word ptr [rbx + 2], 0x70",
        "out 0xe9, al"
    );
    let done = cpu.operate(store, |r| r.rbx = apic::BASE + u64::from(apic::TPR));
    expect::that("no exception", done.is_ok());
    expect::eq("TPR", cpu.apic_read(apic::TPR), 0x20);
}
