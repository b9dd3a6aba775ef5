// SPDX-License-Identifier: GPL-2.0
//! Ways of an interrupt: KVM_SET_GSI_ROUTING (api.rst 4.52), KVM_SIGNAL_MSI (4.70), and the split
//! controller (7.5) with KVM_EXIT_IOAPIC_EOI.

use kvm_bindings::*;
use libc::{EEXIST, EFAULT, EINVAL};

use super::tests;
use crate::devices::*;
use crate::expect;
use crate::machine::{apic, Eoi, Machine};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::vcpu::Exit;
use crate::vm::Vm;

tests! {
    "routing":
    replaces_the_default, to_message, to_pin_of_ioapic, to_pins_of_pic, to_both, empty,
    bad_entries, bad_tables, table_errors, keeps_the_old_on_error, message, message_answers,
    message_errors, message_level, message_with_wide_id, message_wide_id_errors, split_create,
    split_errors, split_has_no_chips, split_message, split_eoi, split_eoi_of_others,
    split_eoi_suppressed, x2apic_api_flags, x2apic_api_eoi_flags,
}

const VECTOR: u8 = 0x61;
/// KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST and its contrary.
const ENABLE_SUPPRESSION: u64 = 1 << 2;
const DISABLE_SUPPRESSION: u64 = 1 << 3;
/// Of a message's data: level-triggered.
const DATA_LEVEL: u32 = 1 << 15;

#[track_caller]
fn machine(eoi: Eoi) -> Machine {
    let machine = Machine::new(1);
    machine.handle_all(VECTOR..VECTOR + 8, eoi);
    machine.cpu(0).enable_apic();
    machine
}

#[track_caller]
fn set_routes(vm: &Vm, routes: &[Route]) {
    expect::ok("KVM_SET_GSI_ROUTING", vm.set_routes(routes));
}

fn replaces_the_default() {
    let machine = machine(Eoi::Xapic);
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[20] = VECTOR.into();
    machine.vm.set_ioapic(&chip);
    expect::eq("GSI 20 at first", machine.vm.irq_line_status(20, true), 1);
    machine.vm.irq_line(20, false);
    set_routes(&machine.vm, &[Route::msi(3, msi_address(0), VECTOR.into())]);
    expect::eq(
        "GSI 20 afterwards",
        machine.vm.irq_line_status(20, true),
        -1,
    );
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
}

fn to_message() {
    let machine = machine(Eoi::Xapic);
    let routes: Vec<_> = (0..4)
        .map(|i| Route::msi(i * 1000, msi_address(0), u32::from(VECTOR) + i))
        .collect();
    set_routes(&machine.vm, &routes);
    for i in 0..4 {
        machine.vm.irq_line(i * 1000, true);
        machine.cpu(0).nop();
        machine.expect_count(VECTOR + i as u8, 1);
        expect::eq("down", machine.vm.irq_line_status(i * 1000, false), -1);
        expect::eq("up again", machine.vm.irq_line_status(i * 1000, true), 1);
        machine.cpu(0).nop();
        machine.expect_count(VECTOR + i as u8, 2);
    }
}

