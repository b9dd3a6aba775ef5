// SPDX-License-Identifier: GPL-2.0
//! Interrupts between processors (SDM vol. 3, 12.6 and 12.12.9): who takes what is sent where.

use super::tests;
use crate::devices::*;
use crate::expect;
use crate::machine::{apic, Eoi, Machine};

tests! {
    "ipi":
    physical, physical_absent, broadcast, shorthands, logical_flat, logical_flat_changed,
    logical_cluster, lowest_priority, lowest_priority_of_one, nmi, nmi_while_off, to_one_that_is_off,
    x2apic_physical, x2apic_cluster, x2apic_broadcast, x2apic_shorthands, x2apic_nmi,
    from_x2apic_to_xapic, messages_physical, messages_logical, messages_lowest_priority,
    messages_nmi, many_vectors, ping_pong, register_reads_back, reserved_modes,
}

const VECTOR: u8 = 0x91;
const CPUS: usize = 4;
/// Of the ICR.
const LOGICAL: u32 = 1 << 11;
const LOWEST: u32 = 1 << 8;
const NMI: u32 = 4 << 8;
const SELF: u32 = 1 << 18;
const ALL: u32 = 2 << 18;
const OTHERS: u32 = 3 << 18;
/// Of the DFR.
const CLUSTER: u32 = 0x0fff_ffff;

#[track_caller]
fn machine(eoi: Eoi) -> Machine {
    Machine::with_apics(CPUS, VECTOR, eoi)
}

/// Lets each vCPU run for a moment; those that took something, with what they took.
#[track_caller]
fn taken(machine: &Machine) -> Vec<(usize, Vec<u8>)> {
    let mut taken = Vec::new();
    // What the sender took at once belongs to it.
    for id in 0..machine.vcpus.len() {
        machine.cpu(id).nop();
        let order = machine.order();
        if !order.is_empty() {
            taken.push((id, order));
        }
    }
    taken
}

/// Lets vCPU 0 send by the xAPIC, and expects that `want` take it, once each.
#[track_caller]
fn expect_taken(machine: &Machine, what: &str, destination: u32, icr: u32, want: &[usize]) {
    let vector = if icr & 0x700 == NMI { 2 } else { VECTOR };
    machine.cpu(0).apic_write(apic::ICR2, destination << 24);
    machine
        .cpu(0)
        .apic_write(apic::ICR, icr | u32::from(VECTOR));
    let want: Vec<_> = want.iter().map(|&id| (id, vec![vector])).collect();
    expect::eq(what, taken(machine), want);
}

/// As [`expect_taken`], by the x2APIC.
#[track_caller]
fn expect_taken_x2apic(machine: &Machine, what: &str, destination: u32, icr: u32, want: &[usize]) {
    let vector = if icr & 0x700 == NMI { 2 } else { VECTOR };
    let value = u64::from(destination) << 32 | u64::from(icr | u32::from(VECTOR));
    machine.cpu(0).x2apic_write(apic::ICR, value);
    let want: Vec<_> = want.iter().map(|&id| (id, vec![vector])).collect();
    expect::eq(what, taken(machine), want);
}

fn physical() {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        expect_taken(&machine, &format!("to {id}"), id as u32, 0, &[id]);
    }
}

fn physical_absent() {
    let machine = machine(Eoi::Xapic);
    for id in [CPUS as u32, 0x40, 0xfe] {
        expect_taken(&machine, &format!("to {id}"), id, 0, &[]);
    }
}

fn broadcast() {
    let machine = machine(Eoi::Xapic);
    expect_taken(&machine, "physical", 0xff, 0, &[0, 1, 2, 3]);
    for id in 0..CPUS {
        machine.cpu(id).apic_write(apic::LDR, 1 << (24 + id));
    }
    expect_taken(&machine, "logical", 0xff, LOGICAL, &[0, 1, 2, 3]);
}

