// SPDX-License-Identifier: GPL-2.0

//! A vCPU for tests: bytes wherever they are written, and devices on some pages.

use crate::addr::{Gva, PAGE_SIZE};
use crate::control_regs::{Cr0, Cr4};
use crate::emulator::{decode, execute, Fault, Intent, Machine, Progress, Stop};
use crate::exception::Exception;
use crate::operand::{CodeSize, Segment};
use crate::segment::{AccessRights, Segment as SegmentRegister, Selector};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::vec::Vec;

/// An access to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Access {
    pub(crate) gva: u64,
    pub(crate) len: usize,
    pub(crate) write: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TestMachine {
    pub(crate) registers: [u64; 16],
    pub(crate) vectors: [[u128; 2]; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    pub(crate) segments: [SegmentRegister; 6],
    pub(crate) cr0: Cr0,
    pub(crate) cr4: Cr4,
    pub(crate) xcr0: u64,
    pub(crate) cpl: u8,
    /// Memory that is not 0.
    pub(crate) memory: BTreeMap<u64, u8>,
    pub(crate) accesses: Vec<Access>,
    /// Pages that raise a page fault.
    pub(crate) absent: BTreeSet<u64>,
    /// Pages that raise a page fault if written.
    pub(crate) read_only: BTreeSet<u64>,
    /// Pages whose reads wait for [`TestMachine::answers`].
    pub(crate) device: BTreeSet<u64>,
    pub(crate) answers: VecDeque<u8>,
    /// Bytes of answers that the element under way has used.
    used: usize,
    pub(crate) ports_read: Vec<(u16, usize)>,
    pub(crate) ports_written: Vec<(u16, Vec<u8>)>,
    /// Elements done in all.
    pub(crate) elements: u32,
    /// Elements after which the machine wants to stop.
    pub(crate) patience: u32,
    /// The next compare-and-exchange finds other memory.
    pub(crate) contended: bool,
}

pub(crate) const FLAT: SegmentRegister = SegmentRegister {
    selector: Selector(0x10),
    base: Gva(0),
    limit: u32::MAX,
    rights: AccessRights(0xc093),
};

impl TestMachine {
    pub(crate) fn new() -> Self {
        Self {
            registers: [0; 16],
            vectors: [[0; 2]; 16],
            rip: 0x40_0000,
            rflags: 2,
            segments: [FLAT; 6],
            cr0: Cr0::PE | Cr0::PG | Cr0::AM,
            cr4: Cr4::OSFXSR | Cr4::OSXSAVE,
            xcr0: 7,
            cpl: 0,
            memory: BTreeMap::new(),
            accesses: Vec::new(),
            absent: BTreeSet::new(),
            read_only: BTreeSet::new(),
            device: BTreeSet::new(),
            answers: VecDeque::new(),
            used: 0,
            ports_read: Vec::new(),
            ports_written: Vec::new(),
            elements: 0,
            patience: u32::MAX,
            contended: false,
        }
    }

    pub(crate) fn poke(&mut self, gva: u64, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            self.memory.insert(gva.wrapping_add(i as u64), *byte);
        }
    }

    pub(crate) fn peek(&self, gva: u64, len: usize) -> Vec<u8> {
        (0..len as u64)
            .map(|i| self.memory.get(&gva.wrapping_add(i)).copied().unwrap_or(0))
            .collect()
    }

    /// Decodes and executes; RIP stays.
    pub(crate) fn run(&mut self, bytes: &[u8], code_size: CodeSize) -> Result<Progress, Stop> {
        let instruction = decode(bytes, code_size).unwrap_or_else(|e| panic!("{bytes:x?}: {e:?}"));
        self.used = 0;
        execute(&instruction, self)
    }

    fn check(&self, gva: Gva, len: usize, write: bool) -> Result<(), Stop> {
        for at in [gva.0, gva.0.wrapping_add(len as u64 - 1)] {
            let page = at / PAGE_SIZE;
            let absent = self.absent.contains(&page);
            if absent || write && self.read_only.contains(&page) {
                let gva = if page == gva.0 / PAGE_SIZE {
                    gva.0
                } else {
                    page * PAGE_SIZE
                };
                return Err(Stop::Fault(Fault {
                    exception: Exception::PageFault,
                    error_code: Some(u32::from(!absent) | u32::from(write) << 1),
                    cr2: Some(Gva(gva)),
                }));
            }
        }
        Ok(())
    }
}

