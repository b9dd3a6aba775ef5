// SPDX-License-Identifier: GPL-2.0
//! All that a VM and its vCPUs say of themselves, but for time.

use std::fmt::Write;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::*;

use crate::calls::*;
use crate::machine::Machine;
use crate::sys::{self, Place};

/// Where the structures are read to.
const AT: u64 = 0x2800_0000_0000;

/// One structure.
#[derive(Clone, PartialEq, Eq)]
pub struct Part {
    /// Whose, and which.
    pub name: String,
    /// What the call returned.
    pub value: i64,
    /// The structure, times left out.
    pub data: Vec<u8>,
}

/// Reads states.
pub struct Reader(Place);

/// What is read of a vCPU.
///
/// With KVM the first of them is what has an INIT take effect.
const OF_VCPU: &[(&str, u64, usize)] = &[
    ("mp_state", GET_MP_STATE, 4),
    ("regs", GET_REGS, 144),
    ("sregs", GET_SREGS, 312),
    ("pdptrs", GET_SREGS2, 320),
    ("events", GET_EVENTS, 64),
    ("debugregs", GET_DEBUGREGS, 128),
    ("xcrs", GET_XCRS, 392),
    ("xsave", GET_XSAVE, 1024),
    ("lapic", GET_LAPIC, 1024),
];

/// MSRs that there are whatever the guest's CPUID says.
const STATE_MSRS: &[u32] = &[
    0x174,
    0x175,
    0x176,
    0x1a0,
    0x277,
    0x2ff,
    0x200,
    0x201,
    0x250,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0x17a,
    0xc001_0015,
    0x140,
];

impl Reader {
    /// Room for structures.
    pub fn new() -> Self {
        Self(Place::new(AT, 4 * sys::PAGE))
    }

    fn part(&self, name: String, fd: RawFd, number: u64, len: usize) -> Part {
        self.0.write(0, &vec![0; len.max(4096)]);
        self.filled(name, fd, number, len)
    }

    fn filled(&self, name: String, fd: RawFd, number: u64, len: usize) -> Part {
        let value = sys::ioctl(fd, number, self.0.address());
        let mut data = self.0.read(0, len);
        hide(number, &mut data);
        Part { name, value, data }
    }

    fn msrs(&self, name: String, fd: RawFd) -> Part {
        let mut bytes = (STATE_MSRS.len() as u64).to_le_bytes().to_vec();
        for &index in STATE_MSRS {
            bytes.extend(u64::from(index).to_le_bytes());
            bytes.extend([0; 8]);
        }
        self.0.write(0, &bytes);
        self.filled(name, fd, GET_MSRS, bytes.len())
    }

    /// Whether more than one event is on its way into `vcpu`.
    pub fn has_several_events(&self, machine: &Machine, vcpu: usize) -> bool {
        let Some(vcpu) = machine.vcpus.get(vcpu) else {
            return false;
        };
        let events = self
            .part(String::new(), vcpu.fd.as_raw_fd(), GET_EVENTS, 64)
            .data;
        let injected = offset_of!(kvm_vcpu_events, exception);
        let exception = events[injected] | events[injected + 3];
        let interrupt = events[offset_of!(kvm_vcpu_events, interrupt)];
        let nmi = events[offset_of!(kvm_vcpu_events, nmi)];
        exception + interrupt + nmi > 1
    }

    /// The state of a VM.
    pub fn read(&self, machine: &Machine) -> Vec<Part> {
        let mut parts = Vec::new();
        for (i, vcpu) in machine.vcpus.iter().enumerate() {
            let fd = vcpu.fd.as_raw_fd();
            for &(name, number, len) in OF_VCPU {
                parts.push(self.part(format!("vcpu{i}.{name}"), fd, number, len));
            }
            parts.push(self.msrs(format!("vcpu{i}.msrs"), fd));
        }
        for chip in 0..3u32 {
            self.0.write(0, &[0; 520]);
            self.0.write(0, &chip.to_le_bytes());
            parts.push(self.filled(format!("chip{chip}"), machine.vm(), GET_IRQCHIP, 520));
        }
        parts.push(self.part("pit".into(), machine.vm(), GET_PIT2, 112));
        parts.push(self.part("clock".into(), machine.vm(), GET_CLOCK, 48));
        let events = machine.events();
        parts.push(Part {
            name: "events".into(),
            value: 0,
            data: events.iter().flat_map(|n| n.to_le_bytes()).collect(),
        });
        parts
    }
}

