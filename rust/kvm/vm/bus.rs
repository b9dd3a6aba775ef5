// SPDX-License-Identifier: GPL-2.0

//! Writes of a guest that the kernel takes on the VMM's behalf: as a signal (`vm/ioeventfd.rs`) or
//! to tell it later (`vm/coalesced.rs`).
//!
//! Who takes what is in immutable tables that are replaced as a whole. A vCPU reads them under SRCU,
//! and only if there is anything in them: a VMM that uses neither pays for one load.

use core::sync::atomic::{
    AtomicU8,
    Ordering, //
};

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

use super::{
    coalesced::{
        Ring,
        Zone, //
    },
    ioeventfd::Listener, //
};
use crate::host::srcu_cell::SrcuCell;

/// An address space of I/O.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// Memory that is not there.
    Mmio,
    /// Ports.
    Pio,
    /// The channel subsystem of another architecture: VMMs may listen, no guest ever writes.
    Ccw,
}

impl Space {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

const SPACES: usize = 3;

/// A write of 1, 2, 4 or 8 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Write {
    /// A guest-physical address or a port.
    pub(crate) address: u64,
    pub(crate) len: u8,
    /// What is written; the bits beyond `len` bytes are zero.
    pub(crate) value: u64,
}

/// Who takes what in one space.
pub(super) struct Table {
    /// In the order of their addresses.
    pub(super) listeners: KVVec<Listener>,
    /// In the order of their addresses.
    pub(super) zones: KVVec<Zone>,
}

/// The I/O of a VM that does not go to its VMM one by one.
#[pin_data]
pub(crate) struct Buses {
    /// Held while the tables change.
    #[pin]
    update: Mutex<()>,
    #[pin]
    tables: SrcuCell<[Arc<Table>; SPACES]>,
    /// A bit for each space whose table is not empty.
    used: AtomicU8,
    #[pin]
    pub(super) ring: Ring,
}

impl Buses {
    /// Nobody takes anything.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let empty = Arc::new(Table::EMPTY, GFP_KERNEL_ACCOUNT)?;
            let tables = [empty.clone(), empty.clone(), empty];
            let tables = Arc::new(tables, GFP_KERNEL_ACCOUNT)?;
            Ok(try_pin_init!(Self {
                update <- new_mutex!(()),
                tables <- SrcuCell::new(tables),
                used: AtomicU8::new(0),
                ring <- Ring::new(),
            }? Error))
        })
    }

    /// Offers a write. Returns whether somebody took it; if not, it goes to the VMM.
    ///
    /// Never sleeps. Not for guest mode: it may wake threads.
    #[inline]
    pub(crate) fn write(&self, space: Space, write: Write) -> bool {
        self.has_any(space) && self.offer(space, &write)
    }

    /// Whether anybody takes anything in `space`.
    #[inline]
    pub(crate) fn has_any(&self, space: Space) -> bool {
        self.used.load(Ordering::Relaxed) & space.bit() != 0
    }

    fn offer(&self, space: Space, write: &Write) -> bool {
        let tables = self.tables.read();
        let table = &tables[space as usize];
        if let Some(listener) = table.listener(write) {
            listener.signal();
            return true;
        }
        table.is_coalesced(write) && self.ring.push(space == Space::Pio, write)
    }

    /// Replaces the table of `space` by what `change` makes of it. When this returns, nobody uses
    /// the old one.
    pub(super) fn update(&self, space: Space, change: impl FnOnce(&mut Table) -> Result) -> Result {
        let _update = self.update.lock();
        let mut tables = (*self.tables.read()).clone();
        let mut table = tables[space as usize].duplicate()?;
        change(&mut table)?;
        table.index_zones();

        let is_empty = table.listeners.is_empty() && table.zones.is_empty();
        tables[space as usize] = Arc::new(table, GFP_KERNEL_ACCOUNT)?;
        self.tables.replace(Arc::new(tables, GFP_KERNEL_ACCOUNT)?);
        if is_empty {
            self.used.fetch_and(!space.bit(), Ordering::Relaxed);
        } else {
            self.used.fetch_or(space.bit(), Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Table {
    const EMPTY: Self = Self {
        listeners: KVVec::new(),
        zones: KVVec::new(),
    };

    /// A copy that has room for one more of each.
    fn duplicate(&self) -> Result<Self> {
        let mut listeners = KVVec::with_capacity(self.listeners.len() + 1, GFP_KERNEL_ACCOUNT)?;
        for listener in self.listeners.iter() {
            listeners.push(listener.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        let mut zones = KVVec::with_capacity(self.zones.len() + 1, GFP_KERNEL_ACCOUNT)?;
        zones.extend_from_slice(&self.zones, GFP_KERNEL_ACCOUNT)?;
        Ok(Self { listeners, zones })
    }

    /// The listener that hears `write`. There is at most one.
    fn listener(&self, write: &Write) -> Option<&Listener> {
        let first = self
            .listeners
            .partition_point(|listener| listener.address < write.address);
        self.listeners
            .get(first..)?
            .iter()
            .take_while(|listener| listener.address == write.address)
            .find(|listener| listener.hears(write))
    }

    /// Whether a zone has all of `write`.
    fn is_coalesced(&self, write: &Write) -> bool {
        let Some(end) = write.address.checked_add(write.len.into()) else {
            return false;
        };
        let candidates = self
            .zones
            .partition_point(|zone| zone.address <= write.address);
        self.zones
            .get(..candidates)
            .unwrap_or(&[])
            .iter()
            .rev()
            .take_while(|zone| zone.reach >= end)
            .any(|zone| zone.end() >= end)
    }

    /// Sets how far the zones reach.
    fn index_zones(&mut self) {
        let mut reach = 0;
        for zone in self.zones.iter_mut() {
            reach = zone.end().max(reach);
            zone.reach = reach;
        }
    }
}
