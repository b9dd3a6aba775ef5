// SPDX-License-Identifier: GPL-2.0
//! KVM_SET_USER_MEMORY_REGION (api.rst 4.35): adding, moving, deleting, flags, and each refusal.
//! With them the two other addresses of a VM (api.rst 4.36 and 4.43).

use kvm_bindings::*;
use libc::{EEXIST, EFAULT, EINVAL};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{layout::EXTRA, Guest};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::vcpu::Exit;
use crate::vm::{Kvm, Slot, Vm};

tests! {
    "slots":
    add, adjacent, move_slot, delete, replace, same_again, alias, many, highest_slot,
    dirty_log_flag, read_only, no_memory_behind, bad_alignment, bad_range, bad_slot, bad_flags,
    bad_size_or_address_change, bad_delete, overlap, bad_pointer, refused_changes_nothing,
    delete_under_running_guest, move_under_running_guest, isolation, set_tss_addr, set_nr_mmu_pages,
    set_identity_map_addr,
}

const P: u64 = PAGE as u64;

/// A guest, and two pages of memory that read 0x11.. and 0x22.. and are in no slot yet.
fn with_pages() -> (Guest, Mapping) {
    let guest = Guest::long(&[]);
    let memory = Mapping::anonymous(2 * PAGE);
    memory.write(0, [0x11u8; PAGE]);
    memory.write(PAGE, [0x22u8; PAGE]);
    (guest, memory)
}

const ONES: u64 = 0x1111_1111_1111_1111;
const TWOS: u64 = 0x2222_2222_2222_2222;

fn add() {
    let (guest, memory) = with_pages();
    expect::eq("before", guest.guest_read(EXTRA), None);
    guest.vm.add_memory(1, EXTRA, &memory);
    expect::eq("first page", guest.guest_read(EXTRA), Some(ONES));
    expect::eq("second page", guest.guest_read(EXTRA + P), Some(TWOS));
    expect::eq("behind it", guest.guest_read(EXTRA + 2 * P), None);
    expect::that("a store is to memory", guest.guest_write(EXTRA + 8, 5));
    expect::eq("what the VMM sees", memory.read::<u64>(8), 5);
}

fn adjacent() {
    let (guest, memory) = with_pages();
    let first = Slot {
        size: P,
        ..Slot::of(1, EXTRA + P, &memory)
    };
    let second = Slot {
        slot: 2,
        gpa: EXTRA,
        hva: memory.address() + P,
        ..first
    };
    expect::ok("first", guest.vm.set_slot(first));
    expect::ok("second", guest.vm.set_slot(second));
    expect::eq("first slot", guest.guest_read(EXTRA + P), Some(ONES));
    expect::eq("second slot", guest.guest_read(EXTRA), Some(TWOS));
    let across = guest.guest_read(EXTRA + P - 4);
    expect::eq("across both", across, Some(0x1111_1111_2222_2222));
}

fn move_slot() {
    let (guest, memory) = with_pages();
    guest.vm.add_memory(1, EXTRA, &memory);
    expect::eq("at the old place", guest.guest_read(EXTRA + P), Some(TWOS));
    let moved = Slot::of(1, EXTRA + 16 * P, &memory);
    expect::ok("move", guest.vm.set_slot(moved));
    expect::eq(
        "at the new place",
        guest.guest_read(EXTRA + 17 * P),
        Some(TWOS),
    );
    expect::eq("at the old place", guest.guest_read(EXTRA + P), None);
    expect::ok(
        "move by a page",
        guest.vm.set_slot(Slot {
            gpa: EXTRA + 17 * P,
            ..moved
        }),
    );
    expect::eq(
        "overlapping its old place",
        guest.guest_read(EXTRA + 17 * P),
        Some(ONES),
    );
    expect::eq("behind", guest.guest_read(EXTRA + 18 * P), Some(TWOS));
    expect::eq("before", guest.guest_read(EXTRA + 16 * P), None);
}

