// SPDX-License-Identifier: GPL-2.0
//! Interrupt controllers in the kernel: KVM_CREATE_IRQCHIP (api.rst 4.24), KVM_IRQ_LINE (4.25),
//! KVM_GET/SET_IRQCHIP (4.26, 4.27), KVM_SET_BOOT_CPU_ID (4.41), the capabilities they come with.

use kvm_bindings::*;
use libc::{EBUSY, EEXIST, EFAULT, EINVAL, ENXIO};

use super::tests;
use crate::devices::*;
use crate::expect;
use crate::machine::{apic, msr, Eoi, Machine};
use crate::request::*;
use crate::vm::{Kvm, Vm};

tests! {
    "irqchip":
    capabilities, create, create_after_vcpu, create_after_split, get_pic, set_pic, get_ioapic,
    set_ioapic, bad_chips, chips_without_irqchip, line_without_irqchip, line_edge, line_level,
    line_masked, line_of_no_route, line_status_edge, line_status_level, line_status_of_pic,
    line_errors, interrupt_is_refused, boot_cpu_id, boot_cpu_id_errors, bus_cycle,
    bus_cycle_errors,
}

/// A pin that only the IOAPIC has.
const PIN: u32 = 20;
const VECTOR: u8 = 0x51;
/// Bits of a redirection entry (SDM vol. 3 has none; 82093AA datasheet, 3.2.4).
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const MASKED: u64 = 1 << 16;

fn capabilities() {
    let kvm = Kvm::open();
    let vm = Vm::with_irqchip();
    for (name, number, want) in [
        ("IRQCHIP", KVM_CAP_IRQCHIP, 1),
        ("PIT", KVM_CAP_PIT, 1),
        ("PIT2", KVM_CAP_PIT2, 1),
        ("PIT_STATE2", KVM_CAP_PIT_STATE2, 1),
        ("REINJECT_CONTROL", KVM_CAP_REINJECT_CONTROL, 1),
        ("IRQ_ROUTING", KVM_CAP_IRQ_ROUTING, 4096),
        ("IRQ_INJECT_STATUS", KVM_CAP_IRQ_INJECT_STATUS, 1),
        ("IRQFD", KVM_CAP_IRQFD, 1),
        ("IRQFD_RESAMPLE", KVM_CAP_IRQFD_RESAMPLE, 1),
        ("IOEVENTFD", KVM_CAP_IOEVENTFD, 1),
        ("IOEVENTFD_NO_LENGTH", KVM_CAP_IOEVENTFD_NO_LENGTH, 1),
        ("IOEVENTFD_ANY_LENGTH", KVM_CAP_IOEVENTFD_ANY_LENGTH, 1),
        ("COALESCED_MMIO", KVM_CAP_COALESCED_MMIO, 2),
        ("COALESCED_PIO", KVM_CAP_COALESCED_PIO, 1),
        ("SIGNAL_MSI", KVM_CAP_SIGNAL_MSI, 1),
        ("SET_BOOT_CPU_ID", KVM_CAP_SET_BOOT_CPU_ID, 1),
        ("SPLIT_IRQCHIP", KVM_CAP_SPLIT_IRQCHIP, 1),
        ("TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER, 1),
        (
            "IOAPIC_POLARITY_IGNORED",
            KVM_CAP_IOAPIC_POLARITY_IGNORED,
            1,
        ),
        ("VAPIC", KVM_CAP_VAPIC, 1),
        ("CLOCKSOURCE", KVM_CAP_CLOCKSOURCE, 1),
        ("KVMCLOCK_CTRL", KVM_CAP_KVMCLOCK_CTRL, 1),
        ("ASYNC_PF", KVM_CAP_ASYNC_PF, 1),
        ("ASYNC_PF_INT", KVM_CAP_ASYNC_PF_INT, 1),
        ("STEAL_TIME", KVM_CAP_STEAL_TIME, 1),
        (
            "ENFORCE_PV_FEATURE_CPUID",
            KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
            1,
        ),
        ("X86_APIC_BUS_CYCLES_NS", KVM_CAP_X86_APIC_BUS_CYCLES_NS, 1),
        ("ENABLE_CAP", KVM_CAP_ENABLE_CAP, 1),
        ("ENABLE_CAP_VM", KVM_CAP_ENABLE_CAP_VM, 1),
        ("VCPU_ATTRIBUTES", KVM_CAP_VCPU_ATTRIBUTES, 1),
    ] {
        for (where_asked, value) in [
            ("the system", kvm.extension(number)),
            (
                "a VM",
                vm.call(CHECK_EXTENSION, number.into()).unwrap_or(-1),
            ),
        ] {
            expect::eq(&format!("KVM_CAP_{name} of {where_asked}"), value, want);
        }
    }
    // KVM_CLOCK_REALTIME, KVM_CLOCK_HOST_TSC and KVM_CLOCK_TSC_STABLE.
    expect::eq(
        "KVM_CAP_ADJUST_CLOCK",
        kvm.extension(KVM_CAP_ADJUST_CLOCK),
        0xe,
    );
    let x2apic = kvm.extension(KVM_CAP_X2APIC_API);
    expect::eq("KVM_CAP_X2APIC_API of the system", x2apic, 0xf);
}

fn create() {
    let vm = Vm::with_irqchip();
    expect::errno("again", vm.call(CREATE_IRQCHIP, 0), EEXIST);
    let _vcpu = vm.create_vcpu(0);
    expect::errno("again, with a vCPU", vm.call(CREATE_IRQCHIP, 0), EEXIST);
}

fn create_after_vcpu() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    expect::errno("with a vCPU", vm.call(CREATE_IRQCHIP, 0), EINVAL);
    drop(vcpu);
    expect::errno("after a vCPU", vm.call(CREATE_IRQCHIP, 0), EINVAL);
}

