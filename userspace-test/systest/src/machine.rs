// SPDX-License-Identifier: GPL-2.0
//! A VM with interrupt controllers in the kernel whose vCPUs do one thing at a time, as the test
//! says: an access to a register, an MSR or a port, a HLT. Interrupts that come meanwhile are
//! counted and noted in their order by handlers in the guest.

use std::sync::atomic::{AtomicU64, Ordering};

use kvm_bindings::*;

use crate::code64;
use crate::expect;
use crate::guest::{self, bits, layout, Mode};
use crate::memory::Mapping;
use crate::request::*;
use crate::sys::Errno;
use crate::vcpu::{Exit, Vcpu};
use crate::vm::{Kvm, Vm};

/// Registers of the LAPIC, as offsets in its page (SDM vol. 3, table 12-1).
pub mod apic {
    pub const BASE: u64 = 0xfee0_0000;
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TPR: u32 = 0x80;
    pub const PPR: u32 = 0xa0;
    pub const EOI: u32 = 0xb0;
    pub const LDR: u32 = 0xd0;
    pub const DFR: u32 = 0xe0;
    pub const SPIV: u32 = 0xf0;
    pub const ISR: u32 = 0x100;
    pub const TMR: u32 = 0x180;
    pub const IRR: u32 = 0x200;
    pub const ESR: u32 = 0x280;
    pub const ICR: u32 = 0x300;
    pub const ICR2: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_THERMAL: u32 = 0x330;
    pub const LVT_PMC: u32 = 0x340;
    pub const LVT0: u32 = 0x350;
    pub const LVT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TMICT: u32 = 0x380;
    pub const TMCCT: u32 = 0x390;
    pub const TDCR: u32 = 0x3e0;
    pub const SELF_IPI: u32 = 0x3f0;
    /// The mask bit of LVT entries.
    pub const MASKED: u32 = 1 << 16;
}

/// MSRs of the tests.
pub mod msr {
    pub const TSC: u32 = 0x10;
    pub const APIC_BASE: u32 = 0x1b;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    /// The first MSR of the x2APIC; a register's is this plus its offset divided by 16.
    pub const X2APIC: u32 = 0x800;
    /// Bits of IA32_APIC_BASE.
    pub const APIC_BASE_BSP: u64 = 1 << 8;
    pub const APIC_BASE_X2APIC: u64 = 1 << 10;
    pub const APIC_BASE_ENABLE: u64 = 1 << 11;
}

/// Where the handlers keep their books: a count for each vector, the number of interrupts taken,
/// and a byte with the vector of each.
const COUNTS: u64 = layout::DATA;
const TAKEN: u64 = layout::DATA + 0x800;
const ORDER: u64 = layout::DATA + 0x1000;
/// Entry code of the interrupt handlers, 16 bytes each, then their common parts.
const ENTRIES: u64 = layout::CODE2;
const COMMON: u64 = layout::CODE2 + 0x1000;
/// A common part's room.
const COMMON_SIZE: u64 = 0x80;
/// The port that tells that an operation is through.
const DONE: u16 = 0xe9;
/// Bytes of code and of stack of each vCPU.
const CODE_SIZE: u64 = 64;
const STACK_SIZE: u64 = 0x1000;
/// Bytes of memory of a machine.
const MEMORY: usize = layout::MEMORY;

/// How a handler ends its interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eoi {
    /// Not at all.
    None,
    /// By the EOI register of the xAPIC.
    Xapic,
    /// By the EOI register of the x2APIC.
    X2apic,
    /// By a non-specific EOI to both PICs.
    Pic,
}

/// See the module.
pub struct Machine {
    /// Its vCPUs, the number being the APIC ID.
    pub vcpus: Vec<Vcpu>,
    /// The VM.
    pub vm: Vm,
    /// Its memory from guest-physical 0 on.
    pub memory: Mapping,
    order_read: AtomicU64,
}

