// SPDX-License-Identifier: GPL-2.0
//! Stores that become events: KVM_IOEVENTFD (api.rst 4.59).

use kvm_bindings::*;

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::eventfd::Event;
use crate::expect;
use crate::guest::layout;
use crate::machine::Machine;
use crate::request::*;
use crate::sys::Errno;
use crate::vcpu::Exit;
use crate::vm::Vm;
use libc::{EBADF, EEXIST, EFAULT, EINVAL, ENOENT};

tests! {
    "ioeventfd":
    port, port_sizes, memory, memory_sizes, any_length, data_match, data_match_width,
    loads_are_not_events, beside, without_irqchip, shared_by_vcpus, string_output, deassign,
    deassign_unknown, collisions, no_collisions, bad_lengths, bad_flags, bad_ranges,
    bad_descriptors, many, closed_vm,
}

const PORT: u64 = 0x500;

/// `KVM_IOEVENTFD_FLAG_*`.
const MATCH: u32 = 1;
const PIO: u32 = 1 << 1;
const DEASSIGN: u32 = 1 << 2;
const MMIO: u64 = layout::MMIO;

/// KVM_IOEVENTFD.
pub(super) fn ioeventfd(
    vm: &Vm,
    event: &Event,
    addr: u64,
    len: u32,
    flags: u32,
    datamatch: u64,
) -> Result<i32, Errno> {
    vm.set(
        IOEVENTFD,
        &kvm_ioeventfd {
            datamatch,
            addr,
            len,
            fd: event.fd(),
            flags,
            ..kvm_ioeventfd::default()
        },
    )
}

/// Assigns a new eventfd.
#[track_caller]
pub(super) fn assign(vm: &Vm, addr: u64, len: u32, flags: u32, datamatch: u64) -> Event {
    let event = Event::new();
    let got = ioeventfd(vm, &event, addr, len, flags, datamatch);
    expect::ok("KVM_IOEVENTFD", got);
    event
}

/// Code that outputs `size` bytes, and what it looks like as an exit.
fn out_code(size: u8) -> &'static [u8] {
    match size {
        1 => code64!("out dx, al", "nop", "out 0xe9, al"),
        2 => code64!("out dx, ax", "nop", "out 0xe9, al"),
        _ => code64!("out dx, eax", "nop", "out 0xe9, al"),
    }
}

fn store_code(size: u8) -> &'static [u8] {
    match size {
        1 => code64!("mov [rbx], cl", "nop", "out 0xe9, al"),
        2 => code64!("mov [rbx], cx", "nop", "out 0xe9, al"),
        4 => code64!("mov [rbx], ecx", "nop", "out 0xe9, al"),
        _ => code64!("mov [rbx], rcx", "nop", "out 0xe9, al"),
    }
}

/// Outputs; says whether that came to the VMM.
#[track_caller]
pub(super) fn out(machine: &Machine, port: u64, size: u8, value: u64) -> bool {
    machine
        .cpu(0)
        .start(out_code(size), |r| (r.rdx, r.rax) = (port, value));
    finish(
        machine,
        Exit::Out {
            port: port as u16,
            size,
            data: value.to_le_bytes()[..usize::from(size)].to_vec(),
        },
    )
}

/// Stores; says whether that came to the VMM.
#[track_caller]
pub(super) fn store(machine: &Machine, gpa: u64, size: u8, value: u64) -> bool {
    machine
        .cpu(0)
        .start(store_code(size), |r| (r.rbx, r.rcx) = (gpa, value));
    let data = value.to_le_bytes()[..usize::from(size)].to_vec();
    finish(machine, Exit::MmioWrite { gpa, data })
}

#[track_caller]
fn finish(machine: &Machine, as_exit: Exit) -> bool {
    match machine.vcpus[0].run() {
        Ok(Exit::Out { port: 0xe9, .. }) => false,
        Ok(exit) if exit == as_exit => {
            expect::that("the guest goes on", machine.cpu(0).finish().is_ok());
            true
        }
        other => panic!("KVM_RUN: expected the guest's end or {as_exit:x?}, got {other:x?}"),
    }
}