fn create_after_split() {
    let vm = Vm::with_split_irqchip(24);
    expect::errno("after the split one", vm.call(CREATE_IRQCHIP, 0), EEXIST);
}

fn get_pic() {
    let vm = Vm::with_irqchip();
    let _vcpu = vm.create_vcpu(0);
    for (id, elcr_mask) in [
        (KVM_IRQCHIP_PIC_MASTER, 0xf8),
        (KVM_IRQCHIP_PIC_SLAVE, 0xde),
    ] {
        let chip = vm.pic(id);
        expect::eq("chip_id", chip.chip_id, id);
        expect::eq("IRR, ISR", (chip.pic.irr, chip.pic.isr), (0, 0));
        expect::eq("ELCR", chip.pic.elcr, 0);
        expect::eq("ELCR's mask", chip.pic.elcr_mask, elcr_mask);
    }
}

fn set_pic() {
    let vm = Vm::with_irqchip();
    for id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE] {
        let mut chip = vm.pic(id);
        chip.pic.imr = 0xfb - id as u8;
        chip.pic.irq_base = 0x20 + 8 * id as u8;
        chip.pic.priority_add = 3;
        chip.pic.special_mask = 1;
        chip.pic.elcr = 0x20;
        chip.pic.irr = 0x40;
        vm.set_pic(&chip);
        expect::eq("what was set", vm.pic(id), chip);
    }
    // Each is its own.
    expect::eq(
        "IMR of the master",
        vm.pic(KVM_IRQCHIP_PIC_MASTER).pic.imr,
        0xfb,
    );
}

fn get_ioapic() {
    let vm = Vm::with_irqchip();
    let chip = vm.ioapic();
    expect::eq("base address", chip.base_address, 0xfec0_0000);
    expect::eq("ID", chip.id, 0);
    expect::eq("IRR", chip.irr, 0);
    for (pin, &entry) in chip.redirtbl.iter().enumerate() {
        expect::eq(&format!("redirection entry {pin}"), entry, MASKED);
    }
}

fn set_ioapic() {
    let vm = Vm::with_irqchip();
    let mut chip = vm.ioapic();
    chip.id = 5;
    chip.ioregsel = 0x10;
    for (pin, entry) in chip.redirtbl.iter_mut().enumerate() {
        *entry = MASKED | 0x30 + pin as u64 | (pin as u64) << 56;
    }
    vm.set_ioapic(&chip);
    let got = vm.ioapic();
    expect::eq("ID and IOREGSEL", (got.id, got.ioregsel), (5, 0x10));
    expect::eq("redirection table", got.redirtbl, chip.redirtbl);
}

