// SPDX-License-Identifier: GPL-2.0
//! What KVM_RUN must leave as it was: the state of the VMM's own thread, and of its kernel.

use std::arch::asm;
use std::fs;
use std::time::Duration;

use kvm_bindings::*;
use libc::{EINVAL, EMFILE, SIGSEGV};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, Guest};
use crate::harness::{kernel_looks_for_leaks, skip};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys::{self, Ended};
use crate::vcpu::Exit;
use crate::vm::Kvm;

tests! {
    "host":
    segment_selectors, descriptor_table_limits, upper_vector_halves, port_permissions,
    time_stamp_disable, debug_registers, timers_go_on, no_flood_of_the_log, memory_comes_back(60),
    errors_leak_nothing(60), suspend_test_cycle(60),
}

fn spinning_once() -> Guest {
    Guest::long(code64!("2: mov ecx, 100000", "3: loop 3b", "hlt", "jmp 2b"))
}

/// The data segment registers of this thread.
fn selectors() -> [u16; 4] {
    let (ds, es, fs, gs): (u16, u16, u16, u16);
    // SAFETY: only reads the segment registers.
    unsafe {
        asm!(
            "mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
            out(reg) ds, out(reg) es, out(reg) fs, out(reg) gs, options(nomem, nostack)
        );
    }
    [ds, es, fs, gs]
}

/// A thread may hold selectors other than null; entry to a guest needs them aside for a while.
fn segment_selectors() {
    const USER_DATA: u16 = 0x2b;
    let guest = spinning_once();
    // SAFETY: the kernel's selector of user data, whose segment is flat; 64-bit code uses neither
    // DS nor ES.
    unsafe { asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) USER_DATA, options(nomem, nostack)) };
    let before = selectors();
    expect::eq("DS and ES", [before[0], before[1]], [USER_DATA; 2]);
    for _ in 0..5 {
        guest.run_to_halt();
        expect::eq("selectors after KVM_RUN", selectors(), before);
    }
}

/// VM exits set the limits to 64 KiB; the kernel's are tighter.
fn descriptor_table_limits() {
    let guest = spinning_once();
    let limit = || {
        let mut table = [0u8; 10];
        // SAFETY: SGDT stores 10 bytes.
        unsafe { asm!("sgdt [{0}]", in(reg) table.as_mut_ptr(), options(nostack)) };
        u16::from_le_bytes([table[0], table[1]])
    };
    let before = limit();
    guest.run_to_halt();
    expect::eq("GDT limit", limit(), before);
}

/// A guest that uses AVX and then its first state again does not reach the host's registers.
fn upper_vector_halves() {
    if !std::arch::is_x86_feature_detected!("avx") {
        skip("this CPU has no AVX");
    }
    let guest = Guest::long(code64!(
        "xor ecx, ecx",
        "xor edx, edx",
        "mov eax, 7",
        "xsetbv",
        "vzeroall",
        "vpcmpeqd xmm3, xmm3, xmm3",
        "vinsertf128 ymm3, ymm3, xmm3, 1",
        "mov eax, 1",
        "xsetbv",
        "2: hlt",
        "jmp 2b"
    ));
    let mut sregs = guest.vcpu.sregs();
    sregs.cr4 |= bits::CR4_OSXSAVE;
    guest.vcpu.set_sregs(&sregs);
    let fill: [u64; 4] = [1, 2, 3, 4];
    for round in 0..5 {
        let mut after = [0u64; 4];
        let result: i64;
        // SAFETY: the system call is KVM_RUN, which touches no memory of this process but the
        // guest's own; registers that the system call or this code changes are named.
        unsafe {
            asm!(
                "vmovups ymm9, [{fill}]",
                "syscall",
                "vmovups [{after}], ymm9",
                "vzeroupper",
                fill = in(reg) fill.as_ptr(), after = in(reg) after.as_mut_ptr(),
                inlateout("rax") libc::SYS_ioctl => result,
                in("rdi") i64::from(std::os::fd::AsRawFd::as_raw_fd(&guest.vcpu)),
                in("rsi") RUN, in("rdx") 0,
                out("rcx") _, out("r11") _, out("xmm9") _,
                options(nostack)
            );
        }
        expect::eq("KVM_RUN", (result, guest.vcpu.exit()), (0, Exit::Hlt));
        expect::eq(&format!("YMM9 of this thread, round {round}"), after, fill);
    }
}

