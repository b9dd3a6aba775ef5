// SPDX-License-Identifier: GPL-2.0
//! A sequence: a VM is set up, then anything happens to it.

use std::mem::offset_of;

use kvm_bindings::*;

use crate::calls::{self, Calls};
use crate::cpuid;
use crate::program;
use crate::random::Random;
use crate::step::{Argument, Block, Edit, Ioctl, On, Step, Value};

/// Bytes of the VM's memory; it is one slot at 0.
pub const MEMORY: u64 = 2 << 20;

/// Page tables of long mode in the VM's memory, which map its first 2 MiB to themselves.
const PML4: u64 = 0x4000;
const PDPT: u64 = 0x5000;
const PD: u64 = 0x6000;

/// Registers of a local APIC: its spurious vector, its timer's count.
const SPURIOUS: usize = 0xf0;
const INITIAL_COUNT: usize = 0x380;

/// A step that is an ioctl.
pub fn ioctl(name: &'static str, on: On, number: u64, argument: Argument) -> Step {
    Step::Ioctl(Ioctl {
        name,
        on,
        number,
        argument,
        comparable: true,
    })
}

/// A field that is `value`.
pub fn set(at: usize, width: usize, value: u64) -> Edit {
    let value = Value::Set(value);
    Edit { at, width, value }
}

/// A structure of which some fields are not 0.
pub fn fields(number: u64, get: Option<u64>, edits: Vec<Edit>) -> Argument {
    let mut block = Block::of(vec![0; (number >> 16) as usize & 0x3fff]);
    block.get = get;
    block.edits = edits;
    Argument::Block(block)
}

fn chips(random: &mut Random, steps: &mut Vec<Step>) {
    match random.below(5) {
        0 | 1 => {
            let none = Argument::Value(0);
            steps.push(ioctl("CREATE_IRQCHIP", On::Vm, calls::CREATE_IRQCHIP, none));
            if random.one_in(3) {
                let pit = fields(calls::CREATE_PIT2, None, Vec::new());
                steps.push(ioctl("CREATE_PIT2", On::Vm, calls::CREATE_PIT2, pit));
            }
        }
        2 => {
            let split = vec![set(0, 4, KVM_CAP_SPLIT_IRQCHIP.into()), set(8, 8, 24)];
            let split = fields(calls::ENABLE_CAP, None, split);
            steps.push(ioctl("ENABLE_CAP", On::Vm, calls::ENABLE_CAP, split));
        }
        _ => {}
    }
}

/// Sets the memory's slot: its size (0 takes it away) and flags.
pub fn slot(size: u64, flags: u32) -> Step {
    let edits = vec![
        set(4, 4, flags.into()),
        set(16, 8, size),
        Edit {
            at: 24,
            width: 8,
            value: Value::Memory(0),
        },
    ];
    let number = calls::SET_USER_MEMORY_REGION;
    let region = fields(number, None, edits);
    ioctl("SET_USER_MEMORY_REGION", On::Vm, number, region)
}

fn memory(random: &mut Random, steps: &mut Vec<Step>) {
    let flags = random.pick(&[0, 0, KVM_MEM_LOG_DIRTY_PAGES]);
    steps.push(slot(MEMORY, flags));
}

fn all_cpuid() -> Argument {
    let leaves = cpuid::leaves();
    let mut bytes = (leaves.len() as u64).to_le_bytes().to_vec();
    bytes.extend(leaves.iter().flat_map(cpuid::Leaf::bytes));
    Argument::Block(Block::of(bytes))
}

/// The edits that make a flat segment of one.
fn flat(at: usize, selector: u64, kind: u64, long: bool) -> Vec<Edit> {
    vec![
        set(at, 8, 0),
        set(at + offset_of!(kvm_segment, limit), 4, 0xffff_ffff),
        set(at + offset_of!(kvm_segment, selector), 2, selector),
        set(at + offset_of!(kvm_segment, type_), 1, kind),
        set(at + offset_of!(kvm_segment, db), 1, u64::from(!long)),
        set(at + offset_of!(kvm_segment, l), 1, u64::from(long)),
        set(at + offset_of!(kvm_segment, g), 1, 1),
    ]
}

