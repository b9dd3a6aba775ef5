// SPDX-License-Identifier: GPL-2.0
//! KVM_PRE_FAULT_MEMORY (api.rst 4.143).

use kvm_bindings::*;
use libc::{EFAULT, EINVAL, ENOENT};

use super::tests;
use crate::expect;
use crate::guest::{layout::EXTRA, Guest};
use crate::memory::{Mapping, LARGE_PAGE, PAGE};
use crate::request::*;
use crate::sys::Errno;
use crate::vm::{Kvm, Slot};

tests! {
    "pre_fault":
    capability, small_pages, large_pages, part_of_a_large_page, read_only_slot, again, logged,
    up_to_the_end, flags, bad_range, no_slot, no_memory_behind, bad_pointer,
}

const P: u64 = PAGE as u64;

fn capability() {
    let there = Kvm::open().extension(KVM_CAP_PRE_FAULT_MEMORY);
    expect::eq("there", there, 1);
}

/// The result, and what is left of the range.
fn pre_fault(guest: &Guest, gpa: u64, size: u64) -> (Result<i32, Errno>, u64, u64) {
    let mut range = kvm_pre_fault_memory {
        gpa,
        size,
        ..Default::default()
    };
    let done = guest.vcpu.update(PRE_FAULT_MEMORY, &mut range);
    (done, range.gpa, range.size)
}

#[track_caller]
fn expect_all(guest: &Guest, gpa: u64, size: u64) {
    let want = (Ok(0), gpa + size, 0);
    expect::eq("KVM_PRE_FAULT_MEMORY", pre_fault(guest, gpa, size), want);
}

fn guest_with(memory: &Mapping) -> Guest {
    let guest = Guest::long(&[]);
    guest.vm.add_memory(1, EXTRA, memory);
    guest
}

fn small_pages() {
    let memory = Mapping::anonymous(20 * PAGE);
    let guest = guest_with(&memory);
    expect_all(&guest, EXTRA + P, 10 * P);
    let resident = memory.resident_pages();
    expect::that(&format!("{resident} pages are there"), resident >= 10);
    for page in [0, 1, 10, 11] {
        let at = EXTRA + page * P;
        expect::eq("a load", guest.guest_read(at), Some(0));
        expect::that("a store", guest.guest_write(at, page));
        expect::eq("the VMM's memory", memory.read(page as usize * PAGE), page);
    }
}

fn large_pages() {
    let memory = Mapping::aligned(3 * LARGE_PAGE, LARGE_PAGE);
    let _ = memory.advise(0, memory.len(), libc::MADV_HUGEPAGE);
    for page in 0..3 {
        memory.write(page * LARGE_PAGE, 1u8);
    }
    let guest = guest_with(&memory);
    expect_all(&guest, EXTRA, memory.len() as u64);
    for place in (0..memory.len() as u64).step_by(LARGE_PAGE / 2) {
        expect::that("a store", guest.guest_write(EXTRA + place, place));
    }
}

fn part_of_a_large_page() {
    let memory = Mapping::aligned(2 * LARGE_PAGE, LARGE_PAGE);
    let _ = memory.advise(0, memory.len(), libc::MADV_HUGEPAGE);
    memory.write(0, 1u8);
    let guest = guest_with(&memory);
    expect_all(&guest, EXTRA + 5 * P, P);
    expect_all(&guest, EXTRA + LARGE_PAGE as u64 - P, 2 * P);
    expect_all(&guest, EXTRA + 7 * P, LARGE_PAGE as u64);
}

fn read_only_slot() {
    let guest = Guest::long(&[]);
    let memory = Mapping::anonymous(4 * PAGE);
    let flags = KVM_MEM_READONLY;
    let slot = Slot::of(1, EXTRA, &memory);
    expect::ok("add", guest.vm.set_slot(Slot { flags, ..slot }));
    expect_all(&guest, EXTRA, 4 * P);
    expect::eq("a load", guest.guest_read(EXTRA), Some(0));
    expect::that("a store is MMIO", !guest.guest_write(EXTRA, 1));
}