fn delete() {
    let (guest, memory) = with_pages();
    let slot = Slot::of(1, EXTRA, &memory);
    expect::ok("add", guest.vm.set_slot(slot));
    expect::eq("there", guest.guest_read(EXTRA), Some(ONES));
    expect::ok("delete", guest.vm.set_slot(Slot { size: 0, ..slot }));
    expect::eq("gone", guest.guest_read(EXTRA), None);
    expect::that("a store is MMIO", !guest.guest_write(EXTRA, 0));
    expect::eq("the VMM's memory", memory.read::<u64>(0), ONES);
}

fn replace() {
    let (guest, memory) = with_pages();
    let slot = Slot {
        size: P,
        ..Slot::of(1, EXTRA, &memory)
    };
    expect::ok("add", guest.vm.set_slot(slot));
    expect::eq("first memory", guest.guest_read(EXTRA), Some(ONES));
    expect::ok("delete", guest.vm.set_slot(Slot { size: 0, ..slot }));
    let other = Slot {
        hva: memory.address() + P,
        ..slot
    };
    expect::ok("add other memory", guest.vm.set_slot(other));
    expect::eq("other memory", guest.guest_read(EXTRA), Some(TWOS));
}

fn same_again() {
    let (guest, memory) = with_pages();
    guest.vm.add_memory(1, EXTRA, &memory);
    expect::that("store", guest.guest_write(EXTRA, 3));
    guest.vm.add_memory(1, EXTRA, &memory);
    expect::eq("memory", guest.guest_read(EXTRA), Some(3));
}

/// The same memory in two slots.
fn alias() {
    let (guest, memory) = with_pages();
    guest.vm.add_memory(1, EXTRA, &memory);
    guest.vm.add_memory(2, EXTRA + 2 * P, &memory);
    expect::that("store", guest.guest_write(EXTRA + P, 77));
    expect::eq(
        "at the other place",
        guest.guest_read(EXTRA + 3 * P),
        Some(77),
    );
}

fn many() {
    const COUNT: u64 = 200;
    let guest = Guest::long(&[]);
    let memory = Mapping::anonymous(COUNT as usize * PAGE);
    // Backwards and with gaps: slot i shows page i of the memory.
    let gpa = |i: u64| EXTRA + 2 * (COUNT - i) * P;
    for i in 0..COUNT {
        memory.write(i as usize * PAGE, i + 1);
        let hva = memory.address() + i * P;
        let slot = Slot {
            slot: i as u32 + 1,
            flags: 0,
            gpa: gpa(i),
            size: P,
            hva,
        };
        expect::ok("add", guest.vm.set_slot(slot));
    }
    for i in (0..COUNT).step_by(7) {
        expect::eq("page", guest.guest_read(gpa(i)), Some(i + 1));
        expect::eq("gap", guest.guest_read(gpa(i) + P), None);
    }
}

fn highest_slot() {
    let (guest, memory) = with_pages();
    let count = Kvm::open().extension(KVM_CAP_NR_MEMSLOTS) as u32;
    guest.vm.add_memory(count - 1, EXTRA, &memory);
    expect::eq("memory", guest.guest_read(EXTRA), Some(ONES));
}

fn dirty_log_flag() {
    let (guest, memory) = with_pages();
    let slot = Slot::of(1, EXTRA, &memory);
    expect::ok("add", guest.vm.set_slot(slot));
    expect::that("store", guest.guest_write(EXTRA, 1));
    let logged = Slot {
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        ..slot
    };
    expect::ok("log dirty pages", guest.vm.set_slot(logged));
    expect::that("store", guest.guest_write(EXTRA, 2));
    expect::that("store", guest.guest_write(EXTRA + P, 3));
    expect::ok("log no more", guest.vm.set_slot(slot));
    expect::that("store", guest.guest_write(EXTRA + 8, 4));
    expect::eq("memory", memory.read::<[u64; 2]>(0), [2, 4]);
    expect::eq("memory", memory.read::<u64>(PAGE), 3);
}

