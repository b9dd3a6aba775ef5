// SPDX-License-Identifier: GPL-2.0
//! Interrupts from the VMM: KVM_INTERRUPT (api.rst 4.16), the interrupt window, KVM_NMI (4.64),
//! CR8, and what KVM_GET/SET_VCPU_EVENTS (4.31, 4.32) tell of them.

use kvm_bindings::*;
use libc::{EFAULT, EINVAL};

use super::regs::{get_faults, set_faults};
use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, Guest};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::vcpu::Exit;

tests! {
    "interrupts":
    taken, every_vector, wakes_from_halt, errors, flags_of_the_run_page, window,
    window_after_sti_shadow, window_open_at_once, window_then_interrupt, in_events_and_sregs,
    by_sregs, by_events, delivery_through_fresh_memory, nmi_from_halt, nmi_while_masked, nmi_without_if,
    nmi_masked_by_events, nmi_by_events, nmi_and_interrupt, shadow_by_events, exception_by_events,
    events_at_first, events_bad_values, events_errors, cr8_of_the_run_page, cr8_lowered,
    many_interrupts(60),
}

const VECTOR: u32 = 0x40;
/// Where the handlers count.
const COUNT: u64 = layout::DATA;

/// A 64-bit guest running `code`, whose handler of `vector` counts at [`COUNT`].
#[track_caller]
fn counting(vector: u8, code: &[u8]) -> Guest {
    let guest = Guest::long(code);
    let handler = code64!("inc qword ptr [{count}]", "iretq"; count = const COUNT);
    guest.load(layout::CODE2, handler);
    guest.set_handler(vector, layout::CODE2);
    guest
}

/// A guest that halts again and again.
#[track_caller]
fn halting(vector: u8) -> Guest {
    counting(vector, code64!("2: hlt", "jmp 2b"))
}

#[track_caller]
fn set_if(guest: &Guest, on: bool) {
    let rflags = if on {
        bits::RFLAGS_FIXED | bits::RFLAGS_IF
    } else {
        bits::RFLAGS_FIXED
    };
    guest.vcpu.set_regs(&kvm_regs {
        rflags,
        ..guest.vcpu.regs()
    });
}

#[track_caller]
fn expect_count(guest: &Guest, want: u64) {
    expect::eq("times the handler ran", guest.peek(COUNT), want);
}

#[track_caller]
fn interrupt(guest: &Guest, vector: u32) {
    expect::ok("KVM_INTERRUPT", guest.vcpu.interrupt(vector));
}

#[track_caller]
fn nmi(guest: &Guest) {
    expect::ok("KVM_NMI", guest.vcpu.call(NMI, 0));
}

#[track_caller]
fn set_events(guest: &Guest, events: &kvm_vcpu_events) {
    expect::ok(
        "KVM_SET_VCPU_EVENTS",
        guest.vcpu.set(SET_VCPU_EVENTS, events),
    );
}

fn taken() {
    let guest = halting(VECTOR as u8);
    guest.run_to_halt();
    expect_count(&guest, 0);
    for count in 1..=5 {
        interrupt(&guest, VECTOR);
        guest.run_to_halt();
        expect_count(&guest, count);
    }
    expect::eq("RSP", guest.vcpu.regs().rsp, layout::STACK);
}

fn every_vector() {
    let guest = halting(32);
    for vector in 32..=255 {
        guest.set_handler(vector, layout::CODE2);
        interrupt(&guest, vector.into());
        guest.run_to_halt();
        expect_count(&guest, u64::from(vector) - 31);
    }
}

fn wakes_from_halt() {
    let guest = counting(VECTOR as u8, code64!("hlt", "mov rbx, 5", "hlt"));
    guest.run_to_halt();
    interrupt(&guest, VECTOR);
    guest.run_to_halt();
    expect_count(&guest, 1);
    expect::eq("RBX", guest.vcpu.regs().rbx, 5);
}

fn errors() {
    let guest = halting(VECTOR as u8);
    expect::errno("vector 256", guest.vcpu.interrupt(256), EINVAL);
    expect::errno("vector -1", guest.vcpu.interrupt(u32::MAX), EINVAL);
    expect::errno("no memory", guest.vcpu.fault(INTERRUPT.number), EFAULT);
    guest.run_to_halt();
    expect_count(&guest, 0);
}

