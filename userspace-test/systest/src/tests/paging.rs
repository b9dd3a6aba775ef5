// SPDX-License-Identifier: GPL-2.0
//! Guest memory is the VMM's own: whatever the VMM or the kernel does to its pages, the guest sees
//! what the VMM sees.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use kvm_bindings::{kvm_regs, KVM_EXIT_INTERNAL_ERROR};
use libc::{EFAULT, EINTR};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{layout, layout::EXTRA, Guest};
use crate::harness::skip;
use crate::memory::{Mapping, LARGE_PAGE, PAGE};
use crate::sys;
use crate::vcpu::Exit;
use crate::vm::Slot;

tests! {
    "paging":
    on_demand, vmm_writes_are_seen, large_pages, large_pages_split, dont_need,
    dont_need_large, dont_need_while_running, unmapped, mapped_anew, moved_in_vmm,
    protected_against_writes, file_backed, hole_in_file, truncated_file, fork_parent_writes,
    fork_child_writes, fork_while_running, zero_page, same_page_merging(60), swapped_out(60),
    fetch_from_nowhere, boundary_of_memory,
}

const P: u64 = PAGE as u64;

/// A guest with all of `memory` at EXTRA.
#[track_caller]
fn guest_with(memory: &Mapping) -> Guest {
    let guest = Guest::long(&[]);
    guest.vm.add_memory(1, EXTRA, memory);
    guest
}

#[track_caller]
fn store(guest: &Guest, offset: usize, value: u64) {
    expect::that(
        "a store to memory",
        guest.guest_write(EXTRA + offset as u64, value),
    );
}

#[track_caller]
fn expect_load(guest: &Guest, offset: usize, value: u64) {
    let got = guest.guest_read(EXTRA + offset as u64);
    expect::eq(&format!("load at offset {offset:#x}"), got, Some(value));
}

/// Lets the guest store to `offset`; KVM_RUN's result where the guest does not halt.
fn try_store(guest: &Guest, offset: usize, value: u64) -> Result<Exit, sys::Errno> {
    guest.load(layout::PROBE, code64!("mov [rbx], rcx", "hlt"));
    let (rip, rbx, rcx) = (layout::PROBE, EXTRA + offset as u64, value);
    guest.vcpu.set_regs(&kvm_regs {
        rip,
        rbx,
        rcx,
        ..guest.vcpu.regs()
    });
    guest.vcpu.run()
}

/// A sparse quarter of a gigabyte: only what is touched takes memory.
fn on_demand() {
    const SIZE: usize = 256 << 20;
    let memory = Mapping::anonymous(SIZE);
    memory.forbid_large_pages();
    let guest = guest_with(&memory);
    let places = (0..64).map(|i| i * (SIZE / 64) + i * PAGE);
    for place in places.clone() {
        store(&guest, place, place as u64 + 1);
    }
    for place in places {
        expect::eq(
            "what the VMM sees",
            memory.read::<u64>(place),
            place as u64 + 1,
        );
        expect_load(&guest, place + 8, 0);
    }
    let resident = memory.resident_pages();
    expect::that(
        &format!("64 pages resident (got {resident})"),
        resident == 64,
    );
}

fn vmm_writes_are_seen() {
    let memory = Mapping::anonymous(4 * PAGE);
    let guest = guest_with(&memory);
    for value in 1..20 {
        memory.write(PAGE, value);
        expect_load(&guest, PAGE, value);
        store(&guest, PAGE + 8, value);
        expect::eq("what the VMM sees", memory.read::<u64>(PAGE + 8), value);
    }
}

/// Memory that may consist of large pages.
fn large() -> Mapping {
    let memory = Mapping::aligned(2 * LARGE_PAGE, LARGE_PAGE);
    // Where the kernel has no large pages the tests hold with small ones.
    let _ = memory.advise(0, memory.len(), libc::MADV_HUGEPAGE);
    memory
}

