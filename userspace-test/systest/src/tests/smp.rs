// SPDX-License-Identifier: GPL-2.0
//! Processors that start, halt and wake: INIT and SIPI (SDM vol. 3, 10.4), KVM_GET/SET_MP_STATE
//! (api.rst 4.38, 4.39), HLT in the kernel.

use std::time::Duration;

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::expect;
use crate::guest::{set_mode, Mode};
use crate::machine::{apic, msr, Cpu, Eoi, Machine};
use crate::request::*;
use crate::statistics::Stats;
use crate::sys::{self, Errno, ThreadId};
use crate::vcpu::Exit;
use crate::vm::Vm;
use kvm_bindings::*;
use libc::{EAGAIN, EINTR, EINVAL, SIGUSR1};

tests! {
    "smp":
    states_at_first, states_round_trip, states_without_irqchip, bad_states, sipi_received,
    uninitialized_waits, init_then_sipi, sipi_without_init, second_sipi, init_resets,
    init_by_shorthand, sipi_by_message, started_in_real_mode, init_keeps_x2apic,
    halt_and_interrupt, halt_and_message, halt_and_line, halt_and_nmi, halt_and_ipi, halt_masked,
    halt_below_priority, halted_state, halted_by_state, runnable_by_state, immediate_exit,
}

const VECTOR: u8 = 0xb1;

/// Of the ICR.
const INIT: u32 = 5 << 8 | 1 << 14;
const SIPI: u32 = 6 << 8 | 1 << 14;
const ALL_OTHERS: u32 = 3 << 18;

/// The page that a started processor begins in.
const START_PAGE: u64 = 0x30;
const START: u64 = START_PAGE << 12;

/// What a started processor executes: tells that it is there, then waits.
fn start_code() -> &'static [u8] {
    crate::code16!(
        "mov al, 0x77",
        "out 0x10, al",
        "mov al, 0x78",
        "out 0x10, al",
        "2: jmp 2b"
    )
}

fn started(data: u8) -> Exit {
    Exit::Out {
        port: 0x10,
        size: 1,
        data: vec![data],
    }
}

/// A machine whose second vCPU was not started yet.
#[track_caller]
fn machine_to_start() -> Machine {
    let machine = Machine::new(2);
    machine.cpu(0).enable_apic();
    machine.load(START, start_code());
    set_state(&machine, 1, KVM_MP_STATE_UNINITIALIZED);
    machine
}

#[track_caller]
fn set_state(machine: &Machine, id: usize, state: u32) {
    expect::ok("KVM_SET_MP_STATE", machine.vcpus[id].set_mp_state(state));
}

#[track_caller]
fn send(machine: &Machine, to: u32, icr: u32) {
    machine.cpu(0).apic_write(apic::ICR2, to << 24);
    machine.cpu(0).apic_write(apic::ICR, icr);
}

/// Runs a vCPU in a thread of its own; `meanwhile` runs in this one, then the vCPU has to come
/// back.
#[track_caller]
fn run_while<R>(run: impl FnOnce() -> R + Send, meanwhile: impl FnOnce(ThreadId)) -> R
where
    R: Send,
{
    std::thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let running = scope.spawn(move || {
            tell.send(sys::this_thread())
                .expect("the other thread listens");
            run()
        });
        let thread = told.recv().expect("the vCPU's thread");
        std::thread::sleep(Duration::from_millis(10));
        meanwhile(thread);
        match running.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// KVM_RUN of a vCPU that was started meanwhile: its first one fails with EAGAIN.
#[track_caller]
fn expect_started(machine: &Machine, id: usize, data: u8) {
    let mut exit = machine.vcpus[id].run();
    if exit == Err(Errno(EAGAIN)) {
        exit = machine.vcpus[id].run();
    }
    expect::eq("KVM_RUN", exit, Ok(started(data)));
}

fn states_at_first() {
    let vm = Vm::with_irqchip();
    for (id, want) in [
        (0, KVM_MP_STATE_RUNNABLE),
        (1, KVM_MP_STATE_UNINITIALIZED),
        (5, KVM_MP_STATE_UNINITIALIZED),
    ] {
        expect::eq(&format!("vCPU {id}"), vm.create_vcpu(id).mp_state(), want);
    }
    let vm = Vm::new();
    for id in 0..2 {
        let state = vm.create_vcpu(id).mp_state();
        expect::eq("without an irqchip", state, KVM_MP_STATE_RUNNABLE);
    }
}

fn states_round_trip() {
    for vm in [Vm::with_irqchip(), Vm::with_split_irqchip(24)] {
        let vcpu = vm.create_vcpu(0);
        for state in [
            KVM_MP_STATE_UNINITIALIZED,
            KVM_MP_STATE_INIT_RECEIVED,
            KVM_MP_STATE_HALTED,
            KVM_MP_STATE_RUNNABLE,
        ] {
            expect::ok("KVM_SET_MP_STATE", vcpu.set_mp_state(state));
            expect::eq("KVM_GET_MP_STATE", vcpu.mp_state(), state);
        }
    }
}

fn states_without_irqchip() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    for state in [
        KVM_MP_STATE_UNINITIALIZED,
        KVM_MP_STATE_INIT_RECEIVED,
        KVM_MP_STATE_HALTED,
        KVM_MP_STATE_SIPI_RECEIVED,
    ] {
        let got = vcpu.set_mp_state(state);
        expect::errno(&format!("state {state}"), got, EINVAL);
    }
    expect::ok("runnable", vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE));
}

