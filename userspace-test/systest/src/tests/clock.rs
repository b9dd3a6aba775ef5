// SPDX-License-Identifier: GPL-2.0
//! Time for a guest: kvmclock's pages (Documentation/virt/kvm/x86/msr.rst), KVM_GET/SET_CLOCK
//! (api.rst 4.29, 4.30), KVM_KVMCLOCK_CTRL (4.71), and time-stamp counters that agree.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvm_bindings::*;
use libc::{EFAULT, EINVAL, ENXIO};

use super::tests;
use crate::devices::*;
use crate::expect;
use crate::guest::layout;
use crate::machine::{msr, Machine};
use crate::request::*;
use crate::vm::Vm;

tests! {
    "clock":
    page_new, page_old, page_is_the_clock, page_in_step, page_moves, page_off, page_bad_address,
    pages_of_two_vcpus, keeps_time(60), get, set, set_then_page, set_realtime, set_errors,
    pause, pause_errors, wall_clock_new, wall_clock_old, wall_clock_bad_address, msrs_read_back,
    tsc_starts_at_zero, tsc_in_step, tsc_set_in_step, tsc_set_apart, tsc_set_by_guest, tsc_offset,
    tsc_offset_errors, tsc_frequency_of_vm,
}

const WALL_CLOCK: u32 = 0x4b56_4d00;
const SYSTEM_TIME: u32 = 0x4b56_4d01;
const WALL_CLOCK_OLD: u32 = 0x11;
const SYSTEM_TIME_OLD: u32 = 0x12;
/// Where the pages are.
const PAGE: u64 = layout::DATA + 0x4000;
const WALL: u64 = layout::DATA + 0x5000;
/// `PVCLOCK_*` flags of the page.
const TSC_STABLE: u8 = 1;
const GUEST_STOPPED: u8 = 2;
/// What a measurement may differ by, for the instructions between its parts.
const SLACK: u64 = 20_000_000;

/// `struct pvclock_vcpu_time_info`.
#[derive(Clone, Copy, Debug)]
struct TimePage {
    version: u32,
    tsc: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
}

#[track_caller]
fn time_page(machine: &Machine, at: u64) -> TimePage {
    let at = at as usize;
    let memory = &machine.memory;
    let [shift, flags]: [u8; 2] = memory.read(at + 28);
    TimePage {
        version: memory.read(at),
        tsc: memory.read(at + 8),
        system_time: memory.read(at + 16),
        multiplier: memory.read(at + 24),
        shift: shift as i8,
        flags,
    }
}

impl TimePage {
    /// The time in nanoseconds at `tsc`, as guests compute it.
    fn time(&self, tsc: u64) -> u64 {
        let delta = tsc.wrapping_sub(self.tsc);
        let shifted = if self.shift < 0 {
            delta >> -self.shift
        } else {
            delta << self.shift
        };
        let scaled = (u128::from(shifted) * u128::from(self.multiplier)) >> 32;
        self.system_time.wrapping_add(scaled as u64)
    }
}

#[track_caller]
fn write(machine: &Machine, id: usize, index: u32, value: u64) {
    let got = machine.cpu(id).wrmsr(index, value);
    expect::eq(&format!("write of MSR {index:#x}"), got, Ok(()));
}

#[track_caller]
fn machine_with_page(index: u32) -> Machine {
    let machine = Machine::new(1);
    write(&machine, 0, index, PAGE | 1);
    machine.cpu(0).nop();
    machine
}

#[track_caller]
fn get_clock(vm: &Vm) -> kvm_clock_data {
    expect::ok("KVM_GET_CLOCK", vm.get(GET_CLOCK))
}

/// The guest's time as its page tells it now.
#[track_caller]
fn now(machine: &Machine, id: usize, page: u64) -> u64 {
    let tsc = machine.cpu(id).rdmsr(msr::TSC);
    let tsc = tsc.unwrap_or_else(|_| panic!("IA32_TSC: expected a value"));
    time_page(machine, page).time(tsc)
}

