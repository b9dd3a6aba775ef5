// SPDX-License-Identifier: GPL-2.0
//! Guest memory of every kind that a VMM can have, and pages that the kernel moves by itself.

use std::fs;
use std::os::fd::AsRawFd;

use kvm_bindings::kvm_regs;
use libc::EFAULT;

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::layout::{EXTRA, PROBE};
use crate::guest::Guest;
use crate::harness::skip;
use crate::memory::{Mapping, LARGE_PAGE, PAGE};
use crate::sys;
use crate::vcpu::Exit;
use crate::vm::Slot;

tests! {
    "page_kinds":
    reserved_large_pages, reserved_large_pages_fork, shared_large_pages, collapsed, split,
    compacted(60), lazily_freed, cold, read_only_mapping, device_memory, own_run_page,
    file_on_disk, memory_of_two_kinds_in_a_slot, everything_unmapped,
}

#[track_caller]
fn guest_with(memory: &Mapping) -> Guest {
    let guest = Guest::long(&[]);
    guest.vm.add_memory(1, EXTRA, memory);
    guest
}

/// Lets the guest write a number of its own into each page of the memory.
#[track_caller]
fn fill(guest: &Guest, memory: &Mapping, step: usize) {
    for place in (0..memory.len()).step_by(step) {
        let stored = guest.guest_write(EXTRA + place as u64, place as u64 + 1);
        expect::that("a store to memory", stored);
    }
}

#[track_caller]
fn expect_filled(guest: &Guest, memory: &Mapping, step: usize) {
    for place in (0..memory.len()).step_by(step) {
        let got = guest.guest_read(EXTRA + place as u64);
        expect::eq("what the guest sees", got, Some(place as u64 + 1));
        expect::eq(
            "what the VMM sees",
            memory.read::<u64>(place),
            place as u64 + 1,
        );
    }
}

/// Pages of 2 MiB from the kernel's reserve, taken into it for the test.
fn reserved() -> Mapping {
    let _ = fs::write("/proc/sys/vm/nr_hugepages", "6");
    match Mapping::reserved_large(2 * LARGE_PAGE) {
        Some(memory) => memory,
        None => skip("the kernel has no large pages to reserve"),
    }
}

const STEP: usize = LARGE_PAGE / 8;

fn reserved_large_pages() {
    let memory = reserved();
    let guest = guest_with(&memory);
    fill(&guest, &memory, STEP);
    expect_filled(&guest, &memory, STEP);
    expect::ok("madvise", memory.advise(0, LARGE_PAGE, libc::MADV_DONTNEED));
    expect::eq(
        "a page thrown away",
        guest.guest_read(EXTRA + STEP as u64),
        Some(0),
    );
    let kept = LARGE_PAGE + STEP;
    let got = guest.guest_read(EXTRA + kept as u64);
    expect::eq("a page kept", got, Some(kept as u64 + 1));
}

fn reserved_large_pages_fork() {
    let memory = reserved();
    let guest = guest_with(&memory);
    fill(&guest, &memory, STEP);
    let (reader, writer) = sys::pipe();
    let child = sys::spawn(std::panic::AssertUnwindSafe(|| {
        sys::wait_readable(reader.as_raw_fd(), std::time::Duration::from_secs(10));
        expect::eq(
            "the child's page",
            memory.read::<u64>(STEP),
            STEP as u64 + 1,
        );
    }));
    expect::that("a store", guest.guest_write(EXTRA + STEP as u64, 7));
    expect::eq("the parent's page", memory.read::<u64>(STEP), 7);
    sys::write_all(writer.as_raw_fd(), b"x");
    expect::eq("the child", sys::reap(child), sys::Ended::Exited(0));
}

fn shared_large_pages() {
    let _ = fs::write(
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always",
    );
    let file = sys::memory_file(4 * LARGE_PAGE);
    let memory = Mapping::of_file(file.as_raw_fd(), 4 * LARGE_PAGE, 0);
    let memory = expect::ok("mmap", memory);
    let guest = guest_with(&memory);
    fill(&guest, &memory, STEP);
    expect_filled(&guest, &memory, STEP);
    sys::punch_hole(&file, LARGE_PAGE / 2, LARGE_PAGE);
    let hole = LARGE_PAGE / 2 + STEP;
    expect::eq(
        "in the hole",
        guest.guest_read(EXTRA + hole as u64),
        Some(0),
    );
    let after = 2 * LARGE_PAGE;
    let got = guest.guest_read(EXTRA + after as u64);
    expect::eq("behind the hole", got, Some(after as u64 + 1));
}

