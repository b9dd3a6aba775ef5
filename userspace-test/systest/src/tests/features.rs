// SPDX-License-Identifier: GPL-2.0
//! What CPUID promises works in the guest; what a VMM takes out of it is gone.

use kvm_bindings::*;

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{bits, layout, Guest};
use crate::harness::skip;
use crate::request::*;
use crate::vm::Kvm;

tests! {
    "features":
    no_more_than_the_host_has, instructions, rdtscp, invpcid, fsgsbase, smep, smap, umip, pcid,
    no_execute, one_gib_pages, xsave_sizes, rdtscp_hidden, invpcid_hidden, cr4_bits_hidden,
    no_execute_hidden, topology_of_vcpus,
}

/// A register of a CPUID leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Ebx,
    Ecx,
    Edx,
}
use Register::{Ebx, Ecx, Edx};

/// A feature bit: leaf, register, bit.
type Feature = (u32, Register, u32);

const PCID: Feature = (1, Ecx, 17);
const FSGSBASE: Feature = (7, Ebx, 0);
const SMEP: Feature = (7, Ebx, 7);
const INVPCID: Feature = (7, Ebx, 10);
const SMAP: Feature = (7, Ebx, 20);
const UMIP: Feature = (7, Ecx, 2);
const NX: Feature = (0x8000_0001, Edx, 20);
const PAGE_1G: Feature = (0x8000_0001, Edx, 26);
const RDTSCP: Feature = (0x8000_0001, Edx, 27);

fn register(leaf: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Ebx => &mut leaf.ebx,
        Ecx => &mut leaf.ecx,
        Edx => &mut leaf.edx,
    }
}

fn supported((leaf, which, bit): Feature) -> bool {
    let mut cpuid = Kvm::open().supported_cpuid();
    cpuid
        .find(leaf, 0)
        .is_some_and(|leaf| *register(leaf, which) >> bit & 1 == 1)
}

/// Skips the test where KVM does not give guests the feature.
fn need(name: &str, feature: Feature) {
    if !supported(feature) {
        skip(&format!("guests here have no {name}"));
    }
}

/// A 64-bit guest without a feature.
#[track_caller]
fn without((leaf, which, bit): Feature, code: &[u8]) -> Guest {
    let guest = Guest::long(code);
    let mut cpuid = Kvm::open().supported_cpuid();
    if let Some(leaf) = cpuid.find(leaf, 0) {
        *register(leaf, which) &= !(1 << bit);
    }
    expect::ok("KVM_SET_CPUID2", guest.vcpu.set(SET_CPUID2, &cpuid));
    guest
}

#[track_caller]
fn set_cr4(guest: &Guest, on: u64) {
    let mut sregs = guest.vcpu.sregs();
    sregs.cr4 |= on;
    guest.vcpu.set_sregs(&sregs);
}

/// The flags of this machine as the kernel saw them at boot.
fn host_flags() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").expect("/proc/cpuinfo");
    let line = text
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    line.split_whitespace().map(str::to_string).collect()
}

/// A feature of the instruction set that the host lacks cannot be a guest's.
fn no_more_than_the_host_has() {
    let flags = host_flags();
    let features: [(&str, Feature); 16] = [
        ("pclmulqdq", (1, Ecx, 1)),
        ("ssse3", (1, Ecx, 9)),
        ("fma", (1, Ecx, 12)),
        ("sse4_1", (1, Ecx, 19)),
        ("sse4_2", (1, Ecx, 20)),
        ("popcnt", (1, Ecx, 23)),
        ("aes", (1, Ecx, 25)),
        ("xsave", (1, Ecx, 26)),
        ("avx", (1, Ecx, 28)),
        ("rdrand", (1, Ecx, 30)),
        ("bmi1", (7, Ebx, 3)),
        ("avx2", (7, Ebx, 5)),
        ("bmi2", (7, Ebx, 8)),
        ("avx512f", (7, Ebx, 16)),
        ("rdseed", (7, Ebx, 18)),
        ("rdtscp", RDTSCP),
    ];
    for (name, feature) in features {
        let host = flags.iter().any(|flag| flag == name);
        if supported(feature) {
            expect::that(
                &format!("the host has {name}, which guests are promised"),
                host,
            );
        }
    }
}

