// SPDX-License-Identifier: GPL-2.0
//! KVM_SET_GUEST_DEBUG (api.rst 4.87): single steps and breakpoints of the VMM's own.

use kvm_bindings::*;
use libc::{EBUSY, EFAULT};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{layout, Guest};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys::Errno;
use crate::vcpu::Exit;

tests! {
    "debug":
    single_step, single_step_over_emulated, single_step_ends, software_breakpoint,
    software_breakpoint_not_asked_for, hardware_breakpoint, watchpoint, io_continues,
    guest_registers_hidden, enable_alone, inject_breakpoint, inject_debug, inject_busy, errors,
}

const DB: u32 = 1;
const BP: u32 = 3;

fn set(guest: &Guest, control: u32, debugreg: [u64; 8]) -> Result<i32, Errno> {
    let arch = kvm_guest_debug_arch { debugreg };
    guest.vcpu.set(
        SET_GUEST_DEBUG,
        &kvm_guest_debug {
            control,
            pad: 0,
            arch,
        },
    )
}

#[track_caller]
fn debug(guest: &Guest, control: u32) {
    let control = if control == 0 {
        0
    } else {
        control | KVM_GUESTDBG_ENABLE
    };
    expect::ok("KVM_SET_GUEST_DEBUG", set(guest, control, [0; 8]));
}

/// Runs to a debug exit: its PC and DR6.
#[track_caller]
fn run_to_debug(guest: &Guest, want_exception: u32) -> (u64, u64) {
    match guest.vcpu.run() {
        Ok(Exit::Debug {
            exception, pc, dr6, ..
        }) => {
            expect::eq("exception", exception, want_exception);
            (pc, dr6)
        }
        other => panic!("KVM_RUN: expected KVM_EXIT_DEBUG, got {other:x?}"),
    }
}

fn single_step() {
    let guest = Guest::long(code64!("mov eax, 1", "inc rax", "nop", "push rax", "hlt"));
    debug(&guest, KVM_GUESTDBG_SINGLESTEP);
    for offset in [5, 8, 9, 10] {
        let (pc, dr6) = run_to_debug(&guest, DB);
        expect::eq("PC", pc, layout::CODE + offset);
        expect::eq("DR6.BS", (dr6 >> 14) & 1, 1);
        expect::eq("RIP", guest.vcpu.regs().rip, pc);
        expect::eq(
            "RFLAGS.TF is not the guest's",
            (guest.vcpu.regs().rflags >> 8) & 1,
            0,
        );
    }
    expect::eq("RAX", guest.vcpu.regs().rax, 2);
}

/// Instructions that the hypervisor does are steps as any other.
fn single_step_over_emulated() {
    let guest = Guest::long(code64!("mov eax, 0", "cpuid", "mov rbx, cr0", "nop", "hlt"));
    debug(&guest, KVM_GUESTDBG_SINGLESTEP);
    for offset in [5, 7, 10, 11] {
        let (pc, _) = run_to_debug(&guest, DB);
        expect::eq("PC", pc, layout::CODE + offset);
    }
}

fn single_step_ends() {
    let guest = Guest::long(code64!("nop", "nop", "pushfq", "pop rax", "hlt"));
    debug(&guest, KVM_GUESTDBG_SINGLESTEP);
    run_to_debug(&guest, DB);
    debug(&guest, 0);
    guest.run_to_halt();
    expect::eq(
        "RFLAGS.TF in the guest",
        (guest.vcpu.regs().rax >> 8) & 1,
        0,
    );
}

fn software_breakpoint() {
    let guest = Guest::long(code64!("nop", "int3", "mov eax, 4", "hlt"));
    debug(&guest, KVM_GUESTDBG_USE_SW_BP);
    let (pc, _) = run_to_debug(&guest, BP);
    expect::eq("PC at INT3", pc, layout::CODE + 1);
    expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE + 1);
    // A debugger puts the instruction back that the breakpoint stands for.
    guest.load(layout::CODE + 1, &[0x90]);
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 4);
}

fn software_breakpoint_not_asked_for() {
    for control in [0, KVM_GUESTDBG_USE_HW_BP] {
        let guest = Guest::long(code64!("int3"));
        debug(&guest, control);
        let trap = guest.run_to_trap();
        expect::eq(
            "#BP is the guest's",
            (trap.vector, trap.rip),
            (3, layout::CODE + 1),
        );
    }
}

fn hardware_breakpoint() {
    let guest = Guest::long(code64!("nop", "nop", "mov eax, 6", "hlt"));
    let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    for register in 0..4usize {
        guest.vcpu.set_regs(&kvm_regs {
            rip: layout::CODE,
            ..guest.vcpu.regs()
        });
        let mut registers = [0; 8];
        registers[register] = layout::CODE + 1;
        registers[7] = 0x400 | (2 << (2 * register));
        expect::ok("KVM_SET_GUEST_DEBUG", set(&guest, control, registers));
        let (pc, dr6) = run_to_debug(&guest, DB);
        expect::eq("PC", pc, layout::CODE + 1);
        expect::eq("DR6", dr6 & 0xf, 1 << register);
    }
    debug(&guest, 0);
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 6);
}

