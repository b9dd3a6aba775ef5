// SPDX-License-Identifier: GPL-2.0
//! VMs and vCPUs as file descriptors: made, mapped, copied, handed on, closed in any order, and
//! killed.

use std::os::fd::AsRawFd;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use kvm_bindings::*;
use libc::{EEXIST, EINVAL, EIO, EMFILE, ENODEV, SIGBUS, SIGKILL};

use super::tests;
use crate::code64;
use crate::expect;
use crate::guest::{layout, set_mode, Guest, Mode};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys::{self, Ended};
use crate::vcpu::{Exit, Vcpu};
use crate::vm::{Kvm, Vm};

tests! {
    "lifetime":
    vcpu_outlives_vm_descriptor, vm_outlives_vcpu, run_page_outlives_all, close_in_any_order,
    duplicated, close_on_exec, run_page_layout, beyond_the_run_page, run_page_mapped_twice,
    only_vcpus_are_mapped, no_reading, vcpu_ids, vcpu_limit, sixteen_vcpus, out_of_descriptors,
    another_process, parent_gone, passed_over_socket, passed_to_another_process,
    two_vms_take_turns, two_vms_at_once, create_and_destroy(60), killed(120),
    killed_with_threads(60), exit_with_running_vcpu, unmapped_while_closing,
}

fn vcpu_outlives_vm_descriptor() {
    let Guest { vcpu, vm, memory } =
        Guest::long(code64!("mov eax, [{a}]", "hlt", "mov eax, 2", "hlt"; a = const layout::DATA));
    memory.write(layout::DATA as usize, 41u64);
    drop(vm);
    vcpu.expect_exit(Exit::Hlt);
    expect::eq("RAX", vcpu.regs().rax, 41);
    vcpu.expect_exit(Exit::Hlt);
    expect::eq("RAX", vcpu.regs().rax, 2);
}

fn vm_outlives_vcpu() {
    let Guest { vcpu, vm, memory } = Guest::long(code64!("hlt"));
    vcpu.expect_exit(Exit::Hlt);
    drop(vcpu);
    let other = vm.create_vcpu(1);
    other.set_supported_cpuid();
    set_mode(&other, Mode::Long);
    other.expect_exit(Exit::Hlt);
    expect::errno("the first one's id", vm.call(CREATE_VCPU, 0), EEXIST);
    drop(memory);
}

fn run_page_outlives_all() {
    let guest = Guest::long(code64!("hlt"));
    guest.run_to_halt();
    let page = Mapping::of_file(guest.vcpu.as_raw_fd(), PAGE, 0);
    let page = expect::ok("mmap", page);
    drop(guest);
    let reason: u32 = page.read(std::mem::offset_of!(kvm_run, exit_reason));
    expect::eq("exit reason", reason, KVM_EXIT_HLT);
    page.write(0, 1u8);
}

fn close_in_any_order() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let kvm = Kvm::open();
        let vm = kvm.create_vm();
        let memory = Mapping::anonymous(PAGE);
        vm.add_memory(0, 0, &memory);
        let vcpu = vm.create_vcpu(0);
        let (mut kvm, mut vm, mut vcpu) = (Some(kvm), Some(vm), Some(vcpu));
        for which in order {
            match which {
                0 => drop(kvm.take()),
                1 => drop(vm.take()),
                _ => drop(vcpu.take()),
            }
        }
    }
    Guest::long(code64!("hlt")).run_to_halt();
}

fn duplicated() {
    let Guest { vcpu, vm, memory } = Guest::long(code64!("2: hlt", "jmp 2b"));
    let (vcpu2, vm2) = (Vcpu::new(sys::dup(&vcpu)), Vm(sys::dup(&vm)));
    vcpu.expect_exit(Exit::Hlt);
    vcpu2.expect_exit(Exit::Hlt);
    expect::eq("the run page of both", vcpu.exit(), Exit::Hlt);
    drop(vcpu);
    drop(vm);
    vcpu2.expect_exit(Exit::Hlt);
    let more = Mapping::anonymous(PAGE);
    vm2.add_memory(1, layout::EXTRA, &more);
    drop(memory);
}

fn close_on_exec() {
    let guest = Guest::long(&[]);
    for (what, fd) in [
        ("VM", guest.vm.as_raw_fd()),
        ("vCPU", guest.vcpu.as_raw_fd()),
    ] {
        expect::eq(
            &format!("{what} closes on exec"),
            sys::closes_on_exec(fd),
            true,
        );
    }
}

