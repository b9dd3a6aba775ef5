// SPDX-License-Identifier: GPL-2.0
//! The ioctls that are known (Documentation/abi.md has the list), and numbers that are not.

mod system;
mod vcpu;
mod vm;

use std::mem::size_of;

use kvm_bindings::*;

use crate::call::{ioc, Call, Field, Shape, Struct};
use crate::random::Random;
use crate::step::{Argument, Block, Ioctl, On};

pub const CREATE_VM: u64 = ioc(0, 0x01, 0);
pub const GET_VCPU_MMAP_SIZE: u64 = ioc(0, 0x04, 0);
pub const CREATE_VCPU: u64 = ioc(0, 0x41, 0);
pub const SET_USER_MEMORY_REGION: u64 = ioc(1, 0x46, 32);
pub const CREATE_IRQCHIP: u64 = ioc(0, 0x60, 0);
pub const GET_IRQCHIP: u64 = ioc(3, 0x62, size_of::<kvm_irqchip>());
pub const CREATE_PIT2: u64 = ioc(1, 0x77, size_of::<kvm_pit_config>());
pub const GET_PIT2: u64 = ioc(2, 0x9f, size_of::<kvm_pit_state2>());
pub const ENABLE_CAP: u64 = ioc(1, 0xa3, size_of::<kvm_enable_cap>());
pub const GET_CLOCK: u64 = ioc(2, 0x7c, size_of::<kvm_clock_data>());
pub const GET_STATS_FD: u64 = ioc(0, 0xce, 0);
pub const CREATE_DEVICE: u64 = ioc(3, 0xe0, 12);
pub const RUN: u64 = ioc(0, 0x80, 0);
pub const GET_REGS: u64 = ioc(2, 0x81, size_of::<kvm_regs>());
pub const SET_REGS: u64 = ioc(1, 0x82, size_of::<kvm_regs>());
pub const GET_SREGS: u64 = ioc(2, 0x83, size_of::<kvm_sregs>());
pub const SET_SREGS: u64 = ioc(1, 0x84, size_of::<kvm_sregs>());
pub const GET_MSRS: u64 = ioc(3, 0x88, 8);
pub const SET_MSRS: u64 = ioc(1, 0x89, 8);
pub const SET_SIGNAL_MASK: u64 = ioc(1, 0x8b, 4);
pub const GET_FPU: u64 = ioc(2, 0x8c, size_of::<kvm_fpu>());
pub const GET_LAPIC: u64 = ioc(2, 0x8e, 1024);
pub const SET_LAPIC: u64 = ioc(1, 0x8f, 1024);
pub const SET_CPUID2: u64 = ioc(1, 0x90, 8);
pub const GET_CPUID2: u64 = ioc(3, 0x91, 8);
pub const GET_MP_STATE: u64 = ioc(2, 0x98, 4);
pub const GET_EVENTS: u64 = ioc(2, 0x9f, 64);
pub const GET_DEBUGREGS: u64 = ioc(2, 0xa1, 128);
pub const GET_XSAVE: u64 = ioc(2, 0xa4, 4096);
pub const GET_XCRS: u64 = ioc(2, 0xa6, size_of::<kvm_xcrs>());
pub const GET_SREGS2: u64 = ioc(2, 0xcc, size_of::<kvm_sregs2>());
pub const GET_XSAVE2: u64 = ioc(2, 0xcf, 4096);

/// Puts a call together.
struct Maker(Vec<Call>, On);

impl Maker {
    fn add(&mut self, weight: u64, name: &'static str, number: u64, shape: Shape) -> &mut Call {
        let on = self.1;
        self.0.push(Call {
            name,
            on,
            number,
            shape,
            weight,
            comparable: true,
        });
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    fn number(
        &mut self,
        weight: u64,
        name: &'static str,
        nr: u64,
        values: &'static [u64],
    ) -> &mut Call {
        self.add(weight, name, ioc(0, nr, 0), Shape::Number(values))
    }

    /// An ioctl that takes or returns a structure; its size is in the number.
    fn fields(
        &mut self,
        weight: u64,
        name: &'static str,
        number: u64,
        fields: Vec<Field>,
    ) -> &mut Call {
        let shape = Struct {
            len: (number >> 16) as usize & 0x3fff,
            get: None,
            fields,
            times: Vec::new(),
        };
        self.add(weight, name, number, Shape::Struct(shape))
    }

    /// An ioctl that changes what `get` returns.
    fn change(
        &mut self,
        weight: u64,
        name: &'static str,
        number: u64,
        get: u64,
        fields: Vec<Field>,
    ) -> &mut Call {
        let call = self.fields(weight, name, number, fields);
        if let Shape::Struct(shape) = &mut call.shape {
            shape.get = Some(get);
        }
        call
    }

    fn made(
        &mut self,
        weight: u64,
        name: &'static str,
        number: u64,
        make: fn(&mut Random) -> Block,
    ) -> &mut Call {
        self.add(weight, name, number, Shape::Made(make))
    }
}

impl Call {
    /// What it returns is this KVM's own matter.
    fn own_matter(&mut self) {
        self.comparable = false;
    }

