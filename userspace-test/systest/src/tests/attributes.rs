// SPDX-License-Identifier: GPL-2.0
//! Registers one by one (api.rst 4.68, 4.69 and 4.83), attributes of the system (4.80 and 4.81),
//! devices (4.79), and the older KVM_SET_CPUID (4.20).

use kvm_bindings::*;
use libc::{E2BIG, EFAULT, EINVAL, ENODEV, ENXIO};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::Guest;
use crate::request::*;
use crate::vm::{Kvm, Vm};

tests! {
    "attributes":
    register, register_errors, register_list, xcr0_of_guests, system_attribute_errors, no_device,
    old_cpuid, old_cpuid_errors, block_interrupts,
}

const GET_ONE_REG: Request<kvm_one_reg> = write(0xab);
const SET_ONE_REG: Request<kvm_one_reg> = write(0xac);
const GET_REG_LIST: Request<[u64; 4]> = sized(3, 0xb0, 8);
const CREATE_DEVICE: Request<kvm_create_device> = read_write(0xe0);
const GET_DEVICE_ATTR: Request<kvm_device_attr> = write(0xe2);
const HAS_DEVICE_ATTR: Request<kvm_device_attr> = write(0xe3);
const SET_CPUID: Request<OldCpuid> = sized(1, 0x8a, 8);

const PAT: u64 = 0x277;
/// x86, 8 bytes, an MSR.
const MSR: u64 = 0x2030_0000_0000_0000 | 2 << 32;

fn register() {
    let guest = Guest::long(&[]);
    let mut value = 0x0007_0406_0007_0000u64;
    let pat = kvm_one_reg {
        id: MSR | PAT,
        addr: std::ptr::from_mut(&mut value) as u64,
    };
    expect::ok("KVM_SET_ONE_REG", guest.vcpu.set(SET_ONE_REG, &pat));
    expect::eq("PAT", guest.vcpu.msr(PAT as u32), Some(value));
    expect::that("set", guest.vcpu.set_msr(PAT as u32, 6));
    expect::ok("KVM_GET_ONE_REG", guest.vcpu.set(GET_ONE_REG, &pat));
    // SAFETY: `value` is alive; the kernel has written it.
    let got = unsafe { std::ptr::from_ref(&value).read_volatile() };
    expect::eq("value", got, 6);
}

fn register_errors() {
    let guest = Guest::long(&[]);
    let mut value = 0u64;
    let addr = std::ptr::from_mut(&mut value) as u64;
    for call in [GET_ONE_REG, SET_ONE_REG] {
        for id in [
            PAT,
            // Of another architecture.
            0x6030_0000_0000_0000 | 2 << 32 | PAT,
            // Of 4 bytes.
            0x2020_0000_0000_0000 | 2 << 32 | PAT,
            // Of no kind, and of one that is none.
            0x2030_0000_0000_0000 | PAT,
            0x2030_0000_0000_0000 | 4 << 32 | PAT,
            // Bits that mean nothing.
            MSR | 1 << 40 | PAT,
            MSR | 1 << 48 | PAT,
            // No such MSR.
            MSR | 0xdead_beef,
        ] {
            let register = kvm_one_reg { id, addr };
            let done = guest.vcpu.set(call, &register);
            expect::errno(&format!("register {id:x}"), done, EINVAL);
        }
        let nowhere = kvm_one_reg {
            id: MSR | PAT,
            addr: BAD_ADDRESS,
        };
        expect::errno("no memory", guest.vcpu.set(call, &nowhere), EFAULT);
        expect::errno("no memory", guest.vcpu.fault(call.number), EFAULT);
    }
    let bad = kvm_one_reg {
        id: MSR | PAT,
        addr,
    };
    value = 2;
    expect::errno("a bad PAT", guest.vcpu.set(SET_ONE_REG, &bad), EINVAL);
    expect::eq("it was read", value, 2);
}

/// What is not an MSR: the pointer of shadow stacks, where the guest has those.
fn register_list() {
    let guest = Guest::long(&[]);
    let mut list = [3u64, 0, 0, 0];
    let done = guest.vcpu.update(GET_REG_LIST, &mut list);
    expect::ok("KVM_GET_REG_LIST", done);
    expect::eq("registers", list[0], 0);
    expect::errno("no memory", guest.vcpu.fault(GET_REG_LIST.number), EFAULT);
}

fn attribute(addr: u64) -> kvm_device_attr {
    kvm_device_attr {
        addr,
        attr: KVM_X86_XCOMP_GUEST_SUPP.into(),
        ..kvm_device_attr::default()
    }
}