fn run_page_layout() {
    let guest = Guest::long(code64!("in eax, 0x10", "hlt"));
    guest.vcpu.expect_exit(Exit::In {
        port: 0x10,
        size: 4,
        count: 1,
    });
    let offset = guest.vcpu.io_data();
    expect::eq("I/O data on the second page", offset, PAGE);
    let second = Mapping::of_file(guest.vcpu.as_raw_fd(), PAGE, PAGE);
    let second = expect::ok("mmap of the second page alone", second);
    second.write(0, 0x1234_5678u32);
    guest.run_to_halt();
    expect::eq("EAX", guest.vcpu.regs().rax, 0x1234_5678);
}

/// Touches the page at `offset` of a vCPU in a child; how the child ends.
#[track_caller]
fn touch_in_child(vcpu: &Vcpu, offset: usize) -> Ended {
    let page = Mapping::of_file(vcpu.as_raw_fd(), PAGE, offset);
    let page = expect::ok("mmap", page);
    sys::reap(sys::spawn(AssertUnwindSafe(|| {
        page.read::<u8>(0);
    })))
}

fn beyond_the_run_page() {
    let guest = Guest::long(&[]);
    let size = Kvm::open().mmap_size();
    for page in (0..size).step_by(PAGE) {
        let ended = touch_in_child(&guest.vcpu, page);
        expect::eq(
            &format!("reading offset {page:#x}"),
            ended,
            Ended::Exited(0),
        );
    }
    for offset in [size, size + PAGE, 1 << 30] {
        let ended = touch_in_child(&guest.vcpu, offset);
        expect::eq(
            &format!("reading offset {offset:#x}"),
            ended,
            Ended::Signalled(SIGBUS),
        );
    }
}

fn run_page_mapped_twice() {
    let guest = Guest::long(code64!("hlt"));
    let other = Mapping::of_file(guest.vcpu.as_raw_fd(), PAGE, 0);
    let other = expect::ok("mmap", other);
    other.write(std::mem::offset_of!(kvm_run, immediate_exit), 1u8);
    expect::errno("KVM_RUN", guest.vcpu.run(), libc::EINTR);
    other.write(std::mem::offset_of!(kvm_run, immediate_exit), 0u8);
    guest.run_to_halt();
    let reason: u32 = other.read(std::mem::offset_of!(kvm_run, exit_reason));
    expect::eq("exit reason", reason, KVM_EXIT_HLT);
}

fn only_vcpus_are_mapped() {
    let (kvm, vm) = (Kvm::open(), Vm::new());
    for (what, fd) in [("system", kvm.as_raw_fd()), ("VM", vm.as_raw_fd())] {
        let got = Mapping::of_file(fd, PAGE, 0).map(|_| ());
        expect::errno(what, got, ENODEV);
    }
}

fn no_reading() {
    let guest = Guest::long(&[]);
    let kvm = Kvm::open();
    for fd in [
        kvm.as_raw_fd(),
        guest.vm.as_raw_fd(),
        guest.vcpu.as_raw_fd(),
    ] {
        expect::errno("read", sys::read_byte(fd), EINVAL);
    }
}

fn vcpu_ids() {
    let kvm = Kvm::open();
    let vm = kvm.create_vm();
    let limit = kvm.extension(KVM_CAP_MAX_VCPU_ID) as u64;
    let _first = vm.create_vcpu(0);
    expect::errno("the same again", vm.call(CREATE_VCPU, 0), EEXIST);
    let _last = vm.create_vcpu(limit - 1);
    for id in [limit, limit + 1, 1 << 31, 1 << 32, u64::MAX] {
        expect::errno(&format!("id {id:#x}"), vm.call(CREATE_VCPU, id), EINVAL);
    }
    let _seventh = vm.create_vcpu(7);
}

fn vcpu_limit() {
    let kvm = Kvm::open();
    let limit = kvm.extension(KVM_CAP_MAX_VCPUS) as u64;
    let ids = kvm.extension(KVM_CAP_MAX_VCPU_ID) as u64;
    if limit > 1024 || limit == ids {
        crate::harness::skip("too many vCPUs are allowed to make them all, or as many as ids");
    }
    // A file a vCPU, and some to spare.
    sys::allow_files(limit + 64);
    let vm = kvm.create_vm();
    let _all: Vec<_> = (0..limit).map(|id| vm.create_vcpu(id)).collect();
    expect::errno("one more", vm.call(CREATE_VCPU, limit), EINVAL);
}

