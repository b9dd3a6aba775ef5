// SPDX-License-Identifier: GPL-2.0

//! The instruction that was fetched last, with all that led to it.
//!
//! A driver gets at the registers of its device with few instructions, again and again. To fetch one
//! means to walk the guest's page tables, to read it and to decode it. The outcome depends on
//! nothing but what is kept here: the registers that rule the walk, the entries on the way, and the
//! bytes. Where all of them are as they were, so is the instruction.

use arch::{
    addr::{
        Gpa,
        Hva,
        PAGE_SIZE, //
    },
    control_regs::Efer,
    emulator::{
        Instruction,
        MAX_LENGTH, //
    },
    paging::GuestMemory, //
};

use super::super::{
    backend::Backend,
    memory::GuestAccess,
    vcpu::Loaded, //
};
use crate::host::mm::{
    self,
    UserWord, //
};

/// Entries of 5-level paging, and two words that the longest instruction fits into.
const MAX_WORDS: usize = 7;

/// The registers that decide where RIP leads, and what its bytes mean.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    rip: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    maxphyaddr: u8,
    cpl: u8,
    /// Of the memory slots.
    generation: u64,
}

impl Key {
    /// As they are now; `None` out of 64-bit mode, where there is more to it.
    #[inline]
    pub(super) fn of<B: Backend>(cx: &Loaded<'_, B>, memory: &GuestAccess<'_>) -> Option<Self> {
        let efer = B::efer(cx);
        if efer & Efer::LMA.bits() == 0 || !B::cs_rights(cx).is_long() {
            return None;
        }
        Some(Self {
            rip: B::rip(cx),
            cr0: B::cr0(cx),
            cr3: B::cr3(cx),
            cr4: B::cr4(cx),
            efer,
            maxphyaddr: cx.state.cpuid.limits().maxphyaddr,
            cpl: B::cpl(cx),
            generation: memory.generation(),
        })
    }
}

/// Words of the VMM's memory and what was in them.
#[derive(Clone, Copy)]
struct Words {
    words: [UserWord; MAX_WORDS],
    count: usize,
}

impl Words {
    const NONE: Self = Self {
        words: [UserWord::NONE; MAX_WORDS],
        count: 0,
    };

    /// Adds one, if there is room; says whether there was.
    fn push(&mut self, hva: Hva, value: u64) -> bool {
        let Some(slot) = self.words.get_mut(self.count) else {
            return false;
        };
        *slot = UserWord { hva: hva.0, value };
        self.count += 1;
        true
    }
}

/// Guest memory that notes what a page walk reads of it.
pub(super) struct Recorder<'a> {
    memory: &'a GuestAccess<'a>,
    seen: Words,
    /// Everything is in `seen`.
    complete: bool,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(memory: &'a GuestAccess<'a>) -> Self {
        Self {
            memory,
            seen: Words::NONE,
            complete: true,
        }
    }
}

impl GuestMemory for Recorder<'_> {
    fn read_u32(&mut self, gpa: Gpa) -> Option<u32> {
        self.complete = false;
        mm::read_u32(self.memory.hva(gpa)?)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        let hva = self.memory.hva(gpa)?;
        let value = mm::read_u64(hva)?;
        self.complete &= self.seen.push(hva, value);
        Some(value)
    }

    fn compare_exchange_u32(&mut self, _gpa: Gpa, _old: u32, _new: u32) -> Option<bool> {
        None
    }

    fn compare_exchange_u64(&mut self, _gpa: Gpa, _old: u64, _new: u64) -> Option<bool> {
        None
    }
}

/// An instruction, and what it was found by.
pub(crate) struct Memo {
    key: Key,
    words: Words,
    instruction: Instruction,
}

impl Memo {
    /// Of an instruction whose `bytes` are at `gpa`, where `walk` led; `None` where they go on to
    /// another page, or the walk was not of the kind that is kept.
    pub(super) fn new(
        key: Key,
        walk: &Recorder<'_>,
        gpa: Gpa,
        bytes: &[u8; MAX_LENGTH],
        instruction: &Instruction,
    ) -> Option<Self> {
        let word = |at: usize| -> Option<u64> {
            let bytes = bytes.get(at..)?.first_chunk()?;
            Some(u64::from_le_bytes(*bytes))
        };
        if !walk.complete || gpa.page_offset() + MAX_LENGTH as u64 > PAGE_SIZE {
            return None;
        }
        let hva = walk.memory.hva(gpa)?;
        let mut words = walk.seen;
        // The two overlap by a byte.
        for at in [0, MAX_LENGTH - 8] {
            if !words.push(hva.offset(at as u64), word(at)?) {
                return None;
            }
        }
        Some(Self {
            key,
            words,
            instruction: *instruction,
        })
    }

    /// The instruction, if a fetch would find it again. Never sleeps.
    #[inline]
    pub(super) fn recall(&self, key: &Key) -> Option<&Instruction> {
        let words = self.words.words.get(..self.words.count)?;
        (self.key == *key && mm::are_unchanged(words)).then_some(&self.instruction)
    }
}
