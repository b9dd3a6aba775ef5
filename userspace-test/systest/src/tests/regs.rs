// SPDX-License-Identifier: GPL-2.0
//! General and special registers (api.rst 4.11 to 4.14, KVM_GET_SREGS2 and KVM_SET_SREGS2), the
//! state of a new vCPU, MP_STATE (api.rst 4.38, 4.39) and the debug registers (4.33, 4.34).

use kvm_bindings::*;
use libc::{EFAULT, EINVAL};

use super::tests;
use crate::expect;
use crate::guest::{bits, layout, Guest, Mode};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::{Kvm, Vm};
use crate::{code16, code32, code64};

tests! {
    "regs":
    regs_round_trip, regs_through_a_run, regs_errors, reset_state, run_from_reset,
    sregs_round_trip, sregs_through_a_run, sregs_bad_cr0, sregs_bad_cr4, sregs_bad_efer,
    sregs_bad_cr3, sregs_bad_cs, sregs_bad_apic_base, sregs_refused_changes_nothing,
    sregs_errors, sregs2_round_trip, sregs2_pdptrs, sregs2_errors, segments_in_use, cr2_in_use,
    mp_state, mp_state_errors, debugregs_round_trip, debugregs_errors,
}

/// Checks the address errors of an ioctl that fills in a structure of `size` bytes.
#[track_caller]
pub fn get_faults(vcpu: &Vcpu, number: u64) {
    expect::errno("get to no memory", vcpu.fault(number), EFAULT);
    let page = Mapping::guarded(PAGE);
    expect::errno(
        "get to half of it",
        vcpu.at(number, &page, PAGE - 4),
        EFAULT,
    );
}

/// Checks the address errors of an ioctl that reads a structure.
#[track_caller]
pub fn set_faults(vcpu: &Vcpu, number: u64) {
    expect::errno("set from no memory", vcpu.fault(number), EFAULT);
    let page = Mapping::guarded(PAGE);
    expect::errno(
        "set from half of it",
        vcpu.at(number, &page, PAGE - 4),
        EFAULT,
    );
}

fn numbered_regs() -> kvm_regs {
    let word = |i: u64| 0x1111_0000_2222_0000 + i;
    kvm_regs {
        rax: word(0),
        rbx: word(1),
        rcx: word(2),
        rdx: word(3),
        rsi: word(4),
        rdi: word(5),
        rsp: word(6),
        rbp: word(7),
        r8: word(8),
        r9: word(9),
        r10: word(10),
        r11: word(11),
        r12: word(12),
        r13: word(13),
        r14: word(14),
        r15: word(15),
        rip: layout::CODE,
        rflags: 0x202 | 0xd5,
    }
}

fn regs_round_trip() {
    let guest = Guest::long(&[]);
    let regs = numbered_regs();
    guest.vcpu.set_regs(&regs);
    expect::eq("registers", guest.vcpu.regs(), regs);
    guest.vcpu.set_regs(&kvm_regs { rflags: 0, ..regs });
    expect::eq("RFLAGS bit 1 is always set", guest.vcpu.regs().rflags, 2);
}

fn regs_through_a_run() {
    let code = code64!(
        "inc rax", "inc rbx", "inc rcx", "inc rdx", "inc rsi", "inc rdi", "inc rsp", "inc rbp",
        "inc r8", "inc r9", "inc r10", "inc r11", "inc r12", "inc r13", "inc r14", "inc r15",
        "stc", "hlt"
    );
    let guest = Guest::long(code);
    let mut want = numbered_regs();
    guest.vcpu.set_regs(&want);
    guest.run_to_halt();
    for field in [
        &mut want.rax,
        &mut want.rbx,
        &mut want.rcx,
        &mut want.rdx,
        &mut want.rsi,
        &mut want.rdi,
        &mut want.rsp,
        &mut want.rbp,
        &mut want.r8,
        &mut want.r9,
        &mut want.r10,
        &mut want.r11,
        &mut want.r12,
        &mut want.r13,
        &mut want.r14,
        &mut want.r15,
    ] {
        *field += 1;
    }
    let got = guest.vcpu.regs();
    want.rip += code.len() as u64;
    want.rflags = got.rflags;
    expect::eq("registers", got, want);
    // CF set, ZF, SF and OF clear after the last INC.
    expect::eq("flags", got.rflags & 0x8c1, 1);
}

fn regs_errors() {
    let guest = Guest::long(&[]);
    get_faults(&guest.vcpu, GET_REGS.number);
    let before = guest.vcpu.regs();
    set_faults(&guest.vcpu, SET_REGS.number);
    expect::eq("registers", guest.vcpu.regs(), before);
}

