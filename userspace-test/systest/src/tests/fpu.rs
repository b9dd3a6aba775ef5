// SPDX-License-Identifier: GPL-2.0
//! Floating-point and vector state: KVM_GET/SET_FPU (api.rst 4.22, 4.23), XSAVE, XSAVE2 and XCRS
//! (4.42, 4.43, 4.44, 4.45, KVM_GET_XSAVE2), and the guest's registers apart from the host's.

use std::arch::asm;
use std::time::Duration;

use kvm_bindings::*;
use libc::{EFAULT, EINTR, EINVAL};

use super::regs::{get_faults, set_faults};
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
    "fpu":
    fpu_round_trip, fpu_at_first, fpu_errors, fpu_to_guest, fpu_from_guest, x87_in_guest,
    xsave_round_trip, xsave_bad_state, xsave_errors, xsave2_round_trip, xsave2_errors,
    xcrs_round_trip, xcrs_bad_values, xcrs_errors, xsetbv_in_guest, xsetbv_bad_in_guest,
    avx_in_guest, host_and_guest_apart, two_guests_apart, state_survives_signals,
    not_present_fault,
}

/// Offset of XSTATE_BV in the state's words (SDM vol. 1, 13.4.2).
const XSTATE_BV: usize = 512 / 4;
/// Offset of MXCSR in the state's words.
const MXCSR: usize = 24 / 4;
/// Offset of XMM0 in the state's words.
const XMM0: usize = 160 / 4;

fn pattern() -> kvm_fpu {
    kvm_fpu {
        fpr: std::array::from_fn(|i| std::array::from_fn(|j| (i * 16 + j) as u8)),
        fcw: 0x27f,
        fsw: 0x3800,
        ftwx: 0xff,
        last_opcode: 0x123,
        last_ip: 0x1111_2222,
        last_dp: 0x3333_4444,
        xmm: std::array::from_fn(|i| std::array::from_fn(|j| (0x80 + i + j) as u8)),
        ..kvm_fpu::default()
    }
}

fn fpu_round_trip() {
    let guest = Guest::long(&[]);
    let set = pattern();
    expect::ok("KVM_SET_FPU", guest.vcpu.set(SET_FPU, &set));
    let got = expect::ok("KVM_GET_FPU", guest.vcpu.get(GET_FPU));
    expect::eq("x87 registers", got.fpr, set.fpr);
    expect::eq("XMM registers", got.xmm, set.xmm);
    let control = |f: &kvm_fpu| (f.fcw, f.fsw, f.ftwx, f.last_opcode, f.last_ip, f.last_dp);
    expect::eq("control words", control(&got), control(&set));
}

fn fpu_at_first() {
    let guest = Guest::long(&[]);
    let fpu = expect::ok("KVM_GET_FPU", guest.vcpu.get(GET_FPU));
    expect::eq("FCW, FSW, FTW", (fpu.fcw, fpu.fsw, fpu.ftwx), (0x37f, 0, 0));
    expect::eq("XMM registers", fpu.xmm, [[0; 16]; 16]);
}

fn fpu_errors() {
    let guest = Guest::long(&[]);
    get_faults(&guest.vcpu, GET_FPU.number);
    set_faults(&guest.vcpu, SET_FPU.number);
}

/// KVM_SET_FPU changes registers of a guest that has some: kvm-intel takes one that never used any
/// to have them in their initial state, whatever is set.
fn fpu_to_guest() {
    let guest = Guest::long(code64!(
        "fld1",
        "pcmpeqd xmm0, xmm0",
        "hlt",
        "movups [{data}], xmm0",
        "movups [{data} + 16], xmm15",
        "fnstcw [{data} + 32]",
        "hlt";
        data = const layout::DATA
    ));
    guest.run_to_halt();
    let set = pattern();
    expect::ok("KVM_SET_FPU", guest.vcpu.set(SET_FPU, &set));
    guest.run_to_halt();
    let got: [[u8; 16]; 2] = guest.memory.read(layout::DATA as usize);
    expect::eq(
        "XMM0 and XMM15 in the guest",
        got,
        [set.xmm[0], set.xmm[15]],
    );
    let fcw: u16 = guest.memory.read(layout::DATA as usize + 32);
    expect::eq("FCW in the guest", fcw, set.fcw);
}