fn flags_of_the_run_page() {
    let guest = counting(
        VECTOR as u8,
        code64!("cli", "out 0x10, al", "sti", "nop", "out 0x10, al", "hlt"),
    );
    guest.vcpu.expect_exit(Exit::Out {
        port: 0x10,
        size: 1,
        data: vec![0],
    });
    expect::eq("if_flag after CLI", guest.vcpu.if_flag(), false);
    expect::eq("ready after CLI", guest.vcpu.ready_for_interrupt(), false);
    guest.vcpu.expect_exit(Exit::Out {
        port: 0x10,
        size: 1,
        data: vec![0],
    });
    expect::eq("if_flag after STI", guest.vcpu.if_flag(), true);
    expect::eq("ready after STI", guest.vcpu.ready_for_interrupt(), true);
    let apic_base = guest.vcpu.sregs().apic_base;
    expect::eq("apic_base", guest.vcpu.apic_base(), apic_base);
    interrupt(&guest, VECTOR);
    guest.vcpu.set_immediate_exit(true);
    expect::errno("KVM_RUN", guest.vcpu.run(), libc::EINTR);
    expect::eq(
        "ready with one queued",
        guest.vcpu.ready_for_interrupt(),
        false,
    );
}

fn window() {
    let guest = counting(
        VECTOR as u8,
        code64!(
            "cli",
            "mov ecx, 1000",
            "2: loop 2b",
            "sti",
            "3: inc rax",
            "jmp 3b"
        ),
    );
    guest.vcpu.request_interrupt_window(true);
    set_if(&guest, false);
    guest.vcpu.expect_exit(Exit::IrqWindowOpen);
    expect::eq("RCX: CLI held it back", guest.vcpu.regs().rcx, 0);
    expect::eq("if_flag", guest.vcpu.if_flag(), true);
    expect::eq("ready", guest.vcpu.ready_for_interrupt(), true);
}

/// The window opens behind the instruction that follows STI (SDM vol. 2, STI).
fn window_after_sti_shadow() {
    let guest = Guest::long(code64!("sti", "inc rax", "inc rbx", "2: jmp 2b"));
    set_if(&guest, false);
    let regs = guest.vcpu.regs();
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0,
        rbx: 0,
        ..regs
    });
    guest.vcpu.request_interrupt_window(true);
    guest.vcpu.expect_exit(Exit::IrqWindowOpen);
    let regs = guest.vcpu.regs();
    expect::eq("RAX and RBX", (regs.rax, regs.rbx), (1, 0));
    expect::eq("RIP", regs.rip, layout::CODE + 4);
}

fn window_open_at_once() {
    let guest = Guest::long(code64!("2: inc rax", "jmp 2b"));
    guest.vcpu.request_interrupt_window(true);
    guest.vcpu.expect_exit(Exit::IrqWindowOpen);
    guest.vcpu.expect_exit(Exit::IrqWindowOpen);
}

/// A VMM's whole round: ask for the window, get it, interrupt, go on without it.
fn window_then_interrupt() {
    let code = code64!(
        "cli",
        "out 0x10, al",
        "sti",
        "nop",
        "nop",
        "2: hlt",
        "jmp 2b"
    );
    let guest = counting(VECTOR as u8, code);
    guest.vcpu.expect_exit(Exit::Out {
        port: 0x10,
        size: 1,
        data: vec![0],
    });
    guest.vcpu.request_interrupt_window(true);
    guest.vcpu.expect_exit(Exit::IrqWindowOpen);
    expect_count(&guest, 0);
    guest.vcpu.request_interrupt_window(false);
    interrupt(&guest, VECTOR);
    guest.run_to_halt();
    expect_count(&guest, 1);
}

