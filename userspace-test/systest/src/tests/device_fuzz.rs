// SPDX-License-Identifier: GPL-2.0
//! Nonsense for the devices in the kernel, from guest and VMM: the guest harms itself, its VM can be
//! put right again, and others do not notice.

use std::time::Duration;

use super::fuzz::{survives, Random};
use super::tests;
use crate::code64;
use crate::devices::*;
use crate::eventfd::Event;
use crate::expect;
use crate::guest::{layout, set_mode, Guest, Mode, TRAP_PORT};
use crate::machine::{apic, msr, Eoi, Machine};
use crate::request::*;
use crate::sys::{self, Errno};
use crate::vcpu::Exit;
use crate::vm::Vm;
use kvm_bindings::*;
use libc::{EINTR, EIO};

tests! {
    "device_fuzz":
    apic_registers(60), apic_registers_split(60), x2apic_registers(60), ioapic_registers(60),
    pic_and_pit_ports(60), pv_msrs(60), states(60), calls(60), smi, ends_of_memory,
    ends_of_device_pages, wraps_in_protected_mode,
}

const VECTOR: u8 = 0xd1;

/// Operations of a test with random numbers.
const ROUNDS: usize = 400;

/// A machine with all devices and handlers for all interrupts.
#[track_caller]
fn machine_in(vm: Vm, eoi: Eoi) -> Machine {
    let machine = Machine::in_vm(vm, 2);
    machine.handle_all(32..=255, eoi);
    machine.handle(2, Eoi::None);
    machine
}

/// A machine with all devices in the kernel.
#[track_caller]
pub(super) fn machine() -> Machine {
    let vm = Vm::with_irqchip();
    vm.create_pit2(KVM_PIT_SPEAKER_DUMMY);
    machine_in(vm, Eoi::Xapic)
}

/// One operation, for some milliseconds at most and whatever becomes of it. A vCPU that it put to
/// sleep, or where it should not be, is put right.
#[track_caller]
fn attempt(machine: &Machine, id: usize, code: &[u8], set: impl FnOnce(&mut kvm_regs)) {
    machine.cpu(id).start(code, set);
    sys::block(libc::SIGALRM, false);
    let exit = machine.vcpus[id].run();
    sys::block(libc::SIGALRM, true);
    match exit {
        Ok(Exit::Out {
            port: 0xe9 | TRAP_PORT,
            ..
        }) => {}
        Ok(Exit::MmioRead { .. }) => {
            machine.vcpus[id].answer_mmio(&[0; 8]);
            put_right(machine, id);
        }
        Ok(_) | Err(Errno(EINTR | libc::EAGAIN)) => put_right(machine, id),
        other => panic!("KVM_RUN: expected an exit or EINTR, got {other:x?}"),
    }
}

/// Completes what is under way and makes the vCPU run 64-bit code again.
#[track_caller]
fn put_right(machine: &Machine, id: usize) {
    let vcpu = &machine.vcpus[id];
    vcpu.set_immediate_exit(true);
    let _ = vcpu.run();
    vcpu.set_immediate_exit(false);
    let events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        ..kvm_vcpu_events::default()
    };
    expect::ok("KVM_SET_VCPU_EVENTS", vcpu.set(SET_VCPU_EVENTS, &events));
    let mut sregs = vcpu.sregs();
    sregs.interrupt_bitmap = [0; 4];
    vcpu.set_sregs(&sregs);
    set_mode(vcpu, Mode::Long);
    let state = vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE);
    expect::ok("KVM_SET_MP_STATE", state);
}

/// A number that asks no LAPIC or IOAPIC for an SMI: what follows one is not of these devices.
fn tame(value: u64) -> u64 {
    const SMI: u64 = 2 << 8;
    if value & 0x700 == SMI {
        value ^ SMI
    } else {
        value
    }
}

