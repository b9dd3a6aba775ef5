// SPDX-License-Identifier: GPL-2.0
//! KVM_MEM_LOG_DIRTY_PAGES with KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG (api.rst 4.8, 4.117 and
//! 7.18).

use kvm_bindings::*;
use libc::{EFAULT, EINVAL, ENOENT};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{layout, layout::EXTRA, Guest};
use crate::memory::{Mapping, LARGE_PAGE, PAGE};
use crate::request::*;
use crate::sys::Errno;
use crate::vcpu::Exit;
use crate::vm::{Kvm, Slot, Vm};

tests! {
    "dirty_log":
    capability, clean_at_first, guest_stores, reads_after_a_sweep, atomics, emulated_stores,
    kernel_stores, page_tables, turned_on_later, turned_off, moved, read_only_slot,
    large_pages_split, large_pages_joined, odd_start, manual_protect, clear_part,
    clear_what_is_clean, clear_last_word, initially_set, options, many_words, thrown_away_pages,
    bad_slot, no_log, bad_pointer, clear_bad_range, clear_bad_pointer, migration(60),
}

const P: u64 = PAGE as u64;
const SLOT: u32 = 1;

/// A logged slot of `pages` pages at EXTRA.
pub(super) fn logged(memory: &Mapping) -> Slot {
    Slot {
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        ..Slot::of(SLOT, EXTRA, memory)
    }
}

pub(super) fn guest_with(pages: usize) -> (Guest, Mapping) {
    let guest = Guest::long(&[]);
    let memory = Mapping::anonymous(pages * PAGE);
    expect::ok("add", guest.vm.set_slot(logged(&memory)));
    (guest, memory)
}

pub(super) const fn address(page: u64) -> u64 {
    EXTRA + page * P
}

#[track_caller]
fn store(guest: &Guest, page: u64) {
    let stored = guest.guest_write(address(page), page + 1);
    expect::that("a store to memory", stored);
}

/// KVM_GET_DIRTY_LOG of a slot into `words`.
fn try_get(vm: &Vm, slot: u32, words: &mut [u64]) -> Result<i32, Errno> {
    let bitmap = words.as_mut_ptr().cast();
    vm.set(
        GET_DIRTY_LOG,
        &kvm_dirty_log {
            slot,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
                dirty_bitmap: bitmap,
            },
            ..Default::default()
        },
    )
}

/// The bitmap of the slot, which has `pages` pages.
#[track_caller]
fn bitmap(vm: &Vm, pages: usize) -> Vec<u64> {
    let mut words = vec![0xaaaa_aaaa_aaaa_aaaa; pages.div_ceil(64)];
    expect::ok("KVM_GET_DIRTY_LOG", try_get(vm, SLOT, &mut words));
    words
}

/// The pages of the slot that count as written.
#[track_caller]
fn dirty(vm: &Vm, pages: usize) -> Vec<u64> {
    let words = bitmap(vm, pages);
    let is_set = |page: &u64| words[*page as usize / 64] >> (page % 64) & 1 != 0;
    (0..words.len() as u64 * 64).filter(is_set).collect()
}

/// KVM_CLEAR_DIRTY_LOG of `pages` pages from `first` on, those whose bit is set in `words`.
fn clear(vm: &Vm, slot: u32, first: u64, pages: u32, words: &mut [u64]) -> Result<i32, Errno> {
    let mut log = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page: first,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: words.as_mut_ptr().cast(),
        },
    };
    vm.update(CLEAR_DIRTY_LOG, &mut log)
}

fn set_options(vm: &Vm, options: u32) -> Result<i32, Errno> {
    vm.enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, options.into())
}

const MANUAL: u32 = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
const ALL_SET: u32 = KVM_DIRTY_LOG_INITIALLY_SET;

fn capability() {
    let options = Kvm::open().extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    expect::eq("options", options as u32, MANUAL | ALL_SET);
}

