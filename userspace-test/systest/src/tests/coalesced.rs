// SPDX-License-Identifier: GPL-2.0
//! Stores that are collected in a ring: KVM_REGISTER_COALESCED_MMIO (api.rst 4.116), for memory
//! and ports.

use kvm_bindings::KVM_CAP_COALESCED_MMIO;
use libc::{EFAULT, EINVAL, ENOSPC};

use super::ioeventfd::{assign, ioeventfd, out, store};
use super::tests;
use crate::code64;
use crate::devices::*;
use crate::eventfd::Event;
use crate::expect;
use crate::guest::layout;
use crate::machine::Machine;
use crate::memory::PAGE;
use crate::request::*;
use crate::sys::Errno;
use crate::vcpu::Exit;
use crate::vm::{Kvm, Vm};

tests! {
    "coalesced":
    after_events, memory, sizes, port, order,
    full, bad_ring, beside, loads, unregister,
    two_vcpus, errors, many,
}

const PORT: u64 = 0x500;
const PIO: u32 = 1 << 1;
const MMIO: u64 = layout::MMIO;

/// A page of the run page's file: the ring of collected stores.
struct Ring<'a>(&'a Machine);

/// Offset of the ring in the file, in pages, is KVM_CAP_COALESCED_MMIO.
const RING: usize = 2 * PAGE;

/// Entries that the ring can hold at most.
const ROOM: u32 = ((PAGE - 8) / 24) as u32;

/// An entry of the ring: address, length, whether a port, data.
type Entry = (u64, u32, u32, u64);

impl Ring<'_> {
    fn ends(&self) -> (u32, u32) {
        let page = self.0.vcpus[0].run_page();
        (page.read(RING), page.read(RING + 4))
    }

    fn set_ends(&self, first: u32, last: u32) {
        let page = self.0.vcpus[0].run_page();
        page.write(RING, first);
        page.write(RING + 4, last);
    }

    /// Takes all entries.
    fn take(&self) -> Vec<Entry> {
        let page = self.0.vcpus[0].run_page();
        let (mut first, last) = self.ends();
        let mut entries = Vec::new();
        while first != last {
            let at = RING + 8 + 24 * first as usize;
            let len: u32 = page.read(at + 8);
            let mut data = [0; 8];
            data[..len as usize].copy_from_slice(&page.read_bytes(at + 16, len as usize));
            let pio = page.read(at + 12);
            entries.push((page.read(at), len, pio, u64::from_le_bytes(data)));
            first = (first + 1) % ROOM;
        }
        self.set_ends(first, last);
        entries
    }
}

#[track_caller]
fn collect(vm: &Vm, addr: u64, size: u32, pio: u32) {
    let zone = CoalescedZone { addr, size, pio };
    let got = vm.set(REGISTER_COALESCED_MMIO, &zone);
    expect::ok("KVM_REGISTER_COALESCED_MMIO", got);
}

#[track_caller]
fn collect_no_more(vm: &Vm, addr: u64, size: u32, pio: u32) {
    let zone = CoalescedZone { addr, size, pio };
    let got = vm.set(UNREGISTER_COALESCED_MMIO, &zone);
    expect::ok("KVM_UNREGISTER_COALESCED_MMIO", got);
}

/// An event goes before a zone that it lies in, whichever was there first.
fn after_events() {
    let machine = Machine::new(1);
    let event = assign(&machine.vm, MMIO + 8, 4, 0, 0);
    collect(&machine.vm, MMIO + 0x100, 0x100, 0);
    expect::eq("exit", store(&machine, MMIO + 8, 4, 1), false);
    expect::eq("exit", store(&machine, MMIO + 0x108, 4, 1), false);
    expect::eq("events", event.take(), 1);
    expect::eq("collected", Ring(&machine).take().len(), 1);
}

