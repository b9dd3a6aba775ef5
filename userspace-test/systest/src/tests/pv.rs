// SPDX-License-Identifier: GPL-2.0
//! What KVM offers guests that know of it: CPUID leaves (Documentation/virt/kvm/x86/cpuid.rst) and
//! MSRs (msr.rst).

use std::os::fd::AsRawFd;

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::expect;
use crate::guest::layout;
use crate::machine::{apic, Eoi, Fault, Machine};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys;
use crate::vm::{Kvm, Vm};
use kvm_bindings::*;
use libc::{EFAULT, EINVAL};
use std::time::Duration;

tests! {
    "pv":
    leaves, features, msrs_listed, eoi, eoi_of_level, eoi_saved, eoi_bad_values, steal,
    steal_counts(60), steal_bad_values, async_page_faults_msrs, async_page_faults_bad_values,
    async_page_faults_without_irqchip, async_page_fault(60), async_page_fault_in_halt(60),
    poll_control, unknown_msrs, features_enforced, features_enforced_hypercalls,
    features_not_enforced, enforce_errors, restored_by_msrs,
}

const PV_EOI: u32 = 0x4b56_4d04;
const STEAL_TIME: u32 = 0x4b56_4d03;
const ASYNC_PF_EN: u32 = 0x4b56_4d02;
const POLL_CONTROL: u32 = 0x4b56_4d05;
const ASYNC_PF_INT: u32 = 0x4b56_4d06;
const ASYNC_PF_ACK: u32 = 0x4b56_4d07;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const KICK_CPU: u64 = 5;
const SEND_IPI: u64 = 10;
const SCHED_YIELD: u64 = 11;
const MINUS_ENOSYS: i64 = -1000;

/// Features of leaf 40000001H.
const NEEDED: &[(&str, u32)] = &[
    ("CLOCKSOURCE", 0),
    ("NOP_IO_DELAY", 1),
    ("CLOCKSOURCE2", 3),
    ("ASYNC_PF", 4),
    ("STEAL_TIME", 5),
    ("PV_EOI", 6),
    ("PV_UNHALT", 7),
    ("PV_TLB_FLUSH", 9),
    ("PV_SEND_IPI", 11),
    ("POLL_CONTROL", 12),
    ("PV_SCHED_YIELD", 13),
    ("ASYNC_PF_INT", 14),
    ("CLOCKSOURCE_STABLE_BIT", 24),
];

const VECTOR: u8 = 0xc1;

/// Memory that guest and KVM share.
const SHARED: u64 = layout::DATA + 0x4000;
const GP: Fault = Fault(13);

#[track_caller]
fn write(machine: &Machine, index: u32, value: u64) {
    let got = machine.cpu(0).wrmsr(index, value);
    expect::eq(&format!("write of MSR {index:#x}"), got, Ok(()));
}

#[track_caller]
fn expect_refused(machine: &Machine, index: u32, values: &[u64]) {
    for &value in values {
        let got = machine.cpu(0).wrmsr(index, value);
        let what = format!("{value:#x} to MSR {index:#x}");
        expect::eq(&what, got, Err(GP));
        let got = machine.vcpus[0].set_msr(index, value);
        expect::eq(&format!("{what} by KVM_SET_MSRS"), got, false);
    }
}

fn leaves() {
    let machine = Machine::new(1);
    let code = code64!("cpuid", "out 0xe9, al");
    let leaf = machine.cpu(0).operate(code, |r| r.rax = 0x4000_0000);
    let leaf = leaf.map(|r| (r.rax, r.rbx, r.rcx, r.rdx));
    let name = (0x4b4d_564b, 0x564b_4d56, 0x4d);
    let want = (0x4000_0001, name.0, name.1, name.2);
    expect::eq("leaf 40000000H", leaf, Ok(want));
}

fn features() {
    let mut cpuid = Kvm::open().supported_cpuid();
    let leaf = *cpuid.find(0x4000_0001, 0).expect("leaf 40000001H");
    for (name, bit) in NEEDED {
        expect::eq(&format!("KVM_FEATURE_{name}"), leaf.eax >> bit & 1, 1);
    }
    expect::eq("hints", leaf.edx, 0);
}