fn clean_at_first() {
    let (guest, _memory) = guest_with(100);
    expect::eq("written", dirty(&guest.vm, 100), vec![]);
}

fn guest_stores() {
    let (guest, memory) = guest_with(200);
    for pages in [&[3, 63, 64, 199], &[3, 4, 64, 128], &[0, 3, 62, 199]] {
        for &page in pages {
            store(&guest, page);
            store(&guest, page);
            let seen: u64 = memory.read(page as usize * PAGE);
            expect::eq("the VMM's memory", seen, page + 1);
        }
        expect::eq("written", dirty(&guest.vm, 200), pages.to_vec());
        expect::eq("written since", dirty(&guest.vm, 200), vec![]);
    }
}

fn reads_after_a_sweep() {
    let (guest, _memory) = guest_with(10);
    store(&guest, 4);
    expect::eq("written", dirty(&guest.vm, 10), vec![4]);
    expect::eq("a load", guest.guest_read(address(4)), Some(5));
    expect::eq("after a load", dirty(&guest.vm, 10), vec![]);
    store(&guest, 4);
    expect::eq("after a store", dirty(&guest.vm, 10), vec![4]);
}

/// Lets the guest run `code` with RDI at a page of the slot.
#[track_caller]
fn run_at(guest: &Guest, page: u64, code: &[u8]) -> Exit {
    guest.load(layout::PROBE, code);
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::PROBE,
        rdi: address(page),
        rsi: layout::MMIO,
        rcx: 8,
        ..guest.vcpu.regs()
    });
    expect::ok("KVM_RUN", guest.vcpu.run())
}

fn atomics() {
    let (guest, memory) = guest_with(10);
    store(&guest, 7);
    expect::eq("written", dirty(&guest.vm, 10), vec![7]);
    let exit = run_at(&guest, 7, code64!("lock add qword ptr [rdi], rcx", "hlt"));
    expect::eq("exit", exit, Exit::Hlt);
    expect::eq("sum", memory.read::<u64>(7 * PAGE), 16);
    expect::eq("written", dirty(&guest.vm, 10), vec![7]);
}

/// What KVM stores in the guest's name: strings from ports and from devices.
fn emulated_stores() {
    let (guest, memory) = guest_with(10);
    let exit = run_at(&guest, 2, code64!("mov dx, 0x55", "rep insb", "hlt"));
    let (port, size, count) = (0x55, 1, 8);
    expect::eq("exit", exit, Exit::In { port, size, count });
    guest.vcpu.answer_io(b"abcdefgh");
    guest.run_to_halt();
    expect::eq("bytes", memory.read::<[u8; 8]>(2 * PAGE), *b"abcdefgh");
    expect::eq("after INS", dirty(&guest.vm, 10), vec![2]);

    let exit = run_at(&guest, 5, code64!("add rdi, 4092", "movsq", "hlt"));
    let (gpa, len) = (layout::MMIO, 8);
    expect::eq("exit", exit, Exit::MmioRead { gpa, len });
    guest.vcpu.answer_mmio(b"ABCDEFGH");
    guest.run_to_halt();
    expect::eq("bytes", memory.read::<[u8; 8]>(6 * PAGE - 4), *b"ABCDEFGH");
    expect::eq("after MOVS across pages", dirty(&guest.vm, 10), vec![5, 6]);
}

/// What KVM tells the guest in its memory.
fn kernel_stores() {
    const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    let (guest, _memory) = guest_with(10);
    guest.vcpu.set_supported_cpuid();
    let set = guest.vcpu.set_msr(MSR_KVM_SYSTEM_TIME_NEW, address(8) | 1);
    expect::that("the MSR is set", set);
    store(&guest, 1);
    expect::eq("written", dirty(&guest.vm, 10), vec![1, 8]);
}