impl Machine for TestMachine {
    fn gpr(&self, number: u8) -> u64 {
        self.registers[usize::from(number)]
    }

    fn set_gpr(&mut self, number: u8, value: u64) {
        self.registers[usize::from(number)] = value;
    }

    fn rip(&self) -> u64 {
        self.rip
    }

    fn rflags(&self) -> u64 {
        self.rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }

    fn segment_base(&self, segment: Segment) -> u64 {
        self.segments[segment as usize].base.0
    }

    fn segment(&self, segment: Segment) -> SegmentRegister {
        self.segments[segment as usize]
    }

    fn cr0(&self) -> Cr0 {
        self.cr0
    }

    fn cr4(&self) -> Cr4 {
        self.cr4
    }

    fn xcr0(&self) -> u64 {
        self.xcr0
    }

    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn xmm(&mut self, number: u8) -> u128 {
        self.vectors[usize::from(number)][0]
    }

    fn set_xmm(&mut self, number: u8, value: u128) {
        self.vectors[usize::from(number)][0] = value;
    }

    fn ymm_high(&mut self, number: u8) -> u128 {
        self.vectors[usize::from(number)][1]
    }

    fn set_ymm_high(&mut self, number: u8, value: u128) {
        self.vectors[usize::from(number)][1] = value;
    }

    fn read(&mut self, gva: Gva, to: &mut [u8], intent: Intent) -> Result<(), Stop> {
        assert!(!to.is_empty() && to.len() <= crate::emulator::MAX_OPERAND);
        self.check(gva, to.len(), intent == Intent::Modify)?;
        if self.device.contains(&(gva.0 / PAGE_SIZE)) {
            for byte in to.iter_mut() {
                *byte = *self.answers.get(self.used).ok_or(Stop::Exit)?;
                self.used += 1;
            }
        } else {
            to.copy_from_slice(&self.peek(gva.0, to.len()));
        }
        self.accesses.push(Access {
            gva: gva.0,
            len: to.len(),
            write: false,
        });
        Ok(())
    }

    fn write(&mut self, gva: Gva, from: &[u8]) -> Result<(), Stop> {
        assert!(!from.is_empty() && from.len() <= crate::emulator::MAX_OPERAND);
        self.check(gva, from.len(), true)?;
        self.poke(gva.0, from);
        self.accesses.push(Access {
            gva: gva.0,
            len: from.len(),
            write: true,
        });
        Ok(())
    }

    fn prepare_write(&mut self, gva: Gva, len: usize) -> Result<(), Stop> {
        self.check(gva, len, true)
    }

    fn compare_exchange(&mut self, gva: Gva, old: &[u8], new: &[u8]) -> Result<(), Stop> {
        if self.contended {
            return Err(Stop::Retry);
        }
        if !self.device.contains(&(gva.0 / PAGE_SIZE)) {
            assert_eq!(self.peek(gva.0, old.len()), old);
        }
        self.write(gva, new)
    }

    fn port_read(&mut self, port: u16, to: &mut [u8]) -> Result<(), Stop> {
        for (i, byte) in to.iter_mut().enumerate() {
            *byte = (self.ports_read.len() as u8).wrapping_mul(16) | i as u8;
        }
        self.ports_read.push((port, to.len()));
        Ok(())
    }

    fn port_write(&mut self, port: u16, from: &[u8]) -> Result<(), Stop> {
        self.ports_written.push((port, from.to_vec()));
        Ok(())
    }

    fn commit(&mut self) -> bool {
        self.answers.drain(..self.used);
        self.used = 0;
        self.elements += 1;
        self.elements < self.patience
    }
}
