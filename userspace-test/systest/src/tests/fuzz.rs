// SPDX-License-Identifier: GPL-2.0
//! Nonsense from the guest and from the VMM: whatever it is, KVM answers it, the kernel does not
//! complain, and the next guest runs. The numbers are random but the same every time, unless `--seed` says otherwise.

use std::fs;
use std::time::Duration;

use kvm_bindings::*;
use libc::{EAGAIN, EFAULT, EINTR, EINVAL, EIO};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, Guest, Mode};
use crate::harness;
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys::{self, Errno};
use crate::vcpu::Exit;
use crate::vm::Kvm;

tests! {
    "fuzz":
    random_bytes(60), random_instructions(60), random_sregs(60), random_events(60),
    random_msrs(60), random_xsave(60), random_ioctls(60), random_run_page(60),
    random_page_tables(60),
}

/// Marsaglia's xorshift64*.
pub(super) struct Random(u64);

impl Random {
    /// Numbers of a round's own: how long a guest of the rounds before ran, which a timer decides,
    /// does not change them.
    fn of_round(round: usize) -> Self {
        let mut random = Self(harness::seed());
        let offset = (round as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        random = Self((random.next() ^ offset).max(1));
        random.next();
        random
    }

    /// From what the suite was told to start from.
    pub(super) fn seeded() -> Self {
        Self(harness::seed())
    }

    /// The next 64 bits.
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// `len` bytes.
    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// One of `of`.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A number with few bits set, a small one, or any.
    pub(super) fn number(&mut self) -> u64 {
        match self.below(4) {
            0 => 1 << self.below(64),
            1 => self.next() & 0xff,
            2 => self.next() & self.next() & self.next(),
            _ => self.next(),
        }
    }
}

/// The kernel's taint flags: a WARN sets one.
fn tainted() -> String {
    fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default()
}

/// Does `nonsense`, then looks whether kernel and KVM are well.
#[track_caller]
pub(super) fn survives(nonsense: impl FnOnce(&mut Random)) {
    let before = tainted();
    sys::catch(libc::SIGALRM);
    sys::block(libc::SIGALRM, true);
    sys::set_timer(Duration::from_millis(2), Duration::from_millis(2));
    nonsense(&mut Random(harness::seed()));
    sys::set_timer(Duration::ZERO, Duration::ZERO);
    expect::eq("the kernel's taint flags", tainted(), before);
    let guest = Guest::long(code64!("mov eax, 1", "hlt"));
    guest.run_to_halt();
}

/// KVM_RUN, for some milliseconds at most.
fn run_briefly(guest: &Guest) -> Result<Exit, Errno> {
    sys::block(libc::SIGALRM, false);
    let exit = guest.vcpu.run();
    sys::block(libc::SIGALRM, true);
    exit
}

/// Runs a guest for some exits, answering each with random data.
#[track_caller]
fn run(guest: &Guest, random: &mut Random) {
    for _ in 0..20 {
        match run_briefly(guest) {
            Ok(Exit::In { size, count, .. }) => {
                let data = random.bytes(usize::from(size) * count as usize);
                guest.vcpu.answer_io(&data);
            }
            Ok(Exit::MmioRead { .. }) => guest.vcpu.answer_mmio(&random.bytes(8)),
            Ok(Exit::Out { .. } | Exit::MmioWrite { .. } | Exit::Hlt | Exit::IrqWindowOpen) => {}
            Ok(Exit::Debug { .. } | Exit::Other(KVM_EXIT_SET_TPR)) => {}
            Ok(Exit::Shutdown | Exit::FailEntry { .. } | Exit::InternalError { .. }) => return,
            Err(Errno(EINTR | EFAULT | EINVAL)) => return,
            other => panic!("KVM_RUN: expected an exit that such a guest can have, got {other:x?}"),
        }
    }
}

const MODES: [Mode; 5] = [
    Mode::Real,
    Mode::Protected,
    Mode::Paging32,
    Mode::Pae,
    Mode::Long,
];

fn random_bytes() {
    survives(|_| {
        for round in 0..100 {
            let random = &mut Random::of_round(round);
            let guest = Guest::new(MODES[round % MODES.len()], &random.bytes(256));
            let regs = kvm_regs {
                rbx: layout::MMIO,
                rsi: layout::DATA,
                ..guest.vcpu.regs()
            };
            guest.vcpu.set_regs(&regs);
            run(&guest, random);
        }
    });
}

/// Opcodes that exit, or that a hypervisor decodes; random bytes follow as their operands.
const OPCODES: &[&[u8]] = &[
    &[0x0f, 0x01],
    &[0x0f, 0x00],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0xa2],
    &[0x0f, 0x09],
    &[0x0f, 0x08],
    &[0x0f, 0xc7],
    &[0x0f, 0xae],
    &[0x0f, 0x05],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0x0f, 0x07],
    &[0x0f, 0x06],
    &[0x6c],
    &[0x6d],
    &[0x6e],
    &[0x6f],
    &[0xf3, 0x6c],
    &[0xf3, 0x6e],
    &[0xf3, 0x6f],
    &[0xe4],
    &[0xe5],
    &[0xe6],
    &[0xe7],
    &[0xec],
    &[0xed],
    &[0xee],
    &[0xef],
    &[0x88, 0x03],
    &[0x8a, 0x03],
    &[0x89, 0x43],
    &[0x8b, 0x83],
    &[0xc7, 0x03],
    &[0xc6, 0x43],
    &[0x0f, 0xb6, 0x03],
    &[0x0f, 0xbf, 0x03],
    &[0xa0],
    &[0xa3],
    &[0x8e],
    &[0xcd],
    &[0xcc],
    &[0xf4],
    &[0x9d],
    &[0xcf],
    &[0xea],
    &[0x17],
    &[0x66],
    &[0x67],
    &[0xf0],
    &[0x2e],
    &[0x64],
    &[0x48],
    &[0x0f, 0x38, 0x80],
    &[0x0f, 0x38, 0x82],
    &[0x0f, 0xc7, 0xf0],
    &[0x0f, 0x01, 0xd1],
    &[0x0f, 0x01, 0xc1],
    &[0xf1],
];

