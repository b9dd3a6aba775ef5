// SPDX-License-Identifier: GPL-2.0
//! KVM_GET_MSRS and KVM_SET_MSRS (api.rst 4.18, 4.19), RDMSR and WRMSR in the guest, and the TSC
//! (api.rst 4.55, 4.56).

use std::fs;

use kvm_bindings::*;
use libc::{E2BIG, EFAULT, EINVAL};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, selector, Guest};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::vm::Kvm;

tests! {
    "msrs":
    all_listed_are_readable, round_trip, partial_counts, bad_values, errors, host_to_guest,
    guest_to_host, unknown_in_guest, unknown_ignored, hwcr, misc_enable, bad_values_in_guest, efer_in_guest, syscall, swapgs,
    sysenter_values, fs_and_gs_base, tsc_runs, tsc_as_set, tsc_written_by_guest, tsc_khz,
    tsc_khz_errors, host_keeps_its_own,
}

const TSC: u32 = 0x10;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// An MSR that no CPU has.
const NO_MSR: u32 = 0x4b_564d;
const NOT_CANONICAL: u64 = 0x8000_0000_0000_0000;

/// MSRs that hold what is written, with a value for each.
const PLAIN: &[(u32, u64)] = &[
    (SYSENTER_CS, 0x8),
    (SYSENTER_ESP, 0xffff_8000_0000_1000),
    (SYSENTER_EIP, 0xffff_8000_0000_2000),
    (PAT, 0x0007_0406_0007_0401),
    (STAR, 0x0023_0010_0000_0000),
    (LSTAR, 0xffff_8000_0000_3000),
    (CSTAR, 0xffff_8000_0000_4000),
    (FMASK, 0x4_7700),
    (FS_BASE, 0x7fff_0000_1000),
    (GS_BASE, 0xffff_8000_0000_5000),
    (KERNEL_GS_BASE, 0xffff_8000_0000_6000),
];

fn all_listed_are_readable() {
    let guest = Guest::long(&[]);
    let mut list = MsrList::with_room(MSR_ROOM);
    expect::ok(
        "MSR list",
        Kvm::open().update(GET_MSR_INDEX_LIST, &mut list),
    );
    for &index in list.as_slice() {
        expect::that(
            &format!("MSR {index:#x} is readable"),
            guest.vcpu.msr(index).is_some(),
        );
    }
}

fn round_trip() {
    let guest = Guest::long(&[]);
    let list = Msrs::new(PLAIN);
    let done = guest.vcpu.set(SET_MSRS, &list);
    expect::eq("KVM_SET_MSRS", done, Ok(PLAIN.len() as i32));
    let zeroed: Vec<_> = PLAIN.iter().map(|&(index, _)| (index, 0)).collect();
    let mut list = Msrs::new(&zeroed);
    let done = guest.vcpu.update(GET_MSRS, &mut list);
    expect::eq("KVM_GET_MSRS", done, Ok(PLAIN.len() as i32));
    for (&(index, want), got) in PLAIN.iter().zip(&list.entries) {
        expect::eq(&format!("MSR {index:#x}"), got.data, want);
    }
    expect::eq(
        "FS base by KVM_GET_SREGS",
        guest.vcpu.sregs().fs.base,
        0x7fff_0000_1000,
    );
}

/// Both calls stop at the first MSR that does not work and say how many did.
fn partial_counts() {
    let guest = Guest::long(&[]);
    let list = Msrs::new(&[(LSTAR, 0x1000), (NO_MSR, 1), (CSTAR, 0x2000)]);
    expect::eq("KVM_SET_MSRS", guest.vcpu.set(SET_MSRS, &list), Ok(1));
    expect::eq("the one before", guest.vcpu.msr(LSTAR), Some(0x1000));
    expect::eq("the one behind", guest.vcpu.msr(CSTAR), Some(0));
    let mut list = Msrs::new(&[(LSTAR, 0), (NO_MSR, 7), (LSTAR, 8)]);
    expect::eq(
        "KVM_GET_MSRS",
        guest.vcpu.update(GET_MSRS, &mut list),
        Ok(1),
    );
    expect::eq("the one before", list.entries[0].data, 0x1000);
    expect::eq("the one behind", list.entries[2].data, 8);
    let none = Msrs::new(&[]);
    expect::eq("no MSRs", guest.vcpu.set(SET_MSRS, &none), Ok(0));
    expect::eq("an unknown MSR", guest.vcpu.set_msr(NO_MSR, 0), false);
}