fn read_only() {
    let (guest, memory) = with_pages();
    let writable = Slot::of(1, EXTRA, &memory);
    let slot = Slot {
        flags: KVM_MEM_READONLY,
        ..writable
    };
    if Kvm::open().extension(KVM_CAP_READONLY_MEM) == 0 {
        let got = guest.vm.set_slot(slot);
        return expect::errno("KVM_MEM_READONLY without its capability", got, EINVAL);
    }
    expect::ok("add", guest.vm.set_slot(slot));
    expect::eq("a load is from memory", guest.guest_read(EXTRA), Some(ONES));
    expect::that("a store is MMIO", !guest.guest_write(EXTRA, 9));
    expect::eq("memory", memory.read::<u64>(0), ONES);
    expect::errno("make it writable", guest.vm.set_slot(writable), EINVAL);
    expect::ok("delete", guest.vm.set_slot(Slot { size: 0, ..slot }));
    expect::ok("add it writable", guest.vm.set_slot(writable));
    expect::that("a store is to memory", guest.guest_write(EXTRA, 9));
    expect::errno("make it read-only", guest.vm.set_slot(slot), EINVAL);
}

/// A slot may name addresses where nothing is mapped; touching it then is KVM_RUN's error.
fn no_memory_behind() {
    let guest = Guest::long(code64!("mov rax, [rbx]", "hlt"));
    let hva = {
        let memory = Mapping::anonymous(PAGE);
        memory.address()
    };
    let slot = Slot {
        slot: 1,
        flags: 0,
        gpa: EXTRA,
        size: P,
        hva,
    };
    expect::ok("add", guest.vm.set_slot(slot));
    let regs = guest.vcpu.regs();
    guest.vcpu.set_regs(&kvm_regs { rbx: EXTRA, ..regs });
    expect::errno("KVM_RUN", guest.vcpu.run(), EFAULT);
    expect::eq("RIP", guest.vcpu.regs().rip, regs.rip);
}

/// Sets a slot in a fresh VM that has memory at 0 in slot 0; the call's result.
#[track_caller]
fn refused(what: &str, errno: i32, change: impl Fn(&mut Slot)) {
    let vm = Vm::new();
    let memory = Mapping::anonymous(4 * PAGE);
    let mut slot = Slot::of(0, 0, &memory);
    expect::ok("the slot unchanged", vm.set_slot(slot));
    slot.slot = 1;
    slot.gpa = 16 * P;
    change(&mut slot);
    expect::errno(what, vm.set_slot(slot), errno);
}

fn bad_alignment() {
    refused("size", EINVAL, |s| s.size += 1);
    refused("size", EINVAL, |s| s.size = 2048);
    refused("guest address", EINVAL, |s| s.gpa += 0x800);
    refused("address", EINVAL, |s| s.hva += 1);
    refused("address", EINVAL, |s| s.hva += 0x800);
}

fn bad_range() {
    refused("guest address + size overflows", EINVAL, |s| {
        s.gpa = 0u64.wrapping_sub(P)
    });
    refused("guest address beyond 52 bits", EINVAL, |s| s.gpa = 1 << 52);
    refused("more than 2^31 - 1 pages", EINVAL, |s| s.size = 1 << 43);
    refused("size overflows", EINVAL, |s| s.size = 0u64.wrapping_sub(P));
    refused("address in the kernel's half", EINVAL, |s| {
        s.hva = 0xffff_8000_0000_0000
    });
    refused("address not canonical", EINVAL, |s| s.hva = 1 << 62);
    let bits = Kvm::open()
        .supported_cpuid()
        .find(0x8000_0008, 0)
        .expect("leaf")
        .eax
        & 0xff;
    refused("guest address beyond MAXPHYADDR", EINVAL, |s| {
        s.gpa = 1 << bits
    });
    refused("end beyond MAXPHYADDR", EINVAL, |s| s.gpa = (1 << bits) - P);
}

fn bad_slot() {
    let count = Kvm::open().extension(KVM_CAP_NR_MEMSLOTS) as u32;
    refused("slot KVM_CAP_NR_MEMSLOTS", EINVAL, |s| s.slot = count);
    refused("slot 0xffff", EINVAL, |s| s.slot = 0xffff);
    refused("address space 2", EINVAL, |s| s.slot = (2 << 16) | 1);
    refused("slot -1", EINVAL, |s| s.slot = u32::MAX);
}

fn bad_flags() {
    for bit in 2..32 {
        refused(&format!("flag bit {bit}"), EINVAL, |s| s.flags = 1 << bit);
    }
}