/// Small pages that the guest uses become a large one.
fn collapsed() {
    const MADV_COLLAPSE: i32 = 25;
    let memory = Mapping::aligned(2 * LARGE_PAGE, LARGE_PAGE);
    memory.forbid_large_pages();
    let guest = guest_with(&memory);
    fill(&guest, &memory, 4 * PAGE);
    let _ = memory.advise(0, memory.len(), libc::MADV_HUGEPAGE);
    if memory.advise(0, memory.len(), MADV_COLLAPSE).is_err() {
        skip("the kernel has no MADV_COLLAPSE");
    }
    expect_filled(&guest, &memory, 4 * PAGE);
    expect::that("a store", guest.guest_write(EXTRA, 1));
    expect_filled(&guest, &memory, 4 * PAGE);
}

/// A large page that the guest uses becomes small ones, with a hole.
fn split() {
    let memory = Mapping::aligned(2 * LARGE_PAGE, LARGE_PAGE);
    let _ = memory.advise(0, memory.len(), libc::MADV_HUGEPAGE);
    let guest = guest_with(&memory);
    fill(&guest, &memory, STEP);
    memory.protect(3 * PAGE, PAGE, libc::PROT_READ);
    expect_filled(&guest, &memory, STEP);
    memory.map_anew(STEP, PAGE);
    expect::eq(
        "the page anew",
        guest.guest_read(EXTRA + STEP as u64),
        Some(0),
    );
    let far = 3 * STEP;
    expect::eq(
        "another",
        guest.guest_read(EXTRA + far as u64),
        Some(far as u64 + 1),
    );
    memory.protect(3 * PAGE, PAGE, libc::PROT_READ | libc::PROT_WRITE);
    expect::that("a store", guest.guest_write(EXTRA + 3 * PAGE as u64, 5));
}

/// The kernel moves pages about to make room for large ones.
fn compacted() {
    let memory = Mapping::anonymous(512 * PAGE);
    memory.forbid_large_pages();
    let guest = guest_with(&memory);
    fill(&guest, &memory, 16 * PAGE);
    for _ in 0..3 {
        if fs::write("/proc/sys/vm/compact_memory", "1").is_err() {
            skip("the kernel has no compaction");
        }
        expect_filled(&guest, &memory, 16 * PAGE);
    }
}

fn lazily_freed() {
    let memory = Mapping::anonymous(8 * PAGE);
    let guest = guest_with(&memory);
    fill(&guest, &memory, PAGE);
    expect::ok("madvise", memory.advise(0, 4 * PAGE, libc::MADV_FREE));
    // What is written again is kept; the rest may be the old value or zero.
    expect::that("a store", guest.guest_write(EXTRA, 77));
    expect::eq(
        "written again",
        (guest.guest_read(EXTRA), memory.read::<u64>(0)),
        (Some(77), 77),
    );
    let other = guest.guest_read(EXTRA + PAGE as u64);
    expect::eq(
        "the VMM sees the same",
        other,
        Some(memory.read::<u64>(PAGE)),
    );
}

fn cold() {
    let memory = Mapping::anonymous(8 * PAGE);
    let guest = guest_with(&memory);
    fill(&guest, &memory, PAGE);
    expect::ok("madvise", memory.advise(0, memory.len(), libc::MADV_COLD));
    expect_filled(&guest, &memory, PAGE);
}

/// Lets the guest store to EXTRA; KVM_RUN's result.
fn try_store(guest: &Guest) -> Result<Exit, sys::Errno> {
    guest.load(PROBE, code64!("mov [rbx], rcx", "hlt"));
    let (rip, rbx, rcx) = (PROBE, EXTRA, 9);
    guest.vcpu.set_regs(&kvm_regs {
        rip,
        rbx,
        rcx,
        ..guest.vcpu.regs()
    });
    guest.vcpu.run()
}

/// Memory that the VMM itself may only read.
fn read_only_mapping() {
    let memory = Mapping::anonymous(PAGE);
    memory.write(0, 0x1234u64);
    memory.protect(0, PAGE, libc::PROT_READ);
    let guest = guest_with(&memory);
    expect::eq("a load", guest.guest_read(EXTRA), Some(0x1234));
    expect::errno("a store", try_store(&guest), EFAULT);
    expect::eq("a load after it", guest.guest_read(EXTRA), Some(0x1234));
}

