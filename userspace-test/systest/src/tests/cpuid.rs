// SPDX-License-Identifier: GPL-2.0
//! KVM_SET_CPUID2 and KVM_GET_CPUID2 (api.rst 4.20 and 4.48).

use libc::{E2BIG, EFAULT, EINVAL};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::Guest;
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::vm::{Kvm, Vm};

tests! {
    "cpuid":
    empty_at_first, round_trip, get_errors, set_errors, bad_address_width, after_run,
    replaced_before_run, offers_what_the_host_uses,
}

fn empty_at_first() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let mut cpuid = Cpuid::with_room(0);
    expect::ok("room for none", vcpu.update(GET_CPUID2, &mut cpuid));
    expect::eq("entries", cpuid.nent, 0);
    let mut cpuid = Cpuid::with_room(10);
    expect::ok("room for ten", vcpu.update(GET_CPUID2, &mut cpuid));
    expect::eq("entries", cpuid.nent, 0);
}

fn round_trip() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let set = Kvm::open().supported_cpuid();
    expect::ok("KVM_SET_CPUID2", vcpu.set(SET_CPUID2, &set));
    let mut got = Cpuid::with_room(256);
    expect::ok("KVM_GET_CPUID2", vcpu.update(GET_CPUID2, &mut got));
    expect::eq("entries", got.nent, set.nent);
    for (got, set) in got.as_slice().iter().zip(set.as_slice()) {
        let what = format!("leaf {:#x} index {}", set.function, set.index);
        expect::eq(&what, (got.function, got.index), (set.function, set.index));
        // What follows the guest's control registers is KVM's own: in leaf 1 OSXSAVE and MWAIT, in
        // leaf 7 OSPKE, in leaf 0xd the size of the save area.
        if ![1, 7, 0xd].contains(&set.function) {
            let value = |e: &kvm_bindings::kvm_cpuid_entry2| [e.eax, e.ebx, e.ecx, e.edx];
            expect::eq(&what, value(got), value(set));
        }
    }
    expect::ok(
        "no entries at all",
        vcpu.set(SET_CPUID2, &Cpuid::with_room(0)),
    );
    let mut none = Cpuid::with_room(0);
    expect::ok("KVM_GET_CPUID2", vcpu.update(GET_CPUID2, &mut none));
}

fn get_errors() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    vcpu.set_supported_cpuid();
    let needed = Kvm::open().supported_cpuid().nent;
    for room in [0, needed as usize - 1] {
        let got = vcpu.update(GET_CPUID2, &mut Cpuid::with_room(room));
        expect::errno(&format!("room for {room}"), got, E2BIG);
    }
    let exact = vcpu.update(GET_CPUID2, &mut Cpuid::with_room(needed as usize));
    expect::ok("exact room", exact);
    expect::errno("no memory", vcpu.fault(GET_CPUID2.number), EFAULT);
    let page = Mapping::guarded(PAGE);
    page.write(PAGE - 8, [256u32, 0]);
    let got = vcpu.at(GET_CPUID2.number, &page, PAGE - 8);
    expect::errno("no memory for entries", got, EFAULT);
}

fn set_errors() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let got = vcpu.set(SET_CPUID2, &Cpuid::with_room(257));
    expect::errno("257 entries", got, E2BIG);
    expect::ok("256 entries", vcpu.set(SET_CPUID2, &Cpuid::with_room(256)));
    expect::errno("no memory", vcpu.fault(SET_CPUID2.number), EFAULT);
    let page = Mapping::guarded(PAGE);
    page.write(PAGE - 8, [1u32, 0]);
    let got = vcpu.at(SET_CPUID2.number, &page, PAGE - 8);
    expect::errno("no memory for entries", got, EFAULT);
}

/// Virtual addresses have 48 or 57 bits.
fn bad_address_width() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    for (width, good) in [(48, true), (57, true), (0, true), (47, false), (64, false)] {
        let mut cpuid = Kvm::open().supported_cpuid();
        let leaf = cpuid.find(0x8000_0008, 0).expect("leaf 0x80000008");
        leaf.eax = leaf.eax & !0xff00 | (width << 8);
        let got = vcpu.set(SET_CPUID2, &cpuid);
        if good {
            expect::ok(&format!("{width} bits"), got);
        } else {
            expect::errno(&format!("{width} bits"), got, EINVAL);
        }
    }
}

/// Once the vCPU has run its CPUID is fixed; the same again is no change.
fn after_run() {
    let guest = Guest::long(code64!("hlt"));
    guest.run_to_halt();
    guest.vcpu.set_supported_cpuid();
    let mut cpuid = Kvm::open().supported_cpuid();
    cpuid.find(0x8000_0002, 0).expect("leaf 0x80000002").eax ^= 1;
    expect::errno("another value", guest.vcpu.set(SET_CPUID2, &cpuid), EINVAL);
    let mut cpuid = Kvm::open().supported_cpuid();
    cpuid.nent -= 1;
    expect::errno("an entry less", guest.vcpu.set(SET_CPUID2, &cpuid), EINVAL);
}

fn replaced_before_run() {
    let guest = Guest::long(code64!("mov eax, 0x80000002", "cpuid", "hlt"));
    for value in [1, 2, 3] {
        let mut cpuid = Kvm::open().supported_cpuid();
        cpuid.find(0x8000_0002, 0).expect("leaf 0x80000002").eax = value;
        expect::ok("KVM_SET_CPUID2", guest.vcpu.set(SET_CPUID2, &cpuid));
    }
    guest.run_to_halt();
    expect::eq("EAX", guest.vcpu.regs().rax, 3);
}

/// What the host's kernel does without, a guest is not offered: it may have been switched off for a
/// reason (IA32_MISC_ENABLE is one, for fast string operations).
fn offers_what_the_host_uses() {
    const LEAF_1: u32 = 1;
    const LEAF_7: u32 = 7;
    const EXTENDED_1: u32 = 0x8000_0001;
    let info = std::fs::read_to_string("/proc/cpuinfo").expect("/proc/cpuinfo");
    let flags = info.lines().find(|line| line.starts_with("flags"));
    let used: Vec<_> = flags.expect("flags").split_whitespace().collect();
    assert!(used.contains(&"cx8"), "no flags in /proc/cpuinfo");
    let mut cpuid = Kvm::open().supported_cpuid();
    // The leaf, the register (EBX, ECX or EDX), the bit, and the kernel's name for it.
    for (leaf, register, bit, name) in [
        (LEAF_1, 'd', 8, "cx8"),
        (LEAF_1, 'c', 17, "pcid"),
        (LEAF_1, 'c', 22, "movbe"),
        (LEAF_1, 'c', 28, "avx"),
        (LEAF_1, 'c', 30, "rdrand"),
        (LEAF_7, 'b', 0, "fsgsbase"),
        (LEAF_7, 'b', 5, "avx2"),
        (LEAF_7, 'b', 9, "erms"),
        (LEAF_7, 'b', 18, "rdseed"),
        (LEAF_7, 'b', 20, "smap"),
        (LEAF_7, 'd', 4, "fsrm"),
        (EXTENDED_1, 'c', 5, "abm"),
        (EXTENDED_1, 'd', 26, "pdpe1gb"),
        (EXTENDED_1, 'd', 27, "rdtscp"),
    ] {
        let words = cpuid.find(leaf, 0).expect("the leaf");
        let word = match register {
            'b' => words.ebx,
            'c' => words.ecx,
            _ => words.edx,
        };
        let offered = word & 1 << bit != 0;
        expect::eq(name, offered, used.contains(&name));
    }
}