fn bad_states() {
    let vm = Vm::with_irqchip();
    let vcpu = vm.create_vcpu(0);
    // Those of other architectures, and none at all.
    for state in [5, 6, 7, 8, 10, 11, 99, u32::MAX] {
        let got = vcpu.set_mp_state(state);
        expect::errno(&format!("state {state}"), got, EINVAL);
    }
    expect::eq("afterwards", vcpu.mp_state(), KVM_MP_STATE_RUNNABLE);
    expect::errno("get", vcpu.fault(GET_MP_STATE.number), libc::EFAULT);
    expect::errno("set", vcpu.fault(SET_MP_STATE.number), libc::EFAULT);
}

/// The state SIPI_RECEIVED is one that starts at the vector, which is 0 here.
fn sipi_received() {
    let machine = Machine::new(1);
    set_state(&machine, 0, KVM_MP_STATE_SIPI_RECEIVED);
    expect::eq("state", machine.vcpus[0].mp_state(), KVM_MP_STATE_RUNNABLE);
    let sregs = machine.vcpus[0].sregs();
    expect::eq("CS", (sregs.cs.base, sregs.cs.selector), (0, 0));
    expect::eq("RIP", machine.vcpus[0].regs().rip, 0);
}

/// KVM_RUN of a vCPU that was not started does not return, but for a signal.
fn uninitialized_waits() {
    sys::catch(SIGUSR1);
    for state in [KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED] {
        let machine = machine_to_start();
        set_state(&machine, 1, state);
        let exit = run_while(|| machine.vcpus[1].run(), |thread| thread.signal(SIGUSR1));
        expect::eq("KVM_RUN", exit, Err(Errno(EINTR)));
        expect::eq("state", machine.vcpus[1].mp_state(), state);
    }
}

/// The whole start: the vCPU's KVM_RUN waits for it, fails with EAGAIN and goes on when repeated.
fn init_then_sipi() {
    let machine = machine_to_start();
    let vcpu = &machine.vcpus[1];
    let exits = run_while(
        || {
            let mut exits = vec![];
            while exits.len() < 2 {
                match vcpu.run() {
                    Err(Errno(EAGAIN)) => {}
                    other => exits.push(other),
                }
            }
            exits
        },
        |_| {
            send(&machine, 1, INIT);
            send(&machine, 1, SIPI | START_PAGE as u32);
        },
    );
    expect::eq("exits", exits, vec![Ok(started(0x77)), Ok(started(0x78))]);
    let sregs = vcpu.sregs();
    let cs = (sregs.cs.base, sregs.cs.selector, sregs.cs.limit);
    expect::eq("CS", cs, (START, (START >> 4) as u16, 0xffff));
    expect::eq("CR0.PE", sregs.cr0 & 1, 0);
}