fn bad_chips() {
    let vm = Vm::with_irqchip();
    for id in [3, 4, 255, u32::MAX] {
        let mut chip = PicChip::of(id);
        expect::errno("KVM_GET_IRQCHIP", vm.update(GET_PIC, &mut chip), EINVAL);
        expect::errno("KVM_SET_IRQCHIP", vm.update(SET_PIC, &mut chip), EINVAL);
    }
    expect::errno("no memory to get", vm.fault(GET_PIC.number), EFAULT);
    expect::errno("no memory to set", vm.fault(SET_PIC.number), EFAULT);
}

fn chips_without_irqchip() {
    for vm in [Vm::new(), Vm::with_split_irqchip(24)] {
        for id in 0..4 {
            let mut chip = PicChip::of(id);
            expect::errno("KVM_GET_IRQCHIP", vm.update(GET_PIC, &mut chip), ENXIO);
            expect::errno("KVM_SET_IRQCHIP", vm.update(SET_PIC, &mut chip), ENXIO);
        }
        expect::errno("no memory", vm.fault(GET_PIC.number), EFAULT);
    }
}

fn line_without_irqchip() {
    let vm = Vm::new();
    let mut line = IrqLevel { irq: 1, level: 1 };
    expect::errno("KVM_IRQ_LINE", vm.set(IRQ_LINE, &line), ENXIO);
    let got = vm.update(IRQ_LINE_STATUS, &mut line);
    expect::errno("KVM_IRQ_LINE_STATUS", got, ENXIO);
}

/// A machine whose LAPIC is on and whose redirection entry of [`PIN`] is `entry`.
#[track_caller]
fn machine_with(entry: u64, eoi: Eoi) -> Machine {
    let machine = Machine::new(1);
    machine.handle(VECTOR, eoi);
    machine.cpu(0).enable_apic();
    set_entry(&machine, entry);
    machine
}

#[track_caller]
fn set_entry(machine: &Machine, entry: u64) {
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[PIN as usize] = entry | u64::from(VECTOR);
    machine.vm.set_ioapic(&chip);
}

fn line_edge() {
    let machine = machine_with(0, Eoi::Xapic);
    for count in 1..=3 {
        machine.vm.irq_line(PIN, true);
        // What was delivered is not to come again where this state is restored.
        expect::eq("IRR of the IOAPIC", machine.vm.ioapic().irr >> PIN & 1, 0);
        machine.vm.irq_line(PIN, true);
        machine.cpu(0).nop();
        machine.expect_count(VECTOR, count);
        machine.vm.irq_line(PIN, false);
        machine.cpu(0).nop();
        machine.expect_count(VECTOR, count);
        expect::eq("IRR of the IOAPIC", machine.vm.ioapic().irr >> PIN & 1, 0);
    }
}

/// While the line is up each EOI brings the next interrupt.
fn line_level() {
    let machine = machine_with(LEVEL, Eoi::None);
    let remote_irr = || machine.vm.ioapic().redirtbl[PIN as usize] & REMOTE_IRR != 0;
    expect::eq("remote IRR at first", remote_irr(), false);
    machine.vm.irq_line(PIN, true);
    expect::eq("remote IRR with the line up", remote_irr(), true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    for count in 2..=4 {
        machine.cpu(0).apic_write(apic::EOI, 0);
        machine.cpu(0).nop();
        machine.expect_count(VECTOR, count);
        expect::eq("remote IRR with the line up", remote_irr(), true);
    }
    machine.vm.irq_line(PIN, false);
    expect::eq("remote IRR before the EOI", remote_irr(), true);
    machine.cpu(0).apic_write(apic::EOI, 0);
    machine.cpu(0).nop();
    expect::eq("remote IRR after the EOI", remote_irr(), false);
    machine.expect_count(VECTOR, 4);
    expect::eq(
        "TMR bit of the vector",
        machine.vcpus[0].lapic_register(apic::TMR as usize + 0x10 * (VECTOR as usize / 32))
            >> (VECTOR % 32)
            & 1,
        1,
    );
}

/// An edge on a masked pin waits in the IOAPIC; a level is looked at again.
fn line_masked() {
    let machine = machine_with(MASKED | LEVEL, Eoi::Xapic);
    machine.vm.irq_line(PIN, true);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 0);
    machine.vm.irq_line(PIN, false);
    set_entry(&machine, LEVEL);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 0);
    set_entry(&machine, MASKED | LEVEL);
    machine.vm.irq_line(PIN, true);
    machine.vm.set_ioapic(&{
        let mut chip = machine.vm.ioapic();
        chip.redirtbl[PIN as usize] &= !MASKED;
        chip
    });
    machine.cpu(0).masked().nop();
    machine.vm.irq_line(PIN, false);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
}

