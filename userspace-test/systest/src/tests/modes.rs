// SPDX-License-Identifier: GPL-2.0
//! Modes of operation that a guest seldom starts in, interrupts in the old modes, and what stays
//! true when an instruction is done by the hypervisor.

use kvm_bindings::*;

use super::tests;
use crate::expect;
use crate::guest::{bits, layout, selector, Guest, Mode};
use crate::memory::PAGE;
use crate::request::*;
use crate::vcpu::Exit;
use crate::{code16, code32, code64};

tests! {
    "modes":
    compatibility_mode, ring3_by_sregs, virtual_8086, protected_16_bit, big_real_mode,
    stack_grows_down_segment, local_descriptors, interrupt_in_real_mode,
    interrupt_in_protected_mode, software_interrupt_in_real_mode, exception_in_real_mode,
    pdptrs_of_the_last_load, pdptrs_reserved_bits, own_single_step_over_exits,
    sti_shadow_ends_with_emulated, halt_in_sti_shadow, wraps_at_4_gib, wraps_at_64_kib,
    prefixes_of_emulated, invlpg_follows_tables, global_pages,
}

/// A 32-bit code segment in 64-bit mode.
fn compatibility_mode() {
    let guest = Guest::long(code32!(
        "mov eax, 0x80000000",
        "inc eax",
        "mov [0x20000], eax",
        "cpuid",
        "hlt"
    ));
    let mut sregs = guest.vcpu.sregs();
    (sregs.cs.l, sregs.cs.db, sregs.cs.selector) = (0, 1, selector::CODE32);
    guest.vcpu.set_sregs(&sregs);
    let rbx = 0xffff_ffff_0000_0000;
    guest.vcpu.set_regs(&kvm_regs {
        rbx,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("memory", guest.peek(layout::DATA), 0x8000_0001);
    expect::eq(
        "RBX is what CPUID gives, 32 bits",
        guest.vcpu.regs().rbx >> 32,
        0,
    );
    expect::eq("CS.L", guest.vcpu.sregs().cs.l, 0);
}

fn ring3_by_sregs() {
    let guest = Guest::long(code64!("mov ebx, 6", "cli"));
    let mut sregs = guest.vcpu.sregs();
    (sregs.cs.selector, sregs.cs.dpl) = (selector::USER_CODE64, 3);
    (sregs.ss.selector, sregs.ss.dpl) = (selector::USER_DATA, 3);
    guest.vcpu.set_sregs(&sregs);
    let trap = guest.run_to_trap();
    expect::eq(
        "#GP at CLI",
        (trap.vector, trap.rip),
        (13, layout::CODE + 5),
    );
    expect::eq("CS", trap.cs, selector::USER_CODE64.into());
    expect::eq("RBX", guest.vcpu.regs().rbx, 6);
}

fn virtual_8086() {
    let code = code16!("mov ax, 0x1234", "mov [0x100], ax", "out 0x10, al", "hlt");
    let guest = Guest::new(Mode::Paging32, code);
    let mut sregs = guest.vcpu.sregs();
    let segment = |base: u64| kvm_segment {
        base,
        limit: 0xffff,
        selector: (base >> 4) as u16,
        type_: 3,
        present: 1,
        dpl: 3,
        s: 1,
        ..kvm_segment::default()
    };
    let data = segment(layout::DATA);
    sregs.cs = segment(layout::CODE);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs) = (data, data, data, data);
    sregs.ss = segment(layout::CODE2);
    guest.vcpu.set_sregs(&sregs);
    // OUT asks the TSS's permission bitmap, which is empty.
    let rflags = 1 << 17 | 3 << 12 | bits::RFLAGS_IF | bits::RFLAGS_FIXED;
    guest.vcpu.set_regs(&kvm_regs {
        rip: 0,
        rsp: 0x1000,
        rflags,
        ..guest.vcpu.regs()
    });
    // So it is a #GP, and without an IDT that is the end.
    let mut sregs = guest.vcpu.sregs();
    sregs.idt.limit = 0;
    guest.vcpu.set_sregs(&sregs);
    guest.vcpu.expect_exit(Exit::Shutdown);
    expect::eq("memory", guest.peek(layout::DATA + 0x100) & 0xffff, 0x1234);
}

/// Protected mode with 16-bit segments.
fn protected_16_bit() {
    let guest = Guest::protected(code16!(
        "mov ax, 0xffff",
        "add ax, 2",
        "mov [0x10], ax",
        "hlt"
    ));
    let mut sregs = guest.vcpu.sregs();
    for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.ss] {
        (segment.db, segment.g, segment.limit) = (0, 0, 0xffff);
    }
    (sregs.cs.base, sregs.ds.base) = (layout::CODE, layout::DATA);
    guest.vcpu.set_sregs(&sregs);
    let rax = 0x5555_0000;
    guest.vcpu.set_regs(&kvm_regs {
        rip: 0,
        rsp: 0xf000,
        rax,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("memory", guest.peek(layout::DATA + 0x10) & 0xffff, 1);
    expect::eq("EAX", guest.vcpu.regs().rax, 0x5555_0001);
}

/// Real mode with a segment limit of 4 GiB, as firmware uses it.
fn big_real_mode() {
    let guest = Guest::real(code16!(
        "mov ebx, 0x110000",
        "mov eax, [ebx]",
        "mov [ebx + 4], eax",
        "hlt"
    ));
    guest.poke(0x11_0000, 0x1357_9bdf);
    let mut sregs = guest.vcpu.sregs();
    (sregs.ds.limit, sregs.ds.g) = (0xffff_ffff, 1);
    guest.vcpu.set_sregs(&sregs);
    guest.run_to_halt();
    expect::eq("memory", guest.peek(0x11_0000), 0x1357_9bdf_1357_9bdf);
}

/// An expand-down data segment: valid above its limit.
fn stack_grows_down_segment() {
    let guest = Guest::protected(code32!("mov eax, [ebx]", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    (sregs.ds.type_, sregs.ds.limit) = (7, 0xfff);
    guest.vcpu.set_sregs(&sregs);
    guest.poke(0x2000, 5);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: 0x2000,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq(
        "above the limit",
        guest.vcpu.regs().rax,
        guest.peek(0x2000) & 0xffff_ffff,
    );
    let mut sregs = guest.vcpu.sregs();
    sregs.idt.limit = 0;
    guest.vcpu.set_sregs(&sregs);
    let (rip, rbx) = (layout::CODE, 0x800);
    guest.vcpu.set_regs(&kvm_regs {
        rip,
        rbx,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(Exit::Shutdown);
}

fn local_descriptors() {
    let guest = Guest::long(code64!(
        "mov ax, 0x0c",
        "mov fs, ax",
        "sldt bx",
        "mov rcx, fs:[0]",
        "hlt"
    ));
    // An LDT at DATA whose second entry is a data segment with base DATA + 0x100.
    guest.poke(
        layout::DATA + 8,
        0x00cf_9300_0000_ffff | (layout::DATA + 0x100) << 16,
    );
    guest.poke(layout::DATA + 0x100, 0x1d7);
    let mut sregs = guest.vcpu.sregs();
    sregs.ldt = kvm_segment {
        base: layout::DATA,
        limit: 0xf,
        selector: 0x38,
        type_: 2,
        present: 1,
        ..kvm_segment::default()
    };
    guest.vcpu.set_sregs(&sregs);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq(
        "LDTR and what FS reads",
        (regs.rbx & 0xffff, regs.rcx),
        (0x38, 0x1d7),
    );
    let sregs = guest.vcpu.sregs();
    expect::eq(
        "FS",
        (sregs.fs.selector, sregs.fs.base),
        (0x0c, layout::DATA + 0x100),
    );
}

/// A real-mode guest with a handler of `vector` that counts in BX.
#[track_caller]
fn real_with_handler(vector: u64, code: &[u8]) -> Guest {
    let guest = Guest::real(code);
    guest.load(layout::CODE2, code16!("inc bx", "iret"));
    let pointer = (layout::CODE2 >> 4 << 16) as u32;
    guest.memory.write(4 * vector as usize, pointer);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: 0,
        ..guest.vcpu.regs()
    });
    let mut sregs = guest.vcpu.sregs();
    sregs.ss.base = 0;
    guest.vcpu.set_sregs(&sregs);
    guest
}

fn interrupt_in_real_mode() {
    let guest = real_with_handler(0x40, code16!("2: hlt", "jmp 2b"));
    guest.run_to_halt();
    for count in 1..=3 {
        expect::ok("KVM_INTERRUPT", guest.vcpu.interrupt(0x40));
        guest.run_to_halt();
        expect::eq("BX", guest.vcpu.regs().rbx, count);
    }
    expect::eq("SP", guest.vcpu.regs().rsp, 0xf000);
}

fn software_interrupt_in_real_mode() {
    let guest = real_with_handler(0x21, code16!("int 0x21", "int 0x21", "hlt"));
    guest.run_to_halt();
    expect::eq("BX", guest.vcpu.regs().rbx, 2);
}

fn exception_in_real_mode() {
    let guest = Guest::real(code16!("ud2"));
    guest.load(layout::CODE2, code16!("pop bx", "pop cx", "hlt"));
    guest.memory.write(4 * 6, (layout::CODE2 >> 4 << 16) as u32);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    let place = ((layout::CODE >> 4) & 0xffff, 0);
    expect::eq(
        "CS:IP on the stack",
        (regs.rcx & 0xffff, regs.rbx & 0xffff),
        place,
    );
}

fn interrupt_in_protected_mode() {
    let guest = Guest::protected(code32!("2: hlt", "jmp 2b"));
    guest.load(layout::CODE2, code32!("inc ebx", "iretd"));
    let gate = layout::CODE2 & 0xffff
        | u64::from(selector::CODE32) << 16
        | 0x8e00 << 32
        | (layout::CODE2 >> 16) << 48;
    guest.poke(layout::IDT + 8 * 0x40, gate);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: 0,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::ok("KVM_INTERRUPT", guest.vcpu.interrupt(0x40));
    guest.run_to_halt();
    expect::eq("EBX", guest.vcpu.regs().rbx, 1);
}

/// PAE's four entries are what the last load of CR3 found, not what memory says since.
fn pdptrs_of_the_last_load() {
    let code = code32!(
        "mov dword ptr [{pdpt} + 8], 0",
        "mov eax, [0x40000000 + {data}]",
        "hlt",
        "mov ecx, cr3",
        "mov cr3, ecx",
        "mov ebx, [0x40000000 + {data}]",
        "hlt";
        pdpt = const layout::PDPT, data = const layout::DATA
    );
    let guest = Guest::new(Mode::Pae, code);
    // The second GiB shows the first one's memory.
    guest.poke(layout::PDPT + 8, layout::PD | 1);
    guest.poke(layout::DATA, 0xabc);
    let sregs = guest.vcpu.sregs();
    guest.vcpu.set_sregs(&sregs);
    guest.run_to_halt();
    expect::eq("by the entry loaded before", guest.vcpu.regs().rax, 0xabc);
    let mut sregs2 = expect::ok("KVM_GET_SREGS2", guest.vcpu.get(GET_SREGS2));
    expect::eq(
        "PDPTE 1 by KVM_GET_SREGS2",
        sregs2.pdptrs[1],
        layout::PD | 1,
    );
    sregs2.idt.limit = 0;
    expect::ok("KVM_SET_SREGS2", guest.vcpu.set(SET_SREGS2, &sregs2));
    guest.vcpu.expect_exit(Exit::Shutdown);
    expect::eq(
        "CR2 after the reload",
        guest.vcpu.sregs().cr2,
        0x4000_0000 + layout::DATA,
    );
}

fn pdptrs_reserved_bits() {
    let guest = Guest::new(Mode::Pae, code32!("mov eax, cr3", "mov cr3, eax", "hlt"));
    guest.poke(layout::PDPT + 16, layout::PD | 1 | 1 << 1);
    let mut sregs = guest.vcpu.sregs();
    // Handlers of 32-bit code are not there: the #GP ends in a triple fault.
    sregs.idt.limit = 0;
    let sregs2 = expect::ok("KVM_GET_SREGS2", guest.vcpu.get(GET_SREGS2));
    let sregs2 = kvm_sregs2 {
        idt: sregs.idt,
        ..sregs2
    };
    expect::ok("KVM_SET_SREGS2", guest.vcpu.set(SET_SREGS2, &sregs2));
    guest.vcpu.expect_exit(Exit::Shutdown);
}

/// The guest steps itself over instructions that the hypervisor does for it.
fn own_single_step_over_exits() {
    let cases: [(&str, &[u8], u64); 4] = [
        ("CPUID", code64!("push 0x102", "popfq", "cpuid", "nop"), 2),
        ("RDMSR", code64!("push 0x102", "popfq", "rdmsr", "nop"), 2),
        (
            "MOV from DR7",
            code64!("push 0x102", "popfq", "mov rax, dr7", "nop"),
            3,
        ),
        (
            "MOV to CR4",
            code64!("push 0x102", "popfq", "mov cr4, rbx", "nop"),
            3,
        ),
    ];
    for (name, code, len) in cases {
        let guest = Guest::long(code);
        let (rcx, rbx) = (0xc000_0081, guest.vcpu.sregs().cr4);
        guest.vcpu.set_regs(&kvm_regs {
            rcx,
            rbx,
            ..guest.vcpu.regs()
        });
        let trap = guest.run_to_trap();
        let want = (1, layout::CODE + 6 + len);
        expect::eq(&format!("#DB behind {name}"), (trap.vector, trap.rip), want);
        let debug = expect::ok("KVM_GET_DEBUGREGS", guest.vcpu.get(GET_DEBUGREGS));
        expect::eq("DR6.BS", debug.dr6 >> 14 & 1, 1);
    }
}

/// CPUID right behind STI takes the shadow with it.
fn sti_shadow_ends_with_emulated() {
    let guest = Guest::long(code64!("cli", "sti", "cpuid", "inc r8", "2: jmp 2b"));
    guest.vcpu.set_regs(&kvm_regs {
        r8: 0,
        ..guest.vcpu.regs()
    });
    guest.vcpu.set_regs(&kvm_regs {
        rflags: 2,
        ..guest.vcpu.regs()
    });
    guest.vcpu.request_interrupt_window(true);
    guest.vcpu.expect_exit(Exit::IrqWindowOpen);
    let regs = guest.vcpu.regs();
    expect::eq("RIP and R8", (regs.rip, regs.r8), (layout::CODE + 4, 0));
    expect::eq("shadow", guest.vcpu.events().interrupt.shadow, 0);
}

/// STI; HLT: the guest halts, then its interrupts are open.
fn halt_in_sti_shadow() {
    let guest = Guest::long(code64!("cli", "sti", "hlt", "2: jmp 2b"));
    guest.vcpu.set_regs(&kvm_regs {
        rflags: 2,
        ..guest.vcpu.regs()
    });
    guest.vcpu.request_interrupt_window(true);
    guest.run_to_halt();
    expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE + 3);
    expect::eq("ready", guest.vcpu.ready_for_interrupt(), true);
    guest.vcpu.expect_exit(Exit::IrqWindowOpen);
}

/// An emulated instruction at the top of 32-bit addresses goes on at 0.
fn wraps_at_4_gib() {
    let guest = Guest::protected(&[]);
    let top = crate::memory::Mapping::anonymous(PAGE);
    guest.vm.add_memory(1, 0xffff_f000, &top);
    top.write_bytes(PAGE - 2, code32!("cpuid"));
    guest.load(0, code32!("hlt"));
    let rip = 0xffff_fffe;
    guest.vcpu.set_regs(&kvm_regs {
        rip,
        rax: 0,
        rcx: 0,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("EIP", guest.vcpu.regs().rip, 1);
}

/// 16-bit string I/O wraps its index within the segment.
fn wraps_at_64_kib() {
    let guest = Guest::real(code16!("rep outsb", "hlt"));
    guest.load(0xfffe, b"yz");
    guest.load(0, b"ab");
    let regs = guest.vcpu.regs();
    guest.vcpu.set_regs(&kvm_regs {
        rsi: 0xfffe,
        rcx: 4,
        rdx: 0x30,
        ..regs
    });
    let mut got = Vec::new();
    loop {
        match guest.vcpu.run() {
            Ok(Exit::Out { data, .. }) => got.extend(data),
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    expect::eq("output", got, b"yzab".to_vec());
    let regs = guest.vcpu.regs();
    expect::eq("SI and CX", (regs.rsi, regs.rcx), (2, 0));
}

/// Prefixes without meaning count for an emulated instruction's length.
fn prefixes_of_emulated() {
    let guest = Guest::long(code64!(
        ".byte 0x66, 0x2e, 0x48, 0x0f, 0xa2",
        ".byte 0xf2, 0xe6, 0x10",
        ".byte 0x3e, 0x8b, 0x03",
        "hlt"
    ));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0,
        rcx: 0,
        ..guest.vcpu.regs()
    });
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
    guest.vcpu.set_immediate_exit(true);
    expect::errno("KVM_RUN", guest.vcpu.run(), libc::EINTR);
    guest.vcpu.set_immediate_exit(false);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: layout::MMIO,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(Exit::MmioRead {
        gpa: layout::MMIO,
        len: 4,
    });
    guest.vcpu.answer_mmio(&[1, 2, 3, 4]);
    guest.run_to_halt();
    expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE + 5 + 3 + 3 + 1);
}

/// The guest changes a mapping, flushes it, and sees the other page.
fn invlpg_follows_tables() {
    let code = code64!(
        "mov rax, [rbx]",
        "mov qword ptr [{entry}], {second}",
        "invlpg [rbx]",
        "mov rcx, [rbx]",
        "mov qword ptr [{entry}], {first}",
        "mov rdx, cr3",
        "mov cr3, rdx",
        "mov rdx, [rbx]",
        "hlt";
        entry = const layout::PT, second = const 0x3_1000 | 7, first = const 0x3_0000 | 7
    );
    let guest = remapped(code);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq(
        "first, second, first",
        (regs.rax, regs.rcx, regs.rdx),
        (1, 2, 1),
    );
}

/// A 64-bit guest with RBX at a 4 KiB page that shows 0x30000, where 1 stands; at 0x31000 2 does.
#[track_caller]
fn remapped(code: &[u8]) -> Guest {
    let guest = Guest::long(code);
    guest.poke(
        layout::PD + layout::EXTRA / (2 << 20) * 8,
        layout::PT | bits::PTE,
    );
    guest.poke(layout::PT, 0x3_0000 | bits::PTE);
    guest.poke(0x3_0000, 1);
    guest.poke(0x3_1000, 2);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: layout::EXTRA,
        ..guest.vcpu.regs()
    });
    guest
}

/// CR4.PGE off and on throws global translations away.
fn global_pages() {
    let code = code64!(
        "mov rdx, cr4",
        "or rdx, 0x80",
        "mov cr4, rdx",
        "mov rax, [rbx]",
        "mov qword ptr [{entry}], {second}",
        "xor rdx, 0x80",
        "mov cr4, rdx",
        "xor rdx, 0x80",
        "mov cr4, rdx",
        "mov rcx, [rbx]",
        "hlt";
        entry = const layout::PT, second = const 0x3_1000 | 7
    );
    let guest = remapped(code);
    guest.poke(layout::PT, 0x3_0000 | bits::PTE | 1 << 8);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("first and second", (regs.rax, regs.rcx), (1, 2));
}
