// SPDX-License-Identifier: GPL-2.0
//! No memory: each allocation that a call makes fails in turn, at the first attempt the first one,
//! then the second one, until the call gets through. It says ENOMEM, and the same call succeeds
//! once there is memory again. Needs a kernel with fault injection; that nothing is left behind is
//! for kmemleak to say.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use kvm_bindings::*;
use libc::{EFAULT, ENOMEM};

use super::tests;
use crate::code64;
use crate::devices::*;
use crate::eventfd::Event;
use crate::expect;
use crate::guest::{layout, Guest};
use crate::harness::{own, skip};
use crate::machine::{apic, Eoi, Machine};
use crate::memory::{Mapping, PAGE};
use crate::request::*;
use crate::sys::Errno;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::{Kvm, Slot, Vm};

tests! {
    "allocations":
    create_vm(60), create_vcpu(60), create_vcpu_with_lapic(60), create_irqchip(60),
    split_irqchip(60), create_pit(60), add_slot(60), add_slot_with_log(60), move_slot(60),
    delete_slot(60), begin_log(60), dirty_log(60), clear_dirty_log(60), rings(60), routes(60),
    irqfd(60), irqfd_resample(60), ioeventfd(60), coalesced(60), stats(60), supported_cpuid(60),
    set_cpuid(60), msrs(60), msr_filter(60), xsave(60), lapic(60), signal_mask(60), pre_fault(60),
    run(120), run_devices(120), halt(60),
}

/// More allocations than any call makes.
const MOST: u32 = 2000;

/// The n-th allocation of this thread, which fails (`/proc/PID/fail-nth` in
/// `Documentation/fault-injection/fault-injection.rst`).
struct Nth(File);

impl Nth {
    /// Skips the test where allocations cannot be made to fail.
    fn new() -> Self {
        let path = "/proc/thread-self/fail-nth";
        let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
            skip("the kernel has no fault injection (FAULT_INJECTION)");
        };
        for (attribute, value) in [
            // Also those that may wait for memory, and single pages.
            ("failslab/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-highmem", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/verbose", "0"),
        ] {
            let path = Path::new("/sys/kernel/debug").join(attribute);
            if let Err(error) = fs::write(&path, value) {
                skip(&format!("{}: {error}", path.display()));
            }
        }
        Self(file)
    }

    fn set(&self, n: u32) {
        let text = n.to_string();
        let written = self.0.write_at(text.as_bytes(), 0);
        expect::eq("fail-nth", written.expect("fail-nth"), text.len());
    }

    /// Calls with the n-th allocation failing; also says whether there were so many.
    fn fails<R>(&self, n: u32, call: impl FnOnce() -> R) -> (R, bool) {
        self.set(n);
        let result = call();
        let mut left = [0; 16];
        let len = self.0.read_at(&mut left, 0).expect("fail-nth");
        self.set(0);
        (result, left[..len].trim_ascii() == b"0")
    }
}

/// Lets each allocation of `call` fail in turn, on what `prepare` made for it. Returns how many of
/// these made the call fail, as it does with one of `errnos`.
#[track_caller]
fn refusals<S>(
    errnos: &[i32],
    prepare: impl Fn() -> S,
    call: impl Fn(&S) -> Result<i32, Errno>,
) -> u32 {
    let nth = Nth::new();
    let mut refused = 0;
    for n in 1..MOST {
        let state = prepare();
        let (got, failed) = nth.fails(n, || call(&state));
        match got {
            Err(Errno(errno)) if failed && errnos.contains(&errno) => {
                refused += 1;
                expect::ok(&format!("again, after allocation {n}"), call(&state));
            }
            // What can be done without, or otherwise.
            Ok(_) if failed => {}
            got => {
                expect::ok(&format!("allocation {n} and after"), got);
                drop(state);
                Guest::long(code64!("hlt")).run_to_halt();
                return refused;
            }
        }
    }
    panic!("expected fewer than {MOST} allocations");
}

/// A call that cannot do without memory.
#[track_caller]
fn in_turn<S>(prepare: impl Fn() -> S, call: impl Fn(&S) -> Result<i32, Errno>) {
    let refused = refusals(&[ENOMEM], prepare, call);
    expect::ne("allocations that matter", refused, 0);
}