/// The processor sets accessed flags in the guest's page tables.
fn page_tables() {
    let guest = Guest::long(&[]);
    let slot = Slot::of(0, 0, &guest.memory);
    let flags = KVM_MEM_LOG_DIRTY_PAGES;
    expect::ok("log on", guest.vm.set_slot(Slot { flags, ..slot }));
    let entry = guest.peek(layout::PML4);
    guest.poke(layout::PML4, entry & !0x20);
    expect::eq("a load", guest.guest_read(layout::DATA), Some(0));
    expect::eq("accessed", guest.peek(layout::PML4), entry | 0x20);
    let pages = guest.memory.len() / PAGE;
    let mut words = vec![0; pages / 64];
    expect::ok("KVM_GET_DIRTY_LOG", try_get(&guest.vm, 0, &mut words));
    let page = layout::PML4 / P;
    let is_set = words[page as usize / 64] >> (page % 64) & 1;
    expect::eq("the table counts as written", is_set, 1);
}

fn turned_on_later() {
    let guest = Guest::long(&[]);
    let memory = Mapping::anonymous(100 * PAGE);
    guest.vm.add_memory(SLOT, EXTRA, &memory);
    for page in 0..100 {
        store(&guest, page);
    }
    expect::ok("log on", guest.vm.set_slot(logged(&memory)));
    expect::eq("at first", dirty(&guest.vm, 100), vec![]);
    store(&guest, 17);
    store(&guest, 64);
    expect::eq("written", dirty(&guest.vm, 100), vec![17, 64]);
}

fn turned_off() {
    let (guest, memory) = guest_with(100);
    store(&guest, 17);
    guest.vm.add_memory(SLOT, EXTRA, &memory);
    let got = try_get(&guest.vm, SLOT, &mut [0; 2]);
    expect::errno("KVM_GET_DIRTY_LOG", got, ENOENT);
    store(&guest, 18);
    expect::ok("log on", guest.vm.set_slot(logged(&memory)));
    expect::eq("a new log", dirty(&guest.vm, 100), vec![]);
    for page in [17, 18, 19] {
        store(&guest, page);
    }
    expect::eq("written", dirty(&guest.vm, 100), vec![17, 18, 19]);
}

/// A slot takes its log along.
fn moved() {
    let (guest, memory) = guest_with(100);
    store(&guest, 17);
    let slot = Slot {
        gpa: EXTRA + 200 * P,
        ..logged(&memory)
    };
    expect::ok("move", guest.vm.set_slot(slot));
    expect::that("a store", guest.guest_write(slot.gpa + 18 * P, 1));
    expect::eq("written", dirty(&guest.vm, 100), vec![17, 18]);
    expect::that("a store", guest.guest_write(slot.gpa + 18 * P, 2));
    expect::eq("written", dirty(&guest.vm, 100), vec![18]);
}

fn read_only_slot() {
    let guest = Guest::long(&[]);
    let memory = Mapping::anonymous(10 * PAGE);
    let flags = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;
    let slot = Slot::of(SLOT, EXTRA, &memory);
    expect::ok("add", guest.vm.set_slot(Slot { flags, ..slot }));
    expect::eq("a load", guest.guest_read(EXTRA), Some(0));
    expect::that("a store is MMIO", !guest.guest_write(EXTRA, 1));
    expect::eq("written", dirty(&guest.vm, 10), vec![]);
    let flags = KVM_MEM_READONLY;
    expect::ok("log off", guest.vm.set_slot(Slot { flags, ..slot }));
    let flags = KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES;
    expect::ok("log on", guest.vm.set_slot(Slot { flags, ..slot }));
    expect::eq("a load", guest.guest_read(EXTRA), Some(0));
    let writable = guest.vm.set_slot(logged(&memory));
    expect::errno("made writable", writable, EINVAL);
}

const LARGE_PAGES: usize = LARGE_PAGE / PAGE;

fn large_memory() -> Mapping {
    let memory = Mapping::aligned(3 * LARGE_PAGE, LARGE_PAGE);
    let _ = memory.advise(0, memory.len(), libc::MADV_HUGEPAGE);
    memory
}