fn msrs_listed() {
    let mut list = MsrList::with_room(MSR_ROOM);
    expect::ok(
        "MSR list",
        Kvm::open().update(GET_MSR_INDEX_LIST, &mut list),
    );
    for index in [
        0x11,
        0x12,
        0x4b56_4d00,
        SYSTEM_TIME,
        ASYNC_PF_EN,
        STEAL_TIME,
        PV_EOI,
        POLL_CONTROL,
        ASYNC_PF_INT,
        ASYNC_PF_ACK,
    ] {
        let listed = list.as_slice().contains(&index);
        expect::that(&format!("MSR {index:#x} listed"), listed);
    }
}

/// A machine whose handler of [`VECTOR`] ends its interrupts as PV EOI has it: where the bit is
/// set it clears it, and counts that at `SHARED + 8`; otherwise it writes to the EOI register.
#[track_caller]
fn machine_with_eoi() -> Machine {
    let machine = Machine::new(1);
    let handler = code64!(
        "push rax",
        "lock btr dword ptr [{shared}], 0",
        "jc 2f",
        "mov eax, 0xfee000b0",
        "mov dword ptr [rax], 0",
        "lock inc qword ptr [{shared} + 16]",
        "jmp 3f",
        "2: lock inc qword ptr [{shared} + 8]",
        "3: pop rax",
        "iretq";
        shared = const layout::DATA + 0x4000
    );
    machine.load(layout::CODE2 + 0x2000, handler);
    crate::guest::write_gate(&machine.memory, VECTOR, layout::CODE2 + 0x2000, 0);
    machine.cpu(0).enable_apic();
    write(&machine, PV_EOI, SHARED | 1);
    machine
}

fn in_service(machine: &Machine) -> u32 {
    machine.vcpus[0].lapic_register(apic::ISR as usize + 0x10 * (VECTOR as usize / 32))
}

fn eoi() {
    let machine = machine_with_eoi();
    let ends = || (machine.peek(SHARED + 8), machine.peek(SHARED + 16));
    let interrupt = || {
        machine
            .cpu(0)
            .apic_write(apic::ICR, 1 << 18 | u32::from(VECTOR));
        expect::eq("in service", in_service(&machine), 0);
    };
    // An exit in the middle of it makes KVM take its offer back; the first one has such exits,
    // as the handler's pages are new.
    for count in 1..=3 {
        interrupt();
        expect::eq("ends of both kinds", ends().0 + ends().1, count);
    }
    let (by_bit, by_register) = ends();
    for count in 1..=5 {
        interrupt();
        let want = (by_bit + count, by_register);
        expect::eq("ends by the bit, by the register", ends(), want);
    }
    write(&machine, PV_EOI, 0);
    interrupt();
    let want = (by_bit + 5, by_register + 1);
    expect::eq("ends by the bit, by the register", ends(), want);
}

/// A level-triggered interrupt of the IOAPIC has to be ended by the register.
fn eoi_of_level() {
    let machine = machine_with_eoi();
    let mut chip = machine.vm.ioapic();
    chip.redirtbl[20] = 1 << 15 | u64::from(VECTOR);
    machine.vm.set_ioapic(&chip);
    machine.vm.irq_line(20, true);
    machine.cpu(0).masked().nop();
    machine.vm.irq_line(20, false);
    machine.cpu(0).nop();
    let by = (machine.peek(SHARED + 8), machine.peek(SHARED + 16));
    expect::eq("ends by the bit, by the register", by, (0, 1));
}

fn eoi_saved() {
    let machine = machine_with_eoi();
    expect::eq("guest", machine.cpu(0).rdmsr(PV_EOI), Ok(SHARED | 1));
    expect::eq("VMM", machine.vcpus[0].msr(PV_EOI), Some(SHARED | 1));
    expect::that("KVM_SET_MSRS", machine.vcpus[0].set_msr(PV_EOI, 0));
    expect::eq("guest", machine.cpu(0).rdmsr(PV_EOI), Ok(0));
}