/// Instructions that need no more than their CPUID bit.
fn instructions() {
    let cases: [(&str, Feature, &[u8]); 9] = [
        ("SSE3", (1, Ecx, 0), code64!("addsubps xmm0, xmm1", "hlt")),
        ("SSSE3", (1, Ecx, 9), code64!("pabsb xmm0, xmm1", "hlt")),
        ("SSE4.2", (1, Ecx, 20), code64!("crc32 eax, bl", "hlt")),
        (
            "CMPXCHG16B",
            (1, Ecx, 13),
            code64!("cmpxchg16b [rsp - 64]", "hlt"),
        ),
        (
            "MOVBE",
            (1, Ecx, 22),
            code64!("movbe eax, [rsp - 8]", "hlt"),
        ),
        ("POPCNT", (1, Ecx, 23), code64!("popcnt eax, ebx", "hlt")),
        ("RDRAND", (1, Ecx, 30), code64!("rdrand eax", "hlt")),
        ("BMI1", (7, Ebx, 3), code64!("andn eax, ebx, ecx", "hlt")),
        ("AES", (1, Ecx, 25), code64!("aesenc xmm0, xmm1", "hlt")),
    ];
    for (name, feature, code) in cases {
        if !supported(feature) {
            continue;
        }
        let guest = Guest::long(code);
        guest.run_to_halt();
        let rip = guest.vcpu.regs().rip;
        expect::eq(
            &format!("RIP behind {name}"),
            rip,
            layout::CODE + code.len() as u64,
        );
    }
}

const TSC_AUX: u32 = 0xc000_0103;

fn rdtscp() {
    need("RDTSCP", RDTSCP);
    let guest = Guest::long(code64!(
        "rdtscp",
        "hlt",
        "mov ecx, 0xc0000103",
        "rdmsr",
        "hlt"
    ));
    expect::that("TSC_AUX", guest.vcpu.set_msr(TSC_AUX, 0x1234));
    guest.run_to_halt();
    expect::eq("ECX", guest.vcpu.regs().rcx, 0x1234);
    guest.run_to_halt();
    expect::eq("RDMSR", guest.vcpu.regs().rax, 0x1234);
}

fn rdtscp_hidden() {
    need("RDTSCP", RDTSCP);
    let guest = without(RDTSCP, code64!("rdtscp"));
    let trap = guest.run_to_trap();
    expect::eq("#UD", (trap.vector, trap.rip), (6, layout::CODE));
}

