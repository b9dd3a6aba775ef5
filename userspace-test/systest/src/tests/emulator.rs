// SPDX-License-Identifier: GPL-2.0
//! Instructions at device memory: what they do there is what the processor does with the same
//! instruction and ordinary memory.

use kvm_bindings::{kvm_regs, KVM_INTERNAL_ERROR_EMULATION};

use super::tests;
use crate::expect;
use crate::guest::{bits, layout, layout::EXTRA, layout::MMIO, Guest, Mode};
use crate::memory::{Mapping, PAGE};
use crate::vcpu::Exit;
use crate::vm::Slot;
use crate::{code16, code32, code64};

tests! {
    "emulator":
    long_mode, across_pages, protected_mode, real_mode, vectors, strings_long_mode,
    strings_protected_mode, read_only_slot, push_to_nowhere, stack_at_device, single_step,
    string_io_of_device,
}

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// Two pages that a guest sees at [`layout::DATA`] or at [`MMIO`].
const SIZE: usize = 2 * PAGE;

/// Code and the flags that the manual leaves undefined after it.
struct Case {
    code: &'static [u8],
    undefined: u64,
    /// KVM gives up on it.
    optional: bool,
}

fn case(code: &'static [u8], undefined: u64) -> Case {
    Case {
        code,
        undefined,
        optional: false,
    }
}

fn optional(code: &'static [u8]) -> Case {
    Case {
        code,
        undefined: 0,
        optional: true,
    }
}

fn pattern() -> Vec<u8> {
    (0..SIZE)
        .map(|i| (i * 0x4d + (i >> 5) * 7 + 3) as u8)
        .collect()
}