fn in_events_and_sregs() {
    let guest = halting(VECTOR as u8);
    interrupt(&guest, VECTOR);
    let events = guest.vcpu.events();
    let told = (events.interrupt.injected, u32::from(events.interrupt.nr));
    expect::eq("events", told, (1, VECTOR));
    expect::eq("bitmap", guest.vcpu.sregs().interrupt_bitmap, [0, 1, 0, 0]);
    guest.run_to_halt();
    expect_count(&guest, 1);
    expect::eq(
        "events after delivery",
        guest.vcpu.events().interrupt.injected,
        0,
    );
    expect::eq(
        "bitmap after delivery",
        guest.vcpu.sregs().interrupt_bitmap,
        [0; 4],
    );
}

fn by_sregs() {
    let guest = halting(VECTOR as u8);
    let mut sregs = guest.vcpu.sregs();
    sregs.interrupt_bitmap[VECTOR as usize / 64] = 1 << (VECTOR % 64);
    guest.vcpu.set_sregs(&sregs);
    guest.run_to_halt();
    expect_count(&guest, 1);
}

fn by_events() {
    let guest = halting(VECTOR as u8);
    let mut events = guest.vcpu.events();
    events.interrupt.injected = 1;
    events.interrupt.nr = VECTOR as u8;
    set_events(&guest, &events);
    guest.run_to_halt();
    expect_count(&guest, 1);
    interrupt(&guest, VECTOR);
    events.interrupt.injected = 0;
    set_events(&guest, &events);
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect_count(&guest, 1);
}

/// The IDT, the stack and the handler are pages that the guest has not touched yet: delivery is
/// interrupted by the hypervisor's own page faults and must be taken up again, once.
fn delivery_through_fresh_memory() {
    let fresh = Mapping::anonymous(16 * PAGE);
    let guest = halting(VECTOR as u8);
    guest.vm.add_memory(1, layout::EXTRA, &fresh);
    let tables = guest.memory.read::<[u8; PAGE]>(layout::IDT as usize);
    let handler = guest.memory.read::<[u8; 64]>(layout::CODE2 as usize);
    fresh.write(0, tables);
    fresh.write(4 * PAGE, handler);
    for (vector, kind) in [(VECTOR, "interrupt"), (2, "NMI")] {
        let at = vector as usize * 16;
        let low: u64 = guest
            .memory
            .read(layout::IDT as usize + VECTOR as usize * 16);
        let target = layout::EXTRA + 4 * PAGE as u64;
        let gate = low & 0x0000_ffff_ffff_0000 | target & 0xffff | ((target & 0xffff_0000) << 32);
        fresh.write(at, gate);
        fresh.write(at + 8, target >> 32);
        let mut sregs = guest.vcpu.sregs();
        sregs.idt.base = layout::EXTRA;
        guest.vcpu.set_sregs(&sregs);
        let rsp = layout::EXTRA + 8 * PAGE as u64;
        guest.vcpu.set_regs(&kvm_regs {
            rsp,
            rip: layout::CODE,
            ..guest.vcpu.regs()
        });
        let before = guest.peek(COUNT);
        if vector == 2 {
            nmi(&guest);
        } else {
            interrupt(&guest, vector);
        }
        guest.run_to_halt();
        expect::eq(kind, guest.peek(COUNT), before + 1);
        expect::eq("RSP", guest.vcpu.regs().rsp, rsp);
        // The next round meets the same pages as if for the first time.
        let forget = Mapping::anonymous(16 * PAGE);
        forget.write(0, fresh.read::<[u8; PAGE]>(0));
        forget.write(4 * PAGE, fresh.read::<[u8; PAGE]>(4 * PAGE));
        expect::ok("madvise", fresh.advise(0, fresh.len(), libc::MADV_DONTNEED));
        fresh.write(0, forget.read::<[u8; PAGE]>(0));
        fresh.write(4 * PAGE, forget.read::<[u8; PAGE]>(4 * PAGE));
    }
}

fn nmi_is_taken(guest: &Guest) {
    for count in 1..=3 {
        nmi(guest);
        guest.run_to_halt();
        expect_count(guest, count);
    }
}

fn nmi_from_halt() {
    nmi_is_taken(&halting(2));
}

fn nmi_without_if() {
    let guest = halting(2);
    set_if(&guest, false);
    nmi_is_taken(&guest);
}