fn eoi_bad_values() {
    let machine = Machine::new(1);
    let no_memory = [layout::MMIO | 1, 1 << 60 | 1, layout::MEMORY as u64 | 1];
    expect_refused(&machine, PV_EOI, &no_memory);
    expect_refused(&machine, PV_EOI, &[SHARED | 2, SHARED | 3]);
    expect::eq("MSR", machine.cpu(0).rdmsr(PV_EOI), Ok(0));
    // What is not enabled is not looked at.
    write(&machine, PV_EOI, layout::MMIO);
}

/// `struct kvm_steal_time`: steal, version, flags, preempted.
fn steal_area(machine: &Machine) -> (u64, u32, u32, u8) {
    let at = SHARED as usize;
    let memory = &machine.memory;
    let numbers: [u32; 2] = memory.read(at + 8);
    (
        memory.read(at),
        numbers[0],
        numbers[1],
        memory.read(at + 16),
    )
}

fn steal() {
    let machine = Machine::new(1);
    write(&machine, STEAL_TIME, SHARED | 1);
    machine.cpu(0).nop();
    let (_, version, flags, preempted) = steal_area(&machine);
    expect::that(
        &format!("an even version above 0 ({version})"),
        version != 0 && version % 2 == 0,
    );
    expect::eq("flags and preempted", (flags, preempted), (0, 0));
    let mut last = 0;
    for _ in 0..10 {
        machine.cpu(0).spin(1000);
        let (steal, version, ..) = steal_area(&machine);
        expect::that("steal time does not go back", steal >= last);
        expect::eq("version is even", version % 2, 0);
        last = steal;
    }
    expect::eq("MSR", machine.cpu(0).rdmsr(STEAL_TIME), Ok(SHARED | 1));
    write(&machine, STEAL_TIME, 0);
    machine.poke(SHARED + 8, 0);
    machine.cpu(0).nop();
    expect::eq("version after it was turned off", steal_area(&machine).1, 0);
}

/// While another thread of the host uses the CPU, the guest's is stolen.
fn steal_counts() {
    let machine = Machine::new(1);
    write(&machine, STEAL_TIME, SHARED | 1);
    machine.cpu(0).nop();
    let before = steal_area(&machine).0;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::SeqCst;
    sys::this_thread().move_to(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sys::this_thread().move_to(0);
            while !stop.load(ordering) {
                std::hint::spin_loop();
            }
        });
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(150) {
            machine.cpu(0).spin(100_000);
        }
        stop.store(true, ordering);
    });
    machine.cpu(0).nop();
    let stolen = steal_area(&machine).0 - before;
    expect::that(
        &format!("10 ms stolen, or more ({stolen} ns)"),
        stolen > 10_000_000,
    );
}

fn steal_bad_values() {
    let machine = Machine::new(1);
    let reserved: Vec<_> = (1..6).map(|bit| SHARED | 1 << bit | 1).collect();
    expect_refused(&machine, STEAL_TIME, &reserved);
    // Addresses are looked at when there is something to write.
    for address in [layout::MMIO, layout::MEMORY as u64, 1 << 60, !0x3f] {
        write(&machine, STEAL_TIME, address | 1);
        machine.cpu(0).nop();
    }
    write(&machine, STEAL_TIME, SHARED | 1);
    machine.cpu(0).nop();
    expect::ne("version", steal_area(&machine).1, 0);
}

/// Bits of ASYNC_PF_EN.
const APF_ENABLED: u64 = 1;
const APF_ALWAYS: u64 = 1 << 1;
const APF_INTERRUPT: u64 = 1 << 3;