fn shorthands() {
    let machine = machine(Eoi::Xapic);
    for destination in [0, 2, 0xff] {
        expect_taken(&machine, "self", destination, SELF, &[0]);
        expect_taken(&machine, "all", destination, ALL, &[0, 1, 2, 3]);
        expect_taken(&machine, "others", destination, OTHERS, &[1, 2, 3]);
    }
}

fn logical_flat() {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        machine.cpu(id).apic_write(apic::LDR, 1 << (24 + id));
    }
    for mask in 0..32u32 {
        let want: Vec<_> = (0..CPUS).filter(|id| mask >> id & 1 != 0).collect();
        expect_taken(&machine, &format!("to {mask:#b}"), mask, LOGICAL, &want);
    }
}

/// The logical ID is what was last written.
fn logical_flat_changed() {
    let machine = machine(Eoi::Xapic);
    for (id, ldr) in [(0, 0x01), (1, 0x80), (2, 0x40), (3, 0x80)] {
        machine.cpu(id).apic_write(apic::LDR, ldr << 24);
    }
    expect_taken(&machine, "to 0x80", 0x80, LOGICAL, &[1, 3]);
    machine.cpu(3).apic_write(apic::LDR, 0x08 << 24);
    expect_taken(&machine, "to 0x80", 0x80, LOGICAL, &[1]);
    expect_taken(&machine, "to 0x48", 0x48, LOGICAL, &[2, 3]);
    machine.cpu(2).apic_write(apic::LDR, 0);
    expect_taken(&machine, "to 0x40", 0x40, LOGICAL, &[]);
}

fn logical_cluster() {
    let machine = machine(Eoi::Xapic);
    for (id, ldr) in [(0, 0x11), (1, 0x12), (2, 0x21), (3, 0x28)] {
        machine.cpu(id).apic_write(apic::DFR, CLUSTER);
        machine.cpu(id).apic_write(apic::LDR, ldr << 24);
    }
    expect_taken(&machine, "to 0x11", 0x11, LOGICAL, &[0]);
    expect_taken(&machine, "to 0x13", 0x13, LOGICAL, &[0, 1]);
    expect_taken(&machine, "to 0x29", 0x29, LOGICAL, &[2, 3]);
    expect_taken(&machine, "to 0x31", 0x31, LOGICAL, &[]);
    expect_taken(&machine, "to 0x24", 0x24, LOGICAL, &[]);
}

/// One of those named takes it.
fn lowest_priority() {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        machine.cpu(id).apic_write(apic::LDR, 1 << (24 + id));
    }
    for mask in [0b1111u32, 0b0110, 0b1001] {
        for _ in 0..4 {
            machine.cpu(0).apic_write(apic::ICR2, mask << 24);
            machine
                .cpu(0)
                .apic_write(apic::ICR, LOGICAL | LOWEST | u32::from(VECTOR));
            let taken = taken(&machine);
            expect::eq(&format!("how many of {mask:#b}"), taken.len(), 1);
            let (id, order) = &taken[0];
            expect::that(&format!("{id} is one of {mask:#b}"), mask >> id & 1 != 0);
            expect::eq("what it took", order, &vec![VECTOR]);
        }
    }
}

fn lowest_priority_of_one() {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        machine.cpu(id).apic_write(apic::LDR, 1 << (24 + id));
    }
    for id in 0..CPUS {
        let what = format!("to {id} alone");
        expect_taken(&machine, &what, 1 << id, LOGICAL | LOWEST, &[id]);
    }
}

fn nmi() {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        expect_taken(&machine, &format!("to {id}"), id as u32, NMI, &[id]);
    }
    expect_taken(&machine, "to others", 0, OTHERS | NMI, &[1, 2, 3]);
    // RFLAGS.IF does not matter.
    machine.cpu(0).apic_write(apic::ICR2, 1 << 24);
    machine.cpu(0).apic_write(apic::ICR, NMI);
    machine.cpu(1).masked().nop();
    expect::eq("taken with IF clear", machine.order(), vec![2]);
}

/// A LAPIC that is off by software still hands on NMIs (SDM vol. 3, 12.4.7.2).
fn nmi_while_off() {
    let machine = machine(Eoi::Xapic);
    machine.cpu(1).apic_write(apic::SPIV, 0xff);
    expect_taken(&machine, "NMI", 1, NMI, &[1]);
}