/// Large pages that the guest uses are logged by small ones.
fn large_pages_split() {
    let guest = Guest::long(&[]);
    let memory = large_memory();
    guest.vm.add_memory(SLOT, EXTRA, &memory);
    let pages = memory.len() / PAGE;
    for page in (0..pages as u64).step_by(100) {
        store(&guest, page);
    }
    expect::ok("log on", guest.vm.set_slot(logged(&memory)));
    for round in 0..2 {
        let written = [5, 6, 511, 512, 900 + round];
        for page in written {
            store(&guest, page);
        }
        expect::eq("written", dirty(&guest.vm, pages), written.to_vec());
    }
    for page in (0..pages as u64).step_by(100) {
        let got = guest.guest_read(address(page));
        let want = if page == 900 { 901 } else { page + 1 };
        expect::eq("a page from before", got, Some(want));
    }
}

/// A log comes and goes over large pages.
fn large_pages_joined() {
    let guest = Guest::long(&[]);
    let memory = large_memory();
    let pages = memory.len() / PAGE;
    for round in 0..3 {
        expect::ok("log on", guest.vm.set_slot(logged(&memory)));
        let written = [round, 400 + round, 1000, 1001 + round];
        for page in written {
            store(&guest, page);
        }
        expect::eq("written", dirty(&guest.vm, pages), written.to_vec());
        guest.vm.add_memory(SLOT, EXTRA, &memory);
        for page in [round, 401 + round, LARGE_PAGES as u64 + round] {
            store(&guest, page);
            let seen: u64 = memory.read(page as usize * PAGE);
            expect::eq("the VMM's memory", seen, page + 1);
        }
    }
}

/// Neither the slot nor the memory behind it begins where a word of the bitmap or a table would.
fn odd_start() {
    let guest = Guest::long(&[]);
    let memory = Mapping::anonymous(700 * PAGE);
    let gpa = EXTRA + 37 * P;
    let slot = Slot {
        gpa,
        ..logged(&memory)
    };
    expect::ok("add", guest.vm.set_slot(slot));
    for round in 0..2 {
        let written = [0, 26, 27, 63, 64, 474, 475, 600 + round, 699];
        for page in written {
            let stored = guest.guest_write(gpa + page * P, round);
            expect::that("a store to memory", stored);
        }
        expect::eq("written", dirty(&guest.vm, 700), written.to_vec());
    }
}

/// A guest whose log is cleared by the VMM alone.
fn manual_guest(options: u32, pages: usize) -> (Guest, Mapping) {
    let guest = Guest::long(&[]);
    expect::ok("KVM_ENABLE_CAP", set_options(&guest.vm, options));
    let memory = Mapping::anonymous(pages * PAGE);
    expect::ok("add", guest.vm.set_slot(logged(&memory)));
    (guest, memory)
}

fn manual_protect() {
    let (guest, _memory) = manual_guest(MANUAL, 100);
    store(&guest, 3);
    store(&guest, 70);
    expect::eq("written", dirty(&guest.vm, 100), vec![3, 70]);
    expect::eq("still written", dirty(&guest.vm, 100), vec![3, 70]);
    let mut words = [1 << 3, 0];
    let cleared = clear(&guest.vm, SLOT, 0, 100, &mut words);
    expect::eq("KVM_CLEAR_DIRTY_LOG", cleared, Ok(0));
    expect::eq("what is left", dirty(&guest.vm, 100), vec![70]);
    store(&guest, 3);
    expect::eq("written again", dirty(&guest.vm, 100), vec![3, 70]);
}

