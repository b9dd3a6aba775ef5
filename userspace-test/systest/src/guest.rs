// SPDX-License-Identifier: GPL-2.0
//! Small guests: code assembled at build, and the tables that its mode of operation needs.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment};

use crate::memory::{Mapping, PAGE};
use crate::vcpu::{Exit, Vcpu};
use crate::vm::Vm;

/// The bytes of guest code, assembled at build. It may be loaded anywhere: it holds no absolute
/// addresses. The first argument is the mode's width, then lines of assembly (Intel syntax, numeric
/// labels from 2 to 99), then `;` and operands of `asm!`.
#[macro_export]
macro_rules! guest_code {
    ($bits:literal, $($line:expr),+ $(,)? $(; $($operand:tt)*)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the code itself lies in a section of data and is not executed here; what is
        // executed takes the addresses of its ends.
        unsafe {
            ::core::arch::asm!(
                ".pushsection .rodata.guest, \"a\"",
                "701:",
                concat!(".code", $bits),
                $($line,)+
                ".code64",
                "702:",
                ".popsection",
                "lea {start}, [rip + 701b]",
                "lea {end}, [rip + 702b]",
                start = out(reg) start,
                end = out(reg) end,
                $($($operand)*)?
            );
            ::core::slice::from_raw_parts(start, end as usize - start as usize)
        }
    }};
}

/// Code for real mode.
#[macro_export]
macro_rules! code16 { ($($t:tt)+) => { $crate::guest_code!("16", $($t)+) }; }
/// Code for protected mode.
#[macro_export]
macro_rules! code32 { ($($t:tt)+) => { $crate::guest_code!("32", $($t)+) }; }
/// Code for 64-bit mode.
#[macro_export]
macro_rules! code64 { ($($t:tt)+) => { $crate::guest_code!("64", $($t)+) }; }

/// Where things lie in the memory of every guest, guest-physical.
pub mod layout {
    /// Global descriptor table.
    pub const GDT: u64 = 0x1000;
    /// Task state segment.
    pub const TSS: u64 = 0x1800;
    /// Interrupt descriptor table.
    pub const IDT: u64 = 0x2000;
    /// Entry code of the exception handlers.
    pub const STUBS: u64 = 0x3000;
    /// Level 4 page table (level 2 where there are but two levels).
    pub const PML4: u64 = 0x4000;
    /// Level 3 page table (the 4 PDPTEs in PAE mode).
    pub const PDPT: u64 = 0x5000;
    /// Four level 2 page tables: 4 GiB in pages of 2 MiB.
    pub const PD: u64 = 0x6000;
    /// A page table for tests that want one.
    pub const PT: u64 = 0xa000;
    /// What the exception handlers store: vector, error code, RIP, CS, RFLAGS, RSP, SS, CR2.
    pub const TRAP: u64 = 0xb000;
    /// Code of [`super::Guest::guest_read`] and its like.
    pub const PROBE: u64 = 0xc000;
    /// Where the guest's code is loaded and starts.
    pub const CODE: u64 = 0x1_0000;
    /// More code, such as handlers.
    pub const CODE2: u64 = 0x1_8000;
    /// Data of the test's own.
    pub const DATA: u64 = 0x2_0000;
    /// The top of the stack of ring 3.
    pub const USER_STACK: u64 = 0x7_0000;
    /// The top of the stack.
    pub const STACK: u64 = 0x8_0000;
    /// Bytes of memory from 0 on.
    pub const MEMORY: usize = 2 << 20;
    /// An address without memory behind it, mapped in the guest's page tables.
    pub const MMIO: u64 = 0x1000_0000;
    /// Memory of the test's own may start here; mapped in the guest's page tables.
    pub const EXTRA: u64 = 0x2000_0000;
}

/// Selectors of the guest's GDT.
pub mod selector {
    pub const CODE64: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const CODE32: u16 = 0x18;
    pub const USER_DATA: u16 = 0x20 | 3;
    pub const USER_CODE64: u16 = 0x28 | 3;
    pub const TSS: u16 = 0x30;
}

