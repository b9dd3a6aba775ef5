// SPDX-License-Identifier: GPL-2.0

//! What goes through the queues: a header, and data behind some (virtio 1.2, 5.10.6).

/// Bytes of a header.
pub const HEADER: usize = 44;
/// The host's context ID.
pub const HOST: u64 = 2;
/// The only kind of socket there is here.
const STREAM: u16 = 1;

/// Operations.
pub const REQUEST: u16 = 1;
pub const RESPONSE: u16 = 2;
pub const RESET: u16 = 3;
pub const SHUTDOWN: u16 = 4;
pub const DATA: u16 = 5;
pub const CREDIT_UPDATE: u16 = 6;
pub const CREDIT_REQUEST: u16 = 7;

/// With [`SHUTDOWN`]: who sends it will receive, or send, no more.
pub const NO_MORE_RECEIVED: u32 = 1 << 0;
pub const NO_MORE_SENT: u32 = 1 << 1;

/// The ends of a connection: a port of the host's and one of the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ports {
    /// The host's.
    pub host: u32,
    /// The guest's.
    pub guest: u32,
}

/// A header, as far as it differs from packet to packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose it is.
    pub ports: Ports,
    /// Bytes of data behind it.
    pub length: u32,
    /// What it says.
    pub operation: u16,
    /// More about that.
    pub flags: u32,
    /// Bytes the sender has room for in all.
    pub room: u32,
    /// Bytes the sender has taken out of that room so far, modulo 2^32.
    pub taken: u32,
}

impl Header {
    /// The bytes of a packet to the guest `cid`.
    pub fn to_guest(self, cid: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&HOST.to_le_bytes());
        bytes[8..16].copy_from_slice(&u64::from(cid).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.ports.host.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.ports.guest.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&STREAM.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.operation.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.room.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.taken.to_le_bytes());
        bytes
    }

    /// A packet from the guest `cid`; none if it is for somebody else than the host, pretends to be
    /// from somebody else, or is of a kind of socket there is not.
    pub fn from_guest(bytes: &[u8; HEADER], cid: u32) -> Option<Self> {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let is_ours = u64_at(0) == u64::from(cid) && u64_at(8) == HOST && u16_at(28) == STREAM;
        is_ours.then(|| Self {
            ports: Ports {
                guest: u32_at(16),
                host: u32_at(20),
            },
            length: u32_at(24),
            operation: u16_at(30),
            flags: u32_at(32),
            room: u32_at(36),
            taken: u32_at(40),
        })
    }
}
