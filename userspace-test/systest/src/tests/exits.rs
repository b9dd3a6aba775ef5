// SPDX-License-Identifier: GPL-2.0
//! KVM_RUN: halting, dying, refused entries, and instructions that exit to be emulated.

use kvm_bindings::*;

use super::tests;
use crate::expect;
use crate::guest::{bits, layout, selector, Guest, Mode};
use crate::request::*;
use crate::vcpu::Exit;
use crate::vm::Kvm;
use crate::{code16, code32, code64};

tests! {
    "exits":
    halt_real_mode, halt_protected_mode, halt_32bit_paging, halt_pae, halt_long_mode,
    halt_goes_on, mode_switch, ring3, triple_fault, triple_fault_then_reset, fail_entry,
    fail_entry_then_right, cpuid_as_set, cpuid_missing_leaf, cpuid_osxsave_follows_cr4, vmcall,
    cache_and_pause, vmx_instructions, run_argument, many_exits(60),
}

/// VMX_EXIT_REASONS_FAILED_VMENTRY with "invalid guest state" (SDM vol. 3, appendix C).
const INVALID_GUEST_STATE: u64 = 0x8000_0021;

fn halt_real_mode() {
    let guest = Guest::real(code16!("mov ax, 0x1234", "add ax, bx", "hlt"));
    guest.vcpu.set_regs(&kvm_regs {
        rbx: 1,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("AX", guest.vcpu.regs().rax, 0x1235);
    expect::eq("IP behind HLT", guest.vcpu.regs().rip, 6);
}

fn halt_in(mode: Mode) {
    let code = code32!("mov ecx, 0x5a5a5a5a", "mov dword ptr [ebx], ecx", "hlt");
    let guest = Guest::new(mode, code);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: layout::DATA,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("ECX", guest.vcpu.regs().rcx, 0x5a5a_5a5a);
    expect::eq("memory", guest.peek(layout::DATA), 0x5a5a_5a5a);
    expect::eq(
        "EIP",
        guest.vcpu.regs().rip,
        layout::CODE + code.len() as u64,
    );
}

fn halt_protected_mode() {
    halt_in(Mode::Protected);
}

fn halt_32bit_paging() {
    halt_in(Mode::Paging32);
}

fn halt_pae() {
    halt_in(Mode::Pae);
}

fn halt_long_mode() {
    let guest = Guest::long(code64!(
        "mov rcx, 0x123456789abcdef0",
        "mov r15, rcx",
        "hlt"
    ));
    guest.run_to_halt();
    expect::eq("R15", guest.vcpu.regs().r15, 0x1234_5678_9abc_def0);
}

fn halt_goes_on() {
    let guest = Guest::long(code64!(
        "inc rax", "hlt", "inc rax", "hlt", "inc rax", "hlt"
    ));
    for count in 1..=3 {
        guest.run_to_halt();
        expect::eq("RAX", guest.vcpu.regs().rax, count);
    }
}

/// A guest that takes itself from real to protected to 64-bit mode.
fn mode_switch() {
    let guest = Guest::long(&[]);
    let to_protected = code16!(
        "2: .byte 0xbb",
        ".word 3f - 2b",
        "lgdt cs:[bx]",
        "mov eax, cr0",
        "or al, 1",
        "mov cr0, eax",
        ".byte 0x66, 0xea",
        ".long {target}",
        ".word {code}",
        "3: .word 0x3f",
        ".long {gdt}";
        target = const layout::CODE2, code = const selector::CODE32, gdt = const layout::GDT
    );
    let to_long = code32!(
        "2: mov ax, {data}",
        "mov ds, ax",
        "mov ss, ax",
        "mov eax, 0x20",
        "mov cr4, eax",
        "mov eax, {pml4}",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x100",
        "wrmsr",
        "mov eax, 0x80000001",
        "mov cr0, eax",
        ".byte 0xea",
        ".long {here} + (3f - 2b)",
        ".word {code}",
        "3:",
        ".code64",
        "mov rax, 0x1122334455667788",
        "hlt";
        data = const selector::DATA, pml4 = const layout::PML4, here = const layout::CODE2,
        code = const selector::CODE64
    );
    guest.load(layout::CODE, to_protected);
    guest.load(layout::CODE2, to_long);
    let sregs = kvm_sregs {
        cr0: 0x10,
        cr3: 0,
        cr4: 0,
        efer: 0,
        ..Guest::real(&[]).vcpu.sregs()
    };
    guest.vcpu.set_sregs(&sregs);
    guest.vcpu.set_regs(&kvm_regs {
        rip: 0,
        rflags: 2,
        ..kvm_regs::default()
    });
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 0x1122_3344_5566_7788);
    let sregs = guest.vcpu.sregs();
    let on = bits::EFER_LMA | bits::EFER_LME;
    expect::eq("EFER.LMA and LME", sregs.efer & on, on);
    expect::eq("CS.L", sregs.cs.l, 1);
}

/// Ring 3 runs, its HLT is a #GP in the guest, no exit.
fn ring3() {
    let code = code64!(
        "push {data}",
        "push {stack}",
        "push 2",
        "push {code}",
        "push {user}",
        "iretq";
        data = const selector::USER_DATA, stack = const layout::USER_STACK,
        code = const selector::USER_CODE64, user = const layout::CODE2
    );
    let guest = Guest::long(code);
    guest.load(layout::CODE2, code64!("mov rbx, 42", "hlt"));
    let trap = guest.run_to_trap();
    expect::eq("vector", trap.vector, 13);
    expect::eq("RIP", trap.rip, layout::CODE2 + 7);
    expect::eq("CS", trap.cs, selector::USER_CODE64.into());
    expect::eq("RSP", trap.rsp, layout::USER_STACK);
    expect::eq("RBX", guest.vcpu.regs().rbx, 42);
}

/// A guest without an IDT that dies at once.
fn doomed() -> Guest {
    let guest = Guest::protected(code32!("ud2"));
    let mut sregs = guest.vcpu.sregs();
    sregs.idt.limit = 0;
    guest.vcpu.set_sregs(&sregs);
    guest
}

fn triple_fault() {
    let guest = doomed();
    guest.vcpu.expect_exit(Exit::Shutdown);
}

fn triple_fault_then_reset() {
    let guest = doomed();
    guest.vcpu.expect_exit(Exit::Shutdown);
    guest.load(layout::CODE, code64!("mov eax, 7", "hlt"));
    guest.enter(Mode::Long);
    let clean = kvm_vcpu_events::default();
    expect::ok(
        "KVM_SET_VCPU_EVENTS",
        guest.vcpu.set(SET_VCPU_EVENTS, &clean),
    );
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 7);
}