/// Afterwards the VM works: its devices and vCPUs set back by the VMM.
#[track_caller]
fn expect_works(machine: &Machine, clean: &[kvm_lapic_state; 2]) {
    for (id, state) in clean.iter().enumerate() {
        let vcpu = &machine.vcpus[id];
        let base =
            apic::BASE | msr::APIC_BASE_ENABLE | if id == 0 { msr::APIC_BASE_BSP } else { 0 };
        expect::that("IA32_APIC_BASE", vcpu.set_msr(msr::APIC_BASE, base));
        vcpu.set_lapic(state);
        put_right(machine, id);
        machine.prepare(vcpu, id);
    }
    machine.handle_all(32..=255, Eoi::Xapic);
    sys::set_timer(Duration::ZERO, Duration::ZERO);
    machine.cpu(0).nop();
    for (id, other) in [(0u32, 1), (1, 0)] {
        let cpu = machine.cpu(id as usize);
        cpu.enable_apic();
        machine.cpu(other).enable_apic();
        cpu.apic_write(apic::TPR, 0);
        machine.cpu(other).apic_write(apic::TPR, 0);
        let before = machine.count(VECTOR);
        cpu.apic_write(apic::ICR2, (other as u32) << 24);
        cpu.apic_write(apic::ICR, VECTOR.into());
        machine.cpu(other).nop();
        machine.expect_count(VECTOR, before + 1);
    }
}

fn clean_state(machine: &Machine) -> [kvm_lapic_state; 2] {
    [machine.vcpus[0].lapic(), machine.vcpus[1].lapic()]
}

fn store_code(size: usize) -> &'static [u8] {
    match size {
        0 => code64!("mov [rbx], cl", "out 0xe9, al"),
        1 => code64!("mov [rbx], cx", "out 0xe9, al"),
        2 => code64!("mov [rbx], ecx", "out 0xe9, al"),
        _ => code64!("mov [rbx], rcx", "out 0xe9, al"),
    }
}

fn load_code(size: usize) -> &'static [u8] {
    match size {
        0 => code64!("mov al, [rbx]", "out 0xe9, al"),
        1 => code64!("mov ax, [rbx]", "out 0xe9, al"),
        2 => code64!("mov eax, [rbx]", "out 0xe9, al"),
        _ => code64!("mov rax, [rbx]", "out 0xe9, al"),
    }
}

/// Random accesses to a page: registers where they are, and anything in between.
#[track_caller]
fn access_page(machine: &Machine, random: &mut Random, page: u64, registers: &[u32]) {
    for _ in 0..ROUNDS {
        let id = random.below(2);
        let offset = if random.below(4) == 0 {
            random.next() % 0x1000
        } else {
            random.pick(registers).into()
        };
        let (gpa, value) = (page + offset, tame(random.number()));
        let size = if random.below(4) == 0 {
            random.below(4)
        } else {
            2
        };
        if random.below(3) == 0 {
            attempt(machine, id, load_code(size), |r| r.rbx = gpa);
        } else {
            attempt(machine, id, store_code(size), |r| {
                (r.rbx, r.rcx) = (gpa, value)
            });
        }
    }
}

const APIC_REGISTERS: &[u32] = &[
    0x20, 0x30, 0x80, 0x90, 0xa0, 0xb0, 0xb0, 0xd0, 0xe0, 0xf0, 0x100, 0x170, 0x200, 0x280, 0x2f0,
    0x300, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x390, 0x3e0, 0x3f0,
];

fn apic_registers() {
    survives(|random| {
        let machine = machine();
        let clean = clean_state(&machine);
        access_page(&machine, random, apic::BASE, APIC_REGISTERS);
        expect_works(&machine, &clean);
    });
}

fn apic_registers_split() {
    survives(|random| {
        let machine = machine_in(Vm::with_split_irqchip(24), Eoi::Xapic);
        let clean = clean_state(&machine);
        let level = Route::msi(3, msi_address(0), u32::from(VECTOR) | 1 << 15);
        expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&[level]));
        access_page(&machine, random, apic::BASE, APIC_REGISTERS);
        expect::ok("KVM_SET_GSI_ROUTING", machine.vm.set_routes(&[]));
        expect_works(&machine, &clean);
    });
}

fn x2apic_registers() {
    survives(|random| {
        let machine = machine();
        let clean = clean_state(&machine);
        for _ in 0..ROUNDS {
            let id = random.below(2);
            let index = match random.below(8) {
                0 => msr::APIC_BASE,
                1 => msr::TSC_DEADLINE,
                2 => msr::X2APIC + random.below(256) as u32,
                _ => msr::X2APIC + random.pick(APIC_REGISTERS) / 16,
            };
            let value = if index == msr::APIC_BASE {
                apic::BASE | (random.next() & 0xd00)
            } else {
                tame(random.number())
            };
            if random.below(3) == 0 {
                attempt(&machine, id, code64!("rdmsr", "out 0xe9, al"), |r| {
                    r.rcx = index.into();
                });
            } else {
                attempt(&machine, id, code64!("wrmsr", "out 0xe9, al"), |r| {
                    (r.rcx, r.rax, r.rdx) = (index.into(), value & 0xffff_ffff, value >> 32);
                });
            }
        }
        expect_works(&machine, &clean);
    });
}

