// SPDX-License-Identifier: GPL-2.0
//! MSRs that the VMM keeps to itself (api.rst 4.97, KVM_X86_SET_MSR_FILTER) or serves itself
//! (api.rst 7.22, KVM_CAP_X86_USER_SPACE_MSR), and KVM_CAP_MSR_PLATFORM_INFO.

use kvm_bindings::*;
use libc::{EFAULT, EINVAL};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::Guest;
use crate::request::{write, KvmFd, Request};
use crate::sys::Errno;
use crate::vcpu::Exit;
use crate::vm::{Kvm, Vm};

tests! {
    "msr_filter":
    capabilities, filter_errors, exit_reason_errors, filtered_msr_faults, filtered_msr_exits,
    filter_lifts, filter_takes_passed_through_msrs, default_deny, first_range_decides,
    unknown_msr_exits, invalid_value_exits, x2apic_is_not_filtered, platform_info_hidden,
}

const SET_MSR_FILTER: Request<Filter> = write(0xc6);

const SYSENTER_CS: u32 = 0x174;
const POWER_CTL: u32 = 0x1fc;
const PAT: u32 = 0x277;
const FMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const PLATFORM_INFO: u32 = 0xce;
const UNKNOWN: u32 = 0xdead_beef;

const READ: u32 = KVM_MSR_FILTER_READ;
const WRITE: u32 = KVM_MSR_FILTER_WRITE;
const INVAL: u32 = KVM_MSR_EXIT_REASON_INVAL;
const NO_SUCH: u32 = KVM_MSR_EXIT_REASON_UNKNOWN;
const FILTER: u32 = KVM_MSR_EXIT_REASON_FILTER;

/// `struct kvm_msr_filter`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Filter {
    flags: u32,
    ranges: [Range; 16],
}

/// `struct kvm_msr_filter_range`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Range {
    flags: u32,
    count: u32,
    base: u32,
    bitmap: u64,
}

/// Bits that refuse, and bits that allow.
static REFUSE: [u64; 192] = [0; 192];
static ALLOW: [u64; 192] = [u64::MAX; 192];

fn range(flags: u32, base: u32, count: u32, bitmap: &'static [u64; 192]) -> Range {
    Range {
        flags,
        count,
        base,
        bitmap: bitmap.as_ptr() as u64,
    }
}

fn filter(flags: u32, ranges: &[Range]) -> Filter {
    let mut filter = Filter {
        flags,
        ..Filter::default()
    };
    filter.ranges[..ranges.len()].copy_from_slice(ranges);
    filter
}

fn set(vm: &Vm, filter: &Filter) -> Result<i32, Errno> {
    vm.set(SET_MSR_FILTER, filter)
}

/// Has a VM refuse some MSRs.
pub(super) fn refuse_some(vm: &Vm) -> Result<i32, Errno> {
    set(
        vm,
        &filter(0, &[range(READ | WRITE, SYSENTER_CS, 64, &REFUSE)]),
    )
}

/// A filter that refuses one MSR.
#[track_caller]
fn refuse(guest: &Guest, access: u32, msr: u32) {
    let refusal = filter(0, &[range(access, msr, 1, &REFUSE)]);
    expect::ok("KVM_X86_SET_MSR_FILTER", set(&guest.vm, &refusal));
}

#[track_caller]
fn exit_for(guest: &Guest, reasons: u32) {
    let done = guest.vm.enable(KVM_CAP_X86_USER_SPACE_MSR, reasons.into());
    expect::ok("KVM_CAP_X86_USER_SPACE_MSR", done);
}

/// A guest that reads, and one that writes, the MSR in RCX, then halts.
fn reader() -> Guest {
    Guest::long(code64!("2: rdmsr", "hlt", "jmp 2b"))
}

fn writer() -> Guest {
    Guest::long(code64!("2: wrmsr", "hlt", "jmp 2b"))
}

fn set_operands(guest: &Guest, msr: u32, value: u64) {
    let regs = kvm_regs {
        rcx: msr.into(),
        rax: value & 0xffff_ffff,
        rdx: value >> 32,
        ..guest.vcpu.regs()
    };
    guest.vcpu.set_regs(&regs);
}

/// What RDMSR has left.
fn value(guest: &Guest) -> u64 {
    let regs = guest.vcpu.regs();
    regs.rdx << 32 | regs.rax
}

#[track_caller]
fn expect_gp(guest: &Guest) {
    expect::eq("vector", guest.run_to_trap().vector, 13);
}

fn capabilities() {
    let kvm = Kvm::open();
    for cap in [
        KVM_CAP_X86_USER_SPACE_MSR,
        KVM_CAP_X86_MSR_FILTER,
        KVM_CAP_MSR_PLATFORM_INFO,
    ] {
        expect::eq("capability", kvm.extension(cap), 1);
    }
}

