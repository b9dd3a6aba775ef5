// SPDX-License-Identifier: GPL-2.0
//! What ends KVM_RUN from outside: `immediate_exit`, signals and KVM_SET_SIGNAL_MASK
//! (api.rst 4.10 and 4.26), stopping and continuing the process.

use std::time::{Duration, Instant};

use libc::{EFAULT, EINTR, EINVAL, SIGALRM, SIGUSR1};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, Guest};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys;
use crate::vcpu::Exit;

tests! {
    "signals":
    spinning_guest, interrupts_off, blocked_signal, immediate_exit, immediate_exit_completes_io, pending_signal,
    goes_on_after_signal, many_signals, signal_mask, signal_mask_unblocks, signal_mask_errors,
    stop_and_continue, from_another_thread,
}

const SOON: Duration = Duration::from_millis(20);

/// A guest that counts at `layout::DATA` for ever.
fn spinning() -> Guest {
    let code = code64!("2: inc qword ptr [{data}]", "jmp 2b"; data = const layout::DATA);
    Guest::long(code)
}

fn alarm() {
    sys::catch(SIGALRM);
    sys::set_timer(SOON, Duration::ZERO);
}

fn spinning_guest() {
    let guest = spinning();
    alarm();
    expect::errno("KVM_RUN", guest.vcpu.run(), EINTR);
    expect::eq("exit", guest.vcpu.exit(), Exit::Intr);
    expect::ne("count", guest.peek(layout::DATA), 0);
    let rip = guest.vcpu.regs().rip;
    expect::that(
        "RIP in the loop",
        (layout::CODE..layout::CODE + 16).contains(&rip),
    );
}

/// RFLAGS.IF is the guest's alone: clear since its first instruction, it keeps nothing from the host.
fn interrupts_off() {
    let guest = spinning();
    let mut regs = guest.vcpu.regs();
    regs.rflags &= !bits::RFLAGS_IF;
    guest.vcpu.set_regs(&regs);
    alarm();
    expect::errno("KVM_RUN", guest.vcpu.run(), EINTR);
    expect::ne("count", guest.peek(layout::DATA), 0);
}

/// A signal that is blocked does not end KVM_RUN.
fn blocked_signal() {
    let guest = Guest::long(code64!("mov ecx, 5000000", "2: loop 2b", "hlt"));
    alarm();
    sys::block(SIGALRM, true);
    guest.run_to_halt();
    while !sys::is_pending(SIGALRM) {
        std::thread::yield_now();
    }
    guest.enter(crate::guest::Mode::Long);
    guest.run_to_halt();
}

fn immediate_exit() {
    let guest = Guest::long(code64!("mov eax, 1", "hlt"));
    guest.vcpu.set_immediate_exit(true);
    expect::errno("KVM_RUN", guest.vcpu.run(), EINTR);
    expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE);
    expect::errno("KVM_RUN again", guest.vcpu.run(), EINTR);
    guest.vcpu.set_immediate_exit(false);
    guest.run_to_halt();
}

/// What an exit left to do is done before `immediate_exit` is looked at.
fn immediate_exit_completes_io() {
    let guest = Guest::long(code64!("in al, 0x10", "hlt"));
    guest.vcpu.expect_exit(Exit::In {
        port: 0x10,
        size: 1,
        count: 1,
    });
    guest.vcpu.answer_io(&[0x99]);
    guest.vcpu.set_immediate_exit(true);
    expect::errno("KVM_RUN", guest.vcpu.run(), EINTR);
    let regs = guest.vcpu.regs();
    expect::eq(
        "AL and RIP",
        (regs.rax & 0xff, regs.rip),
        (0x99, layout::CODE + 2),
    );
    guest.vcpu.set_immediate_exit(false);
    guest.run_to_halt();
}

/// A signal that the thread blocks and KVM_RUN's own mask does not is pending at once.
fn pending_signal() {
    let guest = Guest::long(code64!("mov eax, 1", "hlt"));
    sys::catch(SIGUSR1);
    sys::block(SIGUSR1, true);
    let mask = SignalMask {
        len: 8,
        sigset: [0; 8],
    };
    expect::ok(
        "KVM_SET_SIGNAL_MASK",
        guest.vcpu.set(SET_SIGNAL_MASK, &mask),
    );
    sys::this_thread().signal(SIGUSR1);
    expect::errno("KVM_RUN", guest.vcpu.run(), EINTR);
    expect::eq("exit", guest.vcpu.exit(), Exit::Intr);
}

fn goes_on_after_signal() {
    let guest = spinning();
    let mut count = 0;
    for _ in 0..5 {
        alarm();
        expect::errno("KVM_RUN", guest.vcpu.run(), EINTR);
        let now = guest.peek(layout::DATA);
        expect::that("the guest went on", now > count);
        count = now;
    }
}

