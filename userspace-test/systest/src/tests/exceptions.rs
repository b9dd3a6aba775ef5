// SPDX-License-Identifier: GPL-2.0
//! Exceptions that belong to the guest: they go to its own handlers, without an exit.

use kvm_bindings::kvm_regs;

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, selector, Guest, Mode, Trap};
use crate::memory::{Mapping, PAGE};
use crate::request::{KvmFd, GET_DEBUGREGS};
use crate::vcpu::Exit;

tests! {
    "exceptions":
    undefined, divide, breakpoint, software_interrupt, software_interrupt_from_ring3, general_protection, privileged_in_ring3,
    page_fault_read, page_fault_write, page_fault_user, page_fault_fetch, page_fault_reserved,
    page_fault_resolved, segment_not_present, stack_segment, double_fault, triple_fault_by_handler,
    single_step_of_its_own, breakpoint_of_its_own, alignment_check, not_canonical,
    through_fresh_memory, iret_to_bad_place,
}

/// A page that the tests unmap in the guest's tables, 4 KiB pages around it.
const HOLE: u64 = layout::EXTRA;

#[track_caller]
fn trap(code: &[u8]) -> (Guest, Trap) {
    let guest = Guest::long(code);
    let trap = guest.run_to_trap();
    (guest, trap)
}

fn undefined() {
    let (_, trap) = trap(code64!("nop", "ud2"));
    expect::eq(
        "#UD",
        (trap.vector, trap.error, trap.rip),
        (6, 0, layout::CODE + 1),
    );
    expect::eq("CS", trap.cs, selector::CODE64.into());
    expect::eq("RSP", trap.rsp, layout::STACK);
}

fn divide() {
    let (_, trap) = trap(code64!("xor ecx, ecx", "div ecx"));
    expect::eq("#DE", (trap.vector, trap.rip), (0, layout::CODE + 2));
}

fn breakpoint() {
    let (_, trap) = trap(code64!("int3"));
    expect::eq(
        "#BP behind INT3",
        (trap.vector, trap.rip),
        (3, layout::CODE + 1),
    );
}

fn software_interrupt() {
    let guest = Guest::long(code64!("int 0x80", "hlt"));
    let count = code64!("inc qword ptr [{count}]", "iretq"; count = const layout::DATA);
    guest.load(layout::CODE2, count);
    guest.set_handler(0x80, layout::CODE2);
    guest.run_to_halt();
    expect::eq("times the handler ran", guest.peek(layout::DATA), 1);
    expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE + 3);
}

/// INT from ring 3 needs a gate that allows it.
fn software_interrupt_from_ring3() {
    let guest = Guest::long(to_ring3());
    guest.load(layout::CODE2, code64!("int 0x80"));
    guest.load(
        layout::PROBE,
        code64!("mov rbx, rsp", "mov rcx, [rsp + 8]", "ud2"),
    );
    guest.set_user_handler(0x80, layout::PROBE);
    let trap = guest.run_to_trap();
    expect::eq(
        "the handler's #UD",
        (trap.vector, trap.rip),
        (6, layout::PROBE + 8),
    );
    let regs = guest.vcpu.regs();
    expect::eq("RSP by the TSS", regs.rbx, layout::STACK - 40);
    expect::eq("CS on the stack", regs.rcx, selector::USER_CODE64.into());
    // The same guest again, for all its pages are mapped by now: Bochs (3.0, two CPUs) says that the
    // INT was under way where the first instruction of its #GP's handler meets an EPT violation.
    guest.enter(Mode::Long);
    guest.set_handler(0x80, layout::PROBE);
    let trap = guest.run_to_trap();
    let selector_of_gate = 0x80 << 3 | 2;
    let got = (trap.vector, trap.error, trap.rip);
    expect::eq(
        "#GP with the gate",
        got,
        (13, selector_of_gate, layout::CODE2),
    );
}

fn general_protection() {
    let (_, trap) = trap(code64!("mov ax, 0x7c", "mov ds, ax"));
    let got = (trap.vector, trap.error, trap.rip);
    expect::eq("#GP with the selector", got, (13, 0x7c, layout::CODE + 4));
}

/// Code that goes on in ring 3 at `layout::CODE2`.
fn to_ring3() -> &'static [u8] {
    code64!(
        "push {data}",
        "push {stack}",
        "push 0x202",
        "push {code}",
        "push {user}",
        "iretq";
        data = const selector::USER_DATA, stack = const layout::USER_STACK,
        code = const selector::USER_CODE64, user = const layout::CODE2
    )
}

