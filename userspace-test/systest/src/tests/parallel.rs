// SPDX-License-Identifier: GPL-2.0
//! Many vCPUs at once, more than there are CPUs: interrupts in a ring, TLBs that others flush,
//! barriers.

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::expect;
use crate::guest::layout;
use crate::machine::{apic, Eoi, Machine};

tests! {
    "parallel":
    eight_vcpus(60), shootdown(60), sixty_four_vcpus(60), barrier(60),
}

const VECTOR: u8 = 0xb1;
const ALL_OTHERS: u32 = 3 << 18;

/// Rounds of the tests with many vCPUs.
const ROUNDS: u64 = 40;

/// Each vCPU in turn sends an IPI to the next and waits for its own with HLT.
fn eight_vcpus() {
    const CPUS: usize = 8;
    let machine = Machine::new(CPUS);
    machine.handle(VECTOR, Eoi::Xapic);
    for id in 0..CPUS {
        machine.cpu(id).enable_apic();
        // A vector of its own, which the count is taken by.
        machine.handle(VECTOR + 1 + id as u8, Eoi::Xapic);
    }
    let ring = code64!(
        "2: cli",
        "cmp [rsi], rdi",
        "ja 3f",
        "sti",
        "hlt",
        "jmp 2b",
        "3: sti",
        "inc rdi",
        "mov [rbx + 0x310], ecx",
        "mov [rbx + 0x300], edx",
        "cmp rdi, rbp",
        "jb 2b",
        "out 0xe9, al"
    );
    for id in 0..CPUS {
        let next = (id + 1) % CPUS;
        machine.cpu(id).start(ring, |r| {
            r.rbx = apic::BASE;
            r.rcx = (next as u64) << 24;
            r.rdx = u64::from(VECTOR) + 1 + next as u64;
            r.rsi = Machine::count_address(VECTOR + 1 + id as u8);
            (r.rdi, r.rbp) = (0, ROUNDS);
        });
    }
    // The first one's IPI comes from outside.
    let first = machine.vm.signal_msi(msi_address(0), u32::from(VECTOR) + 1);
    expect::eq("KVM_SIGNAL_MSI", first, Ok(1));
    std::thread::scope(|scope| {
        for id in 0..CPUS {
            let machine = &machine;
            scope.spawn(move || {
                expect::that("it comes to its end", machine.cpu(id).finish().is_ok());
            });
        }
    });
    for id in 1..CPUS as u8 {
        machine.expect_count(VECTOR + 1 + id, ROUNDS);
    }
    machine.cpu(0).nop();
    machine.expect_count(VECTOR + 1, ROUNDS + 1);
}

/// What a guest does to flush others' TLBs: it changes a page table entry, sends an IPI to all
/// others and spins until each has invalidated the page; then nobody may see the old page.
fn shootdown() {
    const CPUS: usize = 4;
    let machine = Machine::new(CPUS);
    let lock = layout::DATA + 0x4000;
    let (done, stop, wrong) = (lock + 0x40, lock + 0x80, lock + 0xc0);
    for id in 0..CPUS {
        machine.cpu(id).enable_apic();
    }
    // The page at EXTRA by a small page table: its two frames hold 1 and 2 and change places.
    let (frame, page) = (layout::DATA + 0x8000, layout::EXTRA);
    machine.poke(frame, 1);
    machine.poke(frame + 0x1000, 2);
    let entry = layout::PT;
    machine.poke(entry, frame | 7);
    machine.poke(layout::PD + 8 * (page >> 21), layout::PT | 7);
    let handler = code64!(
        "invlpg [{page}]",
        "lock inc qword ptr [{done}]",
        "push rax",
        "mov eax, 0xfee000b0",
        "mov dword ptr [rax], 0",
        "pop rax",
        "iretq";
        page = const layout::EXTRA, done = const layout::DATA + 0x4040
    );
    machine.load(layout::CODE2 + 0x2000, handler);
    crate::guest::write_gate(&machine.memory, VECTOR, layout::CODE2 + 0x2000, 0);
    // The others read the page all the time.
    let reader = code64!(
        "2: mov rax, [rbx]",
        "cmp qword ptr [rcx], 0",
        "je 2b",
        "out 0xe9, al"
    );
    // The first one flips the page, flushes, and sees that the new one is there.
    let writer = code64!(
        "2: mov qword ptr [rcx], 0",
        "xor qword ptr [rdi], 0x1000",
        "invlpg [rbx]",
        "mov dword ptr [rsi + 0x300], 0xc00b1",
        "3: cmp qword ptr [rcx], 3",
        "jb 3b",
        "dec rbp",
        "jnz 2b",
        "out 0xe9, al"
    );
    for id in 1..CPUS {
        machine
            .cpu(id)
            .start(reader, |r| (r.rbx, r.rcx) = (page, stop));
    }
    machine.cpu(0).start(writer, |r| {
        (r.rbx, r.rcx, r.rdi, r.rsi, r.rbp) = (page, done, entry, apic::BASE, ROUNDS + 1);
    });
    std::thread::scope(|scope| {
        let readers: Vec<_> = (1..CPUS)
            .map(|id| {
                let machine = &machine;
                scope.spawn(move || machine.cpu(id).finish())
            })
            .collect();
        expect::that("the writer's end", machine.cpu(0).finish().is_ok());
        machine.poke(stop, 1);
        for reader in readers {
            let regs = reader.join().expect("a vCPU's thread");
            expect::eq("a reader's last", regs.map(|r| r.rax), Ok(2));
        }
    });
    expect::eq("nobody wrote there", machine.peek(wrong), 0);
}

/// As many vCPUs as any VMM makes here, some of them run.
fn sixty_four_vcpus() {
    let machine = Machine::new(64);
    machine.handle(VECTOR, Eoi::X2apic);
    for id in 0..64 {
        machine.cpu(id).enable_x2apic();
    }
    machine
        .cpu(5)
        .x2apic_write(apic::ICR, u64::from(ALL_OTHERS) | u64::from(VECTOR));
    for id in [0, 1, 31, 32, 63] {
        machine.cpu(id).nop();
    }
    machine.expect_count(VECTOR, 5);
    machine
        .cpu(63)
        .x2apic_write(apic::ICR, 40 << 32 | u64::from(VECTOR));
    machine.cpu(40).nop();
    machine.expect_count(VECTOR, 6);
}

/// Eight vCPUs meet at a barrier by spinning with PAUSE, on fewer CPUs.
fn barrier() {
    const CPUS: usize = 8;
    let machine = Machine::new(CPUS);
    let at = layout::DATA + 0x4000;
    let code = code64!(
        "2: lock inc qword ptr [rbx]",
        "add rcx, 8",
        "3: pause",
        "cmp [rbx], rcx",
        "jb 3b",
        "dec rbp",
        "jnz 2b",
        "out 0xe9, al"
    );
    for id in 0..CPUS {
        machine
            .cpu(id)
            .start(code, |r| (r.rbx, r.rcx, r.rbp) = (at, 0, 20));
    }
    std::thread::scope(|scope| {
        for id in 0..CPUS {
            let machine = &machine;
            scope.spawn(move || {
                expect::that("it comes to its end", machine.cpu(id).finish().is_ok());
            });
        }
    });
    expect::eq("arrivals", machine.peek(at), 20 * CPUS as u64);
}
