// SPDX-License-Identifier: GPL-2.0
//! What a VMM chooses for a VM with KVM_ENABLE_CAP (api.rst 7).

use std::time::Duration;

use kvm_bindings::*;
use libc::{EINTR, EINVAL};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{layout, Guest, Mode};
use crate::request::*;
use crate::sys::{self, Errno};
use crate::vcpu::Exit;
use crate::vm::{Kvm, Vm};

tests! {
    "vm_caps":
    answers, vm_types, payload_is_shown, payload_is_set, payload_unasked, triple_fault_event,
    emulation_failure_exits, exits_errors, halt_without_exit, halted_guest_takes_exceptions,
    pause_without_exit, hypercall_exit_errors, hypercall_for_the_vmm, hypercall_bad_range,
    max_vcpu_id, halt_poll, quirks_errors, vmmcall_becomes_vmcall, vmmcall_without_quirk,
    monitor_without_quirk, monitor_by_misc_enable, port_7e, feature_msrs_not_set, not_for_guests,
    nx_huge_pages,
}

fn enable(vm: &Vm, cap: u32, value: u64) {
    expect::ok("KVM_ENABLE_CAP", vm.enable(cap, value));
}

fn refuse(vm: &Vm, cap: u32, value: u64) {
    expect::errno("KVM_ENABLE_CAP", vm.enable(cap, value), EINVAL);
}

/// A long-mode guest in a VM without the quirks.
fn without_quirks(quirks: u32, code: &[u8]) -> Guest {
    let vm = Vm::new();
    enable(&vm, KVM_CAP_DISABLE_QUIRKS2, quirks.into());
    Guest::in_vm(vm, Mode::Long, code)
}

fn answers() {
    let kvm = Kvm::open();
    for cap in [
        KVM_CAP_EXCEPTION_PAYLOAD,
        KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        KVM_CAP_EXIT_ON_EMULATION_FAILURE,
        KVM_CAP_DISABLE_QUIRKS,
        KVM_CAP_HALT_POLL,
        KVM_CAP_VM_DISABLE_NX_HUGE_PAGES,
    ] {
        expect::eq("capability", kvm.extension(cap), 1);
    }
    let hypercalls = kvm.extension(KVM_CAP_EXIT_HYPERCALL);
    expect::eq("KVM_CAP_EXIT_HYPERCALL", hypercalls, 1 << 12);
    let debug = kvm.extension(KVM_CAP_SET_GUEST_DEBUG2);
    expect::eq("KVM_CAP_SET_GUEST_DEBUG2", debug, 0x1f_0003);
    let least = KVM_X86_DISABLE_EXITS_HLT | KVM_X86_DISABLE_EXITS_PAUSE;
    let exits = kvm.extension(KVM_CAP_X86_DISABLE_EXITS) as u32;
    expect::eq("exits that can be disabled", exits & least, least);
}

fn vm_types() {
    let kvm = Kvm::open();
    let types = kvm.extension(KVM_CAP_VM_TYPES);
    expect::eq("the default type", types & 1, 1);
    for kind in 1..32 {
        if types >> kind & 1 == 0 {
            expect::errno("KVM_CREATE_VM", kvm.call(CREATE_VM, kind), EINVAL);
        }
    }
}