fn watchpoint() {
    let guest = Guest::long(code64!(
        "mov eax, 7",
        "mov [{data} + 8], rax",
        "mov rcx, [{data}]",
        "mov [{data}], rax",
        "hlt";
        data = const layout::DATA
    ));
    let mut registers = [0; 8];
    registers[0] = layout::DATA;
    // DR0 enabled, on writes of 8 bytes.
    registers[7] = 0x400 | 2 | (1 << 16) | (2 << 18);
    let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    expect::ok("KVM_SET_GUEST_DEBUG", set(&guest, control, registers));
    let (pc, dr6) = run_to_debug(&guest, DB);
    expect::eq("PC behind the store", pc, layout::CODE + 5 + 8 + 8 + 8);
    expect::eq("DR6.B0", dr6 & 0xf, 1);
    expect::eq("the store is done", guest.peek(layout::DATA), 7);
    guest.run_to_halt();
}

fn io_continues() {
    let guest = Guest::long(code64!("out 0x10, al", "in al, 0x11", "hlt"));
    debug(&guest, KVM_GUESTDBG_USE_HW_BP);
    guest.vcpu.expect_exit(Exit::Out {
        port: 0x10,
        size: 1,
        data: vec![0],
    });
    guest.vcpu.expect_exit(Exit::In {
        port: 0x11,
        size: 1,
        count: 1,
    });
    guest.vcpu.answer_io(&[3]);
    guest.run_to_halt();
    expect::eq("AL", guest.vcpu.regs().rax & 0xff, 3);
}

/// The VMM's breakpoints do not show in the guest's own debug registers.
fn guest_registers_hidden() {
    let guest = Guest::long(code64!("hlt"));
    let own = kvm_debugregs {
        db: [1, 2, 3, 4],
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        ..Default::default()
    };
    expect::ok("KVM_SET_DEBUGREGS", guest.vcpu.set(SET_DEBUGREGS, &own));
    let mut registers = [0x7777; 8];
    registers[7] = 0x400;
    let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    expect::ok("KVM_SET_GUEST_DEBUG", set(&guest, control, registers));
    guest.run_to_halt();
    let got = expect::ok("KVM_GET_DEBUGREGS", guest.vcpu.get(GET_DEBUGREGS));
    expect::eq("the guest's own", (got.db, got.dr7), ([1, 2, 3, 4], 0x400));
}

fn enable_alone() {
    let guest = Guest::long(code64!("nop", "hlt"));
    expect::ok(
        "KVM_SET_GUEST_DEBUG",
        set(&guest, KVM_GUESTDBG_ENABLE, [0; 8]),
    );
    guest.run_to_halt();
    // Without ENABLE the other bits mean nothing.
    expect::ok(
        "KVM_SET_GUEST_DEBUG",
        set(&guest, KVM_GUESTDBG_SINGLESTEP, [0; 8]),
    );
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
}

/// An INT3 that is not the debugger's goes to the guest after all.
fn inject_breakpoint() {
    let guest = Guest::long(code64!("nop", "int3", "hlt"));
    debug(&guest, KVM_GUESTDBG_USE_SW_BP);
    run_to_debug(&guest, BP);
    let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_BP;
    expect::ok("KVM_SET_GUEST_DEBUG", set(&guest, control, [0; 8]));
    let trap = guest.run_to_trap();
    expect::eq(
        "#BP in the guest",
        (trap.vector, trap.rip),
        (3, layout::CODE + 2),
    );
}

fn inject_debug() {
    let guest = Guest::long(code64!("nop", "hlt"));
    let control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB;
    expect::ok("KVM_SET_GUEST_DEBUG", set(&guest, control, [0; 8]));
    let trap = guest.run_to_trap();
    expect::eq(
        "#DB in the guest",
        (trap.vector, trap.rip),
        (1, layout::CODE),
    );
}

fn inject_busy() {
    let guest = Guest::long(code64!("nop", "hlt"));
    let mut events = guest.vcpu.events();
    (events.exception.injected, events.exception.nr) = (1, 6);
    expect::ok(
        "KVM_SET_VCPU_EVENTS",
        guest.vcpu.set(SET_VCPU_EVENTS, &events),
    );
    for what in [KVM_GUESTDBG_INJECT_BP, KVM_GUESTDBG_INJECT_DB] {
        let got = set(&guest, KVM_GUESTDBG_ENABLE | what, [0; 8]);
        expect::errno("with an exception under way", got, EBUSY);
    }
    let trap = guest.run_to_trap();
    expect::eq("the exception under way", trap.vector, 6);
}

fn errors() {
    let guest = Guest::long(&[]);
    let number = SET_GUEST_DEBUG.number;
    expect::errno("no memory", guest.vcpu.fault(number), EFAULT);
    let page = Mapping::guarded(PAGE);
    expect::errno("half of it", guest.vcpu.at(number, &page, PAGE - 8), EFAULT);
}
