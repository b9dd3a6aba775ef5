// SPDX-License-Identifier: GPL-2.0
//! What is counted of VMs and vCPUs: in the files of KVM_GET_STATS_FD, and in debugfs.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use kvm_bindings::*;
use libc::{EBADF, EFAULT, EINVAL, EIO, EMFILE, ENOTTY};

use super::tests;
use crate::code64;
use crate::devices::CREATE_IRQCHIP;
use crate::expect;
use crate::guest::{layout, Guest};
use crate::harness::skip;
use crate::memory::PAGE;
use crate::request::*;
use crate::statistics::{Meaning, Stats, DESCRIPTOR, HEADER, NAME};
use crate::sys::{self, Errno};
use crate::vcpu::Exit;
use crate::vm::{Kvm, Vm};

tests! {
    "stats":
    capability, layout_of_the_file, descriptors_of_a_vm, descriptors_of_a_vcpu, identities,
    read_in_pieces, beyond_the_end, only_read, bad_address, out_of_descriptors, another_process,
    close_on_exec, outlives_vm_and_vcpu, new_vcpu_has_counted_nothing, exits, emulation, hypercalls,
    halts, faults, debugfs_has_all, debugfs_adds_up, debugfs_of_all_vms, debugfs_clears,
    debugfs_refuses, debugfs_goes_with_the_last_file,
}

const DEBUGFS: &str = "/sys/kernel/debug/kvm";

const COUNTER: Meaning = (KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_UNIT_NONE, 0, 1);
const GAUGE: Meaning = (KVM_STATS_TYPE_INSTANT, KVM_STATS_UNIT_NONE, 0, 1);
const PEAK: Meaning = (KVM_STATS_TYPE_PEAK, KVM_STATS_UNIT_NONE, 0, 1);
const FLAG: Meaning = (KVM_STATS_TYPE_INSTANT, KVM_STATS_UNIT_BOOLEAN, 0, 1);
const TIME: Meaning = (KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_UNIT_SECONDS, -9, 1);
const TIMES: Meaning = (KVM_STATS_TYPE_LOG_HIST, KVM_STATS_UNIT_SECONDS, -9, 32);

const OF_A_VM: &[(&str, Meaning)] = &[
    ("remote_tlb_flush", COUNTER),
    ("remote_tlb_flush_requests", COUNTER),
    ("mmu_shadow_zapped", COUNTER),
    ("mmu_pte_write", COUNTER),
    ("mmu_pde_zapped", COUNTER),
    ("mmu_flooded", COUNTER),
    ("mmu_recycled", COUNTER),
    ("mmu_cache_miss", COUNTER),
    ("mmu_unsync", GAUGE),
    ("mmu_shadow_pages", GAUGE),
    ("pages_4k", GAUGE),
    ("pages_2m", GAUGE),
    ("pages_1g", GAUGE),
    ("nx_lpage_splits", GAUGE),
    ("max_mmu_rmap_size", PEAK),
    ("max_mmu_page_hash_collisions", PEAK),
];

const OF_A_VCPU: &[(&str, Meaning)] = &[
    ("halt_successful_poll", COUNTER),
    ("halt_attempted_poll", COUNTER),
    ("halt_poll_invalid", COUNTER),
    ("halt_wakeup", COUNTER),
    ("halt_poll_success_ns", TIME),
    ("halt_poll_fail_ns", TIME),
    ("halt_wait_ns", TIME),
    ("halt_poll_success_hist", TIMES),
    ("halt_poll_fail_hist", TIMES),
    ("halt_wait_hist", TIMES),
    ("blocking", FLAG),
    ("pf_taken", COUNTER),
    ("pf_fixed", COUNTER),
    ("pf_emulate", COUNTER),
    ("pf_spurious", COUNTER),
    ("pf_fast", COUNTER),
    ("pf_mmio_spte_created", COUNTER),
    ("pf_guest", COUNTER),
    ("tlb_flush", COUNTER),
    ("invlpg", COUNTER),
    ("exits", COUNTER),
    ("io_exits", COUNTER),
    ("mmio_exits", COUNTER),
    ("signal_exits", COUNTER),
    ("irq_window_exits", COUNTER),
    ("nmi_window_exits", COUNTER),
    ("l1d_flush", COUNTER),
    ("halt_exits", COUNTER),
    ("request_irq_exits", COUNTER),
    ("irq_exits", COUNTER),
    ("host_state_reload", COUNTER),
    ("fpu_reload", COUNTER),
    ("insn_emulation", COUNTER),
    ("insn_emulation_fail", COUNTER),
    ("hypercalls", COUNTER),
    ("irq_injections", COUNTER),
    ("nmi_injections", COUNTER),
    ("req_event", COUNTER),
    ("nested_run", COUNTER),
    ("directed_yield_attempted", COUNTER),
    ("directed_yield_successful", COUNTER),
    ("preemption_reported", COUNTER),
    ("preemption_other", COUNTER),
    ("guest_mode", FLAG),
    ("notify_window_exits", COUNTER),
];

