// SPDX-License-Identifier: GPL-2.0
//! Machine checks: KVM_X86_GET_MCE_CAP_SUPPORTED, KVM_X86_SETUP_MCE, KVM_X86_SET_MCE (api.rst 4.104 to
//! 4.106) and their MSRs.

use kvm_bindings::*;
use libc::{EFAULT, EINVAL};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{layout, Guest};
use crate::request::{self, KvmFd, Request};
use crate::vcpu::Exit;
use crate::vm::Kvm;

tests! {
    "mce":
    supported, set_up, set_up_errors, report_errors, banks_by_msr, reported_error_is_in_its_bank,
    exception, no_handler, shutdown, local_checks_need_feature_control,
}

const GET_MCE_CAP_SUPPORTED: Request<u64> = request::read(0x9d);
const SETUP_MCE: Request<u64> = request::write(0x9c);
const SET_MCE: Request<kvm_x86_mce> = request::write(0x9e);

const CTL_P: u64 = 1 << 8;
const CMCI_P: u64 = 1 << 10;
const LMCE_P: u64 = 1 << 27;
const BANKS: u64 = 10;

const FEATURE_CONTROL: u32 = 0x3a;
const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const MC0_CTL2: u32 = 0x280;
const MC0_CTL: u32 = 0x400;
const MCG_EXT_CTL: u32 = 0x4d0;

const VAL: u64 = 1 << 63;
const UC: u64 = 1 << 61;
const SIGNALED: u64 = 1 << 56;
const MCIP: u64 = 1 << 2;
const CR4_MCE: u64 = 1 << 6;
const MC_VECTOR: u8 = 18;

fn guest(code: &[u8]) -> Guest {
    let guest = Guest::long(code);
    guest.vcpu.set_supported_cpuid();
    let cap = BANKS | CTL_P | CMCI_P;
    expect::ok("KVM_X86_SETUP_MCE", guest.vcpu.set(SETUP_MCE, &cap));
    guest
}

/// Bank 3 says that a load from 1234H failed.
fn uncorrected() -> kvm_x86_mce {
    kvm_x86_mce {
        status: VAL | UC | SIGNALED,
        addr: 0x1234,
        misc: 0x86,
        mcg_status: MCIP,
        bank: 3,
        ..Default::default()
    }
}

fn enable(guest: &Guest) {
    let mut sregs = guest.vcpu.sregs();
    sregs.cr4 |= CR4_MCE;
    guest.vcpu.set_sregs(&sregs);
}

fn supported() {
    let mut cap = 0;
    expect::ok(
        "the capability",
        Kvm::open().update(GET_MCE_CAP_SUPPORTED, &mut cap),
    );
    expect::eq(
        "MCG_CTL_P, MCG_CMCI_P",
        cap & (CTL_P | CMCI_P),
        CTL_P | CMCI_P,
    );
    expect::eq("KVM_CAP_MCE", Kvm::open().extension(KVM_CAP_MCE), 32);
    let fault = Kvm::open().fault(GET_MCE_CAP_SUPPORTED.number);
    expect::errno("no memory", fault, EFAULT);
}

fn set_up() {
    let guest = guest(&[]);
    let cap = BANKS | CTL_P | CMCI_P;
    expect::eq("IA32_MCG_CAP", guest.vcpu.msr(MCG_CAP), Some(cap));
    expect::eq("IA32_MCG_CTL", guest.vcpu.msr(MCG_CTL), Some(!0));
    expect::eq("IA32_MC9_CTL", guest.vcpu.msr(MC0_CTL + 4 * 9), Some(!0));
    expect::eq("no tenth bank", guest.vcpu.msr(MC0_CTL + 4 * 10), None);
    expect::eq("IA32_MC9_CTL2", guest.vcpu.msr(MC0_CTL2 + 9), Some(0));
    expect::eq("no tenth bank", guest.vcpu.msr(MC0_CTL2 + 10), None);
}

fn set_up_errors() {
    let guest = Guest::long(&[]);
    for cap in [0, 33, 255, BANKS | 1 << 9, BANKS | 1 << 63] {
        let got = guest.vcpu.set(SETUP_MCE, &cap);
        expect::errno(&format!("IA32_MCG_CAP of {cap:#x}"), got, EINVAL);
    }
    expect::errno("no memory", guest.vcpu.fault(SETUP_MCE.number), EFAULT);
}

