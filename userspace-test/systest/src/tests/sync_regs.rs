// SPDX-License-Identifier: GPL-2.0
//! Registers that go in and out through `kvm_run` (api.rst 5, KVM_CAP_SYNC_REGS).

use std::mem::offset_of;

use kvm_bindings::*;
use libc::{EINTR, EINVAL};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, Guest};
use crate::sys::Errno;
use crate::vcpu::Vcpu;
use crate::vm::Kvm;

tests! {
    "sync_regs":
    sync_regs_capability, sync_regs_shown, sync_regs_taken, sync_regs_kept_unless_dirty,
    sync_regs_unknown, sync_regs_bad_sregs, sync_regs_bad_events, sync_regs_without_a_run,
}

const REGS: u64 = KVM_SYNC_X86_REGS as u64;
const SREGS: u64 = KVM_SYNC_X86_SREGS as u64;
const EVENTS: u64 = KVM_SYNC_X86_EVENTS as u64;
const ALL: u64 = REGS | SREGS | EVENTS;

const VALID: usize = offset_of!(kvm_run, kvm_valid_regs);
const DIRTY: usize = offset_of!(kvm_run, kvm_dirty_regs);
const SYNC: usize = offset_of!(kvm_run, s);
const SYNC_REGS: usize = SYNC + offset_of!(kvm_sync_regs, regs);
const SYNC_SREGS: usize = SYNC + offset_of!(kvm_sync_regs, sregs);
const SYNC_EVENTS: usize = SYNC + offset_of!(kvm_sync_regs, events);

/// A guest that counts in RBX at each halt.
fn counter() -> Guest {
    Guest::long(code64!("2: inc rbx", "hlt", "jmp 2b"))
}

fn ask(vcpu: &Vcpu, valid: u64, dirty: u64) {
    vcpu.run_page().write(VALID, valid);
    vcpu.run_page().write(DIRTY, dirty);
}

fn dirty(vcpu: &Vcpu) -> u64 {
    vcpu.run_page().read(DIRTY)
}

fn shown_regs(vcpu: &Vcpu) -> kvm_regs {
    vcpu.run_page().read(SYNC_REGS)
}

fn sync_regs_capability() {
    let fields = Kvm::open().extension(KVM_CAP_SYNC_REGS);
    expect::eq("KVM_CAP_SYNC_REGS", fields, ALL as i32);
}

fn sync_regs_shown() {
    let guest = counter();
    let vcpu = &guest.vcpu;
    guest.run_to_halt();
    expect::eq("nothing is shown unasked", shown_regs(vcpu).rip, 0);
    ask(vcpu, ALL, 0);
    guest.run_to_halt();
    expect::eq("registers", shown_regs(vcpu), vcpu.regs());
    expect::eq("RBX", shown_regs(vcpu).rbx, 2);
    let page = vcpu.run_page();
    expect::eq("sregs", page.read::<kvm_sregs>(SYNC_SREGS), vcpu.sregs());
    let events: kvm_vcpu_events = page.read(SYNC_EVENTS);
    expect::eq("events", events, vcpu.events());

    ask(vcpu, SREGS, 0);
    guest.run_to_halt();
    expect::eq("RBX is not asked for any more", shown_regs(vcpu).rbx, 2);
}

fn sync_regs_taken() {
    let guest = counter();
    let vcpu = &guest.vcpu;
    ask(vcpu, ALL, 0);
    guest.run_to_halt();

    let page = vcpu.run_page();
    let regs = kvm_regs {
        rbx: 0x1234,
        ..shown_regs(vcpu)
    };
    page.write(SYNC_REGS, regs);
    let mut sregs: kvm_sregs = page.read(SYNC_SREGS);
    sregs.cr2 = 0x5678;
    page.write(SYNC_SREGS, sregs);
    let mut events: kvm_vcpu_events = page.read(SYNC_EVENTS);
    events.flags = KVM_VCPUEVENT_VALID_SHADOW;
    events.nmi.masked = 1;
    page.write(SYNC_EVENTS, events);
    ask(vcpu, ALL, ALL);
    guest.run_to_halt();
    expect::eq("what is taken is not dirty any more", dirty(vcpu), 0);
    expect::eq("RBX", shown_regs(vcpu).rbx, 0x1235);
    expect::eq("CR2", vcpu.sregs().cr2, 0x5678);
    expect::eq("NMIs are masked", vcpu.events().nmi.masked, 1);
}

