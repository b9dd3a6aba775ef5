// SPDX-License-Identifier: GPL-2.0
//! KVM_EXIT_MMIO: loads and stores where there is no memory.

use kvm_bindings::{kvm_regs, KVM_INTERNAL_ERROR_EMULATION};

use super::tests;
use crate::expect;
use crate::guest::{bits, layout, layout::MMIO, Guest, Mode};
use crate::memory::{Mapping, PAGE};
use crate::vcpu::Exit;
use crate::{code16, code32, code64};

tests! {
    "mmio":
    load_widths, store_widths, load_into_every_register, store_from_every_register,
    store_immediate, high_byte_registers, zero_and_sign_extension, addressing_forms,
    accumulator_forms, real_mode, protected_mode, segment_base, state_at_exit,
    completed_by_immediate_exit, at_the_edges, across_pages, across_memory_and_nothing,
    mapped_elsewhere, guest_page_fault_first, many, same_address_other_instruction,
    other_instructions, data_of_previous_exit,
}

fn load(gpa: u64, len: u32) -> Exit {
    Exit::MmioRead { gpa, len }
}

fn store(gpa: u64, data: &[u8]) -> Exit {
    Exit::MmioWrite {
        gpa,
        data: data.to_vec(),
    }
}

/// A 64-bit guest with RBX at the place without memory.
#[track_caller]
fn guest(code: &[u8]) -> Guest {
    let guest = Guest::long(code);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: MMIO,
        ..guest.vcpu.regs()
    });
    guest
}

const DATA: [u8; 8] = [0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88];

fn load_widths() {
    let cases: [(&[u8], u32, u64); 4] = [
        (code64!("mov al, [rbx]", "hlt"), 1, 0x1122_3344_5566_7781),
        (code64!("mov ax, [rbx]", "hlt"), 2, 0x1122_3344_5566_8281),
        (code64!("mov eax, [rbx]", "hlt"), 4, 0x8483_8281),
        (code64!("mov rax, [rbx]", "hlt"), 8, 0x8887_8685_8483_8281),
    ];
    for (code, len, want) in cases {
        let guest = guest(code);
        let rax = 0x1122_3344_5566_7788;
        guest.vcpu.set_regs(&kvm_regs {
            rax,
            ..guest.vcpu.regs()
        });
        guest.vcpu.expect_exit(load(MMIO, len));
        guest.vcpu.answer_mmio(&DATA);
        guest.run_to_halt();
        let regs = guest.vcpu.regs();
        expect::eq(&format!("RAX by a load of {len}"), regs.rax, want);
        expect::eq("RIP", regs.rip, layout::CODE + code.len() as u64);
    }
}

fn store_widths() {
    let cases: [(&[u8], usize); 4] = [
        (code64!("mov [rbx], al", "hlt"), 1),
        (code64!("mov [rbx], ax", "hlt"), 2),
        (code64!("mov [rbx], eax", "hlt"), 4),
        (code64!("mov [rbx], rax", "hlt"), 8),
    ];
    for (code, len) in cases {
        let guest = guest(code);
        let rax = u64::from_le_bytes(DATA);
        guest.vcpu.set_regs(&kvm_regs {
            rax,
            ..guest.vcpu.regs()
        });
        guest.vcpu.expect_exit(store(MMIO, &DATA[..len]));
        guest.run_to_halt();
        expect::eq(
            "RIP",
            guest.vcpu.regs().rip,
            layout::CODE + code.len() as u64,
        );
    }
}