fn bad_size_or_address_change() {
    refused("size", EINVAL, |s| (s.slot, s.gpa, s.size) = (0, 0, P));
    refused("size", EINVAL, |s| (s.slot, s.gpa, s.size) = (0, 0, 5 * P));
    refused("address", EINVAL, |s| {
        (s.slot, s.gpa, s.hva) = (0, 0, s.hva + P)
    });
    refused("size while moving", EINVAL, |s| (s.slot, s.size) = (0, P));
}

fn bad_delete() {
    refused("a slot that is not there", EINVAL, |s| s.size = 0);
    refused("misaligned", EINVAL, |s| {
        (s.slot, s.size, s.gpa) = (0, 0, 1)
    });
    let vm = Vm::new();
    let memory = Mapping::anonymous(PAGE);
    let slot = Slot::of(3, 0, &memory);
    expect::ok("add", vm.set_slot(slot));
    let gone = Slot { size: 0, ..slot };
    expect::ok("delete", vm.set_slot(gone));
    expect::errno("delete again", vm.set_slot(gone), EINVAL);
}

fn overlap() {
    refused("the same place", EEXIST, |s| s.gpa = 0);
    refused("its last page", EEXIST, |s| s.gpa = 3 * P);
    refused("its middle", EEXIST, |s| (s.gpa, s.size) = (P, P));
    let vm = Vm::new();
    let memory = Mapping::anonymous(2 * PAGE);
    let (low, high) = (Slot::of(0, 0, &memory), Slot::of(1, 4 * P, &memory));
    expect::ok("add", vm.set_slot(low));
    expect::ok("add", vm.set_slot(high));
    let onto = Slot { gpa: P, ..high };
    expect::errno("move onto another", vm.set_slot(onto), EEXIST);
    expect::ok("move next to it", vm.set_slot(Slot { gpa: 2 * P, ..high }));
    let around = Slot {
        slot: 2,
        gpa: P,
        size: 4 * P,
        ..low
    };
    expect::errno("around one, into another", vm.set_slot(around), EEXIST);
}

fn bad_pointer() {
    let vm = Vm::new();
    expect::errno("no memory", vm.fault(SET_USER_MEMORY_REGION.number), EFAULT);
    let page = Mapping::guarded(PAGE);
    let got = vm.at(SET_USER_MEMORY_REGION.number, &page, PAGE - 8);
    expect::errno("half of it in memory", got, EFAULT);
}

fn refused_changes_nothing() {
    let (guest, memory) = with_pages();
    let slot = Slot::of(1, EXTRA, &memory);
    expect::ok("add", guest.vm.set_slot(slot));
    for (wrong, errno) in [
        (Slot { gpa: 0, ..slot }, EEXIST),
        (Slot { size: P, ..slot }, EINVAL),
        (
            Slot {
                hva: slot.hva + P,
                ..slot
            },
            EINVAL,
        ),
        (
            Slot {
                flags: 1 << 20,
                ..slot
            },
            EINVAL,
        ),
        (
            Slot {
                slot: 2,
                gpa: EXTRA + P,
                ..slot
            },
            EEXIST,
        ),
    ] {
        expect::errno("refused", guest.vm.set_slot(wrong), errno);
        expect::eq("memory", guest.guest_read(EXTRA), Some(ONES));
        expect::eq("memory", guest.guest_read(EXTRA + P), Some(TWOS));
        expect::eq("behind it", guest.guest_read(EXTRA + 2 * P), None);
    }
}

/// A guest that reads EXTRA for ever.
fn reader(memory: &Mapping) -> Guest {
    let guest = Guest::long(code64!("2: mov rax, [rbx]", "mov [rcx], rax", "jmp 2b"));
    guest.vm.add_memory(1, EXTRA, memory);
    let (rbx, rcx) = (EXTRA, crate::guest::layout::DATA);
    guest.vcpu.set_regs(&kvm_regs {
        rbx,
        rcx,
        ..guest.vcpu.regs()
    });
    guest
}

/// Waits until the reader has seen `value`.
fn until_seen(guest: &Guest, value: u64) {
    while guest.peek(crate::guest::layout::DATA) != value {
        std::thread::yield_now();
    }
}