fn capability() {
    let kvm = Kvm::open();
    expect::eq("of the system", kvm.extension(KVM_CAP_BINARY_STATS_FD), 1);
    let vm = kvm.create_vm();
    let value = vm.call(CHECK_EXTENSION, KVM_CAP_BINARY_STATS_FD.into());
    expect::eq("of a VM", expect::ok("KVM_CHECK_EXTENSION", value), 1);
}

fn layout_of_the_file() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    for (what, stats) in [("VM", Stats::of(&vm)), ("vCPU", Stats::of(&vcpu))] {
        let header = stats.header();
        let count = header.num_desc as usize;
        expect::eq(&format!("{what}: flags"), header.flags, 0);
        expect::eq(
            &format!("{what}: name_size"),
            header.name_size as usize,
            NAME,
        );
        expect::that(
            &format!("{what}: the identity is after the header"),
            header.id_offset as usize >= HEADER,
        );
        expect::that(
            &format!("{what}: the descriptors are after the identity"),
            header.desc_offset as usize >= header.id_offset as usize + NAME,
        );
        expect::that(
            &format!("{what}: the numbers are after the descriptors"),
            header.data_offset as usize >= header.desc_offset as usize + count * DESCRIPTOR,
        );
        let mut descriptors = stats.descriptors();
        descriptors.sort_by_key(|descriptor| descriptor.offset);
        let mut end = 0;
        for descriptor in descriptors {
            let name = &descriptor.name;
            expect::eq(&format!("base of {name}"), descriptor.base, 0);
            expect::eq(&format!("bucket size of {name}"), descriptor.bucket_size, 0);
            expect::eq(&format!("alignment of {name}"), descriptor.offset % 8, 0);
            expect::that(&format!("{name} is its own"), descriptor.offset >= end);
            end = descriptor.offset + 8 * usize::from(descriptor.meaning.3);
        }
    }
}

fn expect_descriptors(stats: &Stats, want: &[(&str, Meaning)]) {
    let got = stats.descriptors();
    let names: Vec<_> = got.iter().map(|d| d.name.as_str()).collect();
    let wanted: Vec<_> = want.iter().map(|(name, _)| *name).collect();
    expect::eq("names", names, wanted);
    for (descriptor, (name, meaning)) in got.iter().zip(want) {
        expect::eq(name, descriptor.meaning, *meaning);
    }
}

fn descriptors_of_a_vm() {
    expect_descriptors(&Stats::of(&Vm::new()), OF_A_VM);
}

fn descriptors_of_a_vcpu() {
    expect_descriptors(&Stats::of(&Vm::new().create_vcpu(0)), OF_A_VCPU);
}

fn identities() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(5);
    let pid = std::process::id();
    expect::eq("the VM's", Stats::of(&vm).identity(), format!("kvm-{pid}"));
    let identity = Stats::of(&vcpu).identity();
    expect::eq("the vCPU's", identity, format!("kvm-{pid}/vcpu-5"));
}

fn read_in_pieces() {
    let vcpu = Vm::new().create_vcpu(0);
    let mut stats = Stats::of(&vcpu);
    let size = stats.size();
    let whole = stats.bytes_at(0, size);
    for step in [1, 7, 64, 1000] {
        let mut pieces = Vec::new();
        while pieces.len() < size {
            let len = step.min(size - pieces.len());
            pieces.extend(stats.bytes_at(pieces.len(), len));
        }
        expect::that(&format!("pieces of {step}"), pieces == whole);
    }
    let mut read = Vec::new();
    expect::eq(
        "read() in all",
        stats.0.read_to_end(&mut read).expect("read"),
        size,
    );
    expect::that("what was read()", read == whole);
    expect::eq(
        "the place after that",
        stats.0.stream_position().expect("lseek"),
        size as u64,
    );
    // There is no seeking.
    let place = stats.0.seek(SeekFrom::Start(0)).expect("lseek");
    expect::eq("the place after a seek", place, size as u64);
}