fn large_pages() {
    let memory = large();
    let guest = guest_with(&memory);
    for place in (0..memory.len()).step_by(LARGE_PAGE / 8) {
        store(&guest, place, place as u64 + 1);
        memory.write(place + 8, !place as u64);
    }
    for place in (0..memory.len()).step_by(LARGE_PAGE / 8) {
        expect::eq(
            "what the VMM sees",
            memory.read::<u64>(place),
            place as u64 + 1,
        );
        expect_load(&guest, place + 8, !place as u64);
    }
}

/// A slot that starts in the middle of a large page shows each page at its place.
fn large_pages_split() {
    let memory = large();
    for page in (0..memory.len()).step_by(PAGE) {
        memory.write(page, page as u64);
    }
    let guest = Guest::long(&[]);
    let skipped = 3 * P;
    let slot = Slot {
        size: memory.len() as u64 - skipped,
        ..Slot::of(1, EXTRA, &memory)
    };
    let slot = Slot {
        hva: slot.hva + skipped,
        ..slot
    };
    expect::ok("add", guest.vm.set_slot(slot));
    for page in (0..memory.len() as u64 - skipped).step_by(64 * PAGE) {
        expect::eq("page", guest.guest_read(EXTRA + page), Some(page + skipped));
    }
    // The guest's own addresses have another offset within a large page than the VMM's.
    let high = Slot {
        slot: 2,
        gpa: EXTRA + (16 << 20) + P,
        ..Slot::of(2, 0, &memory)
    };
    expect::ok("add", guest.vm.set_slot(high));
    for page in (0..memory.len() as u64).step_by(64 * PAGE) {
        expect::eq("page", guest.guest_read(high.gpa + page), Some(page));
    }
}

fn dont_need() {
    let memory = Mapping::anonymous(4 * PAGE);
    let guest = guest_with(&memory);
    for page in 0..4 {
        store(&guest, page * PAGE, 7);
    }
    expect::ok(
        "madvise",
        memory.advise(PAGE, 2 * PAGE, libc::MADV_DONTNEED),
    );
    for (page, value) in [(0, 7), (1, 0), (2, 0), (3, 7)] {
        expect_load(&guest, page * PAGE, value);
    }
    store(&guest, PAGE, 8);
    expect::eq("what the VMM sees", memory.read::<u64>(PAGE), 8);
}

fn dont_need_large() {
    let memory = large();
    let guest = guest_with(&memory);
    for place in (0..memory.len()).step_by(PAGE * 16) {
        store(&guest, place, 9);
    }
    let half = LARGE_PAGE / 2;
    expect::ok(
        "madvise",
        memory.advise(half, LARGE_PAGE, libc::MADV_DONTNEED),
    );
    for place in (0..memory.len()).step_by(PAGE * 16) {
        let gone = (half..half + LARGE_PAGE).contains(&place);
        expect_load(&guest, place, if gone { 0 } else { 9 });
    }
}

/// The guest counts in a page that is thrown away again and again: each time it starts at 0 anew.
fn dont_need_while_running() {
    let memory = Mapping::anonymous(PAGE);
    let guest = guest_with(&memory);
    let code = code64!("2: inc qword ptr [{page}]", "jmp 2b"; page = const EXTRA);
    guest.load(layout::CODE, code);
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
        let count = || memory.read::<u64>(0);
        for _ in 0..30 {
            let begin = Instant::now();
            while count() < 1000 {
                expect::that("the guest counts", begin.elapsed() < Duration::from_secs(5));
                std::thread::yield_now();
            }
            let before = count();
            expect::ok("madvise", memory.advise(0, PAGE, libc::MADV_DONTNEED));
            // What the guest still had in hand may be written once; the old page's count may not.
            let after = count();
            expect::that(
                "the guest counts in a new page",
                after < before || after < 1000,
            );
        }
        guest.vcpu.set_immediate_exit(true);
        thread.signal(libc::SIGUSR1);
        expect::errno("KVM_RUN", running.join().expect("the vCPU's thread"), EINTR);
    });
    expect::ok("madvise", memory.advise(0, PAGE, libc::MADV_DONTNEED));
    guest.vcpu.set_immediate_exit(false);
    expect_load(&guest, 0, 0);
}

