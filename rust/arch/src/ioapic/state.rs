// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_ioapic_state`.

use super::{Entry, PINS};

/// `struct kvm_ioapic_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// Physical address of the registers.
    pub base_address: u64,
    /// The select register.
    pub ioregsel: u32,
    /// The id.
    pub id: u32,
    /// Requests, a bit an input: for level-triggered ones the line, for edge-triggered ones what
    /// could not be sent.
    pub irr: u32,
    /// The redirection table.
    pub redirtbl: [Entry; PINS],
}

/// Where the table begins; 4 bytes before it are padding.
const TABLE: usize = 24;

impl State {
    /// Bytes of the structure.
    pub const SIZE: usize = TABLE + 8 * PINS;

    /// The structure, its padding zero.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let head = self
            .base_address
            .to_le_bytes()
            .into_iter()
            .chain(self.ioregsel.to_le_bytes())
            .chain(self.id.to_le_bytes())
            .chain(self.irr.to_le_bytes())
            .chain([0; 4]);
        let table = self.redirtbl.iter().flat_map(|entry| entry.0.to_le_bytes());
        for (byte, value) in bytes.iter_mut().zip(head.chain(table)) {
            *byte = value;
        }
        bytes
    }

    /// From the structure.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let word = |at: usize| {
            let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Self {
            base_address: long(0),
            ioregsel: word(8),
            id: word(12),
            irr: word(16),
            redirtbl: core::array::from_fn(|pin| Entry(long(TABLE + 8 * pin))),
        }
    }
}