/// SDM vol. 3, table 11-1.
fn reset_state() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let (regs, sregs) = (vcpu.regs(), vcpu.sregs());
    expect::eq("RIP", regs.rip, 0xfff0);
    expect::eq("RFLAGS", regs.rflags, 2);
    expect::eq("RAX, RSP", (regs.rax, regs.rsp), (0, 0));
    expect::eq("CR0", sregs.cr0, 0x6000_0010);
    expect::eq(
        "CR2, CR3, CR4, CR8",
        [sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8],
        [0; 4],
    );
    expect::eq("EFER", sregs.efer, 0);
    expect::eq(
        "CS",
        (sregs.cs.selector, sregs.cs.base),
        (0xf000, 0xffff_0000),
    );
    for (name, segment) in [
        ("DS", sregs.ds),
        ("ES", sregs.es),
        ("SS", sregs.ss),
        ("FS", sregs.fs),
    ] {
        let got = (
            segment.selector,
            segment.base,
            segment.limit,
            segment.type_,
            segment.present,
        );
        expect::eq(name, got, (0, 0, 0xffff, 3, 1));
    }
    expect::eq("GDTR", (sregs.gdt.base, sregs.gdt.limit), (0, 0xffff));
    expect::eq("IDTR", (sregs.idt.base, sregs.idt.limit), (0, 0xffff));
    expect::eq(
        "TR",
        (sregs.tr.base, sregs.tr.limit, sregs.tr.type_),
        (0, 0xffff, 0xb),
    );
    let debug = expect::ok("KVM_GET_DEBUGREGS", vcpu.get(GET_DEBUGREGS));
    expect::eq("DR0..3", debug.db, [0; 4]);
    expect::eq("DR6, DR7", (debug.dr6, debug.dr7), (0xffff_0ff0, 0x400));
    let xcrs = expect::ok("KVM_GET_XCRS", vcpu.get(GET_XCRS));
    expect::eq(
        "XCR0",
        (xcrs.nr_xcrs, xcrs.xcrs[0].xcr, xcrs.xcrs[0].value),
        (1, 0, 1),
    );
    let other = vm.create_vcpu(1);
    expect::eq("another vCPU's RIP", other.regs().rip, 0xfff0);
}

/// A new vCPU runs from 0xfffffff0 without having been set up at all.
fn run_from_reset() {
    let vm = Vm::new();
    let (rom, low) = (Mapping::anonymous(PAGE), Mapping::anonymous(PAGE));
    vm.add_memory(0, 0xffff_f000, &rom);
    vm.add_memory(1, 0, &low);
    rom.write_bytes(
        0xff0,
        code16!(
            "mov ax, 0x55aa",
            "mov [0x500], ax",
            ".byte 0xea",
            ".word 0x600, 0"
        ),
    );
    low.write_bytes(0x600, code16!("inc ax", "hlt"));
    let vcpu = vm.create_vcpu(0);
    vcpu.expect_exit(Exit::Hlt);
    expect::eq("AX", vcpu.regs().rax, 0x55ab);
    expect::eq("memory", low.read::<u16>(0x500), 0x55aa);
    expect::eq("CS base after the far jump", vcpu.sregs().cs.base, 0);
}

fn sregs_round_trip() {
    for mode in [
        Mode::Real,
        Mode::Protected,
        Mode::Paging32,
        Mode::Pae,
        Mode::Long,
    ] {
        let guest = Guest::new(mode, &[]);
        let mut sregs = guest.vcpu.sregs();
        sregs.cr2 = 0xdead_b000;
        sregs.cr8 = 5;
        sregs.fs.base = if mode == Mode::Long {
            0x7fff_1234_5678
        } else {
            0x1234_5678
        };
        sregs.gs.selector = 0x10;
        sregs.ds.limit = if mode == Mode::Real { 0xffff } else { 0xf_ffff };
        sregs.gdt.limit = 0x77;
        sregs.idt.base = 0x9000;
        sregs.ldt = kvm_segment {
            unusable: 1,
            ..kvm_segment::default()
        };
        guest.vcpu.set_sregs(&sregs);
        let got = guest.vcpu.sregs();
        let what = |field: &str| format!("{mode:?} {field}");
        expect::eq(&what("control"), control(&got), control(&sregs));
        expect::eq(&what("CS"), got.cs, sregs.cs);
        expect::eq(&what("DS"), got.ds, sregs.ds);
        expect::eq(&what("FS"), got.fs, sregs.fs);
        expect::eq(&what("GS"), got.gs, sregs.gs);
        expect::eq(&what("SS"), got.ss, sregs.ss);
        expect::eq(&what("TR"), got.tr, sregs.tr);
        expect::eq(&what("LDTR unusable"), got.ldt.unusable, 1);
        expect::eq(
            &what("GDTR"),
            (got.gdt.base, got.gdt.limit),
            (sregs.gdt.base, 0x77),
        );
        expect::eq(
            &what("IDTR"),
            (got.idt.base, got.idt.limit),
            (0x9000, sregs.idt.limit),
        );
    }
}