fn bad_values() {
    let guest = Guest::long(&[]);
    for (index, value) in [
        (LSTAR, NOT_CANONICAL),
        (CSTAR, NOT_CANONICAL),
        (KERNEL_GS_BASE, NOT_CANONICAL),
        (FS_BASE, NOT_CANONICAL),
        (PAT, 0x0707_0707_0707_0702),
        (PAT, 8 << 56),
        (EFER, 1 << 1),
        (EFER, 1 << 63),
    ] {
        let before = guest.vcpu.msr(index);
        let what = format!("MSR {index:#x} takes {value:#x}");
        expect::eq(&what, guest.vcpu.set_msr(index, value), false);
        expect::eq(&format!("MSR {index:#x}"), guest.vcpu.msr(index), before);
    }
}

fn errors() {
    let guest = Guest::long(&[]);
    let mut many = Msrs::new(&[(LSTAR, 0); 256]);
    expect::errno(
        "get 256 MSRs",
        guest.vcpu.update(GET_MSRS, &mut many),
        E2BIG,
    );
    expect::errno("set 256 MSRs", guest.vcpu.set(SET_MSRS, &many), E2BIG);
    many.nmsrs = 255;
    expect::eq(
        "get 255 MSRs",
        guest.vcpu.update(GET_MSRS, &mut many),
        Ok(255),
    );
    expect::eq("set 255 MSRs", guest.vcpu.set(SET_MSRS, &many), Ok(255));
    for number in [GET_MSRS.number, SET_MSRS.number] {
        expect::errno("no memory", guest.vcpu.fault(number), EFAULT);
        let page = Mapping::guarded(PAGE);
        page.write(PAGE - 8, [1u32, 0]);
        let got = guest.vcpu.at(number, &page, PAGE - 8);
        expect::errno("no memory for entries", got, EFAULT);
    }
}

/// Runs RDMSR in the guest.
#[track_caller]
fn guest_rdmsr(guest: &Guest, index: u32) -> u64 {
    guest.load(layout::CODE, code64!("rdmsr", "hlt"));
    let (rip, rcx) = (layout::CODE, index.into());
    guest.vcpu.set_regs(&kvm_regs {
        rip,
        rcx,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq(
        &format!("RIP behind RDMSR of {index:#x}"),
        regs.rip,
        layout::CODE + 3,
    );
    (regs.rdx << 32) | regs.rax
}

/// Points the guest at WRMSR.
fn prepare_wrmsr(guest: &Guest, index: u32, value: u64) {
    guest.load(layout::CODE, code64!("wrmsr", "hlt"));
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        rcx: index.into(),
        rax: value & 0xffff_ffff,
        rdx: value >> 32,
        rsp: layout::STACK,
        ..guest.vcpu.regs()
    });
}

fn host_to_guest() {
    let guest = Guest::long(&[]);
    for &(index, value) in PLAIN {
        expect::that(&format!("set {index:#x}"), guest.vcpu.set_msr(index, value));
    }
    for &(index, value) in PLAIN {
        expect::eq(
            &format!("RDMSR of {index:#x}"),
            guest_rdmsr(&guest, index),
            value,
        );
    }
}

fn guest_to_host() {
    let guest = Guest::long(&[]);
    for &(index, value) in PLAIN {
        prepare_wrmsr(&guest, index, value);
        guest.run_to_halt();
        let rip = guest.vcpu.regs().rip;
        expect::eq(
            &format!("RIP behind WRMSR of {index:#x}"),
            rip,
            layout::CODE + 3,
        );
    }
    for &(index, value) in PLAIN {
        expect::eq(
            &format!("MSR {index:#x}"),
            guest.vcpu.msr(index),
            Some(value),
        );
        expect::eq(
            &format!("RDMSR of {index:#x}"),
            guest_rdmsr(&guest, index),
            value,
        );
    }
}

