// SPDX-License-Identifier: GPL-2.0
//! What `scripts/agree` found to be another thing on our module than on KVM: small things that a VMM
//! could come to rely on.

use kvm_bindings::*;
use libc::EINVAL;

use super::tests;
use crate::code64;
use crate::devices::{msi_address, GET_LAPIC, SET_LAPIC};
use crate::expect;
use crate::guest::{bits, Guest, Mode};
use crate::request::*;
use crate::vm::{Kvm, Vm};

tests! {
    "agreement":
    cr8_of_more_bits_is_passed_over, tss_becomes_busy, soft_exceptions_are_not_told,
    error_codes_have_16_bits, interrupt_replaces_interrupt, masked_nmis_leave_room_for_one,
    translation_without_paging, legacy_msrs, mtrrs_beyond_the_address_width,
    emulated_cpuid_padding, init_keeps_caching_bits, registers_of_reset_end_a_halt,
    cpuid_without_leaf_1_keeps_the_apic,
}

fn cr8_of_more_bits_is_passed_over() {
    let guest = Guest::long(code64!("hlt"));
    guest.vcpu.set_sregs(&kvm_sregs {
        cr8: 5,
        ..guest.vcpu.sregs()
    });
    guest.vcpu.set_sregs(&kvm_sregs {
        cr8: 16,
        cr2: 0x1234,
        ..guest.vcpu.sregs()
    });
    let sregs = guest.vcpu.sregs();
    expect::eq("CR8 and CR2", (sregs.cr8, sregs.cr2), (5, 0x1234));
}

fn tss_becomes_busy() {
    let guest = Guest::long(code64!("hlt"));
    let mut sregs = guest.vcpu.sregs();
    sregs.tr.type_ = 10;
    guest.vcpu.set_sregs(&sregs);
    expect::eq("TR's accessed bit", guest.vcpu.sregs().tr.type_ & 1, 1);
}

fn soft_exceptions_are_not_told() {
    for vector in [3, 4] {
        let guest = Guest::long(code64!("hlt"));
        let mut events = guest.vcpu.events();
        events.exception.injected = 1;
        events.exception.nr = vector;
        expect::ok("set", guest.vcpu.set(SET_VCPU_EVENTS, &events));
        let now = guest.vcpu.events().exception;
        expect::eq("on its way", (now.injected, now.pending), (0, 0));
    }
}

fn error_codes_have_16_bits() {
    let guest = Guest::long(code64!("hlt"));
    let mut events = guest.vcpu.events();
    events.exception.injected = 1;
    events.exception.nr = 13;
    events.exception.has_error_code = 1;
    events.exception.error_code = 0xffff_0010;
    expect::ok("set", guest.vcpu.set(SET_VCPU_EVENTS, &events));
    let trap = guest.run_to_trap();
    expect::eq(
        "the handler's error code",
        (trap.vector, trap.error),
        (13, 0x10),
    );
}

fn interrupt_replaces_interrupt() {
    let guest = Guest::long(code64!("hlt"));
    expect::ok("KVM_INTERRUPT", guest.vcpu.interrupt(0x21));
    expect::ok("KVM_INTERRUPT", guest.vcpu.interrupt(0x22));
    expect::eq("the vector", guest.vcpu.events().interrupt.nr, 0x22);
}

fn masked_nmis_leave_room_for_one() {
    let guest = Guest::long(code64!("hlt"));
    let mut events = guest.vcpu.events();
    events.nmi.pending = 2;
    events.nmi.masked = 1;
    expect::ok("set", guest.vcpu.set(SET_VCPU_EVENTS, &events));
    expect::eq("NMIs that wait", guest.vcpu.events().nmi.pending, 1);
}

fn translation_without_paging() {
    let guest = Guest::new(Mode::Protected, &[0xf4]);
    let mut translation = kvm_translation {
        linear_address: 1 << 32,
        ..kvm_translation::default()
    };
    expect::ok(
        "KVM_TRANSLATE",
        guest.vcpu.update(TRANSLATE, &mut translation),
    );
    let got = (translation.physical_address, translation.valid);
    expect::eq("where it leads", got, (1 << 32, 1));
}

fn legacy_msrs() {
    let guest = Guest::long(code64!("hlt"));
    for (index, want) in [(0x2a, 0), (0x2c, 1 << 24), (0x198, 1000 | 4 << 40)] {
        expect::eq(
            &format!("MSR {index:#x}"),
            guest.vcpu.msr(index),
            Some(want),
        );
    }
    let before = guest.vcpu.msr(0x11e);
    expect::that(
        "a write of MSR 0x11e is taken",
        guest.vcpu.set_msr(0x11e, 1 << 19),
    );
    expect::eq("MSR 0x11e after it", guest.vcpu.msr(0x11e), before);
}

fn mtrrs_beyond_the_address_width() {
    let guest = Guest::long(code64!("hlt"));
    for index in [0x200, 0x201] {
        let taken = guest.vcpu.set_msr(index, 1 << 51);
        expect::that(&format!("MSR {index:#x} refuses bit 51"), !taken);
    }
}

fn emulated_cpuid_padding() {
    let kvm = Kvm::open();
    let mut cpuid = Cpuid::with_room(256);
    cpuid.entries[200].padding[1] = 1;
    let got = kvm.update(GET_EMULATED_CPUID, &mut cpuid);
    expect::errno("padding", got, EINVAL);
}

fn init_keeps_caching_bits() {
    let guest = Guest::in_vm(Vm::with_irqchip(), Mode::Long, code64!("hlt"));
    guest.vcpu.set_sregs(&kvm_sregs {
        cr0: guest.vcpu.sregs().cr0 | bits::CR0_CD,
        ..guest.vcpu.sregs()
    });
    // KVM finds a LAPIC once something was written to it.
    let lapic = expect::ok("KVM_GET_LAPIC", guest.vcpu.get(GET_LAPIC));
    expect::ok("KVM_SET_LAPIC", guest.vcpu.set(SET_LAPIC, &lapic));
    expect::ok("INIT", guest.vm.signal_msi(msi_address(0), 0x500));
    expect::ok("KVM_GET_MP_STATE", guest.vcpu.get(GET_MP_STATE));
    let want = bits::CR0_ET | bits::CR0_CD;
    expect::eq("CR0 after INIT", guest.vcpu.sregs().cr0, want);
}

fn registers_of_reset_end_a_halt() {
    let vm = Vm::with_irqchip();
    let vcpu = vm.create_vcpu(0);
    let halted = kvm_mp_state {
        mp_state: KVM_MP_STATE_HALTED,
    };
    expect::ok("KVM_SET_MP_STATE", vcpu.set(SET_MP_STATE, &halted));
    vcpu.set_sregs(&vcpu.sregs());
    let state = expect::ok("KVM_GET_MP_STATE", vcpu.get(GET_MP_STATE));
    expect::eq("the state", state.mp_state, KVM_MP_STATE_RUNNABLE);
}

fn cpuid_without_leaf_1_keeps_the_apic() {
    let vm = Vm::with_split_irqchip(24);
    let vcpu = vm.create_vcpu(0);
    vcpu.set_supported_cpuid();
    let version = || {
        let lapic = expect::ok("KVM_GET_LAPIC", vcpu.get(GET_LAPIC));
        lapic.regs[0x30..0x34].to_vec()
    };
    let before = version();
    let none = Cpuid::with_room(0);
    expect::ok("KVM_SET_CPUID2", vcpu.set(SET_CPUID2, &none));
    expect::eq("the APIC's version", version(), before);
}