fn sync_regs_kept_unless_dirty() {
    let guest = counter();
    let vcpu = &guest.vcpu;
    ask(vcpu, REGS, 0);
    guest.run_to_halt();
    let regs = kvm_regs {
        rbx: 0x1234,
        ..shown_regs(vcpu)
    };
    vcpu.run_page().write(SYNC_REGS, regs);
    guest.run_to_halt();
    expect::eq("RBX", shown_regs(vcpu).rbx, 2);

    // They are taken where they are not wanted back, too.
    vcpu.run_page().write(SYNC_REGS, regs);
    ask(vcpu, 0, REGS);
    guest.run_to_halt();
    expect::eq("RBX as shown", shown_regs(vcpu).rbx, 0x1234);
    expect::eq("RBX", vcpu.regs().rbx, 0x1235);
}

fn sync_regs_unknown() {
    let guest = counter();
    let vcpu = &guest.vcpu;
    for (valid, dirty) in [
        (ALL + 1, 0),
        (0, ALL + 1),
        (1 << 63, 0),
        (0, 1 << 63),
        (ALL | 1 << 32, 0),
    ] {
        ask(vcpu, valid, dirty);
        expect::errno("KVM_RUN", vcpu.run(), EINVAL);
    }
    ask(vcpu, 0, 0);
    guest.run_to_halt();
    expect::eq("RBX", vcpu.regs().rbx, 1);
}

fn sync_regs_bad_sregs() {
    let guest = counter();
    let vcpu = &guest.vcpu;
    ask(vcpu, ALL, 0);
    guest.run_to_halt();
    let page = vcpu.run_page();
    let good: kvm_sregs = page.read(SYNC_SREGS);
    page.write(
        SYNC_SREGS,
        kvm_sregs {
            // Paging without protected mode.
            cr0: bits::CR0_PG,
            ..good
        },
    );
    page.write(
        SYNC_REGS,
        kvm_regs {
            rbx: 0x1234,
            ..shown_regs(vcpu)
        },
    );
    ask(vcpu, 0, ALL);
    expect::errno("KVM_RUN", vcpu.run(), EINVAL);
    expect::eq("what is left", dirty(vcpu), SREGS | EVENTS);
    expect::eq("RBX came before", vcpu.regs().rbx, 0x1234);
    expect::eq("CR0", vcpu.sregs().cr0, good.cr0);
}

fn sync_regs_bad_events() {
    let guest = counter();
    let vcpu = &guest.vcpu;
    ask(vcpu, ALL, 0);
    guest.run_to_halt();
    let page = vcpu.run_page();
    let mut events: kvm_vcpu_events = page.read(SYNC_EVENTS);
    events.exception.injected = 1;
    events.exception.nr = 32;
    page.write(SYNC_EVENTS, events);
    ask(vcpu, 0, EVENTS);
    expect::errno("KVM_RUN", vcpu.run(), EINVAL);
    expect::eq("what is left", dirty(vcpu), EVENTS);
}

/// `immediate_exit` ends KVM_RUN after the registers went in, and they come out all the same.
fn sync_regs_without_a_run() {
    let guest = counter();
    let vcpu = &guest.vcpu;
    ask(vcpu, REGS, 0);
    vcpu.set_immediate_exit(true);
    expect::eq("KVM_RUN", vcpu.run(), Err(Errno(EINTR)));
    expect::eq("RIP", shown_regs(vcpu).rip, layout::CODE);
    let regs = kvm_regs {
        rbx: 7,
        ..shown_regs(vcpu)
    };
    vcpu.run_page().write(SYNC_REGS, regs);
    ask(vcpu, REGS, REGS);
    expect::eq("KVM_RUN", vcpu.run(), Err(Errno(EINTR)));
    expect::eq("RBX", vcpu.regs().rbx, 7);
    vcpu.set_immediate_exit(false);
    guest.run_to_halt();
    expect::eq("RBX", shown_regs(vcpu).rbx, 8);
}