fn beyond_the_end() {
    let vm = Vm::new();
    let stats = Stats::of(&vm);
    let size = stats.size() as u64;
    let mut byte = [0];
    for offset in [size, size + 1, 1 << 32, 1 << 62] {
        let got = stats.0.read_at(&mut byte, offset).expect("pread");
        expect::eq(&format!("bytes at {offset:#x}"), got, 0);
    }
    let mut large = vec![0; 2 * size as usize];
    let got = stats.0.read_at(&mut large, 8).expect("pread");
    expect::eq("bytes with room for more", got as u64, size - 8);
    expect::eq(
        "bytes without room",
        stats.0.read_at(&mut [], 0).expect("pread"),
        0,
    );
}

fn only_read() {
    let vm = Vm::new();
    let mut stats = Stats::of(&vm);
    let written = stats.0.write(&[0]).map_err(|e| e.raw_os_error());
    expect::eq("write", written, Err(Some(EBADF)));
    // SAFETY: an ioctl without an argument.
    let done = sys::result(unsafe { libc::ioctl(stats.0.as_raw_fd(), 0xae00, 0) }.into());
    expect::errno("ioctl", done, ENOTTY);
}

fn bad_address() {
    let vm = Vm::new();
    let stats = Stats::of(&vm);
    for offset in [0, 30, 100, stats.header().data_offset as i64] {
        // SAFETY: the address is no memory, which the kernel says.
        let done =
            sys::result(
                unsafe { libc::pread(stats.0.as_raw_fd(), PAGE as *mut _, 8, offset) } as i64,
            );
        expect::errno(&format!("pread at {offset}"), done, EFAULT);
    }
}

fn out_of_descriptors() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let _limit = sys::DescriptorLimit::at_present();
    expect::errno("of a VM", vm.call(GET_STATS_FD, 0), EMFILE);
    expect::errno("of a vCPU", vcpu.call(GET_STATS_FD, 0), EMFILE);
}

fn another_process() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    let stats = Stats::of(&vcpu);
    sys::in_child(AssertUnwindSafe(|| {
        expect::errno("of a VM", vm.call(GET_STATS_FD, 0), EIO);
        expect::errno("of a vCPU", vcpu.call(GET_STATS_FD, 0), EIO);
        // What is open may be read by whoever has it.
        expect::eq("exits", stats.number("exits"), 0);
    }));
}

fn close_on_exec() {
    let vm = Vm::new();
    let vcpu = vm.create_vcpu(0);
    for stats in [Stats::of(&vm), Stats::of(&vcpu)] {
        expect::that("closed on exec", sys::closes_on_exec(stats.0.as_raw_fd()));
    }
}

fn outlives_vm_and_vcpu() {
    let guest = Guest::long(code64!("cpuid", "hlt"));
    guest.run_to_halt();
    let (vm, vcpu) = (Stats::of(&guest.vm), Stats::of(&guest.vcpu));
    let exits = vcpu.number("exits");
    drop(guest);
    expect::eq("exits", vcpu.number("exits"), exits);
    expect::eq(
        "identity",
        vm.identity(),
        format!("kvm-{}", std::process::id()),
    );
    drop(vm);
    expect::eq("exits without the VM's file", vcpu.number("exits"), exits);
}

fn new_vcpu_has_counted_nothing() {
    let vcpu = Vm::new().create_vcpu(0);
    let numbers = Stats::of(&vcpu).numbers();
    for name in [
        "exits",
        "io_exits",
        "mmio_exits",
        "halt_exits",
        "hypercalls",
        "pf_taken",
    ] {
        expect::eq(name, numbers.get(name), Some(&0));
    }
}

/// By how much each number grows while `run` runs.
fn growth(stats: &Stats, run: impl FnOnce()) -> impl Fn(&str) -> u64 {
    let before = stats.numbers();
    run();
    let after = stats.numbers();
    move |name| after[name] - before[name]
}