/// Serves a device until the guest halts: true; false where KVM gave up.
#[track_caller]
fn run_at_device(guest: &Guest, device: &mut Mapping) -> bool {
    for _ in 0..1000 {
        match guest.vcpu.run() {
            Ok(Exit::MmioRead { gpa, len }) => {
                let data = device.read_bytes((gpa - MMIO) as usize, len as usize);
                guest.vcpu.answer_mmio(&data);
            }
            Ok(Exit::MmioWrite { gpa, data }) => device.write_bytes((gpa - MMIO) as usize, &data),
            Ok(Exit::Hlt) => return true,
            Ok(Exit::InternalError { suberror, .. }) => {
                expect::eq("suberror", suberror, KVM_INTERNAL_ERROR_EMULATION);
                return false;
            }
            other => expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    panic!("expected the guest to halt, it did not");
}

/// Runs each case twice, with RBX (and RSI, where `strings`) `offset` into memory and into a device.
#[track_caller]
fn compare(mode: Mode, cases: &[Case], offset: u64, strings: bool) {
    let guest = Guest::new(mode, &[]);
    let start = guest.vcpu.regs();
    let registers = |base: u64| kvm_regs {
        rax: 0x8899_aabb_0402_0201,
        rcx: 3,
        rdx: 0x1122_3344_5566_7788,
        rbx: base + offset,
        rsi: if strings { base + offset } else { 0x4142_4344 },
        rdi: if strings {
            base + offset + 0x40
        } else {
            0x5152_5354
        },
        rip: start.rip,
        rsp: start.rsp,
        rflags: start.rflags | CF,
        ..Default::default()
    };
    for (number, case) in cases.iter().enumerate() {
        guest.load(layout::CODE, case.code);
        guest.load(layout::DATA, &pattern());
        guest.vcpu.set_regs(&registers(layout::DATA));
        guest.run_to_halt();
        let (want, memory) = (
            guest.vcpu.regs(),
            guest.memory.read_bytes(layout::DATA as usize, SIZE),
        );

        let mut device = Mapping::anonymous(SIZE);
        device.write_bytes(0, &pattern());
        guest.vcpu.set_regs(&registers(MMIO));
        if !run_at_device(&guest, &mut device) {
            expect::that(&format!("case {number} is emulated"), case.optional);
            continue;
        }
        let got = guest.vcpu.regs();
        let what = format!("case {number} at {offset:#x}: {:x?}", case.code);
        let moved = |address: u64| {
            if address.wrapping_sub(MMIO) < SIZE as u64 {
                address - MMIO + layout::DATA
            } else {
                address
            }
        };
        expect::eq(
            &format!("registers after {what}"),
            [
                got.rax,
                got.rcx,
                got.rdx,
                moved(got.rbx),
                moved(got.rsi),
                moved(got.rdi),
                got.rsp,
                got.rip,
            ],
            [
                want.rax, want.rcx, want.rdx, want.rbx, want.rsi, want.rdi, want.rsp, want.rip,
            ],
        );
        let defined = STATUS & !case.undefined;
        expect::eq(
            &format!("flags after {what}"),
            got.rflags & defined,
            want.rflags & defined,
        );
        expect::that(
            &format!("the device is what memory would be after {what}"),
            device.read_bytes(0, SIZE) == memory,
        );
    }
}

fn general() -> Vec<Case> {
    vec![
        case(code64!("add dword ptr [rbx], 5", "hlt"), 0),
        case(code64!("adc [rbx], rax", "hlt"), 0),
        case(code64!("sbb al, [rbx]", "hlt"), 0),
        case(code64!("sub word ptr [rbx], -2", "hlt"), 0),
        case(code64!("lock or dword ptr [rbx], 0x80", "hlt"), AF),
        case(code64!("and [rbx], al", "hlt"), AF),
        case(code64!("lock xor [rbx], rdx", "hlt"), AF),
        case(code64!("cmp [rbx], rax", "hlt"), 0),
        case(code64!("cmp eax, [rbx]", "hlt"), 0),
        case(code64!("test dword ptr [rbx], 0x70007", "hlt"), AF),
        case(code64!("test [rbx], dl", "hlt"), AF),
        case(code64!("inc byte ptr [rbx]", "hlt"), 0),
        case(code64!("lock dec qword ptr [rbx]", "hlt"), 0),
        case(code64!("not word ptr [rbx]", "hlt"), 0),
        case(code64!("neg dword ptr [rbx]", "hlt"), 0),
        case(code64!("shl dword ptr [rbx]", "hlt"), AF),
        case(code64!("sar qword ptr [rbx], cl", "hlt"), AF | OF),
        case(code64!("ror word ptr [rbx], 5", "hlt"), OF),
        case(code64!("rcl byte ptr [rbx]", "hlt"), 0),
        case(code64!("shld [rbx], eax, 9", "hlt"), AF | OF),
        case(code64!("shrd [rbx], rax, cl", "hlt"), AF | OF),
        case(code64!("xchg [rbx], eax", "hlt"), 0),
        case(code64!("xchg dh, [rbx]", "hlt"), 0),
        case(code64!("lock xadd [rbx], rdx", "hlt"), 0),
        case(code64!("cmpxchg [rbx], edx", "hlt"), 0),
        case(
            code64!("mov eax, [rbx]", "lock cmpxchg [rbx], edx", "hlt"),
            0,
        ),
        case(code64!("cmpxchg8b [rbx]", "hlt"), 0),
        case(code64!("bt dword ptr [rbx], 3", "hlt"), STATUS & !CF),
        case(code64!("lock bts qword ptr [rbx], 33", "hlt"), STATUS & !CF),
        case(code64!("btr [rbx], ecx", "hlt"), STATUS & !CF),
        case(
            code64!("mov ecx, 77", "btc [rbx], rcx", "hlt"),
            STATUS & !CF,
        ),
        case(
            code64!("mov ecx, -9", "bts [rbx + 8], ecx", "hlt"),
            STATUS & !CF,
        ),
        case(code64!("setb [rbx]", "hlt"), 0),
        case(code64!("cmovb rdx, [rbx]", "hlt"), 0),
        case(code64!("cmovae edx, [rbx]", "hlt"), 0),
        case(code64!("imul eax, [rbx], 7", "hlt"), STATUS & !CF & !OF),
        case(code64!("mul dword ptr [rbx]", "hlt"), STATUS & !CF & !OF),
        case(
            code64!("xor edx, edx", "div qword ptr [rbx]", "hlt"),
            STATUS,
        ),
        case(code64!("push qword ptr [rbx]", "pop rdx", "hlt"), 0),
        case(code64!("push rdx", "pop qword ptr [rbx]", "hlt"), 0),
        case(code64!("movnti [rbx], rdx", "hlt"), 0),
        case(code64!("movbe [rbx], edx", "movbe rax, [rbx]", "hlt"), 0),
        case(code64!("mov [rbx], ds", "hlt"), 0),
        case(code64!("movsx rdx, word ptr [rbx]", "hlt"), 0),
    ]
}

fn long_mode() {
    compare(Mode::Long, &general(), 0x100, false);
    // What is stored is not to depend on where it is.
    let pair = code64!(
        "mov rsi, rbx",
        "xor ebx, ebx",
        "mov rax, [rsi]",
        "mov rdx, [rsi + 8]",
        "lock cmpxchg16b [rsi]",
        "hlt"
    );
    compare(Mode::Long, &[optional(pair)], 0x110, false);
}

fn across_pages() {
    for offset in [0xffd, 0xfff] {
        compare(Mode::Long, &general(), offset, false);
    }
}

fn protected_mode() {
    let cases = [
        case(code32!("add dword ptr [ebx], 5", "hlt"), 0),
        case(code32!("lock xadd [ebx], dx", "hlt"), 0),
        case(code32!("xchg [ebx + ecx * 4 - 8], eax", "hlt"), 0),
        case(code32!("cmpxchg8b [ebx]", "hlt"), 0),
        case(
            code32!("push dword ptr [ebx]", "pop dword ptr [ebx + 6]", "hlt"),
            0,
        ),
        case(code32!("bts [ebx], ecx", "hlt"), STATUS & !CF),
        case(code32!("not byte ptr [ebx]", "hlt"), 0),
    ];
    for mode in [Mode::Protected, Mode::Paging32, Mode::Pae] {
        for offset in [0x100, 0xffe] {
            compare(mode, &cases, offset, false);
        }
    }
}

/// In real mode nothing maps [`MMIO`]: memory is taken away instead.
fn real_mode() {
    let guest = Guest::real(code16!(
        "mov ax, 0xf000",
        "mov ds, ax",
        "mov es, ax",
        "add word ptr [0x10], 5",
        "lock or dword ptr [0x20], 0x40000",
        "mov di, 0x30",
        "mov cx, 2",
        "mov ax, 0x1234",
        "rep stosw",
        "push word ptr [0x10]",
        "pop dx",
        "hlt"
    ));
    let slot = Slot {
        size: 0,
        ..Slot::of(0, 0, &guest.memory)
    };
    expect::ok("delete", guest.vm.set_slot(slot));
    let size = 0xf_0000;
    expect::ok("add", guest.vm.set_slot(Slot { size, ..slot }));
    let read = |gpa: u64, len: u32, data: &[u8]| {
        guest.vcpu.expect_exit(Exit::MmioRead { gpa, len });
        guest.vcpu.answer_mmio(data);
    };
    let write = |gpa: u64, data: &[u8]| {
        let data = data.to_vec();
        guest.vcpu.expect_exit(Exit::MmioWrite { gpa, data });
    };
    read(0xf_0010, 2, &[0xfe, 0x01]);
    write(0xf_0010, &[0x03, 0x02]);
    read(0xf_0020, 4, &[1, 2, 3, 4]);
    write(0xf_0020, &[1, 2, 7, 4]);
    write(0xf_0030, &[0x34, 0x12]);
    write(0xf_0032, &[0x34, 0x12]);
    read(0xf_0010, 2, &[0x03, 0x02]);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq(
        "CX, DX, DI",
        (regs.rcx, regs.rdx, regs.rdi),
        (0, 0x203, 0x34),
    );
}

/// Vector registers are loaded from and stored to the device; 16 bytes are two accesses of 8.
fn vectors() {
    let guest = Guest::long(&[]);
    let mut sregs = guest.vcpu.sregs();
    sregs.cr4 |= bits::CR4_OSFXSR;
    guest.vcpu.set_sregs(&sregs);
    let cases = [
        case(
            code64!("movdqu xmm1, [rbx]", "movdqu [rbx + 0x20], xmm1", "hlt"),
            0,
        ),
        case(
            code64!("movaps xmm9, [rbx]", "movaps [rbx + 0x20], xmm9", "hlt"),
            0,
        ),
        case(
            code64!(
                "movups xmm1, [rbx + 1]",
                "movntdq [rbx + 0x20], xmm1",
                "hlt"
            ),
            0,
        ),
        optional(code64!(
            "movq xmm1, [rbx]",
            "movq [rbx + 0x20], xmm1",
            "hlt"
        )),
        optional(code64!(
            "movss xmm1, [rbx]",
            "movss [rbx + 0x20], xmm1",
            "hlt"
        )),
        optional(code64!(
            "movd xmm1, [rbx]",
            "movd [rbx + 0x20], xmm1",
            "hlt"
        )),
        optional(code64!(
            "movhps xmm1, [rbx]",
            "movhps [rbx + 0x20], xmm1",
            "hlt"
        )),
    ];
    for (number, case) in cases.iter().enumerate() {
        let mut results = Vec::new();
        for base in [layout::DATA, MMIO] {
            guest.load(layout::CODE, case.code);
            guest.load(layout::DATA, &pattern());
            let mut device = Mapping::anonymous(SIZE);
            device.write_bytes(0, &pattern());
            guest.vcpu.set_regs(&kvm_regs {
                rip: layout::CODE,
                rbx: base + 0x40,
                ..guest.vcpu.regs()
            });
            if !run_at_device(&guest, &mut device) {
                expect::that(&format!("case {number} is emulated"), case.optional);
                break;
            }
            results.push(if base == MMIO {
                device.read_bytes(0, SIZE)
            } else {
                guest.memory.read_bytes(base as usize, SIZE)
            });
        }
        if let [memory, device] = &results[..] {
            expect::that(&format!("case {number}: the same"), memory == device);
            expect::that(&format!("case {number}: a change"), *memory != pattern());
        }
    }
}

fn strings_long_mode() {
    let cases = [
        case(code64!("movsq", "hlt"), 0),
        case(code64!("rep movsb", "hlt"), 0),
        case(code64!("rep movsd", "hlt"), 0),
        case(code64!("rep stosw", "hlt"), 0),
        case(code64!("rep lodsb", "hlt"), 0),
        case(code64!("repe cmpsb", "hlt"), 0),
        case(code64!("repne cmpsw", "hlt"), 0),
        case(code64!("repne scasb", "hlt"), 0),
        case(code64!("mov al, [rdi]", "repe scasb", "hlt"), 0),
        case(code64!("std", "rep movsb", "cld", "hlt"), 0),
        case(code64!("xor ecx, ecx", "rep stosb", "hlt"), 0),
        case(code64!("mov ecx, 70", "rep stosb", "hlt"), 0),
    ];
    for offset in [0x100, 0xfb9] {
        compare(Mode::Long, &cases, offset, true);
    }
}

fn strings_protected_mode() {
    let cases = [
        case(code32!("rep movsd", "hlt"), 0),
        case(code32!("repe cmpsb", "hlt"), 0),
        case(code32!("std", "rep stosw", "cld", "hlt"), 0),
    ];
    for mode in [Mode::Protected, Mode::Pae] {
        compare(mode, &cases, 0xfb9, true);
    }
}

/// A store to a slot that is read-only goes to the VMM; what it makes of it, the guest reads.
fn read_only_slot() {
    let guest = Guest::long(code64!(
        "add dword ptr [rbx], 5",
        "lock inc word ptr [rbx + 8]",
        "mov eax, [rbx]",
        "hlt"
    ));
    let memory = Mapping::anonymous(PAGE);
    memory.write(0, 0x10u32);
    memory.write(8, 0x1ffu16);
    let slot = Slot {
        flags: kvm_bindings::KVM_MEM_READONLY,
        ..Slot::of(1, EXTRA, &memory)
    };
    expect::ok("KVM_SET_USER_MEMORY_REGION", guest.vm.set_slot(slot));
    guest.vcpu.set_regs(&kvm_regs {
        rbx: EXTRA,
        ..guest.vcpu.regs()
    });
    let write = |gpa: u64, data: &[u8]| Exit::MmioWrite {
        gpa,
        data: data.to_vec(),
    };
    guest.vcpu.expect_exit(write(EXTRA, &[0x15, 0, 0, 0]));
    guest.vcpu.expect_exit(write(EXTRA + 8, &[0, 2]));
    guest.run_to_halt();
    expect::eq("EAX", guest.vcpu.regs().rax, 0x10);
}

/// The stack is not there: a page fault at it, and RSP as it was.
fn push_to_nowhere() {
    let guest = Guest::long(code64!("push qword ptr [rbx]"));
    guest.poke(layout::PD + EXTRA / (2 << 20) * 8, 0);
    // The handler has a stack of its own.
    guest
        .memory
        .write(layout::TSS as usize + 0x24, layout::STACK);
    let gate = layout::IDT + 16 * 14;
    guest.poke(gate, guest.peek(gate) | 1 << 32);
    let rsp = EXTRA + 0x1000;
    guest.vcpu.set_regs(&kvm_regs {
        rbx: MMIO,
        rsp,
        ..guest.vcpu.regs()
    });
    // The hypervisor may read the operand before it looks at the stack.
    let mut device = Mapping::anonymous(SIZE);
    expect::that("emulated", run_at_device(&guest, &mut device));
    let trap = guest.trap();
    let got = (trap.vector, trap.error, trap.rip, trap.rsp, trap.cr2);
    expect::eq("#PF", got, (14, 2, layout::CODE, rsp, rsp - 8));
}

/// A stack in device memory.
fn stack_at_device() {
    let guest = Guest::long(code64!(
        "push rbx",
        "push 0x12",
        "pop rax",
        "pop rdx",
        "hlt"
    ));
    guest.vcpu.set_regs(&kvm_regs {
        rbx: 0x1122_3344_5566_7788,
        rsp: MMIO + 0x100,
        ..guest.vcpu.regs()
    });
    let mut device = Mapping::anonymous(SIZE);
    expect::that("emulated", run_at_device(&guest, &mut device));
    let regs = guest.vcpu.regs();
    expect::eq(
        "RAX, RDX, RSP",
        (regs.rax, regs.rdx, regs.rsp),
        (0x12, 0x1122_3344_5566_7788, MMIO + 0x100),
    );
    expect::eq("on the stack", device.read::<u64>(0xf0), 0x12);
}

/// An instruction that is emulated with TF set ends in #DB, as one that is not.
fn single_step() {
    let guest = Guest::long(code64!("add dword ptr [rbx], 5", "nop", "hlt"));
    const TF: u64 = 1 << 8;
    let regs = guest.vcpu.regs();
    guest.vcpu.set_regs(&kvm_regs {
        rbx: MMIO,
        rflags: regs.rflags | TF,
        ..regs
    });
    let mut device = Mapping::anonymous(SIZE);
    expect::that("emulated", run_at_device(&guest, &mut device));
    let trap = guest.trap();
    expect::eq("#DB", trap.vector, 1);
    // KVM is an instruction late where the store went to the VMM.
    let rips = [layout::CODE + 3, layout::CODE + 4];
    expect::that("after it", rips.contains(&trap.rip));
    expect::eq("the device", device.read::<u32>(0), 5);
}

/// INS to a device and OUTS from one.
fn string_io_of_device() {
    let guest = Guest::long(code64!("rep outsb", "mov ecx, 2", "rep insw", "hlt"));
    guest.vcpu.set_regs(&kvm_regs {
        rcx: 2,
        rdx: 0x30,
        rsi: MMIO,
        rdi: MMIO + 0x10,
        ..guest.vcpu.regs()
    });
    let (mut out, mut given) = (Vec::new(), 1u8);
    // One store for each item, or for all of them together.
    let device = Mapping::anonymous(SIZE);
    loop {
        match guest.vcpu.run() {
            Ok(Exit::MmioRead { gpa, len: 1 }) => guest.vcpu.answer_mmio(&[(gpa - MMIO) as u8 + 7]),
            Ok(Exit::Out {
                port: 0x30,
                size: 1,
                data,
            }) => out.extend(data),
            Ok(Exit::In {
                port: 0x30,
                size: 2,
                count,
            }) => {
                let data: Vec<u8> = (0..2 * count).map(|i| given + i as u8).collect();
                guest.vcpu.answer_io(&data);
                given += data.len() as u8;
            }
            Ok(Exit::MmioWrite { gpa, data }) => device.write_bytes((gpa - MMIO) as usize, &data),
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    expect::eq("output", out, vec![7, 8]);
    let stored = device.read_bytes(0x10, 6);
    expect::eq("input", stored, vec![1, 2, 3, 4, 0, 0]);
}
