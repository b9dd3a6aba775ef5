// SPDX-License-Identifier: GPL-2.0

//! Access rights and error codes as SDM vol. 3, 5.6 and 5.7 state them.

use super::tables::{Shape, P, RW, US, XD};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Fetch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    User,
    Supervisor,
    /// The processor, for a descriptor table or a TSS.
    Implicit,
}

/// An access, and what of the registers matters to it.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    pub kind: Kind,
    pub who: Who,
    pub ac: bool,
    pub wp: bool,
    pub smep: bool,
    pub smap: bool,
    pub nxe: bool,
    pub pke: bool,
    pub pkru: u32,
}

/// Bits of the error code.
mod code {
    pub const P: u32 = 1 << 0;
    pub const WR: u32 = 1 << 1;
    pub const US: u32 = 1 << 2;
    pub const RSVD: u32 = 1 << 3;
    pub const ID: u32 = 1 << 4;
    pub const PK: u32 = 1 << 5;
}

/// The error code that the manual gives the access, or none if it is allowed. `entries` are those
/// of the walk, with no reserved bit but perhaps XD.
pub fn fault(shape: Shape, entries: &[u64], now: &Situation) -> Option<u32> {
    let mut code = 0;
    if now.kind == Kind::Write {
        code |= code::WR;
    }
    if now.who == Who::User {
        code |= code::US;
    }
    if now.kind == Kind::Fetch && (now.smep || shape.has_xd() && now.nxe) {
        code |= code::ID;
    }
    for entry in entries {
        if entry & P == 0 {
            return Some(code);
        }
        if entry & XD != 0 && !now.nxe {
            return Some(code | code::P | code::RSVD);
        }
    }
    let key_forbids = key_forbids(shape, entries, now);
    if key_forbids {
        code |= code::PK;
    }
    if allows(shape, entries, now) && !key_forbids {
        None
    } else {
        Some(code | code::P)
    }
}

fn every(shape: Shape, entries: &[u64], bit: u64) -> bool {
    let mut levels = entries.iter().enumerate();
    levels.all(|(level, entry)| shape.is_pdpte(level) || entry & bit != 0)
}

/// SDM vol. 3, 5.6.1, in its order.
fn allows(shape: Shape, entries: &[u64], now: &Situation) -> bool {
    let user_mode_address = every(shape, entries, US);
    let writable = every(shape, entries, RW);
    let executable = !shape.has_xd() || !now.nxe || entries.iter().all(|entry| entry & XD == 0);
    // "Access to user-mode addresses is allowed if ... EFLAGS.AC = 1 and the access is explicit".
    let smap_open = !now.smap || now.ac && now.who == Who::Supervisor;
    match (now.who, now.kind) {
        (Who::User, Kind::Read) => user_mode_address,
        (Who::User, Kind::Write) => user_mode_address && writable,
        (Who::User, Kind::Fetch) => user_mode_address && executable,
        (_, Kind::Read) if !user_mode_address => true,
        (_, Kind::Read) => smap_open,
        (_, Kind::Write) if !user_mode_address => !now.wp || writable,
        (_, Kind::Write) if !now.wp => smap_open,
        (_, Kind::Write) => writable && smap_open,
        (_, Kind::Fetch) if !user_mode_address => executable,
        (_, Kind::Fetch) => !now.smep && executable,
    }
}

/// SDM vol. 3, 5.6.2: the keys of user-mode addresses.
fn key_forbids(shape: Shape, entries: &[u64], now: &Situation) -> bool {
    if !shape.is_long() || !now.pke || now.kind == Kind::Fetch || !every(shape, entries, US) {
        return false;
    }
    let last = entries[entries.len() - 1];
    let key = last >> 59 & 15;
    let access_disable = now.pkru >> (2 * key) & 1 != 0;
    let write_disable = now.pkru >> (2 * key + 1) & 1 != 0;
    let binds_writes = now.who == Who::User || now.wp;
    access_disable || write_disable && now.kind == Kind::Write && binds_writes
}