fn ioapic_registers() {
    survives(|random| {
        let machine = machine();
        let clean = clean_state(&machine);
        for id in 0..2 {
            machine.cpu(id).enable_apic();
        }
        let pins = machine.vm.ioapic();
        for round in 0..8 {
            access_page(&machine, random, 0xfec0_0000, &[0, 0x10, 0x10, 0x40]);
            for _ in 0..8 {
                let register = 0x10 + random.below(48) as u64;
                let value = tame(random.number());
                attempt(&machine, 0, store_code(2), |r| {
                    (r.rbx, r.rcx) = (0xfec0_0000, register);
                });
                attempt(&machine, 0, store_code(2), |r| {
                    (r.rbx, r.rcx) = (0xfec0_0010, value);
                });
                machine
                    .vm
                    .irq_line(random.below(24) as u32, random.below(2) == 0);
            }
            if round % 2 == 1 {
                access_page(&machine, random, apic::BASE, &[0xb0]);
            }
        }
        machine.vm.set_ioapic(&pins);
        expect_works(&machine, &clean);
    });
}

fn pic_and_pit_ports() {
    const PORTS: &[u16] = &[
        0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x43, 0x61,
    ];
    survives(|random| {
        let machine = machine();
        let clean = clean_state(&machine);
        for _ in 0..2 * ROUNDS {
            let (port, value) = (random.pick(PORTS), random.next());
            let code: &[u8] = match random.below(8) {
                0 => code64!("in ax, dx", "out 0xe9, al"),
                1 => code64!("out dx, ax", "out 0xe9, al"),
                2 => code64!("out dx, eax", "out 0xe9, al"),
                3 | 4 => code64!("in al, dx", "out 0xe9, al"),
                _ => code64!("out dx, al", "out 0xe9, al"),
            };
            attempt(&machine, random.below(2), code, |r| {
                (r.rdx, r.rax) = (port.into(), value);
            });
            if random.below(4) == 0 {
                machine
                    .vm
                    .irq_line(random.below(16) as u32, random.below(2) == 0);
            }
        }
        expect_works(&machine, &clean);
    });
}

fn pv_msrs() {
    const MSRS: &[u32] = &[
        0x11,
        0x12,
        0x4b56_4d00,
        0x4b56_4d01,
        0x4b56_4d02,
        0x4b56_4d03,
        0x4b56_4d04,
        0x4b56_4d05,
        0x4b56_4d06,
        0x4b56_4d07,
    ];
    survives(|random| {
        let machine = machine();
        let clean = clean_state(&machine);
        for id in 0..2 {
            machine.cpu(id).enable_apic();
        }
        for _ in 0..ROUNDS {
            let index = random.pick(MSRS);
            // The handlers' books and tables are better left alone: shared memory lies behind.
            let value = match random.below(4) {
                0 => random.number() | 1 << 40,
                1 => layout::MEMORY as u64 - random.next() % 128,
                2 => layout::MMIO + random.next() % 4096,
                _ => layout::DATA + 0x4000 + random.next() % 0x4000,
            };
            attempt(
                &machine,
                random.below(2),
                code64!("wrmsr", "out 0xe9, al"),
                |r| {
                    (r.rcx, r.rax, r.rdx) = (index.into(), value & 0xffff_ffff, value >> 32);
                },
            );
            if random.below(8) == 0 {
                let _ = machine.vm.signal_msi(msi_address(0), VECTOR.into());
            }
        }
        for &index in MSRS {
            for vcpu in &machine.vcpus {
                vcpu.set_msr(index, 0);
            }
        }
        expect_works(&machine, &clean);
    });
}