/// An exception in an operation: its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub u64);

impl Machine {
    /// A machine with `cpus` vCPUs and all interrupt controllers in the kernel.
    #[track_caller]
    pub fn new(cpus: usize) -> Self {
        Self::in_vm(Vm::with_irqchip(), cpus)
    }

    /// A machine whose vCPUs have their APICs enabled, as `eoi` has it, and handle `vector` and NMIs.
    #[track_caller]
    pub fn with_apics(cpus: usize, vector: u8, eoi: Eoi) -> Self {
        let machine = Self::new(cpus);
        machine.handle(vector, eoi);
        machine.handle(2, Eoi::None);
        for id in 0..cpus {
            if eoi == Eoi::X2apic {
                machine.cpu(id).enable_x2apic();
            } else {
                machine.cpu(id).enable_apic();
            }
        }
        machine
    }

    /// A machine in a VM that has its interrupt controllers, but neither memory nor vCPUs yet.
    #[track_caller]
    pub fn in_vm(vm: Vm, cpus: usize) -> Self {
        let memory = Mapping::anonymous(MEMORY);
        vm.add_memory(0, 0, &memory);
        let vcpus: Vec<_> = (0..cpus as u64).map(|id| vm.create_vcpu(id)).collect();
        let machine = Self {
            vcpus,
            vm,
            memory,
            order_read: AtomicU64::new(0),
        };
        for (id, vcpu) in machine.vcpus.iter().enumerate() {
            machine.prepare(vcpu, id);
        }
        machine.write_common_handlers();
        machine
    }

    /// The same machine with vCPUs that the test made.
    pub fn with_vcpus(mut self, vcpus: Vec<Vcpu>) -> Self {
        self.vcpus = vcpus;
        self
    }

    /// Gives a vCPU its CPUID, a mode and its tables, and makes it runnable.
    #[track_caller]
    pub fn prepare(&self, vcpu: &Vcpu, id: usize) {
        set_cpuid(vcpu, id as u32);
        guest::write_tables(&self.memory, Mode::Long);
        guest::report_traps_by_port(&self.memory);
        guest::set_mode(vcpu, Mode::Long);
        expect::ok("KVM_SET_MP_STATE", vcpu.set_mp_state(KVM_MP_STATE_RUNNABLE));
    }

    fn write_common_handlers(&self) {
        macro_rules! common {
            ($($eoi:expr),*) => {
                code64!(
                    "push rax",
                    "push rcx",
                    "push rdx",
                    "mov rax, [rsp + 24]",
                    "lock inc qword ptr [{counts} + rax * 8]",
                    "mov ecx, 1",
                    "lock xadd [{taken}], rcx",
                    "and ecx, 0xfff",
                    "mov [{order} + rcx], al",
                    $($eoi,)*
                    "pop rdx",
                    "pop rcx",
                    "pop rax",
                    "add rsp, 8",
                    "iretq";
                    counts = const COUNTS, taken = const TAKEN, order = const ORDER
                )
            };
        }
        let parts = [
            common!(),
            common!("mov eax, 0xfee000b0", "mov dword ptr [rax], 0"),
            common!("mov ecx, 0x80b", "xor eax, eax", "xor edx, edx", "wrmsr"),
            common!("mov al, 0x20", "out 0xa0, al", "out 0x20, al"),
        ];
        for (part, at) in parts.iter().zip((COMMON..).step_by(COMMON_SIZE as usize)) {
            assert!(part.len() as u64 <= COMMON_SIZE);
            self.load(at, part);
        }
    }

    /// Lets the guest count interrupts of `vector`.
    pub fn handle(&self, vector: u8, eoi: Eoi) {
        let at = ENTRIES + 16 * u64::from(vector);
        let common = COMMON
            + COMMON_SIZE
                * match eoi {
                    Eoi::None => 0,
                    Eoi::Xapic => 1,
                    Eoi::X2apic => 2,
                    Eoi::Pic => 3,
                };
        // PUSH imm32, then JMP rel32.
        self.load(at, &[0x68, vector, 0, 0, 0, 0xe9]);
        self.memory
            .write(at as usize + 6, common.wrapping_sub(at + 10) as u32);
        guest::write_gate(&self.memory, vector, at, 0);
    }

