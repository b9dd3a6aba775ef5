// SPDX-License-Identifier: GPL-2.0

//! What an instruction has asked of devices: reads that were answered, and writes that wait for
//! the VMM.

use arch::{
    addr::Gpa,
    emulator::Instruction, //
};

use super::{
    access::{
        Known,
        Translations, //
    },
    memo::Memo, //
};

/// Pieces that an operand of 32 bytes across a page makes, at 8 bytes a piece.
const MAX_PIECES: usize = 5;

/// Where a device is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Memory(Gpa),
    Port(u16),
}

/// An access to a device: at most 8 bytes that cross no page.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    pub(super) place: Place,
    pub(super) len: u8,
    pub(super) data: [u8; 8],
}

impl Piece {
    const NONE: Self = Self {
        place: Place::Port(0),
        len: 0,
        data: [0; 8],
    };

    pub(super) fn new(place: Place, bytes: &[u8]) -> Self {
        let mut data = [0; 8];
        let len = bytes.len().min(data.len());
        data[..len].copy_from_slice(&bytes[..len]);
        Self {
            place,
            len: len as u8,
            data,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.data[..usize::from(self.len).min(self.data.len())]
    }
}

/// The emulation of an instruction, as far as it outlasts a visit to the VMM.
pub(crate) struct Emulation {
    /// Reads that were answered since the last element began, in their order.
    answers: [Piece; MAX_PIECES],
    answered: u8,
    /// Writes for the VMM, in their order.
    writes: [Piece; MAX_PIECES],
    queued: u8,
    /// How many of them the VMM was given.
    given: u8,
    /// The read that the VMM is to answer.
    pub(super) wanted: Piece,
    /// The instruction that waits for the answer, and its address.
    instruction: Option<Instruction>,
    rip: u64,
    pub(super) translations: Translations,
    /// The instruction that was fetched last.
    pub(super) memo: Option<Memo>,
}

impl Emulation {
    /// Nothing is under way.
    pub(crate) const fn new() -> Self {
        Self {
            answers: [Piece::NONE; MAX_PIECES],
            answered: 0,
            writes: [Piece::NONE; MAX_PIECES],
            queued: 0,
            given: 0,
            wanted: Piece::NONE,
            instruction: None,
            rip: 0,
            translations: Translations::new(),
            memo: None,
        }
    }

    /// Forgets what was, for an instruction that begins.
    #[inline]
    pub(super) fn begin(&mut self, known: Option<Known>) {
        self.forget_answers();
        self.queued = 0;
        self.given = 0;
        self.translations.begin(known);
    }

    /// As [`Self::begin`], for an instruction that may use no other page than `known`.
    #[inline]
    pub(super) fn begin_within(&mut self, known: Known) {
        self.begin(Some(known));
        self.translations.seal();
    }

    /// Notes that an instruction waits for an answer.
    pub(super) fn wait(&mut self, rip: u64, instruction: &Instruction) {
        self.rip = rip;
        self.instruction = Some(*instruction);
    }

    /// The instruction that waited, and its address.
    pub(super) fn waiting(&mut self) -> (u64, Option<Instruction>) {
        (self.rip, self.instruction.take())
    }

    /// The answer to read number `at`, if it was made already. If another one was, that and all
    /// after it are dropped: the vCPU is not what it was.
    #[inline]
    pub(super) fn answer(&mut self, at: u8, place: Place, len: usize) -> Option<[u8; 8]> {
        if at >= self.answered {
            return None;
        }
        let answer = self.answers.get(usize::from(at))?;
        if answer.place == place && usize::from(answer.len) == len {
            return Some(answer.data);
        }
        self.answered = at;
        None
    }

    /// Remembers an answer.
    #[inline]
    pub(super) fn push_answer(&mut self, answer: Piece) {
        if let Some(slot) = self.answers.get_mut(usize::from(self.answered)) {
            *slot = answer;
            self.answered += 1;
        }
    }

    /// Forgets the answers: the registers have what was read.
    #[inline]
    pub(super) fn forget_answers(&mut self) {
        self.answered = 0;
    }

    /// Queues a write for the VMM.
    pub(super) fn push_write(&mut self, write: Piece) {
        if let Some(slot) = self.writes.get_mut(usize::from(self.queued)) {
            *slot = write;
            self.queued += 1;
        }
    }

    /// Whether there are writes for the VMM.
    #[inline]
    pub(super) fn has_writes(&self) -> bool {
        self.queued != 0
    }

    /// The next write for the VMM.
    #[inline]
    pub(super) fn next_write(&mut self) -> Option<Piece> {
        if self.given >= self.queued {
            return None;
        }
        let write = self.writes.get(usize::from(self.given)).copied();
        self.given += 1;
        write
    }
}
