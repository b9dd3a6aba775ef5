// SPDX-License-Identifier: GPL-2.0
//! The same many times over: VMMs killed at random, the module unloaded and loaded. What they had is
//! given back: nobody uses the module, no VM is in debugfs, files, the kernel's memory, the objects of
//! each slab cache where the kernel counts them (the stock kernel does), and each CPU's MSRs are as
//! before. `--endurance=N` goes N times as long.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use kvm_bindings::*;
use libc::SIGKILL;

use super::fuzz::Random;
use super::module::{self, DEBUGFS};
use super::tests;
use crate::code64;
use crate::devices::*;
use crate::eventfd::Event;
use crate::expect;
use crate::guest::{layout, Guest};
use crate::harness;
use crate::machine::Machine;
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys::{self, Ended};
use crate::vm::Slot;

tests! {
    "endurance":
    killed(200), reloaded(200), reloaded_without_memory(60),
}

/// What a guest has a value of its own for, which must not stay behind: SYSENTER's, DEBUGCTL, PAT,
/// EFER, SYSCALL's, TSC_AUX; and FEATURE_CONTROL, which nobody changes. SPEC_CTRL and XSS where there are.
const MSRS: [u32; 14] = [
    0x3a,
    0x48,
    0x174,
    0x175,
    0x176,
    0x1d9,
    0x277,
    0xda0,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0103,
];

/// Some of them, with values that no host has.
const GUEST_MSRS: [(u32, u64); 7] = [
    (0x174, 0x8),
    (0x175, 0xffff_8000_0000_1000),
    (0x277, 0x0007_0406_0007_0401),
    (0xc000_0081, 0x0023_0010_0000_0000),
    (0xc000_0082, 0xffff_8000_0000_3000),
    (0xc000_0083, 0xffff_8000_0000_4000),
    (0xc000_0084, 0x4_7700),
];

/// `MSRS` of each CPU that is online; `None` where it has no such MSR (`/dev/cpu/N/msr`).
fn processors() -> Vec<Vec<Option<u64>>> {
    let files = (0..).map_while(|cpu| File::open(format!("/dev/cpu/{cpu}/msr")).ok());
    let processors: Vec<_> = files
        .map(|file| {
            let value = |&msr: &u32| {
                let mut bytes = [0; 8];
                let read = file.read_exact_at(&mut bytes, msr.into());
                read.ok().map(|()| u64::from_le_bytes(bytes))
            };
            MSRS.iter().map(value).collect()
        })
        .collect();
    expect::ne("processors with MSRs to read", processors.len(), 0);
    processors
}

/// What is in use.
struct Usage {
    /// References to the module.
    module: u64,
    /// VMs in debugfs.
    vms: usize,
    /// Open files of all processes.
    files: u64,
    /// Pages of the kernel's own.
    pages: u64,
    /// Objects in each slab cache; none where the kernel does not count them.
    slabs: BTreeMap<String, u64>,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The numbers behind the lines of a text that begin with one of `keys`.
fn sum(text: &str, keys: &[&str]) -> u64 {
    let numbers = text.lines().filter_map(|line| {
        let line = line.trim_start();
        let rest = keys.iter().find_map(|key| line.strip_prefix(key))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    numbers.sum()
}

/// The objects in use of each slab cache.
fn slabs() -> BTreeMap<String, u64> {
    // What CPUs keep at hand counts as in use, so they are to give it back first.
    for cache in fs::read_dir("/sys/kernel/slab").into_iter().flatten() {
        let _ = fs::write(cache.expect("a cache").path().join("shrink"), "1");
    }
    let info = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    // A note of an address that was freed is kept until the TLB is flushed for many of them.
    let lines = info.lines().filter(|line| !line.starts_with("vmap_area "));
    let caches = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    });
    caches.collect()
}

impl Usage {
    fn now() -> Self {
        let count = format!("/sys/module/{}/refcnt", module::name());
        let vms = fs::read_dir(DEBUGFS).map_or(0, |entries| {
            let entries = entries.filter_map(Result::ok);
            entries.filter(|entry| entry.path().is_dir()).count()
        });
        // What each CPU counted by itself goes into the sums.
        let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
        let meminfo = read("/proc/meminfo");
        // Each CPU keeps some free pages of its own, which count as used.
        let free = sum(&read("/proc/zoneinfo"), &["pages free", "count:"]);
        let total = sum(&meminfo, &["MemTotal:"]) / 4;
        let others = [
            "Cached:",
            "Buffers:",
            "AnonPages:",
            "PageTables:",
            "SecPageTables:",
        ];
        Self {
            module: read(&count).trim().parse().expect("a number"),
            vms,
            files: sum(&read("/proc/sys/fs/file-nr"), &[""]),
            pages: total.saturating_sub(free + sum(&meminfo, &others) / 4),
            slabs: slabs(),
        }
    }