fn memory() {
    let machine = Machine::new(1);
    let told = Kvm::open().extension(KVM_CAP_COALESCED_MMIO);
    expect::eq("page of the ring", told as usize * PAGE, RING);
    collect(&machine.vm, MMIO, 0x1000, 0);
    let ring = Ring(&machine);
    expect::eq("collected at first", ring.take(), vec![]);
    for i in 0..5 {
        expect::eq("exit", store(&machine, MMIO + 8 * i, 4, 100 + i), false);
    }
    let want: Vec<Entry> = (0..5).map(|i| (MMIO + 8 * i, 4, 0, 100 + i)).collect();
    expect::eq("collected", ring.take(), want);
}

fn sizes() {
    let machine = Machine::new(1);
    collect(&machine.vm, MMIO, 0x1000, 0);
    let value = 0x8877_6655_4433_2211;
    for size in [1u8, 2, 4, 8] {
        let exit = store(&machine, MMIO + 0x21, size, value);
        expect::eq("exit", exit, false);
        let data = value & u64::MAX >> (64 - 8 * u32::from(size));
        let want = vec![(MMIO + 0x21, u32::from(size), 0, data)];
        expect::eq("collected", Ring(&machine).take(), want);
    }
}

fn port() {
    let machine = Machine::new(1);
    collect(&machine.vm, PORT, 4, 1);
    for size in [1u8, 2, 4] {
        expect::eq("exit", out(&machine, PORT, size, 0x7766_5544), false);
        let data = 0x7766_5544 & u64::MAX >> (64 - 8 * u32::from(size));
        let want = vec![(PORT, u32::from(size), 1, data)];
        expect::eq("collected", Ring(&machine).take(), want);
    }
    expect::eq("exit behind it", out(&machine, PORT + 4, 1, 1), true);
    expect::eq("exit of memory there", store(&machine, MMIO, 4, 1), true);
}

/// Stores to memory and ports keep their order.
fn order() {
    let machine = Machine::new(1);
    collect(&machine.vm, MMIO, 0x100, 0);
    collect(&machine.vm, PORT, 4, 1);
    let mut want = Vec::new();
    for i in 0..10 {
        store(&machine, MMIO + i, 1, i);
        out(&machine, PORT, 1, i + 100);
        want.push((MMIO + i, 1, 0, i));
        want.push((PORT, 1, 1, i + 100));
    }
    expect::eq("collected", Ring(&machine).take(), want);
}

/// One place stays free; a store that finds no other comes to the VMM.
fn full() {
    let machine = Machine::new(1);
    collect(&machine.vm, MMIO, 0x1000, 0);
    let ring = Ring(&machine);
    ring.set_ends(100, 100);
    for i in 0..u64::from(ROOM) - 1 {
        expect::eq(
            &format!("exit of store {i}"),
            store(&machine, MMIO + i, 1, i),
            false,
        );
    }
    expect::eq("exit of one more", store(&machine, MMIO, 4, 1), true);
    expect::eq("the ends", ring.ends(), (100, 99));
    let entries = ring.take();
    expect::eq("collected", entries.len(), ROOM as usize - 1);
    expect::eq("the last", entries.last(), Some(&(MMIO + 168, 1, 0, 168)));
    expect::eq("exit after that", store(&machine, MMIO, 4, 1), false);
}

/// Ends that the VMM wrote out of range make it get the stores itself.
fn bad_ring() {
    let machine = Machine::new(1);
    collect(&machine.vm, MMIO, 0x1000, 0);
    let ring = Ring(&machine);
    for last in [ROOM, ROOM + 1, 1 << 20, u32::MAX] {
        ring.set_ends(0, last);
        expect::eq("exit", store(&machine, MMIO, 4, 1), true);
        expect::eq("the ends", ring.ends(), (0, last));
    }
    ring.set_ends(u32::MAX, 0);
    expect::eq("exit", store(&machine, MMIO, 4, 1), false);
    ring.set_ends(0, 0);
}