fn report_errors() {
    let guest = guest(&[]);
    for mce in [
        kvm_x86_mce {
            bank: BANKS as u8,
            ..uncorrected()
        },
        kvm_x86_mce {
            status: UC,
            ..uncorrected()
        },
    ] {
        expect::errno("no such report", guest.vcpu.set(SET_MCE, &mce), EINVAL);
    }
    expect::errno("no memory", guest.vcpu.fault(SET_MCE.number), EFAULT);
}

fn banks_by_msr() {
    let guest = guest(&[]);
    for (index, value, taken) in [
        (MCG_CTL, 0, true),
        (MCG_CTL, 5, false),
        (MC0_CTL, 0, true),
        (MC0_CTL, 5, false),
        (MC0_CTL + 1, 77, true),
        (MC0_CTL2, 1 << 30 | 1, true),
        (MC0_CTL2, 1 << 15, false),
        (MCG_STATUS, 3, true),
        (MCG_CAP, BANKS, false),
    ] {
        let what = format!("MSR {index:#x} takes {value:#x}");
        expect::eq(&what, guest.vcpu.set_msr(index, value), taken);
    }
    expect::eq("IA32_MC0_STATUS", guest.vcpu.msr(MC0_CTL + 1), Some(77));
}

fn reported_error_is_in_its_bank() {
    let guest = guest(&[]);
    let mce = kvm_x86_mce {
        status: VAL | 0x151,
        mcg_status: 0,
        ..uncorrected()
    };
    expect::ok("KVM_X86_SET_MCE", guest.vcpu.set(SET_MCE, &mce));
    let bank = MC0_CTL + 4 * 3;
    expect::eq(
        "IA32_MC3_STATUS",
        guest.vcpu.msr(bank + 1),
        Some(VAL | 0x151),
    );
    expect::eq("IA32_MC3_ADDR", guest.vcpu.msr(bank + 2), Some(0x1234));
    expect::eq("IA32_MC3_MISC", guest.vcpu.msr(bank + 3), Some(0x86));
}

fn exception() {
    let guest = guest(code64!("nop", "hlt"));
    enable(&guest);
    expect::ok("KVM_X86_SET_MCE", guest.vcpu.set(SET_MCE, &uncorrected()));
    let trap = guest.run_to_trap();
    expect::eq("vector", trap.vector, MC_VECTOR.into());
    expect::eq("IA32_MCG_STATUS", guest.vcpu.msr(MCG_STATUS), Some(MCIP));
}

/// A processor that has machine checks off shuts down, and records nothing.
fn no_handler() {
    let guest = guest(code64!("hlt"));
    expect::ok("KVM_X86_SET_MCE", guest.vcpu.set(SET_MCE, &uncorrected()));
    guest.vcpu.expect_exit(Exit::Shutdown);
    expect::eq("IA32_MC3_STATUS", guest.vcpu.msr(MC0_CTL + 13), Some(0));
}

fn shutdown() {
    let guest = guest(code64!("hlt"));
    enable(&guest);
    expect::that("a check is on", guest.vcpu.set_msr(MCG_STATUS, MCIP));
    expect::ok("KVM_X86_SET_MCE", guest.vcpu.set(SET_MCE, &uncorrected()));
    guest.vcpu.expect_exit(Exit::Shutdown);
}

fn local_checks_need_feature_control() {
    let guest = Guest::long(code64!("rdmsr", "hlt"));
    guest.vcpu.set_supported_cpuid();
    let cap = BANKS | LMCE_P;
    expect::ok("KVM_X86_SETUP_MCE", guest.vcpu.set(SETUP_MCE, &cap));
    expect::that("the VMM sets it", guest.vcpu.set_msr(MCG_EXT_CTL, 1));
    expect::eq("reserved bits", guest.vcpu.set_msr(MCG_EXT_CTL, 2), false);
    guest.vcpu.set_regs(&kvm_regs {
        rcx: MCG_EXT_CTL.into(),
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq(
        "the guest lacks it",
        (trap.vector, trap.rip),
        (13, layout::CODE),
    );

    expect::that("enabled", guest.vcpu.set_msr(FEATURE_CONTROL, 1 << 20 | 1));
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq(
        "the guest has it",
        (regs.rip, regs.rax),
        (layout::CODE + 3, 1),
    );
}
