// SPDX-License-Identifier: GPL-2.0

//! MSI-X (PCI 3.0, 6.8.2): a table of messages, each of which is an eventfd here.
//!
//! A vector that may interrupt is connected to KVM by irqfd. One that is masked is not, and what is
//! written to its eventfd meanwhile stays there: that is its pending bit, and KVM takes it when the
//! two are connected again.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::devices::virtio::backend::Backend;
use crate::terminal::poll;

/// The capability's kind.
pub const CAPABILITY: u8 = 0x11;
/// Its message control register: enabled, and all vectors masked.
pub const ENABLE: u16 = 1 << 15;
/// As above.
pub const FUNCTION_MASK: u16 = 1 << 14;

/// Bytes of a table entry.
pub const ENTRY: u64 = 16;
/// In an entry: where its data and its control are.
const DATA: u64 = 8;
const CONTROL: u64 = 12;
/// In an entry's control: masked.
const MASKED: u32 = 1;

/// One vector.
struct Vector {
    event: EventFd,
    gsi: u32,
    address: u64,
    data: u32,
    masked: bool,
    connected: bool,
}

/// The table of a function, and how it is connected.
pub struct Msix {
    vectors: Vec<Vector>,
    backend: Arc<dyn Backend>,
    active: bool,
    /// A person has been told of a message that cannot be one.
    complained: bool,
}

impl Msix {
    /// A table of `count` vectors with the GSIs from `first_gsi` on.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn new(count: u16, first_gsi: u32, backend: Arc<dyn Backend>) -> io::Result<Self> {
        let vectors = (first_gsi..)
            .take(count.into())
            .map(|gsi| {
                Ok(Vector {
                    event: EventFd::new(EFD_NONBLOCK)?,
                    gsi,
                    address: 0,
                    data: 0,
                    masked: true,
                    connected: false,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            vectors,
            backend,
            active: false,
            complained: false,
        })
    }

    /// What interrupts by each vector.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn events(&self) -> io::Result<Vec<EventFd>> {
        let mut vectors = self.vectors.iter();
        vectors.try_fold(Vec::new(), |mut events, vector| {
            events.push(vector.event.try_clone()?);
            Ok(events)
        })
    }

    /// Message control is `control` now.
    pub fn set_control(&mut self, control: u16) {
        self.active = control & (ENABLE | FUNCTION_MASK) == ENABLE;
        (0..self.vectors.len()).for_each(|index| self.connect(index, false));
    }

    /// A load from the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(vector) = self.vectors.get((offset / ENTRY) as usize) else {
            return;
        };
        let mut entry = [0; ENTRY as usize];
        entry[..8].copy_from_slice(&vector.address.to_le_bytes());
        entry[8..12].copy_from_slice(&vector.data.to_le_bytes());
        entry[12..].copy_from_slice(&u32::from(vector.masked).to_le_bytes());
        for (byte, value) in data.iter_mut().zip(&entry[(offset % ENTRY) as usize..]) {
            *byte = *value;
        }
    }

    /// A store to the table: 32 or 64 bits, as they lie.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        if data.len() == 8 {
            self.write_table(offset, &data[..4]);
            self.write_table(offset + 4, &data[4..]);
            return;
        }
        let index = (offset / ENTRY) as usize;
        let (Some(vector), Ok(word)) = (self.vectors.get_mut(index), data.try_into()) else {
            return;
        };
        let word = u32::from_le_bytes(word);
        let changed = match offset % ENTRY {
            0 => {
                vector.address = vector.address & !0xffff_ffff | u64::from(word);
                true
            }
            4 => {
                vector.address = vector.address & 0xffff_ffff | u64::from(word) << 32;
                true
            }
            DATA => {
                vector.data = word;
                true
            }
            CONTROL => {
                vector.masked = word & MASKED != 0;
                false
            }
            _ => return,
        };
        self.connect(index, changed);
    }

    /// A load from the array of pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            let first = (at as usize).saturating_mul(8);
            *byte = (0..8).fold(0, |bits, bit| {
                bits | u8::from(self.is_pending(first.saturating_add(bit))) << bit
            });
        }
    }

    fn is_pending(&self, index: usize) -> bool {
        let vector = self.vectors.get(index).filter(|vector| !vector.connected);
        vector.is_some_and(|vector| {
            let fd = [Some(vector.event.as_raw_fd())];
            matches!(poll::readable(fd, Some(Duration::ZERO)), Ok([true]))
        })
    }

    /// Forgets what has been asked for and not been delivered.
    pub fn forget_pending(&self) {
        for vector in self.vectors.iter().filter(|vector| !vector.connected) {
            // It is empty if there is nothing.
            let _ = vector.event.read();
        }
    }

    /// Connects vector `index` if it may interrupt, and otherwise disconnects it. Its message may
    /// have `changed`.
    fn connect(&mut self, index: usize, changed: bool) {
        let vector = &mut self.vectors[index];
        let wanted = self.active && !vector.masked;
        let mut result = Ok(());
        if wanted && (changed || !vector.connected) {
            result = self
                .backend
                .set_message(vector.gsi, vector.address, vector.data);
        }
        if wanted && !vector.connected && result.is_ok() {
            result = self.backend.connect_interrupt(&vector.event, vector.gsi);
            vector.connected = result.is_ok();
        } else if !wanted && vector.connected {
            self.backend.disconnect_interrupt(&vector.event, vector.gsi);
            vector.connected = false;
        }
        if let (Err(error), false) = (result, self.complained) {
            self.complained = true;
            let (address, data) = (vector.address, vector.data);
            eprintln!(
                "minivmm: the guest's message {data:#x} to {address:#x} cannot be an interrupt: \
                 {error}"
            );
        }
    }
}

impl Drop for Msix {
    fn drop(&mut self) {
        self.set_control(0);
    }
}