fn exits() {
    let guest = Guest::long(code64!(
        "mov esi, 100",
        "2:",
        "xor eax, eax",
        "cpuid",
        "dec esi",
        "jnz 2b",
        "mov dx, 0x3f8",
        "out dx, al",
        "in al, dx",
        "hlt",
    ));
    let stats = Stats::of(&guest.vcpu);
    let grown = growth(&stats, || {
        let exit = guest.vcpu.run();
        expect::that("an OUT", matches!(exit, Ok(Exit::Out { port: 0x3f8, .. })));
    });
    expect::that("exits for 100 CPUIDs and an OUT", grown("exits") >= 101);
    expect::eq("I/O exits for an OUT", grown("io_exits"), 1);
    let grown = growth(&stats, || {
        let exit = guest.vcpu.run();
        expect::that("an IN", matches!(exit, Ok(Exit::In { port: 0x3f8, .. })));
        guest.vcpu.answer_io(&[1]);
        guest.run_to_halt();
    });
    expect::eq("I/O exits for an IN", grown("io_exits"), 1);
    expect::eq("exits for HLT", grown("halt_exits"), 1);
    expect::that("exits for an IN and a HLT", grown("exits") >= 2);
    expect::eq("MMIO", grown("mmio_exits"), 0);
}

fn emulation() {
    let guest = Guest::long(code64!("mov eax, [rbx]", "mov [rbx], eax", "hlt"));
    let regs = guest.vcpu.regs();
    guest.vcpu.set_regs(&kvm_regs {
        rbx: layout::MMIO,
        ..regs
    });
    let stats = Stats::of(&guest.vcpu);
    let grown = growth(&stats, || {
        let exit = guest.vcpu.run();
        expect::that("a load", matches!(exit, Ok(Exit::MmioRead { .. })));
        guest.vcpu.answer_mmio(&[1, 0, 0, 0]);
        let exit = guest.vcpu.run();
        expect::that("a store", matches!(exit, Ok(Exit::MmioWrite { .. })));
        guest.run_to_halt();
    });
    expect::eq("MMIO for the VMM", grown("mmio_exits"), 2);
    expect::eq("instructions emulated", grown("insn_emulation"), 2);
    expect::eq(
        "instructions that cannot be",
        grown("insn_emulation_fail"),
        0,
    );
}

fn hypercalls() {
    let guest = Guest::long(code64!(
        "mov esi, 3",
        "2:",
        "mov eax, 1",
        "vmcall",
        "dec esi",
        "jnz 2b",
        "hlt",
    ));
    let stats = Stats::of(&guest.vcpu);
    let grown = growth(&stats, || guest.run_to_halt());
    expect::eq("hypercalls", grown("hypercalls"), 3);
}

/// With its local APIC in the kernel a vCPU that halts waits there.
fn halts() {
    let vm = Vm::new();
    expect::ok("KVM_CREATE_IRQCHIP", vm.call(CREATE_IRQCHIP, 0));
    let guest = Guest::in_vm(vm, crate::guest::Mode::Long, code64!("hlt", "hlt"));
    let stats = Stats::of(&guest.vcpu);
    let grown = growth(&stats, || {
        sys::catch(libc::SIGALRM);
        sys::set_timer(
            std::time::Duration::from_millis(50),
            std::time::Duration::ZERO,
        );
        expect::errno("KVM_RUN", guest.vcpu.run(), libc::EINTR);
    });
    expect::eq("exits for HLT", grown("halt_exits"), 1);
    expect::eq("ends for a signal", grown("signal_exits"), 1);
    expect::that("it waited", grown("halt_wait_ns") > 1_000_000);
    expect::eq("waits in the histogram", grown("halt_wait_hist"), 1);
    expect::eq("it does not wait now", stats.number("blocking"), 0);
}

fn faults() {
    let guest = Guest::long(code64!("mov [rbx], eax", "hlt"));
    let stats = Stats::of(&guest.vcpu);
    let regs = guest.vcpu.regs();
    guest.vcpu.set_regs(&kvm_regs {
        rbx: layout::DATA,
        ..regs
    });
    let grown = growth(&stats, || guest.run_to_halt());
    expect::that("faults", grown("pf_taken") > 0);
    expect::that("faults that mapped memory", grown("pf_fixed") > 0);
    expect::eq("faults that were emulated", grown("pf_emulate"), 0);
}