fn async_page_faults_msrs() {
    let machine = Machine::new(1);
    let value = SHARED | APF_ENABLED | APF_ALWAYS | APF_INTERRUPT;
    write(&machine, ASYNC_PF_INT, VECTOR.into());
    write(&machine, ASYNC_PF_EN, value);
    for (index, want) in [
        (ASYNC_PF_INT, VECTOR.into()),
        (ASYNC_PF_EN, value),
        (ASYNC_PF_ACK, 0),
    ] {
        expect::eq("guest", machine.cpu(0).rdmsr(index), Ok(want));
        expect::eq("VMM", machine.vcpus[0].msr(index), Some(want));
    }
    write(&machine, ASYNC_PF_ACK, 1);
    write(&machine, ASYNC_PF_ACK, 0);
    write(&machine, ASYNC_PF_EN, 0);
    expect::eq("off", machine.cpu(0).rdmsr(ASYNC_PF_EN), Ok(0));
}

fn async_page_faults_bad_values() {
    let machine = Machine::new(1);
    let on = APF_ENABLED | APF_INTERRUPT;
    expect_refused(
        &machine,
        ASYNC_PF_EN,
        &[
            SHARED | 1 << 4,
            SHARED | 1 << 5 | on,
            layout::MMIO | on,
            layout::MEMORY as u64 | on,
            1 << 60 | on,
        ],
    );
    expect_refused(&machine, ASYNC_PF_INT, &[0x100, 1 << 32, u64::MAX]);
    expect::eq("MSR", machine.cpu(0).rdmsr(ASYNC_PF_EN), Ok(0));
}

/// Nothing can be turned on where there is no LAPIC to interrupt by.
fn async_page_faults_without_irqchip() {
    let machine = Machine::in_vm(Vm::new(), 1);
    let value = SHARED | APF_ENABLED | APF_INTERRUPT;
    expect_refused(&machine, ASYNC_PF_EN, &[value, SHARED]);
    write(&machine, ASYNC_PF_EN, 0);
}

/// Pages of a file that have to be read from the disk, each beginning with its number plus 100.
#[track_caller]
fn on_disk(machine: &Machine, pages: usize) -> Mapping {
    const FILE: &str = "/var/systest-apf";
    let mut content = vec![0u8; pages * PAGE];
    for (page, bytes) in content.chunks_mut(PAGE).enumerate() {
        bytes[..8].copy_from_slice(&(page as u64 + 100).to_le_bytes());
    }
    std::fs::write(FILE, content).expect("a file on the disk");
    let file = expect::ok("open", sys::open(FILE, libc::O_RDWR));
    sys::sync_file(&file);
    std::fs::write("/proc/sys/vm/drop_caches", "1").expect("the kernel's caches dropped");
    let memory = Mapping::of_file(file.as_raw_fd(), pages * PAGE, 0);
    let memory = expect::ok("mmap", memory);
    std::fs::remove_file(FILE).expect("the file removed");
    machine.vm.add_memory(1, layout::EXTRA, &memory);
    memory
}