/// A call that may need no memory at all, or has another way to get it: what comes from kvmalloc comes
/// from single pages where there is no piece large enough.
#[track_caller]
fn may_allocate<S>(prepare: impl Fn() -> S, call: impl Fn(&S) -> Result<i32, Errno>) {
    refusals(&[ENOMEM], prepare, call);
}

/// KVM_RUN and its like: a page fault of the process itself may be what finds no memory.
#[track_caller]
fn in_guest<S>(prepare: impl Fn() -> S, call: impl Fn(&S) -> Result<i32, Errno>) {
    let refused = refusals(&[ENOMEM, EFAULT], prepare, call);
    expect::ne("allocations that matter", refused, 0);
}

/// Closes the descriptor that a call gave.
fn closed(result: Result<i32, Errno>) -> Result<i32, Errno> {
    result.map(|fd| {
        drop(own(fd));
        0
    })
}

fn create_vm() {
    in_turn(Kvm::open, |kvm| closed(kvm.call(CREATE_VM, 0)));
}

fn create_vcpu() {
    in_turn(Vm::new, |vm| closed(vm.call(CREATE_VCPU, 0)));
}

fn create_vcpu_with_lapic() {
    in_turn(Vm::with_irqchip, |vm| closed(vm.call(CREATE_VCPU, 0)));
}

fn create_irqchip() {
    in_turn(Vm::new, |vm| vm.call(CREATE_IRQCHIP, 0));
}

fn split_irqchip() {
    in_turn(Vm::new, |vm| vm.enable(KVM_CAP_SPLIT_IRQCHIP, 24));
}

fn create_pit() {
    let config = kvm_pit_config::default();
    in_turn(Vm::with_irqchip, |vm| vm.set(CREATE_PIT2, &config));
}

/// A VM, and memory that is slot 1 of it with `flags`.
struct WithSlot {
    vm: Vm,
    slot: Slot,
    _memory: Mapping,
}

impl WithSlot {
    /// The slot is there already.
    fn new(flags: u32) -> Self {
        let new = Self::without(flags);
        expect::ok("a slot", new.vm.set_slot(new.slot));
        new
    }

    fn without(flags: u32) -> Self {
        let memory = Mapping::anonymous(64 * PAGE);
        let vm = Vm::new();
        let slot = Slot {
            flags,
            ..Slot::of(1, layout::EXTRA, &memory)
        };
        Self {
            vm,
            slot,
            _memory: memory,
        }
    }
}

fn add_slot() {
    in_turn(|| WithSlot::without(0), |on| on.vm.set_slot(on.slot));
}

fn add_slot_with_log() {
    in_turn(
        || WithSlot::without(KVM_MEM_LOG_DIRTY_PAGES),
        |on| on.vm.set_slot(on.slot),
    );
}

fn move_slot() {
    in_turn(
        || WithSlot::new(0),
        |on| {
            on.vm.set_slot(Slot {
                gpa: on.slot.gpa + 0x10_0000,
                ..on.slot
            })
        },
    );
}

fn delete_slot() {
    in_turn(
        || WithSlot::new(0),
        |on| on.vm.set_slot(Slot { size: 0, ..on.slot }),
    );
}

fn begin_log() {
    in_turn(
        || WithSlot::new(0),
        |on| {
            on.vm.set_slot(Slot {
                flags: KVM_MEM_LOG_DIRTY_PAGES,
                ..on.slot
            })
        },
    );
}

/// A guest that has written to pages of a slot with a log.
fn with_written_pages() -> (Guest, Mapping) {
    let code = code64!(
        "mov ecx, 64",
        "2: mov [rbx], rcx",
        "add rbx, 4096",
        "loop 2b",
        "hlt"
    );
    let guest = Guest::long(code);
    let memory = Mapping::anonymous(64 * PAGE);
    let slot = Slot {
        flags: KVM_MEM_LOG_DIRTY_PAGES,
        ..Slot::of(1, layout::EXTRA, &memory)
    };
    expect::ok("a slot with a log", guest.vm.set_slot(slot));
    let regs = kvm_regs {
        rbx: layout::EXTRA,
        ..guest.vcpu.regs()
    };
    guest.vcpu.set_regs(&regs);
    guest.run_to_halt();
    (guest, memory)
}

/// That all pages are in the log is seen after the failure too.
fn dirty_log() {
    may_allocate(with_written_pages, |(guest, _)| {
        let mut bits = [0u64];
        let mut log = kvm_dirty_log {
            slot: 1,
            ..kvm_dirty_log::default()
        };
        log.__bindgen_anon_1.dirty_bitmap = bits.as_mut_ptr().cast();
        let got = guest.vm.set(GET_DIRTY_LOG, &log);
        if got.is_ok() {
            expect::eq("the log", bits[0], u64::MAX);
        }
        got
    });
}