fn fpu_from_guest() {
    let guest = Guest::long(code64!(
        "mov rax, 0x1122334455667788",
        "movq xmm3, rax",
        "fninit",
        "fld1",
        "hlt"
    ));
    guest.run_to_halt();
    let fpu = expect::ok("KVM_GET_FPU", guest.vcpu.get(GET_FPU));
    expect::eq(
        "XMM3",
        &fpu.xmm[3][..8],
        &0x1122_3344_5566_7788u64.to_le_bytes(),
    );
    expect::eq(
        "ST0",
        &fpu.fpr[0][..10],
        &[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f],
    );
    expect::eq("FTW", fpu.ftwx, 0x80);
    expect::eq("FSW.TOP", (fpu.fsw >> 11) & 7, 7);
}

/// The square root of 2 by the x87, kept across an exit to the VMM.
fn x87_in_guest() {
    let guest = Guest::long(code64!(
        "fninit",
        "fld1",
        "fadd st(0), st(0)",
        "out 0x10, al",
        "fsqrt",
        "out 0x10, al",
        "fstp qword ptr [{data}]",
        "hlt";
        data = const layout::DATA
    ));
    for _ in 0..2 {
        guest.vcpu.expect_exit(Exit::Out {
            port: 0x10,
            size: 1,
            data: vec![0],
        });
    }
    guest.run_to_halt();
    expect::eq(
        "result",
        f64::from_bits(guest.peek(layout::DATA)),
        std::f64::consts::SQRT_2,
    );
}

fn xsave_round_trip() {
    let guest = Guest::long(code64!("movups [{data}], xmm0", "hlt"; data = const layout::DATA));
    let mut state = expect::ok("KVM_GET_XSAVE", guest.vcpu.get(GET_XSAVE));
    state.region[XSTATE_BV] |= 3;
    state.region[XMM0..XMM0 + 4].copy_from_slice(&[1, 2, 3, 4]);
    state.region[MXCSR] = 0x1fa0;
    expect::ok("KVM_SET_XSAVE", guest.vcpu.set(SET_XSAVE, &state));
    let got = expect::ok("KVM_GET_XSAVE", guest.vcpu.get(GET_XSAVE));
    expect::eq("XMM0", &got.region[XMM0..XMM0 + 4], &[1, 2, 3, 4]);
    expect::eq("MXCSR", got.region[MXCSR], 0x1fa0);
    expect::eq("XSTATE_BV", got.region[XSTATE_BV] & 2, 2);
    let fpu = expect::ok("KVM_GET_FPU", guest.vcpu.get(GET_FPU));
    expect::eq(
        "XMM0 by KVM_GET_FPU",
        fpu.xmm[0][..4].to_vec(),
        vec![1, 0, 0, 0],
    );
    guest.run_to_halt();
    let got: [u32; 4] = guest.memory.read(layout::DATA as usize);
    expect::eq("XMM0 in the guest", got, [1, 2, 3, 4]);
}

fn xsave_bad_state() {
    let guest = Guest::long(&[]);
    let good = expect::ok("KVM_GET_XSAVE", guest.vcpu.get(GET_XSAVE));
    let refused = |what: &str, word: usize, value: u32| {
        let mut state = kvm_xsave {
            region: good.region,
            ..kvm_xsave::default()
        };
        state.region[word] = value;
        expect::errno(what, guest.vcpu.set(SET_XSAVE, &state), EINVAL);
    };
    refused("XSTATE_BV bit 62", XSTATE_BV + 1, 1 << 30);
    refused("XCOMP_BV, the compacted form", XSTATE_BV + 3, 1 << 31);
    refused("a reserved word of the header", XSTATE_BV + 4, 1);
    let mut state = kvm_xsave {
        region: good.region,
        ..kvm_xsave::default()
    };
    state.region[XSTATE_BV] |= 2;
    state.region[MXCSR] = 1 << 31;
    expect::errno("MXCSR bit 31", guest.vcpu.set(SET_XSAVE, &state), EINVAL);
    let after = expect::ok("KVM_GET_XSAVE", guest.vcpu.get(GET_XSAVE));
    expect::that("the state is as before", after.region == good.region);
}