fn line_of_no_route() {
    let vm = Vm::with_irqchip();
    for irq in [24, 100, 4095, 4096, u32::MAX] {
        vm.irq_line(irq, true);
        expect::eq(
            &format!("status of GSI {irq}"),
            vm.irq_line_status(irq, true),
            -1,
        );
    }
}

fn line_status_edge() {
    let machine = machine_with(0, Eoi::Xapic);
    expect::eq("delivered", machine.vm.irq_line_status(PIN, true), 1);
    expect::eq("no edge", machine.vm.irq_line_status(PIN, true), 0);
    expect::eq("down", machine.vm.irq_line_status(PIN, false), 1);
    machine.cpu(0).nop();
    machine.expect_count(VECTOR, 1);
    set_entry(&machine, MASKED);
    expect::eq("masked", machine.vm.irq_line_status(PIN, true), -1);
}

fn line_status_level() {
    let machine = machine_with(LEVEL, Eoi::None);
    expect::eq("delivered", machine.vm.irq_line_status(PIN, true), 1);
    expect::eq("waits for EOI", machine.vm.irq_line_status(PIN, true), -1);
    machine.cpu(0).nop();
    expect::eq("waits for EOI", machine.vm.irq_line_status(PIN, true), -1);
    expect::eq("down", machine.vm.irq_line_status(PIN, false), 1);
    machine.cpu(0).apic_write(apic::EOI, 0);
    expect::eq("delivered", machine.vm.irq_line_status(PIN, true), 1);
}

/// GSI 4 reaches the PIC and the IOAPIC; the answer is the sum of what was not ignored.
fn line_status_of_pic() {
    let vm = Vm::with_irqchip();
    let _vcpu = vm.create_vcpu(0);
    let mut pic = vm.pic(KVM_IRQCHIP_PIC_MASTER);
    pic.pic.imr = 0;
    vm.set_pic(&pic);
    expect::eq("delivered to the PIC", vm.irq_line_status(4, true), 1);
    vm.irq_line(4, false);
    expect::eq("still pending", vm.irq_line_status(4, true), 0);
    vm.irq_line(4, false);
    pic = vm.pic(KVM_IRQCHIP_PIC_MASTER);
    pic.pic.imr = 0xff;
    pic.pic.irr = 0;
    vm.set_pic(&pic);
    expect::eq("masked in both", vm.irq_line_status(4, true), -1);
}

fn line_errors() {
    for vm in [Vm::new(), Vm::with_irqchip()] {
        expect::errno("KVM_IRQ_LINE", vm.fault(IRQ_LINE.number), EFAULT);
        expect::errno(
            "KVM_IRQ_LINE_STATUS",
            vm.fault(IRQ_LINE_STATUS.number),
            EFAULT,
        );
    }
}

/// With the controllers in the kernel the VMM has no interrupts to queue; with the LAPICs alone it
/// may hand on one of its PIC's, once.
fn interrupt_is_refused() {
    let machine = Machine::new(1);
    expect::errno("KVM_INTERRUPT", machine.vcpus[0].interrupt(0x40), ENXIO);
    let split = Machine::in_vm(Vm::with_split_irqchip(24), 1);
    split.handle(0x40, Eoi::None);
    split.cpu(0).masked().nop();
    expect::ok("KVM_INTERRUPT", split.vcpus[0].interrupt(0x40));
    expect::errno(
        "KVM_INTERRUPT again",
        split.vcpus[0].interrupt(0x41),
        EEXIST,
    );
    expect::errno("vector 256", split.vcpus[0].interrupt(256), EINVAL);
    split.cpu(0).nop();
    split.expect_count(0x40, 1);
}