/// In its handler a further NMI waits for IRET, and no more than one does.
fn nmi_while_masked() {
    let guest = halting(2);
    let handler = code64!(
        "inc qword ptr [{count}]",
        "out 0x10, al",
        "nop",
        "out 0x11, al",
        "iretq";
        count = const COUNT
    );
    guest.load(layout::CODE2, handler);
    let out = |port| Exit::Out {
        port,
        size: 1,
        data: vec![0],
    };
    expect::eq("NMI masked before", guest.vcpu.events().nmi.masked, 0);
    nmi(&guest);
    guest.vcpu.expect_exit(out(0x10));
    expect_count(&guest, 1);
    expect::eq(
        "NMI masked in its handler",
        guest.vcpu.events().nmi.masked,
        1,
    );
    for _ in 0..3 {
        nmi(&guest);
    }
    guest.vcpu.expect_exit(out(0x11));
    expect_count(&guest, 1);
    expect::ne("NMIs pending", guest.vcpu.events().nmi.pending, 0);
    guest.vcpu.expect_exit(out(0x10));
    expect_count(&guest, 2);
    guest.vcpu.expect_exit(out(0x11));
    guest.run_to_halt();
    expect_count(&guest, 2);
    expect::eq("NMI masked afterwards", guest.vcpu.events().nmi.masked, 0);
}

fn nmi_masked_by_events() {
    let guest = halting(2);
    let mut events = guest.vcpu.events();
    events.nmi.masked = 1;
    set_events(&guest, &events);
    expect::eq("masked", guest.vcpu.events().nmi.masked, 1);
    nmi(&guest);
    guest.run_to_halt();
    expect_count(&guest, 0);
    let mut events = guest.vcpu.events();
    expect::eq("pending", events.nmi.pending, 1);
    events.nmi.masked = 0;
    set_events(&guest, &events);
    guest.run_to_halt();
    expect_count(&guest, 1);
}

fn nmi_by_events() {
    let guest = halting(2);
    let mut events = guest.vcpu.events();
    events.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;
    events.nmi.pending = 1;
    set_events(&guest, &events);
    guest.run_to_halt();
    expect_count(&guest, 1);
    events.flags = 0;
    set_events(&guest, &events);
    guest.run_to_halt();
    expect_count(&guest, 1);
}

fn nmi_and_interrupt() {
    let guest = halting(2);
    guest.set_handler(VECTOR as u8, layout::CODE2);
    nmi(&guest);
    interrupt(&guest, VECTOR);
    guest.run_to_halt();
    expect_count(&guest, 2);
}

fn shadow_by_events() {
    let guest = Guest::long(&[]);
    for shadow in [KVM_X86_SHADOW_INT_STI, KVM_X86_SHADOW_INT_MOV_SS] {
        let mut events = guest.vcpu.events();
        events.flags = KVM_VCPUEVENT_VALID_SHADOW;
        events.interrupt.shadow = shadow as u8;
        set_events(&guest, &events);
        expect::eq(
            "shadow",
            u32::from(guest.vcpu.events().interrupt.shadow),
            shadow,
        );
        events.flags = 0;
        events.interrupt.shadow = 0;
        set_events(&guest, &events);
        let kept = guest.vcpu.events().interrupt.shadow;
        expect::eq("shadow, set without its flag", u32::from(kept), shadow);
    }
}

fn exception_by_events() {
    let guest = Guest::long(code64!("hlt"));
    for (nr, error) in [(13, Some(0x1234)), (6, None), (14, Some(2)), (17, Some(0))] {
        guest.enter(crate::guest::Mode::Long);
        let mut events = guest.vcpu.events();
        events.exception.injected = 1;
        events.exception.nr = nr;
        events.exception.has_error_code = error.is_some().into();
        events.exception.error_code = error.unwrap_or(0);
        set_events(&guest, &events);
        let told = guest.vcpu.events().exception;
        expect::eq("events", (told.injected, told.nr), (1, nr));
        let trap = guest.run_to_trap();
        let got = (trap.vector, trap.error, trap.rip);
        expect::eq(
            "exception",
            got,
            (nr.into(), error.unwrap_or(0).into(), layout::CODE),
        );
        expect::eq(
            "events after delivery",
            guest.vcpu.events().exception.injected,
            0,
        );
    }
}