/// The permission to use a port lies behind the TSS's limit of a VM exit.
fn port_permissions() {
    const DELAY_PORT: u16 = 0x80;
    let ended = sys::reap(sys::spawn(|| {
        // SAFETY: port 0x80 is the delay port: writing it has no effect.
        unsafe {
            if libc::ioperm(DELAY_PORT.into(), 1, 1) != 0 {
                sys::exit_now(99);
            }
            asm!("out 0x80, al", in("al") 0u8, options(nostack));
        }
        let guest = spinning_once();
        for _ in 0..5 {
            guest.run_to_halt();
            // SAFETY: as above.
            unsafe { asm!("out 0x80, al", in("al") 0u8, options(nostack)) };
        }
    }));
    if ended == Ended::Exited(99) {
        skip("the kernel gives no permission for ports");
    }
    expect::eq(
        "a process that uses a port after KVM_RUN",
        ended,
        Ended::Exited(0),
    );
}

/// CR4.TSD is a thread's own and changes between two runs of a vCPU.
fn time_stamp_disable() {
    let set = |how: i32| {
        // SAFETY: prctl without memory arguments.
        let done = unsafe { libc::prctl(libc::PR_SET_TSC, how) };
        expect::eq("PR_SET_TSC", done, 0);
    };
    let rdtsc = || {
        // SAFETY: RDTSC only writes the registers named.
        unsafe { asm!("rdtsc", out("eax") _, out("edx") _, options(nomem, nostack)) };
    };
    let ended = sys::reap(sys::spawn(|| {
        let guest = spinning_once();
        guest.run_to_halt();
        rdtsc();
        set(libc::PR_TSC_SIGSEGV);
        guest.run_to_halt();
        set(libc::PR_TSC_ENABLE);
        guest.run_to_halt();
        rdtsc();
        set(libc::PR_TSC_SIGSEGV);
        guest.run_to_halt();
        rdtsc();
    }));
    expect::eq(
        "RDTSC with PR_TSC_SIGSEGV, after KVM_RUN",
        ended,
        Ended::Signalled(SIGSEGV),
    );
}

/// A watchpoint on the VMM's memory works before and after a guest that has breakpoints of its own.
fn debug_registers() {
    let watched = Mapping::anonymous(PAGE);
    let Some(counter) = sys::Watchpoint::on_writes(watched.address()) else {
        skip("the kernel sets no watchpoints here");
    };
    let guest = Guest::long(code64!(
        "mov rax, {data}",
        "mov dr0, rax",
        "mov dr1, rax",
        "mov dr2, rax",
        "mov dr3, rax",
        "mov eax, 0x400",
        "mov dr7, rax",
        "2: mov rbx, dr0",
        "hlt",
        "jmp 2b";
        data = const 0x12345
    ));
    for count in 1..=10u64 {
        watched.write(0, count as u8);
        expect::eq("writes counted by the watchpoint", counter.count(), count);
        guest.run_to_halt();
        expect::eq("DR0 of the guest", guest.vcpu.regs().rbx, 0x12345);
    }
    let debug = expect::ok("KVM_GET_DEBUGREGS", guest.vcpu.get(GET_DEBUGREGS));
    expect::eq("DR0..3 of the guest", debug.db, [0x12345; 4]);
}

/// A timer of the host does not wait for the guest.
fn timers_go_on() {
    let guest =
        Guest::long(code64!("2: inc qword ptr [{data}]", "jmp 2b"; data = const layout::DATA));
    let ticks = std::sync::atomic::AtomicU32::new(0);
    sys::catch(libc::SIGUSR1);
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let vcpu = &guest.vcpu;
        let running = scope.spawn(move || {
            tell.send(sys::this_thread())
                .expect("the other thread listens");
            vcpu.run()
        });
        let thread = told.recv().expect("the vCPU's thread");
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(2));
            ticks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        thread.signal(libc::SIGUSR1);
        expect::errno(
            "KVM_RUN",
            running.join().expect("the vCPU's thread"),
            libc::EINTR,
        );
    });
    expect::eq("ticks", ticks.into_inner(), 20);
}

/// Lines in the kernel's log.
fn log_lines() -> usize {
    sys::kernel_log().lines().count()
}

