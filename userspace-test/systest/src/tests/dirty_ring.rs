// SPDX-License-Identifier: GPL-2.0
//! KVM_CAP_DIRTY_LOG_RING with KVM_RESET_DIRTY_RINGS and KVM_EXIT_DIRTY_RING_FULL (api.rst 7.36).

use std::os::fd::AsRawFd;

use kvm_bindings::*;
use libc::{E2BIG, EINVAL, ENXIO};

use super::dirty_log::{address, logged};
use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{Guest, Mode};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::{Kvm, Vm};

tests! {
    "dirty_ring":
    capability, sizes, one_size_for_good, not_with_vcpus, no_bitmaps, not_enabled, with_bitmap,
    guest_stores, reset_hears_again, not_yet_harvested, foreign_entries, full, emulated_stores,
    mapping, migration(60),
}

/// Entries of the rings here.
const ENTRIES: u32 = 1024;
const ENTRY: usize = 16;
const DIRTY: u32 = 1;
const RESET: u32 = 2;

fn enable(vm: &Vm, size: u64) -> Result<i32, sys::Errno> {
    vm.enable(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, size)
}

/// A ring as its VMM sees it.
struct Ring {
    memory: Mapping,
    next: usize,
}

impl Ring {
    #[track_caller]
    fn of(vcpu: &Vcpu) -> Self {
        let len = ENTRIES as usize * ENTRY;
        let offset = KVM_DIRTY_LOG_PAGE_OFFSET as usize * PAGE;
        let memory = expect::ok("mmap", Mapping::of_file(vcpu.as_raw_fd(), len, offset));
        Self { memory, next: 0 }
    }

    fn place(&self) -> usize {
        self.next % ENTRIES as usize * ENTRY
    }

    /// The slot and page of the next entry, which is given back.
    fn harvest(&mut self) -> Option<(u32, u64)> {
        let place = self.place();
        if self.memory.read::<u32>(place) != DIRTY {
            return None;
        }
        let entry = (self.memory.read(place + 4), self.memory.read(place + 8));
        self.memory.write(place, RESET);
        self.next += 1;
        Some(entry)
    }

    /// All entries there are.
    fn harvest_all(&mut self) -> Vec<(u32, u64)> {
        std::iter::from_fn(|| self.harvest()).collect()
    }

    /// The pages of slot 1 among them, sorted.
    #[track_caller]
    fn pages(&mut self) -> Vec<u64> {
        let entries = self.harvest_all();
        expect::that("slot 1", entries.iter().all(|(slot, _)| *slot == 1));
        let mut pages: Vec<_> = entries.into_iter().map(|(_, page)| page).collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }
}

#[track_caller]
fn reset(vm: &Vm) -> i32 {
    expect::ok("KVM_RESET_DIRTY_RINGS", vm.call(RESET_DIRTY_RINGS, 0))
}

#[track_caller]
fn guest_with(code: &[u8], pages: usize) -> (Guest, Mapping, Ring) {
    let vm = Vm::new();
    let enabled = enable(&vm, u64::from(ENTRIES) * ENTRY as u64);
    expect::ok("KVM_ENABLE_CAP", enabled);
    let guest = Guest::in_vm(vm, Mode::Long, code);
    let memory = Mapping::anonymous(pages * PAGE);
    expect::ok("add", guest.vm.set_slot(logged(&memory)));
    let ring = Ring::of(&guest.vcpu);
    (guest, memory, ring)
}

#[track_caller]
fn store(guest: &Guest, page: u64) {
    let stored = guest.guest_write(address(page), page + 1);
    expect::that("a store to memory", stored);
}

fn capability() {
    let kvm = Kvm::open();
    for cap in [KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL] {
        expect::eq("bytes at most", kvm.extension(cap), 1 << 20);
    }
    let bitmap = kvm.extension(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP);
    expect::eq("with a bitmap", bitmap, 0);
}

fn sizes() {
    for size in [0, 1, 16, 1024, 2048, 4097, 5000, 3 << 12, (1 << 20) + 4096] {
        let vm = Vm::new();
        expect::errno(&format!("{size} bytes"), enable(&vm, size), EINVAL);
    }
    for size in [1 << 21, 1 << 31] {
        expect::errno("too large", enable(&Vm::new(), size), E2BIG);
    }
    for size in [1 << 14, 1 << 20] {
        let vm = Vm::new();
        expect::eq("a size", enable(&vm, size), Ok(0));
        vm.create_vcpu(0);
    }
    let vm = Vm::new();
    let plain = vm.enable(KVM_CAP_DIRTY_LOG_RING, 1 << 14);
    expect::eq("by the other name", plain, Ok(0));
}

fn one_size_for_good() {
    let vm = Vm::new();
    expect::eq("first", enable(&vm, 1 << 14), Ok(0));
    expect::errno("again", enable(&vm, 1 << 14), EINVAL);
    expect::errno("another", enable(&vm, 1 << 15), EINVAL);
}

fn not_with_vcpus() {
    let vm = Vm::new();
    let _vcpu = vm.create_vcpu(0);
    expect::errno("with a vCPU", enable(&vm, 1 << 14), EINVAL);
}