fn privileged_in_ring3() {
    let instructions: [(&str, &[u8]); 7] = [
        ("MOV to CR0", code64!("mov cr0, rax")),
        ("MOV from CR3", code64!("mov rax, cr3")),
        ("MOV to DR7", code64!("mov dr7, rax")),
        ("LGDT", code64!("lgdt [rsp - 16]")),
        ("RDMSR", code64!("rdmsr")),
        ("INVLPG", code64!("invlpg [rsp]")),
        ("CLI", code64!("cli")),
    ];
    for (name, code) in instructions {
        let guest = Guest::long(to_ring3());
        guest.load(layout::CODE2, code);
        let trap = guest.run_to_trap();
        expect::eq(
            name,
            (trap.vector, trap.error, trap.rip),
            (13, 0, layout::CODE2),
        );
        expect::eq("stack of ring 3", trap.rsp, layout::USER_STACK);
    }
}

/// A guest whose 2 MiB around [`HOLE`] are 4 KiB pages with memory behind, the first of which has
/// `entry` added to its page-table entry; with memory that must stay.
#[track_caller]
fn with_hole(code: &[u8], entry: u64) -> (Guest, Mapping) {
    let guest = Guest::long(code);
    let memory = Mapping::anonymous(2 * PAGE);
    guest.vm.add_memory(1, HOLE, &memory);
    let directory = layout::PD + HOLE / (2 << 20) * 8;
    guest.poke(directory, layout::PT | bits::PTE);
    guest.poke(layout::PT, entry);
    guest.poke(layout::PT + 8, (HOLE + PAGE as u64) | bits::PTE);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: HOLE + 0x18,
        ..guest.vcpu.regs()
    });
    (guest, memory)
}

#[track_caller]
fn page_fault(code: &[u8], entry: u64, error: u64, rip: u64) {
    let (guest, _memory) = with_hole(code, entry);
    let trap = guest.run_to_trap();
    expect::eq("#PF", (trap.vector, trap.error, trap.rip), (14, error, rip));
    expect::eq("CR2", trap.cr2, HOLE + 0x18);
    expect::eq("CR2 by KVM_GET_SREGS", guest.vcpu.sregs().cr2, HOLE + 0x18);
}

fn page_fault_read() {
    page_fault(code64!("mov rax, [rbx]"), 0, 0, layout::CODE);
}

fn page_fault_write() {
    page_fault(code64!("mov [rbx], rax"), 0, 2, layout::CODE);
    page_fault(code64!("mov [rbx], rax"), HOLE | 1, 3, layout::CODE);
}

fn page_fault_user() {
    let (guest, _memory) = with_hole(to_ring3(), HOLE | 3);
    guest.load(layout::CODE2, code64!("mov rax, [rbx]"));
    let trap = guest.run_to_trap();
    let got = (trap.vector, trap.error, trap.rip, trap.cr2);
    expect::eq("#PF", got, (14, 5, layout::CODE2, HOLE + 0x18));
}

fn page_fault_fetch() {
    let (guest, _memory) = with_hole(code64!("jmp rbx"), (1 << 63) | HOLE | 3);
    let mut sregs = guest.vcpu.sregs();
    sregs.efer |= bits::EFER_NX;
    guest.vcpu.set_sregs(&sregs);
    let trap = guest.run_to_trap();
    let got = (trap.vector, trap.error, trap.rip);
    expect::eq("#PF", got, (14, 0x11, HOLE + 0x18));
}

fn page_fault_reserved() {
    // Without EFER.NX bit 63 of an entry is reserved.
    page_fault(
        code64!("mov rax, [rbx]"),
        (1 << 63) | HOLE | 3,
        9,
        layout::CODE,
    );
}