/// All 16 registers in the order of their numbers.
fn numbered(regs: &kvm_regs) -> [u64; 16] {
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

/// Code of `MOV` with REX.W between register `number` and the place that a 32-bit displacement
/// names; opcode 0x8b loads, 0x89 stores.
fn mov_absolute(opcode: u8, number: u8) -> Vec<u8> {
    let rex = 0x48 | ((number >> 3) << 2);
    let mut code = vec![rex, opcode, ((number & 7) << 3) | 4, 0x25];
    code.extend((MMIO as u32).to_le_bytes());
    code.push(0xf4);
    code
}

fn load_into_every_register() {
    let guest = guest(&[]);
    for number in 0..16u8 {
        guest.load(layout::CODE, &mov_absolute(0x8b, number));
        guest.vcpu.set_regs(&kvm_regs {
            rip: layout::CODE,
            ..guest.vcpu.regs()
        });
        let mut want = numbered(&guest.vcpu.regs());
        guest.vcpu.expect_exit(load(MMIO, 8));
        let value = 0x1000_0000_0000_0000 | u64::from(number);
        guest.vcpu.answer_mmio(&value.to_le_bytes());
        guest.run_to_halt();
        want[usize::from(number)] = value;
        expect::eq(
            &format!("register {number}"),
            numbered(&guest.vcpu.regs()),
            want,
        );
    }
}

fn store_from_every_register() {
    let guest = guest(&[]);
    let regs = guest.vcpu.regs();
    let value = |n: u64| 0x2000_0000_0000_0000 | n;
    let regs = kvm_regs {
        rax: value(0),
        rcx: value(1),
        rdx: value(2),
        rbx: value(3),
        rsp: value(4),
        rbp: value(5),
        rsi: value(6),
        rdi: value(7),
        r8: value(8),
        r9: value(9),
        r10: value(10),
        r11: value(11),
        r12: value(12),
        r13: value(13),
        r14: value(14),
        r15: value(15),
        ..regs
    };
    for number in 0..16u8 {
        guest.load(layout::CODE, &mov_absolute(0x89, number));
        guest.vcpu.set_regs(&regs);
        guest
            .vcpu
            .expect_exit(store(MMIO, &value(number.into()).to_le_bytes()));
        guest.run_to_halt();
    }
}

fn store_immediate() {
    let cases: [(&[u8], &[u8]); 4] = [
        (code64!("mov byte ptr [rbx], 0x12", "hlt"), &[0x12]),
        (code64!("mov word ptr [rbx], 0x1234", "hlt"), &[0x34, 0x12]),
        (
            code64!("mov dword ptr [rbx], 0x12345678", "hlt"),
            &[0x78, 0x56, 0x34, 0x12],
        ),
        (
            code64!("mov qword ptr [rbx], -2", "hlt"),
            &[0xfe, 255, 255, 255, 255, 255, 255, 255],
        ),
    ];
    for (code, data) in cases {
        let guest = guest(code);
        guest.vcpu.expect_exit(store(MMIO, data));
        guest.run_to_halt();
    }
}

fn high_byte_registers() {
    let guest = guest(code64!(
        "mov ah, [rbx]",
        "mov [rbx + 1], ch",
        "mov [rbx + 2], sil",
        "hlt"
    ));
    let regs = guest.vcpu.regs();
    let (rax, rcx, rsi) = (0x1111, 0x2233, 0x44);
    guest.vcpu.set_regs(&kvm_regs {
        rax,
        rcx,
        rsi,
        ..regs
    });
    guest.vcpu.expect_exit(load(MMIO, 1));
    guest.vcpu.answer_mmio(&[0xee]);
    guest.vcpu.expect_exit(store(MMIO + 1, &[0x22]));
    guest.vcpu.expect_exit(store(MMIO + 2, &[0x44]));
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 0xee11);
}