    /// Lets the guest count interrupts of all `vectors`.
    pub fn handle_all(&self, vectors: impl IntoIterator<Item = u8>, eoi: Eoi) {
        vectors
            .into_iter()
            .for_each(|vector| self.handle(vector, eoi));
    }

    /// Interrupts of `vector` so far.
    pub fn count(&self, vector: u8) -> u64 {
        self.peek(COUNTS + 8 * u64::from(vector))
    }

    /// Where the guest counts interrupts of `vector`.
    pub const fn count_address(vector: u8) -> u64 {
        COUNTS + 8 * vector as u64
    }

    /// Expects that `vector` came `want` times so far.
    #[track_caller]
    pub fn expect_count(&self, vector: u8, want: u64) {
        expect::eq(
            &format!("interrupts of vector {vector:#x}"),
            self.count(vector),
            want,
        );
    }

    /// The vectors that came since this was last asked, in their order.
    pub fn order(&self) -> Vec<u8> {
        let end = self.peek(TAKEN);
        let begin = self.order_read.swap(end, Ordering::SeqCst);
        (begin..end)
            .map(|i| self.memory.read((ORDER + (i & 0xfff)) as usize))
            .collect()
    }

    /// Puts code or data into guest memory.
    pub fn load(&self, gpa: u64, bytes: &[u8]) {
        self.memory.write_bytes(gpa as usize, bytes);
    }

    /// Reads guest memory.
    pub fn peek(&self, gpa: u64) -> u64 {
        self.memory.read(gpa as usize)
    }

    /// Writes guest memory.
    pub fn poke(&self, gpa: u64, value: u64) {
        self.memory.write(gpa as usize, value);
    }

    /// A vCPU to give orders to; interrupts can reach it.
    pub fn cpu(&self, id: usize) -> Cpu<'_> {
        Cpu {
            machine: self,
            vcpu: &self.vcpus[id],
            id: id as u64,
            rflags: bits::RFLAGS_FIXED | bits::RFLAGS_IF,
        }
    }
}

/// All of the CPUID that KVM supports and the TSC deadline, with the APIC ID `id`.
#[track_caller]
pub fn set_cpuid(vcpu: &Vcpu, id: u32) {
    let mut cpuid = Kvm::open().supported_cpuid();
    let leaf = cpuid.find(1, 0).expect("leaf 1");
    leaf.ebx = leaf.ebx & 0x00ff_ffff | id << 24;
    leaf.ecx |= 1 << 21 | 1 << 24;
    for index in 0..2 {
        if let Some(leaf) = cpuid.find(0xb, index) {
            leaf.edx = id;
        }
    }
    expect::ok("KVM_SET_CPUID2", vcpu.set(SET_CPUID2, &cpuid));
}

/// A vCPU of a machine and how it is to run. Each operation is one KVM_RUN, and interrupts that
/// the vCPU can take are taken before it is through.
#[derive(Clone, Copy)]
pub struct Cpu<'a> {
    machine: &'a Machine,
    /// The vCPU.
    pub vcpu: &'a Vcpu,
    id: u64,
    rflags: u64,
}