fn control(s: &kvm_sregs) -> [u64; 7] {
    [s.cr0, s.cr2, s.cr3, s.cr4, s.cr8, s.efer, s.apic_base]
}

fn sregs_through_a_run() {
    let guest = Guest::long(code64!("hlt"));
    let mut before = guest.vcpu.sregs();
    before.cr2 = 0x1234_5000;
    before.fs.base = 0x1000_2000_3000;
    before.gs.base = 0x4000_5000;
    guest.vcpu.set_sregs(&before);
    guest.run_to_halt();
    let after = guest.vcpu.sregs();
    expect::eq("control registers", control(&after), control(&before));
    expect::eq("CS", after.cs, before.cs);
    expect::eq("FS", after.fs, before.fs);
    expect::eq("GS", after.gs, before.gs);
    expect::eq("TR", after.tr, before.tr);
    expect::eq("GDTR", after.gdt, before.gdt);
}

/// A guest in 64-bit mode refuses special registers changed so.
#[track_caller]
fn refused(what: &str, change: impl Fn(&mut kvm_sregs)) {
    let guest = Guest::long(&[]);
    let mut sregs = guest.vcpu.sregs();
    change(&mut sregs);
    expect::errno(what, guest.vcpu.set(SET_SREGS, &sregs), EINVAL);
}

fn sregs_bad_cr0() {
    refused("CR0 bit 32", |s| s.cr0 |= 1 << 32);
    refused("CR0 bit 63", |s| s.cr0 |= 1 << 63);
    refused("CR0.NW without CD", |s| s.cr0 |= bits::CR0_NW);
    refused("CR0.PG without PE", |s| s.cr0 &= !bits::CR0_PE);
}

fn sregs_bad_cr4() {
    for bit in [15, 31, 32, 63] {
        refused(&format!("CR4 bit {bit}"), |s| s.cr4 |= 1 << bit);
    }
    refused("64-bit mode without CR4.PAE", |s| s.cr4 &= !bits::CR4_PAE);
}

fn sregs_bad_efer() {
    for bit in [1, 7, 9, 16, 32, 63] {
        refused(&format!("EFER bit {bit}"), |s| s.efer |= 1 << bit);
    }
    refused("LME and CR0.PG without LMA", |s| s.efer &= !bits::EFER_LMA);
    refused("LMA without LME", |s| s.efer &= !bits::EFER_LME);
    refused("LMA without CR0.PG", |s| s.cr0 &= !bits::CR0_PG);
    let guest = Guest::long(&[]);
    let mut cpuid = Kvm::open().supported_cpuid();
    cpuid.find(0x8000_0001, 0).expect("leaf 0x80000001").edx &= !(1 << 29);
    expect::ok(
        "CPUID without long mode",
        guest.vcpu.set(SET_CPUID2, &cpuid),
    );
    let got = guest.vcpu.set(SET_SREGS, &guest.vcpu.sregs());
    expect::errno("long mode that CPUID denies", got, EINVAL);
}

fn sregs_bad_cr3() {
    refused("CR3 bit 63", |s| s.cr3 |= 1 << 63);
    let bits = Kvm::open()
        .supported_cpuid()
        .find(0x8000_0008, 0)
        .expect("leaf")
        .eax
        & 0xff;
    if bits < 52 {
        refused("CR3 beyond MAXPHYADDR", |s| s.cr3 |= 1 << bits);
    }
}

fn sregs_bad_cs() {
    let guest = Guest::protected(&[]);
    let mut sregs = guest.vcpu.sregs();
    sregs.cs.l = 1;
    expect::errno(
        "CS.L outside 64-bit mode",
        guest.vcpu.set(SET_SREGS, &sregs),
        EINVAL,
    );
}

fn sregs_bad_apic_base() {
    refused("APIC base bit 0", |s| s.apic_base |= 1);
    refused("APIC base bit 63", |s| s.apic_base |= 1 << 63);
}

