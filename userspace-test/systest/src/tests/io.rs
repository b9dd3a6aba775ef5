// SPDX-License-Identifier: GPL-2.0
//! KVM_EXIT_IO: IN and OUT of all widths, the string and the repeated forms.

use kvm_bindings::kvm_regs;

use super::tests;
use crate::expect;
use crate::guest::{layout, Guest};
use crate::memory::PAGE;
use crate::vcpu::Exit;
use crate::{code16, code32, code64};

tests! {
    "io":
    out_widths, in_widths, in_keeps_upper_bits, port_in_dx, out_string, out_string_repeated,
    in_string, in_string_repeated, repeat_zero, repeat_backwards, repeat_across_pages,
    repeat_more_than_a_page, real_mode, protected_mode, state_at_exit, set_regs_at_exit,
    data_offset, ring3_needs_iopl,
}

fn out(port: u16, size: u8, data: &[u8]) -> Exit {
    Exit::Out {
        port,
        size,
        data: data.to_vec(),
    }
}

fn out_widths() {
    let guest = Guest::long(code64!(
        "mov eax, 0x44332211",
        "out 0x10, al",
        "out 0x12, ax",
        "out 0x14, eax",
        "hlt"
    ));
    guest.vcpu.expect_exit(out(0x10, 1, &[0x11]));
    guest.vcpu.expect_exit(out(0x12, 2, &[0x11, 0x22]));
    guest
        .vcpu
        .expect_exit(out(0x14, 4, &[0x11, 0x22, 0x33, 0x44]));
    guest.run_to_halt();
}

fn in_widths() {
    let guest = Guest::long(code64!(
        "in al, 0x10",
        "mov rbx, rax",
        "in ax, 0x12",
        "mov rcx, rax",
        "in eax, 0x14",
        "hlt"
    ));
    for (port, size, data) in [
        (0x10, 1, &[0xa1][..]),
        (0x12, 2, &[0xb1, 0xb2]),
        (0x14, 4, &[0xc1, 0xc2, 0xc3, 0xc4]),
    ] {
        guest.vcpu.expect_exit(Exit::In {
            port,
            size,
            count: 1,
        });
        guest.vcpu.answer_io(data);
    }
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("AL", regs.rbx as u8, 0xa1);
    expect::eq("AX", regs.rcx as u16, 0xb2b1);
    expect::eq("EAX", regs.rax, 0xc4c3_c2c1);
}

fn in_keeps_upper_bits() {
    let guest = Guest::long(code64!("in al, 0x10", "mov rbx, rax", "in ax, 0x10", "hlt"));
    let rax = 0x1122_3344_5566_7788;
    guest.vcpu.set_regs(&kvm_regs {
        rax,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(Exit::In {
        port: 0x10,
        size: 1,
        count: 1,
    });
    guest.vcpu.answer_io(&[0xff]);
    guest.vcpu.expect_exit(Exit::In {
        port: 0x10,
        size: 2,
        count: 1,
    });
    guest.vcpu.answer_io(&[0x00, 0xee]);
    guest.run_to_halt();
    expect::eq(
        "RAX after IN AL",
        guest.vcpu.regs().rbx,
        0x1122_3344_5566_77ff,
    );
    expect::eq(
        "RAX after IN AX",
        guest.vcpu.regs().rax,
        0x1122_3344_5566_ee00,
    );
}

fn port_in_dx() {
    let guest = Guest::long(code64!(
        "mov edx, 0x1fffe",
        "out dx, al",
        "in ax, dx",
        "hlt"
    ));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0x5a,
        ..guest.vcpu.regs()
    });
    guest.vcpu.expect_exit(out(0xfffe, 1, &[0x5a]));
    guest.vcpu.expect_exit(Exit::In {
        port: 0xfffe,
        size: 2,
        count: 1,
    });
    guest.vcpu.answer_io(&[0xcd, 0xab]);
    guest.run_to_halt();
    expect::eq("AX", guest.vcpu.regs().rax as u16, 0xabcd);
}

fn string_guest(code: &[u8], rcx: u64) -> Guest {
    let guest = Guest::long(code);
    guest.load(layout::DATA, b"abcdefghijklmnop");
    let (rsi, rdi) = (layout::DATA, layout::DATA + 0x100);
    guest.vcpu.set_regs(&kvm_regs {
        rsi,
        rdi,
        rcx,
        rdx: 0x30,
        ..guest.vcpu.regs()
    });
    guest
}

fn out_string() {
    let guest = string_guest(code64!("outsb", "outsw", "outsd", "hlt"), 0);
    guest.vcpu.expect_exit(out(0x30, 1, b"a"));
    guest.vcpu.expect_exit(out(0x30, 2, b"bc"));
    guest.vcpu.expect_exit(out(0x30, 4, b"defg"));
    guest.run_to_halt();
    expect::eq("RSI", guest.vcpu.regs().rsi, layout::DATA + 7);
}