fn delete_under_running_guest() {
    let memory = Mapping::anonymous(2 * PAGE);
    memory.write(0, ONES);
    let guest = reader(&memory);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| guest.vcpu.run());
        until_seen(&guest, ONES);
        let gone = Slot {
            size: 0,
            ..Slot::of(1, EXTRA, &memory)
        };
        expect::ok("delete", guest.vm.set_slot(gone));
        let exit = running.join().expect("the vCPU's thread");
        expect::eq("KVM_RUN", exit, Ok(Exit::MmioRead { gpa: EXTRA, len: 8 }));
    });
}

fn move_under_running_guest() {
    let memory = Mapping::anonymous(2 * PAGE);
    memory.write(0, ONES);
    memory.write(PAGE, TWOS);
    let guest = reader(&memory);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| guest.vcpu.run());
        let slot = Slot::of(1, EXTRA, &memory);
        for _ in 0..10 {
            until_seen(&guest, ONES);
            expect::ok(
                "move",
                guest.vm.set_slot(Slot {
                    gpa: EXTRA - P,
                    ..slot
                }),
            );
            until_seen(&guest, TWOS);
            expect::ok("move back", guest.vm.set_slot(slot));
        }
        let gone = Slot { size: 0, ..slot };
        expect::ok("delete", guest.vm.set_slot(gone));
        let exit = running.join().expect("the vCPU's thread");
        expect::eq("KVM_RUN", exit, Ok(Exit::MmioRead { gpa: EXTRA, len: 8 }));
    });
}

/// Two VMs: what one writes the other does not see.
fn isolation() {
    let (one, memory) = with_pages();
    let (two, others) = with_pages();
    one.vm.add_memory(1, EXTRA, &memory);
    expect::eq("another VM's slot", two.guest_read(EXTRA), None);
    two.vm.add_memory(1, EXTRA, &others);
    expect::that("store", one.guest_write(EXTRA, 100));
    expect::that("store", two.guest_write(EXTRA, 200));
    expect::eq("the first VM", one.guest_read(EXTRA), Some(100));
    expect::eq("the second VM", two.guest_read(EXTRA), Some(200));
    drop(one);
    expect::eq(
        "the second VM without the first",
        two.guest_read(EXTRA),
        Some(200),
    );
}

fn set_tss_addr() {
    let vm = Vm::new();
    expect::eq("0xfffbd000", vm.call(SET_TSS_ADDR, 0xfffb_d000), Ok(0));
    expect::eq("the highest", vm.call(SET_TSS_ADDR, 0xffff_d000), Ok(0));
    expect::errno(
        "above 4 GiB - 3 pages",
        vm.call(SET_TSS_ADDR, 0xffff_d001),
        EINVAL,
    );
    expect::errno("above 4 GiB", vm.call(SET_TSS_ADDR, 1 << 32), EINVAL);
}

/// A limit of shadow pages, at least 64 (api.rst 4.44).
fn set_nr_mmu_pages() {
    let vm = Vm::new();
    for pages in [64, 1000] {
        expect::eq("pages", vm.call(SET_NR_MMU_PAGES, pages), Ok(0));
    }
    for pages in [0, 63] {
        expect::errno("too few", vm.call(SET_NR_MMU_PAGES, pages), EINVAL);
    }
}

fn set_identity_map_addr() {
    let vm = Vm::new();
    expect::eq(
        "an address",
        vm.set(SET_IDENTITY_MAP_ADDR, &0xfffb_c000),
        Ok(0),
    );
    expect::eq(
        "0 for the default",
        vm.set(SET_IDENTITY_MAP_ADDR, &0),
        Ok(0),
    );
    expect::errno("no memory", vm.fault(SET_IDENTITY_MAP_ADDR.number), EFAULT);
    let _vcpu = vm.create_vcpu(0);
    let got = vm.set(SET_IDENTITY_MAP_ADDR, &0xfffb_c000);
    expect::errno("with a vCPU", got, EINVAL);
    expect::errno(
        "with a vCPU, no memory",
        vm.fault(SET_IDENTITY_MAP_ADDR.number),
        EINVAL,
    );
}