fn zero_and_sign_extension() {
    let cases: [(&[u8], u32, u64); 6] = [
        (code64!("movzx eax, byte ptr [rbx]", "hlt"), 1, 0x81),
        (code64!("movzx rax, word ptr [rbx]", "hlt"), 2, 0x8281),
        (code64!("movsx eax, byte ptr [rbx]", "hlt"), 1, 0xffff_ff81),
        (
            code64!("movsx rax, byte ptr [rbx]", "hlt"),
            1,
            0xffff_ffff_ffff_ff81,
        ),
        (
            code64!("movsx rax, word ptr [rbx]", "hlt"),
            2,
            0xffff_ffff_ffff_8281,
        ),
        (
            code64!("movsxd rax, dword ptr [rbx]", "hlt"),
            4,
            0xffff_ffff_8483_8281,
        ),
    ];
    for (code, len, want) in cases {
        let guest = guest(code);
        guest.vcpu.expect_exit(load(MMIO, len));
        guest.vcpu.answer_mmio(&DATA);
        guest.run_to_halt();
        expect::eq("RAX", guest.vcpu.regs().rax, want);
    }
}

fn addressing_forms() {
    let guest = guest(code64!(
        "mov eax, [rbx + 0x10]",
        "mov eax, [rbx + rcx * 8 + 0x200]",
        "mov eax, [rbx - 4]",
        "mov eax, [r9 + r10 * 2]",
        "mov eax, [ebx]",
        "hlt"
    ));
    let regs = guest.vcpu.regs();
    let (rcx, r9, r10) = (3, MMIO + 0x1000, 0x80);
    guest.vcpu.set_regs(&kvm_regs {
        rcx,
        r9,
        r10,
        ..regs
    });
    for gpa in [MMIO + 0x10, MMIO + 0x218, MMIO - 4, MMIO + 0x1100, MMIO] {
        guest.vcpu.expect_exit(load(gpa, 4));
        guest.vcpu.answer_mmio(&DATA);
    }
    guest.run_to_halt();
}

fn accumulator_forms() {
    let mut code = vec![0x48, 0xa1];
    code.extend((MMIO + 0x40).to_le_bytes());
    code.push(0xa2);
    code.extend((MMIO + 0x50).to_le_bytes());
    code.push(0xf4);
    let guest = guest(&code);
    guest.vcpu.expect_exit(load(MMIO + 0x40, 8));
    guest.vcpu.answer_mmio(&DATA);
    guest.vcpu.expect_exit(store(MMIO + 0x50, &DATA[..1]));
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, u64::from_le_bytes(DATA));
}

fn real_mode() {
    let guest = Guest::real(code16!(
        "mov ax, 0xf000",
        "mov ds, ax",
        "mov al, [0x10]",
        "mov [0x20], ax",
        "mov ecx, [0x30]",
        "hlt"
    ));
    // Memory up to 0xf0000 alone.
    let slot = crate::vm::Slot {
        size: 0,
        ..crate::vm::Slot::of(0, 0, &guest.memory)
    };
    expect::ok("delete", guest.vm.set_slot(slot));
    expect::ok(
        "add",
        guest.vm.set_slot(crate::vm::Slot {
            size: 0xf_0000,
            ..slot
        }),
    );
    guest.vcpu.expect_exit(load(0xf_0010, 1));
    guest.vcpu.answer_mmio(&[0x77]);
    guest.vcpu.expect_exit(store(0xf_0020, &[0x77, 0xf0]));
    guest.vcpu.expect_exit(load(0xf_0030, 4));
    guest.vcpu.answer_mmio(&DATA);
    guest.run_to_halt();
    expect::eq("ECX", guest.vcpu.regs().rcx, 0x8483_8281);
}

fn protected_mode() {
    for mode in [Mode::Protected, Mode::Paging32, Mode::Pae] {
        let code = code32!(
            "mov eax, [ebx]",
            "mov [ebx + 4], al",
            "mov ds:[0x10000100], eax",
            "hlt"
        );
        let guest = Guest::new(mode, code);
        guest.vcpu.set_regs(&kvm_regs {
            rbx: MMIO,
            ..guest.vcpu.regs()
        });
        guest.vcpu.expect_exit(load(MMIO, 4));
        guest.vcpu.answer_mmio(&DATA);
        guest.vcpu.expect_exit(store(MMIO + 4, &DATA[..1]));
        guest.vcpu.expect_exit(store(MMIO + 0x100, &DATA[..4]));
        guest.run_to_halt();
    }
}

