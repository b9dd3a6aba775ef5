// SPDX-License-Identifier: GPL-2.0
//! A vCPU's descriptor and its `kvm_run` page.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use kvm_bindings::*;

use crate::expect;
use crate::memory::Mapping;
use crate::request::{self, KvmFd, Msrs};
use crate::sys::Errno;
use crate::vm::Kvm;

/// Why KVM_RUN came back, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Port input that the VMM answers with [`Vcpu::answer_io`].
    In { port: u16, size: u8, count: u32 },
    /// Port output with all its data.
    Out { port: u16, size: u8, data: Vec<u8> },
    /// A load that the VMM answers with [`Vcpu::answer_mmio`].
    MmioRead { gpa: u64, len: u32 },
    /// A store.
    MmioWrite { gpa: u64, data: Vec<u8> },
    /// HLT without an interrupt controller in the kernel.
    Hlt,
    /// Triple fault.
    Shutdown,
    /// KVM_RUN was interrupted.
    Intr,
    /// The interrupt window that was asked for is open.
    IrqWindowOpen,
    /// The CPU refused to enter the guest.
    FailEntry { reason: u64 },
    /// KVM gave up, with its words.
    InternalError { suberror: u32, data: Vec<u64> },
    /// A guest debugging event.
    Debug {
        exception: u32,
        pc: u64,
        dr6: u64,
        dr7: u64,
    },
    /// A level-triggered interrupt of an IOAPIC outside the kernel was ended.
    IoapicEoi { vector: u8 },
    /// An access to the task priority that was asked to be told of.
    TprAccess { rip: u64, is_write: bool },
    /// A hypercall that the VMM answers with [`Vcpu::answer_hypercall`].
    Hypercall {
        number: u64,
        args: [u64; 3],
        flags: u64,
    },
    /// RDMSR that the VMM answers with [`Vcpu::answer_msr`].
    Rdmsr { index: u32, reason: u32 },
    /// WRMSR that the VMM answers with [`Vcpu::answer_msr`].
    Wrmsr { index: u32, reason: u32, data: u64 },
    /// Any other reason.
    Other(u32),
}

/// A vCPU and its `kvm_run` page.
pub struct Vcpu {
    fd: OwnedFd,
    run: Mapping,
}

impl AsRawFd for Vcpu {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
impl KvmFd for Vcpu {}

/// Offset of a field of `kvm_run`.
macro_rules! run_field {
    ($($field:tt)+) => {
        std::mem::offset_of!(kvm_run, $($field)+)
    };
}

/// Where the exit's own part of `kvm_run` starts.
const EXIT: usize = run_field!(__bindgen_anon_1);

impl Vcpu {
    /// Maps the run page of a vCPU just made.
    #[track_caller]
    pub fn new(fd: OwnedFd) -> Self {
        let size = Kvm::open().mmap_size();
        let run = expect::ok(
            "mmap of the vCPU",
            Mapping::of_file(fd.as_raw_fd(), size, 0),
        );
        Self { fd, run }
    }

    /// KVM_RUN, with the exit's reason where it succeeds.
    pub fn run(&self) -> Result<Exit, Errno> {
        self.call(request::RUN, 0).map(|_| self.exit())
    }

    /// The exit reason that stands in the run page.
    pub fn exit_reason(&self) -> u32 {
        self.run.read(run_field!(exit_reason))
    }

    /// The exit that stands in the run page.
    pub fn exit(&self) -> Exit {
        let at = |offset: usize| EXIT + offset;
        match self.exit_reason() {
            KVM_EXIT_IO => {
                let [direction, size]: [u8; 2] = self.run.read(at(0));
                let port = self.run.read(at(2));
                let count: u32 = self.run.read(at(4));
                if u32::from(direction) == KVM_EXIT_IO_OUT {
                    let len = count as usize * usize::from(size);
                    let data = self.run.read_bytes(self.io_data(), len);
                    Exit::Out { port, size, data }
                } else {
                    Exit::In { port, size, count }
                }
            }
            KVM_EXIT_MMIO => {
                let gpa = self.run.read(at(0));
                let len: u32 = self.run.read(at(16));
                if self.run.read::<u8>(at(20)) != 0 {
                    let data = self.run.read_bytes(at(8), (len as usize).min(8));
                    Exit::MmioWrite { gpa, data }
                } else {
                    Exit::MmioRead { gpa, len }
                }
            }
            KVM_EXIT_HLT => Exit::Hlt,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_INTR => Exit::Intr,
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindowOpen,
            KVM_EXIT_FAIL_ENTRY => Exit::FailEntry {
                reason: self.run.read(at(0)),
            },
            KVM_EXIT_INTERNAL_ERROR => {
                let count = self.run.read::<u32>(at(4)).min(16) as usize;
                Exit::InternalError {
                    suberror: self.run.read(at(0)),
                    data: (0..count).map(|i| self.run.read(at(8 + 8 * i))).collect(),
                }
            }
            KVM_EXIT_DEBUG => Exit::Debug {
                exception: self.run.read(at(0)),
                pc: self.run.read(at(8)),
                dr6: self.run.read(at(16)),
                dr7: self.run.read(at(24)),
            },
            KVM_EXIT_IOAPIC_EOI => Exit::IoapicEoi {
                vector: self.run.read(at(0)),
            },
            KVM_EXIT_TPR_ACCESS => Exit::TprAccess {
                rip: self.run.read(at(0)),
                is_write: self.run.read::<u32>(at(8)) != 0,
            },
            KVM_EXIT_HYPERCALL => Exit::Hypercall {
                number: self.run.read(at(0)),
                args: [8, 16, 24].map(|offset| self.run.read(at(offset))),
                flags: self.run.read(at(64)),
            },
            KVM_EXIT_X86_RDMSR => Exit::Rdmsr {
                index: self.run.read(at(12)),
                reason: self.run.read(at(8)),
            },
            KVM_EXIT_X86_WRMSR => Exit::Wrmsr {
                index: self.run.read(at(12)),
                reason: self.run.read(at(8)),
                data: self.run.read(at(16)),
            },
            other => Exit::Other(other),
        }
    }

