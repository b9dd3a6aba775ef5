// SPDX-License-Identifier: GPL-2.0
//! Carries steps out on a VM of their own.

use std::mem::offset_of;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kvm_bindings::*;

use crate::calls;
use crate::canary::Canary;
use crate::sequence::MEMORY;
use crate::step::{Argument, Block, Ioctl, On, Step, Value};
use crate::sys::{self, Filled, Place, PAGE};

/// Where the arguments lie; each thread has its own, this far from the next.
const BLOCKS: u64 = 0x1000_0000_0000;
const SCRATCH: u64 = 0x1800_0000_0000;
const APART: u64 = 1 << 32;
/// Where the VM's memory is. Slots may begin up to 64 pages behind that, and must end in it.
pub const GUEST: u64 = 0x2000_0000_0000;
const GUEST_LEN: usize = MEMORY as usize + (1 << 20);
const BLOCK_LEN: usize = 4 * PAGE;
/// As much of the scratch memory as is compared.
const SCRATCH_LEN: usize = 512;
/// Where nothing is mapped.
const NOWHERE: u64 = 0x2fff_0000_0000;
/// How long KVM_RUN may take that does not end by itself.
const PATIENCE: Duration = Duration::from_millis(10);
/// OUT E6H, AL, from whichever byte one begins: a guest's code that exits at once.
pub const CODE: u8 = 0xe6;

/// What the memory of every VM is at first. A process that forks has it made before, so that its
/// children need not: filling it costs more than all else that makes a VM.
pub fn pages() -> &'static Filled {
    static PAGES: OnceLock<Filled> = OnceLock::new();
    PAGES.get_or_init(|| Filled::new(GUEST_LEN, CODE))
}

/// What KVM_RUN returned, the exit reason, and what has become of the canary.
pub type Watched = (i64, u32, Result<(), String>);

/// A vCPU with its `kvm_run`.
pub struct Vcpu {
    /// Its descriptor.
    pub fd: OwnedFd,
    /// Its pages.
    pub run: Option<Place>,
}

/// A VM, with the process's other things that calls refer to.
pub struct Machine {
    system: OwnedFd,
    vm: OwnedFd,
    stats: Option<OwnedFd>,
    /// The vCPUs in the order they were made.
    pub vcpus: Vec<Vcpu>,
    events: Vec<OwnedFd>,
    block: Place,
    scratch: Place,
    /// What was laid out last, the scratch memory behind it.
    given: Vec<u8>,
    memory: Arc<Place>,
}

/// What a step returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The return value or the error number below 0; `None` where there was nobody to ask.
    pub value: Option<i64>,
    /// What it filled in.
    pub data: Vec<u8>,
}

impl Machine {
    /// A new VM without memory or vCPUs.
    pub fn new() -> Self {
        let system = sys::open_kvm();
        let vm = sys::ioctl(system.as_raw_fd(), calls::CREATE_VM, 0);
        let vm = sys::own(sys::must("KVM_CREATE_VM", vm));
        let memory = Place::of_file(GUEST, pages());
        Self::with(system, vm, Arc::new(memory), 0)
    }

    fn with(system: OwnedFd, vm: OwnedFd, memory: Arc<Place>, thread: u64) -> Self {
        Self {
            system,
            vm,
            stats: None,
            vcpus: Vec::new(),
            events: (0..4).map(|_| sys::eventfd()).collect(),
            block: Place::new(BLOCKS + thread * APART, BLOCK_LEN),
            scratch: Place::new(SCRATCH + thread * APART, PAGE),
            given: Vec::new(),
            memory,
        }
    }

    /// The same VM for another thread, with descriptors of its own. The memory is shared.
    pub fn share(&self, thread: u64) -> Self {
        let clone = |fd: &OwnedFd| fd.try_clone().expect("a free descriptor");
        let memory = Arc::clone(&self.memory);
        let mut own = Self::with(clone(&self.system), clone(&self.vm), memory, thread);
        own.stats = self.stats.as_ref().map(clone);
        for vcpu in &self.vcpus {
            let fd = clone(&vcpu.fd);
            let run = vcpu
                .run
                .as_ref()
                .and_then(|run| Place::of_vcpu(&fd, run.len()));
            own.vcpus.push(Vcpu { fd, run });
        }
        own
    }

    /// Puts bytes into the VM's memory.
    pub fn load(&self, at: u64, bytes: &[u8]) {
        self.memory.write(at as usize, bytes);
    }

    /// A copy of bytes of the VM's memory.
    pub fn dump(&self, at: u64, len: usize) -> Vec<u8> {
        self.memory.read(at as usize, len)
    }

    /// The VM's descriptor.
    pub fn vm(&self) -> RawFd {
        self.vm.as_raw_fd()
    }

    fn descriptor(&self, on: On) -> Option<RawFd> {
        match on {
            On::System => Some(self.system.as_raw_fd()),
            On::Vm => Some(self.vm.as_raw_fd()),
            On::Vcpu(number) => self.vcpus.get(number).map(|v| v.fd.as_raw_fd()),
            On::Stats => self.stats.as_ref().map(AsRawFd::as_raw_fd),
        }
    }