/// The directory of a VM that this thread has made.
fn directory(vm: &Vm) -> PathBuf {
    if !Path::new(DEBUGFS).exists() {
        skip("no debugfs here");
    }
    Path::new(DEBUGFS).join(format!("{}-{}", std::process::id(), vm.as_raw_fd()))
}

fn number_in(directory: &Path, name: &str) -> u64 {
    let path = directory.join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let line = text.strip_suffix('\n');
    line.and_then(|line| line.parse().ok())
        .unwrap_or_else(|| panic!("{}: no number: {text:?}", path.display()))
}

fn write_to(directory: &Path, name: &str, text: &str) -> Result<(), Errno> {
    let path = directory.join(name);
    let file = fs::OpenOptions::new().write(true).open(&path);
    let mut file = file.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    file.write_all(text.as_bytes())
        .map_err(|e| Errno(e.raw_os_error().unwrap_or(0)))
}

fn debugfs_has_all() {
    let vm = Vm::new();
    let place = directory(&vm);
    let _vcpu = vm.create_vcpu(0);
    for (name, _) in OF_A_VM.iter().chain(OF_A_VCPU) {
        number_in(&place, name);
        number_in(Path::new(DEBUGFS), name);
    }
}

fn debugfs_adds_up() {
    let guest = Guest::long(code64!("cpuid", "hlt", "cpuid", "hlt"));
    let place = directory(&guest.vm);
    let other = guest.vm.create_vcpu(1);
    other.set_supported_cpuid();
    crate::guest::set_mode(&other, crate::guest::Mode::Long);
    guest.run_to_halt();
    other.expect_exit(Exit::Hlt);
    let sum = |name| Stats::of(&guest.vcpu).number(name) + Stats::of(&other).number(name);
    for name in ["exits", "halt_exits", "pf_taken", "host_state_reload"] {
        expect::eq(name, number_in(&place, name), sum(name));
    }
    expect::eq("halt_exits", number_in(&place, "halt_exits"), 2);
}

fn debugfs_of_all_vms() {
    let all = Path::new(DEBUGFS);
    let halts = || {
        directory(&Vm::new());
        number_in(all, "halt_exits")
    };
    let before = halts();
    let guests = [(); 2].map(|()| Guest::long(code64!("hlt")));
    for guest in &guests {
        guest.run_to_halt();
    }
    expect::eq("halts of two VMs", halts() - before, 2);
    drop(guests);
    expect::eq("halts after them", halts(), before);
}

fn debugfs_clears() {
    let guest = Guest::long(code64!("hlt", "hlt"));
    let place = directory(&guest.vm);
    guest.run_to_halt();
    expect::eq("halts", number_in(&place, "halt_exits"), 1);
    for zero in ["0", "0\n", "0x0\n"] {
        expect::ok("write", write_to(&place, "halt_exits", zero));
        expect::eq("halts", number_in(&place, "halt_exits"), 0);
        expect::eq("its file", Stats::of(&guest.vcpu).number("halt_exits"), 0);
    }
    guest.run_to_halt();
    expect::eq("halts since", number_in(&place, "halt_exits"), 1);
    expect::ok("write", write_to(Path::new(DEBUGFS), "halt_exits", "0"));
    expect::eq("after all VMs'", number_in(&place, "halt_exits"), 0);
    expect::that("other numbers", number_in(&place, "exits") > 0);
}

fn debugfs_refuses() {
    let guest = Guest::long(code64!("hlt"));
    let place = directory(&guest.vm);
    guest.run_to_halt();
    for text in ["1", "7\n", "no", "18446744073709551615"] {
        expect::errno(text, write_to(&place, "halt_exits", text), EINVAL);
        expect::eq("halts", number_in(&place, "halt_exits"), 1);
    }
}

fn debugfs_goes_with_the_last_file() {
    let vm = Vm::new();
    let place = directory(&vm);
    let vcpu = vm.create_vcpu(0);
    let stats = Stats::of(&vcpu);
    drop(vm);
    expect::eq("with the vCPU's file", number_in(&place, "exits"), 0);
    drop(vcpu);
    expect::eq("with what was counted", number_in(&place, "exits"), 0);
    drop(stats);
    expect::that("gone", !place.exists());
}