fn unknown_in_guest() {
    for code in [code64!("rdmsr"), code64!("wrmsr")] {
        let guest = Guest::long(code);
        guest.vcpu.set_regs(&kvm_regs {
            rcx: NO_MSR.into(),
            ..guest.vcpu.regs()
        });
        let trap = guest.run_to_trap();
        expect::eq(
            "#GP(0) at it",
            (trap.vector, trap.error, trap.rip),
            (13, 0, layout::CODE),
        );
    }
}

/// Sets a parameter of the module until this is dropped.
struct Parameter {
    path: &'static str,
    old: String,
}

impl Parameter {
    fn set(path: &'static str, value: &str) -> Self {
        let old = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path, old }
    }
}

impl Drop for Parameter {
    fn drop(&mut self) {
        if let Err(error) = fs::write(self.path, &self.old) {
            eprintln!("{}: {error}", self.path);
        }
    }
}

fn unknown_ignored() {
    let guest = Guest::long(&[]);
    expect::eq("before", guest.vcpu.msr(NO_MSR), None);
    {
        let _ignore = Parameter::set("/sys/module/kvm/parameters/ignore_msrs", "Y");
        expect::eq("RDMSR", guest_rdmsr(&guest, NO_MSR), 0);
        prepare_wrmsr(&guest, NO_MSR, 5);
        guest.run_to_halt();
        expect::eq("KVM_GET_MSRS", guest.vcpu.msr(NO_MSR), Some(0));
        // What is known keeps its rules.
        prepare_wrmsr(&guest, LSTAR, NOT_CANONICAL);
        expect::eq("#GP", guest.run_to_trap().vector, 13);
    }
    expect::eq("after", guest.vcpu.msr(NO_MSR), None);
}

fn hwcr() {
    const HWCR: u32 = 0xc001_0015;
    let guest = Guest::long(&[]);
    for bit in 0..64 {
        let done = guest.vcpu.set(SET_MSRS, &Msrs::new(&[(HWCR, 1 << bit)]));
        let (count, kept) = match bit {
            3 | 6 | 8 => (1, 0),
            18 | 24 => (1, 1 << bit),
            _ => (0, 0),
        };
        expect::eq(&format!("bit {bit}"), done, Ok(count));
        expect::eq(&format!("kept, {bit}"), guest.vcpu.msr(HWCR), Some(kept));
        guest.vcpu.set_msr(HWCR, 0);
    }
}

fn misc_enable() {
    const MISC_ENABLE: u32 = 0x1a0;
    const EMON: u64 = 1 << 7;
    const NO_BTS_NO_PEBS: u64 = 1 << 11 | 1 << 12;
    let guest = Guest::long(&[]);
    expect::eq("reset", guest.vcpu.msr(MISC_ENABLE), Some(NO_BTS_NO_PEBS));
    prepare_wrmsr(&guest, MISC_ENABLE, NO_BTS_NO_PEBS | EMON | 1);
    guest.run_to_halt();
    let after = guest.vcpu.msr(MISC_ENABLE);
    expect::eq("EMON stays", after, Some(NO_BTS_NO_PEBS | 1));
    prepare_wrmsr(&guest, MISC_ENABLE, 1);
    expect::eq("read-only bits", guest.run_to_trap().vector, 13);
}

fn bad_values_in_guest() {
    for (index, value) in [
        (LSTAR, NOT_CANONICAL),
        (KERNEL_GS_BASE, NOT_CANONICAL),
        (GS_BASE, NOT_CANONICAL),
        (SYSENTER_ESP, NOT_CANONICAL),
        (PAT, 2),
        (EFER, 1 << 1),
        (EFER, bits::EFER_LMA | bits::EFER_SCE),
    ] {
        let guest = Guest::long(&[]);
        prepare_wrmsr(&guest, index, value);
        let trap = guest.run_to_trap();
        let what = format!("#GP at WRMSR of {value:#x} to {index:#x}");
        expect::eq(
            &what,
            (trap.vector, trap.error, trap.rip),
            (13, 0, layout::CODE),
        );
    }
}