fn events_at_first() {
    let guest = Guest::long(&[]);
    let events = guest.vcpu.events();
    let none = (
        events.exception.injected,
        events.interrupt.injected,
        events.nmi.injected,
    );
    expect::eq("injected", none, (0, 0, 0));
    expect::eq("NMI", (events.nmi.pending, events.nmi.masked), (0, 0));
    expect::eq("shadow", events.interrupt.shadow, 0);
    let flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    expect::eq("flags", events.flags & flags, flags);
    let no_flags = KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    expect::eq(
        "flags of capabilities not enabled",
        events.flags & no_flags,
        0,
    );
}

fn events_bad_values() {
    let guest = Guest::long(&[]);
    let refused = |what: &str, change: &dyn Fn(&mut kvm_vcpu_events)| {
        let mut events = guest.vcpu.events();
        change(&mut events);
        expect::errno(what, guest.vcpu.set(SET_VCPU_EVENTS, &events), EINVAL);
    };
    for bit in 6..32 {
        refused(&format!("flags bit {bit}"), &|e| e.flags |= 1 << bit);
    }
    refused("payload, not enabled", &|e| {
        e.flags |= KVM_VCPUEVENT_VALID_PAYLOAD
    });
    refused("triple fault, not enabled", &|e| {
        e.flags |= KVM_VCPUEVENT_VALID_TRIPLE_FAULT
    });
    refused("exception 32", &|e| {
        (e.exception.injected, e.exception.nr) = (1, 32)
    });
    refused("exception 2", &|e| {
        (e.exception.injected, e.exception.nr) = (1, 2)
    });
    refused("exception 255", &|e| {
        (e.exception.injected, e.exception.nr) = (1, 255)
    });
    let mut events = guest.vcpu.events();
    events.exception.nr = 77;
    set_events(&guest, &events);
}

fn events_errors() {
    let guest = Guest::long(&[]);
    get_faults(&guest.vcpu, GET_VCPU_EVENTS.number);
    set_faults(&guest.vcpu, SET_VCPU_EVENTS.number);
}

fn cr8_of_the_run_page() {
    let guest = Guest::long(code64!("mov rax, cr8", "mov rbx, 9", "mov cr8, rbx", "hlt"));
    guest.vcpu.set_cr8(4);
    guest.run_to_halt();
    expect::eq("CR8 in the guest", guest.vcpu.regs().rax, 4);
    expect::eq("CR8 in the run page", guest.vcpu.cr8(), 9);
    expect::eq("CR8 by KVM_GET_SREGS", guest.vcpu.sregs().cr8, 9);
    guest.vcpu.set_cr8(16);
    expect::errno("CR8 of 16", guest.vcpu.run(), EINVAL);
}

/// A VMM with the interrupt controller is told when the guest lowers its priority.
fn cr8_lowered() {
    let guest = Guest::long(code64!(
        "mov eax, 7",
        "mov cr8, rax",
        "mov eax, 8",
        "mov cr8, rax",
        "mov eax, 3",
        "mov cr8, rax",
        "hlt"
    ));
    guest.vcpu.expect_exit(Exit::Other(KVM_EXIT_SET_TPR));
    expect::eq("CR8", guest.vcpu.cr8(), 3);
    guest.run_to_halt();
}

/// Thousands of interrupts while the guest runs: each is taken once.
fn many_interrupts() {
    let code = code64!("2: inc rbx", "out 0x10, al", "jmp 2b");
    let guest = counting(VECTOR as u8, code);
    for round in 1..=1000 {
        guest.vcpu.expect_exit(Exit::Out {
            port: 0x10,
            size: 1,
            data: vec![0],
        });
        if !guest.vcpu.ready_for_interrupt() {
            guest.vcpu.request_interrupt_window(true);
            guest.vcpu.expect_exit(Exit::IrqWindowOpen);
            guest.vcpu.request_interrupt_window(false);
        }
        interrupt(&guest, VECTOR);
        if round % 16 == 0 {
            guest.vcpu.expect_exit(Exit::Out {
                port: 0x10,
                size: 1,
                data: vec![0],
            });
            expect_count(&guest, round);
        }
    }
}
