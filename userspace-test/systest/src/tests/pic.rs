// SPDX-License-Identifier: GPL-2.0
//! The two 8259As in the kernel as a guest sees them, their interrupts going through LINT0 of the
//! first vCPU (ExtINT), and a real-mode guest that lives on them.

use kvm_bindings::*;

use super::tests;
use crate::code16;
use crate::expect;
use crate::guest::{layout, Guest, Mode};
use crate::machine::{apic, Eoi, Machine};
use crate::vcpu::Exit;
use crate::vm::Vm;

tests! {
    "pic":
    initialised, mask_reads_back, edge, edge_masked, level_by_elcr, elcr_bits, priorities,
    in_service_holds_back, specific_eoi, rotation, special_mask, auto_eoi, slave, poll,
    reads_irr_and_isr, lost_edge, lint0_masked, second_vcpu_gets_none, real_mode,
}

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xa0;
/// The edge/level control registers.
const ELCR: u16 = 0x4d0;
/// The first vector of each.
const BASE: u8 = 0x30;
const SLAVE_BASE: u8 = 0x38;

/// Initialises both PICs as a PC's firmware does.
#[track_caller]
fn initialise(machine: &Machine, icw4: u8) {
    let cpu = machine.cpu(0);
    for (port, base, cascade) in [(MASTER, BASE, 4), (SLAVE, SLAVE_BASE, 2)] {
        cpu.outb(port, 0x11);
        cpu.outb(port + 1, base);
        cpu.outb(port + 1, cascade);
        cpu.outb(port + 1, icw4);
        cpu.outb(port + 1, 0);
    }
}

#[track_caller]
fn machine(eoi: Eoi) -> Machine {
    let machine = Machine::new(1);
    machine.handle_all(BASE..BASE + 16, eoi);
    initialise(&machine, 1);
    machine
}

/// IRQ n alone, without the IOAPIC.
#[track_caller]
fn up(machine: &Machine, irq: u32) {
    machine.vm.irq_line(irq, true);
}

#[track_caller]
fn pulse(machine: &Machine, irq: u32) {
    machine.vm.irq_line(irq, true);
    machine.vm.irq_line(irq, false);
}

/// IRR or ISR of a PIC (OCW3 then a read).
#[track_caller]
fn register(machine: &Machine, port: u16, which: u8) -> u8 {
    machine.cpu(0).masked().outb(port, which);
    machine.cpu(0).masked().inb(port)
}
const IRR: u8 = 0x0a;
const ISR: u8 = 0x0b;

fn initialised() {
    let machine = machine(Eoi::Pic);
    let (master, slave) = (
        machine.vm.pic(KVM_IRQCHIP_PIC_MASTER).pic,
        machine.vm.pic(KVM_IRQCHIP_PIC_SLAVE).pic,
    );
    expect::eq(
        "vector bases",
        (master.irq_base, slave.irq_base),
        (BASE, SLAVE_BASE),
    );
    expect::eq("init state", (master.init_state, slave.init_state), (0, 0));
    expect::eq("IMR", (master.imr, slave.imr), (0, 0));
    // ICW1 clears what was there before.
    machine.cpu(0).outb(MASTER + 1, 0xff);
    initialise(&machine, 1);
    expect::eq("IMR", machine.vm.pic(KVM_IRQCHIP_PIC_MASTER).pic.imr, 0);
}

fn mask_reads_back() {
    let machine = machine(Eoi::Pic);
    for port in [MASTER, SLAVE] {
        for mask in [0xff, 0, 0x5a] {
            machine.cpu(0).outb(port + 1, mask);
            expect::eq("IMR", machine.cpu(0).inb(port + 1), mask);
        }
    }
}

fn edge() {
    let machine = machine(Eoi::Pic);
    for irq in [0u8, 1, 3, 7] {
        for count in 1..=3 {
            up(&machine, irq.into());
            machine.cpu(0).nop();
            machine.expect_count(BASE + irq, count);
            machine.cpu(0).nop();
            machine.expect_count(BASE + irq, count);
            machine.vm.irq_line(irq.into(), false);
        }
    }
}

/// The edge waits in the IRR.
fn edge_masked() {
    let machine = machine(Eoi::Pic);
    machine.cpu(0).outb(MASTER + 1, 1 << 3);
    up(&machine, 3);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 3, 0);
    expect::eq("IRR", register(&machine, MASTER, IRR) & 8, 8);
    machine.cpu(0).outb(MASTER + 1, 0);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 3, 1);
}