/// The vCPU with that id is the bootstrap processor: runnable, and says so in IA32_APIC_BASE.
fn boot_cpu_id() {
    for boot in [0, 1, 3] {
        let vm = Vm::new();
        expect::ok("KVM_SET_BOOT_CPU_ID", vm.call(SET_BOOT_CPU_ID, boot));
        expect::ok("KVM_CREATE_IRQCHIP", vm.call(CREATE_IRQCHIP, 0));
        for id in 0..4 {
            let vcpu = vm.create_vcpu(id);
            let base = vcpu.msr(msr::APIC_BASE).unwrap_or(0);
            let what = format!("vCPU {id} of a VM started by {boot}");
            expect::eq(&what, base & msr::APIC_BASE_BSP != 0, id == boot);
            let state = if id == boot {
                KVM_MP_STATE_RUNNABLE
            } else {
                KVM_MP_STATE_UNINITIALIZED
            };
            expect::eq(&what, vcpu.mp_state(), state);
        }
    }
}

fn boot_cpu_id_errors() {
    let kvm = Kvm::open();
    let vm = kvm.create_vm();
    let limit = kvm.extension(KVM_CAP_MAX_VCPU_ID) as u64;
    for id in [limit + 1, 1 << 31, u64::MAX] {
        expect::errno(&format!("id {id:#x}"), vm.call(SET_BOOT_CPU_ID, id), EINVAL);
    }
    let vcpu = vm.create_vcpu(0);
    for id in [0, 1, u64::MAX] {
        let got = vm.call(SET_BOOT_CPU_ID, id);
        expect::errno(&format!("id {id:#x} with a vCPU"), got, EBUSY);
    }
    drop(vcpu);
    expect::errno("after a vCPU", vm.call(SET_BOOT_CPU_ID, 0), EBUSY);
}

/// KVM_CAP_X86_APIC_BUS_CYCLES_NS (7.36): a slower bus makes the timer's count last longer.
fn bus_cycle() {
    let vm = Vm::with_irqchip();
    let cycle = 100;
    expect::ok("20 MHz", vm.enable(KVM_CAP_X86_APIC_BUS_CYCLES_NS, cycle));
    let told = vm.call(CHECK_EXTENSION, KVM_CAP_X86_APIC_BUS_CYCLES_NS.into());
    expect::eq("cycle of the VM", told, Ok(cycle as i32));
    let slow = Machine::in_vm(vm, 1);
    let fast = Machine::new(1);
    let ticks = |machine: &Machine| {
        let cpu = machine.cpu(0);
        cpu.enable_apic();
        cpu.apic_write(apic::TDCR, 0xb);
        cpu.apic_write(apic::TMICT, u32::MAX);
        cpu.spin(1_000_000);
        u32::MAX - cpu.apic_read(apic::TMCCT)
    };
    let (slow, fast) = (ticks(&slow), ticks(&fast));
    expect::that(
        &format!("many fewer ticks with the slow bus ({slow}, {fast})"),
        slow > 0 && u64::from(slow) * 10 < u64::from(fast),
    );
}

fn bus_cycle_errors() {
    let cap = KVM_CAP_X86_APIC_BUS_CYCLES_NS;
    let vm = Vm::new();
    expect::errno("without an irqchip", vm.enable(cap, 25), ENXIO);
    let vm = Vm::with_irqchip();
    expect::errno("no cycle", vm.enable(cap, 0), EINVAL);
    expect::errno("a cycle too long", vm.enable(cap, (1 << 25) + 1), EINVAL);
    expect::errno("a cycle too long", vm.enable(cap, u64::MAX), EINVAL);
    expect::ok("at most 2^32 * 128 * n ns", vm.enable(cap, 1 << 25));
    let _vcpu = vm.create_vcpu(0);
    expect::errno("with a vCPU", vm.enable(cap, 25), EINVAL);
}