/// A guest that touches a page that the host does not have yet is told so by a #PF whose CR2 is a token, may go
/// on meanwhile, and is told by an interrupt when the page is there.
fn async_page_fault() {
    const PAGES: usize = 4;
    let machine = Machine::new(1);
    machine.handle(VECTOR, Eoi::Xapic);
    let cpu = machine.cpu(0);
    cpu.enable_apic();
    write(&machine, ASYNC_PF_INT, VECTOR.into());
    write(
        &machine,
        ASYNC_PF_EN,
        SHARED | APF_ENABLED | APF_ALWAYS | APF_INTERRUPT,
    );
    // At first all that may have been missed before is told of, by a token of its own.
    cpu.nop();
    machine.expect_count(VECTOR, 1);
    let area: [u32; 2] = machine.memory.read(SHARED as usize);
    expect::eq("reason, and token for all pages", area, [0, u32::MAX]);
    machine.memory.write(SHARED as usize + 4, 0u32);
    write(&machine, ASYNC_PF_ACK, 1);
    let memory = Mapping::anonymous(PAGES * PAGE);
    let on_demand = sys::OnDemand::new(memory.address(), PAGES * PAGE);
    machine.vm.add_memory(1, layout::EXTRA, &memory);
    let read = code64!("mov rax, [rbx]", "out 0xe9, al");
    for page in 0..PAGES {
        let at = layout::EXTRA + (page * PAGE) as u64;
        let before = machine.count(VECTOR);
        let told = cpu.operate(read, |r| r.rbx = at).map(|regs| regs.rax);
        expect::eq("#PF instead of a page", told, Err(Fault(14)));
        let [flags, _]: [u32; 2] = machine.memory.read(SHARED as usize);
        expect::eq("reason: page not present", flags, 1);
        expect::eq("error code", machine.peek(layout::TRAP + 8), 0);
        let token = machine.peek(layout::TRAP + 56) as u32;
        machine.memory.write(SHARED as usize, 0u32);
        cpu.nop();
        expect::eq(
            "interrupts before there is a page",
            machine.count(VECTOR),
            before,
        );

        on_demand.supply(
            memory.address() + (page * PAGE) as u64,
            &[page as u64 + 100; 512],
        );
        for _ in 0..500 {
            cpu.nop();
            if machine.count(VECTOR) > before {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        expect::eq(
            "interrupts that tell of it",
            machine.count(VECTOR),
            before + 1,
        );
        let [_, ready]: [u32; 2] = machine.memory.read(SHARED as usize);
        expect::eq("token of the page that is there", ready, token);
        machine.memory.write(SHARED as usize + 4, 0u32);
        write(&machine, ASYNC_PF_ACK, 1);
        let got = cpu.operate(read, |r| r.rbx = at).map(|regs| regs.rax);
        expect::eq("content", got, Ok(page as u64 + 100));
    }
}

/// A guest that did not ask for it just gets its pages.
fn async_page_fault_in_halt() {
    const PAGES: usize = 64;
    let machine = Machine::new(1);
    machine.cpu(0).enable_apic();
    let _memory = on_disk(&machine, PAGES);
    let read = code64!("mov rax, [rbx]", "out 0xe9, al");
    for page in 0..PAGES {
        let at = layout::EXTRA + (page * PAGE) as u64;
        let got = machine.cpu(0).operate(read, |r| r.rbx = at);
        expect::eq("content", got.map(|r| r.rax), Ok(page as u64 + 100));
    }
}

fn poll_control() {
    let machine = Machine::new(1);
    expect::eq("at first", machine.cpu(0).rdmsr(POLL_CONTROL), Ok(1));
    write(&machine, POLL_CONTROL, 0);
    expect::eq("off", machine.cpu(0).rdmsr(POLL_CONTROL), Ok(0));
    expect_refused(&machine, POLL_CONTROL, &[2, 3, 1 << 32]);
}

fn unknown_msrs() {
    let machine = Machine::new(1);
    for index in [0x4b56_4d08, 0x4b56_4d7f, 0x4b56_4dff] {
        expect::eq("read", machine.cpu(0).rdmsr(index), Err(GP));
        expect::eq("write", machine.cpu(0).wrmsr(index, 0), Err(GP));
    }
}

/// Takes all features of leaf 40000001H but `keep` out of a vCPU's CPUID.
#[track_caller]
fn hide_features(machine: &Machine, keep: u32) {
    let mut cpuid = Kvm::open().supported_cpuid();
    cpuid.find(0x4000_0001, 0).expect("leaf 40000001H").eax &= keep;
    let done = machine.vcpus[0].set(SET_CPUID2, &cpuid);
    expect::ok("KVM_SET_CPUID2", done);
}

fn enforce(machine: &Machine, argument: u64) -> Result<i32, sys::Errno> {
    let cap = kvm_enable_cap {
        cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        args: [argument, 0, 0, 0],
        ..kvm_enable_cap::default()
    };
    machine.vcpus[0].set(ENABLE_CAP, &cap)
}

/// The MSRs of the tests with the feature that they belong to.
const MSRS: [(u32, u32); 9] = [
    (0x11, 0),
    (0x12, 0),
    (0x4b56_4d00, 3),
    (SYSTEM_TIME, 3),
    (ASYNC_PF_EN, 4),
    (STEAL_TIME, 5),
    (PV_EOI, 6),
    (POLL_CONTROL, 12),
    (ASYNC_PF_INT, 14),
];

#[track_caller]
fn prepared(keep: u32, argument: u64) -> Machine {
    let vm = Vm::with_irqchip();
    let machine = Machine::in_vm(vm, 0);
    let vcpu = machine.vm.create_vcpu(0);
    machine.prepare(&vcpu, 0);
    let machine = machine.with_vcpus(vec![vcpu]);
    expect::ok(
        "KVM_CAP_ENFORCE_PV_FEATURE_CPUID",
        enforce(&machine, argument),
    );
    hide_features(&machine, keep);
    machine
}

fn features_enforced() {
    for keep in [0, 1 << 3, 1 << 5 | 1 << 0, 1 << 6 | 1 << 12] {
        let machine = prepared(keep, 1);
        for (index, feature) in MSRS {
            let there = keep >> feature & 1 != 0;
            let what = format!("MSR {index:#x} with features {keep:#x}");
            expect::eq(&what, machine.cpu(0).rdmsr(index).is_ok(), there);
            expect::eq(&what, machine.cpu(0).wrmsr(index, 0).is_ok(), there);
        }
    }
}

fn features_enforced_hypercalls() {
    let machine = prepared(0, 1);
    for number in [KICK_CPU, SEND_IPI, SCHED_YIELD] {
        let got = machine.cpu(0).hypercall(number, [0; 4]);
        expect::eq(&format!("hypercall {number}"), got, MINUS_ENOSYS);
    }
    let machine = prepared(1 << 13, 1);
    let got = machine.cpu(0).hypercall(SCHED_YIELD, [0; 4]);
    expect::eq("one that is offered", got, 0);
}

/// Without it a guest may use what its CPUID does not tell of.
fn features_not_enforced() {
    let machine = prepared(0, 0);
    for (index, _) in MSRS {
        let what = format!("MSR {index:#x}");
        expect::that(&what, machine.cpu(0).rdmsr(index).is_ok());
    }
    let got = machine.cpu(0).hypercall(SCHED_YIELD, [0; 4]);
    expect::eq("KVM_HC_SCHED_YIELD", got, 0);
}

fn enforce_errors() {
    let machine = Machine::new(1);
    let vcpu = &machine.vcpus[0];
    let cap = kvm_enable_cap {
        cap: KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        flags: 1,
        ..kvm_enable_cap::default()
    };
    expect::errno("flags", vcpu.set(ENABLE_CAP, &cap), EINVAL);
    let cap = kvm_enable_cap {
        cap: 9999,
        ..kvm_enable_cap::default()
    };
    expect::errno("no such capability", vcpu.set(ENABLE_CAP, &cap), EINVAL);
    expect::errno("no memory", vcpu.fault(ENABLE_CAP.number), EFAULT);
}

/// All that a VMM saves of a guest that uses these, into another VM.
fn restored_by_msrs() {
    let values = [
        (SYSTEM_TIME, SHARED | 1),
        (STEAL_TIME, (SHARED + 0x40) | 1),
        (PV_EOI, (SHARED + 0x80) | 1),
        (ASYNC_PF_INT, VECTOR.into()),
        (ASYNC_PF_EN, (SHARED + 0xc0) | APF_ENABLED | APF_INTERRUPT),
        (POLL_CONTROL, 0),
    ];
    let machine = Machine::new(1);
    let list = Msrs::new(&values);
    let got = machine.vcpus[0].set(SET_MSRS, &list);
    expect::eq("KVM_SET_MSRS", got, Ok(values.len() as i32));
    machine.cpu(0).nop();
    for (index, value) in values {
        expect::eq(
            &format!("MSR {index:#x}"),
            machine.cpu(0).rdmsr(index),
            Ok(value),
        );
    }
    expect::ne("version of the clock", machine.peek(SHARED) as u32, 0);
    expect::ne(
        "version of steal time",
        machine.peek(SHARED + 0x48) as u32,
        0,
    );
}