fn sipi_without_init() {
    let machine = machine_to_start();
    send(&machine, 1, SIPI | START_PAGE as u32);
    let state = machine.vcpus[1].mp_state();
    expect::eq("state", state, KVM_MP_STATE_UNINITIALIZED);
    send(&machine, 1, INIT);
    let state = machine.vcpus[1].mp_state();
    expect::eq("state after INIT", state, KVM_MP_STATE_INIT_RECEIVED);
    send(&machine, 1, SIPI | START_PAGE as u32);
    let state = machine.vcpus[1].mp_state();
    expect::eq("state after SIPI", state, KVM_MP_STATE_RUNNABLE);
    expect::eq("RIP", machine.vcpus[1].regs().rip, 0);
    expect_started(&machine, 1, 0x77);
}

/// The second SIPI of the usual three messages finds a processor that runs, and changes nothing.
fn second_sipi() {
    let machine = machine_to_start();
    send(&machine, 1, INIT);
    send(&machine, 1, SIPI | START_PAGE as u32);
    send(&machine, 1, SIPI | START_PAGE as u32);
    expect_started(&machine, 1, 0x77);
    send(&machine, 1, SIPI | START_PAGE as u32);
    expect_started(&machine, 1, 0x78);
}

/// SDM vol. 3, table 10-1: what INIT sets and what it leaves.
fn init_resets() {
    let machine = machine_to_start();
    set_state(&machine, 1, KVM_MP_STATE_RUNNABLE);
    let cpu = machine.cpu(1);
    cpu.enable_apic();
    cpu.apic_write(apic::TPR, 0x20);
    cpu.apic_write(apic::LVT_ERROR, 0x45);
    let vcpu = &machine.vcpus[1];
    expect::that("IA32_PAT", vcpu.set_msr(0x277, 0x0606_0606_0606_0606));
    expect::that("IA32_LSTAR", vcpu.set_msr(0xc000_0082, 0x1234));
    vcpu.set_regs(&kvm_regs {
        rax: 1,
        rbx: 2,
        r15: 3,
        ..vcpu.regs()
    });
    send(&machine, 1, INIT);
    send(&machine, 1, SIPI | START_PAGE as u32);
    expect::eq("state", vcpu.mp_state(), KVM_MP_STATE_RUNNABLE);
    let (regs, sregs) = (vcpu.regs(), vcpu.sregs());
    expect::eq("RAX, RBX, R15", (regs.rax, regs.rbx, regs.r15), (0, 0, 0));
    expect::eq("RFLAGS", regs.rflags, 2);
    expect::eq("RIP", regs.rip, 0);
    expect::eq("CR0", sregs.cr0 & 0x9fff_ffff, 0x10);
    expect::eq(
        "CR2, CR3, CR4",
        (sregs.cr2, sregs.cr3, sregs.cr4),
        (0, 0, 0),
    );
    expect::eq("EFER", sregs.efer, 0);
    expect::eq("CR8", sregs.cr8, 0);
    expect::eq("GDTR", (sregs.gdt.base, sregs.gdt.limit), (0, 0xffff));
    expect::eq("DS", (sregs.ds.base, sregs.ds.limit), (0, 0xffff));
    expect::eq("IA32_PAT", vcpu.msr(0x277), Some(0x0606_0606_0606_0606));
    expect::eq("IA32_LSTAR", vcpu.msr(0xc000_0082), Some(0x1234));
    let base = apic::BASE | msr::APIC_BASE_ENABLE;
    expect::eq("IA32_APIC_BASE", vcpu.msr(msr::APIC_BASE), Some(base));
    let lapic = vcpu.lapic();
    for (name, register, want) in [
        ("ID", apic::ID, 1 << 24),
        ("TPR", apic::TPR, 0),
        ("SPIV", apic::SPIV, 0xff),
        ("LVT error", apic::LVT_ERROR, apic::MASKED),
    ] {
        expect::eq(name, lapic_register(&lapic, register as usize), want);
    }
}

fn init_by_shorthand() {
    let machine = Machine::new(4);
    machine.cpu(0).enable_apic();
    machine.load(START, start_code());
    send(&machine, 0, ALL_OTHERS | INIT);
    for id in 1..4 {
        let state = machine.vcpus[id].mp_state();
        expect::eq("state", state, KVM_MP_STATE_INIT_RECEIVED);
    }
    send(&machine, 0, ALL_OTHERS | SIPI | START_PAGE as u32);
    for id in 1..4 {
        expect_started(&machine, id, 0x77);
    }
    expect::eq(
        "the sender",
        machine.vcpus[0].mp_state(),
        KVM_MP_STATE_RUNNABLE,
    );
    machine.cpu(0).nop();
}

