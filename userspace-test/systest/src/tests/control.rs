// SPDX-License-Identifier: GPL-2.0
//! Control and debug registers as the guest moves them.

use kvm_bindings::kvm_regs;

use super::tests;
use crate::expect;
use crate::guest::{bits, layout, Guest, Mode};
use crate::request::*;
use crate::{code32, code64};

tests! {
    "control":
    read_back, cr0_bits, cr0_bad_values, cr3_switch, cr3_bad_value, cr4_bits, cr4_bad_values,
    cr8_round_trip, cr8_bad_value, lmsw_smsw, clts, paging_off_and_on, leave_long_mode_is_fault,
    vmxe_stays_hidden, large_pages_follow_pse, debug_registers, dr7_bad_value, dr6_bad_value,
    dr4_without_de, general_detect,
}

/// Runs `code` with RAX = `rax`; then RBX.
#[track_caller]
fn run(code: &[u8], rax: u64) -> (Guest, u64) {
    let guest = Guest::long(code);
    guest.vcpu.set_regs(&kvm_regs {
        rax,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let rbx = guest.vcpu.regs().rbx;
    (guest, rbx)
}

/// Runs `code` with RAX = `rax` and expects #GP(0) at its first instruction.
#[track_caller]
fn refused(what: &str, code: &[u8], rax: u64) {
    let guest = Guest::long(code);
    let before = guest.vcpu.sregs();
    guest.vcpu.set_regs(&kvm_regs {
        rax,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq(
        what,
        (trap.vector, trap.error, trap.rip),
        (13, 0, layout::CODE),
    );
    let after = guest.vcpu.sregs();
    let control = |s: &kvm_bindings::kvm_sregs| (s.cr0, s.cr3, s.cr4, s.cr8, s.efer);
    expect::eq("control registers", control(&after), control(&before));
}

fn cr0() -> u64 {
    Guest::long(&[]).vcpu.sregs().cr0
}

fn cr4() -> u64 {
    Guest::long(&[]).vcpu.sregs().cr4
}

fn read_back() {
    let guest = Guest::long(code64!(
        "mov rax, cr0",
        "mov rbx, cr3",
        "mov rcx, cr4",
        "hlt"
    ));
    guest.run_to_halt();
    let (regs, sregs) = (guest.vcpu.regs(), guest.vcpu.sregs());
    expect::eq(
        "CR0, CR3, CR4",
        [regs.rax, regs.rbx, regs.rcx],
        [sregs.cr0, sregs.cr3, sregs.cr4],
    );
}

fn cr0_bits() {
    // WP, AM, NE, TS, CD and NW with CD.
    for bit in [
        1 << 16,
        1 << 18,
        1 << 5,
        1 << 3,
        bits::CR0_CD,
        bits::CR0_CD | bits::CR0_NW,
    ] {
        let value = cr0() ^ bit;
        let (guest, rbx) = run(code64!("mov cr0, rax", "mov rbx, cr0", "hlt"), value);
        expect::eq("CR0 in the guest", rbx, value);
        expect::eq("CR0 by KVM_GET_SREGS", guest.vcpu.sregs().cr0, value);
    }
}

fn cr0_bad_values() {
    let code = code64!("mov cr0, rax");
    refused("bit 32", code, cr0() | (1 << 32));
    refused("NW without CD", code, cr0() | bits::CR0_NW);
    refused("PG without PE", code, cr0() & !bits::CR0_PE);
    refused("no PG in 64-bit code", code, cr0() & !bits::CR0_PG);
}

/// Another page table shows another page at the same address.
fn cr3_switch() {
    let (first, second, table) = (0x3_0000, 0x3_1000, 0x10_0000);
    let code = code64!(
        "mov rbx, [{first}]",
        "mov cr3, rax",
        "mov rcx, [{first}]",
        "mov rdx, cr3",
        "hlt";
        first = const 0x3_0000
    );
    let guest = Guest::long(code);
    guest.poke(first, 1);
    guest.poke(second, 2);
    // The new tables: the first 2 MiB by 4 KiB pages, `second` at the address of `first`.
    guest.poke(table, (table + 0x1000) | bits::PTE);
    guest.poke(table + 0x1000, (table + 0x2000) | bits::PTE);
    guest.poke(table + 0x2000, (table + 0x3000) | bits::PTE);
    for page in 0..512 {
        guest.poke(table + 0x3000 + 8 * page, (page << 12) | bits::PTE);
    }
    guest.poke(table + 0x3000 + 8 * (first >> 12), second | bits::PTE);
    guest.vcpu.set_regs(&kvm_regs {
        rax: table,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("before and after", (regs.rbx, regs.rcx), (1, 2));
    expect::eq("CR3", (regs.rdx, guest.vcpu.sregs().cr3), (table, table));
}

fn cr3_bad_value() {
    refused("bit 62", code64!("mov cr3, rax"), layout::PML4 | (1 << 62));
}

fn cr4_bits() {
    // TSD, DE, PGE, PCE, OSFXSR, OSXMMEXCPT.
    for bit in [2, 3, 7, 8, 9, 10] {
        let value = cr4() ^ (1 << bit);
        let (guest, rbx) = run(code64!("mov cr4, rax", "mov rbx, cr4", "hlt"), value);
        expect::eq("CR4 in the guest", rbx, value);
        expect::eq("CR4 by KVM_GET_SREGS", guest.vcpu.sregs().cr4, value);
    }
}

fn cr4_bad_values() {
    let code = code64!("mov cr4, rax");
    for bit in [15, 31, 63] {
        refused(&format!("bit {bit}"), code, cr4() | (1 << bit));
    }
    refused("no PAE in 64-bit mode", code, cr4() & !bits::CR4_PAE);
}

fn cr8_round_trip() {
    let (guest, rbx) = run(code64!("mov cr8, rax", "mov rbx, cr8", "hlt"), 13);
    expect::eq("CR8", (rbx, guest.vcpu.sregs().cr8), (13, 13));
}

fn cr8_bad_value() {
    refused("CR8 of 16", code64!("mov cr8, rax"), 16);
}

fn lmsw_smsw() {
    // LMSW sets TS, EM, MP and cannot clear PE.
    let (guest, rbx) = run(code64!("lmsw ax", "smsw rbx", "hlt"), 8);
    expect::eq("SMSW", rbx & 0xf, 9);
    expect::eq("CR0", guest.vcpu.sregs().cr0 & 0xf, 9);
}

fn clts() {
    let guest = Guest::long(code64!("clts", "mov rbx, cr0", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    sregs.cr0 |= 8;
    guest.vcpu.set_sregs(&sregs);
    guest.run_to_halt();
    expect::eq(
        "CR0.TS",
        (guest.vcpu.regs().rbx & 8, guest.vcpu.sregs().cr0 & 8),
        (0, 0),
    );
}

/// Protected mode turns paging off and on again.
fn paging_off_and_on() {
    for mode in [Mode::Paging32, Mode::Pae] {
        let guest = Guest::new(
            mode,
            code32!(
                "mov eax, cr0",
                "mov edx, eax",
                "and eax, 0x7fffffff",
                "mov cr0, eax",
                "mov ebx, [0x20000]",
                "mov cr0, edx",
                "add ebx, [0x20000]",
                "hlt"
            ),
        );
        guest.poke(layout::DATA, 21);
        guest.run_to_halt();
        expect::eq(&format!("{mode:?}"), guest.vcpu.regs().rbx, 42);
        expect::eq("CR0.PG", guest.vcpu.sregs().cr0 >> 31, 1);
    }
}

fn leave_long_mode_is_fault() {
    let code = code64!("wrmsr");
    let guest = Guest::long(code);
    // EFER without LME while CR0.PG is set.
    let (rcx, rax, rdx) = (0xc000_0080, 1, 0);
    guest.vcpu.set_regs(&kvm_regs {
        rcx,
        rax,
        rdx,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq("#GP", (trap.vector, trap.rip), (13, layout::CODE));
}

/// The hypervisor's own CR4.VMXE and what else VMX fixes are not the guest's.
fn vmxe_stays_hidden() {
    let (guest, rbx) = run(code64!("mov rbx, cr4", "hlt"), 0);
    expect::eq("CR4.VMXE in the guest", rbx & bits::CR4_VMXE, 0);
    expect::eq(
        "CR4.VMXE by KVM_GET_SREGS",
        guest.vcpu.sregs().cr4 & bits::CR4_VMXE,
        0,
    );
    let guest = Guest::real(crate::code16!("mov eax, cr0", "hlt"));
    let mut sregs = guest.vcpu.sregs();
    sregs.cr0 = 0x10;
    guest.vcpu.set_sregs(&sregs);
    guest.run_to_halt();
    expect::eq("CR0 in real mode", guest.vcpu.regs().rax, 0x10);
}

/// Without CR4.PSE a 32-bit page directory's entries name tables.
fn large_pages_follow_pse() {
    let code = code32!("mov eax, [0x400000 + 0x5000]", "hlt");
    let guest = Guest::new(Mode::Paging32, code);
    // The directory: the first 4 MiB through a table at PD, the next through one at PDPT.
    for page in 0..512u64 {
        let two = ((2 * page) << 12) | 7 | ((((2 * page + 1) << 12) | 7) << 32);
        guest.poke(layout::PD + 8 * page, two);
    }
    guest.poke(
        layout::PML4,
        (layout::PD | 7) | ((layout::PDPT | 7 | 0x80) << 32),
    );
    guest.poke(layout::PDPT + 8 * 2, (layout::DATA | 7) << 32);
    guest.poke(layout::DATA, 0x7ab1e);
    let mut sregs = guest.vcpu.sregs();
    sregs.cr4 = 0;
    guest.vcpu.set_sregs(&sregs);
    guest.run_to_halt();
    expect::eq("EAX", guest.vcpu.regs().rax, 0x7ab1e);
}

fn debug_registers() {
    let guest = Guest::long(code64!(
        "mov dr0, rax",
        "mov dr1, rax",
        "mov dr2, rax",
        "mov dr3, rax",
        "mov rbx, dr2",
        "mov rcx, dr6",
        "mov rdx, dr7",
        "hlt"
    ));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0xabcd_ef01_2345,
        ..guest.vcpu.regs()
    });
    for _ in 0..3 {
        guest.vcpu.set_regs(&kvm_regs {
            rip: layout::CODE,
            ..guest.vcpu.regs()
        });
        guest.run_to_halt();
        let regs = guest.vcpu.regs();
        let got = (regs.rbx, regs.rcx, regs.rdx);
        expect::eq("DR2, DR6, DR7", got, (0xabcd_ef01_2345, 0xffff_0ff0, 0x400));
    }
    let debug = expect::ok("KVM_GET_DEBUGREGS", guest.vcpu.get(GET_DEBUGREGS));
    expect::eq("DR0..3", debug.db, [0xabcd_ef01_2345; 4]);
}

fn dr7_bad_value() {
    refused("DR7 bit 32", code64!("mov dr7, rax"), 1 << 32);
}

fn dr6_bad_value() {
    refused("DR6 bit 32", code64!("mov dr6, rax"), 1 << 32);
}

/// DR4 is another name of DR6, unless CR4.DE makes it undefined.
fn dr4_without_de() {
    let (_, rbx) = run(code64!(".byte 0x0f, 0x21, 0xe3", "hlt"), 0);
    expect::eq("MOV RBX, DR4", rbx, 0xffff_0ff0);
    let guest = Guest::long(code64!(".byte 0x0f, 0x21, 0xe3"));
    let mut sregs = guest.vcpu.sregs();
    sregs.cr4 |= 1 << 3;
    guest.vcpu.set_sregs(&sregs);
    let trap = guest.run_to_trap();
    expect::eq(
        "#UD with CR4.DE",
        (trap.vector, trap.rip),
        (6, layout::CODE),
    );
}

/// With DR7.GD the guest's debugger is told of an access to a debug register.
fn general_detect() {
    let guest = Guest::long(code64!(
        "mov eax, 0x2400",
        "mov dr7, rax",
        "mov rbx, dr0",
        "hlt"
    ));
    let trap = guest.run_to_trap();
    expect::eq(
        "#DB at the MOV",
        (trap.vector, trap.rip),
        (1, layout::CODE + 8),
    );
    let debug = expect::ok("KVM_GET_DEBUGREGS", guest.vcpu.get(GET_DEBUGREGS));
    expect::eq("DR6.BD", (debug.dr6 >> 13) & 1, 1);
    expect::eq("DR7.GD", (debug.dr7 >> 13) & 1, 0);
}
