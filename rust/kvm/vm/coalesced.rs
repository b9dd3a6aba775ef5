// SPDX-License-Identifier: GPL-2.0

//! Writes that the VMM reads from a ring when it next has a look (api.rst, 4.116
//! KVM_(UN)REGISTER_COALESCED_MMIO).

use kernel::{
    new_spinlock,
    page::Page,
    prelude::*,
    sync::SpinLock, //
};

use super::bus::{
    Buses,
    Space,
    Write, //
};
use crate::host::coalesced_ring::{
    CoalescedRing,
    Entry, //
};

/// Zones that a space may have (`NR_IOBUS_DEVS`).
pub(super) const MAX_ZONES: usize = 1000;

/// A range whose writes go to the ring.
#[derive(Clone, Copy)]
pub(super) struct Zone {
    pub(super) address: u64,
    size: u32,
    /// How far this zone or any before it in the table reaches, whichever is furthest.
    pub(super) reach: u64,
}

impl Zone {
    /// The first address after the zone. One that wraps round has nothing in it.
    #[inline]
    pub(super) fn end(&self) -> u64 {
        self.address.wrapping_add(self.size.into())
    }

    fn contains(&self, address: u64, size: u32) -> bool {
        i32::try_from(size).is_ok()
            && address >= self.address
            && address
                .checked_add(size.into())
                .is_some_and(|end| end <= self.end())
    }
}

/// The ring of a VM, which all its vCPUs map.
#[pin_data]
pub(super) struct Ring {
    entries: CoalescedRing,
    /// Held while an entry is added.
    #[pin]
    adding: SpinLock<()>,
}

impl Ring {
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            entries: CoalescedRing::new()?,
            adding <- new_spinlock!(()),
        }? Error)
    }

    /// Adds a write, unless the ring is full or the VMM broke it.
    pub(super) fn push(&self, is_pio: bool, write: &Write) -> bool {
        let entry = Entry {
            address: write.address,
            len: write.len.into(),
            is_pio,
            data: write.value.to_le_bytes(),
        };
        let _adding = self.adding.lock();
        self.entries.push(&entry)
    }
}

impl Buses {
    /// The page with the ring, for the mapping of a vCPU.
    pub(crate) fn ring_page(&self) -> &Page {
        self.ring.entries.page()
    }

    /// Has writes that are wholly in `size` bytes at `address` go to the ring.
    ///
    /// # Errors
    ///
    /// ENOSPC where the space has all the zones it may have, ENOMEM.
    pub(crate) fn coalesce(&self, space: Space, address: u64, size: u32) -> Result {
        self.update(space, |table| {
            if table.zones.len() >= MAX_ZONES {
                return Err(ENOSPC);
            }
            let at = table.zones.partition_point(|old| old.address <= address);
            let zone = Zone {
                address,
                size,
                reach: 0,
            };
            table
                .zones
                .insert_within_capacity(at, zone)
                .map_err(|_| ENOMEM)
        })
    }

    /// Removes all zones that have all of the given range.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(crate) fn uncoalesce(&self, space: Space, address: u64, size: u32) -> Result {
        self.update(space, |table| {
            table.zones.retain(|zone| !zone.contains(address, size));
            Ok(())
        })
    }
}
