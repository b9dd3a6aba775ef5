// SPDX-License-Identifier: GPL-2.0
//! The IOAPIC as a guest sees it (82093AA datasheet): its registers, edges and levels, EOI and
//! remote IRR.

use kvm_bindings::*;

use super::tests;
use crate::devices::*;
use crate::expect;
use crate::machine::{apic, Eoi, Machine};

tests! {
    "ioapic":
    identification, id_writable, redirection_reads_back, read_only_bits, select_reads_back,
    absent_registers, edge, edge_while_masked, level, level_until_eoi, level_unmasked, level_x2apic,
    line_shared, every_pin, logical_destination, lowest_priority, nmi, destination_changed,
    vector_changed_in_service, real_time_clock, eoi_of_another_vector, access_sizes,
}

const BASE: u64 = 0xfec0_0000;
const WINDOW: u64 = BASE + 0x10;
const VECTOR: u8 = 0xa1;
const PIN: u32 = 19;
/// Of a redirection entry.
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const STATUS: u64 = 1 << 12;
const MASKED: u64 = 1 << 16;
const LOGICAL: u64 = 1 << 11;

#[track_caller]
fn machine(cpus: usize) -> Machine {
    let machine = Machine::new(cpus);
    machine.handle_all(VECTOR..VECTOR + 32, Eoi::Xapic);
    for id in 0..cpus {
        machine.cpu(id).enable_apic();
        machine.cpu(id).apic_write(apic::LDR, 1 << (24 + id));
    }
    machine
}

#[track_caller]
fn read(machine: &Machine, register: u32) -> u32 {
    machine.cpu(0).store(BASE, register);
    machine.cpu(0).load(WINDOW)
}

#[track_caller]
fn write(machine: &Machine, register: u32, value: u32) {
    machine.cpu(0).store(BASE, register);
    machine.cpu(0).store(WINDOW, value);
}

#[track_caller]
fn set_entry(machine: &Machine, pin: u32, entry: u64) {
    write(machine, 0x11 + 2 * pin, (entry >> 32) as u32);
    write(machine, 0x10 + 2 * pin, entry as u32);
}

#[track_caller]
fn entry(machine: &Machine, pin: u32) -> u64 {
    let low = read(machine, 0x10 + 2 * pin);
    u64::from(read(machine, 0x11 + 2 * pin)) << 32 | u64::from(low)
}

fn to(cpu: u64) -> u64 {
    cpu << 56
}

fn identification() {
    let machine = machine(1);
    expect::eq("ID", read(&machine, 0), 0);
    expect::eq("version and last pin", read(&machine, 1), 0x17_0011);
    expect::eq("arbitration ID", read(&machine, 2), 0);
    for pin in 0..24 {
        expect::eq(&format!("entry {pin}"), entry(&machine, pin), MASKED);
    }
}

fn id_writable() {
    let machine = machine(1);
    write(&machine, 0, 0xffff_ffff);
    expect::eq("ID", read(&machine, 0), 0x0f00_0000);
    write(&machine, 0, 0x0500_0000);
    expect::eq("ID", read(&machine, 0), 0x0500_0000);
    expect::eq("ID of the state", machine.vm.ioapic().id, 5);
    write(&machine, 1, 0);
    expect::eq("version", read(&machine, 1), 0x17_0011);
}

fn redirection_reads_back() {
    let machine = machine(1);
    for pin in 0..24u32 {
        let entry = MASKED | LEVEL | LOGICAL | 1 << 13 | u64::from(0x30 + pin) | to(pin.into());
        set_entry(&machine, pin, entry);
    }
    for pin in 0..24u32 {
        let want = MASKED | LEVEL | LOGICAL | 1 << 13 | u64::from(0x30 + pin) | to(pin.into());
        expect::eq(&format!("entry {pin}"), entry(&machine, pin), want);
        expect::eq("state", machine.vm.ioapic().redirtbl[pin as usize], want);
    }
}

/// The delivery status and the remote IRR are not the guest's to write.
fn read_only_bits() {
    let machine = machine(1);
    let given = MASKED | LEVEL | STATUS | REMOTE_IRR | u64::from(VECTOR);
    set_entry(&machine, PIN, given);
    let got = entry(&machine, PIN);
    expect::eq("entry", got, MASKED | LEVEL | u64::from(VECTOR));
}

fn select_reads_back() {
    let machine = machine(1);
    for register in [0, 1, 0x10, 0x3f] {
        machine.cpu(0).store(BASE, register);
        expect::eq("IOREGSEL", machine.cpu(0).load(BASE), register);
        expect::eq("of the state", machine.vm.ioapic().ioregsel, register);
    }
}

/// Registers that are not there take writes and disturb nothing.
fn absent_registers() {
    let machine = machine(1);
    for register in [3, 0xf, 0x40, 0x7f, 0xff] {
        read(&machine, register);
        write(&machine, register, 0xffff_ffff);
    }
    for offset in [4, 0x20, 0x80, 0xfc] {
        machine.cpu(0).load(BASE + offset);
        machine.cpu(0).store(BASE + offset, u32::MAX);
    }
    for pin in 0..24 {
        expect::eq(&format!("entry {pin}"), entry(&machine, pin), MASKED);
    }
}