fn random_instructions() {
    survives(|_| {
        for round in 0..150 {
            let random = &mut Random::of_round(round);
            let mut code = Vec::new();
            while code.len() < 200 {
                code.extend_from_slice(random.pick(OPCODES));
                let operands = random.below(4);
                code.extend(random.bytes(operands));
            }
            let guest = Guest::new(random.pick(&MODES), &code);
            let regs = kvm_regs {
                rax: random.number(),
                rcx: random.number() & 0xffff,
                rdx: random.number(),
                rbx: layout::MMIO + random.number() % 4096,
                rsi: random.number() & 0x2f_ffff,
                rdi: random.number() & 0x2f_ffff,
                ..guest.vcpu.regs()
            };
            guest.vcpu.set_regs(&regs);
            if round % 4 == 0 {
                let _ = guest.vcpu.interrupt(random.next() as u32 & 0xff);
                let _ = guest.vcpu.call(NMI, 0);
            }
            guest.vcpu.request_interrupt_window(round % 3 == 0);
            run(&guest, random);
        }
    });
}

fn spoil_segment(random: &mut Random, segment: &mut kvm_segment) {
    match random.below(8) {
        0 => segment.base = random.number(),
        1 => segment.limit = random.number() as u32,
        2 => segment.type_ = random.next() as u8 & 15,
        3 => segment.dpl = random.next() as u8 & 3,
        4 => segment.s ^= 1,
        5 => segment.unusable ^= 1,
        6 => segment.selector = random.next() as u16,
        _ => (segment.present, segment.l) = (random.next() as u8 & 1, random.next() as u8 & 1),
    }
}

fn random_sregs() {
    survives(|_| {
        for round in 0..150 {
            let random = &mut Random::of_round(round);
            let guest = Guest::new(random.pick(&MODES), &random.bytes(64));
            for _ in 0..4 {
                let mut sregs = guest.vcpu.sregs();
                match random.below(14) {
                    0 => sregs.cr0 ^= 1 << random.below(33),
                    1 => sregs.cr4 ^= 1 << random.below(33),
                    2 => sregs.cr3 ^= random.number(),
                    3 => sregs.efer ^= 1 << random.below(16),
                    4 => sregs.gdt.base = random.number(),
                    5 => sregs.idt.base = random.number(),
                    6 => sregs.cr8 = random.number(),
                    7 => sregs.apic_base ^= random.number(),
                    8 => spoil_segment(random, &mut sregs.cs),
                    9 => spoil_segment(random, &mut sregs.ss),
                    10 => spoil_segment(random, &mut sregs.tr),
                    11 => spoil_segment(random, &mut sregs.ldt),
                    12 => spoil_segment(random, &mut sregs.ds),
                    _ => sregs.interrupt_bitmap[random.below(4)] = random.number(),
                }
                match guest.vcpu.set(SET_SREGS, &sregs) {
                    Ok(_) | Err(Errno(EINVAL)) => {}
                    other => panic!("KVM_SET_SREGS: expected success or EINVAL, got {other:?}"),
                }
            }
            let rflags = bits::RFLAGS_IF | random.number() & 0x3f_7fd5;
            guest.vcpu.set_regs(&kvm_regs {
                rflags,
                ..guest.vcpu.regs()
            });
            run(&guest, random);
        }
    });
}