fn beside() {
    let machine = Machine::new(1);
    collect(&machine.vm, MMIO + 0x100, 0x10, 0);
    for (offset, size, exit) in [
        (0xff, 1, true),
        (0xfe, 4, true),
        (0x100, 8, false),
        (0x10f, 1, false),
        (0x10e, 4, true),
        (0x110, 1, true),
    ] {
        let got = store(&machine, MMIO + offset, size, 1);
        expect::eq(&format!("exit of {size} at {offset:#x}"), got, exit);
    }
    expect::eq("collected", Ring(&machine).take().len(), 2);
}

fn loads() {
    let machine = Machine::new(1);
    collect(&machine.vm, MMIO, 0x1000, 0);
    let load = code64!("mov eax, [rbx]", "out 0xe9, al");
    machine.cpu(0).start(load, |r| r.rbx = MMIO);
    machine.vcpus[0].expect_exit(Exit::MmioRead { gpa: MMIO, len: 4 });
    expect::eq("collected", Ring(&machine).take(), vec![]);
}

/// Zones that hold the range named go.
fn unregister() {
    let machine = Machine::new(1);
    collect(&machine.vm, MMIO, 0x100, 0);
    collect(&machine.vm, MMIO + 0x200, 0x100, 0);
    collect_no_more(&machine.vm, MMIO + 0x400, 0x100, 0);
    collect_no_more(&machine.vm, MMIO, 0x100, 1);
    collect_no_more(&machine.vm, MMIO, 0x200, 0);
    expect::eq("exit", store(&machine, MMIO, 4, 1), false);
    collect_no_more(&machine.vm, MMIO + 0x10, 0x10, 0);
    expect::eq("exit", store(&machine, MMIO, 4, 1), true);
    expect::eq("exit", store(&machine, MMIO + 0x200, 4, 1), false);
    collect_no_more(&machine.vm, MMIO + 0x200, 0x100, 0);
    expect::eq("exit", store(&machine, MMIO + 0x200, 4, 1), true);
}

fn two_vcpus() {
    let machine = Machine::new(2);
    collect(&machine.vm, MMIO, 0x100, 0);
    machine.cpu(0).store(MMIO, 1);
    machine.cpu(1).store(MMIO + 4, 2);
    let entries = Ring(&machine).take();
    let want = vec![(MMIO, 4, 0, 1), (MMIO + 4, 4, 0, 2)];
    expect::eq("collected", entries, want);
    let ends: [u32; 2] = machine.vcpus[1].run_page().read(RING);
    expect::eq("the same ring in both", ends, [2, 2]);
}

fn errors() {
    let vm = Vm::new();
    for pio in [2, 3, u32::MAX] {
        let zone = CoalescedZone {
            addr: MMIO,
            size: 16,
            pio,
        };
        expect::errno("register", vm.set(REGISTER_COALESCED_MMIO, &zone), EINVAL);
        let got = vm.set(UNREGISTER_COALESCED_MMIO, &zone);
        expect::errno("unregister", got, EINVAL);
    }
    let number = REGISTER_COALESCED_MMIO.number;
    expect::errno("register without memory", vm.fault(number), EFAULT);
    let number = UNREGISTER_COALESCED_MMIO.number;
    expect::errno("unregister without memory", vm.fault(number), EFAULT);
}

/// A bus has room for 1000 devices.
fn many() {
    let vm = Vm::new();
    let mut zone = CoalescedZone {
        addr: MMIO,
        size: 4,
        pio: 0,
    };
    let mut count = 0;
    let end = loop {
        match vm.set(REGISTER_COALESCED_MMIO, &zone) {
            Ok(_) => count += 1,
            Err(errno) => break errno,
        }
        zone.addr += 4;
        expect::that("an end below 2000", count < 2000);
    };
    expect::eq("the end", end, Errno(ENOSPC));
    expect::that(
        &format!("about 1000 ({count})"),
        (900..=1000).contains(&count),
    );
    let event = Event::new();
    let got = ioeventfd(&vm, &event, layout::MMIO - 4, 4, 0, 0);
    expect::errno("an event on a full bus", got, ENOSPC);
    let _port = assign(&vm, PORT, 1, PIO, 0);
}