/// States that no device can have, from the VMM.
fn states() {
    survives(|random| {
        let machine = machine();
        let clean = clean_state(&machine);
        let (pins, timer) = (machine.vm.ioapic(), machine.vm.get(GET_PIT2));
        let timer = expect::ok("KVM_GET_PIT2", timer);
        let pics = [0, 1].map(|id| machine.vm.pic(id));
        for round in 0..60 {
            let mut lapic = clean[round % 2];
            for _ in 0..8 {
                let offset = random.below(64) * 16;
                set_lapic_register(&mut lapic, offset, tame(random.number()) as u32);
            }
            let _ = machine.vcpus[round % 2].set(SET_LAPIC, &lapic);
            let mut chip = machine.vm.ioapic();
            chip.ioregsel = random.number() as u32;
            chip.irr = random.number() as u32;
            chip.redirtbl = chip.redirtbl.map(|_| tame(random.number()));
            machine.vm.set_ioapic(&chip);
            let mut pic = pics[round % 2];
            pic.pic.imr = random.next() as u8;
            pic.pic.irr = random.next() as u8;
            pic.pic.isr = random.next() as u8;
            pic.pic.priority_add = random.next() as u8;
            pic.pic.read_reg_select = random.next() as u8;
            pic.pic.init_state = random.next() as u8;
            machine.vm.set_pic(&pic);
            let mut state = timer;
            for channel in &mut state.channels {
                channel.count = random.number() as u32;
                channel.mode = random.next() as u8;
                channel.rw_mode = random.next() as u8;
                channel.read_state = random.next() as u8;
                channel.write_state = random.next() as u8;
                channel.count_load_time = random.number() as i64;
            }
            let _ = machine.vm.set(SET_PIT2, &state);
            attempt(
                &machine,
                round % 2,
                code64!("in al, 0x40", "out 0xe9, al"),
                |_| {},
            );
            attempt(
                &machine,
                round % 2,
                code64!("in al, 0x20", "out 0xe9, al"),
                |_| {},
            );
            attempt(&machine, round % 2, load_code(2), |r| {
                r.rbx = apic::BASE + 0x390
            });
        }
        machine.vm.set_ioapic(&pins);
        pics.iter().for_each(|pic| machine.vm.set_pic(pic));
        expect::ok("KVM_SET_PIT2", machine.vm.set(SET_PIT2, &timer));
        expect_works(&machine, &clean);
    });
}

/// Calls with random arguments.
fn calls() {
    survives(|random| {
        let machine = machine();
        let clean = clean_state(&machine);
        let events: Vec<_> = (0..4).map(|_| Event::new()).collect();
        for _ in 0..ROUNDS {
            let event = &events[random.below(4)];
            match random.below(7) {
                0 => {
                    let route = Route {
                        gsi: random.below(4100) as u32,
                        kind: random.below(6) as u32,
                        flags: random.below(3) as u32,
                        pad: 0,
                        to: std::array::from_fn(|_| tame(random.number()) as u32),
                    };
                    let _ = machine.vm.set_routes(&[route]);
                }
                1 => {
                    let data = tame(random.number()) as u32;
                    let _ = machine.vm.signal_msi(random.number(), data);
                }
                2 => machine
                    .vm
                    .irq_line(random.number() as u32, random.below(2) == 0),
                3 => {
                    let request = kvm_irqfd {
                        fd: event.fd() as u32,
                        gsi: random.number() as u32,
                        flags: random.below(4) as u32,
                        resamplefd: events[random.below(4)].fd() as u32,
                        ..kvm_irqfd::default()
                    };
                    let _ = machine.vm.set(IRQFD, &request);
                    event.signal();
                }
                4 => {
                    let request = kvm_ioeventfd {
                        datamatch: random.number(),
                        addr: random.number(),
                        len: random.below(10) as u32,
                        fd: event.fd(),
                        flags: random.below(8) as u32,
                        ..kvm_ioeventfd::default()
                    };
                    let _ = machine.vm.set(IOEVENTFD, &request);
                }
                5 => {
                    let zone = CoalescedZone {
                        addr: random.number() | 1 << 33,
                        size: random.number() as u32,
                        pio: random.below(3) as u32,
                    };
                    let _ = machine.vm.set(REGISTER_COALESCED_MMIO, &zone);
                    let _ = machine.vm.set(UNREGISTER_COALESCED_MMIO, &zone);
                }
                _ => {
                    let data = kvm_clock_data {
                        clock: random.number(),
                        flags: random.number() as u32,
                        realtime: random.number(),
                        ..kvm_clock_data::default()
                    };
                    let _ = machine.vm.set(SET_CLOCK, &data);
                }
            }
            attempt(&machine, 0, code64!("nop", "out 0xe9, al"), |_| {});
        }
        expect_works(&machine, &clean);
    });
}