fn no_bitmaps() {
    let (guest, _memory, _ring) = guest_with(&[], 10);
    for slot in [0, 1, 2, 0xffff] {
        let log = kvm_dirty_log {
            slot,
            ..Default::default()
        };
        let got = guest.vm.set(GET_DIRTY_LOG, &log);
        expect::errno("KVM_GET_DIRTY_LOG", got, ENXIO);
        let mut clear = kvm_clear_dirty_log {
            slot,
            first_page: 1,
            ..Default::default()
        };
        let cleared = guest.vm.update(CLEAR_DIRTY_LOG, &mut clear);
        expect::errno("KVM_CLEAR_DIRTY_LOG", cleared, ENXIO);
    }
}

fn not_enabled() {
    let vm = Vm::new();
    let done = vm.call(RESET_DIRTY_RINGS, 0);
    expect::errno("KVM_RESET_DIRTY_RINGS", done, EINVAL);
}

/// x86 has no writes that belong to no vCPU, and so no bitmap beside rings.
fn with_bitmap() {
    let vm = Vm::new();
    expect::ok("ring", enable(&vm, 1 << 14));
    let done = vm.enable(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0);
    expect::errno("with a bitmap", done, EINVAL);
}

fn guest_stores() {
    let (guest, _memory, mut ring) = guest_with(&[], 100);
    expect::eq("at first", ring.harvest_all(), vec![]);
    for page in [7, 99, 0] {
        store(&guest, page);
        store(&guest, page);
        expect::eq("written", ring.pages(), vec![page]);
    }
}

fn reset_hears_again() {
    let (guest, _memory, mut ring) = guest_with(&[], 200);
    for round in 0..3 {
        let written: Vec<u64> = (0..200).step_by(7 + round).collect();
        for &page in &written {
            store(&guest, page);
        }
        expect::eq("written", ring.pages(), written.clone());
        expect::eq("given back", reset(&guest.vm), written.len() as i32);
        expect::eq("given back again", reset(&guest.vm), 0);
    }
    // Backwards, and far apart.
    for page in [150, 149, 100, 99, 36, 35] {
        store(&guest, page);
    }
    let pages = ring.pages();
    expect::eq("written", pages.clone(), vec![35, 36, 99, 100, 149, 150]);
    reset(&guest.vm);
    for page in [36, 35, 150, 100, 99, 149] {
        store(&guest, page);
    }
    expect::eq("written again", ring.pages(), pages);
}

/// Only what the VMM is done with is given back, in order.
fn not_yet_harvested() {
    let (guest, _memory, mut ring) = guest_with(&[], 100);
    for page in [1, 2, 3] {
        store(&guest, page);
    }
    expect::eq("before", reset(&guest.vm), 0);
    let first = ring.place();
    expect::eq("first", ring.harvest(), Some((1, 1)));
    expect::eq("flags", ring.memory.read::<u32>(first), RESET);
    expect::eq("one", reset(&guest.vm), 1);
    expect::eq("flags", ring.memory.read::<u32>(first), 0);
    store(&guest, 2);
    store(&guest, 1);
    expect::eq("the rest", ring.pages(), vec![1, 2, 3]);
    expect::eq("given back", reset(&guest.vm), 3);
}

/// What the VMM makes of an entry is its own affair.
fn foreign_entries() {
    let entries = [
        (0, 0),
        (1, 100),
        (1, u64::MAX),
        (1, 1 << 52),
        (2, 0),
        (0xffff, 5),
        (1 << 16 | 1, 5),
        (1, 99),
    ];
    for (slot, page) in entries {
        let (guest, _memory, mut ring) = guest_with(&[], 100);
        store(&guest, 5);
        let place = ring.place();
        expect::eq("an entry", ring.harvest(), Some((1, 5)));
        ring.memory.write::<u32>(place + 4, slot);
        ring.memory.write::<u64>(place + 8, page);
        expect::eq("given back", reset(&guest.vm), 1);
        // Page 5 was not given back.
        store(&guest, 5);
        expect::eq("nothing new", ring.harvest_all(), vec![]);
        store(&guest, 6);
        expect::eq("another", ring.harvest(), Some((1, 6)));
    }
}