fn port() {
    let machine = Machine::new(1);
    let event = assign(&machine.vm, PORT, 2, PIO, 0);
    for value in [0, 1, 0xffff] {
        expect::eq("exit", out(&machine, PORT, 2, value), false);
        expect::eq("events", event.take(), 1);
    }
    for _ in 0..5 {
        out(&machine, PORT, 2, 7);
    }
    expect::eq("events", event.take(), 5);
}

fn port_sizes() {
    let machine = Machine::new(1);
    for len in [1u8, 2, 4] {
        let at = PORT + 16 * u64::from(len);
        let event = assign(&machine.vm, at, len.into(), PIO, 0);
        for size in [1u8, 2, 4] {
            let what = format!("OUT of {size} with an event of {len}");
            expect::eq(&what, out(&machine, at, size, 1), size != len);
            expect::eq(&what, event.take(), u64::from(size == len));
        }
    }
}

fn memory() {
    let machine = Machine::new(1);
    let event = assign(&machine.vm, MMIO + 0x50, 4, 0, 0);
    for value in [0, 1, 0xffff_ffff] {
        expect::eq("exit", store(&machine, MMIO + 0x50, 4, value), false);
        expect::eq("events", event.take(), 1);
    }
}

fn memory_sizes() {
    let machine = Machine::new(1);
    for len in [1u8, 2, 4, 8] {
        let at = MMIO + 64 * u64::from(len);
        let event = assign(&machine.vm, at, len.into(), 0, 0);
        for size in [1u8, 2, 4, 8] {
            let what = format!("store of {size} with an event of {len}");
            expect::eq(&what, store(&machine, at, size, 1), size != len);
            expect::eq(&what, event.take(), u64::from(size == len));
        }
    }
}

/// Length 0 stands for any.
fn any_length() {
    let machine = Machine::new(1);
    let event = assign(&machine.vm, MMIO + 0x80, 0, 0, 0);
    for size in [1u8, 2, 4, 8] {
        expect::eq("exit", store(&machine, MMIO + 0x80, size, 5), false);
        expect::eq("events", event.take(), 1);
    }
    expect::eq("beside", store(&machine, MMIO + 0x81, 1, 5), true);
    let event = assign(&machine.vm, PORT, 0, PIO, 0);
    for size in [1u8, 2, 4] {
        expect::eq("exit", out(&machine, PORT, size, 5), false);
        expect::eq("events", event.take(), 1);
    }
}

fn data_match() {
    let machine = Machine::new(1);
    let events: Vec<_> = (0..8)
        .map(|value| assign(&machine.vm, PORT, 2, PIO | MATCH, value))
        .collect();
    for value in 0..12 {
        expect::eq("exit", out(&machine, PORT, 2, value), value >= 8);
        for (i, event) in events.iter().enumerate() {
            let want = u64::from(i as u64 == value);
            expect::eq(&format!("events of {i} at {value}"), event.take(), want);
        }
    }
    let event = assign(&machine.vm, MMIO, 8, MATCH, 0x1234_5678_9abc_def0);
    let near = store(&machine, MMIO, 8, 0x1234_5678_9abc_def1);
    expect::eq("exit with another value", near, true);
    let hit = store(&machine, MMIO, 8, 0x1234_5678_9abc_def0);
    expect::eq("exit with the value", hit, false);
    expect::eq("events", event.take(), 1);
}

/// The whole of the number is compared, also where it is wider than the access.
fn data_match_width() {
    let machine = Machine::new(1);
    let event = assign(&machine.vm, PORT, 1, PIO | MATCH, 0x101);
    expect::eq("exit", out(&machine, PORT, 1, 1), true);
    expect::eq("events", event.take(), 0);
}

fn loads_are_not_events() {
    let machine = Machine::new(1);
    let event = assign(&machine.vm, MMIO + 0x40, 4, 0, 0);
    let load = code64!("mov eax, [rbx]", "out 0xe9, al");
    machine.cpu(0).start(load, |r| r.rbx = MMIO + 0x40);
    machine.vcpus[0].expect_exit(Exit::MmioRead {
        gpa: MMIO + 0x40,
        len: 4,
    });
    machine.vcpus[0].answer_mmio(&[1, 2, 3, 4]);
    let regs = machine.cpu(0).finish();
    expect::eq("EAX", regs.map(|r| r.rax), Ok(0x0403_0201));
    let port = assign(&machine.vm, PORT, 1, PIO, 0);
    let input = code64!("in al, dx", "out 0xe9, al");
    machine.cpu(0).start(input, |r| r.rdx = PORT);
    machine.vcpus[0].expect_exit(Exit::In {
        port: PORT as u16,
        size: 1,
        count: 1,
    });
    expect::eq("events", (event.take(), port.take()), (0, 0));
}

