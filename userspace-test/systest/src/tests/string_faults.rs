// SPDX-License-Identifier: GPL-2.0
//! String I/O whose memory is not there for the guest, or not all of it; and instructions that lie
//! across pages.

use kvm_bindings::kvm_regs;

use super::tests;
use crate::expect;
use crate::guest::{bits, layout, layout::EXTRA, Guest};
use crate::memory::{Mapping, PAGE};
use crate::vcpu::Exit;
use crate::{code32, code64};

tests! {
    "string_faults":
    source_not_mapped, destination_not_mapped, destination_read_only, second_page_not_mapped,
    element_across_pages, to_memory_not_touched_yet, source_without_memory,
    destination_without_memory, segment_override, segment_limit, destination_not_writable_segment,
    not_canonical, address_size, two_pages_elsewhere, code_across_pages, code_mapped_elsewhere,
    mmio_through_two_mappings,
}

const P: u64 = PAGE as u64;

/// A 64-bit guest with two 4 KiB pages at EXTRA that have the given page-table entries, and two
/// pages of memory there in a slot of their own.
#[track_caller]
fn with_entries(code: &[u8], entries: [u64; 2]) -> (Guest, Mapping) {
    let guest = Guest::long(code);
    let memory = Mapping::anonymous(2 * PAGE);
    guest.vm.add_memory(1, EXTRA, &memory);
    guest.poke(layout::PD + EXTRA / (2 << 20) * 8, layout::PT | bits::PTE);
    guest.poke(layout::PT, entries[0]);
    guest.poke(layout::PT + 8, entries[1]);
    let regs = guest.vcpu.regs();
    let (rsi, rdi, rdx) = (EXTRA, EXTRA, 0x30);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rdi,
        rdx,
        ..regs
    });
    (guest, memory)
}

#[track_caller]
fn set_rcx(guest: &Guest, rcx: u64) {
    guest.vcpu.set_regs(&kvm_regs {
        rcx,
        ..guest.vcpu.regs()
    });
}

const FIRST: u64 = EXTRA | bits::PTE;
const SECOND: u64 = (EXTRA + P) | bits::PTE;

fn source_not_mapped() {
    for code in [code64!("outsb"), code64!("rep outsb")] {
        let (guest, _memory) = with_entries(code, [0, SECOND]);
        set_rcx(&guest, 4);
        let trap = guest.run_to_trap();
        let got = (trap.vector, trap.error, trap.rip, trap.cr2);
        expect::eq("#PF", got, (14, 0, layout::CODE, EXTRA));
        expect::eq(
            "RCX and RSI",
            (guest.vcpu.regs().rcx, guest.vcpu.regs().rsi),
            (4, EXTRA),
        );
    }
}

fn destination_not_mapped() {
    let (guest, _memory) = with_entries(code64!("rep insb"), [0, SECOND]);
    set_rcx(&guest, 4);
    expect_write_fault(&guest, 2);
}

/// Lets the guest run its string input until the #PF with `error`; what it was given is not stored.
#[track_caller]
fn expect_write_fault(guest: &Guest, error: u64) {
    loop {
        match guest.vcpu.run() {
            // The hypervisor may have read the port before it looks at the memory.
            Ok(Exit::In { size, count, .. }) => {
                guest
                    .vcpu
                    .answer_io(&vec![0xee; usize::from(size) * count as usize]);
            }
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    let trap = guest.trap();
    let got = (trap.vector, trap.error, trap.rip, trap.cr2);
    expect::eq("#PF", got, (14, error, layout::CODE, EXTRA));
    expect::eq("RDI", guest.vcpu.regs().rdi, EXTRA);
}

fn destination_read_only() {
    let (guest, memory) = with_entries(code64!("rep insb"), [EXTRA | 1, SECOND]);
    set_rcx(&guest, 4);
    expect_write_fault(&guest, 3);
    expect::eq("memory", memory.read::<u64>(0), 0);
}

/// The part before the page that is not there has been put out, and counted.
fn second_page_not_mapped() {
    let (guest, memory) = with_entries(code64!("rep outsw"), [FIRST, 0]);
    memory.write_bytes(PAGE - 6, b"abcdef");
    let (rsi, rcx) = (EXTRA + P - 6, 10);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rcx,
        ..guest.vcpu.regs()
    });
    let mut got = Vec::new();
    loop {
        match guest.vcpu.run() {
            Ok(Exit::Out {
                port: 0x30,
                size: 2,
                data,
            }) => got.extend(data),
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    expect::eq("output", got, b"abcdef".to_vec());
    let (trap, regs) = (guest.trap(), guest.vcpu.regs());
    expect::eq(
        "#PF",
        (trap.vector, trap.rip, trap.cr2),
        (14, layout::CODE, EXTRA + P),
    );
    expect::eq("RSI and RCX", (regs.rsi, regs.rcx), (EXTRA + P, 7));
}

/// The two halves of one element lie in pages that are not neighbours in memory.
fn element_across_pages() {
    let (guest, memory) = with_entries(code64!("outsd", "insd", "hlt"), [SECOND, FIRST]);
    memory.write_bytes(2 * PAGE - 2, &[1, 2]);
    memory.write_bytes(0, &[3, 4]);
    let (rsi, rdi) = (EXTRA + P - 2, EXTRA + P - 1);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rdi,
        ..guest.vcpu.regs()
    });
    let data = vec![1, 2, 3, 4];
    guest.vcpu.expect_exit(Exit::Out {
        port: 0x30,
        size: 4,
        data,
    });
    guest.vcpu.expect_exit(Exit::In {
        port: 0x30,
        size: 4,
        count: 1,
    });
    guest.vcpu.answer_io(&[5, 6, 7, 8]);
    guest.run_to_halt();
    expect::eq("first byte", memory.read::<u8>(2 * PAGE - 1), 5);
    expect::eq("the others", memory.read::<[u8; 3]>(0), [6, 7, 8]);
}