fn efer_in_guest() {
    let guest = Guest::long(&[]);
    let efer = guest.vcpu.sregs().efer;
    expect::eq("EFER", guest_rdmsr(&guest, EFER), efer);
    prepare_wrmsr(&guest, EFER, efer | bits::EFER_NX);
    guest.run_to_halt();
    expect::eq(
        "EFER with NX",
        guest.vcpu.sregs().efer,
        efer | bits::EFER_NX,
    );
    expect::eq(
        "EFER by KVM_GET_MSRS",
        guest.vcpu.msr(EFER),
        Some(efer | bits::EFER_NX),
    );
    prepare_wrmsr(&guest, EFER, efer & !bits::EFER_SCE);
    guest.run_to_halt();
    guest.load(layout::CODE, code64!("syscall"));
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq(
        "#UD without EFER.SCE",
        (trap.vector, trap.rip),
        (6, layout::CODE),
    );
}

/// SYSCALL and SYSRET go where the guest's MSRs say.
fn syscall() {
    let guest = Guest::long(code64!(
        "push {data}",
        "push {stack}",
        "push 2",
        "push {code}",
        "lea rax, [rip + 2f]",
        "push rax",
        "iretq",
        "2: syscall",
        "mov rbx, 3",
        "syscall";
        data = const selector::USER_DATA, stack = const layout::USER_STACK,
        code = const selector::USER_CODE64
    ));
    guest.load(
        layout::CODE2,
        code64!("cmp rbx, 3", "je 2f", "mov rdx, cs", "sysretq", "2: hlt"),
    );
    let star = (u64::from(selector::CODE64) << 32) | ((u64::from(selector::USER_DATA) - 8) << 48);
    expect::that("STAR", guest.vcpu.set_msr(STAR, star));
    expect::that("LSTAR", guest.vcpu.set_msr(LSTAR, layout::CODE2));
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("CS in the handler", regs.rdx, selector::CODE64.into());
    expect::eq("RBX set between both calls", regs.rbx, 3);
    expect::eq("CPL", guest.vcpu.sregs().cs.dpl, 0);
}

fn swapgs() {
    let guest = Guest::long(code64!(
        "swapgs",
        "mov rax, gs:[0]",
        "swapgs",
        "mov rbx, gs:[0]",
        "hlt"
    ));
    expect::that("GS", guest.vcpu.set_msr(GS_BASE, layout::DATA));
    expect::that(
        "KERNEL_GS",
        guest.vcpu.set_msr(KERNEL_GS_BASE, layout::DATA + 0x100),
    );
    guest.poke(layout::DATA, 1);
    guest.poke(layout::DATA + 0x100, 2);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq(
        "loads by the other and the first base",
        (regs.rax, regs.rbx),
        (2, 1),
    );
    expect::eq(
        "KERNEL_GS",
        guest.vcpu.msr(KERNEL_GS_BASE),
        Some(layout::DATA + 0x100),
    );
}

fn sysenter_values() {
    let guest = Guest::long(code64!("sysenter"));
    guest.load(layout::CODE2, code64!("mov rax, rsp", "hlt"));
    expect::that(
        "CS",
        guest.vcpu.set_msr(SYSENTER_CS, selector::CODE64.into()),
    );
    expect::that("ESP", guest.vcpu.set_msr(SYSENTER_ESP, layout::USER_STACK));
    expect::that("EIP", guest.vcpu.set_msr(SYSENTER_EIP, layout::CODE2));
    guest.run_to_halt();
    expect::eq("RSP", guest.vcpu.regs().rax, layout::USER_STACK);
}