fn segment_base() {
    let guest = guest(code64!("mov eax, fs:[rcx]", "mov gs:[rcx + 8], eax", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    (sregs.fs.base, sregs.gs.base) = (MMIO, MMIO + 0x1000);
    guest.vcpu.set_sregs(&sregs);
    guest.vcpu.set_regs(&kvm_regs {
        rcx: 0x20,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(load(MMIO + 0x20, 4));
    guest.vcpu.answer_mmio(&DATA);
    guest.vcpu.expect_exit(store(MMIO + 0x1028, &DATA[..4]));
    guest.run_to_halt();
    let protected = Guest::protected(code32!("mov eax, [ebx]", "hlt"));
    let mut sregs = protected.vcpu.sregs();
    sregs.ds.base = 0x1000;
    protected.vcpu.set_sregs(&sregs);
    protected.vcpu.set_regs(&kvm_regs {
        rbx: MMIO,
        ..protected.vcpu.regs()
    });
    protected.vcpu.expect_exit(load(MMIO + 0x1000, 4));
    protected.vcpu.answer_mmio(&DATA);
    protected.run_to_halt();
}

/// While a load waits for its data its register is as it was.
fn state_at_exit() {
    let guest = guest(code64!("mov rax, [rbx]", "hlt"));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0x55,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(load(MMIO, 8));
    let regs = guest.vcpu.regs();
    expect::eq("RAX and RIP", (regs.rax, regs.rip), (0x55, layout::CODE));
}

fn completed_by_immediate_exit() {
    let guest = guest(code64!("mov rax, [rbx]", "hlt"));
    guest.vcpu.expect_exit(load(MMIO, 8));
    guest.vcpu.answer_mmio(&DATA);
    guest.vcpu.set_immediate_exit(true);
    expect::errno("KVM_RUN", guest.vcpu.run(), libc::EINTR);
    let regs = guest.vcpu.regs();
    let want = (u64::from_le_bytes(DATA), layout::CODE + 3);
    expect::eq("RAX and RIP", (regs.rax, regs.rip), want);
}

fn at_the_edges() {
    let guest = guest(code64!(
        "mov rax, [rbx]",
        "mov al, [rcx]",
        "mov [rdx], ax",
        "hlt"
    ));
    let end = layout::MEMORY as u64;
    let regs = guest.vcpu.regs();
    let (rbx, rcx, rdx) = (end, end + 0xfff, MMIO + 0xffe);
    guest.vcpu.set_regs(&kvm_regs {
        rbx,
        rcx,
        rdx,
        ..regs
    });
    guest.vcpu.expect_exit(load(end, 8));
    guest.vcpu.answer_mmio(&[0; 8]);
    guest.vcpu.expect_exit(load(end + 0xfff, 1));
    guest.vcpu.answer_mmio(&[7]);
    guest.vcpu.expect_exit(store(MMIO + 0xffe, &[7, 0]));
    guest.run_to_halt();
}

/// An access over the end of a page is two exits.
fn across_pages() {
    let guest = guest(code64!(
        "mov rax, [rbx + 0xffd]",
        "mov [rbx + 0xffd], rax",
        "hlt"
    ));
    guest.vcpu.expect_exit(load(MMIO + 0xffd, 3));
    guest.vcpu.answer_mmio(&DATA[..3]);
    guest.vcpu.expect_exit(load(MMIO + 0x1000, 5));
    guest.vcpu.answer_mmio(&DATA[3..]);
    guest.vcpu.expect_exit(store(MMIO + 0xffd, &DATA[..3]));
    guest.vcpu.expect_exit(store(MMIO + 0x1000, &DATA[3..]));
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, u64::from_le_bytes(DATA));
}

/// An access that begins in memory and ends behind it.
fn across_memory_and_nothing() {
    let end = layout::MEMORY as u64;
    let guest = guest(code64!("mov rax, [rbx]", "mov [rbx], rcx", "hlt"));
    guest.memory.write(end as usize - 4, 0x4433_2211u32);
    let rcx = 0x0807_0605_0403_0201;
    guest.vcpu.set_regs(&kvm_regs {
        rbx: end - 4,
        rcx,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(load(end, 4));
    guest.vcpu.answer_mmio(&DATA[..4]);
    guest.vcpu.expect_exit(store(end, &[5, 6, 7, 8]));
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 0x8483_8281_4433_2211);
    expect::eq(
        "memory",
        guest.memory.read::<u32>(end as usize - 4),
        0x0403_0201,
    );
}

/// The exit tells the guest-physical address, whatever the guest's tables make of it.
fn mapped_elsewhere() {
    let guest = guest(code64!("mov eax, [rbx + 0x123]", "hlt"));
    let target = 0xfee0_0000;
    guest.poke(
        layout::PD + MMIO / (2 << 20) * 8,
        target | bits::PTE | bits::PTE_PS,
    );
    guest.vcpu.expect_exit(load(target + 0x123, 4));
    guest.vcpu.answer_mmio(&DATA);
    guest.run_to_halt();
}

/// Where the guest's own tables have nothing it is the guest's page fault.
fn guest_page_fault_first() {
    let guest = guest(code64!("mov eax, [rbx + 8]"));
    guest.poke(layout::PD + MMIO / (2 << 20) * 8, 0);
    let trap = guest.run_to_trap();
    let got = (trap.vector, trap.error, trap.cr2);
    expect::eq("#PF", got, (14, 0, MMIO + 8));
}

fn many() {
    let guest = guest(code64!(
        "xor ecx, ecx",
        "2: mov eax, [rbx + rcx * 4]",
        "mov [rbx + rcx * 4], eax",
        "inc ecx",
        "cmp ecx, 500",
        "jne 2b",
        "hlt"
    ));
    for i in 0..500u32 {
        let gpa = MMIO + u64::from(i) * 4;
        guest.vcpu.expect_exit(load(gpa, 4));
        guest.vcpu.answer_mmio(&(i * 3).to_le_bytes());
        guest.vcpu.expect_exit(store(gpa, &(i * 3).to_le_bytes()));
    }
    guest.run_to_halt();
}

/// An address where there was one instruction has another, because its bytes changed or because it
/// leads to another page: what is done is what is there now.
fn same_address_other_instruction() {
    const FIRST: u64 = 0x3_0000;
    const SECOND: u64 = 0x3_1000;
    let guest = guest(code64!(
        "mov edi, {at}",
        "call rdi",
        "call rdi",
        "mov byte ptr [{first} + 1], 0x0b", // ECX in place of EAX
        "call rdi",
        "mov qword ptr [{table}], {second} + 7",
        "invlpg [rdi]",
        "call rdi",
        "hlt";
        at = const layout::EXTRA,
        first = const FIRST,
        second = const SECOND,
        table = const layout::PT,
    ));
    guest.load(FIRST, code64!("mov eax, [rbx]", "ret"));
    guest.load(SECOND, code64!("mov edx, [rbx]", "ret"));
    guest.poke(layout::PT, FIRST | bits::PTE);
    guest.poke(
        layout::PD + layout::EXTRA / (2 << 20) * 8,
        layout::PT | bits::PTE,
    );
    for answer in 1..=4u32 {
        guest.vcpu.expect_exit(load(MMIO, 4));
        guest.vcpu.answer_mmio(&answer.to_le_bytes());
    }
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("EAX, ECX, EDX", (regs.rax, regs.rcx, regs.rdx), (2, 3, 4));
}

/// What is not a plain MOV is either done right, with all its exits, or given up with the
/// instruction's bytes; never half.
fn other_instructions() {
    let cases: [(&str, &[u8]); 5] = [
        ("ADD", code64!("add dword ptr [rbx], 5", "hlt")),
        ("XCHG", code64!("xchg [rbx], eax", "hlt")),
        (
            "REP MOVSB",
            code64!("mov rsi, rbx", "mov ecx, 4", "rep movsb", "hlt"),
        ),
        ("PUSH", code64!("push qword ptr [rbx]", "hlt")),
        ("OR with LOCK", code64!("lock or dword ptr [rbx], 1", "hlt")),
    ];
    for (name, code) in cases {
        let guest = guest(code);
        let regs = guest.vcpu.regs();
        guest.vcpu.set_regs(&kvm_regs {
            rax: 9,
            rdi: layout::DATA,
            ..regs
        });
        let mut device = Mapping::anonymous(PAGE);
        device.write(0, 0x40u64);
        let finished = emulate_device(&guest, &mut device, code);
        if !finished {
            continue;
        }
        let regs = guest.vcpu.regs();
        let device: u32 = device.read(0);
        match name {
            "ADD" => expect::eq(name, device, 0x45),
            "XCHG" => expect::eq(name, (device, regs.rax), (9, 0x40)),
            "REP MOVSB" => expect::eq(name, guest.peek(layout::DATA), 0x40),
            "PUSH" => expect::eq(name, guest.peek(layout::STACK - 8), 0x40),
            _ => expect::eq(name, device, 0x41),
        }
    }
}

/// Serves loads and stores from `device` until the guest halts: true; false where KVM gave up.
fn emulate_device(guest: &Guest, device: &mut Mapping, code: &[u8]) -> bool {
    for _ in 0..100 {
        match guest.vcpu.run() {
            Ok(Exit::MmioRead { gpa, len }) => {
                let data = device.read_bytes((gpa - MMIO) as usize, len as usize);
                guest.vcpu.answer_mmio(&data);
            }
            Ok(Exit::MmioWrite { gpa, data }) => device.write_bytes((gpa - MMIO) as usize, &data),
            Ok(Exit::Hlt) => return true,
            Ok(Exit::InternalError { suberror, data }) => {
                expect::eq("suberror", suberror, KVM_INTERNAL_ERROR_EMULATION);
                expect_bytes_of(guest, code, &data);
                return false;
            }
            other => expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    panic!("expected the guest to halt or KVM to give up, it did neither");
}

/// `emulation_failure` of the run page: flags, then the size and the bytes of the instruction.
#[track_caller]
fn expect_bytes_of(guest: &Guest, code: &[u8], data: &[u64]) {
    const INSTRUCTION_BYTES: u64 = 1;
    expect::that(
        "flags, size and bytes",
        data.len() >= 3 && data[0] & INSTRUCTION_BYTES != 0,
    );
    let bytes: Vec<u8> = data[1..]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let size = usize::from(bytes[0]);
    let rip = (guest.vcpu.regs().rip - layout::CODE) as usize;
    let len = size.min(code.len() - rip);
    expect::that("some bytes", (1..=15).contains(&size));
    expect::eq("bytes", &bytes[1..1 + len], &code[rip..rip + len]);
}

/// A shorter load must not get bytes of an earlier, longer one.
fn data_of_previous_exit() {
    let guest = guest(code64!(
        "mov rax, [rbx]",
        "movzx ecx, byte ptr [rbx]",
        "hlt"
    ));
    guest.vcpu.expect_exit(load(MMIO, 8));
    guest.vcpu.answer_mmio(&[0xff; 8]);
    guest.vcpu.expect_exit(load(MMIO, 1));
    guest.vcpu.answer_mmio(&[0x01]);
    guest.run_to_halt();
    expect::eq("RCX", guest.vcpu.regs().rcx, 1);
}