fn sregs_refused_changes_nothing() {
    let guest = Guest::long(code64!("mov eax, 5", "hlt"));
    let before = guest.vcpu.sregs();
    let mut sregs = before;
    (sregs.cr2, sregs.gdt.base, sregs.ds.selector) = (7, 8, 0x18);
    sregs.cr4 |= 1 << 31;
    expect::errno("KVM_SET_SREGS", guest.vcpu.set(SET_SREGS, &sregs), EINVAL);
    let after = guest.vcpu.sregs();
    expect::eq("special registers", after, before);
    guest.run_to_halt();
}

fn sregs_errors() {
    let guest = Guest::long(&[]);
    get_faults(&guest.vcpu, GET_SREGS.number);
    set_faults(&guest.vcpu, SET_SREGS.number);
}

fn sregs2_round_trip() {
    let guest = Guest::long(&[]);
    let mut sregs2 = expect::ok("KVM_GET_SREGS2", guest.vcpu.get(GET_SREGS2));
    let sregs = guest.vcpu.sregs();
    expect::eq("flags", sregs2.flags, 0);
    expect::eq("CR3", sregs2.cr3, sregs.cr3);
    expect::eq("EFER", sregs2.efer, sregs.efer);
    expect::eq("CS", sregs2.cs, sregs.cs);
    sregs2.cr2 = 0x7777;
    sregs2.gs.base = 0x9999;
    expect::ok("KVM_SET_SREGS2", guest.vcpu.set(SET_SREGS2, &sregs2));
    let got = expect::ok("KVM_GET_SREGS2", guest.vcpu.get(GET_SREGS2));
    expect::eq("registers", got, sregs2);
    expect::eq("CR2 by KVM_GET_SREGS", guest.vcpu.sregs().cr2, 0x7777);
}

/// In PAE mode KVM_SET_SREGS2 gives the PDPTEs that the CPU would have loaded; memory may say
/// something else by now.
fn sregs2_pdptrs() {
    let guest = Guest::new(Mode::Pae, code32!("mov eax, [0x20000]", "hlt"));
    guest.poke(layout::DATA, 0x600d);
    let mut sregs2 = expect::ok("KVM_GET_SREGS2", guest.vcpu.get(GET_SREGS2));
    let valid = u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID);
    expect::eq("flags", sregs2.flags, valid);
    let want = std::array::from_fn(|i| (layout::PD + (i * PAGE) as u64) | 1);
    expect::eq("PDPTEs", sregs2.pdptrs, want);
    for i in 0..4 {
        guest.poke(layout::PDPT + 8 * i, 0);
    }
    sregs2.flags = valid;
    expect::ok("KVM_SET_SREGS2", guest.vcpu.set(SET_SREGS2, &sregs2));
    guest.run_to_halt();
    expect::eq("EAX", guest.vcpu.regs().rax, 0x600d);
    let got = expect::ok("KVM_GET_SREGS2", guest.vcpu.get(GET_SREGS2));
    expect::eq("PDPTEs after the run", got.pdptrs, want);
}

fn sregs2_errors() {
    let guest = Guest::long(&[]);
    get_faults(&guest.vcpu, GET_SREGS2.number);
    set_faults(&guest.vcpu, SET_SREGS2.number);
    let good = expect::ok("KVM_GET_SREGS2", guest.vcpu.get(GET_SREGS2));
    for flags in [2, 1 << 63, 1] {
        let sregs2 = kvm_sregs2 { flags, ..good };
        let got = guest.vcpu.set(SET_SREGS2, &sregs2);
        expect::errno(&format!("flags {flags:#x} in 64-bit mode"), got, EINVAL);
    }
    let sregs2 = kvm_sregs2 {
        cr4: good.cr4 | (1 << 31),
        ..good
    };
    expect::errno("bad CR4", guest.vcpu.set(SET_SREGS2, &sregs2), EINVAL);
    let pae = Guest::new(Mode::Pae, &[]);
    let good = expect::ok("KVM_GET_SREGS2", pae.vcpu.get(GET_SREGS2));
    let sregs2 = kvm_sregs2 { flags: 3, ..good };
    expect::errno(
        "flags 3 in PAE mode",
        pae.vcpu.set(SET_SREGS2, &sregs2),
        EINVAL,
    );
}

/// The guest runs with the segment bases that were set.
fn segments_in_use() {
    let guest = Guest::long(code64!(
        "mov rax, fs:[8]",
        "mov rbx, gs:[0]",
        "sidt [rsp]",
        "hlt"
    ));
    let mut sregs = guest.vcpu.sregs();
    sregs.fs.base = layout::DATA;
    sregs.gs.base = layout::DATA + 0x100;
    guest.vcpu.set_sregs(&sregs);
    guest.poke(layout::DATA + 8, 0xf5);
    guest.poke(layout::DATA + 0x100, 0x65);
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    expect::eq("by FS and GS", (regs.rax, regs.rbx), (0xf5, 0x65));
    let idt = guest.memory.read::<u16>(layout::STACK as usize);
    expect::eq("IDTR's limit in the guest", idt, 0xfff);
}