fn edge() {
    let machine = machine(1);
    set_entry(&machine, PIN, VECTOR.into());
    for count in 1..=3 {
        machine.vm.irq_line(PIN, true);
        machine.cpu(0).nop();
        machine.expect_count(VECTOR, count);
        expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, 0);
        machine.vm.irq_line(PIN, false);
    }
}

/// An edge that came while the pin was masked is delivered when it is unmasked with the line up.
fn edge_while_masked() {
    let machine = machine(1);
    set_entry(&machine, PIN, MASKED | u64::from(VECTOR));
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 0);
    machine.vm.irq_line(PIN, false);
    set_entry(&machine, PIN, VECTOR.into());
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 0);
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
}

fn level() {
    let machine = machine(1);
    machine.handle(VECTOR, Eoi::None);
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR));
    for count in 1..=3 {
        machine.vm.irq_line(PIN, true);
        machine.cpu(0).nop();
        machine.expect_count(VECTOR, count);
        expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, REMOTE_IRR);
        machine.vm.irq_line(PIN, false);
        expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, REMOTE_IRR);
        machine.cpu(0).apic_write(apic::EOI, 0);
        expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, 0);
    }
    machine.expect_count(VECTOR, 3);
}

/// A line that nobody lowers comes again at each EOI.
fn level_until_eoi() {
    let machine = machine(1);
    machine.handle(VECTOR, Eoi::None);
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR));
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    for count in 1..=10 {
        machine.expect_count(VECTOR, count);
        machine.cpu(0).apic_write(apic::EOI, 0);
        machine.cpu(0).nop();
    }
}

fn level_unmasked() {
    let machine = machine(1);
    machine.handle(VECTOR, Eoi::None);
    set_entry(&machine, PIN, MASKED | LEVEL | u64::from(VECTOR));
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 0);
    write(&machine, 0x10 + 2 * PIN, LEVEL as u32 | u32::from(VECTOR));
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    // Masked in its handler, lowered, ended, unmasked: nothing more comes.
    write(
        &machine,
        0x10 + 2 * PIN,
        (MASKED | LEVEL) as u32 | u32::from(VECTOR),
    );
    machine.vm.irq_line(PIN, false);
    machine.cpu(0).apic_write(apic::EOI, 0);
    write(&machine, 0x10 + 2 * PIN, LEVEL as u32 | u32::from(VECTOR));
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
}

fn level_x2apic() {
    let machine = machine(1);
    machine.cpu(0).enable_x2apic();
    machine.handle(VECTOR, Eoi::None);
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR));
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    machine.vm.irq_line(PIN, false);
    expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, REMOTE_IRR);
    machine.cpu(0).x2apic_write(apic::EOI, 0);
    expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, 0);
    machine.expect_count(VECTOR, 1);
}

/// Two GSIs on one pin: it is down when both are.
fn line_shared() {
    let machine = machine(1);
    let routes = [
        Route::pin(40, KVM_IRQCHIP_IOAPIC, PIN),
        Route::pin(41, KVM_IRQCHIP_IOAPIC, PIN),
    ];
    expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&routes));
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR));
    machine.handle(VECTOR, Eoi::None);
    machine.vm.irq_line(40, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    machine.vm.irq_line(40, false);
    machine.cpu(0).apic_write(apic::EOI, 0);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    machine.vm.irq_line(41, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 2);
}

fn every_pin() {
    let machine = machine(1);
    let routes: Vec<_> = (0..24)
        .map(|pin| Route::pin(pin, KVM_IRQCHIP_IOAPIC, pin))
        .collect();
    expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&routes));
    for pin in 0..24u32 {
        set_entry(&machine, pin, u64::from(VECTOR) + u64::from(pin));
    }
    for pin in 0..24u32 {
        machine.vm.irq_line(pin, true);
        machine.cpu(0).nop();
        expect::eq(
            &format!("pin {pin}"),
            machine.order(),
            vec![VECTOR + pin as u8],
        );
    }
}

/// Lets all vCPUs run; who took `VECTOR`.
#[track_caller]
fn takers(machine: &Machine) -> Vec<usize> {
    (0..machine.vcpus.len())
        .filter(|&id| {
            machine.cpu(id).nop();
            !machine.order().is_empty()
        })
        .collect()
}

#[track_caller]
fn pulse(machine: &Machine) {
    machine.vm.irq_line(PIN, true);
    machine.vm.irq_line(PIN, false);
}

fn logical_destination() {
    let machine = machine(4);
    for mask in 0..16u64 {
        set_entry(&machine, PIN, LOGICAL | u64::from(VECTOR) | to(mask));
        pulse(&machine);
        let want: Vec<_> = (0..4).filter(|id| mask >> id & 1 != 0).collect();
        expect::eq(&format!("to {mask:#b}"), takers(&machine), want);
    }
    for id in 0..4 {
        set_entry(&machine, PIN, u64::from(VECTOR) | to(id));
        pulse(&machine);
        expect::eq(&format!("to {id}"), takers(&machine), vec![id as usize]);
    }
}