/// Nothing that a VMM or a guest does wrong fills the kernel's log.
fn no_flood_of_the_log() {
    let misbehave = || {
        let wrong = Guest::long(code64!("hlt"));
        let mut sregs = wrong.vcpu.sregs();
        sregs.cs.s = 0;
        wrong.vcpu.set_sregs(&sregs);
        let lost = Guest::long(&[]);
        lost.vcpu.set_regs(&kvm_regs {
            rip: layout::MMIO,
            ..lost.vcpu.regs()
        });
        let curious = Guest::long(code64!("mov ecx, 0x4b564d", "rdmsr"));
        for _ in 0..100 {
            let _ = wrong.vcpu.run();
            let _ = lost.vcpu.run();
            let _ = wrong.vcpu.call(0xae3f, 0);
            let _ = wrong.vcpu.set_msr(0x4b_564d, 1);
            curious.vcpu.set_regs(&kvm_regs {
                rip: layout::CODE,
                ..curious.vcpu.regs()
            });
            let _ = curious.vcpu.run();
        }
    };
    misbehave();
    let before = log_lines();
    misbehave();
    misbehave();
    let more = log_lines().saturating_sub(before);
    expect::that(&format!("at most 40 new lines (got {more})"), more <= 40);
}

/// Free memory in KiB, with what the kernel keeps for later given back.
fn free_memory() -> i64 {
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    std::thread::sleep(Duration::from_millis(200));
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = text
        .lines()
        .find(|line| line.starts_with("MemFree:"))
        .unwrap_or_default();
    let number = line
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    number.expect("MemFree in /proc/meminfo")
}

/// Memory that the kernel may keep for later whatever is done, KiB.
const KEPT: i64 = 4096;

/// Runs `round` often; what is gone of memory afterwards is no more than what the kernel keeps.
#[track_caller]
fn expect_no_leak(rounds: i64, round: impl Fn()) {
    for _ in 0..rounds / 4 {
        round();
    }
    let before = free_memory();
    for _ in 0..rounds {
        round();
    }
    let lost = before - free_memory();
    expect::that(
        &format!("at most {KEPT} KiB lost by {rounds} rounds (got {lost})"),
        lost < KEPT || kernel_looks_for_leaks(),
    );
}

fn memory_comes_back() {
    expect_no_leak(60, || {
        let guest = Guest::long(code64!("mov [{extra}], rax", "hlt"; extra = const layout::EXTRA));
        let memory = Mapping::anonymous(4 * PAGE);
        guest.vm.add_memory(1, layout::EXTRA, &memory);
        let _second = guest.vm.create_vcpu(1);
        guest.run_to_halt();
    });
}

fn errors_leak_nothing() {
    let kvm = Kvm::open();
    let vm = kvm.create_vm();
    let vcpu = vm.create_vcpu(0);
    let memory = Mapping::anonymous(PAGE);
    vm.add_memory(0, 0, &memory);
    expect_no_leak(2000, || {
        expect::errno("id in use", vm.call(CREATE_VCPU, 0), libc::EEXIST);
        expect::errno("type", kvm.call(CREATE_VM, 77), EINVAL);
        let overlapping = crate::vm::Slot::of(1, 0, &memory);
        expect::errno("overlap", vm.set_slot(overlapping), libc::EEXIST);
        for number in [
            GET_REGS.number,
            SET_REGS.number,
            SET_SREGS.number,
            GET_XSAVE.number,
        ] {
            expect::errno("no memory", vcpu.fault(number), libc::EFAULT);
        }
        let many = Cpuid::with_room(257);
        expect::errno("CPUID", vcpu.set(SET_CPUID2, &many), libc::E2BIG);
    });
    expect_no_leak(1000, || {
        let _limit = sys::DescriptorLimit::at_present();
        expect::errno("no descriptor for a VM", kvm.call(CREATE_VM, 0), EMFILE);
        expect::errno("no descriptor for a vCPU", vm.call(CREATE_VCPU, 1), EMFILE);
    });
}

/// The kernel takes its CPUs and devices down and up again while a VM lives.
fn suspend_test_cycle() {
    const TEST: &str = "/sys/power/pm_test";
    if fs::write(TEST, "core").is_err() {
        skip("the kernel cannot test its suspend");
    }
    let _ = fs::write("/sys/module/suspend/parameters/pm_test_delay", "0");
    let guest = Guest::long(code64!("2: inc rax", "hlt", "jmp 2b"));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let suspended = fs::write("/sys/power/state", "mem");
    let _ = fs::write(TEST, "none");
    if suspended.is_err() {
        skip(&format!("the kernel cannot suspend here: {suspended:?}"));
    }
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 2);
    let other = Guest::long(code64!("hlt"));
    other.run_to_halt();
}