fn filter_errors() {
    let vm = Vm::new();
    let one = range(READ, PAT, 1, &ALLOW);
    expect::errno("a flag", set(&vm, &filter(2, &[one])), EINVAL);
    expect::errno("nothing allowed", set(&vm, &filter(1, &[])), EINVAL);
    for (what, bad) in [
        ("no access", Range { flags: 0, ..one }),
        ("another access", Range { flags: 4, ..one }),
        (
            "too many MSRs",
            Range {
                count: 0x600 * 8 + 1,
                ..one
            },
        ),
    ] {
        expect::errno(what, set(&vm, &filter(0, &[one, bad])), EINVAL);
    }
    let nowhere = Range { bitmap: 8, ..one };
    expect::errno("no bitmap", set(&vm, &filter(0, &[nowhere])), EFAULT);
    expect::errno("no memory", vm.fault(SET_MSR_FILTER.number), EFAULT);
    // A range of no MSRs is none, whatever else it says.
    let empty = Range {
        flags: 4,
        count: 0,
        base: 0,
        bitmap: 8,
    };
    expect::ok("an empty range", set(&vm, &filter(0, &[empty])));
    let most = Range {
        count: 0x600 * 8,
        ..one
    };
    expect::ok("as many as can be", set(&vm, &filter(1, &[most])));
}

fn exit_reason_errors() {
    let vm = Vm::new();
    for bit in 3..64 {
        let done = vm.enable(KVM_CAP_X86_USER_SPACE_MSR, 1 << bit);
        expect::errno("a reason that is none", done, EINVAL);
    }
    let done = vm.enable(KVM_CAP_X86_USER_SPACE_MSR, 7);
    expect::ok("all reasons", done);
}

fn filtered_msr_faults() {
    let guest = reader();
    refuse(&guest, READ, POWER_CTL);
    set_operands(&guest, POWER_CTL, 0);
    expect_gp(&guest);

    let guest = writer();
    refuse(&guest, READ, POWER_CTL);
    set_operands(&guest, POWER_CTL, 0x1234);
    guest.run_to_halt();
    expect::eq("value", guest.vcpu.msr(POWER_CTL), Some(0x1234));
    // The VMM's own accesses are not filtered.
    refuse(&guest, READ | WRITE, POWER_CTL);
    expect::that("the VMM sets it", guest.vcpu.set_msr(POWER_CTL, 1));
    expect::eq("value", guest.vcpu.msr(POWER_CTL), Some(1));
}

fn filtered_msr_exits() {
    let guest = reader();
    exit_for(&guest, FILTER);
    refuse(&guest, READ, FMASK);
    set_operands(&guest, FMASK, 0);
    let exit = Exit::Rdmsr {
        index: FMASK,
        reason: FILTER,
    };
    guest.vcpu.expect_exit(exit.clone());
    guest.vcpu.answer_msr(Some(0x1_2345_6789));
    guest.run_to_halt();
    expect::eq("value", value(&guest), 0x1_2345_6789);
    guest.vcpu.expect_exit(exit);
    guest.vcpu.answer_msr(None);
    expect_gp(&guest);

    let guest = writer();
    exit_for(&guest, FILTER);
    refuse(&guest, WRITE, FMASK);
    let before = guest.vcpu.msr(FMASK);
    set_operands(&guest, FMASK, 0x1_2345_6789);
    let exit = Exit::Wrmsr {
        index: FMASK,
        reason: FILTER,
        data: 0x1_2345_6789,
    };
    guest.vcpu.expect_exit(exit.clone());
    guest.vcpu.answer_msr(Some(0));
    guest.run_to_halt();
    expect::eq("it is the VMM's", guest.vcpu.msr(FMASK), before);
    guest.vcpu.expect_exit(exit);
    guest.vcpu.answer_msr(None);
    expect_gp(&guest);
}

fn filter_lifts() {
    let guest = reader();
    exit_for(&guest, FILTER);
    for _ in 0..3 {
        refuse(&guest, READ, PAT);
        set_operands(&guest, PAT, 0);
        guest.vcpu.expect_exit(Exit::Rdmsr {
            index: PAT,
            reason: FILTER,
        });
        guest.vcpu.answer_msr(Some(5));
        guest.run_to_halt();
        expect::eq("value", value(&guest), 5);

        expect::ok("no filter", set(&guest.vm, &filter(0, &[])));
        guest.run_to_halt();
        expect::eq("value", Some(value(&guest)), guest.vcpu.msr(PAT));
    }
}