/// States that KVM_SET_SREGS takes and the CPU does not (SDM vol. 3, 28.3.1).
fn fail_entry() {
    type Spoil = fn(&mut kvm_sregs);
    let wrong: [(&str, Spoil); 4] = [
        ("CS.S = 0", |s| s.cs.s = 0),
        ("CS.DPL is not SS.DPL", |s| s.cs.dpl = 3),
        ("TR not busy", |s| s.tr.type_ = 1),
        ("CS with L and D", |s| s.cs.db = 1),
    ];
    for (what, spoil) in wrong {
        let guest = Guest::long(code64!("hlt"));
        let mut sregs = guest.vcpu.sregs();
        spoil(&mut sregs);
        guest.vcpu.set_sregs(&sregs);
        let want = Exit::FailEntry {
            reason: INVALID_GUEST_STATE,
        };
        expect::eq(what, guest.vcpu.run(), Ok(want));
    }
}

fn fail_entry_then_right() {
    let guest = Guest::long(code64!("mov eax, 9", "hlt"));
    let right = guest.vcpu.sregs();
    let mut wrong = right;
    wrong.cs.s = 0;
    guest.vcpu.set_sregs(&wrong);
    guest.vcpu.expect_exit(Exit::FailEntry {
        reason: INVALID_GUEST_STATE,
    });
    guest.vcpu.expect_exit(Exit::FailEntry {
        reason: INVALID_GUEST_STATE,
    });
    expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE);
    guest.vcpu.set_sregs(&right);
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 9);
}

/// Runs CPUID in a guest: EAX, EBX, ECX, EDX.
#[track_caller]
fn guest_cpuid(guest: &Guest, function: u64, index: u64) -> [u64; 4] {
    let regs = guest.vcpu.regs();
    let (rip, rax, rcx) = (layout::CODE, function, index);
    guest.vcpu.set_regs(&kvm_regs {
        rip,
        rax,
        rcx,
        ..regs
    });
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    [regs.rax, regs.rbx, regs.rcx, regs.rdx]
}

fn cpuid_as_set() {
    let guest = Guest::long(code64!("cpuid", "hlt"));
    let mut cpuid = Kvm::open().supported_cpuid();
    let leaf = cpuid.find(0x8000_0002, 0).expect("leaf 0x80000002");
    (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) = (0x6c61_6548, 0x1122_3344, 0x8877_6655, 0xffff_ffff);
    expect::ok("KVM_SET_CPUID2", guest.vcpu.set(SET_CPUID2, &cpuid));
    let got = guest_cpuid(&guest, 0x8000_0002, 0);
    expect::eq(
        "leaf 0x80000002",
        got,
        [0x6c61_6548, 0x1122_3344, 0x8877_6655, 0xffff_ffff],
    );
    let leaf = *cpuid.find(4, 1).expect("leaf 4, index 1");
    let got = guest_cpuid(&guest, 4, 1);
    let want = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].map(u64::from);
    expect::eq("leaf 4, index 1", got, want);
}

