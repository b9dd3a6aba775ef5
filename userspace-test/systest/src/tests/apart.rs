// SPDX-License-Identifier: GPL-2.0
//! Each register of a guest has a value of its own and keeps it over every kind of exit: nothing of
//! the host's, of the VMM's or of KVM's is ever in there.

use std::time::Duration;

use kvm_bindings::*;
use libc::EINTR;

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, Guest};
use crate::harness::skip;
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys;
use crate::vcpu::Exit;
use crate::vm::Kvm;

tests! {
    "apart":
    at_entry, over_exits_to_the_vmm, over_exits_within_kvm, over_faults, over_interruptions,
    with_breakpoints_of_the_host,
}

/// Where the guest stores its registers, 8 bytes each, in the order of [`NAMES`].
const DUMP: u64 = layout::DATA;
/// Where it stores its XSAVE state.
const XSAVE: u64 = layout::DATA + 0x1000;
/// Pointers to the code that stores, and to the code that is tried.
const TO_STORE: u64 = layout::DATA + 0x800;
const TO_TRY: u64 = layout::DATA + 0x808;
/// The indices of MSRs, 4 bytes each, then 0.
const INDICES: u64 = layout::DATA + 0x900;
/// Written where the guest has stored all.
const STORED: u16 = 0xe9;

const NAMES: &[&str] = &[
    "RAX",
    "RBX",
    "RCX",
    "RDX",
    "RSI",
    "RDI",
    "RBP",
    "RSP",
    "R8",
    "R9",
    "R10",
    "R11",
    "R12",
    "R13",
    "R14",
    "R15",
    "RFLAGS",
    "FS base",
    "GS base",
    "KERNEL_GS_BASE",
    "DR0",
    "DR1",
    "DR2",
    "DR3",
    "DR6",
    "DR7",
    "CR0",
    "CR2",
    "CR3",
    "CR4",
    "CR8",
    "XCR0",
    "DS, ES, FS, GS",
    "CS, SS, TR, LDTR",
    "GDTR base",
    "IDTR base",
    "GDTR and IDTR limits",
];
/// Registers that some instructions change, by their place in [`NAMES`].
const RAX: usize = 0;
const RBX: usize = 1;
const RCX: usize = 2;
const RDX: usize = 3;
const CR2: usize = 27;

/// MSRs that a guest has of its own, and values for them.
const MSRS: &[(u32, u64)] = &[
    (0x174, 0x1238),
    (0x175, 0xffff_8000_1111_2222),
    (0x176, 0xffff_8000_3333_4444),
    (0x277, 0x0006_0100_0104_0506),
    (0xc000_0081, 0x0018_0008_1111_2222),
    (0xc000_0082, 0xffff_8000_5555_6666),
    (0xc000_0083, 0xffff_8000_7777_8888),
    (0xc000_0084, 0x0004_7700),
    (0xc000_0103, 0x5a5a_1234),
];