fn clear_dirty_log() {
    let prepare = || {
        let (guest, memory) = with_written_pages();
        let manual = guest.vm.enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1);
        expect::ok("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", manual);
        (guest, memory)
    };
    may_allocate(prepare, |(guest, _)| {
        let mut bits = [u64::MAX];
        let mut log = kvm_clear_dirty_log {
            slot: 1,
            num_pages: 64,
            ..kvm_clear_dirty_log::default()
        };
        log.__bindgen_anon_1.dirty_bitmap = bits.as_mut_ptr().cast();
        guest.vm.update(CLEAR_DIRTY_LOG, &mut log)
    });
}

fn rings() {
    in_turn(
        || {
            let vm = Vm::new();
            let on = vm.enable(KVM_CAP_DIRTY_LOG_RING, PAGE as u64);
            expect::ok("KVM_CAP_DIRTY_LOG_RING", on);
            vm
        },
        |vm| closed(vm.call(CREATE_VCPU, 0)),
    );
}

fn routes() {
    let routes: Vec<_> = (0..64)
        .map(|gsi| Route::msi(gsi, msi_address(0), 0x40 + gsi))
        .collect();
    let routing = Routing::new(&routes);
    may_allocate(Vm::with_irqchip, |vm| vm.set(SET_GSI_ROUTING, &routing));
}

fn irqfd() {
    in_turn(
        || (Vm::with_irqchip(), Event::new()),
        |(vm, event)| {
            let irqfd = kvm_irqfd {
                fd: event.fd() as u32,
                gsi: 4,
                ..kvm_irqfd::default()
            };
            vm.set(IRQFD, &irqfd)
        },
    );
}

fn irqfd_resample() {
    in_turn(
        || (Vm::with_irqchip(), Event::new(), Event::new()),
        |(vm, event, resample)| {
            let irqfd = kvm_irqfd {
                fd: event.fd() as u32,
                gsi: 4,
                flags: KVM_IRQFD_FLAG_RESAMPLE,
                resamplefd: resample.fd() as u32,
                ..kvm_irqfd::default()
            };
            vm.set(IRQFD, &irqfd)
        },
    );
}

fn ioeventfd() {
    in_turn(
        || (Vm::new(), Event::new()),
        |(vm, event)| {
            let ioeventfd = kvm_ioeventfd {
                addr: layout::MMIO,
                len: 4,
                fd: event.fd(),
                ..kvm_ioeventfd::default()
            };
            vm.set(IOEVENTFD, &ioeventfd)
        },
    );
}

fn coalesced() {
    let zone = CoalescedZone {
        addr: layout::MMIO,
        size: PAGE as u32,
        pio: 0,
    };
    in_turn(Vm::new, |vm| vm.set(REGISTER_COALESCED_MMIO, &zone));
}

fn stats() {
    in_turn(Vm::new, |vm| closed(vm.call(GET_STATS_FD, 0)));
    in_turn(
        || Vm::new().create_vcpu(0),
        |vcpu| closed(vcpu.call(GET_STATS_FD, 0)),
    );
}

fn supported_cpuid() {
    may_allocate(
        || (Kvm::open(), RefCell::new(Cpuid::with_room(CPUID_ROOM / 2))),
        |(kvm, cpuid)| kvm.update(GET_SUPPORTED_CPUID, &mut cpuid.borrow_mut()),
    );
}

fn set_cpuid() {
    let cpuid = Kvm::open().supported_cpuid();
    may_allocate(
        || Vm::new().create_vcpu(0),
        |vcpu| vcpu.set(SET_CPUID2, &cpuid),
    );
}

/// A vCPU with all that the processor has.
fn vcpu() -> Vcpu {
    let vcpu = Vm::new().create_vcpu(0);
    vcpu.set_supported_cpuid();
    vcpu
}

fn msrs() {
    const IA32_SYSENTER_CS: u32 = 0x174;
    let list = Msrs::new(&[(IA32_SYSENTER_CS, 8); 8]);
    may_allocate(vcpu, |vcpu| vcpu.set(SET_MSRS, &list));
    let list = RefCell::new(list);
    may_allocate(vcpu, |vcpu| vcpu.update(GET_MSRS, &mut list.borrow_mut()));
}