/// Bits of CR0, CR4 and EFER that the modes are made of.
pub mod bits {
    pub const CR0_PE: u64 = 1;
    pub const CR0_MP: u64 = 1 << 1;
    pub const CR0_ET: u64 = 1 << 4;
    pub const CR0_NE: u64 = 1 << 5;
    pub const CR0_WP: u64 = 1 << 16;
    pub const CR0_NW: u64 = 1 << 29;
    pub const CR0_CD: u64 = 1 << 30;
    pub const CR0_PG: u64 = 1 << 31;
    pub const CR4_PSE: u64 = 1 << 4;
    pub const CR4_PAE: u64 = 1 << 5;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_VMXE: u64 = 1 << 13;
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    pub const EFER_SCE: u64 = 1;
    pub const EFER_LME: u64 = 1 << 8;
    pub const EFER_LMA: u64 = 1 << 10;
    pub const EFER_NX: u64 = 1 << 11;
    pub const RFLAGS_FIXED: u64 = 2;
    pub const RFLAGS_IF: u64 = 1 << 9;
    /// Present, writable, user.
    pub const PTE: u64 = 7;
    /// A page where a table could be.
    pub const PTE_PS: u64 = 1 << 7;
}

/// The mode a guest starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode with all segments at 0.
    Real,
    /// Protected mode without paging, flat segments.
    Protected,
    /// Protected mode with two-level paging, the first 4 GiB mapped to themselves by 4 MiB pages.
    Paging32,
    /// Protected mode with PAE paging, the first 4 GiB mapped to themselves by 2 MiB pages.
    Pae,
    /// 64-bit mode, the first 4 GiB mapped to themselves by 2 MiB pages.
    Long,
}

/// A VM with one vCPU and memory at 0.
pub struct Guest {
    /// Its vCPU.
    pub vcpu: Vcpu,
    /// The VM.
    pub vm: Vm,
    /// Its memory from guest-physical 0 on.
    pub memory: Mapping,
}

/// What an exception handler found, see [`layout::TRAP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub cr2: u64,
}

impl Guest {
    /// A guest in `mode` about to run `code`. It sees all of the CPUID that KVM supports.
    #[track_caller]
    pub fn new(mode: Mode, code: &[u8]) -> Self {
        Self::in_vm(Vm::new(), mode, code)
    }

    /// As [`Self::new`], in a VM made elsewhere that has neither memory nor vCPUs yet.
    #[track_caller]
    pub fn in_vm(vm: Vm, mode: Mode, code: &[u8]) -> Self {
        let memory = Mapping::anonymous(layout::MEMORY);
        vm.add_memory(0, 0, &memory);
        let vcpu = vm.create_vcpu(0);
        vcpu.set_supported_cpuid();
        let guest = Self { vcpu, vm, memory };
        guest.load(layout::CODE, code);
        guest.enter(mode);
        guest
    }

    /// A guest in real mode.
    #[track_caller]
    pub fn real(code: &[u8]) -> Self {
        Self::new(Mode::Real, code)
    }

    /// A guest in protected mode without paging.
    #[track_caller]
    pub fn protected(code: &[u8]) -> Self {
        Self::new(Mode::Protected, code)
    }