fn unmapped() {
    let memory = Mapping::anonymous(2 * PAGE);
    let guest = guest_with(&memory);
    store(&guest, 0, 1);
    store(&guest, PAGE, 1);
    drop(memory);
    let rip = layout::PROBE;
    expect::errno("KVM_RUN", try_store(&guest, 0, 2), EFAULT);
    expect::eq("RIP", guest.vcpu.regs().rip, rip);
    expect::errno("KVM_RUN again", guest.vcpu.run(), EFAULT);
}

fn mapped_anew() {
    let memory = Mapping::anonymous(2 * PAGE);
    let guest = guest_with(&memory);
    store(&guest, 0, 1);
    store(&guest, PAGE, 2);
    memory.map_anew(0, PAGE);
    expect_load(&guest, 0, 0);
    expect_load(&guest, PAGE, 2);
    store(&guest, 0, 3);
    expect::eq("what the VMM sees", memory.read::<u64>(0), 3);
}

fn moved_in_vmm() {
    let memory = Mapping::anonymous(PAGE);
    let guest = guest_with(&memory);
    store(&guest, 0, 1);
    let moved = memory.relocate();
    expect::errno(
        "store where nothing is mapped",
        try_store(&guest, 0, 2),
        EFAULT,
    );
    expect::eq("the page elsewhere", moved.read::<u64>(0), 1);
    moved.write(0, 5u64);
    expect::errno("still", guest.vcpu.run(), EFAULT);
}

fn protected_against_writes() {
    let memory = Mapping::anonymous(PAGE);
    let guest = guest_with(&memory);
    store(&guest, 0, 1);
    memory.protect(0, PAGE, libc::PROT_READ);
    expect_load(&guest, 0, 1);
    expect::errno("store", try_store(&guest, 0, 2), EFAULT);
    expect::eq("memory", memory.read::<u64>(0), 1);
    memory.protect(0, PAGE, libc::PROT_READ | libc::PROT_WRITE);
    expect::eq("the store after all", guest.vcpu.run(), Ok(Exit::Hlt));
    expect::eq("memory", memory.read::<u64>(0), 2);
    memory.protect(0, PAGE, libc::PROT_NONE);
    expect::errno("no access at all", try_store(&guest, 0, 3), EFAULT);
}

fn file_backed() {
    let file = sys::memory_file(2 * PAGE);
    let memory = expect::ok("mmap", Mapping::of_file(file.as_raw_fd(), 2 * PAGE, 0));
    let guest = guest_with(&memory);
    store(&guest, PAGE, 0x4142_4344);
    let mut file = fs::File::from(file);
    let mut bytes = vec![0; PAGE + 8];
    file.read_exact(&mut bytes).expect("reading the file");
    expect::eq(
        "the file",
        bytes[PAGE..].to_vec(),
        0x4142_4344u64.to_le_bytes().to_vec(),
    );
    file.write_all(&[1]).expect("writing the file");
    file.set_len(2 * P).expect("the file's size");
    let second = expect::ok("mmap", Mapping::of_file(file.as_raw_fd(), 2 * PAGE, 0));
    second.write(0, 6u64);
    expect_load(&guest, 0, 6);
}

fn hole_in_file() {
    let file = sys::memory_file(2 * PAGE);
    let memory = expect::ok("mmap", Mapping::of_file(file.as_raw_fd(), 2 * PAGE, 0));
    let guest = guest_with(&memory);
    store(&guest, 0, 1);
    store(&guest, PAGE, 2);
    sys::punch_hole(&file, PAGE, PAGE);
    expect_load(&guest, PAGE, 0);
    expect_load(&guest, 0, 1);
}