    /// `io.data_offset` of the exit that stands in the run page.
    pub fn io_data(&self) -> usize {
        self.run.read::<u64>(EXIT + 8) as usize
    }

    /// Gives the data for a port input.
    pub fn answer_io(&self, data: &[u8]) {
        self.run.write_bytes(self.io_data(), data);
    }

    /// Gives the data for a load.
    pub fn answer_mmio(&self, data: &[u8]) {
        self.run.write_bytes(EXIT + 8, data);
    }

    /// Gives the result of a hypercall.
    pub fn answer_hypercall(&self, result: u64) {
        self.run.write(EXIT + 56, result);
    }

    /// Gives the value for RDMSR, or lets WRMSR pass; `None` stands for #GP.
    pub fn answer_msr(&self, value: Option<u64>) {
        self.run.write(EXIT, u8::from(value.is_none()));
        self.run.write(EXIT + 16, value.unwrap_or(0));
    }

    /// Makes KVM_RUN return as soon as it can, or not.
    pub fn set_immediate_exit(&self, on: bool) {
        self.run.write(run_field!(immediate_exit), u8::from(on));
    }

    /// Asks KVM_RUN to return when the guest can take an interrupt, or not.
    pub fn request_interrupt_window(&self, on: bool) {
        self.run
            .write(run_field!(request_interrupt_window), u8::from(on));
    }

    /// Whether KVM_INTERRUPT would be taken at once.
    pub fn ready_for_interrupt(&self) -> bool {
        self.run
            .read::<u8>(run_field!(ready_for_interrupt_injection))
            != 0
    }

    /// RFLAGS.IF as the run page tells it.
    pub fn if_flag(&self) -> bool {
        self.run.read::<u8>(run_field!(if_flag)) != 0
    }

    /// CR8 as the run page tells it.
    pub fn cr8(&self) -> u64 {
        self.run.read(run_field!(cr8))
    }

    /// CR8 for the guest's next run.
    pub fn set_cr8(&self, value: u64) {
        self.run.write(run_field!(cr8), value);
    }

    /// The APIC base as the run page tells it.
    pub fn apic_base(&self) -> u64 {
        self.run.read(run_field!(apic_base))
    }

    /// The mapped run page itself.
    pub fn run_page(&self) -> &Mapping {
        &self.run
    }

    /// General registers.
    #[track_caller]
    pub fn regs(&self) -> kvm_regs {
        expect::ok("KVM_GET_REGS", self.get(request::GET_REGS))
    }

    /// Sets the general registers.
    #[track_caller]
    pub fn set_regs(&self, regs: &kvm_regs) {
        expect::ok("KVM_SET_REGS", self.set(request::SET_REGS, regs));
    }

    /// Special registers.
    #[track_caller]
    pub fn sregs(&self) -> kvm_sregs {
        expect::ok("KVM_GET_SREGS", self.get(request::GET_SREGS))
    }

    /// Sets the special registers.
    #[track_caller]
    pub fn set_sregs(&self, sregs: &kvm_sregs) {
        expect::ok("KVM_SET_SREGS", self.set(request::SET_SREGS, sregs));
    }

    /// Events under way.
    #[track_caller]
    pub fn events(&self) -> kvm_vcpu_events {
        expect::ok("KVM_GET_VCPU_EVENTS", self.get(request::GET_VCPU_EVENTS))
    }

    /// One MSR, where KVM knows it.
    #[track_caller]
    pub fn msr(&self, index: u32) -> Option<u64> {
        let mut list = Msrs::new(&[(index, 0)]);
        let done = expect::ok("KVM_GET_MSRS", self.update(request::GET_MSRS, &mut list));
        (done == 1).then_some(list.entries[0].data)
    }

    /// Sets one MSR; says whether KVM took it.
    #[track_caller]
    pub fn set_msr(&self, index: u32, value: u64) -> bool {
        let list = Msrs::new(&[(index, value)]);
        expect::ok("KVM_SET_MSRS", self.set(request::SET_MSRS, &list)) == 1
    }

    /// Gives the guest all that KVM supports in CPUID.
    #[track_caller]
    pub fn set_supported_cpuid(&self) {
        let cpuid = Kvm::open().supported_cpuid();
        expect::ok("KVM_SET_CPUID2", self.set(request::SET_CPUID2, &cpuid));
    }

    /// Queues an external interrupt.
    pub fn interrupt(&self, vector: u32) -> Result<i32, Errno> {
        self.set(request::INTERRUPT, &kvm_interrupt { irq: vector })
    }

    /// Runs and expects `want`.
    #[track_caller]
    pub fn expect_exit(&self, want: Exit) {
        expect::eq("KVM_RUN", self.run(), Ok(want));
    }
}