/// Collects what a repeated OUTS puts out, however many exits it takes, until the guest halts.
#[track_caller]
fn collect_output(guest: &Guest, size: u8) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match guest.vcpu.run() {
            Ok(Exit::Out {
                port: 0x30,
                size: got,
                data,
            }) => {
                expect::eq("size", got, size);
                all.extend(data);
            }
            Ok(Exit::Hlt) => return all,
            other => expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
}

/// Answers a repeated INS with the bytes of `source`, however many exits it takes, until the guest
/// halts. Returns the bytes that were asked for.
#[track_caller]
fn give_input(guest: &Guest, size: u8, source: &mut dyn Iterator<Item = u8>) -> usize {
    let mut asked = 0;
    loop {
        match guest.vcpu.run() {
            Ok(Exit::In {
                port: 0x30,
                size: got,
                count,
            }) => {
                expect::eq("size", got, size);
                let len = usize::from(size) * count as usize;
                expect::that("the data fit into their page", len <= PAGE);
                asked += len;
                guest.vcpu.answer_io(&source.take(len).collect::<Vec<_>>());
            }
            Ok(Exit::Hlt) => return asked,
            other => expect::eq("KVM_RUN", other, Ok(Exit::Hlt)),
        }
    }
}

fn out_string_repeated() {
    for (code, size, count) in [
        (code64!("rep outsb", "hlt"), 1, 16),
        (code64!("rep outsw", "hlt"), 2, 8),
        (code64!("rep outsd", "hlt"), 4, 4),
    ] {
        let guest = string_guest(code, count);
        let got = collect_output(&guest, size);
        expect::eq("data", got, b"abcdefghijklmnop".to_vec());
        let regs = guest.vcpu.regs();
        expect::eq("RSI and RCX", (regs.rsi, regs.rcx), (layout::DATA + 16, 0));
    }
}

fn in_string() {
    let guest = string_guest(code64!("insb", "insw", "insd", "hlt"), 0);
    for (size, data) in [(1, &[1u8][..]), (2, &[2, 3]), (4, &[4, 5, 6, 7])] {
        guest.vcpu.expect_exit(Exit::In {
            port: 0x30,
            size,
            count: 1,
        });
        guest.vcpu.answer_io(data);
    }
    guest.run_to_halt();
    expect::eq(
        "memory",
        guest.peek(layout::DATA + 0x100),
        0x0007_0605_0403_0201,
    );
    expect::eq("RDI", guest.vcpu.regs().rdi, layout::DATA + 0x107);
}

fn in_string_repeated() {
    for (code, size, count) in [
        (code64!("rep insb", "hlt"), 1, 12),
        (code64!("rep insw", "hlt"), 2, 6),
        (code64!("rep insd", "hlt"), 4, 3),
    ] {
        let guest = string_guest(code, count);
        let asked = give_input(&guest, size, &mut (1..=12));
        expect::eq("bytes asked for", asked, 12);
        let got: [u8; 13] = guest.memory.read(layout::DATA as usize + 0x100);
        expect::eq("memory", got, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0]);
        let regs = guest.vcpu.regs();
        expect::eq(
            "RDI and RCX",
            (regs.rdi, regs.rcx),
            (layout::DATA + 0x10c, 0),
        );
    }
}

fn repeat_zero() {
    let guest = string_guest(code64!("rep outsb", "rep insb", "hlt"), 0);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq(
        "RSI and RDI",
        (regs.rsi, regs.rdi),
        (layout::DATA, layout::DATA + 0x100),
    );
}

fn repeat_backwards() {
    let guest = string_guest(code64!("std", "rep outsb", "hlt"), 4);
    guest.vcpu.set_regs(&kvm_regs {
        rsi: layout::DATA + 3,
        ..guest.vcpu.regs()
    });
    expect::eq("output", collect_output(&guest, 1), b"dcba".to_vec());
    expect::eq("RSI", guest.vcpu.regs().rsi, layout::DATA - 1);
    let guest = string_guest(code64!("std", "rep insb", "hlt"), 4);
    guest.vcpu.set_regs(&kvm_regs {
        rdi: layout::DATA + 0x103,
        ..guest.vcpu.regs()
    });
    give_input(&guest, 1, &mut (1..=4));
    expect::eq(
        "input",
        guest.memory.read::<u32>(layout::DATA as usize + 0x100),
        0x0102_0304,
    );
}

fn repeat_across_pages() {
    let guest = string_guest(code64!("rep outsw", "hlt"), 8);
    let start = layout::DATA + PAGE as u64 - 7;
    guest.load(start, b"0123456789abcdef");
    guest.vcpu.set_regs(&kvm_regs {
        rsi: start,
        ..guest.vcpu.regs()
    });
    expect::eq(
        "output",
        collect_output(&guest, 2),
        b"0123456789abcdef".to_vec(),
    );
    let guest = string_guest(code64!("rep insd", "hlt"), 4);
    guest.vcpu.set_regs(&kvm_regs {
        rdi: start,
        ..guest.vcpu.regs()
    });
    give_input(&guest, 4, &mut (1..=16));
    let got: [u8; 16] = guest.memory.read(start as usize);
    expect::eq("input", got, std::array::from_fn(|i| i as u8 + 1));
}