/// A guest whose page fault waits, since the VMM interrupts the vCPU as it is raised.
fn page_fault_waits() -> Guest {
    let guest = Guest::long(code64!("nop", "hlt"));
    let mut events = guest.vcpu.events();
    events.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
    events.exception.pending = 1;
    events.exception.nr = 14;
    events.exception.has_error_code = 1;
    events.exception.error_code = 2;
    events.exception_has_payload = 1;
    events.exception_payload = 0x1234_5000;
    enable(&guest.vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    let done = guest.vcpu.set(SET_VCPU_EVENTS, &events);
    expect::ok("KVM_SET_VCPU_EVENTS", done);
    guest
}

fn payload_is_shown() {
    let guest = page_fault_waits();
    let events = guest.vcpu.events();
    let flag = KVM_VCPUEVENT_VALID_PAYLOAD;
    expect::eq("flag", events.flags & flag, flag);
    let exception = events.exception;
    expect::eq("pending", (exception.pending, exception.injected), (1, 0));
    expect::eq("vector", (exception.nr, exception.error_code), (14, 2));
    let payload = (events.exception_has_payload, events.exception_payload);
    expect::eq("payload", payload, (1, 0x1234_5000));
    expect::eq("CR2 comes with delivery", guest.vcpu.sregs().cr2, 0);

    // A VMM that does not know payloads finds it in CR2, and the exception injected.
    enable(&guest.vm, KVM_CAP_EXCEPTION_PAYLOAD, 0);
    let events = guest.vcpu.events();
    expect::eq("flag", events.flags & flag, 0);
    expect::eq("injected", events.exception.injected, 1);
    expect::eq("CR2", guest.vcpu.sregs().cr2, 0x1234_5000);
}

fn payload_is_set() {
    let guest = page_fault_waits();
    let trap = guest.run_to_trap();
    expect::eq(
        "#PF",
        (trap.vector, trap.error, trap.cr2, trap.rip),
        (14, 2, 0x1234_5000, layout::CODE),
    );
}

fn payload_unasked() {
    let guest = Guest::long(code64!("hlt"));
    let mut events = guest.vcpu.events();
    events.exception.pending = 1;
    events.exception.nr = 14;
    events.exception_has_payload = 1;
    events.exception_payload = 0x1234_5000;
    let set = |events: &kvm_vcpu_events| guest.vcpu.set(SET_VCPU_EVENTS, events);
    expect::ok("without its flag it is nothing", set(&events));
    guest.run_to_halt();
    expect::eq("CR2", guest.vcpu.sregs().cr2, 0);
    events.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    expect::errno("not enabled", set(&events), EINVAL);
}

fn triple_fault_event() {
    let guest = Guest::long(code64!("hlt"));
    enable(&guest.vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
    let flag = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    let mut events = guest.vcpu.events();
    expect::eq("flag", events.flags & flag, flag);
    expect::eq("none", events.triple_fault.pending, 0);
    events.triple_fault.pending = 1;
    expect::ok("set", guest.vcpu.set(SET_VCPU_EVENTS, &events));
    expect::eq("one", guest.vcpu.events().triple_fault.pending, 1);
    guest.vcpu.expect_exit(Exit::Shutdown);
    expect::eq("none", guest.vcpu.events().triple_fault.pending, 0);
    expect::eq("nothing ran", guest.vcpu.regs().rip, layout::CODE);
    guest.run_to_halt();
}

/// FLD is an instruction that no emulator knows.
fn emulation_failure_exits() {
    let code = code64!("fld dword ptr [rbx]", "hlt");
    let guest = Guest::long(code);
    let vcpu = &guest.vcpu;
    enable(&guest.vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    refuse(&guest.vm, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 2);
    vcpu.set_regs(&kvm_regs {
        rbx: layout::MMIO,
        ..vcpu.regs()
    });
    match vcpu.run() {
        Ok(Exit::InternalError { suberror: 1, data }) => {
            expect::eq("flags", data[0], 1);
            expect::that("bytes are there", data[1] as u8 >= 2);
            expect::eq("opcode", data[1] >> 8 & 0xffff, 0x03d9);
        }
        other => panic!("KVM_RUN: expected KVM_EXIT_INTERNAL_ERROR, got {other:x?}"),
    }
    // No #UD waits: the VMM may go on after the instruction.
    vcpu.set_regs(&kvm_regs {
        rip: layout::CODE + 2,
        ..vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("RIP", vcpu.regs().rip, layout::CODE + code.len() as u64);
}

fn exits_errors() {
    let vm = Vm::new();
    let allowed = Kvm::open().extension(KVM_CAP_X86_DISABLE_EXITS) as u64;
    for bit in 0..64 {
        if allowed >> bit & 1 == 0 {
            refuse(&vm, KVM_CAP_X86_DISABLE_EXITS, 1 << bit);
        }
    }
    enable(&vm, KVM_CAP_X86_DISABLE_EXITS, allowed);
    let _vcpu = vm.create_vcpu(0);
    refuse(&vm, KVM_CAP_X86_DISABLE_EXITS, allowed);
}

fn with_disabled_exits(exits: u32, code: &[u8]) -> Guest {
    let vm = Vm::new();
    enable(&vm, KVM_CAP_X86_DISABLE_EXITS, exits.into());
    Guest::in_vm(vm, Mode::Long, code)
}

fn sleep_ends_soon() {
    sys::catch(libc::SIGALRM);
    sys::set_timer(Duration::from_millis(20), Duration::ZERO);
}

/// The VMM hears nothing of the HLT, and the interrupt that it injects ends it. (Bochs may end a HLT
/// at an exit, so the guest halts again and again.)
fn halt_without_exit() {
    let guest = with_disabled_exits(
        KVM_X86_DISABLE_EXITS_HLT,
        code64!("sti", "2: hlt", "jmp 2b"),
    );
    guest.load(layout::CODE2, code64!("out 0x10, al"));
    guest.set_handler(0x40, layout::CODE2);
    sleep_ends_soon();
    match guest.vcpu.run() {
        Err(Errno(EINTR)) => {}
        other => panic!("KVM_RUN: expected EINTR while the guest sleeps, got {other:x?}"),
    }
    expect::ok("KVM_INTERRUPT", guest.vcpu.interrupt(0x40));
    match guest.vcpu.run() {
        Ok(Exit::Out { port: 0x10, .. }) => {}
        other => panic!("KVM_RUN: expected the handler's OUT, got {other:x?}"),
    }
}

/// An exception that the VMM injects reaches a guest that sleeps.
fn halted_guest_takes_exceptions() {
    let guest = with_disabled_exits(KVM_X86_DISABLE_EXITS_HLT, code64!("2: hlt", "jmp 2b"));
    guest.load(layout::CODE2, code64!("out 0x10, al"));
    guest.set_handler(13, layout::CODE2);
    sleep_ends_soon();
    match guest.vcpu.run() {
        Err(Errno(EINTR)) => {}
        other => panic!("KVM_RUN: expected EINTR while the guest sleeps, got {other:x?}"),
    }
    let mut events = guest.vcpu.events();
    events.exception.injected = 1;
    events.exception.nr = 13;
    events.exception.has_error_code = 1;
    let done = guest.vcpu.set(SET_VCPU_EVENTS, &events);
    expect::ok("KVM_SET_VCPU_EVENTS", done);
    match guest.vcpu.run() {
        Ok(Exit::Out { port: 0x10, .. }) => {}
        other => panic!("KVM_RUN: expected the handler's OUT, got {other:x?}"),
    }
}

fn pause_without_exit() {
    let guest = with_disabled_exits(
        KVM_X86_DISABLE_EXITS_PAUSE,
        code64!("mov ecx, 100000", "2: pause", "loop 2b", "hlt"),
    );
    guest.run_to_halt();
    expect::eq("RCX", guest.vcpu.regs().rcx, 0);
}

fn hypercall_exit_errors() {
    let vm = Vm::new();
    for bit in 0..64 {
        if bit != 12 {
            refuse(&vm, KVM_CAP_EXIT_HYPERCALL, 1 << bit);
        }
    }
    enable(&vm, KVM_CAP_EXIT_HYPERCALL, 1 << 12);
    enable(&vm, KVM_CAP_EXIT_HYPERCALL, 0);
}

/// A guest about to do KVM_HC_MAP_GPA_RANGE.
fn map_gpa_range(gpa: u64, pages: u64) -> Guest {
    let guest = Guest::long(code64!("vmcall", "hlt"));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 12,
        rbx: gpa,
        rcx: pages,
        rdx: 0x10,
        ..guest.vcpu.regs()
    });
    guest
}

fn hypercall_for_the_vmm() {
    let guest = map_gpa_range(0x5000, 3);
    enable(&guest.vm, KVM_CAP_EXIT_HYPERCALL, 1 << 12);
    guest.vcpu.expect_exit(Exit::Hypercall {
        number: 12,
        args: [0x5000, 3, 0x10],
        flags: 1,
    });
    guest.vcpu.answer_hypercall(0x1_2345_6789);
    guest.run_to_halt();
    expect::eq("result", guest.vcpu.regs().rax, 0x1_2345_6789);

    let guest = map_gpa_range(0x5000, 3);
    guest.run_to_halt();
    expect::eq("not enabled", guest.vcpu.regs().rax as i64, -1000);
}

fn hypercall_bad_range() {
    for (gpa, pages) in [(0x5001, 1), (0x5000, 0), (0x5000, u64::MAX)] {
        let guest = map_gpa_range(gpa, pages);
        enable(&guest.vm, KVM_CAP_EXIT_HYPERCALL, 1 << 12);
        guest.run_to_halt();
        expect::eq("result", guest.vcpu.regs().rax as i64, -22);
    }
}

fn max_vcpu_id() {
    let vm = Vm::new();
    let most = Kvm::open().extension(KVM_CAP_MAX_VCPU_ID) as u64;
    refuse(&vm, KVM_CAP_MAX_VCPU_ID, most + 1);
    expect::ok("KVM_SET_BOOT_CPU_ID", vm.call(request_boot_cpu(), 3));
    refuse(&vm, KVM_CAP_MAX_VCPU_ID, 2);
    enable(&vm, KVM_CAP_MAX_VCPU_ID, 4);
    enable(&vm, KVM_CAP_MAX_VCPU_ID, 4);
    refuse(&vm, KVM_CAP_MAX_VCPU_ID, 5);
    expect::errno("an id beyond", vm.call(CREATE_VCPU, 4), EINVAL);
    let _vcpu = vm.create_vcpu(3);

    let vm = Vm::new();
    let _vcpu = vm.create_vcpu(0);
    refuse(&vm, KVM_CAP_MAX_VCPU_ID, 4);
    enable(&vm, KVM_CAP_MAX_VCPU_ID, most);
}

fn request_boot_cpu() -> u64 {
    ioc(0, 0x78, 0)
}

fn halt_poll() {
    let vm = Vm::new();
    enable(&vm, KVM_CAP_HALT_POLL, 0);
    enable(&vm, KVM_CAP_HALT_POLL, u32::MAX.into());
    refuse(&vm, KVM_CAP_HALT_POLL, 1 << 32);
}

fn quirks_errors() {
    let vm = Vm::new();
    let quirks = Kvm::open().extension(KVM_CAP_DISABLE_QUIRKS2) as u32 as u64;
    for bit in 0..64 {
        if quirks >> bit & 1 == 0 {
            refuse(&vm, KVM_CAP_DISABLE_QUIRKS2, 1 << bit);
        }
    }
    enable(&vm, KVM_CAP_DISABLE_QUIRKS2, quirks);
    // The older one takes anything.
    enable(&vm, KVM_CAP_DISABLE_QUIRKS, u64::MAX);
}

const VMMCALL_CODE: u64 = 0xd9_010f;
const VMCALL_CODE: u64 = 0xc1_010f;

fn vmmcall_becomes_vmcall() {
    let guest = Guest::long(code64!("vmmcall", "hlt"));
    guest.vcpu.set_regs(&kvm_regs {
        rax: 1,
        ..guest.vcpu.regs()
    });
    guest.run_to_halt();
    expect::eq("result", guest.vcpu.regs().rax, 0);
    let code = guest.peek(layout::CODE) & 0xff_ffff;
    expect::eq("code", code, VMCALL_CODE);
}

fn vmmcall_without_quirk() {
    let guest = without_quirks(KVM_X86_QUIRK_FIX_HYPERCALL_INSN, code64!("vmmcall", "hlt"));
    let trap = guest.run_to_trap();
    expect::eq("#UD", (trap.vector, trap.rip), (6, layout::CODE));
    let code = guest.peek(layout::CODE) & 0xff_ffff;
    expect::eq("code", code, VMMCALL_CODE);
    // Other instructions that are none raise #UD with the quirk, too.
    let guest = Guest::long(code64!("ud2"));
    expect::eq("UD2", guest.run_to_trap().vector, 6);
}

fn set_monitor_in_cpuid(guest: &Guest, on: bool) {
    let mut cpuid = Kvm::open().supported_cpuid();
    if let Some(leaf) = cpuid.find(1, 0) {
        leaf.ecx = leaf.ecx & !(1 << 3) | u32::from(on) << 3;
    }
    let done = guest.vcpu.set(SET_CPUID2, &cpuid);
    expect::ok("KVM_SET_CPUID2", done);
}

fn monitor_without_quirk() {
    let code = code64!("monitor", "xor ecx, ecx", "mwait", "hlt");
    let guest = Guest::long(code);
    set_monitor_in_cpuid(&guest, false);
    guest.run_to_halt();

    let guest = without_quirks(KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS, code);
    set_monitor_in_cpuid(&guest, false);
    expect::eq("#UD", guest.run_to_trap().vector, 6);
    let guest = without_quirks(KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS, code);
    set_monitor_in_cpuid(&guest, true);
    guest.run_to_halt();
}

/// IA32_MISC_ENABLE decides what CPUID shows.
fn monitor_by_misc_enable() {
    const MISC_ENABLE: u32 = 0x1a0;
    const MONITOR: u64 = 1 << 18;
    let code = code64!("mov eax, 1", "cpuid", "mov esi, ecx", "hlt");
    for on in [false, true] {
        let guest = without_quirks(KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT, code);
        set_monitor_in_cpuid(&guest, !on);
        let old = guest.vcpu.msr(MISC_ENABLE).unwrap_or(0);
        let value = old & !MONITOR | u64::from(on) << 18;
        // Once a change is made CPUID follows, whatever it said before.
        expect::that("set", guest.vcpu.set_msr(MISC_ENABLE, value ^ MONITOR));
        expect::that("set", guest.vcpu.set_msr(MISC_ENABLE, value));
        guest.run_to_halt();
        let shown = guest.vcpu.regs().rsi >> 3 & 1;
        expect::eq("CPUID", shown, u64::from(on));
    }
}

/// OUT to port 7EH is over when the VMM hears of it, and others are not.
fn port_7e() {
    let code = code64!("out 0x7e, al", "hlt");
    for (quirk, rip) in [(true, layout::CODE + 2), (false, layout::CODE)] {
        let quirks = if quirk {
            0
        } else {
            KVM_X86_QUIRK_OUT_7E_INC_RIP
        };
        let guest = without_quirks(quirks, code);
        match guest.vcpu.run() {
            Ok(Exit::Out { port: 0x7e, .. }) => {}
            other => panic!("KVM_RUN: expected OUT, got {other:x?}"),
        }
        expect::eq("RIP", guest.vcpu.regs().rip, rip);
        guest.run_to_halt();
        expect::eq("RIP", guest.vcpu.regs().rip, layout::CODE + 3);
    }
}

fn feature_msrs_not_set() {
    const PLATFORM_INFO: u32 = 0xce;
    let vm = Vm::new();
    let with = vm.create_vcpu(0);
    expect::ne("from the start", with.msr(PLATFORM_INFO), Some(0));
    let vm = Vm::new();
    let quirk = KVM_X86_QUIRK_STUFF_FEATURE_MSRS;
    enable(&vm, KVM_CAP_DISABLE_QUIRKS2, quirk.into());
    let without = vm.create_vcpu(0);
    expect::eq("without", without.msr(PLATFORM_INFO), Some(0));
}

/// What the processor of the lab does not have can be asked for as far as it does no harm.
fn not_for_guests() {
    let kvm = Kvm::open();
    let vm = Vm::new();
    if kvm.extension(KVM_CAP_X86_BUS_LOCK_EXIT) == 0 {
        enable(&vm, KVM_CAP_X86_BUS_LOCK_EXIT, 1);
        enable(&vm, KVM_CAP_X86_BUS_LOCK_EXIT, 2);
    }
    refuse(&vm, KVM_CAP_X86_BUS_LOCK_EXIT, 3);
    refuse(&vm, KVM_CAP_X86_BUS_LOCK_EXIT, 4);
    if kvm.extension(KVM_CAP_X86_NOTIFY_VMEXIT) == 0 {
        refuse(&vm, KVM_CAP_X86_NOTIFY_VMEXIT, 1);
    }
    if kvm.extension(KVM_CAP_PMU_CAPABILITY) == 0 {
        refuse(&vm, KVM_CAP_PMU_CAPABILITY, 1);
    }
    refuse(&vm, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, 0);
    refuse(&vm, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, 0);
}

fn nx_huge_pages() {
    let vm = Vm::new();
    refuse(&vm, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 1);
    enable(&vm, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 0);
    let _vcpu = vm.create_vcpu(0);
    refuse(&vm, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, 0);
}