fn cr2_in_use() {
    let guest = Guest::long(code64!(
        "mov rax, cr2",
        "mov rbx, 0x5555",
        "mov cr2, rbx",
        "hlt"
    ));
    let sregs = kvm_sregs {
        cr2: 0x1234_5678_9000,
        ..guest.vcpu.sregs()
    };
    guest.vcpu.set_sregs(&sregs);
    guest.run_to_halt();
    expect::eq("CR2 in the guest", guest.vcpu.regs().rax, 0x1234_5678_9000);
    expect::eq("CR2 behind it", guest.vcpu.sregs().cr2, 0x5555);
}

fn mp_state() {
    let guest = Guest::long(code64!("hlt"));
    let get = || expect::ok("KVM_GET_MP_STATE", guest.vcpu.get(GET_MP_STATE)).mp_state;
    expect::eq("new vCPU", get(), KVM_MP_STATE_RUNNABLE);
    let runnable = kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    expect::ok("KVM_SET_MP_STATE", guest.vcpu.set(SET_MP_STATE, &runnable));
    guest.run_to_halt();
    expect::eq(
        "after HLT, without an APIC in the kernel",
        get(),
        KVM_MP_STATE_RUNNABLE,
    );
}

fn mp_state_errors() {
    let guest = Guest::long(&[]);
    for mp_state in [1, 2, 3, 4, 9, 10, 77, u32::MAX] {
        let got = guest.vcpu.set(SET_MP_STATE, &kvm_mp_state { mp_state });
        expect::errno(
            &format!("state {mp_state} without an APIC in the kernel"),
            got,
            EINVAL,
        );
    }
    expect::errno("get", guest.vcpu.fault(GET_MP_STATE.number), EFAULT);
    expect::errno("set", guest.vcpu.fault(SET_MP_STATE.number), EFAULT);
}

fn debugregs_round_trip() {
    let guest = Guest::long(code64!(
        "mov rax, dr0",
        "mov rbx, dr3",
        "mov rcx, dr6",
        "hlt"
    ));
    let debug = kvm_debugregs {
        db: [0x1000, 0x2000, 0xffff_8000_0000_3000, 0x4000],
        dr6: 0xffff_0ff2,
        dr7: 0x400,
        ..kvm_debugregs::default()
    };
    expect::ok("KVM_SET_DEBUGREGS", guest.vcpu.set(SET_DEBUGREGS, &debug));
    let got = expect::ok("KVM_GET_DEBUGREGS", guest.vcpu.get(GET_DEBUGREGS));
    expect::eq(
        "debug registers",
        (got.db, got.dr6, got.dr7),
        (debug.db, debug.dr6, debug.dr7),
    );
    guest.run_to_halt();
    let regs = guest.vcpu.regs();
    let in_guest = (regs.rax, regs.rbx, regs.rcx);
    expect::eq(
        "DR0, DR3, DR6 in the guest",
        in_guest,
        (0x1000, 0x4000, 0xffff_0ff2),
    );
    guest.load(
        layout::CODE,
        code64!("mov rax, 0x5000", "mov dr1, rax", "mov dr0, rax", "hlt"),
    );
    guest.vcpu.set_regs(&kvm_regs {
        rip: layout::CODE,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    let got = expect::ok("KVM_GET_DEBUGREGS", guest.vcpu.get(GET_DEBUGREGS));
    let want = [0x5000, 0x5000, 0xffff_8000_0000_3000, 0x4000];
    expect::eq("as the guest set them", got.db, want);
}

fn debugregs_errors() {
    let guest = Guest::long(&[]);
    get_faults(&guest.vcpu, GET_DEBUGREGS.number);
    set_faults(&guest.vcpu, SET_DEBUGREGS.number);
    let good = expect::ok("KVM_GET_DEBUGREGS", guest.vcpu.get(GET_DEBUGREGS));
    for (what, wrong) in [
        ("flags", kvm_debugregs { flags: 1, ..good }),
        (
            "DR6 bit 32",
            kvm_debugregs {
                dr6: good.dr6 | (1 << 32),
                ..good
            },
        ),
        (
            "DR7 bit 63",
            kvm_debugregs {
                dr7: good.dr7 | (1 << 63),
                ..good
            },
        ),
    ] {
        expect::errno(what, guest.vcpu.set(SET_DEBUGREGS, &wrong), EINVAL);
    }
}