fn sipi_by_message() {
    let machine = machine_to_start();
    let signal = |data: u32| machine.vm.signal_msi(msi_address(1), data);
    expect::eq("INIT", signal(5 << 8 | 1 << 14), Ok(1));
    expect::eq("SIPI", signal(6 << 8 | START_PAGE as u32), Ok(1));
    expect_started(&machine, 1, 0x77);
}

/// From real mode all the way to 64-bit mode: the vCPU that was started takes an IPI there.
fn started_in_real_mode() {
    let machine = machine_to_start();
    machine.handle(VECTOR, Eoi::Xapic);
    send(&machine, 1, INIT);
    for page in [0x30u64, 0x31, 0x3f] {
        machine.load(page << 12, start_code());
        send(&machine, 1, INIT);
        send(&machine, 1, SIPI | page as u32);
        expect_started(&machine, 1, 0x77);
        let cs = machine.vcpus[1].sregs().cs;
        expect::eq(
            "CS",
            (cs.base, u64::from(cs.selector)),
            (page << 12, page << 8),
        );
    }
    set_mode(&machine.vcpus[1], Mode::Long);
    machine.cpu(1).enable_apic();
    send(&machine, 1, VECTOR.into());
    machine.cpu(1).nop();
    machine.expect_count(VECTOR, 1);
}

/// IA32_APIC_BASE survives INIT, the LAPIC's mode with it.
fn init_keeps_x2apic() {
    let machine = machine_to_start();
    set_state(&machine, 1, KVM_MP_STATE_RUNNABLE);
    machine.cpu(1).enable_x2apic();
    send(&machine, 1, INIT);
    send(&machine, 1, SIPI | START_PAGE as u32);
    expect_started(&machine, 1, 0x77);
    let base = apic::BASE | msr::APIC_BASE_ENABLE | msr::APIC_BASE_X2APIC;
    let got = machine.vcpus[1].msr(msr::APIC_BASE);
    expect::eq("IA32_APIC_BASE", got, Some(base));
}

/// A machine whose second vCPU can halt.
#[track_caller]
fn machine_to_halt() -> Machine {
    let machine = Machine::new(2);
    machine.handle(VECTOR, Eoi::Xapic);
    machine.handle(2, Eoi::None);
    for id in 0..2 {
        machine.cpu(id).enable_apic();
    }
    machine
}

/// The second vCPU halts and its thread sleeps; `wake` must end that.
#[track_caller]
fn woken(machine: &Machine, vector: u8, wake: impl Fn(&Machine)) {
    let stats = Stats::of(&machine.vcpus[1]);
    for count in 1..=5 {
        run_while(
            || machine.cpu(1).halt(),
            |_| {
                // An NMI that came before the HLT would not end it.
                stats.await_number("blocking", 1);
                wake(machine);
            },
        );
        machine.expect_count(vector, count);
    }
}

fn halt_and_interrupt() {
    // What waits already ends HLT at once.
    let machine = machine_to_halt();
    for count in 1..=5 {
        send(&machine, 1, VECTOR.into());
        let code = code64!("cli", "sti", "hlt", "out 0xe9, al");
        let done = machine.cpu(1).masked().operate(code, |_| {});
        expect::that("no exception", done.is_ok());
        machine.expect_count(VECTOR, count);
    }
}

fn halt_and_message() {
    woken(&machine_to_halt(), VECTOR, |machine| {
        let got = machine.vm.signal_msi(msi_address(1), VECTOR.into());
        expect::eq("KVM_SIGNAL_MSI", got, Ok(1));
    });
}

fn halt_and_line() {
    let machine = machine_to_halt();
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[20] = u64::from(VECTOR) | 1 << 56;
    machine.vm.set_ioapic(&chip);
    woken(&machine, VECTOR, |machine| {
        machine.vm.irq_line(20, true);
        machine.vm.irq_line(20, false);
    });
}

/// KVM_NMI waits for the vCPU, so that another has to send it.
fn halt_and_nmi() {
    woken(&machine_to_halt(), 2, |machine| send(machine, 1, 4 << 8));
}

