// SPDX-License-Identifier: GPL-2.0
//! System ioctls (api.rst 4.1 to 4.4, 4.5, 4.18, 4.46, 4.68, 4.88), and what an unknown one gets.

use std::os::fd::AsRawFd;

use kvm_bindings::*;
use libc::{E2BIG, EFAULT, EINVAL, ENOTTY};

use super::tests;
use crate::expect;
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::vm::{Kvm, Vm};

tests! {
    "system":
    api_version, create_vm, create_vm_bad_type, extensions, extensions_are_true,
    extension_on_vm, mmap_size, supported_cpuid, supported_cpuid_errors, emulated_cpuid,
    msr_index_list, msr_index_list_errors, msr_feature_list, msr_feature_list_errors,
    feature_msrs, feature_msrs_errors, unknown_on_system, unknown_on_vm, unknown_on_vcpu,
}

/// The most MSRs of one call plus one (`MAX_IO_MSRS` of KVM).
const MSRS_LIMIT: u32 = 256;
/// An MSR that no CPU has.
const NO_MSR: u32 = 0x4b_564d;
const IA32_VMX_BASIC: u32 = 0x480;

fn api_version() {
    let kvm = Kvm::open();
    expect::eq("version", kvm.call(GET_API_VERSION, 0), Ok(12));
    expect::errno("argument 1", kvm.call(GET_API_VERSION, 1), EINVAL);
}

fn create_vm() {
    let kvm = Kvm::open();
    let first = kvm.create_vm();
    let second = kvm.create_vm();
    expect::ne("descriptors", first.as_raw_fd(), second.as_raw_fd());
}

fn create_vm_bad_type() {
    let kvm = Kvm::open();
    let types = kvm.extension(KVM_CAP_VM_TYPES) as u32;
    for kind in [2, 31, 32, 33, 1 << 20, u64::MAX] {
        if kind > 31 || (types >> kind) & 1 == 0 {
            expect::errno(
                &format!("type {kind:#x}"),
                kvm.call(CREATE_VM, kind),
                EINVAL,
            );
        }
    }
}