fn level_by_elcr() {
    let machine = machine(Eoi::None);
    machine.cpu(0).outb(ELCR, 1 << 5);
    up(&machine, 5);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 5, 1);
    for count in 2..=4 {
        machine.cpu(0).outb(MASTER, 0x20);
        machine.cpu(0).nop();
        machine.expect_count(BASE + 5, count);
    }
    machine.vm.irq_line(5, false);
    machine.cpu(0).outb(MASTER, 0x20);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 5, 4);
}

/// IRQs 0, 1, 2, 8 and 13 are always edge-triggered.
fn elcr_bits() {
    let machine = machine(Eoi::Pic);
    machine.cpu(0).outb(ELCR, 0xff);
    machine.cpu(0).outb(ELCR + 1, 0xff);
    expect::eq("ELCR 1", machine.cpu(0).inb(ELCR), 0xf8);
    expect::eq("ELCR 2", machine.cpu(0).inb(ELCR + 1), 0xde);
}

fn priorities() {
    let machine = machine(Eoi::Pic);
    for irq in [6, 1, 4, 0, 7] {
        up(&machine, irq);
    }
    machine.cpu(0).nop();
    let want = vec![BASE, BASE + 1, BASE + 4, BASE + 6, BASE + 7];
    expect::eq("order", machine.order(), want);
}

fn in_service_holds_back() {
    let machine = machine(Eoi::None);
    up(&machine, 3);
    machine.cpu(0).nop();
    for irq in [3, 4, 7] {
        machine.vm.irq_line(irq, false);
        up(&machine, irq);
    }
    machine.cpu(0).nop();
    expect::eq("taken", machine.order(), vec![BASE + 3]);
    up(&machine, 1);
    machine.cpu(0).nop();
    expect::eq("taken", machine.order(), vec![BASE + 1]);
    expect::eq("ISR", register(&machine, MASTER, ISR), 0b1010);
    for want in [vec![], vec![BASE + 3], vec![BASE + 4]] {
        machine.cpu(0).outb(MASTER, 0x20);
        machine.cpu(0).nop();
        expect::eq("taken after an EOI", machine.order(), want);
    }
}

fn specific_eoi() {
    let machine = machine(Eoi::None);
    up(&machine, 6);
    machine.cpu(0).nop();
    up(&machine, 2 - 1);
    machine.cpu(0).nop();
    expect::eq("ISR", register(&machine, MASTER, ISR), 1 << 6 | 1 << 1);
    machine.cpu(0).outb(MASTER, 0x66);
    expect::eq("ISR", register(&machine, MASTER, ISR), 1 << 1);
    machine.cpu(0).outb(MASTER, 0x61);
    expect::eq("ISR", register(&machine, MASTER, ISR), 0);
}

/// After a rotating EOI the IRQ that was served has the lowest priority.
fn rotation() {
    let machine = machine(Eoi::None);
    up(&machine, 4);
    machine.cpu(0).nop();
    machine.cpu(0).outb(MASTER, 0xa0);
    machine.order();
    machine.vm.irq_line(4, false);
    for irq in [0, 4, 5] {
        up(&machine, irq);
    }
    for want in [BASE + 5, BASE, BASE + 4] {
        machine.cpu(0).nop();
        expect::eq("taken", machine.order(), vec![want]);
        machine.cpu(0).outb(MASTER, 0x20);
    }
    // OCW2's "set priority": IRQ 1 is the lowest, so that 2 is the highest.
    machine.cpu(0).outb(MASTER, 0xc1);
    for irq in [1, 3, 6] {
        machine.vm.irq_line(irq, false);
        up(&machine, irq);
    }
    for want in [BASE + 3, BASE + 6, BASE + 1] {
        machine.cpu(0).nop();
        expect::eq("taken", machine.order(), vec![want]);
        machine.cpu(0).outb(MASTER, 0x20);
    }
}

/// KVM keeps OCW3's special mask mode and lets it have no effect.
fn special_mask() {
    let machine = machine(Eoi::Pic);
    for (ocw3, want) in [(0x68, 1), (0x08, 1), (0x48, 0)] {
        machine.cpu(0).outb(MASTER, ocw3);
        let mode = machine.vm.pic(KVM_IRQCHIP_PIC_MASTER).pic.special_mask;
        expect::eq(&format!("special mask mode after {ocw3:#x}"), mode, want);
    }
}

fn auto_eoi() {
    let machine = machine(Eoi::None);
    initialise(&machine, 3);
    for count in 1..=3 {
        pulse(&machine, 3);
        machine.cpu(0).nop();
        machine.expect_count(BASE + 3, count);
        expect::eq("ISR", register(&machine, MASTER, ISR), 0);
    }
}