fn truncated_file() {
    let file = sys::memory_file(2 * PAGE);
    let memory = expect::ok("mmap", Mapping::of_file(file.as_raw_fd(), 2 * PAGE, 0));
    let guest = guest_with(&memory);
    store(&guest, PAGE, 2);
    let file = fs::File::from(file);
    file.set_len(P).expect("the file's size");
    expect::errno("store behind the end", try_store(&guest, PAGE, 3), EFAULT);
    file.set_len(2 * P).expect("the file's size");
    expect_load(&guest, PAGE, 0);
}

/// After fork the pages are shared until one side writes. Here the guest, in the parent, does.
fn fork_parent_writes() {
    let memory = Mapping::anonymous(PAGE);
    let guest = guest_with(&memory);
    store(&guest, 0, 1);
    let (reader, writer) = sys::pipe();
    let child = sys::spawn(std::panic::AssertUnwindSafe(|| {
        sys::wait_readable(reader.as_raw_fd(), Duration::from_secs(10));
        expect::eq("the child's page", memory.read::<u64>(0), 1);
    }));
    store(&guest, 0, 2);
    expect::eq("the parent's page", memory.read::<u64>(0), 2);
    memory.write(8, 3u64);
    expect_load(&guest, 8, 3);
    sys::write_all(writer.as_raw_fd(), b"x");
    expect::eq("the child", sys::reap(child), sys::Ended::Exited(0));
    expect_load(&guest, 0, 2);
}

fn fork_child_writes() {
    let memory = Mapping::anonymous(PAGE);
    let guest = guest_with(&memory);
    store(&guest, 0, 1);
    sys::in_child(std::panic::AssertUnwindSafe(|| memory.write(0, 99u64)));
    expect_load(&guest, 0, 1);
    let (reader, writer) = sys::pipe();
    let (told, tell) = sys::pipe();
    let child = sys::spawn(std::panic::AssertUnwindSafe(|| {
        memory.write(0, 98u64);
        sys::write_all(tell.as_raw_fd(), b"x");
        sys::wait_readable(reader.as_raw_fd(), Duration::from_secs(10));
        expect::eq("the child's page", memory.read::<u64>(0), 98);
    }));
    sys::wait_readable(told.as_raw_fd(), Duration::from_secs(10));
    expect_load(&guest, 0, 1);
    store(&guest, 0, 2);
    expect::eq("the parent's page", memory.read::<u64>(0), 2);
    sys::write_all(writer.as_raw_fd(), b"x");
    expect::eq("the child", sys::reap(child), sys::Ended::Exited(0));
}

/// The guest counts while its VMM forks: no count is lost to a child's copy of the page.
fn fork_while_running() {
    let memory = Mapping::anonymous(PAGE);
    let guest = guest_with(&memory);
    let code = code64!(
        "2: inc qword ptr [{page}]",
        "inc rbx",
        "cmp qword ptr [{page} + 8], 0",
        "je 2b",
        "hlt";
        page = const EXTRA
    );
    guest.load(layout::CODE, code);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: 0,
        ..guest.vcpu.regs()
    });
    std::thread::scope(|scope| {
        let running = scope.spawn(|| guest.vcpu.run());
        for _ in 0..10 {
            let seen = memory.read::<u64>(0);
            let child = sys::spawn(std::panic::AssertUnwindSafe(|| {
                std::thread::sleep(Duration::from_millis(2));
            }));
            while memory.read::<u64>(0) == seen {
                std::thread::yield_now();
            }
            sys::reap(child);
        }
        memory.write(8, 1u64);
        let exit = running.join().expect("the vCPU's thread");
        expect::eq("KVM_RUN", exit, Ok(Exit::Hlt));
    });
    expect::eq(
        "count in memory and register",
        memory.read::<u64>(0),
        guest.vcpu.regs().rbx,
    );
}

/// What is read first and written later is not the kernel's page of zeroes for ever.
fn zero_page() {
    let memory = Mapping::anonymous(2 * PAGE);
    let guest = guest_with(&memory);
    expect_load(&guest, 0, 0);
    expect::eq("the VMM reads", memory.read::<u64>(PAGE), 0);
    expect_load(&guest, PAGE, 0);
    store(&guest, 0, 1);
    memory.write(PAGE, 2u64);
    expect_load(&guest, PAGE, 2);
    expect::eq("what the VMM sees", memory.read::<u64>(0), 1);
    let fresh = Mapping::anonymous(PAGE);
    expect::eq("another page of zeroes", fresh.read::<u64>(0), 0);
}