    /// These bytes (offset, length) of what it returns tell of time.
    fn tells_time(&mut self, times: &[(usize, usize)]) {
        if let Shape::Struct(shape) = &mut self.shape {
            shape.times = times.to_vec();
        }
    }
}
/// The ioctls of each kind of descriptor.
pub struct Calls {
    groups: [Vec<Call>; 3],
}

impl Calls {
    /// All of them.
    pub fn all() -> Self {
        Self {
            groups: [system::system(), vm::vm(), vcpu::vcpu()],
        }
    }

    /// One of a vCPU's.
    pub fn of_vcpu(&self, random: &mut Random, vcpu: usize) -> Ioctl {
        self.of_group(2, random, vcpu)
    }

    fn of_group(&self, group: usize, random: &mut Random, vcpu: usize) -> Ioctl {
        let group = &self.groups[group];
        let mut at = random.below(group.iter().map(|c| c.weight).sum());
        for call in group {
            if at < call.weight {
                return call.step(random, vcpu);
            }
            at -= call.weight;
        }
        unreachable!("the weights were added up")
    }

    /// One of them with a random argument; `vcpu` is whose it is where it is a vCPU's. Once in a
    /// while it goes to the wrong kind of descriptor, or has a number that nobody knows.
    pub fn any(&self, random: &mut Random, vcpu: usize) -> Ioctl {
        let group = random.pick(&[0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2]);
        let mut step = self.of_group(group, random, vcpu);
        match random.below(100) {
            0 => {
                step.on = random.pick(&[On::System, On::Vm, On::Vcpu(vcpu), On::Stats]);
            }
            1 | 2 => step = unknown(random, vcpu),
            _ => {}
        }
        step
    }
}

impl Calls {
    /// A number near one that there is (another direction, size, number or type, or some of its bits
    /// the other way round), or any; what it does, if anything, is not known.
    pub fn strange(&self, random: &mut Random, vcpus: usize) -> Ioctl {
        let vcpu = random.below(vcpus as u64) as usize;
        let group = random.below(self.groups.len() as u64) as usize;
        let mut call = self.of_group(group, random, vcpu);
        let near = call.number;
        call.number = match random.below(8) {
            0 => near ^ random.pick(&[1, 2, 3]) << 30,
            1 => near ^ 1 << (16 + random.below(14)),
            2 => near & !(0x3fff << 16) | random.pick(&[0, 1, 8, 4096, 0x3fff]) << 16,
            3 | 4 => near & !0xff | random.below(256),
            5 => near ^ 1 << (8 + random.below(8)),
            6 => near ^ 1 << (32 + random.below(32)),
            _ => random.next() & 0xffff_ffff,
        };
        call.name = "unknown";
        call.comparable = false;
        if random.one_in(3) {
            call.on = random.pick(&[On::System, On::Vm, On::Vcpu(vcpu), On::Stats]);
        }
        if matches!(call.argument, Argument::Value(_)) || random.one_in(3) {
            call.argument = Argument::Block(Block::of(random.bytes(4096)));
        }
        call
    }
}

/// A number that no KVM has on a descriptor, or that has the wrong size.
fn unknown(random: &mut Random, vcpu: usize) -> Ioctl {
    let len = random.pick(&[0, 4, 8, 64, 520, 4096]);
    let mut bytes = random.bytes(4096);
    bytes[..16].fill(0);
    Ioctl {
        name: "unknown",
        on: random.pick(&[On::System, On::Vm, On::Vcpu(vcpu), On::Stats]),
        number: ioc(random.below(4), 0xf0 + random.below(16), len),
        argument: Argument::Block(Block::of(bytes)),
        comparable: true,
    }
}