/// Without the option, KVM_CLEAR_DIRTY_LOG works as well; there is just less to clear.
fn clear_part() {
    let (guest, _memory) = manual_guest(MANUAL, 300);
    for page in [1, 65, 129, 193, 299] {
        store(&guest, page);
    }
    let cleared = clear(&guest.vm, SLOT, 64, 128, &mut [!0, !0]);
    expect::eq("two words", cleared, Ok(0));
    expect::eq("what is left", dirty(&guest.vm, 300), vec![1, 193, 299]);
    let cleared = clear(&guest.vm, SLOT, 256, 44, &mut [!0]);
    expect::eq("up to the end", cleared, Ok(0));
    expect::eq("what is left", dirty(&guest.vm, 300), vec![1, 193]);
    expect::eq("nothing", clear(&guest.vm, SLOT, 0, 0, &mut []), Ok(0));
    expect::eq("what is left", dirty(&guest.vm, 300), vec![1, 193]);

    let (guest, _memory) = guest_with(10);
    store(&guest, 3);
    store(&guest, 4);
    let cleared = clear(&guest.vm, SLOT, 0, 10, &mut [1 << 3]);
    expect::eq("without the option", cleared, Ok(0));
    expect::eq("what is left", dirty(&guest.vm, 10), vec![4]);
}

fn clear_what_is_clean() {
    let (guest, _memory) = manual_guest(MANUAL, 100);
    store(&guest, 3);
    expect::eq("all", clear(&guest.vm, SLOT, 0, 100, &mut [!0, !0]), Ok(0));
    expect::eq(
        "again",
        clear(&guest.vm, SLOT, 0, 100, &mut [!0, !0]),
        Ok(0),
    );
    expect::eq("written", dirty(&guest.vm, 100), vec![]);
    store(&guest, 3);
    expect::eq("written", dirty(&guest.vm, 100), vec![3]);
}

/// Bits behind the slot's end mean nothing.
fn clear_last_word() {
    let (guest, _memory) = manual_guest(MANUAL | ALL_SET, 70);
    expect::eq("all", clear(&guest.vm, SLOT, 64, 6, &mut [!0]), Ok(0));
    expect::eq("what is left", bitmap(&guest.vm, 70), vec![!0, 0]);
    store(&guest, 69);
    expect::eq("what is left", bitmap(&guest.vm, 70), vec![!0, 1 << 5]);
}

fn initially_set() {
    let (guest, memory) = manual_guest(MANUAL | ALL_SET, 100);
    let all = vec![!0, (1 << 36) - 1];
    expect::eq("at first", bitmap(&guest.vm, 100), all.clone());
    store(&guest, 5);
    expect::eq("still", bitmap(&guest.vm, 100), all.clone());
    expect::eq("all", clear(&guest.vm, SLOT, 0, 100, &mut [!0, !0]), Ok(0));
    expect::eq("nothing", dirty(&guest.vm, 100), vec![]);
    store(&guest, 5);
    store(&guest, 6);
    expect::eq("written", dirty(&guest.vm, 100), vec![5, 6]);

    // Over large pages that were in use.
    guest.vm.add_memory(SLOT, EXTRA, &memory);
    let memory = large_memory();
    let large = Slot {
        slot: 2,
        gpa: 2 * EXTRA,
        ..Slot::of(2, 2 * EXTRA, &memory)
    };
    expect::ok("add", guest.vm.set_slot(large));
    expect::that("a store", guest.guest_write(large.gpa, 1));
    let flags = KVM_MEM_LOG_DIRTY_PAGES;
    expect::ok("log on", guest.vm.set_slot(Slot { flags, ..large }));
    expect::that("a store", guest.guest_write(large.gpa + P, 1));
    let mut words = vec![0; memory.len() / PAGE / 64];
    expect::ok("KVM_GET_DIRTY_LOG", try_get(&guest.vm, 2, &mut words));
    expect::eq("at first", words.iter().all(|word| *word == !0), true);
    let pages = memory.len() / PAGE;
    let cleared = clear(&guest.vm, 2, 0, pages as u32, &mut words);
    expect::eq("all", cleared, Ok(0));
    expect::that("a store", guest.guest_write(large.gpa + 9 * P, 1));
    expect::ok("KVM_GET_DIRTY_LOG", try_get(&guest.vm, 2, &mut words));
    let mut want = vec![0; words.len()];
    want[0] = 1 << 9;
    expect::eq("written", words, want);
}