/// Pages that no page of the kernel's memory map stands behind, as a device's are: the BIOS. A KVM
/// that does not take such memory says so when the guest touches it.
fn device_memory() {
    const BIOS: usize = 0xf_0000;
    let Ok(file) = sys::open("/dev/mem", libc::O_RDWR) else {
        skip("there is no /dev/mem")
    };
    let Ok(memory) = Mapping::of_file(file.as_raw_fd(), PAGE, BIOS) else {
        skip("the kernel does not map the BIOS");
    };
    let want = memory.read::<u64>(0x10);
    let guest = guest_with(&memory);
    guest.load(PROBE, code64!("mov rax, [rbx]", "hlt"));
    let (rip, rbx) = (PROBE, EXTRA + 0x10);
    guest.vcpu.set_regs(&kvm_regs {
        rip,
        rbx,
        ..guest.vcpu.regs()
    });
    match guest.vcpu.run() {
        Ok(exit) => {
            expect::eq("KVM_RUN", exit, Exit::Hlt);
            expect::eq("a load", guest.vcpu.regs().rax, want);
        }
        refused => expect::errno("KVM_RUN", refused, EFAULT),
    }
}

/// A page that a driver gave to the VMM: here the vCPU's own run page.
fn own_run_page() {
    let guest = Guest::long(&[]);
    let place = guest.vcpu.run_page().address();
    let slot = Slot {
        slot: 1,
        flags: 0,
        gpa: EXTRA,
        size: PAGE as u64,
        hva: place,
    };
    expect::ok("add", guest.vm.set_slot(slot));
    // The exit reason of this very run is stored once it is over.
    let got = guest.guest_read(EXTRA + 8);
    expect::that(&format!("a load (got {got:x?})"), got.is_some());
}

fn file_on_disk() {
    let path = format!("/systest.{}", std::process::id());
    if fs::write(&path, vec![0x41; 2 * PAGE]).is_err() {
        skip("the root file system takes no files");
    }
    let file = expect::ok("open", sys::open(&path, libc::O_RDWR));
    let _ = fs::remove_file(&path);
    let memory = expect::ok("mmap", Mapping::of_file(file.as_raw_fd(), 2 * PAGE, 0));
    let guest = guest_with(&memory);
    expect::eq(
        "a load",
        guest.guest_read(EXTRA),
        Some(0x4141_4141_4141_4141),
    );
    expect::that("a store", guest.guest_write(EXTRA + PAGE as u64, 0x42));
    sys::sync_file(&file);
    expect::that(
        "a store after it was written back",
        guest.guest_write(EXTRA + PAGE as u64, 0x43),
    );
    sys::sync_file(&file);
    let again = expect::ok("mmap", Mapping::of_file(file.as_raw_fd(), 2 * PAGE, 0));
    expect::eq("the file", again.read::<u64>(PAGE), 0x43);
}

/// A slot over a mapping whose middle is another file's.
fn memory_of_two_kinds_in_a_slot() {
    let memory = Mapping::aligned(2 * LARGE_PAGE, LARGE_PAGE);
    let _ = memory.advise(0, memory.len(), libc::MADV_HUGEPAGE);
    let guest = guest_with(&memory);
    fill(&guest, &memory, STEP);
    memory.map_anew(LARGE_PAGE / 2, 3 * PAGE);
    memory.protect(LARGE_PAGE / 2 + PAGE, PAGE, libc::PROT_NONE);
    let middle = EXTRA + (LARGE_PAGE / 2) as u64;
    expect::eq("the page anew", guest.guest_read(middle), Some(0));
    expect::that("a store to it", guest.guest_write(middle, 3));
    expect::eq(
        "beside the hole",
        guest.guest_read(middle + 2 * PAGE as u64),
        Some(0),
    );
    let last = 3 * STEP;
    expect::eq(
        "the rest",
        guest.guest_read(EXTRA + last as u64),
        Some(last as u64 + 1),
    );
}

/// The VMM unmaps a gigabyte of addresses that the guest has a few pages of.
fn everything_unmapped() {
    let memory = Mapping::anonymous(1 << 30);
    let guest = guest_with(&memory);
    fill(&guest, &memory, 64 << 20);
    drop(memory);
    expect::errno("a store", try_store(&guest), EFAULT);
}