fn slave() {
    let machine = machine(Eoi::None);
    up(&machine, 9);
    machine.cpu(0).nop();
    expect::eq("taken", machine.order(), vec![SLAVE_BASE + 1]);
    expect::eq("ISR of the master", register(&machine, MASTER, ISR), 1 << 2);
    expect::eq("ISR of the slave", register(&machine, SLAVE, ISR), 1 << 1);
    machine.cpu(0).outb(SLAVE, 0x20);
    machine.cpu(0).outb(MASTER, 0x20);
    machine.handle_all(BASE..BASE + 16, Eoi::Pic);
    for irq in [15, 3, 10, 0] {
        up(&machine, irq);
    }
    machine.cpu(0).nop();
    let want = vec![BASE, SLAVE_BASE + 2, SLAVE_BASE + 7, BASE + 3];
    expect::eq("order", machine.order(), want);
}

/// OCW3's poll: the next read acknowledges and tells the IRQ.
fn poll() {
    let machine = machine(Eoi::None);
    up(&machine, 6);
    machine.cpu(0).masked().outb(MASTER, 0x0c);
    expect::eq("poll", machine.cpu(0).masked().inb(MASTER), 0x86);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 6, 0);
}

fn reads_irr_and_isr() {
    let machine = machine(Eoi::None);
    up(&machine, 4);
    expect::eq("IRR", register(&machine, MASTER, IRR), 1 << 4);
    expect::eq("ISR", register(&machine, MASTER, ISR), 0);
    machine.cpu(0).nop();
    expect::eq("IRR", register(&machine, MASTER, IRR), 0);
    expect::eq("ISR", register(&machine, MASTER, ISR), 1 << 4);
    expect::eq(
        "ISR of the state",
        machine.vm.pic(KVM_IRQCHIP_PIC_MASTER).pic.isr,
        1 << 4,
    );
}

/// A level that went before it was taken leaves nothing behind that hurts the next.
fn lost_edge() {
    let machine = machine(Eoi::Pic);
    machine.cpu(0).outb(ELCR, 1 << 5);
    up(&machine, 5);
    machine.vm.irq_line(5, false);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 5, 0);
    pulse(&machine, 3);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 3, 1);
}

fn lint0_masked() {
    let machine = machine(Eoi::Pic);
    machine.cpu(0).enable_apic();
    machine.cpu(0).apic_write(apic::LVT0, apic::MASKED | 0x700);
    up(&machine, 1);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 1, 0);
    machine.cpu(0).apic_write(apic::LVT0, 0x700);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 1, 1);
}

/// LINT0 of the others is masked at reset.
fn second_vcpu_gets_none() {
    let machine = Machine::new(2);
    machine.handle_all(BASE..BASE + 16, Eoi::Pic);
    initialise(&machine, 1);
    up(&machine, 1);
    machine.cpu(1).nop();
    machine.expect_count(BASE + 1, 0);
    machine.cpu(0).nop();
    machine.expect_count(BASE + 1, 1);
}

/// A guest in real mode: the PIC's interrupts by its vector table, ended by HLT and EOI.
fn real_mode() {
    let guest = Guest::in_vm(
        Vm::with_irqchip(),
        Mode::Real,
        code16!(
            "cli",
            "mov al, 0x11",
            "out 0x20, al",
            "mov al, 8",
            "out 0x21, al",
            "mov al, 4",
            "out 0x21, al",
            "mov al, 1",
            "out 0x21, al",
            "mov al, 0",
            "out 0x21, al",
            "out 0x10, al",
            "2: sti",
            "hlt",
            "cli",
            "mov al, bl",
            "out 0x11, al",
            "jmp 2b"
        ),
    );
    let handler = code16!("inc bx", "mov al, 0x20", "out 0x20, al", "iret");
    guest.load(layout::CODE + 0x200, handler);
    let handler = (layout::CODE as u32) << 12 | 0x200;
    for vector in 8..16 {
        guest.memory.write(4 * vector, handler);
    }
    let out = |port, data: u8| Exit::Out {
        port,
        size: 1,
        data: vec![data],
    };
    let regs = guest.vcpu.regs();
    guest.vcpu.set_regs(&kvm_regs { rbx: 0, ..regs });
    guest.vcpu.expect_exit(out(0x10, 0));
    for (count, irq) in (1..).zip([0, 1, 3, 4, 5, 6, 7]) {
        guest.vm.irq_line(irq, true);
        guest.vcpu.expect_exit(out(0x11, count));
        guest.vm.irq_line(irq, false);
    }
}