fn options() {
    let vm = Vm::new();
    for options in [0, MANUAL, MANUAL | ALL_SET, 0] {
        expect::eq("options there are", set_options(&vm, options), Ok(0));
    }
    for options in [ALL_SET, 4, MANUAL | 4, !0] {
        expect::errno("others", set_options(&vm, options), EINVAL);
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        flags: 1,
        ..Default::default()
    };
    let set = vm.set(crate::devices::ENABLE_CAP, &cap);
    expect::errno("flags", set, EINVAL);
}

/// More words than are copied at a time.
fn many_words() {
    const PAGES: usize = 64 * 1000 + 7;
    let (guest, _memory) = guest_with(PAGES);
    let written = [0, 8191, 8192, 16_383, 40_000, PAGES as u64 - 1];
    for _ in 0..2 {
        for page in written {
            store(&guest, page);
        }
        expect::eq("written", dirty(&guest.vm, PAGES), written.to_vec());
    }
}

/// A page that the VMM throws away was not written by the guest.
fn thrown_away_pages() {
    let (guest, memory) = guest_with(10);
    store(&guest, 3);
    expect::eq("written", dirty(&guest.vm, 10), vec![3]);
    let thrown = memory.advise(0, memory.len(), libc::MADV_DONTNEED);
    expect::ok("madvise", thrown);
    expect::eq("written", dirty(&guest.vm, 10), vec![]);
    store(&guest, 3);
    store(&guest, 4);
    expect::eq("written", dirty(&guest.vm, 10), vec![3, 4]);
}

fn bad_slot() {
    let (guest, _memory) = guest_with(10);
    for slot in [32764, 0xffff, 2 << 16, 2 << 16 | SLOT] {
        let got = try_get(&guest.vm, slot, &mut [0]);
        expect::errno("KVM_GET_DIRTY_LOG", got, EINVAL);
        let cleared = clear(&guest.vm, slot, 0, 10, &mut [0]);
        expect::errno("KVM_CLEAR_DIRTY_LOG", cleared, EINVAL);
    }
}

fn no_log() {
    let (guest, _memory) = guest_with(10);
    for slot in [0, 2, 32763] {
        let got = try_get(&guest.vm, slot, &mut [0]);
        expect::errno("KVM_GET_DIRTY_LOG", got, ENOENT);
        let cleared = clear(&guest.vm, slot, 0, 10, &mut [0]);
        expect::errno("KVM_CLEAR_DIRTY_LOG", cleared, ENOENT);
    }
}

fn bad_pointer() {
    let (guest, _memory) = guest_with(10);
    store(&guest, 3);
    let got = guest.vm.fault(GET_DIRTY_LOG.number);
    expect::errno("the argument", got, EFAULT);
    let log = kvm_dirty_log {
        slot: SLOT,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
            padding2: BAD_ADDRESS,
        },
        ..Default::default()
    };
    expect::errno("the bitmap", guest.vm.set(GET_DIRTY_LOG, &log), EFAULT);
    // Whatever became of the bits, what is written from now on counts.
    store(&guest, 3);
    expect::eq("written", dirty(&guest.vm, 10), vec![3]);
}

fn clear_bad_range() {
    let (guest, _memory) = guest_with(300);
    let vm = &guest.vm;
    let words = &mut [0; 8];
    for (first, pages) in [
        (1, 64),
        (63, 64),
        (65, 1),
        (0, 301),
        (64, 237),
        (320, 0),
        (384, 1),
    ] {
        let cleared = clear(vm, SLOT, first, pages, words);
        expect::errno(&format!("{pages} pages from {first} on"), cleared, EINVAL);
    }
    for (first, pages) in [(0, 1), (0, 63), (64, 65), (256, 43), (0, 299)] {
        let cleared = clear(vm, SLOT, first, pages, words);
        expect::errno("not to the end of a word", cleared, EINVAL);
    }
    let cleared = clear(vm, SLOT, 1 << 63, 64, words);
    expect::errno("far away", cleared, EINVAL);
    let none = clear(vm, SLOT, 1, 64, &mut []);
    expect::errno("an odd start comes before all else", none, EINVAL);
    expect::eq("all", clear(vm, SLOT, 0, 300, words), Ok(0));
}