/// Stores everything, puts back what it used, and goes on to the code that is tried.
fn storing_code() -> &'static [u8] {
    code64!(
        "mov [{d}], rax", "mov [{d} + 0x08], rbx", "mov [{d} + 0x10], rcx",
        "mov [{d} + 0x18], rdx", "mov [{d} + 0x20], rsi", "mov [{d} + 0x28], rdi",
        "mov [{d} + 0x30], rbp", "mov [{d} + 0x38], rsp", "mov [{d} + 0x40], r8",
        "mov [{d} + 0x48], r9", "mov [{d} + 0x50], r10", "mov [{d} + 0x58], r11",
        "mov [{d} + 0x60], r12", "mov [{d} + 0x68], r13", "mov [{d} + 0x70], r14",
        "mov [{d} + 0x78], r15", "pushfq", "pop qword ptr [{d} + 0x80]",
        // The vector registers next: what follows makes exits of its own.
        "mov eax, -1", "mov edx, -1", "xsave64 [{xsave}]",
        "rdfsbase rax", "mov [{d} + 0x88], rax",
        "rdgsbase rax", "mov [{d} + 0x90], rax",
        "swapgs", "rdgsbase rax", "swapgs", "mov [{d} + 0x98], rax",
        "mov rax, dr0", "mov [{d} + 0xa0], rax", "mov rax, dr1", "mov [{d} + 0xa8], rax",
        "mov rax, dr2", "mov [{d} + 0xb0], rax", "mov rax, dr3", "mov [{d} + 0xb8], rax",
        "mov rax, dr6", "mov [{d} + 0xc0], rax", "mov rax, dr7", "mov [{d} + 0xc8], rax",
        "mov rax, cr0", "mov [{d} + 0xd0], rax", "mov rax, cr2", "mov [{d} + 0xd8], rax",
        "mov rax, cr3", "mov [{d} + 0xe0], rax", "mov rax, cr4", "mov [{d} + 0xe8], rax",
        "mov rax, cr8", "mov [{d} + 0xf0], rax",
        "xor ecx, ecx", "xgetbv", "mov [{d} + 0xf8], eax", "mov [{d} + 0xfc], edx",
        "mov [{d} + 0x100], ds", "mov [{d} + 0x102], es", "mov [{d} + 0x104], fs",
        "mov [{d} + 0x106], gs", "mov [{d} + 0x108], cs", "mov [{d} + 0x10a], ss",
        "str word ptr [{d} + 0x10c]", "sldt word ptr [{d} + 0x10e]",
        // Limit, then base.
        "sgdt [{d} + 0x120]", "mov rax, [{d} + 0x122]", "mov [{d} + 0x110], rax",
        "mov r8w, [{d} + 0x120]",
        "sidt [{d} + 0x120]", "mov rax, [{d} + 0x122]", "mov [{d} + 0x118], rax",
        "mov r9w, [{d} + 0x120]",
        "mov qword ptr [{d} + 0x120], 0", "mov [{d} + 0x120], r8w", "mov [{d} + 0x122], r9w",
        "xor r8d, r8d",
        "2: mov ecx, [{indices} + 4 * r8]", "test ecx, ecx", "jz 3f", "rdmsr",
        "mov [{d} + 0x128 + 8 * r8], eax", "mov [{d} + 0x12c + 8 * r8], edx",
        "inc r8d", "jmp 2b",
        "3: mov rax, [{d}]", "mov rcx, [{d} + 0x10]", "mov rdx, [{d} + 0x18]",
        "mov r8, [{d} + 0x40]", "mov r9, [{d} + 0x48]",
        "push qword ptr [{d} + 0x80]", "popfq",
        "out {stored}, al",
        "jmp qword ptr [{to_try}]";
        d = const DUMP, xsave = const XSAVE, indices = const INDICES, to_try = const TO_TRY,
        stored = const STORED
    )
}

/// A state component of XSAVE: its number, where it lies, its bytes.
type Component = (u32, usize, usize);

/// What the guest's CPUID says that XSAVE saves, in 4096 bytes at most.
fn components(cpuid: &Cpuid, mask: u64) -> Vec<Component> {
    let leaf = |number| {
        let entries = &cpuid.entries[..cpuid.nent as usize];
        let found = entries
            .iter()
            .find(|e| (e.function, e.index) == (0xd, number));
        found.map(|e| (number, e.ebx as usize, e.eax as usize))
    };
    let others = (2..63)
        .filter(|number| mask & 1 << number != 0)
        .filter_map(leaf);
    // ST registers, and XMM registers.
    [(0, 32, 128), (1, 160, 256)]
        .into_iter()
        .chain(others)
        .collect()
}

/// What every register is set to, as the guest shall find it.
struct State {
    words: Vec<u64>,
    msrs: Vec<(u32, u64)>,
    xsave: Vec<u8>,
    components: Vec<Component>,
}

/// Bytes that no two places have in common.
fn pattern(at: usize) -> u8 {
    (at * 151 + (at >> 8) * 29 + 7) as u8
}