impl Cpu<'_> {
    /// The same with RFLAGS.IF clear.
    pub fn masked(mut self) -> Self {
        self.rflags = bits::RFLAGS_FIXED;
        self
    }

    /// Loads `code` and makes the vCPU run it next; its end is an OUT to port 0xe9.
    #[track_caller]
    pub fn start(&self, code: &[u8], set: impl FnOnce(&mut kvm_regs)) {
        assert!(code.len() as u64 <= CODE_SIZE);
        let rip = layout::PROBE + CODE_SIZE * self.id;
        self.machine.load(rip, code);
        let mut regs = kvm_regs {
            rip,
            rsp: layout::STACK - STACK_SIZE * (self.id % 8),
            rflags: self.rflags,
            ..kvm_regs::default()
        };
        set(&mut regs);
        self.vcpu.set_regs(&regs);
    }

    /// What an exit means for an operation.
    #[track_caller]
    fn outcome(&self, exit: Result<Exit, Errno>) -> Result<kvm_regs, Fault> {
        match exit {
            Ok(Exit::Out { port: DONE, .. }) => Ok(self.vcpu.regs()),
            Ok(Exit::Out {
                port: guest::TRAP_PORT,
                ..
            }) => Err(Fault(self.machine.peek(layout::TRAP))),
            other => panic!("KVM_RUN: expected the operation to end, got {other:x?}"),
        }
    }

    /// Runs what [`Self::start`] made ready to its end.
    #[track_caller]
    pub fn finish(&self) -> Result<kvm_regs, Fault> {
        self.outcome(self.vcpu.run())
    }

    /// An operation: the registers at its end, or its exception.
    #[track_caller]
    pub fn operate(&self, code: &[u8], set: impl FnOnce(&mut kvm_regs)) -> Result<kvm_regs, Fault> {
        self.start(code, set);
        self.finish()
    }

    #[track_caller]
    fn must(&self, what: &str, got: Result<kvm_regs, Fault>) -> kvm_regs {
        got.unwrap_or_else(|Fault(vector)| panic!("{what}: expected no exception, got {vector}"))
    }

    /// Does nothing, but takes interrupts.
    #[track_caller]
    pub fn nop(&self) {
        let got = self.operate(code64!("nop", "nop", "out 0xe9, al"), |_| {});
        self.must("NOP", got);
    }

    /// Spins for `rounds` instructions.
    #[track_caller]
    pub fn spin(&self, rounds: u64) {
        let got = self.operate(code64!("2: loop 2b", "out 0xe9, al"), |r| r.rcx = rounds);
        self.must("LOOP", got);
    }

    /// Spins until `vector` was taken `count` times in all, or for `rounds` rounds; says whether
    /// it was.
    #[track_caller]
    pub fn await_count(&self, vector: u8, count: u64, rounds: u64) -> bool {
        let code = code64!("2: cmp [rbx], rdx", "jae 3f", "loop 2b", "3: out 0xe9, al");
        let got = self.operate(code, |r| {
            (r.rbx, r.rcx, r.rdx) = (Machine::count_address(vector), rounds, count);
        });
        self.must("waiting", got);
        self.machine.count(vector) >= count
    }

    /// Halts until an interrupt comes; one that is there before the HLT is not missed.
    #[track_caller]
    pub fn halt(&self) {
        let code = code64!("sti", "hlt", "out 0xe9, al");
        let got = self.masked().operate(code, |_| {});
        self.must("HLT", got);
    }

    /// Stores 32 bits.
    #[track_caller]
    pub fn store(&self, gpa: u64, value: u32) {
        let got = self.operate(code64!("mov [rbx], ecx", "nop", "out 0xe9, al"), |r| {
            (r.rbx, r.rcx) = (gpa, value.into());
        });
        self.must("store", got);
    }

    /// Loads 32 bits.
    #[track_caller]
    pub fn load(&self, gpa: u64) -> u32 {
        let got = self.operate(code64!("mov eax, [rbx]", "nop", "out 0xe9, al"), |r| {
            r.rbx = gpa;
        });
        self.must("load", got).rax as u32
    }

    /// Writes a register of the xAPIC.
    #[track_caller]
    pub fn apic_write(&self, register: u32, value: u32) {
        self.store(apic::BASE + u64::from(register), value);
    }

    /// Reads a register of the xAPIC.
    #[track_caller]
    pub fn apic_read(&self, register: u32) -> u32 {
        self.load(apic::BASE + u64::from(register))
    }

    /// Writes an MSR.
    #[track_caller]
    pub fn wrmsr(&self, index: u32, value: u64) -> Result<(), Fault> {
        let code = code64!("wrmsr", "nop", "out 0xe9, al");
        self.operate(code, |r| {
            (r.rcx, r.rax, r.rdx) = (index.into(), value & 0xffff_ffff, value >> 32);
        })
        .map(|_| ())
    }

    /// Reads an MSR.
    #[track_caller]
    pub fn rdmsr(&self, index: u32) -> Result<u64, Fault> {
        let code = code64!("rdmsr", "nop", "out 0xe9, al");
        self.operate(code, |r| r.rcx = index.into())
            .map(|r| r.rax & 0xffff_ffff | r.rdx << 32)
    }

    /// Writes a register of the x2APIC, given by its offset in the xAPIC's page.
    #[track_caller]
    pub fn x2apic_write(&self, register: u32, value: u64) {
        let got = self.wrmsr(msr::X2APIC + register / 16, value);
        expect::eq(&format!("x2APIC register {register:#x}"), got, Ok(()));
    }

    /// Reads a register of the x2APIC, given by its offset in the xAPIC's page.
    #[track_caller]
    pub fn x2apic_read(&self, register: u32) -> u64 {
        match self.rdmsr(msr::X2APIC + register / 16) {
            Ok(value) => value,
            other => panic!("x2APIC register {register:#x}: expected a value, got {other:x?}"),
        }
    }

    /// Writes a byte to a port.
    #[track_caller]
    pub fn outb(&self, port: u16, value: u8) {
        let got = self.operate(code64!("out dx, al", "nop", "out 0xe9, al"), |r| {
            (r.rdx, r.rax) = (port.into(), value.into());
        });
        self.must("OUT", got);
    }

    /// Reads a byte from a port.
    #[track_caller]
    pub fn inb(&self, port: u16) -> u8 {
        let got = self.operate(code64!("in al, dx", "nop", "out 0xe9, al"), |r| {
            r.rdx = port.into();
        });
        self.must("IN", got).rax as u8
    }

    /// Writes CR8.
    #[track_caller]
    pub fn set_cr8(&self, value: u64) {
        let got = self.operate(code64!("mov cr8, rax", "nop", "out 0xe9, al"), |r| {
            r.rax = value;
        });
        self.must("MOV to CR8", got);
    }

    /// Reads CR8.
    #[track_caller]
    pub fn cr8(&self) -> u64 {
        let got = self.operate(code64!("mov rax, cr8", "out 0xe9, al"), |_| {});
        self.must("MOV from CR8", got).rax
    }

    /// VMCALL with up to four arguments.
    #[track_caller]
    pub fn hypercall(&self, number: u64, arguments: [u64; 4]) -> i64 {
        let got = self.operate(code64!("vmcall", "nop", "out 0xe9, al"), |r| {
            r.rax = number;
            [r.rbx, r.rcx, r.rdx, r.rsi] = arguments;
        });
        self.must("VMCALL", got).rax as i64
    }

    /// Enables the LAPIC by its spurious-interrupt register.
    #[track_caller]
    pub fn enable_apic(&self) {
        self.apic_write(apic::SPIV, 0x1ff);
    }

    /// Takes the LAPIC to x2APIC mode and enables it.
    #[track_caller]
    pub fn enable_x2apic(&self) {
        let base = match self.rdmsr(msr::APIC_BASE) {
            Ok(base) => base | msr::APIC_BASE_X2APIC | msr::APIC_BASE_ENABLE,
            other => panic!("IA32_APIC_BASE: expected a value, got {other:x?}"),
        };
        expect::eq("x2APIC mode", self.wrmsr(msr::APIC_BASE, base), Ok(()));
        self.x2apic_write(apic::SPIV, 0x1ff);
    }
}
