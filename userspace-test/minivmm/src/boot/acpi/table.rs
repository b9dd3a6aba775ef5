// SPDX-License-Identifier: GPL-2.0

//! The form that system description tables have in common (ACPI 6.5, 5.2.6).

/// Who made a table.
pub const OEM_ID: [u8; 6] = *b"MINIKV";
const OEM_TABLE_ID: [u8; 8] = *b"MINIVMM ";
const OEM_REVISION: u32 = 1;
const CREATOR_ID: [u8; 4] = *b"MVMM";
const CREATOR_REVISION: u32 = 1;

const LENGTH: usize = 4;
const CHECKSUM: usize = 9;

/// A table that grows.
pub struct Table(Vec<u8>);

impl Table {
    /// A table of the header alone.
    pub fn new(signature: &[u8; 4], revision: u8) -> Self {
        let mut bytes = signature.to_vec();
        bytes.extend([0; 4]);
        bytes.extend([revision, 0]);
        bytes.extend(OEM_ID);
        bytes.extend(OEM_TABLE_ID);
        bytes.extend(OEM_REVISION.to_le_bytes());
        bytes.extend(CREATOR_ID);
        bytes.extend(CREATOR_REVISION.to_le_bytes());
        Self(bytes)
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Adds 64 bits.
    pub fn push_u64(&mut self, value: u64) {
        self.push(&value.to_le_bytes());
    }

    /// The bytes, with length and checksum filled in.
    pub fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("a table is small");
        self.0[LENGTH..LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        self.0[CHECKSUM] = checksum(&self.0);
        self.0
    }
}

/// A table of fixed size whose fields are filled in at their offsets.
pub struct Fields(Table);

impl Fields {
    /// A table of `size` bytes, zero behind the header.
    pub fn new(signature: &[u8; 4], revision: u8, size: usize) -> Self {
        let mut table = Table::new(signature, revision);
        table.0.resize(size, 0);
        Self(table)
    }

    /// Fills in a field.
    pub fn set(&mut self, offset: usize, value: &[u8]) {
        self.0 .0[offset..offset + value.len()].copy_from_slice(value);
    }

    /// The table.
    pub fn into_table(self) -> Table {
        self.0
    }
}

/// The byte that makes the sum of all zero, where it is zero in `bytes` so far.
pub fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}