fn sixteen_vcpus() {
    let code = code64!("lock inc qword ptr [{count}]", "hlt"; count = const layout::DATA);
    let guest = Guest::long(code);
    let others: Vec<_> = (1..16).map(|id| guest.vm.create_vcpu(id)).collect();
    guest.run_to_halt();
    for vcpu in &others {
        vcpu.set_supported_cpuid();
        set_mode(vcpu, Mode::Long);
        vcpu.expect_exit(Exit::Hlt);
    }
    expect::eq("count", guest.peek(layout::DATA), 16);
    for vcpu in others.iter().rev() {
        expect::eq("RIP", vcpu.regs().rip, guest.vcpu.regs().rip);
    }
}

/// Without a descriptor left nothing is made, and nothing of it stays behind.
fn out_of_descriptors() {
    let kvm = Kvm::open();
    let vm = kvm.create_vm();
    {
        let _limit = sys::DescriptorLimit::at_present();
        expect::errno("KVM_CREATE_VM", kvm.call(CREATE_VM, 0), EMFILE);
        expect::errno("KVM_CREATE_VCPU", vm.call(CREATE_VCPU, 0), EMFILE);
    }
    let _vcpu = vm.create_vcpu(0);
    let _other = kvm.create_vm();
}

/// A VM belongs to the memory of the process that made it.
fn another_process() {
    let guest = Guest::long(code64!("mov eax, 3", "hlt"));
    sys::in_child(AssertUnwindSafe(|| {
        expect::errno("KVM_RUN", guest.vcpu.run(), EIO);
        expect::errno("KVM_GET_REGS", guest.vcpu.get(GET_REGS).map(|_| ()), EIO);
        expect::errno("no such ioctl of a vCPU", guest.vcpu.call(0xae3f, 0), EIO);
        expect::errno("KVM_CREATE_VCPU", guest.vm.call(CREATE_VCPU, 1), EIO);
        expect::errno(
            "KVM_CHECK_EXTENSION",
            guest.vm.call(CHECK_EXTENSION, 0),
            EIO,
        );
        let slot = crate::vm::Slot {
            slot: 9,
            flags: 0,
            gpa: 0,
            size: 0,
            hva: 0,
        };
        expect::errno("KVM_SET_USER_MEMORY_REGION", guest.vm.set_slot(slot), EIO);
        // A VM of its own is the child's.
        Guest::long(code64!("hlt")).run_to_halt();
    }));
    guest.run_to_halt();
    expect::eq("RAX", guest.vcpu.regs().rax, 3);
}

/// The process that made the VM is gone while another still holds its descriptors.
fn parent_gone() {
    let (reader, writer) = sys::pipe();
    let child = sys::spawn(AssertUnwindSafe(|| {
        let guest = Guest::long(code64!("hlt"));
        guest.run_to_halt();
        sys::spawn(AssertUnwindSafe(|| {
            std::thread::sleep(Duration::from_millis(30));
            expect::errno("KVM_RUN", guest.vcpu.run(), EIO);
            expect::errno("KVM_CREATE_VCPU", guest.vm.call(CREATE_VCPU, 1), EIO);
            expect::eq("exit reason in the run page", guest.vcpu.exit(), Exit::Hlt);
            drop(guest.vm);
            drop(guest.vcpu);
            sys::write_all(writer.as_raw_fd(), b"x");
        }));
    }));
    expect::eq("the maker", sys::reap(child), Ended::Exited(0));
    let done = sys::wait_readable(reader.as_raw_fd(), Duration::from_secs(10));
    expect::that("the other process is through", done);
    expect::eq("its report", sys::read_byte(reader.as_raw_fd()), Ok(b'x'));
}

fn passed_over_socket() {
    let Guest { vcpu, vm, memory } = Guest::long(code64!("2: hlt", "jmp 2b"));
    let (one, other) = sys::socket_pair();
    sys::send_descriptor(&one, vcpu.as_raw_fd());
    drop(vcpu);
    drop(vm);
    // For a moment the socket alone holds the vCPU.
    let vcpu = Vcpu::new(sys::receive_descriptor(&other));
    vcpu.expect_exit(Exit::Hlt);
    sys::send_descriptor(&one, vcpu.as_raw_fd());
    drop(vcpu);
    // Never received: the vCPU and its VM end with the socket.
    drop(one);
    drop(other);
    drop(memory);
}