/// Before its ring is really full, the vCPU stops until the VMM has given entries back.
fn full() {
    const PAGES: usize = 2000;
    let code = code64!(
        "mov rdi, {extra}",
        "2: inc qword ptr [rdi]",
        "add rdi, 4096",
        "cmp rdi, {behind}",
        "jb 2b",
        "hlt";
        extra = const crate::guest::layout::EXTRA, behind = const address(PAGES as u64)
    );
    let (guest, memory, mut ring) = guest_with(code, PAGES);
    let mut seen = Vec::new();
    let mut stops = 0;
    loop {
        match expect::ok("KVM_RUN", guest.vcpu.run()) {
            Exit::Hlt => break,
            Exit::Other(KVM_EXIT_DIRTY_RING_FULL) => {
                stops += 1;
                let again = expect::ok("KVM_RUN", guest.vcpu.run());
                expect::eq("still", again, Exit::Other(KVM_EXIT_DIRTY_RING_FULL));
                let pages = ring.pages();
                let room = ENTRIES as usize - pages.len();
                expect::that(
                    &format!("{room} entries left"),
                    (1..=64 + 512).contains(&room),
                );
                expect::eq("given back", reset(&guest.vm), pages.len() as i32);
                seen.extend(pages);
            }
            other => panic!("{other:?}"),
        }
    }
    seen.extend(ring.pages());
    // A store that stopped the vCPU is done when its page was given back already.
    seen.dedup();
    expect::eq("pages", seen, (0..PAGES as u64).collect::<Vec<_>>());
    expect::that("it was full", stops >= 2);
    expect::eq("last page", memory.read::<u64>((PAGES - 1) * PAGE), 1);
}

/// What KVM stores for the guest, however often it does, does not fill a ring.
fn emulated_stores() {
    use crate::guest::layout::{MMIO, PROBE};
    let (guest, memory, mut ring) = guest_with(&[], 10);
    guest.load(PROBE, code64!("mov dx, 0x55", "rep insb", "movsq", "hlt"));
    guest.vcpu.set_regs(&kvm_regs {
        rip: PROBE,
        rdi: address(3) - 8,
        rsi: MMIO,
        rcx: 16,
        ..guest.vcpu.regs()
    });
    let mut left: u32 = 16;
    loop {
        match expect::ok("KVM_RUN", guest.vcpu.run()) {
            Exit::In { count, .. } => {
                left -= count;
                guest.vcpu.answer_io(&vec![0x41; count as usize]);
            }
            Exit::MmioRead { len: 8, .. } => guest.vcpu.answer_mmio(b"12345678"),
            Exit::Hlt => break,
            other => panic!("{other:?}"),
        }
    }
    expect::eq("left", left, 0);
    expect::eq("bytes", memory.read::<[u8; 8]>(3 * PAGE + 8), *b"12345678");
    expect::eq("written", ring.pages(), vec![2, 3]);
}

/// A copy of the ring would tell nobody anything.
fn mapping() {
    let (guest, _memory, _ring) = guest_with(&[], 10);
    let fd = guest.vcpu.as_raw_fd();
    let (ring, len) = (
        KVM_DIRTY_LOG_PAGE_OFFSET as usize * PAGE,
        ENTRIES as usize * ENTRY,
    );
    let map = |len: usize, protection: i32, flags: i32, offset: usize| {
        sys::map_and_unmap(fd, len, protection, flags, offset)
    };
    let (read, write) = (libc::PROT_READ, libc::PROT_WRITE);
    let shared = libc::MAP_SHARED;
    let private = libc::MAP_PRIVATE;
    expect::eq("a page", map(PAGE, read, shared, ring), Ok(()));
    expect::eq(
        "another",
        map(PAGE, read | write, shared, ring + PAGE),
        Ok(()),
    );
    for offset in [ring, ring + len - PAGE] {
        expect::errno("private", map(PAGE, read, private, offset), EINVAL);
    }
    expect::errno(
        "up to it",
        map(2 * PAGE, read, private, ring - PAGE),
        EINVAL,
    );
    expect::eq("behind it", map(PAGE, read, private, ring + len), Ok(()));
    expect::eq("kvm_run", map(PAGE, read | write, private, 0), Ok(()));
}

/// As `dirty_log/migration`, by rings.
fn migration() {
    use crate::guest::layout::DATA;
    const PAGES: usize = 300;
    let code = code64!(
        "2: imul rax, rax, 1103515245",
        "add rax, 12345",
        "mov rbx, rax",
        "xor edx, edx",
        "shr rax, 16",
        "mov r8d, {pages}",
        "div r8",
        "mov rax, rbx",
        "shl rdx, 12",
        "inc qword ptr [rdx + {extra}]",
        "cmp qword ptr [{stop}], 0",
        "je 2b",
        "hlt";
        extra = const crate::guest::layout::EXTRA, pages = const PAGES, stop = const DATA
    );
    let (guest, memory, mut ring) = guest_with(code, PAGES);
    let mut copy = vec![0u64; PAGES];
    let mut swept = 0;
    let mut sweep = |copy: &mut [u64]| {
        // First hear of the next writes, then look at what there is.
        let pages = ring.pages();
        reset(&guest.vm);
        for page in &pages {
            copy[*page as usize] = memory.read(*page as usize * PAGE);
        }
        swept += pages.len();
    };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| guest.vcpu.run());
        for _ in 0..30 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            sweep(&mut copy);
        }
        guest.poke(DATA, 1);
        let exit = running.join().expect("the vCPU's thread");
        expect::eq("KVM_RUN", exit, Ok(Exit::Hlt));
    });
    sweep(&mut copy);
    let memory: Vec<u64> = (0..PAGES).map(|page| memory.read(page * PAGE)).collect();
    expect::eq("the copy", copy, memory);
    expect::that("pages were written", swept > 300);
}