fn halt_and_ipi() {
    woken(&machine_to_halt(), VECTOR, |machine| {
        send(machine, 1, VECTOR.into())
    });
}

/// With IF clear an interrupt does not end HLT; an NMI does.
fn halt_masked() {
    let machine = machine_to_halt();
    let code = code64!("hlt", "out 0xe9, al");
    run_while(
        || machine.cpu(1).masked().operate(code, |_| {}),
        |_| {
            send(&machine, 1, VECTOR.into());
            std::thread::sleep(Duration::from_millis(10));
            machine.expect_count(VECTOR, 0);
            send(&machine, 1, 4 << 8);
        },
    )
    .expect("no exception");
    machine.expect_count(2, 1);
    machine.expect_count(VECTOR, 0);
    machine.cpu(1).nop();
    machine.expect_count(VECTOR, 1);
}

fn halt_below_priority() {
    let machine = machine_to_halt();
    machine.handle(0xf1, Eoi::Xapic);
    machine.cpu(1).apic_write(apic::TPR, 0xc0);
    run_while(
        || machine.cpu(1).halt(),
        |_| {
            send(&machine, 1, VECTOR.into());
            std::thread::sleep(Duration::from_millis(10));
            machine.expect_count(VECTOR, 0);
            send(&machine, 1, 0xf1);
        },
    );
    machine.expect_count(VECTOR, 0);
    machine.expect_count(0xf1, 1);
}

/// A signal ends KVM_RUN of a vCPU that halts; the next one goes on with that.
fn halted_state() {
    sys::catch(SIGUSR1);
    let machine = machine_to_halt();
    let cpu = machine.cpu(1);
    cpu.start(code64!("hlt", "out 0xe9, al"), |_| {});
    for _ in 0..3 {
        let exit = run_while(|| machine.vcpus[1].run(), |thread| thread.signal(SIGUSR1));
        expect::eq("KVM_RUN", exit, Err(Errno(EINTR)));
        expect::eq("state", machine.vcpus[1].mp_state(), KVM_MP_STATE_HALTED);
        expect::eq("RIP behind HLT", machine.vcpus[1].regs().rip & 63, 1);
    }
    run_while(
        || expect::that("it goes on", cpu.finish().is_ok()),
        |_| send(&machine, 1, VECTOR.into()),
    );
    machine.expect_count(VECTOR, 1);
    expect::eq("state", machine.vcpus[1].mp_state(), KVM_MP_STATE_RUNNABLE);
}

/// A vCPU that the VMM put into HLT waits for an interrupt.
fn halted_by_state() {
    let machine = machine_to_halt();
    let cpu: Cpu<'_> = machine.cpu(1);
    cpu.start(code64!("nop", "out 0xe9, al"), |_| {});
    set_state(&machine, 1, KVM_MP_STATE_HALTED);
    run_while(
        || expect::that("it goes on", cpu.finish().is_ok()),
        |_| {
            machine.expect_count(VECTOR, 0);
            send(&machine, 1, VECTOR.into());
        },
    );
    machine.expect_count(VECTOR, 1);
}

fn runnable_by_state() {
    sys::catch(SIGUSR1);
    let machine = machine_to_halt();
    let cpu = machine.cpu(1);
    cpu.start(code64!("hlt", "out 0xe9, al"), |_| {});
    let exit = run_while(|| machine.vcpus[1].run(), |thread| thread.signal(SIGUSR1));
    expect::eq("KVM_RUN", exit, Err(Errno(EINTR)));
    set_state(&machine, 1, KVM_MP_STATE_RUNNABLE);
    expect::that("it goes on", cpu.finish().is_ok());
    machine.expect_count(VECTOR, 0);
}

fn immediate_exit() {
    let machine = machine_to_halt();
    let vcpu = &machine.vcpus[1];
    for state in [
        KVM_MP_STATE_RUNNABLE,
        KVM_MP_STATE_HALTED,
        KVM_MP_STATE_UNINITIALIZED,
    ] {
        set_state(&machine, 1, state);
        vcpu.set_immediate_exit(true);
        expect::errno("KVM_RUN", vcpu.run(), EINTR);
        vcpu.set_immediate_exit(false);
        expect::eq("state", vcpu.mp_state(), state);
    }
}