/// Capabilities that stand for calls which every KVM of this kind has, and their least value.
const EXTENSIONS: &[(&str, u32, i32)] = &[
    ("HLT", KVM_CAP_HLT, 1),
    ("USER_MEMORY", KVM_CAP_USER_MEMORY, 1),
    ("SET_TSS_ADDR", KVM_CAP_SET_TSS_ADDR, 1),
    ("EXT_CPUID", KVM_CAP_EXT_CPUID, 1),
    ("NR_VCPUS", KVM_CAP_NR_VCPUS, 1),
    ("MAX_VCPUS", KVM_CAP_MAX_VCPUS, 16),
    ("MAX_VCPU_ID", KVM_CAP_MAX_VCPU_ID, 16),
    ("NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS, 32),
    ("MP_STATE", KVM_CAP_MP_STATE, 1),
    ("SYNC_MMU", KVM_CAP_SYNC_MMU, 1),
    (
        "DESTROY_MEMORY_REGION_WORKS",
        KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
        1,
    ),
    (
        "JOIN_MEMORY_REGIONS_WORKS",
        KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
        1,
    ),
    ("USER_NMI", KVM_CAP_USER_NMI, 1),
    ("SET_GUEST_DEBUG", KVM_CAP_SET_GUEST_DEBUG, 1),
    ("SET_IDENTITY_MAP_ADDR", KVM_CAP_SET_IDENTITY_MAP_ADDR, 1),
    ("VCPU_EVENTS", KVM_CAP_VCPU_EVENTS, 1),
    ("DEBUGREGS", KVM_CAP_DEBUGREGS, 1),
    ("XSAVE", KVM_CAP_XSAVE, 1),
    ("XSAVE2", KVM_CAP_XSAVE2, 4096),
    ("XCRS", KVM_CAP_XCRS, 1),
    ("GET_TSC_KHZ", KVM_CAP_GET_TSC_KHZ, 1),
    ("INTERNAL_ERROR_DATA", KVM_CAP_INTERNAL_ERROR_DATA, 1),
    ("CHECK_EXTENSION_VM", KVM_CAP_CHECK_EXTENSION_VM, 1),
    ("IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT, 1),
    ("GET_MSR_FEATURES", KVM_CAP_GET_MSR_FEATURES, 1),
    ("SREGS2", KVM_CAP_SREGS2, 1),
];

fn extensions() {
    let kvm = Kvm::open();
    for &(name, number, least) in EXTENSIONS {
        let value = kvm.extension(number);
        expect::that(
            &format!("KVM_CAP_{name} >= {least} (got {value})"),
            value >= least,
        );
    }
    let most = kvm.extension(KVM_CAP_MAX_VCPUS);
    expect::that(
        "NR_VCPUS <= MAX_VCPUS",
        kvm.extension(KVM_CAP_NR_VCPUS) <= most,
    );
    expect::that(
        "MAX_VCPUS <= MAX_VCPU_ID",
        most <= kvm.extension(KVM_CAP_MAX_VCPU_ID),
    );
    for unknown in [5, 9999, u64::MAX] {
        let value = kvm.call(CHECK_EXTENSION, unknown);
        expect::eq(&format!("capability {unknown}"), value, Ok(0));
    }
}

/// A capability that is there means a call that works; one that is not means a call that is
/// refused.
fn extensions_are_true() {
    const CREATE_IRQCHIP: u64 = 0xae60;
    const SET_NR_MMU_PAGES: u64 = 0xae44;
    const SET_BOOT_CPU_ID: u64 = 0xae78;
    let kvm = Kvm::open();
    for (name, capability, call, argument) in [
        ("IRQCHIP", KVM_CAP_IRQCHIP, CREATE_IRQCHIP, 0),
        (
            "MMU_SHADOW_CACHE_CONTROL",
            KVM_CAP_MMU_SHADOW_CACHE_CONTROL,
            SET_NR_MMU_PAGES,
            1024,
        ),
        (
            "SET_BOOT_CPU_ID",
            KVM_CAP_SET_BOOT_CPU_ID,
            SET_BOOT_CPU_ID,
            0,
        ),
    ] {
        let works = kvm.create_vm().call(call, argument).is_ok();
        expect::eq(
            &format!("KVM_CAP_{name} as its ioctl"),
            kvm.extension(capability) != 0,
            works,
        );
    }
    let vm = kvm.create_vm();
    let memory = Mapping::anonymous(PAGE);
    let mut slot = crate::vm::Slot::of(0, 0, &memory);
    slot.flags = KVM_MEM_READONLY;
    let works = vm.set_slot(slot).is_ok();
    let told = kvm.extension(KVM_CAP_READONLY_MEM) != 0;
    expect::eq("KVM_CAP_READONLY_MEM as KVM_MEM_READONLY", told, works);
}

fn extension_on_vm() {
    let kvm = Kvm::open();
    let vm = kvm.create_vm();
    for &(name, number, _) in EXTENSIONS {
        let here = vm.call(CHECK_EXTENSION, number.into());
        expect::eq(&format!("KVM_CAP_{name}"), here, Ok(kvm.extension(number)));
    }
    expect::eq("unknown capability", vm.call(CHECK_EXTENSION, 9999), Ok(0));
}

fn mmap_size() {
    let kvm = Kvm::open();
    let size = kvm.mmap_size();
    expect::that("whole pages", size % PAGE == 0);
    expect::that("room for kvm_run and I/O data", size >= 2 * PAGE);
    expect::errno("argument 1", kvm.call(GET_VCPU_MMAP_SIZE, 1), EINVAL);
}

fn supported_cpuid() {
    let mut cpuid = Kvm::open().supported_cpuid();
    let leaf = cpuid.find(0, 0).expect("leaf 0");
    let vendor = [leaf.ebx, leaf.edx, leaf.ecx]
        .map(u32::to_le_bytes)
        .concat();
    let vendor = String::from_utf8_lossy(&vendor);
    let host = std::fs::read_to_string("/proc/cpuinfo").expect("/proc/cpuinfo");
    expect::that(
        &format!("{vendor} is the host's vendor"),
        host.contains(&*vendor),
    );
    let leaf = cpuid.find(1, 0).expect("leaf 1");
    let needed =
        (1 << 0) | (1 << 3) | (1 << 5) | (1 << 6) | (1 << 15) | (1 << 24) | (1 << 25) | (1 << 26);
    expect::eq(
        "FPU PSE MSR PAE CMOV FXSR SSE SSE2",
        leaf.edx & needed,
        needed,
    );
    let leaf = *cpuid.find(0x8000_0001, 0).expect("leaf 0x80000001");
    expect::that(
        "long mode and NX",
        (leaf.edx >> 29) & 1 == 1 && (leaf.edx >> 20) & 1 == 1,
    );
    let leaf = *cpuid.find(0x8000_0008, 0).expect("leaf 0x80000008");
    expect::that(
        "physical address bits",
        (36..=52).contains(&(leaf.eax & 0xff)),
    );
    let mut seen: Vec<_> = cpuid
        .as_slice()
        .iter()
        .map(|e| (e.function, e.index))
        .collect();
    seen.sort_unstable();
    seen.dedup();
    expect::eq("leaves once each", seen.len(), cpuid.nent as usize);
    let mut large = Cpuid::with_room(CPUID_ROOM);
    expect::ok(
        "more room than KVM's limit",
        Kvm::open().update(GET_SUPPORTED_CPUID, &mut large),
    );
    expect::eq("entries", large.nent, cpuid.nent);
}

fn supported_cpuid_errors() {
    let kvm = Kvm::open();
    let needed = kvm.supported_cpuid().nent as usize;
    for room in [0, 1, needed - 1] {
        let mut cpuid = Cpuid::with_room(room);
        let got = kvm.update(GET_SUPPORTED_CPUID, &mut cpuid);
        expect::errno(&format!("room for {room}"), got, E2BIG);
    }
    let mut cpuid = Cpuid::with_room(needed);
    expect::ok("exact room", kvm.update(GET_SUPPORTED_CPUID, &mut cpuid));
    expect::errno("no memory", kvm.fault(GET_SUPPORTED_CPUID.number), EFAULT);
    let page = Mapping::guarded(PAGE);
    page.write(PAGE - 8, [256u32, 0]);
    let got = kvm.at(GET_SUPPORTED_CPUID.number, &page, PAGE - 8);
    expect::errno("no memory for entries", got, EFAULT);
}

fn emulated_cpuid() {
    let kvm = Kvm::open();
    if kvm.extension(KVM_CAP_EXT_EMUL_CPUID) == 0 {
        let got = kvm.update(GET_EMULATED_CPUID, &mut Cpuid::with_room(256));
        expect::errno("without KVM_CAP_EXT_EMUL_CPUID", got, EINVAL);
        return;
    }
    let mut cpuid = Cpuid::with_room(256);
    expect::ok(
        "KVM_GET_EMULATED_CPUID",
        kvm.update(GET_EMULATED_CPUID, &mut cpuid),
    );
    let got = kvm.update(GET_EMULATED_CPUID, &mut Cpuid::with_room(0));
    expect::errno("no room", got, E2BIG);
}

fn list(request: Request<MsrList>) -> Box<MsrList> {
    let mut list = MsrList::with_room(MSR_ROOM);
    expect::ok("MSR list", Kvm::open().update(request, &mut list));
    expect::that("some MSRs", list.nmsrs > 0);
    list
}

fn msr_index_list() {
    let list = list(GET_MSR_INDEX_LIST);
    // SYSENTER_CS/ESP/EIP, STAR, LSTAR, SYSCALL_MASK, KERNEL_GS_BASE, TSC, PAT.
    for msr in [
        0x174,
        0x175,
        0x176,
        0xc000_0081,
        0xc000_0082,
        0xc000_0084,
        0xc000_0102,
        0x10,
        0x277,
    ] {
        expect::that(
            &format!("MSR {msr:#x} listed"),
            list.as_slice().contains(&msr),
        );
    }
}

fn list_errors(request: Request<MsrList>) {
    let kvm = Kvm::open();
    let count = list(request).nmsrs;
    for room in [0, count - 1] {
        let mut short = MsrList::with_room(room as usize);
        expect::errno(
            &format!("room for {room}"),
            kvm.update(request, &mut short),
            E2BIG,
        );
        expect::eq("nmsrs after E2BIG", short.nmsrs, count);
        expect::eq("entries after E2BIG", short.indices[0], 0);
    }
    let mut exact = MsrList::with_room(count as usize);
    expect::ok("exact room", kvm.update(request, &mut exact));
    expect::errno("no memory", kvm.fault(request.number), EFAULT);
    let page = Mapping::guarded(PAGE);
    page.write(PAGE - 4, count);
    let got = kvm.at(request.number, &page, PAGE - 4);
    expect::errno("no memory for entries", got, EFAULT);
}

fn msr_index_list_errors() {
    list_errors(GET_MSR_INDEX_LIST);
}

fn msr_feature_list() {
    list(GET_MSR_FEATURE_INDEX_LIST);
}

fn msr_feature_list_errors() {
    list_errors(GET_MSR_FEATURE_INDEX_LIST);
}

fn feature_msrs() {
    let kvm = Kvm::open();
    let list = list(GET_MSR_FEATURE_INDEX_LIST);
    for &index in list.as_slice() {
        let mut msrs = Msrs::new(&[(index, 0)]);
        let got = kvm.update(GET_MSRS, &mut msrs);
        expect::eq(&format!("KVM_GET_MSRS of {index:#x}"), got, Ok(1));
    }
    let first = list.indices[0];
    let mut msrs = Msrs::new(&[(first, 0), (NO_MSR, 7), (first, 7)]);
    expect::eq(
        "stops at an unknown MSR",
        kvm.update(GET_MSRS, &mut msrs),
        Ok(1),
    );
    expect::eq("the one behind it", msrs.entries[2].data, 7);
    expect::eq("no MSRs", kvm.update(GET_MSRS, &mut Msrs::new(&[])), Ok(0));
    if list.as_slice().contains(&IA32_VMX_BASIC) {
        let mut msrs = Msrs::new(&[(IA32_VMX_BASIC, 0)]);
        expect::eq("IA32_VMX_BASIC", kvm.update(GET_MSRS, &mut msrs), Ok(1));
        expect::ne("VMX basic information", msrs.entries[0].data, 0);
    }
}

fn feature_msrs_errors() {
    let kvm = Kvm::open();
    let first = list(GET_MSR_FEATURE_INDEX_LIST).indices[0];
    let mut many = Msrs::new(&[(first, 0); MSRS_LIMIT as usize]);
    expect::errno("256 MSRs", kvm.update(GET_MSRS, &mut many), E2BIG);
    many.nmsrs = MSRS_LIMIT - 1;
    expect::eq("255 MSRs", kvm.update(GET_MSRS, &mut many), Ok(255));
    expect::errno("no memory", kvm.fault(GET_MSRS.number), EFAULT);
    let page = Mapping::guarded(PAGE);
    page.write(PAGE - 8, [1u32, 0]);
    let got = kvm.at(GET_MSRS.number, &page, PAGE - 8);
    expect::errno("no memory for entries", got, EFAULT);
}

/// KVM's type with a number that nothing has.
const UNKNOWN: u64 = 0xae3f;
/// Another type with a number that KVM has.
const FOREIGN: u64 = 0x7780;

fn unknown_on_system() {
    let kvm = Kvm::open();
    for number in [UNKNOWN, FOREIGN, CREATE_VCPU, RUN, NMI] {
        expect::errno(&format!("ioctl {number:#x}"), kvm.call(number, 0), EINVAL);
    }
}

fn unknown_on_vm() {
    let vm = Vm::new();
    for number in [UNKNOWN, FOREIGN, CREATE_VM, RUN, NMI, GET_API_VERSION] {
        expect::errno(&format!("ioctl {number:#x}"), vm.call(number, 0), ENOTTY);
    }
}

fn unknown_on_vcpu() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    for number in [UNKNOWN, FOREIGN, CREATE_VM, CREATE_VCPU, CHECK_EXTENSION] {
        expect::errno(&format!("ioctl {number:#x}"), vcpu.call(number, 0), EINVAL);
    }
}