fn invpcid() {
    need("INVPCID", INVPCID);
    let guest = Guest::long(code64!("invpcid rax, [rbx]", "hlt"));
    let (rax, rbx) = (2, layout::DATA);
    guest.vcpu.set_regs(&kvm_regs {
        rax,
        rbx,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let guest = Guest::long(code64!("invpcid rax, [rbx]"));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 4,
        rbx,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq("#GP for type 4", (trap.vector, trap.error), (13, 0));
}

fn invpcid_hidden() {
    need("INVPCID", INVPCID);
    let guest = without(INVPCID, code64!("invpcid rax, [rbx]"));
    let (rax, rbx) = (2, layout::DATA);
    guest.vcpu.set_regs(&kvm_regs {
        rax,
        rbx,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq("#UD", (trap.vector, trap.rip), (6, layout::CODE));
}

fn fsgsbase() {
    need("FSGSBASE", FSGSBASE);
    let guest = Guest::long(code64!(
        "wrgsbase rax",
        "rdgsbase rbx",
        "rdfsbase rcx",
        "hlt"
    ));
    set_cr4(&guest, 1 << 16);
    guest.vcpu.set_regs(&kvm_regs {
        rax: 0x7000_1234,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("GS base", guest.vcpu.regs().rbx, 0x7000_1234);
    expect::eq(
        "GS base by KVM_GET_SREGS",
        guest.vcpu.sregs().gs.base,
        0x7000_1234,
    );
    let guest = Guest::long(code64!("rdgsbase rbx"));
    let trap = guest.run_to_trap();
    expect::eq("#UD without CR4.FSGSBASE", trap.vector, 6);
}

fn smep() {
    need("SMEP", SMEP);
    let guest = Guest::long(code64!("jmp rbx"));
    guest.load(layout::CODE2, code64!("hlt"));
    // All pages are user pages but the one of the code, the tables and the stack.
    supervisor_below_2_mib(&guest);
    guest.vcpu.set_regs(&kvm_regs {
        rbx: layout::EXTRA,
        ..guest.vcpu.regs()
    });
    set_cr4(&guest, 1 << 20);
    let trap = guest.run_to_trap();
    let got = (trap.vector, trap.rip, trap.cr2);
    expect::eq(
        "#PF at the user page",
        got,
        (14, layout::EXTRA, layout::EXTRA),
    );
}

/// Makes the large page that the guest lies in one of the supervisor's.
fn supervisor_below_2_mib(guest: &Guest) {
    guest.poke(layout::PD, guest.peek(layout::PD) & !4);
    // EXTRA shows the same memory for users.
    let entry = layout::PD + layout::EXTRA / (2 << 20) * 8;
    guest.poke(entry, bits::PTE | bits::PTE_PS);
}

fn smap() {
    need("SMAP", SMAP);
    let guest = Guest::long(code64!("stac", "mov rax, [rbx]", "clac", "mov rcx, [rbx]"));
    supervisor_below_2_mib(&guest);
    guest.poke(layout::DATA, 0x5a);
    let rbx = layout::EXTRA + layout::DATA;
    guest.vcpu.set_regs(&kvm_regs {
        rbx,
        ..guest.vcpu.regs()
    });
    set_cr4(&guest, 1 << 21);
    let trap = guest.run_to_trap();
    expect::eq(
        "#PF after CLAC",
        (trap.vector, trap.error, trap.cr2),
        (14, 1, rbx),
    );
}

fn umip() {
    need("UMIP", UMIP);
    let guest = Guest::long(code64!("sgdt [rsp - 64]"));
    let mut sregs = guest.vcpu.sregs();
    sregs.cr4 |= 1 << 11;
    (sregs.cs.selector, sregs.cs.dpl) = (crate::guest::selector::USER_CODE64, 3);
    (sregs.ss.selector, sregs.ss.dpl) = (crate::guest::selector::USER_DATA, 3);
    guest.vcpu.set_sregs(&sregs);
    let trap = guest.run_to_trap();
    expect::eq(
        "#GP at SGDT in ring 3",
        (trap.vector, trap.rip),
        (13, layout::CODE),
    );
}

fn pcid() {
    need("PCID", PCID);
    let guest = Guest::long(code64!(
        "mov rax, cr4",
        "or rax, 0x20000",
        "mov cr4, rax",
        "mov rax, cr3",
        "or rax, 5",
        "mov cr3, rax",
        "mov rbx, 0x8000000000000000",
        "or rax, rbx",
        "mov cr3, rax",
        "mov rcx, cr3",
        "hlt"
    ));
    guest.run_to_halt();
    expect::eq(
        "CR3 without bit 63",
        guest.vcpu.regs().rcx,
        layout::PML4 | 5,
    );
    expect::eq(
        "CR3 by KVM_GET_SREGS",
        guest.vcpu.sregs().cr3,
        layout::PML4 | 5,
    );
    // Setting PCIDE with a PCID in CR3 is not allowed (SDM vol. 3, 5.10.1).
    let guest = Guest::long(code64!(
        "mov rbx, cr3",
        "or rbx, 5",
        "mov cr3, rbx",
        "mov rax, cr4",
        "or rax, 0x20000",
        "mov cr4, rax"
    ));
    let trap = guest.run_to_trap();
    expect::eq("#GP", trap.vector, 13);
}

fn no_execute() {
    need("NX", NX);
    let guest = Guest::long(code64!("jmp rbx"));
    let entry = layout::PD + layout::EXTRA / (2 << 20) * 8;
    guest.poke(entry, 1 << 63 | bits::PTE | bits::PTE_PS);
    let mut sregs = guest.vcpu.sregs();
    sregs.efer |= bits::EFER_NX;
    guest.vcpu.set_sregs(&sregs);
    let rbx = layout::EXTRA + layout::CODE2;
    guest.vcpu.set_regs(&kvm_regs {
        rbx,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq("#PF", (trap.vector, trap.error, trap.cr2), (14, 0x11, rbx));
}

fn no_execute_hidden() {
    need("NX", NX);
    let guest = without(NX, code64!("rdmsr", "bts eax, 11", "wrmsr"));
    guest.vcpu.set_regs(&kvm_regs {
        rcx: 0xc000_0080,
        ..guest.vcpu.regs()
    });
    let trap = guest.run_to_trap();
    expect::eq(
        "#GP at WRMSR",
        (trap.vector, trap.rip),
        (13, layout::CODE + 6),
    );
}

fn one_gib_pages() {
    need("pages of 1 GiB", PAGE_1G);
    let guest = Guest::long(code64!("mov rax, [rbx]", "hlt"));
    guest.poke(layout::PDPT + 8 * 5, bits::PTE | bits::PTE_PS);
    guest.poke(layout::DATA, 0x16);
    let rbx = (5 << 30) + layout::DATA;
    guest.vcpu.set_regs(&kvm_regs {
        rbx,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 0x16);
}

/// Leaf 0xd tells the size of the save area for what XCR0 has (EBX) and could have (ECX).
fn xsave_sizes() {
    let mut cpuid = Kvm::open().supported_cpuid();
    let Some(leaf) = cpuid.find(0xd, 0) else {
        skip("guests here have no XSAVE")
    };
    let (components, most) = (leaf.eax, leaf.ecx);
    let avx: u64 = if components & 4 != 0 { 4 } else { 0 };
    let guest = Guest::long(code64!(
        "mov eax, 0x0d",
        "xor ecx, ecx",
        "cpuid",
        "mov r8, rbx",
        "xor ecx, ecx",
        "xor edx, edx",
        "mov rax, r9",
        "xsetbv",
        "mov eax, 0x0d",
        "cpuid",
        "hlt"
    ));
    set_cr4(&guest, bits::CR4_OSXSAVE);
    guest.vcpu.set_regs(&kvm_regs {
        r9: 3 | avx,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("size with x87 alone", regs.r8, 576);
    let want = if avx == 0 { 576 } else { 832 };
    expect::eq("size with all that was set", regs.rbx, want);
    expect::eq("size of all there is", regs.rcx, most.into());
}

/// CR4 bits of features that the VMM took out of CPUID are reserved.
fn cr4_bits_hidden() {
    for (name, feature, bit) in [
        ("SMEP", SMEP, 20),
        ("SMAP", SMAP, 21),
        ("FSGSBASE", FSGSBASE, 16),
        ("PCID", PCID, 17),
        ("OSXSAVE", (1, Ecx, 26), 18),
        ("UMIP", UMIP, 11),
    ] {
        let guest = without(feature, code64!("mov cr4, rax"));
        let rax = guest.vcpu.sregs().cr4 | 1 << bit;
        guest.vcpu.set_regs(&kvm_regs {
            rax,
            ..guest.vcpu.regs()
        });
        let trap = guest.run_to_trap();
        let what = format!("#GP at setting CR4.{name}");
        expect::eq(&what, (trap.vector, trap.rip), (13, layout::CODE));
        let mut sregs = guest.vcpu.sregs();
        sregs.cr4 |= 1 << bit;
        let got = guest.vcpu.set(SET_SREGS, &sregs);
        expect::errno(&format!("KVM_SET_SREGS with CR4.{name}"), got, libc::EINVAL);
    }
}

/// Each vCPU has CPUID of its own.
fn topology_of_vcpus() {
    let guest = Guest::long(code64!("mov eax, 1", "cpuid", "hlt"));
    let second = guest.vm.create_vcpu(1);
    for (vcpu, id) in [(&guest.vcpu, 0u32), (&second, 1)] {
        let mut cpuid = Kvm::open().supported_cpuid();
        let leaf = cpuid.find(1, 0).expect("leaf 1");
        leaf.ebx = leaf.ebx & 0x00ff_ffff | id << 24;
        expect::ok("KVM_SET_CPUID2", vcpu.set(SET_CPUID2, &cpuid));
        crate::guest::set_mode(vcpu, crate::guest::Mode::Long);
        vcpu.expect_exit(crate::vcpu::Exit::Hlt);
        expect::eq("APIC id", vcpu.regs().rbx >> 24, id.into());
    }
}