fn random_events() {
    survives(|_| {
        for round in 0..100 {
            let random = &mut Random::of_round(round);
            let guest = Guest::long(&random.bytes(64));
            let mut events = guest.vcpu.events();
            events.exception.injected = random.next() as u8 & 1;
            events.exception.nr = random.next() as u8 & 0x1f;
            events.exception.has_error_code = random.next() as u8;
            events.exception.error_code = random.next() as u32;
            events.interrupt.injected = random.next() as u8 & 1;
            events.interrupt.nr = random.next() as u8;
            events.interrupt.soft = random.next() as u8 & 1;
            events.interrupt.shadow = random.next() as u8 & 3;
            events.nmi.injected = random.next() as u8 & 1;
            events.nmi.pending = random.next() as u8 & 3;
            events.nmi.masked = random.next() as u8 & 1;
            events.flags = random.next() as u32 & 7 & !KVM_VCPUEVENT_VALID_SIPI_VECTOR;
            match guest.vcpu.set(SET_VCPU_EVENTS, &events) {
                Ok(_) | Err(Errno(EINVAL)) => run(&guest, random),
                other => panic!("KVM_SET_VCPU_EVENTS: expected success or EINVAL, got {other:?}"),
            }
        }
    });
}

fn random_msrs() {
    survives(|random| {
        let mut list = MsrList::with_room(MSR_ROOM);
        expect::ok(
            "MSR list",
            Kvm::open().update(GET_MSR_INDEX_LIST, &mut list),
        );
        let guest = Guest::long(code64!("rdtsc", "2: hlt", "jmp 2b"));
        for _ in 0..1500 {
            let listed = random.pick(list.as_slice());
            let near = listed ^ 1 << random.below(4);
            let any = random.number() as u32;
            let index = random.pick(&[listed, near, any]);
            let value = random.number();
            let msrs = Msrs::new(&[(index, value)]);
            match guest.vcpu.set(SET_MSRS, &msrs) {
                Ok(0 | 1) => {}
                // Feature MSRs are fixed once the vCPU has run.
                other => panic!("KVM_SET_MSRS of {index:#x}: expected 0 or 1, got {other:?}"),
            }
        }
        run(&guest, random);
        let guest = Guest::long(code64!("2: wrmsr", "rdmsr", "hlt", "jmp 2b"));
        for _ in 0..250 {
            let listed = random.pick(list.as_slice());
            let any = random.number() as u32;
            let index = random.pick(&[listed, any]);
            guest.enter(Mode::Long);
            let regs = kvm_regs {
                rcx: index.into(),
                rax: random.number() & 0xffff_ffff,
                rdx: random.number() & 0xffff_ffff,
                ..guest.vcpu.regs()
            };
            guest.vcpu.set_regs(&regs);
            match run_briefly(&guest) {
                Ok(_) | Err(Errno(EINTR)) => {}
                other => panic!("WRMSR of {index:#x}: expected an exit, got {other:?}"),
            }
        }
    });
}

fn random_xsave() {
    survives(|random| {
        let guest = Guest::long(
            code64!("2: fxsave [{a}]", "fninit", "hlt", "jmp 2b"; a = const layout::DATA),
        );
        for _ in 0..500 {
            let mut state = expect::ok("KVM_GET_XSAVE", guest.vcpu.get(GET_XSAVE));
            for _ in 0..8 {
                let below = random.pick(&[1024, 512, 144]);
                let word = random.below(below);
                state.region[word] = random.number() as u32;
            }
            match guest.vcpu.set(SET_XSAVE, &state) {
                Ok(_) => run(&guest, random),
                Err(Errno(EINVAL)) => {}
                other => panic!("KVM_SET_XSAVE: expected success or EINVAL, got {other:?}"),
            }
        }
    });
}