fn same_page_merging() {
    const KSM: &str = "/sys/kernel/mm/ksm";
    let set = |file: &str, value: &str| fs::write(format!("{KSM}/{file}"), value).is_ok();
    let shared = || {
        let text = fs::read_to_string(format!("{KSM}/pages_sharing")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let memory = Mapping::anonymous(16 * PAGE);
    let advised = memory.advise(0, memory.len(), libc::MADV_MERGEABLE).is_ok();
    if !advised || !set("sleep_millisecs", "1") || !set("pages_to_scan", "1000") {
        skip("the kernel has no same-page merging");
    }
    let guest = guest_with(&memory);
    for page in 0..16 {
        for word in 0..PAGE / 8 {
            memory.write(page * PAGE + word * 8, 0x5a5a_5a5a_0000_0000 + word as u64);
        }
        expect_load(&guest, page * PAGE + 8, 0x5a5a_5a5a_0000_0001);
    }
    set("run", "1");
    let begin = Instant::now();
    while shared() < 8 && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let merged = shared();
    for page in 0..16 {
        expect_load(&guest, page * PAGE + 8, 0x5a5a_5a5a_0000_0001);
    }
    store(&guest, 3 * PAGE + 8, 1);
    for page in 0..16 {
        let want = if page == 3 { 1 } else { 0x5a5a_5a5a_0000_0001 };
        expect::eq(
            "what the VMM sees",
            memory.read::<u64>(page * PAGE + 8),
            want,
        );
        expect_load(&guest, page * PAGE + 8, want);
    }
    set("run", "2");
    expect_load(&guest, 3 * PAGE + 8, 1);
    store(&guest, 4 * PAGE + 8, 2);
    expect::eq("what the VMM sees", memory.read::<u64>(4 * PAGE + 8), 2);
    expect::that(&format!("pages merged (got {merged})"), merged >= 8);
}

fn swapped_out() {
    const PAGES: usize = 32;
    let Some(_swap) = sys::SwapFile::on("/systest.swap", 256) else {
        skip("no swap space can be made here");
    };
    let memory = Mapping::anonymous(PAGES * PAGE);
    let guest = guest_with(&memory);
    for page in 0..PAGES {
        store(&guest, page * PAGE, page as u64 + 1);
    }
    let begin = Instant::now();
    while memory.swapped_pages() < PAGES && begin.elapsed() < Duration::from_secs(10) {
        expect::ok(
            "madvise",
            memory.advise(0, memory.len(), libc::MADV_PAGEOUT),
        );
    }
    expect::eq("pages swapped out", memory.swapped_pages(), PAGES);
    for page in 0..PAGES {
        expect_load(&guest, page * PAGE, page as u64 + 1);
        store(&guest, page * PAGE + 8, page as u64);
        expect::eq(
            "what the VMM sees",
            memory.read::<u64>(page * PAGE + 8),
            page as u64,
        );
    }
}

/// There is no instruction to emulate where there is no memory.
fn fetch_from_nowhere() {
    let guest = Guest::long(&[]);
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::MMIO,
        ..guest.vcpu.regs()
    });
    let got = guest.vcpu.run();
    expect::eq("KVM_RUN", got.is_ok(), true);
    expect::eq(
        "exit reason",
        guest.vcpu.exit_reason(),
        KVM_EXIT_INTERNAL_ERROR,
    );
}

fn boundary_of_memory() {
    let end = layout::MEMORY as u64;
    let guest = Guest::long(&[]);
    expect::that("the last word", guest.guest_write(end - 8, 5));
    expect::eq("the last word", guest.guest_read(end - 8), Some(5));
    expect::eq("behind it", guest.guest_read(end), None);
}