fn passed_to_another_process() {
    let (one, other) = sys::socket_pair();
    let child = sys::spawn(AssertUnwindSafe(|| {
        let fd = sys::receive_descriptor(&other);
        let vcpu = Vcpu::new(fd);
        expect::errno("KVM_RUN", vcpu.run(), EIO);
        expect::eq("its run page is shared", vcpu.exit(), Exit::Hlt);
    }));
    let guest = Guest::long(code64!("2: hlt", "jmp 2b"));
    guest.run_to_halt();
    sys::send_descriptor(&one, guest.vcpu.as_raw_fd());
    expect::eq("the child", sys::reap(child), Ended::Exited(0));
    guest.run_to_halt();
}

fn two_vms_take_turns() {
    let code = code64!("2: inc rax", "out 0x10, al", "jmp 2b");
    let guests: Vec<_> = (0..3).map(|_| Guest::long(code)).collect();
    for guest in &guests {
        guest.vcpu.set_regs(&kvm_regs {
            rax: 0,
            ..guest.vcpu.regs()
        });
    }
    for count in 1..100 {
        for guest in &guests {
            guest.vcpu.expect_exit(Exit::Out {
                port: 0x10,
                size: 1,
                data: vec![count],
            });
        }
    }
}

fn two_vms_at_once() {
    let code = code64!("2: inc qword ptr [{data}]", "loop 2b", "hlt"; data = const layout::DATA);
    let rounds = 1_000_000;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let guest = Guest::long(code);
                guest.vcpu.set_regs(&kvm_regs {
                    rcx: rounds,
                    ..guest.vcpu.regs()
                });
                guest.run_to_halt();
                expect::eq("count", guest.peek(layout::DATA), rounds);
            });
        }
    });
}

/// Nothing runs out by making VMs and letting them go.
fn create_and_destroy() {
    for _ in 0..50 {
        Guest::long(code64!("hlt")).run_to_halt();
    }
}

/// A process with a running guest, killed at whatever it is doing.
fn killed() {
    for round in 0..50u64 {
        let child = sys::spawn(AssertUnwindSafe(|| {
            let guest = Guest::long(code64!(
                "2: mov ecx, 10000",
                "3: inc qword ptr [{data}]",
                "loop 3b",
                "cpuid",
                "out 0x10, al",
                "jmp 2b";
                data = const layout::DATA
            ));
            loop {
                expect::ok("KVM_RUN", guest.vcpu.run());
                let more = Mapping::anonymous(PAGE);
                guest.vm.add_memory(1, layout::EXTRA, &more);
                let slot = crate::vm::Slot::of(1, layout::EXTRA, &more);
                expect::ok(
                    "delete",
                    guest.vm.set_slot(crate::vm::Slot { size: 0, ..slot }),
                );
            }
        }));
        std::thread::sleep(Duration::from_micros(round * 1571 % 40_000));
        sys::kill(child, SIGKILL);
        expect::eq("the child", sys::reap(child), Ended::Signalled(SIGKILL));
    }
    Guest::long(code64!("hlt")).run_to_halt();
}

fn killed_with_threads() {
    for round in 0..10u64 {
        let child = sys::spawn(AssertUnwindSafe(|| {
            let guest = Guest::long(code64!("2: jmp 2b"));
            let other = guest.vm.create_vcpu(1);
            other.set_supported_cpuid();
            set_mode(&other, Mode::Long);
            std::thread::scope(|scope| {
                scope.spawn(|| other.run());
                let _ = guest.vcpu.run();
            });
        }));
        std::thread::sleep(Duration::from_millis(20 + round * 3));
        sys::kill(child, SIGKILL);
        expect::eq("the child", sys::reap(child), Ended::Signalled(SIGKILL));
    }
}

/// The process exits while another of its threads is in KVM_RUN.
fn exit_with_running_vcpu() {
    for _ in 0..5 {
        let child = sys::spawn(AssertUnwindSafe(|| {
            let code = code64!("2: inc qword ptr [{data}]", "jmp 2b"; data = const layout::DATA);
            let guest = Guest::long(code);
            std::thread::scope(|scope| {
                scope.spawn(|| guest.vcpu.run());
                while guest.peek(layout::DATA) == 0 {
                    std::thread::yield_now();
                }
                sys::exit_now(7);
            });
        }));
        expect::eq("the child", sys::reap(child), Ended::Exited(7));
    }
}

/// Memory goes away together with the VM, in both orders.
fn unmapped_while_closing() {
    for memory_first in [true, false] {
        let guest = Guest::long(code64!("hlt"));
        guest.run_to_halt();
        let Guest { vcpu, vm, memory } = guest;
        if memory_first {
            drop(memory);
            drop(vcpu);
            drop(vm);
        } else {
            let second = sys::dup(&vm);
            drop(vm);
            drop(vcpu);
            drop(memory);
            drop(second);
        }
    }
}