/// The guest's own paging on demand: its handler maps the page and the access is done again.
fn page_fault_resolved() {
    let code = code64!("mov rax, [rbx]", "mov [rbx], rcx", "mov rdx, [rbx]", "hlt");
    let (guest, memory) = with_hole(code, 0);
    memory.write(0x18, 0xfeed_u64);
    let handler = code64!(
        "add rsp, 8",
        "mov qword ptr [{pt}], {entry}",
        "inc qword ptr [{count}]",
        "iretq";
        pt = const layout::PT, entry = const HOLE | 3, count = const layout::DATA
    );
    guest.load(layout::CODE2, handler);
    guest.set_handler(14, layout::CODE2);
    guest.vcpu.set_regs(&kvm_regs {
        rcx: 0xbeef,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("what was loaded", (regs.rax, regs.rdx), (0xfeed, 0xbeef));
    expect::eq("faults", guest.peek(layout::DATA), 1);
    let accessed_and_dirty = 0x60;
    let entry = guest.peek(layout::PT);
    expect::eq(
        "A and D of the entry",
        entry & accessed_and_dirty,
        accessed_and_dirty,
    );
}

fn segment_not_present() {
    let guest = Guest::long(code64!("mov ax, 0x38", "mov ds, ax"));
    guest.poke(layout::GDT + 0x38, 0x00cf_1300_0000_ffff);
    let mut sregs = guest.vcpu.sregs();
    sregs.gdt.limit = 0x3f;
    guest.vcpu.set_sregs(&sregs);
    let trap = guest.run_to_trap();
    expect::eq(
        "#NP",
        (trap.vector, trap.error, trap.rip),
        (11, 0x38, layout::CODE + 4),
    );
}

fn stack_segment() {
    let (_, trap) = trap(code64!("mov rbp, 0x8000000000000000", "mov rax, [rbp]"));
    expect::eq(
        "#SS",
        (trap.vector, trap.error, trap.rip),
        (12, 0, layout::CODE + 10),
    );
}

fn not_canonical() {
    let (_, trap) = trap(code64!("mov rbx, 0x8000000000000000", "mov rax, [rbx]"));
    expect::eq(
        "#GP",
        (trap.vector, trap.error, trap.rip),
        (13, 0, layout::CODE + 10),
    );
}

/// #GP whose gate is not present is a double fault.
fn double_fault() {
    let guest = Guest::long(code64!("mov ax, 0x7c", "mov ds, ax"));
    let gate = layout::IDT + 16 * 13;
    guest.poke(gate, guest.peek(gate) & !(1 << 47));
    let trap = guest.run_to_trap();
    expect::eq(
        "#DF",
        (trap.vector, trap.error, trap.rip),
        (8, 0, layout::CODE + 4),
    );
}

fn triple_fault_by_handler() {
    let guest = Guest::long(code64!("mov ax, 0x7c", "mov ds, ax"));
    for vector in [8, 11, 13] {
        let gate = layout::IDT + 16 * vector;
        guest.poke(gate, guest.peek(gate) & !(1 << 47));
    }
    guest.vcpu.expect_exit(Exit::Shutdown);
}

fn single_step_of_its_own() {
    let guest = Guest::long(code64!("push 0x102", "popfq", "inc rax", "inc rax", "nop"));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0,
        ..guest.vcpu.regs()
    });
    let after_inc = layout::CODE + 5 + 1 + 3;
    let trap = guest.run_to_trap();
    expect::eq(
        "#DB behind the first INC",
        (trap.vector, trap.rip),
        (1, after_inc),
    );
    let debug = guest.vcpu.get(GET_DEBUGREGS);
    let dr6 = expect::ok("KVM_GET_DEBUGREGS", debug).dr6;
    expect::eq("DR6.BS", (dr6 >> 14) & 1, 1);
}

/// The guest sets DR0 and DR7 itself and is stopped by its own CPU.
fn breakpoint_of_its_own() {
    let guest = Guest::long(code64!(
        "mov dr0, rbx",
        "mov eax, 0x402",
        "mov dr7, rax",
        "nop",
        "nop",
        "nop",
        "ud2"
    ));
    let target = layout::CODE + 3 + 5 + 3 + 2;
    guest.vcpu.set_regs(&kvm_regs {
        rbx: target,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq(
        "#DB at the breakpoint",
        (trap.vector, trap.rip),
        (1, target),
    );
    let debug = guest.vcpu.get(GET_DEBUGREGS);
    let debug = expect::ok("KVM_GET_DEBUGREGS", debug);
    expect::eq("DR6.B0", debug.dr6 & 0xf, 1);
    expect::eq("DR0 and DR7", (debug.db[0], debug.dr7), (target, 0x402));
}

fn alignment_check() {
    let guest = Guest::long(to_ring3());
    guest.load(
        layout::CODE2,
        code64!(
            "pushfq",
            "or dword ptr [rsp], 0x40000",
            "popfq",
            "mov rax, [rsp + 1]"
        ),
    );
    let mut sregs = guest.vcpu.sregs();
    sregs.cr0 |= 1 << 18;
    guest.vcpu.set_sregs(&sregs);
    let trap = guest.run_to_trap();
    expect::eq("#AC", (trap.vector, trap.error), (17, 0));
}

/// The exception's stack is a page the guest has not touched: its delivery meets the hypervisor's
/// own page fault and must be taken up again with the same error code.
fn through_fresh_memory() {
    let fresh = Mapping::anonymous(4 * PAGE);
    let guest = Guest::long(code64!("mov ax, 0x7c", "mov ds, ax"));
    guest.vm.add_memory(1, layout::EXTRA, &fresh);
    let rsp = layout::EXTRA + 2 * PAGE as u64;
    guest.vcpu.set_regs(&kvm_regs {
        rsp,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    let got = (trap.vector, trap.error, trap.rip, trap.rsp);
    expect::eq("#GP", got, (13, 0x7c, layout::CODE + 4, rsp));
}

fn iret_to_bad_place() {
    let guest = Guest::long(code64!(
        "push {data}",
        "push {stack}",
        "push 2",
        "push 0x7b",
        "push 0x1000",
        "iretq";
        data = const selector::USER_DATA, stack = const layout::USER_STACK
    ));
    let trap = guest.run_to_trap();
    expect::eq(
        "#GP with the selector",
        (trap.vector, trap.error),
        (13, 0x78),
    );
}