/// MSRs that the processor serves without an exit, as long as nobody minds.
fn filter_takes_passed_through_msrs() {
    for msr in [SYSENTER_CS, PAT, FS_BASE, 0xc000_0101, 0xc000_0102] {
        let guest = reader();
        exit_for(&guest, FILTER);
        refuse(&guest, READ, msr);
        set_operands(&guest, msr, 0);
        guest.vcpu.expect_exit(Exit::Rdmsr {
            index: msr,
            reason: FILTER,
        });
        let guest = writer();
        exit_for(&guest, FILTER);
        refuse(&guest, WRITE, msr);
        set_operands(&guest, msr, 0x10);
        guest.vcpu.expect_exit(Exit::Wrmsr {
            index: msr,
            reason: FILTER,
            data: 0x10,
        });
    }
}

fn default_deny() {
    let guest = reader();
    exit_for(&guest, FILTER);
    let only_pat = filter(1, &[range(READ | WRITE, PAT, 1, &ALLOW)]);
    expect::ok("KVM_X86_SET_MSR_FILTER", set(&guest.vm, &only_pat));
    set_operands(&guest, PAT, 0);
    guest.run_to_halt();
    for msr in [FS_BASE, POWER_CTL, UNKNOWN] {
        set_operands(&guest, msr, 0);
        guest.vcpu.expect_exit(Exit::Rdmsr {
            index: msr,
            reason: FILTER,
        });
        guest.vcpu.answer_msr(Some(1));
        guest.run_to_halt();
    }
}

fn first_range_decides() {
    let guest = reader();
    exit_for(&guest, FILTER);
    let rules = [
        // About writes alone.
        range(WRITE, PAT, 1, &REFUSE),
        range(READ, PAT, 1, &ALLOW),
        range(READ, PAT - 1, 3, &REFUSE),
    ];
    expect::ok("KVM_X86_SET_MSR_FILTER", set(&guest.vm, &filter(0, &rules)));
    set_operands(&guest, PAT, 0);
    guest.run_to_halt();
    set_operands(&guest, PAT + 1, 0);
    guest.vcpu.expect_exit(Exit::Rdmsr {
        index: PAT + 1,
        reason: FILTER,
    });
}

fn unknown_msr_exits() {
    let guest = reader();
    set_operands(&guest, UNKNOWN, 0);
    exit_for(&guest, NO_SUCH);
    guest.vcpu.expect_exit(Exit::Rdmsr {
        index: UNKNOWN,
        reason: NO_SUCH,
    });
    guest.vcpu.answer_msr(Some(UNKNOWN.into()));
    guest.run_to_halt();
    expect::eq("value", value(&guest), UNKNOWN.into());
    exit_for(&guest, INVAL | FILTER);
    expect_gp(&guest);

    let guest = writer();
    set_operands(&guest, UNKNOWN, 5);
    exit_for(&guest, NO_SUCH);
    guest.vcpu.expect_exit(Exit::Wrmsr {
        index: UNKNOWN,
        reason: NO_SUCH,
        data: 5,
    });
    guest.vcpu.answer_msr(Some(0));
    guest.run_to_halt();
}

fn invalid_value_exits() {
    let guest = writer();
    // 2 is no memory type.
    set_operands(&guest, 0x2ff, 2);
    exit_for(&guest, NO_SUCH | FILTER);
    expect_gp(&guest);

    let guest = writer();
    set_operands(&guest, 0x2ff, 2);
    exit_for(&guest, INVAL);
    guest.vcpu.expect_exit(Exit::Wrmsr {
        index: 0x2ff,
        reason: INVAL,
        data: 2,
    });
    guest.vcpu.answer_msr(None);
    expect_gp(&guest);
}

fn x2apic_is_not_filtered() {
    let guest = reader();
    exit_for(&guest, FILTER | INVAL);
    refuse(&guest, READ, 0x808);
    set_operands(&guest, 0x808, 0);
    // There is no local APIC in the kernel to read it from.
    guest.vcpu.expect_exit(Exit::Rdmsr {
        index: 0x808,
        reason: INVAL,
    });
}

fn platform_info_hidden() {
    let guest = reader();
    set_operands(&guest, PLATFORM_INFO, 0);
    guest.run_to_halt();
    expect::eq("value", Some(value(&guest)), guest.vcpu.msr(PLATFORM_INFO));
    let done = guest.vm.enable(KVM_CAP_MSR_PLATFORM_INFO, 0);
    expect::ok("KVM_CAP_MSR_PLATFORM_INFO", done);
    expect_gp(&guest);
    expect::that("the VMM sees it", guest.vcpu.msr(PLATFORM_INFO).is_some());
}