/// Any number of KVM's type with any bytes as its argument, on each of the three descriptors.
fn random_ioctls() {
    survives(|random| {
        for _ in 0..20 {
            let guest = Guest::long(code64!("hlt"));
            let kvm = Kvm::open();
            let place = Mapping::guarded(2 * PAGE);
            for _ in 0..60 {
                let nr = random.next() & 0xff;
                let (direction, size) = (random.next() & 3, random.next() & 0xfff);
                let number = direction << 30 | size << 16 | 0xae00 | nr;
                // Not the run itself, nor what makes new descriptors.
                if [RUN, CREATE_VM, CREATE_VCPU].contains(&(number & 0xffff)) {
                    continue;
                }
                for at in (0..2 * PAGE).step_by(8) {
                    if random.below(8) == 0 {
                        place.write(at, random.number());
                    }
                }
                let offset = random.pick(&[0, PAGE, 2 * PAGE - 8, 2 * PAGE]);
                let known = [
                    GET_SREGS.number,
                    SET_SREGS.number,
                    SET_REGS.number,
                    SET_CPUID2.number,
                    SET_MSRS.number,
                    GET_MSRS.number,
                    SET_XSAVE.number,
                    SET_FPU.number,
                    SET_VCPU_EVENTS.number,
                    SET_DEBUGREGS.number,
                    SET_XCRS.number,
                    SET_GUEST_DEBUG.number,
                    TRANSLATE.number,
                    SET_USER_MEMORY_REGION.number,
                    SET_MP_STATE.number,
                    INTERRUPT.number,
                    GET_CPUID2.number,
                    SET_SREGS2.number,
                ];
                let number = if random.below(3) == 0 {
                    random.pick(&known)
                } else {
                    number
                };
                let _ = kvm.at(number, &place, offset);
                let _ = guest.vm.at(number, &place, offset);
                let _ = guest.vcpu.at(number, &place, offset);
            }
        }
    });
}

/// The VMM writes what it likes into the run page, before and between runs.
fn random_run_page() {
    survives(|random| {
        for _ in 0..30 {
            let code = code64!(
                "2: in al, 0x10",
                "out 0x11, ax",
                "mov eax, [rbx]",
                "mov [rbx], al",
                "rep insb",
                "cpuid",
                "jmp 2b"
            );
            let guest = Guest::long(code);
            let (rbx, rcx, rdi) = (layout::MMIO, 100, layout::DATA);
            guest.vcpu.set_regs(&kvm_regs {
                rbx,
                rcx,
                rdi,
                ..guest.vcpu.regs()
            });
            for _ in 0..30 {
                let page = guest.vcpu.run_page();
                for _ in 0..20 {
                    let below = random.pick(&[64, 512, 8192]);
                    page.write(random.below(below) & !7, random.number());
                }
                // Otherwise hardly a run would get anywhere.
                guest.vcpu.set_immediate_exit(random.below(4) == 0);
                guest.vcpu.set_cr8(random.next() & 15);
                let fields = u64::from(KVM_SYNC_X86_VALID_FIELDS);
                let valid = random.next() & fields;
                page.write(std::mem::offset_of!(kvm_run, kvm_valid_regs), valid);
                // Hardly any state of segments is one that can be entered.
                let dirty = random.next() & random.next() & random.next() & fields;
                page.write(std::mem::offset_of!(kvm_run, kvm_dirty_regs), dirty);
                match run_briefly(&guest) {
                    Ok(_) | Err(Errno(EINTR | EINVAL | EAGAIN | EFAULT | EIO)) => {}
                    other => {
                        panic!("KVM_RUN: expected an exit or an error of KVM's, got {other:?}")
                    }
                }
            }
        }
    });
}

/// Guest page tables of random entries, walked for the guest's device accesses and for the VMM.
fn random_page_tables() {
    survives(|_| {
        for round in 0..100 {
            let random = &mut Random::of_round(round);
            let mode = MODES[2 + round % 3];
            let code: &[u8] = &[0x8b, 0x03, 0x6e, 0x88, 0x03, 0x6c, 0xf4];
            let guest = Guest::new(mode, code);
            for _ in 0..40 {
                let table = random.pick(&[layout::PML4, layout::PDPT, layout::PD, layout::PT]);
                let entry = random.number() & !(0xff_ffff << 24) | random.next() & 0xe7;
                guest.poke(table + 8 * (random.next() & 511), entry);
            }
            for _ in 0..20 {
                let mut translation = kvm_translation {
                    linear_address: random.number(),
                    ..kvm_translation::default()
                };
                let done = guest.vcpu.update(TRANSLATE, &mut translation);
                expect::ok("KVM_TRANSLATE", done);
            }
            let address = random.number() & 0xffff_ffff;
            let (rbx, rsi, rdi) = (address, address, address);
            guest.vcpu.set_regs(&kvm_regs {
                rbx,
                rsi,
                rdi,
                ..guest.vcpu.regs()
            });
            run(&guest, random);
        }
    });
}