fn to_memory_not_touched_yet() {
    let (guest, memory) = with_entries(code64!("rep insb", "hlt"), [FIRST, SECOND]);
    set_rcx(&guest, 2 * P);
    let mut given = 0;
    loop {
        match guest.vcpu.run() {
            Ok(Exit::In { count, .. }) => {
                let data: Vec<u8> = (given..given + count).map(|i| (i * 3) as u8).collect();
                guest.vcpu.answer_io(&data);
                given += count;
            }
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    expect::eq("bytes asked for", given, 2 * PAGE as u32);
    let want: Vec<u8> = (0..given).map(|i| (i * 3) as u8).collect();
    expect::that(
        "the memory is the input",
        memory.read_bytes(0, 2 * PAGE) == want,
    );
}

/// String I/O from where no memory is: the load comes to the VMM, or KVM gives up; data that nobody
/// gave do not come out.
fn source_without_memory() {
    let guest = Guest::long(code64!("outsb", "hlt"));
    let (rsi, rdx) = (layout::MMIO, 0x30);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rdx,
        ..guest.vcpu.regs()
    });
    match guest.vcpu.run() {
        Ok(Exit::MmioRead {
            gpa: layout::MMIO,
            len: 1,
        }) => {
            guest.vcpu.answer_mmio(&[0x5c]);
            guest.vcpu.expect_exit(Exit::Out {
                port: 0x30,
                size: 1,
                data: vec![0x5c],
            });
            guest.run_to_halt();
        }
        Ok(Exit::InternalError { .. }) => {}
        other => panic!("expected a load or KVM_EXIT_INTERNAL_ERROR, got {other:x?}"),
    }
}