fn again() {
    let memory = Mapping::anonymous(4 * PAGE);
    let guest = guest_with(&memory);
    expect::that("a store", guest.guest_write(EXTRA, 7));
    for _ in 0..2 {
        expect_all(&guest, EXTRA, 4 * P);
    }
    expect::eq("a load", guest.guest_read(EXTRA), Some(7));
}

/// What the guest writes after it counts as written.
fn logged() {
    let guest = Guest::long(&[]);
    let memory = Mapping::anonymous(4 * PAGE);
    let flags = KVM_MEM_LOG_DIRTY_PAGES;
    let slot = Slot::of(1, EXTRA, &memory);
    expect::ok("add", guest.vm.set_slot(Slot { flags, ..slot }));
    expect_all(&guest, EXTRA, 4 * P);
    let get = || {
        let mut word = 0u64;
        let log = kvm_dirty_log {
            slot: 1,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
                dirty_bitmap: std::ptr::from_mut(&mut word).cast(),
            },
            ..Default::default()
        };
        expect::ok("KVM_GET_DIRTY_LOG", guest.vm.set(GET_DIRTY_LOG, &log));
        word
    };
    get();
    expect::that("a store", guest.guest_write(EXTRA + 2 * P, 7));
    expect::eq("written", get(), 1 << 2);
}

/// Where memory ends, what is before it is mapped, and the rest is left.
fn up_to_the_end() {
    let memory = Mapping::anonymous(4 * PAGE);
    let guest = guest_with(&memory);
    let got = pre_fault(&guest, EXTRA + P, 10 * P);
    expect::eq("half of it", got, (Ok(0), EXTRA + 4 * P, 7 * P));
}

fn flags() {
    let memory = Mapping::anonymous(4 * PAGE);
    let guest = guest_with(&memory);
    for flags in [1, 1 << 63] {
        let mut range = kvm_pre_fault_memory {
            gpa: EXTRA,
            size: P,
            flags,
            ..Default::default()
        };
        let done = guest.vcpu.update(PRE_FAULT_MEMORY, &mut range);
        expect::errno("KVM_PRE_FAULT_MEMORY", done, EINVAL);
        expect::eq("what is left", (range.gpa, range.size), (EXTRA, P));
    }
}

fn bad_range() {
    let memory = Mapping::anonymous(4 * PAGE);
    let guest = guest_with(&memory);
    let ranges = [
        (EXTRA, 0),
        (EXTRA + 1, P),
        (EXTRA, P + 8),
        (EXTRA, 100),
        (!0 << 12, P),
        (!0 << 12, 2 * P),
    ];
    for (gpa, size) in ranges {
        let (done, ..) = pre_fault(&guest, gpa, size);
        expect::errno(&format!("{size} at {gpa:#x}"), done, EINVAL);
    }
}

fn no_slot() {
    let memory = Mapping::anonymous(4 * PAGE);
    let guest = guest_with(&memory);
    for gpa in [EXTRA - P, EXTRA + 4 * P, 1 << 46] {
        let (done, ..) = pre_fault(&guest, gpa, P);
        expect::errno(&format!("at {gpa:#x}"), done, ENOENT);
    }
}

fn no_memory_behind() {
    let memory = Mapping::anonymous(4 * PAGE);
    let guest = guest_with(&memory);
    memory.protect(2 * PAGE, 2 * PAGE, libc::PROT_NONE);
    let got = pre_fault(&guest, EXTRA, 4 * P);
    expect::eq("half of it", got, (Ok(0), EXTRA + 2 * P, 2 * P));
    let (done, ..) = pre_fault(&guest, EXTRA + 2 * P, P);
    expect::errno("the rest", done, EFAULT);
}

fn bad_pointer() {
    let guest = Guest::long(&[]);
    let done = guest.vcpu.fault(PRE_FAULT_MEMORY.number);
    expect::errno("KVM_PRE_FAULT_MEMORY", done, EFAULT);
}