fn beside() {
    let machine = Machine::new(1);
    let event = assign(&machine.vm, MMIO + 0x100, 4, 0, 0);
    for offset in [0xfc, 0xff, 0x101, 0x102, 0x104] {
        let exit = store(&machine, MMIO + offset, 4, 1);
        expect::eq(&format!("exit at {offset:#x}"), exit, true);
    }
    expect::eq("events", event.take(), 0);
    let event = assign(&machine.vm, PORT, 2, PIO, 0);
    for port in [PORT - 1, PORT + 1, PORT + 2] {
        expect::eq(
            &format!("exit at port {port:#x}"),
            out(&machine, port, 2, 1),
            true,
        );
    }
    expect::eq("events", event.take(), 0);
}

fn without_irqchip() {
    let machine = Machine::in_vm(Vm::new(), 1);
    let event = assign(&machine.vm, PORT, 1, PIO, 0);
    expect::eq("exit", out(&machine, PORT, 1, 1), false);
    expect::eq("events", event.take(), 1);
}

fn shared_by_vcpus() {
    let machine = Machine::new(3);
    let event = assign(&machine.vm, MMIO, 4, 0, 0);
    for id in 0..3 {
        machine.cpu(id).store(MMIO, 1);
    }
    expect::eq("events", event.take(), 3);
}

/// Each item of a REP OUTS is an access of its own.
fn string_output() {
    let machine = Machine::new(1);
    let event = assign(&machine.vm, PORT, 1, PIO, 0);
    let code = code64!("cld", "rep outsb", "out 0xe9, al");
    let done = machine.cpu(0).operate(code, |r| {
        (r.rdx, r.rcx, r.rsi) = (PORT, 10, layout::DATA);
    });
    expect::eq("RCX", done.map(|r| r.rcx), Ok(0));
    expect::eq("events", event.take(), 10);
}

fn deassign() {
    let machine = Machine::new(1);
    for (at, len, flags, value) in [
        (PORT, 2, PIO, 0),
        (PORT, 2, PIO | MATCH, 9),
        (PORT, 0, PIO, 0),
        (MMIO, 4, 0, 0),
        (MMIO, 4, MATCH, 9),
        (MMIO, 0, 0, 0),
    ] {
        let event = assign(&machine.vm, at, len, flags, value);
        let access = || {
            if flags & PIO != 0 {
                out(&machine, at, 2, 9)
            } else {
                store(&machine, at, 4, 9)
            }
        };
        expect::eq("exit", access(), false);
        expect::eq("events", event.take(), 1);
        let got = ioeventfd(&machine.vm, &event, at, len, flags | DEASSIGN, value);
        expect::ok("KVM_IOEVENTFD_FLAG_DEASSIGN", got);
        expect::eq("exit", access(), true);
        expect::eq("events", event.take(), 0);
    }
}

fn deassign_unknown() {
    let vm = Vm::new();
    let other = Event::new();
    let event = assign(&vm, PORT, 2, PIO | MATCH, 5);
    for (what, event, at, len, flags, value) in [
        ("another eventfd", &other, PORT, 2, PIO | MATCH, 5),
        ("another port", &event, PORT + 1, 2, PIO | MATCH, 5),
        ("another length", &event, PORT, 4, PIO | MATCH, 5),
        ("memory", &event, PORT, 2, MATCH, 5),
        ("without a value", &event, PORT, 2, PIO, 5),
        ("another value", &event, PORT, 2, PIO | MATCH, 6),
    ] {
        let got = ioeventfd(&vm, event, at, len, flags | DEASSIGN, value);
        expect::errno(what, got, ENOENT);
    }
    let flags = PIO | MATCH | DEASSIGN;
    expect::ok("as assigned", ioeventfd(&vm, &event, PORT, 2, flags, 5));
    let got = ioeventfd(&vm, &event, PORT, 2, flags, 5);
    expect::errno("again", got, ENOENT);
}