    /// A guest in 64-bit mode with handlers for all exceptions that record a [`Trap`] and halt.
    #[track_caller]
    pub fn long(code: &[u8]) -> Self {
        Self::new(Mode::Long, code)
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

    /// Puts the vCPU into `mode` at the beginning of the code.
    #[track_caller]
    pub fn enter(&self, mode: Mode) {
        write_tables(&self.memory, mode);
        set_mode(&self.vcpu, mode);
    }

    /// Runs and expects HLT.
    #[track_caller]
    pub fn run_to_halt(&self) {
        self.vcpu.expect_exit(Exit::Hlt);
    }

    /// Runs, expects that the guest takes an exception and halts in its handler.
    #[track_caller]
    pub fn run_to_trap(&self) -> Trap {
        self.run_to_halt();
        let trap = self.trap();
        crate::expect::ne(
            "vector recorded by the guest's handler",
            trap.vector,
            NO_TRAP,
        );
        trap
    }

    /// What the last exception handler recorded.
    pub fn trap(&self) -> Trap {
        let word = |i: u64| self.peek(layout::TRAP + 8 * i);
        Trap {
            vector: word(0),
            error: word(1),
            rip: word(2),
            cs: word(3),
            rflags: word(4),
            rsp: word(5),
            cr2: word(7),
        }
    }

    /// Lets the (64-bit) guest load 8 bytes from `address`; `None` where that is MMIO.
    #[track_caller]
    pub fn guest_read(&self, address: u64) -> Option<u64> {
        self.load(layout::PROBE, code64!("mov rax, [rbx]", "hlt"));
        let regs = self.vcpu.regs();
        let (rip, rbx) = (layout::PROBE, address);
        self.vcpu.set_regs(&kvm_regs { rip, rbx, ..regs });
        match self.vcpu.run() {
            Ok(Exit::Hlt) => Some(self.vcpu.regs().rax),
            Ok(Exit::MmioRead { gpa, len: 8 }) => {
                crate::expect::eq("address of the MMIO load", gpa, address);
                self.vcpu.answer_mmio(&[0; 8]);
                self.run_to_halt();
                None
            }
            other => panic!("load from {address:#x}: expected HLT or MMIO, got {other:x?}"),
        }
    }

    /// Lets the (64-bit) guest store 8 bytes at `address`; says whether that is memory (else MMIO).
    #[track_caller]
    pub fn guest_write(&self, address: u64, value: u64) -> bool {
        self.load(layout::PROBE, code64!("mov [rbx], rcx", "hlt"));
        let regs = self.vcpu.regs();
        let (rip, rbx, rcx) = (layout::PROBE, address, value);
        self.vcpu.set_regs(&kvm_regs {
            rip,
            rbx,
            rcx,
            ..regs
        });
        match self.vcpu.run() {
            Ok(Exit::Hlt) => true,
            Ok(Exit::MmioWrite { gpa, data }) => {
                crate::expect::eq("address of the MMIO store", gpa, address);
                crate::expect::eq("data of the MMIO store", data, value.to_le_bytes().to_vec());
                self.run_to_halt();
                false
            }
            other => panic!("store to {address:#x}: expected HLT or MMIO, got {other:x?}"),
        }
    }

    /// Points an IDT entry of a 64-bit guest to a handler of its own.
    pub fn set_handler(&self, vector: u8, gpa: u64) {
        write_gate(&self.memory, vector, gpa, 0);
    }

    /// As [`Self::set_handler`], reachable by INT from ring 3.
    pub fn set_user_handler(&self, vector: u8, gpa: u64) {
        write_gate(&self.memory, vector, gpa, 3);
    }
}

/// Stands for "no exception yet" in [`Trap::vector`].
const NO_TRAP: u64 = u64::MAX;
/// Bytes between the entry points of two exception handlers.
const STUB: u64 = 16;
/// What the entry points go on to, with the vector and the error code on the stack.
const COMMON_HANDLER: u64 = layout::STUBS + STUB * 32;

/// Lets the handlers of a 64-bit guest's exceptions write to [`TRAP_PORT`] where they would halt:
/// with an interrupt controller in the kernel the VMM hears nothing of a HLT.
pub fn report_traps_by_port(memory: &Mapping) {
    let record = code64!(
        "pop qword ptr [{trap}]",
        "pop qword ptr [{trap} + 8]",
        "pop qword ptr [{trap} + 16]",
        "pop qword ptr [{trap} + 24]",
        "pop qword ptr [{trap} + 32]",
        "pop qword ptr [{trap} + 40]",
        "pop qword ptr [{trap} + 48]",
        "mov rax, cr2",
        "mov [{trap} + 56], rax",
        "2: out {port}, al",
        "jmp 2b";
        trap = const layout::TRAP, port = const TRAP_PORT
    );
    memory.write_bytes(COMMON_HANDLER as usize, record);
}
/// The port that [`report_traps_by_port`] makes the handlers write to.
pub const TRAP_PORT: u16 = 0xea;

/// A 64-bit interrupt gate (SDM vol. 3, 7.14.1).
pub fn write_gate(memory: &Mapping, vector: u8, handler: u64, dpl: u64) {
    let low = handler & 0xffff
        | (u64::from(selector::CODE64) << 16)
        | ((0x8e00 | (dpl << 13)) << 32)
        | (((handler >> 16) & 0xffff) << 48);
    let at = layout::IDT as usize + 16 * usize::from(vector);
    memory.write(at, low);
    memory.write(at + 8, handler >> 32);
}

/// Handlers that make a [`Trap`] of an exception: each stub leaves an error code (0 where the CPU
/// pushes none) and the vector on the stack and goes on to the common part.
fn write_handlers(memory: &Mapping) {
    let with_error = [8, 10, 11, 12, 13, 14, 17, 21];
    let push_zero = code64!("push 0");
    let common = COMMON_HANDLER;
    for vector in 0..32u8 {
        let mut at = layout::STUBS + STUB * u64::from(vector);
        write_gate(memory, vector, at, 0);
        if !with_error.contains(&vector) {
            memory.write_bytes(at as usize, push_zero);
            at += push_zero.len() as u64;
        }
        // PUSH imm8, then JMP rel32.
        memory.write_bytes(at as usize, &[0x6a, vector, 0xe9]);
        let distance = common.wrapping_sub(at + 7) as u32;
        memory.write(at as usize + 3, distance);
    }
    let body = code64!(
        "pop qword ptr [{trap}]",
        "pop qword ptr [{trap} + 8]",
        "pop qword ptr [{trap} + 16]",
        "pop qword ptr [{trap} + 24]",
        "pop qword ptr [{trap} + 32]",
        "pop qword ptr [{trap} + 40]",
        "pop qword ptr [{trap} + 48]",
        "mov rax, cr2",
        "mov [{trap} + 56], rax",
        "2: hlt",
        "jmp 2b";
        trap = const layout::TRAP
    );
    memory.write_bytes(common as usize, body);
    memory.write(layout::TRAP as usize, NO_TRAP);
}

/// Puts the tables that `mode` needs into guest memory.
pub fn write_tables(memory: &Mapping, mode: Mode) {
    let gdt: [u64; 8] = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x0000_8b00_0000_0067 | (layout::TSS << 16),
        0,
    ];
    memory.write(layout::GDT as usize, gdt);
    memory.write(layout::TSS as usize + 4, layout::STACK);
    // No I/O permission bitmap: its offset lies behind the limit.
    memory.write(layout::TSS as usize + 0x66, 0x68u16);
    match mode {
        Mode::Real | Mode::Protected => {}
        Mode::Paging32 => {
            for i in 0..1024 {
                let entry = ((i as u32) << 22) | (bits::PTE | bits::PTE_PS) as u32;
                memory.write(layout::PML4 as usize + 4 * i, entry);
            }
        }
        Mode::Pae | Mode::Long => {
            memory.write(layout::PML4 as usize, layout::PDPT | bits::PTE);
            for i in 0..4u64 {
                let rights = if mode == Mode::Pae { 1 } else { bits::PTE };
                let table = layout::PD + i * PAGE as u64;
                memory.write((layout::PDPT + 8 * i) as usize, table | rights);
            }
            for i in 0..2048 {
                let entry = ((i as u64) << 21) | bits::PTE | bits::PTE_PS;
                memory.write(layout::PD as usize + 8 * i, entry);
            }
            if mode == Mode::Long {
                write_handlers(memory);
            }
        }
    }
}