/// Clears what tells of time, and what is there with SMM only.
fn hide(number: u64, data: &mut [u8]) {
    match number {
        GET_EVENTS => {
            data[offset_of!(kvm_vcpu_events, flags)] &= !(KVM_VCPUEVENT_VALID_SMM as u8);
            let smi = offset_of!(kvm_vcpu_events, smi);
            data[smi..smi + 4].fill(0);
            // The last exception's number may stay there when it is over.
            if data[0] == 0 && data[3] == 0 {
                data[..8].fill(0);
                data[offset_of!(kvm_vcpu_events, exception_payload)..].fill(0);
            }
            if data[2] == 0 {
                data[4..8].fill(0);
            }
            if data[offset_of!(kvm_vcpu_events, exception_has_payload)] == 0 {
                data[offset_of!(kvm_vcpu_events, exception_payload)..].fill(0);
            }
            if data[8] == 0 {
                data[9] = 0;
            }
        }
        GET_LAPIC => {
            data[0x390..0x394].fill(0);
            // The processor priority follows from other registers, with KVM not at once.
            data[0xa0..0xa4].fill(0);
        }
        // ET is 1 in every processor, whatever is written.
        GET_SREGS | GET_SREGS2 => data[offset_of!(kvm_sregs, cr0)] |= 0x10,
        GET_PIT2 => [16, 40, 64].iter().for_each(|&at| data[at..at + 8].fill(0)),
        // KVM's flags do not speak of a stable TSC before a vCPU ran.
        GET_CLOCK => data.fill(0),
        // The master's input 2: KVM pulses it where the slave has a request, and leaves it.
        GET_IRQCHIP if data[0] == 0 => data[8..10].iter_mut().for_each(|lines| *lines &= !4),
        _ => {}
    }
}

/// Names of the fields of `struct kvm_sregs`, by where they start.
const SREGS: &[(usize, &str)] = &[
    (0, "cs"),
    (24, "ds"),
    (48, "es"),
    (72, "fs"),
    (96, "gs"),
    (120, "ss"),
    (144, "tr"),
    (168, "ldt"),
    (192, "gdt"),
    (208, "idt"),
    (224, "cr0"),
    (232, "cr2"),
    (240, "cr3"),
    (248, "cr4"),
    (256, "cr8"),
    (264, "efer"),
    (272, "apic_base"),
    (280, "interrupt_bitmap"),
];

const REGS: &[&str] = &[
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip", "rflags",
];

/// The name of the field at `offset` of a part.
fn field(part: &str, offset: usize) -> String {
    let kind = part.rsplit('.').next().unwrap_or(part);
    match kind {
        "regs" => REGS[(offset / 8).min(REGS.len() - 1)].to_string(),
        "sregs" => {
            let found = SREGS.iter().rev().find(|(at, _)| *at <= offset);
            let (at, name) = found.unwrap_or(&SREGS[0]);
            format!("{name}+{:x}", offset - at)
        }
        "msrs" if offset >= 8 => {
            format!(
                "{:x}",
                STATE_MSRS[((offset - 8) / 16).min(STATE_MSRS.len() - 1)]
            )
        }
        _ => format!("{offset:x}"),
    }
}

/// What differs between two states, in words: a line each.
pub fn differences(before: &[Part], after: &[Part]) -> String {
    let mut text = String::new();
    for part in after {
        let old = before.iter().find(|p| p.name == part.name);
        if old.is_none_or(|old| old.value != part.value) {
            let _ = writeln!(text, "    {} = {}", part.name, part.value);
        }
        for (i, word) in part.data.chunks(8).enumerate() {
            let was = old.and_then(|old| old.data.chunks(8).nth(i));
            let unset = was.is_none() && word.iter().all(|&byte| byte == 0);
            if was != Some(word) && !unset {
                let place = field(&part.name, 8 * i);
                let _ = writeln!(text, "    {}.{place}: {}", part.name, hex(word));
            }
        }
    }
    text
}

/// A little-endian word as a number.
pub fn hex(word: &[u8]) -> String {
    let mut bytes = [0; 8];
    bytes[..word.len()].copy_from_slice(word);
    format!("{:x}", u64::from_le_bytes(bytes))
}