    /// Carries a step out.
    pub fn step(&mut self, step: &Step) -> Answer {
        match step {
            Step::Ioctl(call) => self.ioctl(call),
            Step::Run {
                vcpu,
                immediate,
                window,
                answer,
            } => {
                sys::alarm(PATIENCE);
                let answer = self.run(*vcpu, *immediate, *window, *answer);
                sys::alarm(Duration::ZERO);
                answer
            }
            Step::Poke { at, value } => {
                self.memory.write(*at as usize, &value.to_le_bytes());
                Answer::none()
            }
            Step::Disturb { at, len, how } => {
                let at = (*at as usize).min(GUEST_LEN);
                let len = (*len as usize).min(GUEST_LEN - at);
                self.memory.disturb(at, len, *how);
                Answer::none()
            }
            Step::RunPage { vcpu, at, value } => {
                if let Some(page) = self.vcpus.get(*vcpu).and_then(|v| v.run.as_ref()) {
                    page.write(*at, &value.to_le_bytes());
                }
                Answer::none()
            }
            Step::Close(vcpu) => {
                if *vcpu < self.vcpus.len() {
                    self.vcpus.remove(*vcpu);
                }
                Answer::none()
            }
        }
    }

    /// As [`Self::step`] among threads: somebody else sends signals, and the VM's memory, which may
    /// not be there, is left alone.
    pub fn step_shared(&mut self, step: &Step) {
        match step {
            Step::Run {
                vcpu,
                immediate,
                window,
                answer,
            } => drop(self.run(*vcpu, *immediate, *window, *answer)),
            Step::Poke { .. } => {}
            _ => drop(self.step(step)),
        }
    }

    /// KVM_RUN with a canary in the processor's registers: what it returned, the exit reason, and
    /// what has become of the canary.
    pub fn run_watched(&self, number: usize, answer: u64, canary: &mut Canary) -> Option<Watched> {
        let vcpu = self.vcpus.get(number)?;
        let page = vcpu.run.as_ref()?;
        let (value, found) = canary.run(vcpu.fd.as_raw_fd());
        let reason = reason(page);
        if value == 0 {
            reply(page, answer);
        }
        Some((value, reason, found))
    }

    /// As [`Self::run_watched`], for some milliseconds at most.
    pub fn run_briefly(&self, number: usize, answer: u64, canary: &mut Canary) -> Option<Watched> {
        sys::alarm(PATIENCE);
        let result = self.run_watched(number, answer, canary);
        sys::alarm(Duration::ZERO);
        result
    }

    fn ioctl(&mut self, call: &Ioctl) -> Answer {
        let Some(fd) = self.descriptor(call.on) else {
            return Answer::none();
        };
        let (argument, block) = match &call.argument {
            Argument::Value(value) => (*value, None),
            Argument::Unmapped => (NOWHERE, None),
            Argument::Block(block) => (self.lay_out(fd, block), Some(block)),
        };
        let value = sys::ioctl(fd, call.number, argument);
        if value >= 0 && makes_descriptor(call) {
            self.keep(call, value);
            return Answer::of(0);
        }
        let mut answer = Answer::of(value);
        if let Some(block) = block {
            answer.data = self.filled_in(block);
        }
        if call.number == calls::CREATE_DEVICE && value >= 0 && answer.data.len() >= 8 {
            let fd = u32::from_le_bytes([4, 5, 6, 7].map(|i: usize| answer.data[i]));
            drop(sys::own(fd.into()));
        }
        answer
    }

    /// What has become of a descriptor that a call made.
    fn keep(&mut self, call: &Ioctl, fd: i64) {
        let fd = sys::own(fd);
        match call.number {
            calls::CREATE_VCPU => {
                let len = sys::ioctl(self.system.as_raw_fd(), calls::GET_VCPU_MMAP_SIZE, 0);
                let run = Place::of_vcpu(&fd, len as usize);
                self.vcpus.push(Vcpu { fd, run });
            }
            calls::GET_STATS_FD => self.stats = Some(fd),
            _ => {}
        }
    }

    /// Puts a structure where the kernel finds it; returns its address.
    fn lay_out(&mut self, fd: RawFd, block: &Block) -> u64 {
        let mut bytes = block.bytes.clone();
        if let Some(get) = block.get {
            self.block.write(0, &bytes);
            if sys::ioctl(fd, get, self.block.address()) >= 0 {
                bytes = self.block.read(0, bytes.len());
            }
        }
        for edit in &block.edits {
            let mut word = [0; 8];
            let field = &mut bytes[edit.at..edit.at + edit.width];
            word[..edit.width].copy_from_slice(field);
            let value = match edit.value {
                Value::Set(value) => value,
                Value::Flip(bits) => u64::from_le_bytes(word) ^ bits,
                Value::Memory(offset) => self.memory.address() + offset,
                Value::Scratch(offset) => self.scratch.address() + offset,
                Value::Event(number) => self.events[number].as_raw_fd() as u64,
            };
            field.copy_from_slice(&value.to_le_bytes()[..edit.width]);
        }
        self.scratch.write(0, &[0; SCRATCH_LEN]);
        self.scratch.write(0, &block.scratch);
        let mapped = block.cut.unwrap_or(bytes.len());
        let offset = if block.cut.is_some() {
            BLOCK_LEN - mapped
        } else {
            0
        };
        self.block.write(offset, &bytes[..mapped]);
        bytes.truncate(mapped);
        bytes.extend(self.scratch.read(0, SCRATCH_LEN));
        self.given = bytes;
        self.block.address() + offset as u64
    }