fn lowest_priority() {
    let machine = machine(4);
    set_entry(
        &machine,
        PIN,
        LOGICAL | 1 << 8 | u64::from(VECTOR) | to(0b1110),
    );
    for _ in 0..6 {
        pulse(&machine);
        let takers = takers(&machine);
        expect::eq("how many", takers.len(), 1);
        expect::ne("who", takers[0], 0);
    }
}

fn nmi() {
    let machine = machine(2);
    machine.handle(2, Eoi::None);
    set_entry(&machine, PIN, 4 << 8 | to(1));
    pulse(&machine);
    expect::eq("who", takers(&machine), vec![1]);
    machine.expect_count(2, 1);
}

/// A level whose destination is changed while it is in service is still ended by its old one.
fn destination_changed() {
    let machine = machine(2);
    machine.handle(VECTOR, Eoi::None);
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR) | to(1));
    machine.vm.irq_line(PIN, true);
    machine.cpu(1).nop();
    machine.expect_count(VECTOR, 1);
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR) | to(0));
    machine.vm.irq_line(PIN, false);
    machine.cpu(1).apic_write(apic::EOI, 0);
    expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, 0);
    machine.vm.irq_line(PIN, true);
    expect::eq("who next", takers(&machine), vec![0]);
}

/// With another vector meanwhile, the EOI of the old one is nobody's; turning the entry to edge
/// and back clears the remote IRR (as guests do whose IOAPIC has no EOI register).
fn vector_changed_in_service() {
    let machine = machine(1);
    machine.handle_all([VECTOR, VECTOR + 1], Eoi::None);
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR));
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    machine.vm.irq_line(PIN, false);
    expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, REMOTE_IRR);
    set_entry(&machine, PIN, MASKED | u64::from(VECTOR) + 1);
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR) + 1);
    expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, 0);
    machine.cpu(0).apic_write(apic::EOI, 0);
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR + 1, 1);
}

/// GSI 8, the clock's: KVM_IRQ_LINE_STATUS says 0 until the guest ended the last one.
fn real_time_clock() {
    let machine = machine(1);
    machine.handle(VECTOR, Eoi::None);
    set_entry(&machine, 8, VECTOR.into());
    let mut slave = machine.vm.pic(KVM_IRQCHIP_PIC_SLAVE);
    slave.pic.imr = 0xff;
    machine.vm.set_pic(&slave);
    let routes = [Route::pin(8, KVM_IRQCHIP_IOAPIC, 8)];
    expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&routes));
    expect::eq("delivered", machine.vm.irq_line_status(8, true), 1);
    machine.vm.irq_line_status(8, false);
    expect::eq("not ended", machine.vm.irq_line_status(8, true), 0);
    machine.vm.irq_line_status(8, false);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    expect::eq("not ended", machine.vm.irq_line_status(8, true), 0);
    machine.vm.irq_line_status(8, false);
    machine.cpu(0).apic_write(apic::EOI, 0);
    expect::eq("ended", machine.vm.irq_line_status(8, true), 1);
}

fn eoi_of_another_vector() {
    let machine = machine(1);
    machine.handle_all([VECTOR, 0xf1], Eoi::None);
    set_entry(&machine, PIN, LEVEL | u64::from(VECTOR));
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    machine.vm.irq_line(PIN, false);
    expect::eq(
        "message",
        machine.vm.signal_msi(msi_address(0), 0xf1),
        Ok(1),
    );
    machine.cpu(0).nop();
    machine.cpu(0).apic_write(apic::EOI, 0);
    expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, REMOTE_IRR);
    machine.cpu(0).apic_write(apic::EOI, 0);
    expect::eq("remote IRR", entry(&machine, PIN) & REMOTE_IRR, 0);
}

/// Loads of a byte and of 16 bits give the low part.
fn access_sizes() {
    use crate::code64;
    let machine = machine(1);
    machine.cpu(0).store(BASE, 1);
    let byte = code64!("movzx eax, byte ptr [rbx]", "out 0xe9, al");
    let got = machine.cpu(0).operate(byte, |r| r.rbx = WINDOW);
    expect::eq("8 bits", got.map(|r| r.rax), Ok(0x11));
    let word = code64!("movzx eax, word ptr [rbx]", "out 0xe9, al");
    let got = machine.cpu(0).operate(word, |r| r.rbx = WINDOW);
    expect::eq("16 bits", got.map(|r| r.rax), Ok(0x11));
    // IOREGSEL has 8 bits.
    let select = code64!("mov byte ptr [rbx], 1", "out 0xe9, al");
    machine.cpu(0).store(BASE, 0);
    let done = machine.cpu(0).operate(select, |r| r.rbx = BASE);
    expect::that("no exception", done.is_ok());
    expect::eq("version", machine.cpu(0).load(WINDOW), 0x17_0011);
}
