// SPDX-License-Identifier: GPL-2.0

//! What a driver negotiates with a device, on any transport: status, features, queues (virtio 1.2,
//! chapter 3).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::interrupt::Route;
use super::{Activation, Interrupt, Stopper, VirtioDevice, WorkQueue};

const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
/// Features of every device: no legacy interface, and what the rings can do.
const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// What a device's thread changes of what its driver reads.
#[derive(Default)]
pub struct Status {
    needs_reset: AtomicBool,
    generation: AtomicU32,
}

impl Status {
    /// The device cannot go on.
    pub fn set_needs_reset(&self) {
        self.needs_reset.store(true, Ordering::SeqCst);
    }

    /// Whether the device cannot go on.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::SeqCst)
    }

    /// The configuration space is another one.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }
}

/// A queue as the driver has set it up.
pub struct QueueSetup {
    /// Entries at most.
    pub max_size: u16,
    /// Entries.
    pub size: u16,
    /// Whether the driver has enabled it.
    pub ready: bool,
    /// Guest-physical addresses of its three parts.
    pub descriptors: u64,
    /// As above.
    pub available: u64,
    /// As above.
    pub used: u64,
    /// What the driver's doorbell writes to.
    pub doorbell: EventFd,
}

impl QueueSetup {
    fn new(max_size: u16) -> io::Result<Self> {
        Ok(Self {
            max_size,
            size: max_size,
            ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
            doorbell: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    fn reset(&mut self) {
        self.size = self.max_size;
        self.ready = false;
        (self.descriptors, self.available, self.used) = (0, 0, 0);
        // It is empty if it was not rung.
        let _ = self.doorbell.read();
    }

    /// Writes one half of an address, the one 32 bits from bit `shift` on.
    pub fn set_half(address: &mut u64, shift: u32, value: u32) {
        *address = *address & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }

    fn queue(&self, memory: &GuestMemoryMmap, event_idx: bool) -> Option<Queue> {
        let mut queue = Queue::new(self.max_size).ok()?;
        queue.try_set_size(self.size).ok()?;
        let [descriptors, available, used] =
            [self.descriptors, self.available, self.used].map(GuestAddress);
        queue.try_set_desc_table_address(descriptors).ok()?;
        queue.try_set_avail_ring_address(available).ok()?;
        queue.try_set_used_ring_address(used).ok()?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        queue.is_valid(memory).then_some(queue)
    }
}

/// A device, and how far its driver has come with it.
pub struct Driver {
    device: Box<dyn VirtioDevice>,
    memory: Arc<GuestMemoryMmap>,
    route: Arc<dyn Route>,
    shared: Arc<Status>,
    status: u8,
    accepted: u64,
    active: bool,
    queues: Vec<QueueSetup>,
    stopping: Option<Stopping>,
}

/// A reset that waits for the device's thread to end.
struct Stopping {
    stopper: Stopper,
    /// Somebody waits.
    taken: bool,
}

impl Driver {
    /// A device that no driver has found yet. Its interrupts go by `route`.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: &Arc<GuestMemoryMmap>,
        route: Arc<dyn Route>,
    ) -> io::Result<Self> {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|size| QueueSetup::new(*size))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            device,
            memory: Arc::clone(memory),
            route,
            shared: Arc::default(),
            status: 0,
            accepted: 0,
            active: false,
            queues,
            stopping: None,
        })
    }

    /// The device's type.
    pub fn device_type(&self) -> u32 {
        self.device.device_type()
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        if self.shared.needs_reset() {
            self.status | NEEDS_RESET
        } else {
            self.status
        }
    }

    /// The driver has written the device status. It can only set bits, or clear them all, which is
    /// a reset. Where that waits for the device's thread, somebody has to [`Self::take_stopper`] and
    /// to [`Self::finish_reset`]; until then the status stays what it was.
    pub fn set_status(&mut self, value: u8) {
        if self.stopping.is_some() {
            return;
        }
        if value == 0 {
            match self.device.stopper() {
                Some(stopper) => {
                    let taken = false;
                    self.stopping = Some(Stopping { stopper, taken });
                }
                None => self.reset(),
            }
            return;
        }
        let mut new = value & !self.status & !NEEDS_RESET;
        if new & FEATURES_OK != 0 && !self.features_fit() {
            new &= !FEATURES_OK;
        }
        self.status |= new;
        if new & DRIVER_OK != 0 && self.status & FEATURES_OK != 0 && !self.active {
            self.activate();
        }
    }

    /// Whether a reset waits for the device's thread.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// What a reset waits for: once for each.
    pub fn take_stopper(&mut self) -> Option<Stopper> {
        let stopping = self.stopping.as_mut().filter(|stopping| !stopping.taken)?;
        stopping.taken = true;
        Some(stopping.stopper.clone())
    }

    /// Finishes a reset whose wait is over. False if there is none.
    pub fn finish_reset(&mut self) -> bool {
        let stopping = self.stopping.take_if(|stopping| stopping.stopper.is_over());
        let finished = stopping.is_some();
        if finished {
            self.reset();
        }
        finished
    }

    fn features_fit(&self) -> bool {
        self.accepted & !self.offered() == 0 && self.accepted & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn offered(&self) -> u64 {
        self.device.features() | RING_FEATURES
    }

    /// The features offered: bits 0 to 31 for `select` 0, 32 to 63 for 1, and no others.
    pub fn offered_half(&self, select: u32) -> u32 {
        half(self.offered(), select)
    }

    /// The features the driver accepts, by halves as above.
    pub fn accepted_half(&self, select: u32) -> u32 {
        half(self.accepted, select)
    }

    /// The driver accepts features, by halves as above. Not any more after FEATURES_OK.
    pub fn accept_half(&mut self, select: u32, value: u32) {
        if self.status & FEATURES_OK == 0 && select < 2 {
            QueueSetup::set_half(&mut self.accepted, select * 32, value);
        }
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Queue `index`, if there is one.
    pub fn queue(&self, index: u16) -> Option<&QueueSetup> {
        self.queues.get(usize::from(index))
    }

    /// Queue `index` to set up, if there is one and it is not enabled.
    pub fn queue_to_set_up(&mut self, index: u16) -> Option<&mut QueueSetup> {
        let queue = self.queues.get_mut(usize::from(index))?;
        (!queue.ready).then_some(queue)
    }

    /// Enables queue `index`, or takes that back.
    pub fn set_queue_ready(&mut self, index: u16, ready: bool) {
        if let Some(queue) = self.queues.get_mut(usize::from(index)) {
            queue.ready = ready;
        }
    }

    /// The driver has rung for queue `index`, and KVM has not seen it.
    pub fn ring(&self, index: u16) {
        if let Some(queue) = self.queue(index) {
            // Full only after 2^64 - 2 of these that nobody looked at.
            let _ = queue.doorbell.write(1);
        }
    }

    /// Changes each time the configuration space does.
    pub fn generation(&self) -> u32 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    /// A load from the configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.device.read_config(offset, data);
    }

    /// A store to the configuration space.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.device.write_config(offset, data);
    }

    fn activate(&mut self) {
        self.active = true;
        let interrupt = Interrupt {
            route: Arc::clone(&self.route),
            status: Arc::clone(&self.shared),
        };
        let result = self.work_queues(&interrupt).and_then(|queues| {
            self.device.activate(Activation {
                memory: Arc::clone(&self.memory),
                features: self.accepted,
                queues,
                interrupt: interrupt.clone(),
            })
        });
        if let Err(error) = result {
            let name = self.device.name();
            eprintln!("minivmm: {name}: the device cannot be started: {error}");
            interrupt.needs_reset();
        }
    }

    fn work_queues(&self, interrupt: &Interrupt) -> io::Result<Vec<Option<WorkQueue>>> {
        let event_idx = self.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        (0..)
            .zip(&self.queues)
            .map(|(index, setup)| {
                if !setup.ready {
                    return Ok(None);
                }
                let queue = setup.queue(&self.memory, event_idx).ok_or_else(|| {
                    io::Error::other(format!(
                        "its driver has put queue {index} where it cannot be"
                    ))
                })?;
                let doorbell = setup.doorbell.try_clone()?;
                let memory = Arc::clone(&self.memory);
                let queue = WorkQueue::new(index, queue, memory, doorbell, interrupt.clone());
                Ok(Some(queue))
            })
            .collect()
    }

    fn reset(&mut self) {
        self.device.reset();
        self.active = false;
        self.status = 0;
        self.accepted = 0;
        self.queues.iter_mut().for_each(QueueSetup::reset);
        // No thread of the device's is left that could set it.
        self.shared.needs_reset.store(false, Ordering::SeqCst);
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.device.reset();
    }
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}