    /// What a call has changed in the structure and in the scratch memory: the rest, times and
    /// numbers of files are 0.
    fn filled_in(&self, block: &Block) -> Vec<u8> {
        let mapped = block.cut.unwrap_or(block.bytes.len());
        let offset = if block.cut.is_some() {
            BLOCK_LEN - mapped
        } else {
            0
        };
        let mut data = self.block.read(offset, mapped);
        data.extend(self.scratch.read(0, SCRATCH_LEN));
        for (new, old) in data.chunks_mut(8).zip(self.given.chunks(8)) {
            if new == old {
                new.fill(0);
            }
        }
        for &(at, len) in &block.times {
            let end = (at + len).min(mapped);
            if at < end {
                data[at..end].fill(0);
            }
        }
        data
    }

    fn run(&mut self, number: usize, immediate: bool, window: bool, answer: u64) -> Answer {
        let Some(vcpu) = self.vcpus.get(number) else {
            return Answer::none();
        };
        let Some(page) = &vcpu.run else {
            return Answer::none();
        };
        page.write(offset_of!(kvm_run, immediate_exit), &[immediate.into()]);
        page.write(
            offset_of!(kvm_run, request_interrupt_window),
            &[window.into()],
        );
        let value = sys::ioctl(vcpu.fd.as_raw_fd(), calls::RUN, 0);
        let mut result = Answer::of(value);
        if value == 0 {
            result.data = exit(page);
            reply(page, answer);
        } else {
            result.data = page.read(EXIT_REASON, 4);
        }
        result
    }

    /// The interrupts that eventfds were told of.
    pub fn events(&self) -> Vec<u64> {
        self.events.iter().map(sys::drain).collect()
    }
}

fn makes_descriptor(call: &Ioctl) -> bool {
    matches!(
        (call.on, call.number),
        (On::System, calls::CREATE_VM)
            | (On::Vm, calls::CREATE_VCPU)
            | (On::Vm | On::Vcpu(_), calls::GET_STATS_FD)
    )
}

const EXIT_REASON: usize = offset_of!(kvm_run, exit_reason);
/// Where the exit's own part of `kvm_run` starts.
const EXIT: usize = offset_of!(kvm_run, __bindgen_anon_1);

fn reason(page: &Place) -> u32 {
    let bytes = page.read(EXIT_REASON, 4);
    u32::from_le_bytes([0, 1, 2, 3].map(|i: usize| bytes[i]))
}

/// What KVM_RUN says of an exit, as far as it is defined.
fn exit(page: &Place) -> Vec<u8> {
    let len = match reason(page) {
        KVM_EXIT_IO => 16,
        KVM_EXIT_MMIO => 21,
        // Not DR7, which KVM does not set for each.
        KVM_EXIT_DEBUG => 24,
        KVM_EXIT_FAIL_ENTRY => 8,
        KVM_EXIT_INTERNAL_ERROR => 4,
        KVM_EXIT_IOAPIC_EOI => 1,
        KVM_EXIT_TPR_ACCESS => 12,
        KVM_EXIT_HYPERCALL => 56,
        KVM_EXIT_X86_RDMSR | KVM_EXIT_X86_WRMSR => 16,
        _ => 0,
    };
    let mut data = page.read(EXIT_REASON, 8);
    data.extend(page.read(EXIT, len));
    if reason(page) == KVM_EXIT_MMIO && data[8 + 20] == 0 {
        data[16..24].fill(0);
    }
    data
}

/// Fills in what an exit asks for.
fn reply(page: &Place, answer: u64) {
    match reason(page) {
        KVM_EXIT_IO => page.write(PAGE, &answer.to_le_bytes()),
        KVM_EXIT_MMIO => page.write(EXIT + 8, &answer.to_le_bytes()),
        _ => {}
    }
}

impl Answer {
    /// Whether a KVM_RUN ended because the processor refused the guest's state.
    pub fn has_failed_to_enter(&self) -> bool {
        self.value == Some(0) && self.data.starts_with(&KVM_EXIT_FAIL_ENTRY.to_le_bytes())
    }

    fn none() -> Self {
        Self {
            value: None,
            data: Vec::new(),
        }
    }

    fn of(value: i64) -> Self {
        Self {
            value: Some(value),
            data: Vec::new(),
        }
    }
}
