// SPDX-License-Identifier: GPL-2.0
//! vCPUs as threads: at once, one after the other, moved between CPUs, and while CPUs come and go.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_regs;
use libc::{EINTR, SIGUSR1};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{layout, set_mode, Guest, Mode};
use crate::harness::skip;
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys::{self, Errno};
use crate::vcpu::{Exit, Vcpu};

tests! {
    "threads":
    vcpus_share_memory(60), one_vcpu_two_threads, run_waits_for_run, state_waits_for_run,
    handed_from_thread_to_thread, long_running(60), moved_between_cpus(60),
    tsc_grows_while_moved(60), memory_changes_under_vcpus(60), cpu_goes_offline(60),
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

/// Four vCPUs of a VM count in the same word with LOCK.
fn vcpus_share_memory() {
    const ROUNDS: u64 = 100_000;
    let code =
        code64!("2: lock inc qword ptr [{data}]", "loop 2b", "hlt"; data = const layout::DATA);
    let guest = Guest::long(code);
    let others: Vec<_> = (1..4).map(|id| guest.vm.create_vcpu(id)).collect();
    for vcpu in &others {
        vcpu.set_supported_cpuid();
        set_mode(vcpu, Mode::Long);
    }
    let count = |vcpu: &Vcpu| {
        vcpu.set_regs(&kvm_regs {
            rcx: ROUNDS,
            ..vcpu.regs()
        });
        vcpu.expect_exit(Exit::Hlt);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| count(&guest.vcpu));
        for vcpu in &others {
            scope.spawn(move || count(vcpu));
        }
    });
    expect::eq("count", guest.peek(layout::DATA), 4 * ROUNDS);
}

/// Two threads take turns at the same vCPU, as its mutex has it: no step is lost or done twice.
fn one_vcpu_two_threads() {
    let code = code64!("2: inc qword ptr [{data}]", "hlt", "jmp 2b"; data = const layout::DATA);
    let guest = Guest::long(code);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..300 {
                    // The run page belongs to both: the other may have begun its next run.
                    expect::eq("KVM_RUN", guest.vcpu.call(RUN, 0), Ok(0));
                }
            });
        }
    });
    expect::eq("count", guest.peek(layout::DATA), 600);
}

/// Starts a guest that spins until `layout::DATA` is set, and calls `other` meanwhile in another
/// thread: it must not come back before the guest is let go.
fn while_running(other: impl FnOnce(&Guest) + Send) {
    let code = code64!(
        "2: inc qword ptr [{data} + 8]",
        "cmp qword ptr [{data}], 0",
        "je 2b",
        "3: hlt",
        "jmp 3b";
        data = const layout::DATA
    );
    let guest = Guest::long(code);
    let back = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| guest.vcpu.call(RUN, 0));
        while guest.peek(layout::DATA + 8) == 0 {
            std::thread::yield_now();
        }
        scope.spawn(|| {
            other(&guest);
            back.store(true, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_millis(20));
        expect::that("the second call waits", !back.load(Ordering::SeqCst));
        guest.poke(layout::DATA, 1);
        let first = running.join().expect("the vCPU's thread");
        expect::eq("the first KVM_RUN", first, Ok(0));
    });
    expect::that("the second call came back", back.load(Ordering::SeqCst));
}

fn run_waits_for_run() {
    while_running(|guest| guest.vcpu.expect_exit(Exit::Hlt));
}

fn state_waits_for_run() {
    while_running(|guest| {
        let regs = expect::ok("KVM_GET_REGS", guest.vcpu.get(GET_REGS));
        expect::that("RIP behind the loop", regs.rip > layout::CODE + 8);
    });
}

fn handed_from_thread_to_thread() {
    let guest = Guest::long(code64!("movq xmm0, rax", "2: inc rax", "hlt", "jmp 2b"));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0,
        ..guest.vcpu.regs()
    });
    for count in 1..=20 {
        std::thread::scope(|scope| {
            scope.spawn(|| guest.run_to_halt());
        });
        expect::eq("RAX", guest.vcpu.regs().rax, count);
    }
}

