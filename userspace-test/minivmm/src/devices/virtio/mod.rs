// SPDX-License-Identifier: GPL-2.0

//! Virtio devices (virtio 1.2).
//!
//! A device is one type that implements [`VirtioDevice`] and knows neither of its transport nor of
//! KVM. What the driver negotiates with it is the same on every transport ([`driver`]); a transport
//! ([`mmio`]) puts that into registers, carries the driver's doorbells to the queues by ioeventfd
//! and the device's interrupts to the guest ([`Interrupt`]).
//!
//! | | runs on | may wait |
//! | --- | --- | --- |
//! | registers: features, queues, configuration space, activation | the vCPU that writes them, with the board locked | no |
//! | reset | the vCPU that asks for it: it waits for the device's thread by a [`Stopper`], the board not locked, and then takes the device's state back | for the thread |
//! | queues | the device's own thread ([`worker`]), from activation to reset | yes |

pub mod backend;
pub mod balloon;
pub mod block;
pub mod console;
mod driver;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod interrupt;
pub mod mmio;
pub mod net;
pub mod pci;
mod queue;
#[cfg(test)]
mod rig;
mod rng;
pub mod vsock;
pub mod worker;

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;

pub use balloon::Balloon;
pub use block::Block;
pub use console::Console;
pub use interrupt::{Interrupt, Line, Lines};
pub use mmio::{Lineage, MmioBus};
pub use pci::VirtioPci;
pub use queue::{Chain, QueueError, WorkQueue};
pub use rng::Rng;
pub use worker::Stopper;

/// Device types (virtio 1.2, chapter 5).
pub use virtio_bindings::virtio_ids as ids;

/// A device of the guest's.
///
/// Every function is called with the board locked, and none waits.
pub trait VirtioDevice: Send {
    /// Its type: one of [`ids`].
    fn device_type(&self) -> u32;

    /// What to call it in a message to a person.
    fn name(&self) -> &str;

    /// The features it offers, without those of the transport and the rings (bits 24 to 40), which
    /// are offered for it.
    fn features(&self) -> u64;

    /// How many entries each of its queues has at most: powers of two.
    fn queue_sizes(&self) -> &[u16];

    /// Fills `data` from the configuration space at `offset`. What lies past its end reads as zero:
    /// `data` is zeroed before.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Stores `data` in the configuration space at `offset`; what cannot be written stays as it is.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready: begins to work on the queues, usually by starting a [`worker::Worker`].
    /// The device has not been activated since it was made or reset.
    ///
    /// # Errors
    ///
    /// What keeps it from working. The driver is told that the device needs a reset.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// What the end of the work on the queues can be waited for with, if there is any and it can
    /// take time. Who waits by it before [`Self::reset`] does not wait in that.
    fn stopper(&self) -> Option<Stopper>;

    /// Ends the work on the queues, if there is any: after this nothing of theirs is touched until
    /// the next activation. Also comes when the machine ends.
    fn reset(&mut self);
}

/// What a device works with from activation to reset.
pub struct Activation {
    /// Guest memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// The features the driver has accepted.
    pub features: u64,
    /// Its queues: each that the driver has enabled, by its number.
    pub queues: Vec<Option<WorkQueue>>,
    /// How to interrupt the guest.
    pub interrupt: Interrupt,
}

impl Activation {
    /// Whether the driver has accepted feature `bit`.
    pub fn has(&self, bit: u32) -> bool {
        self.features & 1 << bit != 0
    }

    /// Takes queue `index`, which the device cannot do without.
    ///
    /// # Errors
    ///
    /// If the driver has not enabled it.
    pub fn take_queue(&mut self, index: usize) -> io::Result<WorkQueue> {
        let queue = self.queues.get_mut(index).and_then(Option::take);
        queue.ok_or_else(|| {
            io::Error::other(format!("the driver has not enabled its queue {index}"))
        })
    }
}

/// Copies the bytes of `space` from `offset` on into `data`, as far as they go: for
/// [`VirtioDevice::read_config`].
pub fn read_space(space: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| space.get(offset..))
        .unwrap_or_default();
    let count = rest.len().min(data.len());
    data[..count].copy_from_slice(&rest[..count]);
}