fn to_pin_of_ioapic() {
    let machine = machine(Eoi::Xapic);
    set_routes(
        &machine.vm,
        &[
            Route::pin(77, KVM_IRQCHIP_IOAPIC, 23),
            Route::pin(23, KVM_IRQCHIP_IOAPIC, 5),
        ],
    );
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[23] = VECTOR.into();
    chip.redirtbl[5] = u64::from(VECTOR) + 1;
    machine.vm.set_ioapic(&chip);
    machine.vm.irq_line(77, true);
    machine.cpu(0).nop();
    expect::eq("taken", machine.order(), vec![VECTOR]);
    machine.vm.irq_line(23, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    machine.expect_count(VECTOR + 1, 1);
}

fn to_pins_of_pic() {
    let vm = Vm::with_irqchip();
    set_routes(
        &vm,
        &[
            Route::pin(50, KVM_IRQCHIP_PIC_MASTER, 6),
            Route::pin(51, KVM_IRQCHIP_PIC_SLAVE, 1),
        ],
    );
    vm.irq_line(50, true);
    expect::eq(
        "IRR of the master",
        vm.pic(KVM_IRQCHIP_PIC_MASTER).pic.irr,
        0x40,
    );
    expect::eq("IRR of the slave", vm.pic(KVM_IRQCHIP_PIC_SLAVE).pic.irr, 0);
    vm.irq_line(51, true);
    expect::eq("IRR of the slave", vm.pic(KVM_IRQCHIP_PIC_SLAVE).pic.irr, 2);
}

/// A GSI may reach a pin of each chip.
fn to_both() {
    let vm = Vm::with_irqchip();
    set_routes(
        &vm,
        &[
            Route::pin(9, KVM_IRQCHIP_PIC_SLAVE, 1),
            Route::pin(9, KVM_IRQCHIP_IOAPIC, 9),
            Route::pin(9, KVM_IRQCHIP_PIC_MASTER, 5),
        ],
    );
    vm.irq_line(9, true);
    expect::eq("IRR of the slave", vm.pic(KVM_IRQCHIP_PIC_SLAVE).pic.irr, 2);
    expect::eq("pins of the IOAPIC", vm.ioapic().irr, 1 << 9);
    let master = vm.pic(KVM_IRQCHIP_PIC_MASTER).pic.irr;
    expect::eq("IRR of the master", master & 0x20, 0x20);
}

fn empty() {
    let vm = Vm::with_irqchip();
    set_routes(&vm, &[]);
    for gsi in [0, 4, 20] {
        expect::eq("status", vm.irq_line_status(gsi, true), -1);
    }
    expect::eq("pins of the IOAPIC", vm.ioapic().irr, 0);
}

fn bad_entries() {
    let vm = Vm::with_irqchip();
    let good = Route::msi(1, msi_address(0), VECTOR.into());
    let pin = Route::pin(1, KVM_IRQCHIP_IOAPIC, 1);
    for (what, routes) in [
        ("GSI 4096", vec![Route { gsi: 4096, ..good }]),
        (
            "GSI 2^32-1",
            vec![Route {
                gsi: u32::MAX,
                ..good
            }],
        ),
        ("kind 0", vec![Route { kind: 0, ..good }]),
        (
            "kind of another architecture",
            vec![Route { kind: 3, ..good }],
        ),
        ("kind 99", vec![Route { kind: 99, ..good }]),
        ("flags of a message", vec![Route { flags: 2, ..good }]),
        ("flags of a pin", vec![Route { flags: 1, ..pin }]),
        ("chip 3", vec![Route::pin(1, 3, 1)]),
        ("chip 2^32-1", vec![Route::pin(1, u32::MAX, 1)]),
        (
            "pin 24 of the IOAPIC",
            vec![Route::pin(1, KVM_IRQCHIP_IOAPIC, 24)],
        ),
        (
            "pin 8 of the master",
            vec![Route::pin(1, KVM_IRQCHIP_PIC_MASTER, 8)],
        ),
        (
            "pin 8 of the slave",
            vec![Route::pin(1, KVM_IRQCHIP_PIC_SLAVE, 8)],
        ),
        (
            "pin -1 of the slave",
            vec![Route::pin(1, KVM_IRQCHIP_PIC_SLAVE, u32::MAX)],
        ),
        (
            "two pins of a chip",
            vec![pin, Route::pin(1, KVM_IRQCHIP_IOAPIC, 2)],
        ),
        ("two messages of a GSI", vec![good, good]),
        ("a pin and a message", vec![pin, good]),
        ("a message and a pin", vec![good, pin]),
        (
            "a bad one behind good ones",
            vec![good, Route { gsi: 2, ..pin }, Route::pin(3, 3, 1)],
        ),
    ] {
        expect::errno(what, vm.set_routes(&routes), EINVAL);
    }
    expect::ok(
        "a message with its device",
        vm.set_routes(&[Route {
            flags: KVM_MSI_VALID_DEVID,
            ..good
        }]),
    );
    expect::ok("GSI 4095", vm.set_routes(&[Route { gsi: 4095, ..good }]));
}

fn bad_tables() {
    let vm = Vm::with_irqchip();
    let mut table = Routing::new(&[]);
    table.flags = 1;
    expect::errno("flags", vm.set(SET_GSI_ROUTING, &table), EINVAL);
    table.flags = 0;
    table.nr = 4097;
    expect::errno("4097 routes", vm.set(SET_GSI_ROUTING, &table), EINVAL);
    let good = Routing::new(&[Route::msi(1, msi_address(0), VECTOR.into())]);
    let got = Vm::new().set(SET_GSI_ROUTING, &good);
    expect::errno("without an irqchip", got, EINVAL);
}

fn table_errors() {
    let vm = Vm::with_irqchip();
    expect::errno("no memory", vm.fault(SET_GSI_ROUTING.number), EFAULT);
    let page = Mapping::guarded(PAGE);
    page.write(PAGE - 8, [1u32, 0]);
    let got = vm.at(SET_GSI_ROUTING.number, &page, PAGE - 8);
    expect::errno("no memory for entries", got, EFAULT);
}

fn keeps_the_old_on_error() {
    let machine = machine(Eoi::Xapic);
    set_routes(&machine.vm, &[Route::msi(7, msi_address(0), VECTOR.into())]);
    let bad = [Route::msi(7, msi_address(0), 0x70), Route::pin(8, 3, 0)];
    expect::errno("a bad table", machine.vm.set_routes(&bad), EINVAL);
    machine.vm.irq_line(7, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
}

fn message() {
    let machine = machine(Eoi::Xapic);
    for count in 1..=3 {
        let got = machine.vm.signal_msi(msi_address(0), VECTOR.into());
        expect::eq("KVM_SIGNAL_MSI", got, Ok(1));
        machine.cpu(0).nop();
        machine.expect_count(VECTOR, count);
    }
}

/// The answer says how many took it; a LAPIC that is off takes none.
fn message_answers() {
    let machine = Machine::new(3);
    machine.handle(VECTOR, Eoi::Xapic);
    let signal = |id| machine.vm.signal_msi(msi_address(id), VECTOR.into());
    for id in [0, 1, 0xff] {
        expect::eq(&format!("to {id:#x}, all off"), signal(id), Ok(0));
    }
    machine.cpu(0).enable_apic();
    machine.cpu(2).enable_apic();
    expect::eq("to one that is on", signal(0), Ok(1));
    expect::eq("to one that is off", signal(1), Ok(0));
    expect::eq("to all", signal(0xff), Ok(2));
    expect::eq("to none", signal(9).ok().filter(|&n| n > 0), None);
    for id in 0..3 {
        machine.cpu(id).nop();
    }
    // The two for the first vCPU were one by the time it ran.
    machine.expect_count(VECTOR, 2);
}

fn message_errors() {
    let msi = kvm_msi {
        address_lo: msi_address(0) as u32,
        data: VECTOR.into(),
        ..kvm_msi::default()
    };
    let got = Vm::new().set(SIGNAL_MSI, &msi);
    expect::errno("without an irqchip", got, EINVAL);
    let vm = Vm::with_irqchip();
    for bit in 1..32 {
        let got = vm.set(
            SIGNAL_MSI,
            &kvm_msi {
                flags: 1 << bit,
                ..msi
            },
        );
        expect::errno(&format!("flags bit {bit}"), got, EINVAL);
    }
    expect::errno("no memory", vm.fault(SIGNAL_MSI.number), EFAULT);
    let machine = machine(Eoi::Xapic);
    let flags = KVM_MSI_VALID_DEVID;
    let got = machine.vm.set(SIGNAL_MSI, &kvm_msi { flags, ..msi });
    expect::eq("with a device", got, Ok(1));
}

fn message_level() {
    let machine = machine(Eoi::None);
    let data = u32::from(VECTOR) | DATA_LEVEL;
    expect::eq(
        "message",
        machine.vm.signal_msi(msi_address(0), data),
        Ok(1),
    );
    machine.cpu(0).nop();
    let offset = apic::TMR as usize + 0x10 * (VECTOR as usize / 32);
    let tmr = machine.vcpus[0].lapic_register(offset);
    expect::eq("TMR", tmr >> (VECTOR % 32) & 1, 1);
    machine.cpu(0).apic_write(apic::EOI, 0);
    machine.expect_count(VECTOR, 1);
}

/// With KVM_X2APIC_API_USE_32BIT_IDS the address's upper half has the ID's upper bits (7.7).
fn message_with_wide_id() {
    const WIDE: u64 = 300;
    let vm = Vm::with_irqchip();
    let flag = KVM_X2APIC_API_USE_32BIT_IDS;
    expect::ok(
        "KVM_CAP_X2APIC_API",
        vm.enable(KVM_CAP_X2APIC_API, flag.into()),
    );
    let machine = Machine::in_vm(vm, 1);
    machine.handle(VECTOR, Eoi::X2apic);
    let wide = machine.vm.create_vcpu(WIDE);
    machine.prepare(&wide, WIDE as usize);
    let machine = machine.with_vcpus(vec![wide]);
    machine.cpu(0).enable_x2apic();
    let address = msi_address(WIDE as u8) | (WIDE & !0xff) << 32;
    expect::eq(
        "message",
        machine.vm.signal_msi(address, VECTOR.into()),
        Ok(1),
    );
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
}

fn message_wide_id_errors() {
    let vm = Vm::with_irqchip();
    let _vcpu = vm.create_vcpu(0);
    let address = msi_address(0) | 1 << 32;
    expect::that(
        "the upper half is ignored",
        vm.signal_msi(address, 0x61).is_ok(),
    );
    let flag = KVM_X2APIC_API_USE_32BIT_IDS;
    expect::ok(
        "KVM_CAP_X2APIC_API",
        vm.enable(KVM_CAP_X2APIC_API, flag.into()),
    );
    expect::errno("reserved bits", vm.signal_msi(address, 0x61), EINVAL);
    let got = vm.set_routes(&[Route::msi(1, address, 0x61)]);
    expect::errno("reserved bits in a route", got, EINVAL);
}

fn split_create() {
    for pins in [0, 1, 24, 4096] {
        let vm = Vm::with_split_irqchip(pins);
        let vcpu = vm.create_vcpu(0);
        expect::eq(
            "version",
            vcpu.lapic_register(apic::VERSION as usize) & 0xff,
            0x14,
        );
    }
}

fn split_errors() {
    let vm = Vm::new();
    for pins in [4097, 1 << 32, u64::MAX] {
        let got = vm.enable(KVM_CAP_SPLIT_IRQCHIP, pins);
        expect::errno(&format!("{pins} pins"), got, EINVAL);
    }
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        flags: 1,
        ..kvm_enable_cap::default()
    };
    expect::errno("flags", vm.set(ENABLE_CAP, &cap), EINVAL);
    cap.flags = 0;
    cap.cap = 9999;
    expect::errno("no such capability", vm.set(ENABLE_CAP, &cap), EINVAL);
    expect::errno("no memory", vm.fault(ENABLE_CAP.number), EFAULT);
    expect::ok("24 pins", vm.enable(KVM_CAP_SPLIT_IRQCHIP, 24));
    expect::errno("again", vm.enable(KVM_CAP_SPLIT_IRQCHIP, 24), EEXIST);
    let vm = Vm::with_irqchip();
    let got = vm.enable(KVM_CAP_SPLIT_IRQCHIP, 24);
    expect::errno("after KVM_CREATE_IRQCHIP", got, EEXIST);
    let vm = Vm::new();
    let _vcpu = vm.create_vcpu(0);
    let got = vm.enable(KVM_CAP_SPLIT_IRQCHIP, 24);
    expect::errno("with a vCPU", got, EEXIST);
}

/// No PIC, IOAPIC or PIT: their registers are the VMM's.
fn split_has_no_chips() {
    let machine = Machine::in_vm(Vm::with_split_irqchip(24), 1);
    let routes = [Route::pin(1, KVM_IRQCHIP_IOAPIC, 1)];
    expect::errno("a route to a pin", machine.vm.set_routes(&routes), EINVAL);
    expect::eq("GSI 4", machine.vm.irq_line_status(4, true), -1);
    let got = machine.vm.set(CREATE_PIT2, &kvm_pit_config::default());
    expect::errno("KVM_CREATE_PIT2", got, libc::ENOENT);
    let code = crate::code64!("out 0x20, al", "mov [rbx], ecx", "out 0x43, al");
    machine.cpu(0).start(code, |r| r.rbx = 0xfec0_0000);
    for exit in [
        Exit::Out {
            port: 0x20,
            size: 1,
            data: vec![0],
        },
        Exit::MmioWrite {
            gpa: 0xfec0_0000,
            data: vec![0; 4],
        },
        Exit::Out {
            port: 0x43,
            size: 1,
            data: vec![0],
        },
    ] {
        machine.vcpus[0].expect_exit(exit);
    }
}

fn split_message() {
    let machine = Machine::in_vm(Vm::with_split_irqchip(24), 1);
    machine.handle(VECTOR, Eoi::Xapic);
    machine.cpu(0).enable_apic();
    set_routes(&machine.vm, &[Route::msi(4, msi_address(0), VECTOR.into())]);
    machine.vm.irq_line(4, true);
    machine.cpu(0).nop();
    let got = machine.vm.signal_msi(msi_address(0), VECTOR.into());
    expect::eq("KVM_SIGNAL_MSI", got, Ok(1));
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 2);
}

