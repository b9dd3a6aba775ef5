// SPDX-License-Identifier: GPL-2.0
//! What a sequence is made of: steps that say all they do, so that any of them can be left out and
//! the others still do the same.

use std::fmt;

use crate::sys::Disturbance;

/// Whose descriptor an ioctl goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// `/dev/kvm`.
    System,
    /// The VM.
    Vm,
    /// The vCPU that was made as this one, counted from 0.
    Vcpu(usize),
    /// The statistics of the VM.
    Stats,
}

/// One step.
#[derive(Clone)]
pub enum Step {
    /// An ioctl.
    Ioctl(Ioctl),
    /// KVM_RUN of a vCPU, ended by a signal if it does not end by itself.
    Run {
        /// The vCPU.
        vcpu: usize,
        /// `immediate_exit`.
        immediate: bool,
        /// `request_interrupt_window`.
        window: bool,
        /// What fills the data of the exit before, if that asked for some.
        answer: u64,
    },
    /// A store of 8 bytes to the VM's memory.
    Poke {
        /// Offset from where it starts.
        at: u64,
        /// What is stored.
        value: u64,
    },
    /// Some of the VM's memory goes away, or is other memory.
    Disturb {
        /// Offset from where it starts.
        at: u64,
        /// Bytes.
        len: u64,
        /// What happens to it.
        how: Disturbance,
    },
    /// A store of 8 bytes to a vCPU's `kvm_run`.
    RunPage {
        /// The vCPU.
        vcpu: usize,
        /// Offset.
        at: usize,
        /// What is stored.
        value: u64,
    },
    /// A vCPU's descriptor is closed.
    Close(usize),
}

/// An ioctl with its argument.
#[derive(Clone)]
pub struct Ioctl {
    /// KVM's name, or `unknown`.
    pub name: &'static str,
    /// Whose.
    pub on: On,
    /// The number as `ioctl` takes it.
    pub number: u64,
    /// The argument.
    pub argument: Argument,
    /// What comes back is the same on every KVM.
    pub comparable: bool,
}

/// An ioctl's argument.
#[derive(Clone)]
pub enum Argument {
    /// A number.
    Value(u64),
    /// The address of a structure.
    Block(Block),
    /// An address where nothing is mapped.
    Unmapped,
}

/// A structure in memory.
#[derive(Clone)]
pub struct Block {
    /// Its bytes to begin with.
    pub bytes: Vec<u8>,
    /// Before that it is filled in by this ioctl on the same descriptor.
    pub get: Option<u64>,
    /// What is changed then.
    pub edits: Vec<Edit>,
    /// Only so many of its bytes are mapped.
    pub cut: Option<usize>,
    /// What lies where [`Value::Scratch`] points.
    pub scratch: Vec<u8>,
    /// Ranges of bytes (offset, length) that tell of time and are not compared.
    pub times: Vec<(usize, usize)>,
}

impl Block {
    /// A structure of these bytes.
    pub fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            get: None,
            edits: Vec::new(),
            cut: None,
            scratch: Vec::new(),
            times: Vec::new(),
        }
    }
}

/// A field that is changed.
#[derive(Clone, Copy)]
pub struct Edit {
    /// Where it is.
    pub at: usize,
    /// Its bytes, 1 to 8.
    pub width: usize,
    /// What becomes of it.
    pub value: Value,
}

/// What becomes of a field.
#[derive(Clone, Copy)]
pub enum Value {
    /// It is this.
    Set(u64),
    /// These bits are the other way round.
    Flip(u64),
    /// It points to that far into the VM's memory.
    Memory(u64),
    /// It points to that far into scratch memory.
    Scratch(u64),
    /// It is the number of one of the eventfds.
    Event(usize),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(value) => write!(f, "={value:x}"),
            Self::Flip(bits) => write!(f, "^{bits:x}"),
            Self::Memory(offset) => write!(f, "=memory+{offset:x}"),
            Self::Scratch(offset) => write!(f, "=scratch+{offset:x}"),
            Self::Event(number) => write!(f, "=event {number}"),
        }
    }
}

/// Bytes as words, without the zeros between them.
fn sparse(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for (i, part) in bytes.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        let word = u64::from_le_bytes(word);
        if word != 0 {
            write!(f, " {:x}:{word:x}", 8 * i)?;
        }
    }
    Ok(())
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value:#x}"),
            Self::Unmapped => write!(f, "unmapped"),
            Self::Block(block) => {
                write!(f, "{{{}", block.bytes.len())?;
                match block.get {
                    Some(number) => write!(f, " from {:x}", number & 0xff)?,
                    None => sparse(f, &block.bytes)?,
                }
                for edit in &block.edits {
                    write!(f, " {:x}/{}{}", edit.at, edit.width, edit.value)?;
                }
                if !block.scratch.is_empty() {
                    write!(f, " scratch")?;
                    sparse(f, &block.scratch)?;
                }
                if let Some(mapped) = block.cut {
                    write!(f, " only {mapped} bytes mapped")?;
                }
                write!(f, "}}")
            }
        }
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => write!(f, "kvm"),
            Self::Vm => write!(f, "vm"),
            Self::Vcpu(number) => write!(f, "vcpu{number}"),
            Self::Stats => write!(f, "stats"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ioctl(call) => match call.name {
                "unknown" => write!(f, "{}.{:#x}({})", call.on, call.number, call.argument),
                name => write!(f, "{}.{}({})", call.on, name, call.argument),
            },
            Self::Run {
                vcpu,
                immediate,
                window,
                answer,
            } => {
                write!(f, "vcpu{vcpu}.RUN(immediate {immediate}, window {window}, ")?;
                write!(f, "answer {answer:x})")
            }
            Self::Poke { at, value } => write!(f, "memory[{at:#x}] = {value:#x}"),
            Self::Disturb { at, len, how } => write!(f, "memory[{at:#x}, {len:#x}] {how:?}"),
            Self::RunPage { vcpu, at, value } => write!(f, "vcpu{vcpu}.run[{at:#x}] = {value:#x}"),
            Self::Close(vcpu) => write!(f, "close(vcpu{vcpu})"),
        }
    }
}