fn destination_without_memory() {
    let guest = Guest::long(code64!("insb", "hlt"));
    let (rdi, rdx) = (layout::MMIO, 0x30);
    guest.vcpu.set_regs(&kvm_regs {
        rdi,
        rdx,
        ..guest.vcpu.regs()
    });
    let mut stored = false;
    loop {
        match guest.vcpu.run() {
            Ok(Exit::In {
                port: 0x30,
                size: 1,
                count: 1,
            }) => guest.vcpu.answer_io(&[0x6d]),
            Ok(Exit::MmioWrite {
                gpa: layout::MMIO,
                data,
            }) => {
                expect::eq("data of the store", data, vec![0x6d]);
                stored = true;
            }
            Ok(Exit::InternalError { .. }) => return,
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    expect::that("the store came to the VMM", stored);
}

fn segment_override() {
    let guest = Guest::long(code64!(".byte 0x64", "outsb", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    sregs.fs.base = 0x100;
    guest.vcpu.set_sregs(&sregs);
    guest.load(layout::DATA + 0x100, b"F");
    let (rsi, rdx) = (layout::DATA, 0x30);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rdx,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(Exit::Out {
        port: 0x30,
        size: 1,
        data: b"F".to_vec(),
    });
    guest.run_to_halt();
}

/// A protected-mode guest without handlers, so that a fault is the end.
#[track_caller]
fn protected(code: &[u8]) -> Guest {
    let guest = Guest::protected(code);
    let mut sregs = guest.vcpu.sregs();
    sregs.idt.limit = 0;
    guest.vcpu.set_sregs(&sregs);
    let regs = guest.vcpu.regs();
    let (rsi, rdi, rdx) = (0x2000, 0x2000, 0x30);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rdi,
        rdx,
        ..regs
    });
    guest
}

fn segment_limit() {
    let guest = protected(code32!("outsb", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    (sregs.ds.limit, sregs.ds.g) = (0x1fff, 0);
    guest.vcpu.set_sregs(&sregs);
    guest.vcpu.expect_exit(Exit::Shutdown);
    let guest = protected(code32!("outsb", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    (sregs.ds.limit, sregs.ds.g) = (0x2000, 0);
    guest.vcpu.set_sregs(&sregs);
    guest.load(0x2000, &[9]);
    guest.vcpu.expect_exit(Exit::Out {
        port: 0x30,
        size: 1,
        data: vec![9],
    });
    guest.run_to_halt();
}

fn destination_not_writable_segment() {
    let guest = protected(code32!("insb", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    sregs.es.type_ = 1;
    guest.vcpu.set_sregs(&sregs);
    let mut exit = guest.vcpu.run();
    // The hypervisor may have read the port before it looks at the segment.
    if exit
        == Ok(Exit::In {
            port: 0x30,
            size: 1,
            count: 1,
        })
    {
        guest.vcpu.answer_io(&[0xee]);
        exit = guest.vcpu.run();
    }
    expect::eq("KVM_RUN", exit, Ok(Exit::Shutdown));
    expect::ne("memory", guest.peek(0x2000) & 0xff, 0xee);
}

fn not_canonical() {
    let guest = Guest::long(code64!("outsb"));
    let (rsi, rdx) = (1 << 63, 0x30);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rdx,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq(
        "#GP",
        (trap.vector, trap.error, trap.rip),
        (13, 0, layout::CODE),
    );
}

/// With a 32-bit address size the upper half of the index counts neither as address nor as count.
fn address_size() {
    let guest = Guest::long(code64!(".byte 0x67", "rep outsb", "hlt"));
    guest.load(layout::DATA, b"xy");
    let upper = 0xffff_ffff_0000_0000;
    let (rsi, rcx, rdx) = (upper | layout::DATA, upper | 2, 0x30);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rcx,
        rdx,
        ..guest.vcpu.regs()
    });
    let mut got = Vec::new();
    loop {
        match guest.vcpu.run() {
            Ok(Exit::Out { data, .. }) => got.extend(data),
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    expect::eq("output", got, b"xy".to_vec());
    let regs = guest.vcpu.regs();
    let (si, cx) = (regs.rsi & 0xffff_ffff, regs.rcx & 0xffff_ffff);
    expect::eq("ESI and ECX", (si, cx), (layout::DATA + 2, 0));
}

fn two_pages_elsewhere() {
    let (guest, memory) = with_entries(code64!("rep outsb", "hlt"), [SECOND, FIRST]);
    memory.write_bytes(2 * PAGE - 2, b"12");
    memory.write_bytes(0, b"34");
    let (rsi, rcx) = (EXTRA + P - 2, 4);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rcx,
        ..guest.vcpu.regs()
    });
    let mut got = Vec::new();
    loop {
        match guest.vcpu.run() {
            Ok(Exit::Out { data, .. }) => got.extend(data),
            other => break expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
    expect::eq("output", got, b"1234".to_vec());
}

/// An instruction that loads from a device, its bytes in two pages that are not neighbours.
fn code_across_pages() {
    let code = code64!("mov rax, [rbx + 0x1234]", "hlt");
    for split in 1..7 {
        let (guest, memory) = with_entries(&[], [SECOND, FIRST]);
        memory.write_bytes(2 * PAGE - split, &code[..split]);
        memory.write_bytes(0, &code[split..]);
        let (rip, rbx) = (EXTRA + P - split as u64, layout::MMIO);
        guest.vcpu.set_regs(&kvm_regs {
            rip,
            rbx,
            ..guest.vcpu.regs()
        });
        guest.vcpu.expect_exit(Exit::MmioRead {
            gpa: layout::MMIO + 0x1234,
            len: 8,
        });
        guest.vcpu.answer_mmio(&7u64.to_le_bytes());
        guest.run_to_halt();
        expect::eq("RAX", guest.vcpu.regs().rax, 7);
    }
}

fn code_mapped_elsewhere() {
    let (guest, memory) = with_entries(&[], [SECOND, 0]);
    let code = code64!("mov [rbx], cl", "insb", "hlt");
    memory.write_bytes(2 * PAGE - code.len(), code);
    let regs = guest.vcpu.regs();
    let (rip, rbx, rcx) = (EXTRA + P - code.len() as u64, layout::MMIO, 0x31);
    guest.vcpu.set_regs(&kvm_regs {
        rip,
        rbx,
        rcx,
        rdi: layout::DATA,
        ..regs
    });
    guest.vcpu.expect_exit(Exit::MmioWrite {
        gpa: layout::MMIO,
        data: vec![0x31],
    });
    guest.vcpu.expect_exit(Exit::In {
        port: 0x30,
        size: 1,
        count: 1,
    });
    guest.vcpu.answer_io(&[0x77]);
    guest.run_to_halt();
    expect::eq("memory", guest.peek(layout::DATA) & 0xff, 0x77);
}

/// One access whose two pages are different devices.
fn mmio_through_two_mappings() {
    let (guest, _memory) = with_entries(code64!("mov rax, [rbx]", "hlt"), [0, 0]);
    guest.poke(layout::PT, 0x4000_0000 | bits::PTE);
    guest.poke(layout::PT + 8, 0x5000_0000 | bits::PTE);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: EXTRA + P - 3,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(Exit::MmioRead {
        gpa: 0x4000_0ffd,
        len: 3,
    });
    guest.vcpu.answer_mmio(&[1, 2, 3]);
    guest.vcpu.expect_exit(Exit::MmioRead {
        gpa: 0x5000_0000,
        len: 5,
    });
    guest.vcpu.answer_mmio(&[4, 5, 6, 7, 8]);
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 0x0807_0605_0403_0201);
}