fn flat(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Puts `vcpu` into `mode` at [`layout::CODE`], with the tables at their places in guest memory.
#[track_caller]
pub fn set_mode(vcpu: &Vcpu, mode: Mode) {
    let mut sregs = vcpu.sregs();
    let mut regs = vcpu.regs();
    regs.rip = layout::CODE;
    regs.rsp = layout::STACK;
    // Nothing interrupts a guest unless the test does.
    regs.rflags = bits::RFLAGS_FIXED | bits::RFLAGS_IF;
    if mode == Mode::Real {
        let base = layout::CODE;
        for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.es, &mut sregs.ss] {
            segment.base = 0;
            segment.selector = 0;
        }
        sregs.cs.base = base;
        sregs.cs.selector = (base >> 4) as u16;
        regs.rip = 0;
        regs.rsp = 0xf000;
    } else {
        let long = mode == Mode::Long;
        let code = if long {
            selector::CODE64
        } else {
            selector::CODE32
        };
        sregs.cs = flat(code, 0xb, long);
        let data = flat(selector::DATA, 3, false);
        sregs.ds = data;
        sregs.es = data;
        sregs.fs = data;
        sregs.gs = data;
        sregs.ss = data;
        sregs.tr = kvm_segment {
            base: layout::TSS,
            limit: 0x67,
            selector: selector::TSS,
            type_: 0xb,
            present: 1,
            ..kvm_segment::default()
        };
        sregs.gdt = kvm_dtable {
            base: layout::GDT,
            limit: 0x3f,
            padding: [0; 3],
        };
        sregs.idt = kvm_dtable {
            base: layout::IDT,
            limit: 0xfff,
            padding: [0; 3],
        };
        sregs.cr0 = bits::CR0_PE | bits::CR0_ET | bits::CR0_NE | bits::CR0_MP;
        sregs.cr3 = match mode {
            Mode::Pae => layout::PDPT,
            Mode::Paging32 | Mode::Long => layout::PML4,
            Mode::Real | Mode::Protected => 0,
        };
        sregs.cr4 = match mode {
            Mode::Paging32 => bits::CR4_PSE,
            Mode::Pae | Mode::Long => bits::CR4_PAE,
            Mode::Real | Mode::Protected => 0,
        };
        if long {
            sregs.cr4 |= bits::CR4_OSFXSR;
            sregs.efer = bits::EFER_LME | bits::EFER_LMA | bits::EFER_SCE;
        }
        if sregs.cr3 != 0 {
            sregs.cr0 |= bits::CR0_PG | bits::CR0_WP;
        }
    }
    vcpu.set_sregs(&sregs);
    vcpu.set_regs(&regs);
}