fn clear_bad_pointer() {
    let (guest, _memory) = guest_with(10);
    let done = guest.vm.fault(CLEAR_DIRTY_LOG.number);
    expect::errno("the argument", done, EFAULT);
    let mut log = kvm_clear_dirty_log {
        slot: SLOT,
        num_pages: 10,
        first_page: 0,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            padding2: BAD_ADDRESS,
        },
    };
    let cleared = guest.vm.update(CLEAR_DIRTY_LOG, &mut log);
    expect::errno("the bitmap", cleared, EFAULT);
}

/// What a migration does: copies what was written, again and again, while the guest runs; once it
/// stands still, the copy is the guest's memory.
fn migration() {
    const PAGES: usize = 300;
    const STOP: u64 = layout::DATA + 8;
    let code = code64!(
        "2: mov ecx, 40",
        "3: imul rax, rax, 1103515245",
        "add rax, 12345",
        "mov rbx, rax",
        "xor edx, edx",
        "shr rax, 16",
        "mov r8d, {pages}",
        "div r8",
        "mov rax, rbx",
        "shl rdx, 12",
        "inc qword ptr [rdx + {extra}]",
        "loop 3b",
        "inc qword ptr [{rounds}]",
        "cmp qword ptr [{stop}], 0",
        "je 2b",
        "hlt";
        extra = const EXTRA, pages = const PAGES, rounds = const layout::DATA, stop = const STOP
    );
    for options in [0, MANUAL, MANUAL | ALL_SET] {
        let guest = Guest::long(code);
        expect::ok("KVM_ENABLE_CAP", set_options(&guest.vm, options));
        let memory = Mapping::anonymous(PAGES * PAGE);
        guest.vm.add_memory(SLOT, EXTRA, &memory);
        let wait = || {
            let until = guest.peek(layout::DATA) + 5;
            while guest.peek(layout::DATA) < until {
                std::thread::yield_now();
            }
        };
        let mut copy = vec![0u64; PAGES];
        let mut swept = 0;
        let mut sweep = |copy: &mut [u64]| {
            let mut words = bitmap(&guest.vm, PAGES);
            if options & MANUAL != 0 {
                let cleared = clear(&guest.vm, SLOT, 0, PAGES as u32, &mut words);
                expect::eq("KVM_CLEAR_DIRTY_LOG", cleared, Ok(0));
            }
            for (page, to) in copy.iter_mut().enumerate() {
                if words[page / 64] >> (page % 64) & 1 != 0 {
                    *to = memory.read(page * PAGE);
                    swept += 1;
                }
            }
        };
        std::thread::scope(|scope| {
            let running = scope.spawn(|| guest.vcpu.run());
            wait();
            expect::ok("log on", guest.vm.set_slot(logged(&memory)));
            for (page, to) in copy.iter_mut().enumerate() {
                *to = memory.read(page * PAGE);
            }
            for _ in 0..20 {
                wait();
                sweep(&mut copy);
            }
            guest.poke(STOP, 1);
            let exit = running.join().expect("the vCPU's thread");
            expect::eq("KVM_RUN", exit, Ok(Exit::Hlt));
        });
        sweep(&mut copy);
        let memory: Vec<u64> = (0..PAGES).map(|page| memory.read(page * PAGE)).collect();
        expect::eq("the copy", copy, memory);
        expect::that("pages were written", swept > 100);
    }
}