fn xcr0_of_guests() {
    let kvm = Kvm::open();
    expect::eq("capability", kvm.extension(KVM_CAP_SYS_ATTRIBUTES), 1);
    let has = kvm.set(HAS_DEVICE_ATTR, &attribute(0));
    expect::eq("KVM_HAS_DEVICE_ATTR", has, Ok(0));
    let mut value = 0u64;
    let place = std::ptr::from_mut(&mut value);
    let got = kvm.set(GET_DEVICE_ATTR, &attribute(place as u64));
    expect::ok("KVM_GET_DEVICE_ATTR", got);
    // SAFETY: `value` is alive; the kernel has written it.
    let value = unsafe { place.read_volatile() };
    let mut cpuid = kvm.supported_cpuid();
    let offered = cpuid.find(0xd, 0).map_or(0, |leaf| leaf.eax);
    expect::eq("XCR0", value, offered.into());
}

fn system_attribute_errors() {
    let kvm = Kvm::open();
    let known = attribute(BAD_ADDRESS);
    let other = kvm_device_attr { attr: 99, ..known };
    let group = kvm_device_attr { group: 1, ..known };
    for call in [HAS_DEVICE_ATTR, GET_DEVICE_ATTR] {
        expect::errno("another attribute", kvm.set(call, &other), ENXIO);
        expect::errno("another group", kvm.set(call, &group), ENXIO);
        expect::errno("no memory", kvm.fault(call.number), EFAULT);
    }
    let done = kvm.set(GET_DEVICE_ATTR, &known);
    expect::errno("no memory for it", done, EFAULT);
}

fn no_device() {
    let vm = Vm::new();
    for kind in [99, u32::MAX] {
        for flags in [0, KVM_CREATE_DEVICE_TEST] {
            let mut device = kvm_create_device {
                type_: kind,
                flags,
                ..kvm_create_device::default()
            };
            let done = vm.update(CREATE_DEVICE, &mut device);
            expect::errno("KVM_CREATE_DEVICE", done, ENODEV);
        }
    }
    expect::errno("no memory", vm.fault(CREATE_DEVICE.number), EFAULT);
}

/// `struct kvm_cpuid` with room for its entries.
#[repr(C)]
struct OldCpuid {
    nent: u32,
    padding: u32,
    entries: [kvm_cpuid_entry; 4],
}

fn old_cpuid() {
    let guest = Guest::long(code64!("mov eax, 0x40000005", "cpuid", "hlt"));
    let mut old = OldCpuid {
        nent: 2,
        padding: 0,
        entries: [kvm_cpuid_entry::default(); 4],
    };
    old.entries[0].function = 1;
    old.entries[0].edx = 1 << 6;
    old.entries[1] = kvm_cpuid_entry {
        function: 0x4000_0005,
        eax: 1,
        ebx: 2,
        ecx: 3,
        edx: 4,
        padding: 0,
    };
    expect::ok("KVM_SET_CPUID", guest.vcpu.set(SET_CPUID, &old));
    let mut now = Cpuid::with_room(16);
    let done = guest.vcpu.update(GET_CPUID2, &mut now);
    expect::ok("KVM_GET_CPUID2", done);
    expect::eq("entries", now.nent, 2);
    expect::eq("flags", now.entries[1].flags, 0);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq(
        "CPUID",
        [regs.rax, regs.rbx, regs.rcx, regs.rdx],
        [1, 2, 3, 4],
    );
}

fn old_cpuid_errors() {
    let guest = Guest::long(&[]);
    let many = OldCpuid {
        nent: 257,
        padding: 0,
        entries: [kvm_cpuid_entry::default(); 4],
    };
    expect::errno("too many", guest.vcpu.set(SET_CPUID, &many), E2BIG);
    expect::errno("no memory", guest.vcpu.fault(SET_CPUID.number), EFAULT);
}

/// With KVM_GUESTDBG_BLOCKIRQ an NMI waits.
fn block_interrupts() {
    let guest = Guest::long(code64!("nop", "hlt", "nop", "hlt"));
    let mut debug = kvm_guest_debug {
        control: KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ,
        ..kvm_guest_debug::default()
    };
    expect::ok(
        "KVM_SET_GUEST_DEBUG",
        guest.vcpu.set(SET_GUEST_DEBUG, &debug),
    );
    expect::ok("KVM_NMI", guest.vcpu.call(NMI, 0));
    guest.run_to_halt();
    expect::eq("it waits", guest.vcpu.events().nmi.pending, 1);
    debug.control = 0;
    expect::ok(
        "KVM_SET_GUEST_DEBUG",
        guest.vcpu.set(SET_GUEST_DEBUG, &debug),
    );
    expect::eq("it came", guest.run_to_trap().vector, 2);
}