/// Thirty million instructions in one KVM_RUN, through many ticks of the host's timer.
fn long_running() {
    let guest = Guest::long(code64!(
        "rdtsc",
        "mov r8, rax",
        "mov ecx, 15000000",
        "2: add rbx, rcx",
        "loop 2b",
        "hlt"
    ));
    guest.vcpu.set_regs(&kvm_regs {
        rbx: 0,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("sum", guest.vcpu.regs().rbx, 15_000_000 * 15_000_001 / 2);
}

/// Runs `guest` to its HLT while its thread is moved from CPU to CPU.
#[track_caller]
fn run_moving(guest: &Guest) -> usize {
    if cpus() < 2 {
        skip("there is one CPU");
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let done = &done;
        let running = scope.spawn(move || {
            tell.send(sys::this_thread())
                .expect("the other thread listens");
            let exit = guest.vcpu.run();
            done.store(true, Ordering::SeqCst);
            exit
        });
        let thread = told.recv().expect("the vCPU's thread");
        let mut moves = 0;
        while !done.load(Ordering::SeqCst) {
            thread.move_to(moves % 2);
            moves += 1;
            std::thread::sleep(Duration::from_micros(500));
        }
        let exit = running.join().expect("the vCPU's thread");
        expect::eq("KVM_RUN", exit, Ok(Exit::Hlt));
        moves
    })
}

fn moved_between_cpus() {
    let memory = Mapping::anonymous(PAGE);
    let guest = Guest::long(code64!(
        "mov rbx, 0x5555aaaa5555aaaa",
        "movq xmm3, rbx",
        "mov ecx, 5000000",
        "2: inc qword ptr [{page}]",
        "movq rax, xmm3",
        "cmp rax, rbx",
        "jne 3f",
        "loop 2b",
        "hlt",
        "3: ud2";
        page = const layout::EXTRA
    ));
    guest.vm.add_memory(1, layout::EXTRA, &memory);
    let moves = run_moving(&guest);
    expect::eq("count", memory.read::<u64>(0), 5_000_000);
    expect::that("moved more than twice", moves > 2);
}

/// On the moved thread the guest's TSC never runs backwards by more than what the CPUs' own differ.
fn tsc_grows_while_moved() {
    let guest = Guest::long(code64!(
        "mov r9d, 500000",
        "xor r8, r8",
        "2: rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "cmp rax, r8",
        "ja 3f",
        "mov r11, r8",
        "sub r11, rax",
        "cmp r11, r10",
        "jbe 3f",
        "mov r10, r11",
        "3: mov r8, rax",
        "dec r9d",
        "jnz 2b",
        "hlt"
    ));
    guest.vcpu.set_regs(&kvm_regs {
        r10: 0,
        ..guest.vcpu.regs()
    });
    run_moving(&guest);
    let khz = expect::ok("KVM_GET_TSC_KHZ", guest.vcpu.call(GET_TSC_KHZ, 0)) as u64;
    let back = guest.vcpu.regs().r10;
    expect::that(
        &format!("at most 10 ms back (got {back} ticks at {khz} kHz)"),
        back < khz * 10,
    );
}

/// vCPUs touch pages that the VMM throws away and slots that it moves.
fn memory_changes_under_vcpus() {
    const PAGES: usize = 64;
    let memory = Mapping::anonymous(PAGES * PAGE);
    let code = code64!(
        "2: mov rbx, {extra}",
        "mov ecx, {pages}",
        "3: lock inc qword ptr [rbx]",
        "add rbx, 4096",
        "loop 3b",
        "cmp qword ptr [{stop}], 0",
        "je 2b",
        "4: hlt",
        "jmp 4b";
        extra = const layout::EXTRA, pages = const PAGES, stop = const layout::DATA
    );
    let guest = Guest::long(code);
    guest.vm.add_memory(1, layout::EXTRA, &memory);
    let second = guest.vm.create_vcpu(1);
    second.set_supported_cpuid();
    set_mode(&second, Mode::Long);
    std::thread::scope(|scope| {
        let running = [&guest.vcpu, &second].map(|vcpu| scope.spawn(move || vcpu.run()));
        for round in 0..50 {
            let page = round * 13 % PAGES;
            let len = (PAGES - page).min(9) * PAGE;
            let done = memory.advise(page * PAGE, len, libc::MADV_DONTNEED);
            expect::ok("madvise", done);
            if round % 10 == 0 {
                sys::reap(sys::spawn(|| {}));
            }
            std::thread::yield_now();
        }
        guest.poke(layout::DATA, 1);
        for thread in running {
            let exit = thread.join().expect("a vCPU's thread");
            expect::eq("KVM_RUN", exit, Ok(Exit::Hlt));
        }
    });
    expect::ok(
        "madvise",
        memory.advise(0, memory.len(), libc::MADV_DONTNEED),
    );
    for page in (0..PAGES).step_by(9) {
        let got = guest.guest_read(layout::EXTRA + (page * PAGE) as u64);
        expect::eq("page thrown away", got, Some(0));
    }
}

/// A CPU goes and comes back while a VM lives and its guest runs.
fn cpu_goes_offline() {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";
    if cpus() < 2 || fs::metadata(ONLINE).is_err() {
        skip("there is no second CPU that can go");
    }
    let set_online = |on: bool| {
        let wrote = fs::write(ONLINE, if on { "1" } else { "0" });
        expect::that(&format!("CPU 1 set online={on} ({wrote:?})"), wrote.is_ok());
    };
    let code = code64!("2: inc qword ptr [{data}]", "jmp 2b"; data = const layout::DATA);
    let guest = Guest::long(code);
    let still = Guest::long(code64!("2: inc rax", "hlt", "jmp 2b"));
    sys::catch(SIGUSR1);
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let vcpu = &guest.vcpu;
        let running = scope.spawn(move || {
            tell.send(sys::this_thread())
                .expect("the other thread listens");
            vcpu.run()
        });
        let thread = told.recv().expect("the vCPU's thread");
        for _ in 0..3 {
            thread.move_to(1);
            expect_progress(&guest);
            set_online(false);
            expect_progress(&guest);
            still.run_to_halt();
            set_online(true);
            expect_progress(&guest);
        }
        thread.signal(SIGUSR1);
        let exit = running.join().expect("the vCPU's thread");
        expect::eq("KVM_RUN", exit, Err(Errno(EINTR)));
    });
    sys::this_thread().move_to(1);
    Guest::long(code64!("hlt")).run_to_halt();
    still.run_to_halt();
}

#[track_caller]
fn expect_progress(guest: &Guest) {
    let before = guest.peek(layout::DATA);
    let begin = Instant::now();
    while guest.peek(layout::DATA) == before {
        expect::that("the guest runs", begin.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(1));
    }
}