impl State {
    /// Sets all registers of `guest`, whose debug registers are in use if DR7 says so.
    #[track_caller]
    fn set(guest: &Guest, dr7: u64) -> Self {
        const CR4_OSXMMEXCPT: u64 = 1 << 10;
        const CR4_FSGSBASE: u64 = 1 << 16;
        const TASK_PRIORITY: u64 = 5;
        let vcpu = &guest.vcpu;
        let value = |i: u64| 0x1111_1111_0000_0001 * (i + 1);
        let regs = kvm_regs {
            rax: value(0),
            rbx: value(1),
            rcx: value(2),
            rdx: value(3),
            rsi: value(4),
            rdi: value(5),
            rbp: value(6),
            rsp: layout::STACK,
            r8: value(7),
            r9: value(8),
            r10: value(9),
            r11: value(10),
            r12: value(11),
            r13: value(12),
            r14: value(13),
            r15: !value(14),
            rip: layout::CODE,
            // IF and all that arithmetic sets.
            rflags: 0xad7,
        };
        vcpu.set_regs(&regs);

        let mut sregs = vcpu.sregs();
        sregs.fs.base = 0x7ab1_e000_1000;
        sregs.gs.base = 0xffff_9ab1_e000_2000;
        sregs.cr2 = 0xffff_8765_4321_0000;
        sregs.cr4 |= bits::CR4_OSXSAVE | bits::CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE;
        sregs.cr8 = TASK_PRIORITY;
        vcpu.set_sregs(&sregs);
        vcpu.set_cr8(TASK_PRIORITY);

        let mut debug = expect::ok("KVM_GET_DEBUGREGS", vcpu.get(GET_DEBUGREGS));
        debug.db = [1, 2, 3, 4].map(|i| 0x7111_0000_0000 * i);
        debug.dr6 = 0xffff_0ff5;
        debug.dr7 = dr7;
        expect::ok("KVM_SET_DEBUGREGS", vcpu.set(SET_DEBUGREGS, &debug));

        let kernel_gs = 0xffff_aab1_e000_3000;
        expect::that("KERNEL_GS_BASE", vcpu.set_msr(0xc000_0102, kernel_gs));
        let mut msrs = MSRS.to_vec();
        msrs.push((0xc000_0080, sregs.efer));
        for &(index, value) in &msrs {
            expect::that(&format!("MSR {index:#x}"), vcpu.set_msr(index, value));
        }

        for (i, &(index, _)) in msrs.iter().enumerate() {
            guest.memory.write(INDICES as usize + 4 * i, index);
        }

        let cpuid = Kvm::open().supported_cpuid();
        let leaves = &cpuid.entries[..cpuid.nent as usize];
        let leaf = leaves.iter().find(|e| (e.function, e.index) == (0xd, 0));
        let Some(xcr0) = leaf.map(|e| u64::from(e.edx) << 32 | u64::from(e.eax)) else {
            skip("this CPU has no XSAVE");
        };
        let mut xcrs = expect::ok("KVM_GET_XCRS", vcpu.get(GET_XCRS));
        xcrs.xcrs[0].value = xcr0;
        expect::ok("KVM_SET_XCRS", vcpu.set(SET_XCRS, &xcrs));
        let components = components(&cpuid, xcr0);
        let xsave = Self::set_xsave(guest, &components, xcr0);

        let mut words = vec![
            regs.rax,
            regs.rbx,
            regs.rcx,
            regs.rdx,
            regs.rsi,
            regs.rdi,
            regs.rbp,
            regs.rsp,
            regs.r8,
            regs.r9,
            regs.r10,
            regs.r11,
            regs.r12,
            regs.r13,
            regs.r14,
            regs.r15,
            regs.rflags,
        ];
        words.extend([sregs.fs.base, sregs.gs.base, kernel_gs]);
        words.extend(debug.db);
        words.extend([debug.dr6, dr7, sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4]);
        words.extend([TASK_PRIORITY, xcr0]);
        let four = |of: [u16; 4]| of.iter().rev().fold(0, |sum, &s| sum << 16 | u64::from(s));
        words.push(four(
            [&sregs.ds, &sregs.es, &sregs.fs, &sregs.gs].map(|s| s.selector),
        ));
        words.push(four(
            [&sregs.cs, &sregs.ss, &sregs.tr, &sregs.ldt].map(|s| s.selector),
        ));
        words.extend([sregs.gdt.base, sregs.idt.base]);
        words.push(four([sregs.gdt.limit, sregs.idt.limit, 0, 0]));
        assert_eq!(words.len(), NAMES.len());
        Self {
            words,
            msrs,
            xsave,
            components,
        }
    }