/// A mode of operation for `vcpu`: the one after reset with its code in memory, protected mode, or
/// 64-bit mode.
fn mode(random: &mut Random, vcpu: usize, steps: &mut Vec<Step>) {
    let mode = random.below(4);
    let mut edits = vec![
        set(offset_of!(kvm_sregs, cs), 8, 0),
        set(
            offset_of!(kvm_sregs, cs) + offset_of!(kvm_segment, selector),
            2,
            0,
        ),
        // What it is after any exit; after reset it is 11.
        set(
            offset_of!(kvm_sregs, cs) + offset_of!(kvm_segment, type_),
            1,
            3,
        ),
    ];
    if mode > 0 {
        let long = mode > 1;
        edits = flat(offset_of!(kvm_sregs, cs), 8, 11, long);
        for at in [
            offset_of!(kvm_sregs, ds),
            offset_of!(kvm_sregs, es),
            offset_of!(kvm_sregs, fs),
            offset_of!(kvm_sregs, gs),
            offset_of!(kvm_sregs, ss),
        ] {
            edits.extend(flat(at, 16, 3, false));
        }
        edits.push(set(
            offset_of!(kvm_sregs, cr0),
            8,
            if long { 0x8001_0033 } else { 0x33 },
        ));
        if long {
            edits.push(set(offset_of!(kvm_sregs, cr3), 8, PML4));
            edits.push(set(offset_of!(kvm_sregs, cr4), 8, 0x620));
            edits.push(set(offset_of!(kvm_sregs, efer), 8, 0xd01));
            for (at, value) in [(PML4, PDPT | 7), (PDPT, PD | 7), (PD, 0x87)] {
                steps.push(Step::Poke { at, value });
            }
        }
    }
    let on = On::Vcpu(vcpu);
    let sregs = fields(calls::SET_SREGS, Some(calls::GET_SREGS), edits);
    steps.push(ioctl("SET_SREGS", on, calls::SET_SREGS, sregs));
    let edits = vec![
        set(
            offset_of!(kvm_regs, rip),
            8,
            0x1_0000 >> (4 * u32::from(mode == 0)),
        ),
        set(offset_of!(kvm_regs, rsp), 8, 0x8000),
        set(
            offset_of!(kvm_regs, rflags),
            8,
            random.pick(&[2, 0x202, 0x202]),
        ),
    ];
    let regs = fields(calls::SET_REGS, Some(calls::GET_REGS), edits);
    steps.push(ioctl("SET_REGS", on, calls::SET_REGS, regs));
}

/// 64-bit mode for `vcpu` with the tables of [`crate::program`], its code about to run.
pub fn long_mode(vcpu: usize) -> Vec<Step> {
    let mut edits = flat(offset_of!(kvm_sregs, cs), 8, 11, true);
    edits.extend(flat(offset_of!(kvm_sregs, ss), 16, 3, false));
    let table = |at: usize, base, limit| [set(at, 8, base), set(at + 8, 2, limit)];
    edits.extend(table(offset_of!(kvm_sregs, gdt), program::GDT, 23));
    let gates = 16 * program::VECTORS as u64 - 1;
    edits.extend(table(offset_of!(kvm_sregs, idt), program::IDT, gates));
    edits.push(set(offset_of!(kvm_sregs, cr0), 8, 0x8001_0033));
    edits.push(set(offset_of!(kvm_sregs, cr3), 8, PML4));
    edits.push(set(offset_of!(kvm_sregs, cr4), 8, 0x4_0620));
    edits.push(set(offset_of!(kvm_sregs, efer), 8, 0xd01));
    let tables = [(PML4, PDPT | 7), (PDPT, PD | 7), (PD, 0x87)];
    let mut steps: Vec<_> = tables.map(|(at, value)| Step::Poke { at, value }).into();
    let on = On::Vcpu(vcpu);
    let sregs = fields(calls::SET_SREGS, Some(calls::GET_SREGS), edits);
    steps.push(ioctl("SET_SREGS", on, calls::SET_SREGS, sregs));
    let edits = vec![
        set(offset_of!(kvm_regs, rbx), 8, 0x2_0000),
        set(offset_of!(kvm_regs, rip), 8, program::CODE),
        set(offset_of!(kvm_regs, rsp), 8, 0x8_0000),
        set(offset_of!(kvm_regs, rflags), 8, 0x202),
    ];
    let regs = fields(calls::SET_REGS, Some(calls::GET_REGS), edits);
    steps.push(ioctl("SET_REGS", on, calls::SET_REGS, regs));
    steps
}