fn to_one_that_is_off() {
    let machine = machine(Eoi::Xapic);
    machine.cpu(1).apic_write(apic::SPIV, 0xff);
    expect_taken(&machine, "to the one", 1, 0, &[]);
    expect_taken(&machine, "to all", 0xff, 0, &[0, 2, 3]);
    machine.cpu(1).enable_apic();
    expect_taken(&machine, "on again", 1, 0, &[1]);
}

fn x2apic_physical() {
    let machine = machine(Eoi::X2apic);
    for id in 0..CPUS {
        expect_taken_x2apic(&machine, &format!("to {id}"), id as u32, 0, &[id]);
    }
    for id in [CPUS as u32, 0x1_0000, 0xffff_fffe] {
        expect_taken_x2apic(&machine, &format!("to {id:#x}"), id, 0, &[]);
    }
}

/// The logical ID is the cluster (ID / 16) and a bit of 16 in it.
fn x2apic_cluster() {
    let machine = machine(Eoi::X2apic);
    for mask in 0..32u32 {
        let want: Vec<_> = (0..CPUS).filter(|id| mask >> id & 1 != 0).collect();
        expect_taken_x2apic(&machine, &format!("to {mask:#b}"), mask, LOGICAL, &want);
    }
    expect_taken_x2apic(&machine, "to cluster 1", 1 << 16 | 0xf, LOGICAL, &[]);
}

fn x2apic_broadcast() {
    let machine = machine(Eoi::X2apic);
    expect_taken_x2apic(&machine, "physical", u32::MAX, 0, &[0, 1, 2, 3]);
    expect_taken_x2apic(&machine, "logical", u32::MAX, LOGICAL, &[0, 1, 2, 3]);
}

fn x2apic_shorthands() {
    let machine = machine(Eoi::X2apic);
    expect_taken_x2apic(&machine, "self", 2, SELF, &[0]);
    expect_taken_x2apic(&machine, "all", 2, ALL, &[0, 1, 2, 3]);
    expect_taken_x2apic(&machine, "others", 2, OTHERS, &[1, 2, 3]);
    machine.cpu(0).x2apic_write(apic::SELF_IPI, VECTOR.into());
    expect::eq("SELF_IPI", taken(&machine), vec![(0, vec![VECTOR])]);
}

fn x2apic_nmi() {
    let machine = machine(Eoi::X2apic);
    expect_taken_x2apic(&machine, "to 2", 2, NMI, &[2]);
    expect_taken_x2apic(&machine, "to others", 0, OTHERS | NMI, &[1, 2, 3]);
}

/// While a guest moves to x2APIC mode its processors are in both.
fn from_x2apic_to_xapic() {
    let machine = machine(Eoi::Xapic);
    machine.cpu(0).enable_x2apic();
    machine.cpu(2).enable_x2apic();
    machine.handle(VECTOR, Eoi::None);
    for id in 0..CPUS {
        expect_taken_x2apic(&machine, &format!("to {id}"), id as u32, 0, &[id]);
        if id % 2 == 0 {
            machine.cpu(id).x2apic_write(apic::EOI, 0);
        } else {
            machine.cpu(id).apic_write(apic::EOI, 0);
        }
    }
    machine.cpu(1).apic_write(apic::ICR2, 2 << 24);
    machine.cpu(1).apic_write(apic::ICR, VECTOR.into());
    expect::eq("from xAPIC to 2", taken(&machine), vec![(2, vec![VECTOR])]);
}

/// Of a message's address and data (SDM vol. 3, 12.11).
const MSI_LOGICAL: u64 = 1 << 2;
const MSI_REDIRECT: u64 = 1 << 3;