fn cpuid_missing_leaf() {
    let guest = Guest::long(code64!("cpuid", "hlt"));
    let mut cpuid = Cpuid::with_room(CPUID_ROOM);
    let supported = *Kvm::open().supported_cpuid().find(0, 0).expect("leaf 0");
    let highest = kvm_cpuid_entry2 {
        function: 2,
        eax: 1,
        ebx: 2,
        ecx: 3,
        edx: 4,
        ..Default::default()
    };
    cpuid.entries[0] = kvm_cpuid_entry2 {
        eax: 2,
        ..supported
    };
    cpuid.entries[1] = highest;
    cpuid.nent = 2;
    expect::ok("KVM_SET_CPUID2", guest.vcpu.set(SET_CPUID2, &cpuid));
    expect::eq("a leaf in range", guest_cpuid(&guest, 1, 0), [0; 4]);
    expect::eq(
        "a leaf out of range",
        guest_cpuid(&guest, 0x77, 0),
        [1, 2, 3, 4],
    );
}

fn cpuid_osxsave_follows_cr4() {
    let guest = Guest::long(code64!(
        "mov rax, cr4",
        "or rax, 0x40000",
        "mov cr4, rax",
        "mov eax, 1",
        "cpuid",
        "hlt"
    ));
    guest.run_to_halt();
    expect::eq(
        "OSXSAVE after setting CR4.OSXSAVE",
        (guest.vcpu.regs().rcx >> 27) & 1,
        1,
    );
    guest.load(
        layout::CODE,
        code64!(
            "mov rax, cr4",
            "and eax, ~0x40000",
            "mov cr4, rax",
            "mov eax, 1",
            "cpuid",
            "hlt"
        ),
    );
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq(
        "OSXSAVE after clearing it",
        (guest.vcpu.regs().rcx >> 27) & 1,
        0,
    );
}

/// An unknown hypercall is answered with -KVM_ENOSYS, without an exit to the VMM.
fn vmcall() {
    let guest = Guest::long(code64!("mov eax, 0x7777", "vmcall", "hlt"));
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax as i64, -1000);
    expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE + 9);
}

fn cache_and_pause() {
    let guest = Guest::long(code64!(
        "mov ecx, 1000",
        "2: pause",
        "loop 2b",
        "wbinvd",
        "invd",
        "invlpg [rsp]",
        "rdtsc",
        "mov ebx, 77",
        "hlt"
    ));
    guest.run_to_halt();
    expect::eq("RBX", guest.vcpu.regs().rbx, 77);
}

/// Without CR4.VMXE each instruction of VMX is undefined.
fn vmx_instructions() {
    let instructions: [(&str, &[u8]); 11] = [
        ("VMXON", code64!("vmxon [rsp]")),
        ("VMCLEAR", code64!("vmclear [rsp]")),
        ("VMPTRLD", code64!("vmptrld [rsp]")),
        ("VMPTRST", code64!("vmptrst [rsp]")),
        ("VMREAD", code64!("vmread rax, rbx")),
        ("VMWRITE", code64!("vmwrite rax, rbx")),
        ("VMLAUNCH", code64!("vmlaunch")),
        ("VMRESUME", code64!("vmresume")),
        ("VMXOFF", code64!("vmxoff")),
        ("INVEPT", code64!("invept rax, [rsp]")),
        ("INVVPID", code64!("invvpid rax, [rsp]")),
    ];
    let guest = Guest::long(&[]);
    for (name, code) in instructions {
        guest.load(layout::CODE, code);
        guest.enter(Mode::Long);
        let trap = guest.run_to_trap();
        expect::eq(name, (trap.vector, trap.rip), (6, layout::CODE));
    }
}

fn run_argument() {
    let guest = Guest::long(code64!("hlt"));
    expect::errno(
        "KVM_RUN with an argument",
        guest.vcpu.call(RUN, 1),
        libc::EINVAL,
    );
    guest.run_to_halt();
}

/// Ten thousand exits, every one of them where it belongs.
fn many_exits() {
    let guest = Guest::long(code64!("2: inc rax", "cpuid", "out 0x10, al", "jmp 2b"));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0,
        ..guest.vcpu.regs()
    });
    for _ in 0..5000 {
        match guest.vcpu.run() {
            Ok(Exit::Out {
                port: 0x10,
                size: 1,
                ..
            }) => {}
            other => expect::eq(
                "KVM_RUN",
                other,
                Ok(Exit::Out {
                    port: 0x10,
                    size: 1,
                    data: vec![],
                }),
            ),
        }
    }
}
