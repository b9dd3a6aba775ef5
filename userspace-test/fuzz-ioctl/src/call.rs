// SPDX-License-Identifier: GPL-2.0
//! How an ioctl is described, and how an argument is made from that.

use crate::random::Random;
use crate::step::{Argument, Block, Edit, Ioctl, On, Value};

/// What an ioctl takes.
pub enum Shape {
    /// A number, mostly one of these.
    Number(&'static [u64]),
    /// One of these: what others do is this KVM's own matter.
    Among(&'static [u64]),
    /// A structure.
    Struct(Struct),
    /// Something that has to be put together.
    Made(fn(&mut Random) -> Block),
}

/// A structure of known fields.
pub struct Struct {
    /// Its size in bytes.
    pub len: usize,
    /// The ioctl that says what the state is: then a few fields of that are changed.
    pub get: Option<u64>,
    /// The fields.
    pub fields: Vec<Field>,
    /// What tells of time (offset, length).
    pub times: Vec<(usize, usize)>,
}

/// A field.
#[derive(Clone, Copy)]
pub struct Field {
    /// Where it is, bytes.
    pub at: usize,
    /// Its bytes.
    pub width: usize,
    /// What may stand there.
    pub of: Of,
}

/// What may stand in a field.
#[derive(Clone, Copy)]
pub enum Of {
    /// Mostly one of these.
    Mostly(&'static [u64]),
    /// One of these: anything else has no defined result.
    Among(&'static [u64]),
    /// One of these, every time: anything else would tell of time, or have no defined result.
    Only(&'static [u64]),
    /// An address in the VM's memory, a multiple of the number.
    Memory(u64),
    /// An address of scratch memory.
    Scratch,
    /// An eventfd.
    Event,
}

/// One of KVM's ioctls.
pub struct Call {
    /// KVM's name without `KVM_`.
    pub name: &'static str,
    /// Whose it is; any vCPU's is [`On::Vcpu`] of 0.
    pub on: On,
    /// The number as `ioctl` takes it.
    pub number: u64,
    /// What it takes.
    pub shape: Shape,
    /// How often it is chosen.
    pub weight: u64,
    /// The value that comes back, and what it fills in, are the same on every KVM.
    pub comparable: bool,
}

/// `_IOC` of `<asm-generic/ioctl.h>` with KVM's type.
pub const fn ioc(direction: u64, nr: u64, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | 0xae00 | nr
}

impl Field {
    /// A value for the field, and how it is put there.
    fn edit(&self, random: &mut Random) -> Edit {
        let bits = 8 * self.width as u64;
        let value = match self.of {
            Of::Only(values) | Of::Among(values) => Value::Set(random.pick(values)),
            Of::Mostly(values) => match random.below(8) {
                0..=4 if !values.is_empty() => Value::Set(random.pick(values)),
                0..=5 => Value::Flip(1 << random.below(bits)),
                _ => Value::Set(random.number()),
            },
            // What points elsewhere is an address of the kernel's, or near 0, or of no form.
            Of::Memory(_) | Of::Scratch if random.one_in(16) => {
                Value::Set(random.pick(&[0, 0x1000, 1 << 47, 0xffff_8880_0000_0000, u64::MAX]))
            }
            Of::Memory(unit) => Value::Memory(random.below(64) * unit),
            Of::Scratch => Value::Scratch(random.pick(&[0, 0, 0, 8, 1])),
            Of::Event if random.one_in(8) => Value::Set(random.pick(&[0, 1 << 20, u64::MAX])),
            Of::Event => Value::Event(random.below(4) as usize),
        };
        Edit {
            at: self.at,
            width: self.width,
            value,
        }
    }

    fn is_pinned(&self) -> bool {
        matches!(self.of, Of::Only(_))
    }
}

impl Struct {
    fn block(&self, random: &mut Random) -> Block {
        let mut block = Block::of(vec![0; self.len]);
        block.get = self.get;
        block.times.clone_from(&self.times);
        let free: Vec<_> = self.fields.iter().filter(|f| !f.is_pinned()).collect();
        if self.get.is_some() {
            for _ in 0..random.pick(&[1, 1, 2, 2, 4]) {
                if !free.is_empty() {
                    block.edits.push(random.pick(&free).edit(random));
                }
            }
        } else {
            block.edits.extend(free.iter().map(|f| f.edit(random)));
        }
        let pinned = self.fields.iter().filter(|f| f.is_pinned());
        block.edits.extend(pinned.map(|f| f.edit(random)));
        if free.iter().any(|f| matches!(f.of, Of::Scratch)) {
            block.scratch = random.bytes(64);
        }
        block
    }
}

impl Call {
    /// The call with a random argument, on `vcpu` where it is a vCPU's.
    pub fn step(&self, random: &mut Random, vcpu: usize) -> Ioctl {
        let argument = match &self.shape {
            Shape::Number(_) if random.one_in(16) => Argument::Value(random.number()),
            Shape::Number(values) | Shape::Among(values) => Argument::Value(random.pick(values)),
            _ if random.one_in(40) => Argument::Unmapped,
            Shape::Struct(shape) => cut(shape.block(random), random),
            Shape::Made(make) => cut(make(random), random),
        };
        let on = match self.on {
            On::Vcpu(_) => On::Vcpu(vcpu),
            other => other,
        };
        Ioctl {
            name: self.name,
            on,
            number: self.number,
            argument,
            comparable: self.comparable,
        }
    }
}

/// Now and then the structure's end is not mapped.
fn cut(mut block: Block, random: &mut Random) -> Argument {
    if random.one_in(40) && !block.bytes.is_empty() {
        block.cut = Some(random.below(block.bytes.len() as u64) as usize);
    }
    Argument::Block(block)
}