/// The end of a level-triggered message of one of the VMM's pins exits to it.
fn split_eoi() {
    let machine = Machine::in_vm(Vm::with_split_irqchip(24), 1);
    machine.handle(VECTOR, Eoi::None);
    machine.cpu(0).enable_apic();
    let data = u32::from(VECTOR) | DATA_LEVEL;
    set_routes(&machine.vm, &[Route::msi(5, msi_address(0), data)]);
    for count in 1..=2 {
        machine.vm.irq_line(5, true);
        machine.cpu(0).nop();
        machine.expect_count(VECTOR, count);
        let end = crate::code64!("mov dword ptr [rbx], 0", "nop", "out 0xe9, al");
        machine
            .cpu(0)
            .start(end, |r| r.rbx = apic::BASE + u64::from(apic::EOI));
        machine.vcpus[0].expect_exit(Exit::IoapicEoi { vector: VECTOR });
        expect::that("the guest goes on", machine.cpu(0).finish().is_ok());
    }
}

/// Who says that its APICs can keep an EOI to themselves, and whose do (7.7): by default they say so and do not.
fn split_eoi_suppressed() {
    const SUPPRESS: u32 = 1 << 12;
    const CAN_SUPPRESS: u32 = 1 << 24;
    for (flags, can, does) in [
        (0, true, false),
        (ENABLE_SUPPRESSION, true, true),
        (DISABLE_SUPPRESSION, false, false),
    ] {
        let vm = Vm::with_split_irqchip(24);
        expect::ok("KVM_CAP_X2APIC_API", vm.enable(KVM_CAP_X2APIC_API, flags));
        let machine = Machine::in_vm(vm, 1);
        machine.handle(VECTOR, Eoi::None);
        let cpu = machine.cpu(0);
        cpu.enable_apic();
        let version = cpu.apic_read(apic::VERSION);
        expect::eq("can", version & CAN_SUPPRESS != 0, can);
        let spiv = cpu.apic_read(apic::SPIV);
        cpu.apic_write(apic::SPIV, spiv | SUPPRESS);
        let set = cpu.apic_read(apic::SPIV) & SUPPRESS != 0;
        expect::eq("is told to", set, can);

        let data = u32::from(VECTOR) | DATA_LEVEL;
        set_routes(&machine.vm, &[Route::msi(5, msi_address(0), data)]);
        machine.vm.irq_line(5, true);
        cpu.nop();
        machine.expect_count(VECTOR, 1);
        let end = crate::code64!("mov dword ptr [rbx], 0", "nop", "out 0xe9, al");
        cpu.start(end, |r| r.rbx = apic::BASE + u64::from(apic::EOI));
        if !does {
            machine.vcpus[0].expect_exit(Exit::IoapicEoi { vector: VECTOR });
        }
        expect::that("the guest goes on", cpu.finish().is_ok());
    }
}