fn repeat_more_than_a_page() {
    let count = PAGE + 500;
    let data: Vec<u8> = (0..count).map(|i| (i * 7) as u8).collect();
    let guest = string_guest(code64!("rep outsb", "hlt"), count as u64);
    guest.load(layout::DATA, &data);
    expect::that("the output is the data", collect_output(&guest, 1) == data);
    let guest = string_guest(code64!("rep insb", "hlt"), count as u64);
    give_input(&guest, 1, &mut data.iter().copied());
    let got = guest
        .memory
        .read_bytes(layout::DATA as usize + 0x100, count);
    expect::that("the memory is the input", got == data);
}

fn real_mode() {
    let guest = Guest::real(code16!(
        "mov dx, 0x30",
        "mov si, 0x100",
        "mov cx, 3",
        "rep outsb",
        "in ax, 0x31",
        "out 0x32, eax",
        "hlt"
    ));
    guest.load(0x100, b"xyz");
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0x1111_0000,
        ..guest.vcpu.regs()
    });
    let mut got = Vec::new();
    while got.len() < 3 {
        match guest.vcpu.run() {
            Ok(Exit::Out {
                port: 0x30,
                size: 1,
                data,
            }) => got.extend(data),
            other => expect::eq("KVM_RUN", other, Ok(out(0x30, 1, b"xyz"))),
        }
    }
    expect::eq("output", got, b"xyz".to_vec());
    guest.vcpu.expect_exit(Exit::In {
        port: 0x31,
        size: 2,
        count: 1,
    });
    guest.vcpu.answer_io(&[0x22, 0x33]);
    guest
        .vcpu
        .expect_exit(out(0x32, 4, &[0x22, 0x33, 0x11, 0x11]));
    guest.run_to_halt();
}

fn protected_mode() {
    let code = code32!(
        "mov edx, 0x3f8",
        "mov al, 0x41",
        "out dx, al",
        "in al, dx",
        "hlt"
    );
    let guest = Guest::protected(code);
    guest.vcpu.expect_exit(out(0x3f8, 1, b"A"));
    guest.vcpu.expect_exit(Exit::In {
        port: 0x3f8,
        size: 1,
        count: 1,
    });
    guest.vcpu.answer_io(b"B");
    guest.run_to_halt();
    expect::eq("AL", guest.vcpu.regs().rax as u8, b'B');
}

/// KVM_GET_REGS while an IN waits for its data shows the register as it was before.
fn state_at_exit() {
    let guest = Guest::long(code64!("mov eax, 0x55", "in al, 0x10", "hlt"));
    guest.vcpu.expect_exit(Exit::In {
        port: 0x10,
        size: 1,
        count: 1,
    });
    expect::eq("RAX", guest.vcpu.regs().rax, 0x55);
    guest.vcpu.answer_io(&[0x66]);
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 0x66);
    expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE + 8);
}

/// A VMM may set other registers at an output exit; the guest goes on where the VMM says.
fn set_regs_at_exit() {
    let guest = Guest::long(code64!("out 0x10, al", "ud2"));
    guest.load(layout::CODE2, code64!("lea rbx, [rbx + 1]", "hlt"));
    guest.vcpu.expect_exit(out(0x10, 1, &[0]));
    let regs = guest.vcpu.regs();
    // Let the instruction be completed before its registers are replaced (api.rst 4.10).
    guest.vcpu.set_immediate_exit(true);
    expect::errno("KVM_RUN", guest.vcpu.run(), libc::EINTR);
    guest.vcpu.set_immediate_exit(false);
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE2,
        rbx: 5,
        ..regs
    });
    guest.run_to_halt();
    expect::eq("RBX", guest.vcpu.regs().rbx, 6);
}

fn data_offset() {
    let guest = Guest::long(code64!("out 0x10, al", "hlt"));
    guest.vcpu.expect_exit(out(0x10, 1, &[0]));
    let offset = guest.vcpu.io_data();
    let size = guest.vcpu.run_page().len();
    expect::that(
        "the data lie behind kvm_run",
        offset >= size_of::<kvm_bindings::kvm_run>(),
    );
    expect::that("the data lie within the mapping", offset + PAGE <= size);
}

fn ring3_needs_iopl() {
    let enter = code64!("push rax", "push rbx", "push rcx", "push rdx", "push rsi", "iretq");
    for (rflags, allowed) in [(2, false), (2 | (3 << 12), true)] {
        let guest = Guest::long(enter);
        guest.load(layout::CODE2, code64!("out 0x10, al", "hlt"));
        guest.vcpu.set_regs(&kvm_regs {
            rax: crate::guest::selector::USER_DATA.into(),
            rbx: layout::USER_STACK,
            rcx: rflags,
            rdx: crate::guest::selector::USER_CODE64.into(),
            rsi: layout::CODE2,
            ..guest.vcpu.regs()
        });
        if allowed {
            guest
                .vcpu
                .expect_exit(out(0x10, 1, &[crate::guest::selector::USER_DATA as u8]));
        } else {
            let trap = guest.run_to_trap();
            expect::eq("#GP at OUT", (trap.vector, trap.rip), (13, layout::CODE2));
        }
    }
}