fn collisions() {
    let vm = Vm::new();
    let event = Event::new();
    let _port = assign(&vm, PORT, 2, PIO, 0);
    let _value = assign(&vm, PORT + 8, 2, PIO | MATCH, 5);
    let _any = assign(&vm, PORT + 16, 0, PIO, 0);
    for (what, at, len, flags, value) in [
        ("the same", PORT, 2, PIO, 0),
        ("a value of it", PORT, 2, PIO | MATCH, 1),
        ("any length of it", PORT, 0, PIO, 0),
        ("the same value", PORT + 8, 2, PIO | MATCH, 5),
        ("any value", PORT + 8, 2, PIO, 0),
        ("a length of any", PORT + 16, 4, PIO, 0),
    ] {
        let got = ioeventfd(&vm, &event, at, len, flags, value);
        expect::errno(what, got, EEXIST);
    }
}

fn no_collisions() {
    let vm = Vm::new();
    let _port = assign(&vm, PORT, 2, PIO, 0);
    let _value = assign(&vm, PORT + 8, 2, PIO | MATCH, 5);
    let _others = [
        assign(&vm, PORT, 4, PIO, 0),
        assign(&vm, PORT, 1, PIO | MATCH, 1),
        assign(&vm, PORT + 1, 2, PIO, 0),
        assign(&vm, PORT + 8, 2, PIO | MATCH, 6),
        assign(&vm, PORT, 2, 0, 0),
    ];
}

fn bad_lengths() {
    let vm = Vm::new();
    let event = Event::new();
    for len in [3, 5, 6, 7, 9, 16, 1 << 31, u32::MAX] {
        for flags in [0, PIO] {
            let got = ioeventfd(&vm, &event, PORT, len, flags, 0);
            expect::errno(&format!("length {len}"), got, EINVAL);
        }
    }
    let got = ioeventfd(&vm, &event, PORT, 0, PIO | MATCH, 1);
    expect::errno("a value of any length", got, EINVAL);
    expect::errno("no memory", vm.fault(IOEVENTFD.number), EFAULT);
}

fn bad_flags() {
    let vm = Vm::new();
    let event = Event::new();
    // Bits 3 and 4 are s390's and the kernel's own.
    for bit in 5..32 {
        let got = ioeventfd(&vm, &event, PORT, 1, 1 << bit, 0);
        expect::errno(&format!("bit {bit}"), got, EINVAL);
    }
}

fn bad_ranges() {
    let vm = Vm::new();
    let event = Event::new();
    for (at, len) in [(u64::MAX, 1), (u64::MAX, 2), (u64::MAX - 6, 8)] {
        let got = ioeventfd(&vm, &event, at, len, 0, 0);
        expect::errno(&format!("{len} bytes at {at:#x}"), got, EINVAL);
    }
    let got = ioeventfd(&vm, &event, u64::MAX - 8, 8, 0, 0);
    expect::ok("the last that do not wrap", got);
}

fn bad_descriptors() {
    let vm = Vm::new();
    let (pipe, _writer) = crate::sys::pipe();
    for flags in [0, DEASSIGN] {
        for (what, fd, want) in [
            ("no descriptor", 9999, EBADF),
            ("descriptor -1", -1, EBADF),
            ("a pipe", std::os::fd::AsRawFd::as_raw_fd(&pipe), EINVAL),
        ] {
            let got = vm.set(
                IOEVENTFD,
                &kvm_ioeventfd {
                    addr: PORT,
                    len: 1,
                    fd,
                    flags: PIO | flags,
                    ..kvm_ioeventfd::default()
                },
            );
            expect::errno(what, got, want);
        }
    }
}

/// A device with many queues.
fn many() {
    let machine = Machine::new(1);
    let events: Vec<_> = (0..128)
        .map(|i| assign(&machine.vm, MMIO + 4 * i, 4, 0, 0))
        .collect();
    for i in (0..128).step_by(5) {
        machine.cpu(0).store(MMIO + 4 * i, 1);
        expect::eq(&format!("events of {i}"), events[i as usize].take(), 1);
    }
    let total: u64 = events.iter().map(Event::take).sum();
    expect::eq("all other events", total, 0);
}

fn closed_vm() {
    let event = Event::new();
    for _ in 0..3 {
        let vm = Vm::new();
        expect::ok("assign", ioeventfd(&vm, &event, MMIO, 4, 0, 0));
    }
    event.signal();
    expect::eq("events", event.take(), 1);
}