/// A guest that checks its own registers, under a signal every millisecond.
fn many_signals() {
    let code = code64!(
        "mov ecx, 3000000",
        "xor eax, eax",
        "mov rbx, 0x1234567812345678",
        "2: add rax, 1",
        "push rax",
        "pop rdx",
        "cmp rdx, rax",
        "jne 3f",
        "loop 2b",
        "hlt",
        "3: ud2"
    );
    let guest = Guest::long(code);
    sys::catch(SIGALRM);
    sys::set_timer(Duration::from_millis(1), Duration::from_millis(1));
    let mut interrupted = 0;
    loop {
        match guest.vcpu.run() {
            Err(sys::Errno(EINTR)) => interrupted += 1,
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    sys::set_timer(Duration::ZERO, Duration::ZERO);
    let regs = guest.vcpu.regs();
    expect::eq("RAX", regs.rax, 3_000_000);
    expect::eq("RBX", regs.rbx, 0x1234_5678_1234_5678);
    expect::that("interrupted at all", interrupted > 0);
}

/// The mask holds during KVM_RUN alone: what it blocks comes when KVM_RUN is left.
fn signal_mask() {
    let guest = Guest::long(code64!("mov ecx, 5000000", "2: loop 2b", "hlt"));
    let mut mask = SignalMask {
        len: 8,
        sigset: [0; 8],
    };
    mask.sigset[(SIGALRM - 1) as usize / 8] = 1 << ((SIGALRM - 1) % 8);
    expect::ok(
        "KVM_SET_SIGNAL_MASK",
        guest.vcpu.set(SET_SIGNAL_MASK, &mask),
    );
    sys::catch(SIGALRM);
    sys::set_timer(Duration::from_millis(2), Duration::ZERO);
    guest.run_to_halt();
    let spinning = spinning();
    expect::ok(
        "KVM_SET_SIGNAL_MASK",
        spinning.vcpu.set(SET_SIGNAL_MASK, &mask),
    );
    expect::eq(
        "no mask",
        spinning.vcpu.call(SET_SIGNAL_MASK_NONE, 0),
        Ok(0),
    );
    alarm();
    expect::errno("KVM_RUN without a mask", spinning.vcpu.run(), EINTR);
}

/// The idiom of VMMs: the signal is blocked outside KVM_RUN and open in it, and stays pending.
fn signal_mask_unblocks() {
    let guest = spinning();
    sys::block(SIGALRM, true);
    let mask = SignalMask {
        len: 8,
        sigset: [0; 8],
    };
    expect::ok(
        "KVM_SET_SIGNAL_MASK",
        guest.vcpu.set(SET_SIGNAL_MASK, &mask),
    );
    alarm();
    expect::errno("KVM_RUN", guest.vcpu.run(), EINTR);
    expect::that("the signal is still pending", sys::is_pending(SIGALRM));
}

fn signal_mask_errors() {
    let guest = Guest::long(code64!("hlt"));
    for len in [0, 4, 7, 9, 16, 128] {
        let mask = SignalMask {
            len,
            sigset: [0; 8],
        };
        let got = guest.vcpu.set(SET_SIGNAL_MASK, &mask);
        expect::errno(&format!("length {len}"), got, EINVAL);
    }
    let nr = SET_SIGNAL_MASK.number;
    expect::errno("no memory", guest.vcpu.fault(nr), EFAULT);
    let page = Mapping::guarded(PAGE);
    page.write(PAGE - 4, 8u32);
    expect::errno(
        "no memory for the set",
        guest.vcpu.at(nr, &page, PAGE - 4),
        EFAULT,
    );
}

/// SIGSTOP and SIGCONT leave the guest as it was.
fn stop_and_continue() {
    let shared = Mapping::shared(PAGE);
    let child = sys::spawn(std::panic::AssertUnwindSafe(|| {
        let guest = Guest::long(code64!(
            "2: inc qword ptr [{shared}]",
            "cmp qword ptr [{shared} + 8], 0",
            "je 2b",
            "hlt";
            shared = const layout::EXTRA
        ));
        guest.vm.add_memory(1, layout::EXTRA, &shared);
        loop {
            match guest.vcpu.run() {
                Err(sys::Errno(EINTR)) => {}
                other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
            }
        }
    }));
    let count = || shared.read::<u64>(0);
    for _ in 0..3 {
        let before = count();
        let begin = Instant::now();
        while count() == before {
            expect::that("the guest runs", begin.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(1));
        }
        sys::kill(child, libc::SIGSTOP);
        sys::wait_stopped(child);
        let stopped = count();
        std::thread::sleep(SOON);
        expect::eq("count while stopped", count(), stopped);
        sys::kill(child, libc::SIGCONT);
    }
    shared.write(8, 1u64);
    expect::eq("the child", sys::reap(child), sys::Ended::Exited(0));
}

fn from_another_thread() {
    let guest = spinning();
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
        while guest.peek(layout::DATA) == 0 {
            std::thread::yield_now();
        }
        thread.signal(SIGUSR1);
        let exit = running.join().expect("the vCPU's thread");
        expect::errno("KVM_RUN", exit, EINTR);
    });
}