/// An SMI of one's own: what KVM makes of it depends on whether it emulates that mode.
fn smi() {
    survives(|_| {
        let machine = machine();
        machine.cpu(0).enable_apic();
        let store = code64!("mov [rbx], ecx", "out 0xe9, al");
        machine.cpu(0).start(store, |r| {
            (r.rbx, r.rcx) = (apic::BASE + u64::from(apic::ICR), 1 << 18 | 2 << 8);
        });
        for _ in 0..3 {
            sys::block(libc::SIGALRM, false);
            let _ = machine.vcpus[0].run();
            sys::block(libc::SIGALRM, true);
        }
        // A VM that did not survive its own mode says so by EIO.
        let got = machine.vm.signal_msi(msi_address(1), 2 << 8);
        expect::that(
            &format!("an answer or EIO (got {got:?})"),
            got.is_ok() || got == Err(Errno(EIO)),
        );
    });
}

/// Accesses that lie half in memory and half behind it, and at the ends of what can be addressed.
fn ends_of_memory() {
    survives(|_| {
        let machine = machine();
        let clean = clean_state(&machine);
        let end = layout::MEMORY as u64;
        let ends = [
            end,
            layout::MMIO,
            1 << 32,
            1 << 47,
            u64::MAX,
            0,
            apic::BASE,
            0xfec0_0000,
        ];
        for place in ends {
            for distance in [0u64, 1, 2, 3, 4, 7, 8] {
                let at = place.wrapping_sub(distance);
                for size in 0..4 {
                    attempt(&machine, 0, load_code(size), |r| r.rbx = at);
                    // Not over the handlers' tables at 0.
                    if place != 0 {
                        attempt(&machine, 0, store_code(size), |r| r.rbx = at);
                    }
                }
            }
        }
        expect_works(&machine, &clean);
    });
}

fn ends_of_device_pages() {
    survives(|_| {
        let machine = machine();
        let clean = clean_state(&machine);
        for page in [apic::BASE, 0xfec0_0000] {
            for offset in [0xff8, 0xff9, 0xffc, 0xffd, 0xfff, 0x1000, 0x1004] {
                for size in 0..4 {
                    attempt(&machine, 0, load_code(size), |r| r.rbx = page + offset);
                    attempt(&machine, 0, store_code(size), |r| r.rbx = page + offset);
                }
            }
            let copy = code64!("cld", "rep movsb", "out 0xe9, al");
            attempt(&machine, 0, copy, |r| {
                (r.rsi, r.rdi, r.rcx) = (page + 0xff0, layout::DATA + 0x4000, 32);
            });
            attempt(&machine, 0, copy, |r| {
                (r.rdi, r.rsi, r.rcx) = (page + 0xff0, layout::DATA + 0x4000, 32);
            });
        }
        expect_works(&machine, &clean);
    });
}

/// With flat segments of 4 GiB an access at the end of the address space goes on at 0.
fn wraps_in_protected_mode() {
    survives(|_| {
        for mode in [Mode::Protected, Mode::Paging32, Mode::Pae] {
            for distance in [1u64, 2, 3, 4, 7, 8] {
                let code = crate::code32!(
                    "mov eax, [ebx]",
                    "mov [ebx], eax",
                    "cld",
                    "mov ecx, 4",
                    "mov edi, ebx",
                    "rep stosd",
                    "cli",
                    "out 0xe9, al"
                );
                let guest = Guest::in_vm(Vm::with_irqchip(), mode, code);
                guest.vcpu.set_regs(&kvm_regs {
                    rbx: (1 << 32) - distance,
                    ..guest.vcpu.regs()
                });
                for _ in 0..40 {
                    sys::block(libc::SIGALRM, false);
                    let exit = guest.vcpu.run();
                    sys::block(libc::SIGALRM, true);
                    match exit {
                        Ok(Exit::MmioRead { .. }) => guest.vcpu.answer_mmio(&[0; 8]),
                        Ok(Exit::MmioWrite { .. }) => {}
                        _ => break,
                    }
                }
            }
        }
    });
}