/// The steps that make a VM with one or two vCPUs.
pub fn set_up(random: &mut Random) -> (Vec<Step>, usize) {
    let mut steps = Vec::new();
    if !random.one_in(30) {
        chips(random, &mut steps);
    }
    let vcpus = random.pick(&[1, 1, 2]);
    create_vcpus(random, vcpus, &mut steps);
    for vcpu in 0..vcpus {
        if !random.one_in(10) {
            let on = On::Vcpu(vcpu);
            steps.push(ioctl("SET_CPUID2", on, calls::SET_CPUID2, all_cpuid()));
        }
        if !random.one_in(10) {
            mode(random, vcpu, &mut steps);
        }
    }
    (steps, vcpus)
}

/// The steps that make a VM with that many vCPUs in 64-bit mode, see [`long_mode`].
pub fn set_up_long(random: &mut Random, vcpus: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    chips(random, &mut steps);
    create_vcpus(random, vcpus, &mut steps);
    for vcpu in 0..vcpus {
        let on = On::Vcpu(vcpu);
        steps.push(ioctl("SET_CPUID2", on, calls::SET_CPUID2, all_cpuid()));
        steps.extend(long_mode(vcpu));
    }
    steps
}

/// vCPUs, and then memory.
fn create_vcpus(random: &mut Random, vcpus: usize, steps: &mut Vec<Step>) {
    for id in 0..vcpus {
        let argument = Argument::Value(id as u64);
        steps.push(ioctl("CREATE_VCPU", On::Vm, calls::CREATE_VCPU, argument));
        // KVM's map of LAPICs has those that were written to.
        let edits = vec![
            set(SPURIOUS, 4, random.pick(&[0xff, 0x1ff])),
            set(INITIAL_COUNT, 4, 0),
        ];
        let lapic = fields(calls::SET_LAPIC, Some(calls::GET_LAPIC), edits);
        steps.push(ioctl("SET_LAPIC", On::Vcpu(id), calls::SET_LAPIC, lapic));
    }
    memory(random, steps);
}

/// One step that may be anything.
pub fn anything(calls: &Calls, random: &mut Random, vcpus: usize) -> Step {
    let vcpu = random.below(vcpus as u64) as usize;
    match random.below(16) {
        0 | 1 => Step::Run {
            vcpu,
            immediate: random.one_in(4),
            // Whether KVM enters the guest before it says that the window is open depends on time.
            window: false,
            answer: random.number(),
        },
        2 if random.one_in(4) => Step::Poke {
            at: random.pick(&[PML4, PDPT, PD]) + 8 * random.below(4),
            // Tables in memory, see the fields of CR3.
            value: random.pick(&[
                0,
                PDPT | 7,
                PD | 5,
                0x87,
                0x83,
                0xe7,
                0x1_0005,
                1 << 63 | 7,
                PML4 | 3,
            ]),
        },
        _ => Step::Ioctl(calls.any(random, vcpu)),
    }
}

/// The sequence `number` of `seed`.
pub fn of(calls: &Calls, seed: u64, number: u64) -> Vec<Step> {
    let mut random = Random::of(seed, number);
    let (mut steps, vcpus) = set_up(&mut random);
    for _ in 0..random.pick(&[4, 8, 16, 24]) {
        steps.push(anything(calls, &mut random, vcpus));
    }
    steps
}