fn xsave_errors() {
    let guest = Guest::long(&[]);
    get_faults(&guest.vcpu, GET_XSAVE.number);
    set_faults(&guest.vcpu, SET_XSAVE.number);
}

fn xsave2_round_trip() {
    let guest = Guest::long(&[]);
    let size = Kvm::open().extension(KVM_CAP_XSAVE2) as usize;
    let room = Mapping::guarded(size.next_multiple_of(PAGE));
    let mut state = expect::ok("KVM_GET_XSAVE", guest.vcpu.get(GET_XSAVE));
    state.region[XSTATE_BV] |= 3;
    state.region[XMM0] = 0xabcd;
    expect::ok("KVM_SET_XSAVE", guest.vcpu.set(SET_XSAVE, &state));
    let start = room.len() - size;
    expect::ok("exact room", guest.vcpu.at(GET_XSAVE2, &room, start));
    expect::eq("XMM0", room.read::<u32>(start + XMM0 * 4), 0xabcd);
}

fn xsave2_errors() {
    let guest = Guest::long(&[]);
    expect::errno("no memory", guest.vcpu.fault(GET_XSAVE2), EFAULT);
    let page = Mapping::guarded(PAGE);
    expect::errno(
        "half of it",
        guest.vcpu.at(GET_XSAVE2, &page, PAGE - 64),
        EFAULT,
    );
}

fn xcrs(value: u64) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..kvm_xcrs::default()
    };
    xcrs.xcrs[0].value = value;
    xcrs
}

/// The state components that KVM can give a guest.
#[track_caller]
fn supported_xcr0() -> u64 {
    match Kvm::open().supported_cpuid().find(0xd, 0) {
        Some(leaf) => (u64::from(leaf.edx) << 32) | u64::from(leaf.eax),
        None => skip("this CPU has no XSAVE"),
    }
}

fn xcrs_round_trip() {
    let guest = Guest::long(&[]);
    for value in [1, 3, supported_xcr0()] {
        expect::ok("KVM_SET_XCRS", guest.vcpu.set(SET_XCRS, &xcrs(value)));
        let got = expect::ok("KVM_GET_XCRS", guest.vcpu.get(GET_XCRS));
        let xcr0 = got.xcrs[0];
        expect::eq("XCR0", (got.nr_xcrs, xcr0.xcr, xcr0.value), (1, 0, value));
    }
    let other = kvm_xcrs {
        nr_xcrs: 0,
        ..xcrs(1)
    };
    expect::ok("no registers", guest.vcpu.set(SET_XCRS, &other));
    let mut other = xcrs(1);
    other.xcrs[0].xcr = 5;
    expect::ok(
        "an unknown register is passed over",
        guest.vcpu.set(SET_XCRS, &other),
    );
    let got = expect::ok("KVM_GET_XCRS", guest.vcpu.get(GET_XCRS));
    expect::eq("XCR0", got.xcrs[0].value, supported_xcr0());
}

fn xcrs_bad_values() {
    let guest = Guest::long(&[]);
    let supported = supported_xcr0();
    for value in [0, 2, 5, (1 << 62) | 1, !0, supported | (1 << 8) | (1 << 16)] {
        let what = format!("XCR0 {value:#x}");
        expect::errno(&what, guest.vcpu.set(SET_XCRS, &xcrs(value)), EINVAL);
    }
    let got = expect::ok("KVM_GET_XCRS", guest.vcpu.get(GET_XCRS));
    expect::eq("XCR0", got.xcrs[0].value, 1);
}

fn xcrs_errors() {
    let guest = Guest::long(&[]);
    get_faults(&guest.vcpu, GET_XCRS.number);
    set_faults(&guest.vcpu, SET_XCRS.number);
    let many = kvm_xcrs {
        nr_xcrs: 17,
        ..xcrs(1)
    };
    expect::errno("17 registers", guest.vcpu.set(SET_XCRS, &many), EINVAL);
    let flags = kvm_xcrs {
        flags: 1,
        ..xcrs(1)
    };
    expect::errno("flags", guest.vcpu.set(SET_XCRS, &flags), EINVAL);
}