fn msr_filter() {
    in_turn(Vm::new, super::msr_filter::refuse_some);
}

fn xsave() {
    let state = vcpu().get(GET_XSAVE).expect("KVM_GET_XSAVE");
    may_allocate(vcpu, |vcpu| vcpu.get(GET_XSAVE).map(|_| 0));
    may_allocate(vcpu, |vcpu| vcpu.set(SET_XSAVE, &state));
}

fn lapic() {
    let prepare = || Vm::with_irqchip().create_vcpu(0);
    let state = prepare().lapic();
    may_allocate(prepare, |vcpu| vcpu.get(GET_LAPIC).map(|_| 0));
    may_allocate(prepare, |vcpu| vcpu.set(SET_LAPIC, &state));
}

fn signal_mask() {
    let mask = SignalMask {
        len: 8,
        sigset: [0xff; 8],
    };
    may_allocate(vcpu, |vcpu| vcpu.set(SET_SIGNAL_MASK, &mask));
}

fn pre_fault() {
    in_guest(
        || {
            let guest = Guest::long(code64!("hlt"));
            let memory = Mapping::anonymous(64 * PAGE);
            guest.vm.add_memory(1, layout::EXTRA, &memory);
            (guest, memory)
        },
        |(guest, _)| {
            let mut range = kvm_pre_fault_memory {
                gpa: layout::EXTRA,
                size: 64 * PAGE as u64,
                ..kvm_pre_fault_memory::default()
            };
            guest.vcpu.update(PRE_FAULT_MEMORY, &mut range)
        },
    );
}

/// What a guest needs of the kernel while it runs: tables, pages, the emulator. It goes on where it
/// was.
fn run() {
    let code = code64!(
        "mov ecx, 4",
        "2: inc qword ptr [rbx]",
        "add rbx, 0x200000",
        "loop 2b",
        "mov [rdi], ecx",
        "hlt"
    );
    in_guest(
        || {
            let guest = Guest::long(code);
            let memory = Mapping::aligned(8 << 20, 2 << 20);
            guest.vm.add_memory(1, layout::EXTRA, &memory);
            let regs = kvm_regs {
                rbx: layout::EXTRA,
                rdi: layout::MMIO,
                ..guest.vcpu.regs()
            };
            guest.vcpu.set_regs(&regs);
            (guest, memory)
        },
        |(guest, memory)| {
            let mut exit = guest.vcpu.run()?;
            if let Exit::MmioWrite { gpa, .. } = exit {
                expect::eq("store", gpa, layout::MMIO);
                exit = guest.vcpu.run()?;
            }
            expect::eq("exit", exit, Exit::Hlt);
            for page in 0..4 {
                let count: u64 = memory.read(page << 21);
                expect::eq(&format!("count of page {page}"), count, 1);
            }
            Ok(0)
        },
    );
}

/// A vCPU among devices in the kernel: a hypercall, port and memory I/O of theirs.
fn run_devices() {
    let code = code64!(
        "in al, 0x21",
        "mov eax, [rbx]",
        "mov eax, [rcx]",
        "out 0xe9, al"
    );
    in_guest(
        || {
            let machine = Machine::new(1);
            machine.cpu(0).start(code, |regs| {
                regs.rbx = 0xfec0_0000;
                regs.rcx = 0xfee0_0030;
            });
            machine
        },
        |machine| {
            let port = match machine.vcpus[0].run()? {
                Exit::Out { port, .. } => port,
                other => panic!("expected an OUT, got {other:?}"),
            };
            expect::eq("port", port, 0xe9);
            Ok(0)
        },
    );
}

/// HLT that a timer's interrupt ends.
fn halt() {
    const VECTOR: u8 = 0xb1;
    in_guest(
        || {
            let machine = Machine::new(1);
            machine.handle(VECTOR, Eoi::Xapic);
            machine.cpu(0).enable_apic();
            machine.cpu(0).apic_write(apic::LVT_TIMER, VECTOR.into());
            machine.cpu(0).apic_write(apic::TMICT, 100_000);
            let code = code64!("sti", "hlt", "out 0xe9, al");
            machine.cpu(0).masked().start(code, |_| {});
            machine
        },
        |machine| {
            machine.vcpus[0].run()?;
            machine.expect_count(VECTOR, 1);
            Ok(0)
        },
    );
}