fn messages_physical() {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        let got = machine.vm.signal_msi(msi_address(id as u8), VECTOR.into());
        expect::eq("KVM_SIGNAL_MSI", got, Ok(1));
        expect::eq("taken", taken(&machine), vec![(id, vec![VECTOR])]);
    }
    let got = machine.vm.signal_msi(msi_address(0xff), VECTOR.into());
    expect::eq("KVM_SIGNAL_MSI to all", got, Ok(CPUS as i32));
    expect::eq("how many took it", taken(&machine).len(), CPUS);
}

fn messages_logical() {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        machine.cpu(id).apic_write(apic::LDR, 1 << (24 + id));
    }
    for mask in 1..16u8 {
        let address = msi_address(mask) | MSI_LOGICAL;
        let got = machine.vm.signal_msi(address, VECTOR.into());
        expect::eq("KVM_SIGNAL_MSI", got, Ok(mask.count_ones() as i32));
        let want: Vec<_> = (0..CPUS)
            .filter(|id| mask >> id & 1 != 0)
            .map(|id| (id, vec![VECTOR]))
            .collect();
        expect::eq(&format!("taken of {mask:#b}"), taken(&machine), want);
    }
}

fn messages_lowest_priority() {
    let machine = machine(Eoi::Xapic);
    for id in 0..CPUS {
        machine.cpu(id).apic_write(apic::LDR, 1 << (24 + id));
    }
    for mask in [0b1111u8, 0b1010] {
        for _ in 0..4 {
            let address = msi_address(mask) | MSI_LOGICAL | MSI_REDIRECT;
            let got = machine.vm.signal_msi(address, LOWEST | u32::from(VECTOR));
            expect::eq("KVM_SIGNAL_MSI", got, Ok(1));
            let taken = taken(&machine);
            expect::eq("how many", taken.len(), 1);
            expect::that("one that was named", mask >> taken[0].0 & 1 != 0);
        }
    }
}

fn messages_nmi() {
    let machine = machine(Eoi::Xapic);
    let got = machine.vm.signal_msi(msi_address(3), NMI);
    expect::eq("KVM_SIGNAL_MSI", got, Ok(1));
    expect::eq("taken", taken(&machine), vec![(3, vec![2])]);
}

/// All vectors that an interrupt can have, each taken once, the highest first.
fn many_vectors() {
    let machine = machine(Eoi::Xapic);
    machine.handle_all(32..=255, Eoi::Xapic);
    machine.cpu(0).apic_write(apic::ICR2, 1 << 24);
    for vector in 32..=255 {
        machine.cpu(0).apic_write(apic::ICR, vector);
    }
    machine.cpu(1).nop();
    expect::eq("taken", machine.order(), (32..=255).rev().collect());
}

fn ping_pong() {
    let machine = machine(Eoi::Xapic);
    for round in 0..20u32 {
        let from = (round % 4) as usize;
        let to = (round * 3 + 1) % 4;
        machine.cpu(from).apic_write(apic::ICR2, to << 24);
        machine.cpu(from).apic_write(apic::ICR, VECTOR.into());
        machine.cpu(to as usize).nop();
        machine.expect_count(VECTOR, u64::from(round) + 1);
    }
}

fn register_reads_back() {
    let machine = machine(Eoi::Xapic);
    let cpu = machine.cpu(0);
    cpu.apic_write(apic::ICR2, 0x0312_3456);
    expect::eq("ICR2", cpu.apic_read(apic::ICR2), 0x0300_0000);
    // The delivery status reads 0: it is sent at once.
    cpu.apic_write(apic::ICR, 0x1000 | 0x4000 | u32::from(VECTOR));
    expect::eq("ICR", cpu.apic_read(apic::ICR), 0x4000 | u32::from(VECTOR));
}

/// Delivery modes 3 and 7 mean nothing; nobody is hurt.
fn reserved_modes() {
    let machine = machine(Eoi::Xapic);
    for mode in [3u32, 7] {
        machine.cpu(0).apic_write(apic::ICR2, 1 << 24);
        machine
            .cpu(0)
            .apic_write(apic::ICR, mode << 8 | u32::from(VECTOR));
        expect::eq(&format!("mode {mode}"), taken(&machine), vec![]);
    }
    expect_taken(&machine, "afterwards", 1, 0, &[1]);
}