/// A guest with CR4.OSXSAVE.
fn with_osxsave(code: &[u8]) -> Guest {
    supported_xcr0();
    let guest = Guest::long(code);
    let mut sregs = guest.vcpu.sregs();
    sregs.cr4 |= bits::CR4_OSXSAVE;
    guest.vcpu.set_sregs(&sregs);
    guest
}

fn xsetbv_in_guest() {
    let code = code64!(
        "xgetbv",
        "mov rbx, rax",
        "mov eax, 3",
        "xsetbv",
        "xgetbv",
        "hlt"
    );
    let guest = with_osxsave(code);
    guest.vcpu.set_regs(&kvm_regs {
        rcx: 0,
        rdx: 0,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("XCR0 before and after", (regs.rbx, regs.rax), (1, 3));
    let got = expect::ok("KVM_GET_XCRS", guest.vcpu.get(GET_XCRS));
    expect::eq("XCR0 by KVM_GET_XCRS", got.xcrs[0].value, 3);
}

fn xsetbv_bad_in_guest() {
    for (rcx, rax) in [(0, 0), (0, 2), (0, 5), (1, 3), (0, (1 << 31) | 1)] {
        let guest = with_osxsave(code64!("xsetbv"));
        guest.vcpu.set_regs(&kvm_regs {
            rcx,
            rax,
            rdx: 0,
            ..guest.vcpu.regs()
        });
        let trap = guest.run_to_trap();
        let what = format!("#GP at XSETBV of {rax:#x} to XCR{rcx}");
        expect::eq(
            &what,
            (trap.vector, trap.error, trap.rip),
            (13, 0, layout::CODE),
        );
    }
    let guest = Guest::long(code64!("xsetbv"));
    let trap = guest.run_to_trap();
    expect::eq(
        "#UD without CR4.OSXSAVE",
        (trap.vector, trap.rip),
        (6, layout::CODE),
    );
}

fn avx_in_guest() {
    if supported_xcr0() & 4 == 0 {
        skip("this CPU has no AVX");
    }
    let guest = with_osxsave(code64!(
        "vmovups ymm0, [{data}]",
        "out 0x10, al",
        "vpermilps ymm1, ymm0, 0xff",
        "out 0x10, al",
        "vmovups [{data} + 64], ymm0",
        "vmovups [{data} + 96], ymm1",
        "hlt";
        data = const layout::DATA
    ));
    expect::ok("KVM_SET_XCRS", guest.vcpu.set(SET_XCRS, &xcrs(7)));
    let words: [u32; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
    guest.memory.write(layout::DATA as usize, words);
    for _ in 0..2 {
        guest.vcpu.expect_exit(Exit::Out {
            port: 0x10,
            size: 1,
            data: vec![0],
        });
        fill_host_xmm(0xee);
    }
    guest.run_to_halt();
    let got: [[u32; 8]; 2] = guest.memory.read(layout::DATA as usize + 64);
    expect::eq("YMM0 and YMM1", got, [words, [4, 4, 4, 4, 8, 8, 8, 8]]);
    let state = expect::ok("KVM_GET_XSAVE", guest.vcpu.get(GET_XSAVE));
    expect::eq("XSTATE_BV has AVX", state.region[XSTATE_BV] & 4, 4);
    expect::eq(
        "upper half of YMM0",
        &state.region[576 / 4..576 / 4 + 4],
        &[5, 6, 7, 8],
    );
}

/// Fills some vector registers of this thread.
fn fill_host_xmm(byte: u8) {
    let bytes = [byte; 16];
    // SAFETY: the registers changed are named; the memory read is `bytes`.
    unsafe {
        asm!(
            "movups xmm0, [{0}]", "movups xmm5, [{0}]", "movups xmm15, [{0}]",
            in(reg) bytes.as_ptr(), out("xmm0") _, out("xmm5") _, out("xmm15") _,
            options(nostack, readonly)
        );
    }
}

/// KVM_RUN between loading and storing this thread's vector registers, in one piece of assembly so
/// that nothing else touches them. Returns the ioctl's result and XMM1, XMM7, XMM15 after it.
fn run_with_host_xmm(guest: &Guest, fill: [u64; 6]) -> (i64, [u64; 6]) {
    use std::os::fd::AsRawFd;
    let mut after = [0u64; 6];
    let result: i64;
    // SAFETY: the system call is KVM_RUN, which touches no memory of this process but the guest's
    // own; registers that the system call or this code changes are named.
    unsafe {
        asm!(
            "movups xmm1, [{fill}]", "movups xmm7, [{fill} + 16]", "movups xmm15, [{fill} + 32]",
            "syscall",
            "movups [{after}], xmm1", "movups [{after} + 16], xmm7", "movups [{after} + 32], xmm15",
            fill = in(reg) fill.as_ptr(), after = in(reg) after.as_mut_ptr(),
            inlateout("rax") libc::SYS_ioctl => result,
            in("rdi") i64::from(guest.vcpu.as_raw_fd()), in("rsi") RUN, in("rdx") 0,
            out("rcx") _, out("r11") _, out("xmm1") _, out("xmm7") _, out("xmm15") _,
            options(nostack)
        );
    }
    (result, after)
}

fn host_and_guest_apart() {
    let guest = Guest::long(code64!(
        "2: mov rax, 0x9999999999999999",
        "movq xmm1, rax",
        "movq xmm7, rax",
        "pcmpeqd xmm15, xmm15",
        "out 0x10, al",
        "movups [{data}], xmm1",
        "movups [{data} + 16], xmm15",
        "hlt",
        "jmp 2b";
        data = const layout::DATA
    ));
    for round in 0..20 {
        let mine = [round, 2, 3, 4, 5, !round];
        for _ in 0..2 {
            let (result, after) = run_with_host_xmm(&guest, mine);
            expect::eq("KVM_RUN", result, 0);
            expect::eq("vector registers of this thread", after, mine);
        }
        expect::eq("exit", guest.vcpu.exit(), Exit::Hlt);
        let got: [u64; 4] = guest.memory.read(layout::DATA as usize);
        let want = [0x9999_9999_9999_9999, 0, !0, !0];
        expect::eq("vector registers of the guest", got, want);
    }
}

fn two_guests_apart() {
    let code = code64!(
        "movq xmm2, rbx",
        "2: movq rax, xmm2",
        "cmp rax, rbx",
        "jne 3f",
        "out 0x10, al",
        "jmp 2b",
        "3: hlt"
    );
    let guests = [Guest::long(code), Guest::long(code)];
    for (guest, rbx) in guests.iter().zip([0x1111, 0x2222]) {
        guest.vcpu.set_regs(&kvm_regs {
            rbx,
            ..guest.vcpu.regs()
        });
    }
    for _ in 0..30 {
        for (guest, byte) in guests.iter().zip([0x11, 0x22]) {
            guest.vcpu.expect_exit(Exit::Out {
                port: 0x10,
                size: 1,
                data: vec![byte],
            });
        }
    }
}

/// A guest that checks its vector registers, interrupted every millisecond by a signal whose
/// handler uses the host's.
fn state_survives_signals() {
    let guest = Guest::long(code64!(
        "mov ecx, 2000000",
        "mov rbx, 0x7777777766666666",
        "movq xmm0, rbx",
        "movq xmm5, rbx",
        "2: movq rax, xmm0",
        "movq rdx, xmm5",
        "cmp rax, rdx",
        "jne 3f",
        "cmp rax, rbx",
        "jne 3f",
        "loop 2b",
        "hlt",
        "3: ud2"
    ));
    sys::catch(libc::SIGALRM);
    sys::set_timer(Duration::from_millis(1), Duration::from_millis(1));
    loop {
        match guest.vcpu.run() {
            Err(sys::Errno(EINTR)) => fill_host_xmm(0x42),
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    expect::eq("RCX", guest.vcpu.regs().rcx, 0);
}

/// CR0.TS is the guest's own: a vector instruction faults in the guest, CLTS ends that.
fn not_present_fault() {
    let guest = Guest::long(code64!("pxor xmm0, xmm0", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    sregs.cr0 |= 1 << 3;
    guest.vcpu.set_sregs(&sregs);
    let trap = guest.run_to_trap();
    expect::eq("#NM", (trap.vector, trap.rip), (7, layout::CODE));
    guest.load(
        layout::CODE,
        code64!("clts", "pxor xmm0, xmm0", "mov rbx, cr0", "hlt"),
    );
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("CR0.TS", (guest.vcpu.regs().rbx >> 3) & 1, 0);
}