    /// What is more than `before`, if anything, but for what the kernel has of its own accord.
    fn more_than(&self, before: &Self, rounds: u64) -> Vec<String> {
        /// Pages of slabs that are not full, of stacks kept for the next thread, and the like.
        const SLACK: u64 = 96;
        let counts = [
            ("references", self.module, before.module),
            ("VMs", self.vms as u64, before.vms as u64),
            ("files", self.files, before.files + 8),
        ];
        // There memory that was freed still counts.
        let looks_for_leaks = harness::kernel_looks_for_leaks();
        let pages = (!looks_for_leaks).then_some(("pages", self.pages, before.pages + SLACK));
        // Less than one object in two rounds comes from elsewhere.
        let slabs = self.slabs.iter().filter_map(|(name, &count)| {
            let before = before.slabs.get(name).copied().unwrap_or(0);
            (!looks_for_leaks).then_some((&**name, count, before + (rounds / 2).max(64)))
        });
        let all = counts.into_iter().chain(pages).chain(slabs);
        all.filter(|&(_, now, limit)| now > limit)
            .map(|(name, now, limit)| format!("{name}: {now}, expected up to {limit}"))
            .collect()
    }
}

/// Does `rounds` of something, after some that are not counted, and waits until all is given back.
#[track_caller]
fn given_back(rounds: u64, mut round: impl FnMut(u64)) {
    let rounds = rounds * harness::endurance();
    let first = rounds / 5 + 3;
    (0..first).for_each(&mut round);
    // Let what goes with a delay go.
    std::thread::sleep(Duration::from_millis(300));
    let (before, processors_before) = (Usage::now(), processors());
    (first..first + rounds).for_each(&mut round);
    let mut more = Vec::new();
    for _ in 0..100 {
        more = Usage::now().more_than(&before, rounds);
        if more.is_empty() {
            expect::eq("MSRs of the processors", processors(), processors_before);
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("not given back after {rounds} rounds: {}", more.join("; "));
}

/// A VM with a bit of everything: made, run, and ended.
fn life() {
    let machine = Machine::new(2);
    let vm = &machine.vm;
    vm.create_pit2(0);
    expect::ok(
        "KVM_SET_GSI_ROUTING",
        vm.set_routes(&[Route::msi(5, msi_address(0), 0x51)]),
    );
    let (rung, heard) = (Event::new(), Event::new());
    let irqfd = kvm_irqfd {
        fd: rung.fd() as u32,
        gsi: 5,
        ..kvm_irqfd::default()
    };
    expect::ok("KVM_IRQFD", vm.set(IRQFD, &irqfd));
    let ioeventfd = kvm_ioeventfd {
        addr: layout::MMIO,
        len: 4,
        fd: heard.fd(),
        ..kvm_ioeventfd::default()
    };
    expect::ok("KVM_IOEVENTFD", vm.set(IOEVENTFD, &ioeventfd));
    let memory = Mapping::anonymous(64 * PAGE);
    let slot = Slot {
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        ..Slot::of(1, layout::EXTRA, &memory)
    };
    expect::ok("a slot", vm.set_slot(slot));
    for id in 0..2 {
        let cpu = machine.cpu(id);
        cpu.enable_apic();
        for (msr, value) in GUEST_MSRS {
            expect::that("the guest's MSR", cpu.wrmsr(msr, value).is_ok());
        }
    }
    machine.handle(0x51, crate::machine::Eoi::Xapic);
    std::thread::scope(|scope| {
        scope.spawn(|| machine.cpu(1).spin(20_000));
        let code = code64!(
            "mov ecx, 64",
            "2: mov [rbx], ecx",
            "mov [rdx], ecx",
            "add rbx, 4096",
            "loop 2b",
            "out 0xe9, al"
        );
        rung.signal();
        let done = machine.cpu(0).operate(code, |regs| {
            regs.rbx = layout::EXTRA;
            regs.rdx = layout::MMIO;
        });
        expect::that("no exception", done.is_ok());
    });
    expect::ok("its end", vm.set_slot(Slot { size: 0, ..slot }));
}

/// VMMs are killed at random moments of a VM's making, running and end.
fn killed() {
    let begin = Instant::now();
    life();
    let one = begin.elapsed().as_micros() as usize;
    let mut random = Random::seeded();
    given_back(100, |_| {
        let child = sys::spawn(AssertUnwindSafe(|| loop {
            life();
        }));
        let moment = random.below(2 * one) as u64;
        std::thread::sleep(Duration::from_micros(moment));
        sys::kill(child, SIGKILL);
        expect::eq("the child", sys::reap(child), Ended::Signalled(SIGKILL));
    });
    // No CPU keeps anything of them.
    module::unload_all()();
    life();
}

fn reload() {
    let load = module::unload_all();
    load();
    Guest::long(code64!("hlt")).run_to_halt();
}

fn reloaded() {
    given_back(20, |_| reload());
}

/// Memory is short and in pieces: every second page of what is free is taken. The module loads all
/// the same.
fn reloaded_without_memory() {
    let available = sum(&read("/proc/meminfo"), &["MemAvailable:"]) as usize * 1024;
    let taken = available.saturating_sub(48 << 20) / PAGE * PAGE;
    let hog = Mapping::anonymous(taken);
    (0..taken)
        .step_by(PAGE)
        .for_each(|page| hog.write(page, 1u8));
    let hole = (16 << 20).min(taken / 2);
    for page in (0..hole).step_by(2 * PAGE) {
        expect::ok("madvise", hog.advise(page, PAGE, libc::MADV_DONTNEED));
    }
    given_back(3, |_| reload());
}