#[track_caller]
fn expect_page(machine: &Machine) {
    let page = time_page(machine, PAGE);
    expect::that(
        &format!("an even version above 0 ({page:x?})"),
        page.version % 2 == 0,
    );
    expect::ne("version", page.version, 0);
    expect::ne("multiplier", page.multiplier, 0);
    expect::eq("flags", page.flags & !TSC_STABLE, 0);
}

fn page_new() {
    expect_page(&machine_with_page(SYSTEM_TIME));
}

fn page_old() {
    expect_page(&machine_with_page(SYSTEM_TIME_OLD));
}

fn page_is_the_clock() {
    let machine = machine_with_page(SYSTEM_TIME);
    for _ in 0..5 {
        let before = get_clock(&machine.vm).clock;
        let time = now(&machine, 0, PAGE);
        let after = get_clock(&machine.vm).clock;
        expect::that(
            &format!("{before} <= {time} <= {after}, about"),
            before <= time + SLACK && time <= after + SLACK,
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Time does not go back from one operation to the next.
fn page_in_step() {
    let machine = machine_with_page(SYSTEM_TIME);
    let mut last = 0;
    for _ in 0..100 {
        let time = now(&machine, 0, PAGE);
        expect::that(&format!("{time} after {last}"), time >= last);
        last = time;
    }
}

fn page_moves() {
    let machine = machine_with_page(SYSTEM_TIME);
    let other = PAGE + 0x800;
    write(&machine, 0, SYSTEM_TIME, other | 1);
    machine.cpu(0).nop();
    expect::ne(
        "multiplier at the new place",
        time_page(&machine, other).multiplier,
        0,
    );
    let old = time_page(&machine, PAGE);
    machine.cpu(0).nop();
    expect::eq(
        "version at the old place",
        time_page(&machine, PAGE).version,
        old.version,
    );
}

fn page_off() {
    let machine = machine_with_page(SYSTEM_TIME);
    write(&machine, 0, SYSTEM_TIME, 0);
    machine.poke(PAGE, 0);
    let clock = kvm_clock_data {
        clock: 1 << 40,
        ..kvm_clock_data::default()
    };
    expect::ok("KVM_SET_CLOCK", machine.vm.set(SET_CLOCK, &clock));
    machine.cpu(0).nop();
    expect::eq("version", machine.peek(PAGE) as u32, 0);
}

/// A guest that names no memory, or memory that ends in the middle, gets no clock.
fn page_bad_address() {
    let machine = Machine::new(1);
    for address in [
        layout::MMIO,
        layout::MEMORY as u64 - 16,
        layout::MEMORY as u64,
        1 << 60,
        !1,
    ] {
        for index in [SYSTEM_TIME, SYSTEM_TIME_OLD] {
            write(&machine, 0, index, address | 1);
            machine.cpu(0).nop();
            expect::eq("MSR", machine.cpu(0).rdmsr(index), Ok(address | 1));
        }
    }
    write(&machine, 0, SYSTEM_TIME, PAGE | 1);
    machine.cpu(0).nop();
    expect_page(&machine);
}

fn pages_of_two_vcpus() {
    let machine = Machine::new(2);
    let pages = [PAGE, PAGE + 0x40];
    for (id, page) in pages.iter().enumerate() {
        write(&machine, id, SYSTEM_TIME, page | 1);
        machine.cpu(id).nop();
    }
    let mut last = 0;
    for round in 0..50 {
        let id = round % 2;
        let time = now(&machine, id, pages[id]);
        let clock = get_clock(&machine.vm);
        // Pages without TSC_STABLE_BIT need not agree to the nanosecond.
        let stable = clock.flags & KVM_CLOCK_TSC_STABLE != 0;
        let slack = if stable { 0 } else { SLACK };
        expect::that(
            &format!("{time} of {id} after {last}"),
            time + slack >= last,
        );
        last = time;
    }
    if get_clock(&machine.vm).flags & KVM_CLOCK_TSC_STABLE != 0 {
        let (a, b) = (time_page(&machine, pages[0]), time_page(&machine, pages[1]));
        expect::eq("stable", (a.flags, b.flags), (TSC_STABLE, TSC_STABLE));
    }
}

/// A fifth of a second by the host's clock is one by the guest's, within 1 %.
fn keeps_time() {
    let machine = machine_with_page(SYSTEM_TIME);
    let (begin, host) = (now(&machine, 0, PAGE), std::time::Instant::now());
    while host.elapsed() < Duration::from_millis(200) {
        machine.cpu(0).spin(10_000);
    }
    let end = now(&machine, 0, PAGE);
    let host = host.elapsed().as_nanos() as u64;
    let guest = end - begin;
    expect::that(
        &format!("{guest} ns in the guest of {host} ns"),
        guest.abs_diff(host) < host / 100,
    );
}

fn get() {
    let vm = Vm::new();
    let first = get_clock(&vm);
    let known = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    expect::eq("flags", first.flags & !known, 0);
    expect::that(
        "a new VM's clock is below 10 s",
        first.clock < 10_000_000_000,
    );
    std::thread::sleep(Duration::from_millis(5));
    let second = get_clock(&vm);
    let passed = second.clock - first.clock;
    expect::that(&format!("5 ms or more ({passed})"), passed >= 5_000_000);
    if second.flags & KVM_CLOCK_REALTIME != 0 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("a time after 1970").as_nanos() as u64;
        let apart = now.abs_diff(second.realtime);
        expect::that(
            &format!("realtime ({apart} ns apart)"),
            apart < 1_000_000_000,
        );
    }
    expect::errno("no memory", vm.fault(GET_CLOCK.number), EFAULT);
}

fn set() {
    let vm = Vm::new();
    let _vcpu = vm.create_vcpu(0);
    for clock in [0, 1 << 30, 1 << 50, 5] {
        let data = kvm_clock_data {
            clock,
            ..kvm_clock_data::default()
        };
        expect::ok("KVM_SET_CLOCK", vm.set(SET_CLOCK, &data));
        let got = get_clock(&vm).clock;
        expect::that(
            &format!("clock {got} after {clock}"),
            got >= clock && got - clock < 1_000_000_000,
        );
    }
    // What was got can be set, flags and all.
    let data = get_clock(&vm);
    expect::ok("KVM_SET_CLOCK", vm.set(SET_CLOCK, &data));
}

fn set_then_page() {
    let machine = machine_with_page(SYSTEM_TIME);
    let clock = 1u64 << 45;
    let data = kvm_clock_data {
        clock,
        ..kvm_clock_data::default()
    };
    expect::ok("KVM_SET_CLOCK", machine.vm.set(SET_CLOCK, &data));
    machine.cpu(0).nop();
    let time = now(&machine, 0, PAGE);
    expect::that(
        &format!("the guest's time {time:#x}"),
        time + SLACK >= clock && time - clock < 1_000_000_000,
    );
}

/// With KVM_CLOCK_REALTIME the time that passed since is added.
fn set_realtime() {
    let vm = Vm::new();
    let _vcpu = vm.create_vcpu(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a time after 1970").as_nanos() as u64;
    let data = kvm_clock_data {
        clock: 1 << 40,
        flags: KVM_CLOCK_REALTIME,
        realtime: now - 3_000_000_000,
        ..kvm_clock_data::default()
    };
    expect::ok("KVM_SET_CLOCK", vm.set(SET_CLOCK, &data));
    let ahead = get_clock(&vm).clock - data.clock;
    expect::that(
        &format!("3 s ahead ({ahead} ns)"),
        (3_000_000_000..4_000_000_000).contains(&ahead),
    );
    // It is never set back.
    let data = kvm_clock_data {
        realtime: now + 100_000_000_000,
        ..data
    };
    expect::ok("KVM_SET_CLOCK", vm.set(SET_CLOCK, &data));
    expect::that("not set back", get_clock(&vm).clock >= data.clock);
}

fn set_errors() {
    let vm = Vm::new();
    for bit in [0, 4, 5, 16, 31] {
        let data = kvm_clock_data {
            flags: 1 << bit,
            ..kvm_clock_data::default()
        };
        let got = vm.set(SET_CLOCK, &data);
        expect::errno(&format!("flags bit {bit}"), got, EINVAL);
    }
    expect::errno("no memory", vm.fault(SET_CLOCK.number), EFAULT);
}

/// The guest is told that it was paused, once, and clears the flag itself.
fn pause() {
    let machine = machine_with_page(SYSTEM_TIME);
    let flags = || time_page(&machine, PAGE).flags;
    expect::eq("before", flags() & GUEST_STOPPED, 0);
    expect::ok("KVM_KVMCLOCK_CTRL", machine.vcpus[0].call(KVMCLOCK_CTRL, 0));
    machine.cpu(0).nop();
    expect::eq("after", flags() & GUEST_STOPPED, GUEST_STOPPED);
    machine
        .memory
        .write(PAGE as usize + 29, flags() & !GUEST_STOPPED);
    machine.cpu(0).nop();
    expect::eq("cleared", flags() & GUEST_STOPPED, 0);
}

fn pause_errors() {
    let machine = Machine::new(1);
    let vcpu = &machine.vcpus[0];
    expect::errno("without a page", vcpu.call(KVMCLOCK_CTRL, 0), EINVAL);
    write(&machine, 0, SYSTEM_TIME, PAGE | 1);
    machine.cpu(0).nop();
    expect::ok("with a page", vcpu.call(KVMCLOCK_CTRL, 0));
    write(&machine, 0, SYSTEM_TIME, 0);
    expect::errno("off again", vcpu.call(KVMCLOCK_CTRL, 0), EINVAL);
}

#[track_caller]
fn expect_wall_clock(index: u32) {
    let machine = machine_with_page(SYSTEM_TIME);
    write(&machine, 0, index, WALL);
    let [version, seconds, nanoseconds]: [u32; 3] = machine.memory.read(WALL as usize);
    expect::that(
        &format!("an even version ({version})"),
        version != 0 && version % 2 == 0,
    );
    expect::that("nanoseconds below 1 s", nanoseconds < 1_000_000_000);
    let told = u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds);
    let told = told + now(&machine, 0, PAGE);
    let real = SystemTime::now().duration_since(UNIX_EPOCH);
    let real = real.expect("a time after 1970").as_nanos() as u64;
    let apart = told.abs_diff(real);
    expect::that(
        &format!("the time of day ({apart} ns apart)"),
        apart < 1_000_000_000,
    );
    write(&machine, 0, index, WALL);
    let next: u32 = machine.memory.read(WALL as usize);
    expect::eq("version next time", next, version + 2);
}

fn wall_clock_new() {
    expect_wall_clock(WALL_CLOCK);
}

fn wall_clock_old() {
    expect_wall_clock(WALL_CLOCK_OLD);
}

fn wall_clock_bad_address() {
    let machine = Machine::new(1);
    for index in [WALL_CLOCK, WALL_CLOCK_OLD] {
        for address in [layout::MMIO, layout::MEMORY as u64 - 4, 1 << 60, u64::MAX] {
            write(&machine, 0, index, address);
            expect::eq("MSR", machine.cpu(0).rdmsr(index), Ok(address));
        }
    }
    write(&machine, 0, WALL_CLOCK, WALL);
    expect::ne("version", machine.peek(WALL) as u32, 0);
}

/// The old numbers and the new ones are the same registers; the VMM can save and restore them.
fn msrs_read_back() {
    let machine = Machine::new(2);
    write(&machine, 0, SYSTEM_TIME, PAGE | 1);
    write(&machine, 0, WALL_CLOCK, WALL);
    for (old, new, want) in [
        (SYSTEM_TIME_OLD, SYSTEM_TIME, PAGE | 1),
        (WALL_CLOCK_OLD, WALL_CLOCK, WALL),
    ] {
        for index in [old, new] {
            expect::eq("guest", machine.cpu(0).rdmsr(index), Ok(want));
            expect::eq("VMM", machine.vcpus[0].msr(index), Some(want));
        }
    }
    // The time page is a vCPU's own, the wall clock is the VM's.
    expect::eq(
        "SYSTEM_TIME of the other",
        machine.vcpus[1].msr(SYSTEM_TIME),
        Some(0),
    );
    expect::eq(
        "WALL_CLOCK of the other",
        machine.vcpus[1].msr(WALL_CLOCK),
        Some(WALL),
    );
    expect::that(
        "KVM_SET_MSRS",
        machine.vcpus[1].set_msr(SYSTEM_TIME, (PAGE + 0x40) | 1),
    );
    machine.cpu(1).nop();
    expect::ne("multiplier", time_page(&machine, PAGE + 0x40).multiplier, 0);
}

#[track_caller]
fn offset(machine: &Machine, id: usize) -> u64 {
    let value = 0u64;
    let attribute = kvm_device_attr {
        addr: std::ptr::from_ref(&value) as u64,
        ..kvm_device_attr::default()
    };
    let got = machine.vcpus[id].set(GET_DEVICE_ATTR, &attribute);
    expect::ok("KVM_GET_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET", got);
    // SAFETY: the kernel wrote there meanwhile, which the compiler cannot know.
    unsafe { std::ptr::from_ref(&value).read_volatile() }
}

#[track_caller]
fn tsc(machine: &Machine, id: usize) -> u64 {
    match machine.cpu(id).rdmsr(msr::TSC) {
        Ok(value) => value,
        Err(fault) => panic!("IA32_TSC: expected a value, got {fault:?}"),
    }
}

fn tsc_starts_at_zero() {
    let machine = Machine::new(1);
    let first = tsc(&machine, 0);
    expect::that(&format!("small at first ({first})"), first < 1 << 36);
    let khz = machine.vcpus[0].call(GET_TSC_KHZ, 0);
    let khz = expect::ok("KVM_GET_TSC_KHZ", khz);
    expect::that("a frequency", khz > 1000);
}

fn tsc_in_step() {
    let machine = Machine::new(4);
    let offsets: Vec<_> = (0..4).map(|id| offset(&machine, id)).collect();
    expect::eq("offsets", offsets.clone(), vec![offsets[0]; 4]);
    let mut last = 0;
    for round in 0..40 {
        let now = tsc(&machine, round % 4);
        expect::that(&format!("{now} after {last}"), now > last);
        last = now;
    }
}

/// Counters that a VMM sets to about the same are brought in step, as when a VM is restored.
fn tsc_set_in_step() {
    let machine = Machine::new(3);
    for id in 0..3 {
        let value = (1 << 40) + id as u64 * 1000;
        expect::that("KVM_SET_MSRS", machine.vcpus[id].set_msr(msr::TSC, value));
    }
    let offsets: Vec<_> = (0..3).map(|id| offset(&machine, id)).collect();
    expect::eq("offsets", offsets.clone(), vec![offsets[0]; 3]);
    let now = tsc(&machine, 2);
    expect::that(&format!("the value ({now:#x})"), now >> 40 == 1);
}

/// Values far from each other are meant.
fn tsc_set_apart() {
    let machine = Machine::new(2);
    expect::that("KVM_SET_MSRS", machine.vcpus[0].set_msr(msr::TSC, 1 << 40));
    expect::that("KVM_SET_MSRS", machine.vcpus[1].set_msr(msr::TSC, 1 << 50));
    let (first, second) = (tsc(&machine, 0), tsc(&machine, 1));
    expect::that(
        &format!("as set ({first:#x}, {second:#x})"),
        first >> 40 == 1 && second >> 50 == 1,
    );
}

/// What the guest adds to its counter is in IA32_TSC_ADJUST too.
fn tsc_set_by_guest() {
    const TSC_ADJUST: u32 = 0x3b;
    let machine = Machine::new(2);
    let cpu = machine.cpu(0);
    expect::eq("IA32_TSC_ADJUST", cpu.rdmsr(TSC_ADJUST), Ok(0));
    expect::eq("write", cpu.wrmsr(msr::TSC, 1 << 45), Ok(()));
    let now = tsc(&machine, 0);
    expect::that(&format!("as written ({now:#x})"), now >> 45 == 1);
    let adjust = cpu.rdmsr(TSC_ADJUST).unwrap_or(0);
    expect::that(
        &format!("IA32_TSC_ADJUST is about 2^45 ({adjust:#x})"),
        adjust > (1 << 45) - (1 << 40) && adjust <= 1 << 45,
    );
    expect::that("the other is its own", tsc(&machine, 1) < 1 << 45);
    expect::eq("write", cpu.wrmsr(TSC_ADJUST, 0), Ok(()));
    expect::that("back again", tsc(&machine, 0) < 1 << 45);
}

/// KVM_VCPU_TSC_CTRL (Documentation/virt/kvm/devices/vcpu.rst, 4).
fn tsc_offset() {
    let machine = Machine::new(2);
    let before = offset(&machine, 0);
    let value = before.wrapping_add(1 << 42);
    let attribute = kvm_device_attr {
        addr: std::ptr::from_ref(&value) as u64,
        ..kvm_device_attr::default()
    };
    let vcpu = &machine.vcpus[0];
    expect::ok("has", vcpu.set(HAS_DEVICE_ATTR, &attribute));
    let then = tsc(&machine, 0);
    expect::ok("set", vcpu.set(SET_DEVICE_ATTR, &attribute));
    expect::eq("offset", offset(&machine, 0), value);
    let ahead = tsc(&machine, 0) - then;
    expect::that(&format!("2^42 ahead ({ahead:#x})"), ahead >> 36 == 1 << 6);
    expect::eq("offset of the other", offset(&machine, 1), before);
}

fn tsc_offset_errors() {
    let machine = Machine::new(1);
    let vcpu = &machine.vcpus[0];
    let value = 0u64;
    let good = kvm_device_attr {
        addr: std::ptr::from_ref(&value) as u64,
        ..kvm_device_attr::default()
    };
    for (name, request) in [
        ("has", HAS_DEVICE_ATTR),
        ("get", GET_DEVICE_ATTR),
        ("set", SET_DEVICE_ATTR),
    ] {
        let other = kvm_device_attr { attr: 1, ..good };
        expect::errno(
            &format!("{name} attribute 1"),
            vcpu.set(request, &other),
            ENXIO,
        );
        let other = kvm_device_attr { group: 7, ..good };
        expect::errno(&format!("{name} group 7"), vcpu.set(request, &other), ENXIO);
        let got = vcpu.fault(request.number);
        expect::errno(&format!("{name} without memory"), got, EFAULT);
    }
    let addr = BAD_ADDRESS;
    for request in [GET_DEVICE_ATTR, SET_DEVICE_ATTR] {
        let bad = kvm_device_attr { addr, ..good };
        expect::errno("no value", vcpu.set(request, &bad), EFAULT);
    }
}

/// KVM_SET_TSC_KHZ of a VM is for the vCPUs still to be made.
fn tsc_frequency_of_vm() {
    let vm = Vm::new();
    let host = expect::ok("KVM_GET_TSC_KHZ", vm.call(GET_TSC_KHZ, 0));
    expect::that("a frequency", host > 1000);
    expect::ok("KVM_SET_TSC_KHZ", vm.call(SET_TSC_KHZ, host as u64));
    let vcpu = vm.create_vcpu(0);
    let got = expect::ok("KVM_GET_TSC_KHZ", vcpu.call(GET_TSC_KHZ, 0));
    expect::eq("of the vCPU", got, host);
    let got = vm.call(SET_TSC_KHZ, host as u64);
    expect::errno("with a vCPU", got, EINVAL);
}