    #[track_caller]
    fn set_xsave(guest: &Guest, components: &[Component], xcr0: u64) -> Vec<u8> {
        let mut state = vec![0; size_of::<kvm_xsave>()];
        for &(number, at, len) in components {
            for (i, byte) in state.iter_mut().enumerate().skip(at).take(len) {
                // ST registers have 10 bytes each.
                let is_used = number != 0 || i % 16 < 10;
                *byte = if is_used { pattern(i) } else { 0 };
            }
        }
        // FCW and MXCSR that are not those after reset, the tags of all ST registers, what is in use.
        state[..2].copy_from_slice(&0x027eu16.to_le_bytes());
        state[4] = 0xff;
        state[24..28].copy_from_slice(&0x9fa0u32.to_le_bytes());
        state[512..520].copy_from_slice(&xcr0.to_le_bytes());
        let mut xsave = kvm_xsave::default();
        for (word, bytes) in xsave.region.iter_mut().zip(state.chunks(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        expect::ok("KVM_SET_XSAVE", guest.vcpu.set(SET_XSAVE, &xsave));
        state
    }

    /// Compares what the guest has stored, but for the registers in `changed`.
    #[track_caller]
    fn compare(&self, guest: &Guest, when: &str, changed: &[usize]) {
        for (i, (name, &want)) in NAMES.iter().zip(&self.words).enumerate() {
            if !changed.contains(&i) {
                let got = guest.peek(DUMP + 8 * i as u64);
                expect::eq(&format!("{name} {when}"), got, want);
            }
        }
        for (i, &(index, want)) in self.msrs.iter().enumerate() {
            let got = guest.peek(DUMP + 8 * (NAMES.len() + i) as u64);
            expect::eq(&format!("MSR {index:#x} {when}"), got, want);
        }
        let got = guest.memory.read_bytes(XSAVE as usize, self.xsave.len());
        let mut parts = vec![("FCW".to_string(), 0, 2), ("MXCSR".to_string(), 24, 4)];
        let names = self.components.iter();
        parts.extend(names.map(|&(n, at, len)| (format!("XSAVE's component {n}"), at, len)));
        for (name, at, len) in parts {
            let (got, want) = (&got[at..at + len], &self.xsave[at..at + len]);
            expect::eq(&format!("{name} {when}"), got, want);
        }
    }
}

/// What is tried: its name, the instructions, and the registers that they change.
struct Try(&'static str, &'static [u8], &'static [usize]);

/// DR7 with nothing in use, and with four breakpoints on code that is nowhere.
const DR7: [u64; 2] = [0x400, 0x755];
/// How often the guest does the same without the VMM setting anything.
const LAPS: usize = 3;

/// A guest that runs `tried`, stores its registers, and does that over and over.
#[track_caller]
fn guest(tried: &Try) -> Guest {
    let mut code = tried.1.to_vec();
    code.extend(code64!("jmp qword ptr [{to}]"; to = const TO_STORE));
    let guest = Guest::long(&code);
    guest.load(layout::CODE2, storing_code());
    guest.poke(TO_STORE, layout::CODE2);
    guest.poke(TO_TRY, layout::CODE);
    guest
}

/// Runs until the guest has stored its registers; other exits are answered.
#[track_caller]
fn lap(guest: &Guest) {
    loop {
        match guest.vcpu.run() {
            Ok(Exit::Out { port: STORED, .. }) => return,
            Ok(Exit::Out { .. } | Exit::MmioWrite { .. } | Exit::Hlt) | Err(sys::Errno(EINTR)) => {}
            Ok(Exit::In { .. }) => guest.vcpu.answer_io(&[0x77]),
            Ok(Exit::MmioRead { .. }) => guest.vcpu.answer_mmio(&[0x77; 8]),
            other => panic!("KVM_RUN: {other:x?}"),
        }
    }
}

/// Runs each of `all`, with debug registers in use and not.
#[track_caller]
fn run(all: &[Try]) {
    for tried in all {
        run_one(&guest(tried), tried);
    }
}

#[track_caller]
fn run_one(guest: &Guest, tried: &Try) {
    for dr7 in DR7 {
        let state = State::set(guest, dr7);
        for count in 0..LAPS {
            lap(guest);
            let when = format!("after {}, DR7 {dr7:#x}, lap {count}", tried.0);
            state.compare(guest, &when, tried.2);
        }
    }
}

fn at_entry() {
    run(&[Try("nothing", &[], &[])]);
}

fn exits_to_the_vmm() -> Vec<Try> {
    vec![
        Try("OUT", code64!("out 0x10, al"), &[]),
        Try("IN", code64!("in al, 0x10"), &[RAX]),
        Try(
            "MMIO load",
            code64!("mov rax, [{m}]"; m = const layout::MMIO),
            &[RAX],
        ),
        Try(
            "MMIO store",
            code64!("mov [{m}], rbx"; m = const layout::MMIO),
            &[],
        ),
        Try("HLT", code64!("hlt"), &[]),
    ]
}

fn over_exits_to_the_vmm() {
    run(&exits_to_the_vmm());
}

fn exits_within_kvm() -> Vec<Try> {
    vec![
        Try("CPUID", code64!("cpuid"), &[RAX, RBX, RCX, RDX]),
        Try(
            "RDMSR and WRMSR",
            code64!("mov ecx, 0x277", "rdmsr", "wrmsr"),
            &[RAX, RCX, RDX],
        ),
        Try("VMCALL", code64!("vmcall"), &[RAX]),
        Try("MOV CR0", code64!("mov rax, cr0", "mov cr0, rax"), &[RAX]),
        Try("MOV CR3", code64!("mov rax, cr3", "mov cr3, rax"), &[RAX]),
        Try("MOV CR4", code64!("mov rax, cr4", "mov cr4, rax"), &[RAX]),
        Try("MOV CR8", code64!("mov rax, cr8", "mov cr8, rax"), &[RAX]),
        Try("MOV DR0", code64!("mov rax, dr0", "mov dr0, rax"), &[RAX]),
        Try("CLTS", code64!("clts"), &[]),
        Try("INVLPG", code64!("invlpg [rsp]"), &[]),
        Try("WBINVD", code64!("wbinvd"), &[]),
        Try("PAUSE", code64!("pause"), &[]),
        Try("RDTSCP", code64!("rdtscp"), &[RAX, RCX, RDX]),
        Try(
            "XSETBV",
            code64!("mov ecx, 0", "xgetbv", "xsetbv"),
            &[RAX, RCX, RDX],
        ),
    ]
}

fn over_exits_within_kvm() {
    run(&exits_within_kvm());
}

fn over_faults() {
    /// Handlers of the guest's, and memory that goes away.
    const HANDLERS: u64 = layout::CODE2 + 0x800;
    let faults = [
        // The first four are skipped by a handler: two bytes, or eight behind an error code.
        Try("#UD", code64!("ud2"), &[]),
        Try("#BP", code64!("int3"), &[]),
        Try(
            "#GP",
            code64!("mov ds, [{d}]", "nop"; d = const layout::DATA + 0xff8),
            &[],
        ),
        Try("#PF", code64!("mov rax, [-0x1000]"), &[CR2]),
        Try(
            "an EPT violation",
            code64!("mov [{e}], rbx"; e = const layout::EXTRA),
            &[],
        ),
    ];
    for (number, tried) in faults.iter().enumerate() {
        let guest = guest(tried);
        let memory = Mapping::anonymous(PAGE);
        guest.vm.add_memory(1, layout::EXTRA, &memory);
        guest.poke(layout::DATA + 0xff8, 0xfff8);
        let handlers = [
            (6, code64!("add qword ptr [rsp], 2", "iretq")),
            (3, code64!("iretq")),
            (13, code64!("add rsp, 8", "add qword ptr [rsp], 8", "iretq")),
            (14, code64!("add rsp, 8", "add qword ptr [rsp], 8", "iretq")),
        ];
        if let Some(&(vector, code)) = handlers.get(number) {
            guest.load(HANDLERS, code);
            guest.set_handler(vector, HANDLERS);
        }
        for dr7 in DR7 {
            let state = State::set(&guest, dr7);
            for count in 0..LAPS {
                memory
                    .advise(0, PAGE, libc::MADV_DONTNEED)
                    .expect("madvise");
                lap(&guest);
                let when = format!("after {}, DR7 {dr7:#x}, lap {count}", tried.0);
                state.compare(&guest, &when, tried.2);
            }
        }
    }
}

/// Timers of the host, signals, and another thread that wants the CPU.
fn over_interruptions() {
    let spin = code64!("mov ecx, 400000", "2: loop 2b");
    let tried = Try("interruptions", spin, &[RCX]);
    // KVM_CREATE_VM is one of the calls that a signal may end.
    let guest = guest(&tried);
    sys::catch(libc::SIGALRM);
    sys::set_timer(Duration::from_millis(1), Duration::from_millis(1));
    // It ends with the process.
    std::thread::spawn(|| {
        let mut sums = [1.0f64; 4];
        loop {
            sums = sums.map(|sum| sum * 1.000_001 + 0.5);
            std::hint::black_box(sums);
        }
    });
    run_one(&guest, &tried);
    sys::set_timer(Duration::ZERO, Duration::ZERO);
}

/// The VMM's thread has watchpoints where the guest stores: they are not the guest's, and count
/// nothing that it does.
fn with_breakpoints_of_the_host() {
    let addresses = [DUMP, DUMP + 0x10, XSAVE + 32, layout::STACK - 8];
    let watchpoints: Vec<_> = addresses
        .iter()
        .filter_map(|&address| sys::Watchpoint::on_writes(address))
        .collect();
    if watchpoints.len() < addresses.len() {
        skip("the kernel sets no watchpoints here");
    }
    run(&exits_to_the_vmm());
    run(&exits_within_kvm()[..6]);
    for watchpoint in watchpoints {
        expect::eq(
            "the guest's writes that were counted",
            watchpoint.count(),
            0,
        );
    }
}