/// Edge-triggered messages, and those of GSIs beyond the VMM's pins, end in the kernel.
fn split_eoi_of_others() {
    let machine = Machine::in_vm(Vm::with_split_irqchip(8), 1);
    machine.handle_all(VECTOR..VECTOR + 2, Eoi::Xapic);
    machine.cpu(0).enable_apic();
    let level = u32::from(VECTOR) + 1 | DATA_LEVEL;
    set_routes(
        &machine.vm,
        &[
            Route::msi(5, msi_address(0), VECTOR.into()),
            Route::msi(8, msi_address(0), level),
        ],
    );
    machine.vm.irq_line(5, true);
    machine.vm.irq_line(8, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    machine.expect_count(VECTOR + 1, 1);
}

fn x2apic_api_eoi_flags() {
    let both = ENABLE_SUPPRESSION | DISABLE_SUPPRESSION;
    let flags = |vm: &Vm| vm.call(CHECK_EXTENSION, KVM_CAP_X2APIC_API.into());
    let vm = Vm::with_irqchip();
    expect::eq("flags of a VM with an IOAPIC", flags(&vm), Ok(0xb));
    for refused in [ENABLE_SUPPRESSION, both] {
        let got = vm.enable(KVM_CAP_X2APIC_API, refused);
        expect::errno("with an IOAPIC", got, EINVAL);
    }
    let got = vm.enable(KVM_CAP_X2APIC_API, DISABLE_SUPPRESSION);
    expect::ok("with an IOAPIC", got);
    let got = Vm::new().enable(KVM_CAP_X2APIC_API, ENABLE_SUPPRESSION);
    expect::errno("before the controllers", got, EINVAL);
    let vm = Vm::with_split_irqchip(24);
    expect::eq("flags of a split one", flags(&vm), Ok(0xf));
    let got = vm.enable(KVM_CAP_X2APIC_API, both);
    expect::errno("both", got, EINVAL);
}

fn x2apic_api_flags() {
    let vm = Vm::with_irqchip();
    for flags in [0, 1, 2, 3] {
        expect::ok("flags", vm.enable(KVM_CAP_X2APIC_API, flags));
    }
    for bit in 4..64 {
        let got = vm.enable(KVM_CAP_X2APIC_API, 1 << bit);
        expect::errno(&format!("bit {bit}"), got, EINVAL);
    }
}