fn fs_and_gs_base() {
    let guest = Guest::long(&[]);
    prepare_wrmsr(&guest, FS_BASE, 0x1234_5678_9000);
    guest.run_to_halt();
    expect::eq(
        "FS by KVM_GET_SREGS",
        guest.vcpu.sregs().fs.base,
        0x1234_5678_9000,
    );
    let mut sregs = guest.vcpu.sregs();
    sregs.gs.base = 0xffff_8888_0000_0000;
    guest.vcpu.set_sregs(&sregs);
    expect::eq(
        "RDMSR of GS",
        guest_rdmsr(&guest, GS_BASE),
        0xffff_8888_0000_0000,
    );
}

/// Reads the TSC in the guest.
#[track_caller]
fn guest_rdtsc(guest: &Guest) -> u64 {
    guest.load(layout::CODE, code64!("rdtsc", "hlt"));
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    (regs.rdx << 32) | regs.rax
}

fn tsc_runs() {
    let guest = Guest::long(&[]);
    let mut last = 0;
    for _ in 0..20 {
        let by_instruction = guest_rdtsc(&guest);
        expect::that("RDTSC grows", by_instruction > last);
        let by_rdmsr = guest_rdmsr(&guest, TSC);
        expect::that("RDMSR of the TSC is later", by_rdmsr > by_instruction);
        last = guest.vcpu.msr(TSC).expect("the TSC's MSR");
        expect::that("KVM_GET_MSRS is later still", last > by_rdmsr);
    }
}

/// How far a clock may be ahead that was set a moment ago: a second's ticks.
fn one_second(guest: &Guest) -> u64 {
    let khz = guest.vcpu.call(GET_TSC_KHZ, 0);
    expect::ok("KVM_GET_TSC_KHZ", khz) as u64 * 1000
}

fn tsc_as_set() {
    let guest = Guest::long(&[]);
    let second = one_second(&guest);
    guest_rdtsc(&guest);
    for value in [1 << 50, 1 << 40] {
        expect::that("set", guest.vcpu.set_msr(TSC, value));
        let got = guest_rdtsc(&guest);
        expect::that(
            &format!("RDTSC soon after {value:#x} (got {got:#x})"),
            got >= value && got < value + 10 * second,
        );
    }
}

fn tsc_written_by_guest() {
    let guest = Guest::long(&[]);
    let second = one_second(&guest);
    let value = 1 << 45;
    prepare_wrmsr(&guest, TSC, value);
    guest.run_to_halt();
    let got = guest_rdtsc(&guest);
    expect::that(
        &format!("RDTSC soon after {value:#x} (got {got:#x})"),
        got >= value && got < value + 10 * second,
    );
}

fn tsc_khz() {
    let guest = Guest::long(&[]);
    let khz = expect::ok("KVM_GET_TSC_KHZ", guest.vcpu.call(GET_TSC_KHZ, 0));
    expect::that(&format!("a plausible rate (got {khz} kHz)"), khz > 1000);
    expect::eq(
        "set the same",
        guest.vcpu.call(SET_TSC_KHZ, khz as u64),
        Ok(0),
    );
    expect::eq("set the default", guest.vcpu.call(SET_TSC_KHZ, 0), Ok(0));
    expect::eq("as before", guest.vcpu.call(GET_TSC_KHZ, 0), Ok(khz));
}

fn tsc_khz_errors() {
    let guest = Guest::long(&[]);
    let beyond = if Kvm::open().extension(KVM_CAP_TSC_CONTROL) == 0 {
        1
    } else {
        u32::MAX
    };
    let got = guest.vcpu.call(SET_TSC_KHZ, beyond.into());
    expect::errno(&format!("{beyond} kHz"), got, EINVAL);
}

/// A guest's MSRs are not this process's.
fn host_keeps_its_own() {
    let guest = Guest::long(&[]);
    for &(index, value) in PLAIN {
        expect::that(&format!("set {index:#x}"), guest.vcpu.set_msr(index, value));
    }
    let before = crate::sys::segment_bases();
    for _ in 0..50 {
        guest_rdtsc(&guest);
        expect::eq(
            "FS and GS base of this thread",
            crate::sys::segment_bases(),
            before,
        );
    }
}
