// SPDX-License-Identifier: GPL-2.0

//! A queue as a device works on it: rust-vmm's virtio-queue with the memory, the doorbell and the
//! interrupt that belong to it.

use std::sync::Arc;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::{GuestMemory, GuestMemoryMmap, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::Interrupt;

/// What in a queue makes no sense. The device cannot go on with it.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The rings, or a descriptor chain.
    #[error("the driver's queue is broken: {0}")]
    Queue(#[from] virtio_queue::Error),
    /// A request lacks what every one has.
    #[error("the driver's request is broken: {0}")]
    Request(&'static str),
    /// The host fails the device.
    #[error("{what}: {source}")]
    Host {
        /// What it fails to do.
        what: String,
        /// What it says.
        source: std::io::Error,
    },
}

/// The buffers of a chain.
#[derive(Default)]
pub struct Buffers<'a> {
    /// For the device to read.
    pub readable: Vec<VolatileSlice<'a>>,
    /// For the device to write.
    pub writable: Vec<VolatileSlice<'a>>,
}

/// A descriptor chain: buffers the driver has made available together.
pub struct Chain {
    chain: DescriptorChain<Arc<GuestMemoryMmap>>,
    memory: Arc<GuestMemoryMmap>,
}

impl Chain {
    /// What the driver has put into it: the buffers the device reads.
    ///
    /// # Errors
    ///
    /// Descriptors that are none, or that point to where there is no memory.
    pub fn reader(&self) -> Result<Reader<'_>, QueueError> {
        Ok(self.chain.clone().reader(&self.memory)?)
    }

    /// Room for what the driver is to get: the buffers the device writes.
    ///
    /// # Errors
    ///
    /// As [`Self::reader`].
    pub fn writer(&self) -> Result<Writer<'_>, QueueError> {
        Ok(self.chain.clone().writer(&self.memory)?)
    }

    /// Its buffers as they lie in guest memory.
    ///
    /// # Errors
    ///
    /// A buffer where there is no memory, or one for the device to read after one for it to write.
    pub fn buffers(&self) -> Result<Buffers<'_>, QueueError> {
        let mut buffers = Buffers::default();
        for descriptor in self.chain.clone() {
            let list = if descriptor.is_write_only() {
                &mut buffers.writable
            } else if buffers.writable.is_empty() {
                &mut buffers.readable
            } else {
                return Err(QueueError::Request(
                    "what is to be read comes after what is written",
                ));
            };
            let length = descriptor.len() as usize;
            if length > 0 {
                let slice = self.memory.get_slice(descriptor.addr(), length);
                list.push(slice.map_err(virtio_queue::Error::GuestMemory)?);
            }
        }
        Ok(buffers)
    }

    /// Which it is, for [`WorkQueue::finish`].
    pub fn head(&self) -> u16 {
        self.chain.head_index()
    }
}

/// A queue that the driver has enabled.
pub struct WorkQueue {
    index: u16,
    queue: Queue,
    memory: Arc<GuestMemoryMmap>,
    doorbell: EventFd,
    interrupt: Interrupt,
}

impl WorkQueue {
    /// Queue `index`, valid in `memory`.
    pub(super) fn new(
        index: u16,
        queue: Queue,
        memory: Arc<GuestMemoryMmap>,
        doorbell: EventFd,
        interrupt: Interrupt,
    ) -> Self {
        Self {
            index,
            queue,
            memory,
            doorbell,
            interrupt,
        }
    }

    /// Which of the device's queues it is.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Readable when the driver has rung: it has made buffers available.
    pub fn doorbell(&self) -> &EventFd {
        &self.doorbell
    }

    /// Where the rings are and how long they are, for those who work on them elsewhere.
    pub fn rings(&self) -> &Queue {
        &self.queue
    }

    /// Takes back that the driver has rung.
    pub fn clear_doorbell(&self) {
        // It is empty if nobody has.
        let _ = self.doorbell.read();
    }

    /// The next chain the driver has made available; none if there is none.
    ///
    /// # Errors
    ///
    /// An available ring that is further ahead than it is long, or outside of memory.
    pub fn next(&mut self) -> Result<Option<Chain>, QueueError> {
        let memory = Arc::clone(&self.memory);
        let chain = self.queue.iter(Arc::clone(&memory))?.next();
        Ok(chain.map(|chain| Chain { chain, memory }))
    }

    /// Puts the chain that [`Self::next`] has just given back.
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back to the driver, with `written` bytes of it filled.
    ///
    /// # Errors
    ///
    /// A used ring outside of memory.
    pub fn finish(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        Ok(self.queue.add_used(&*self.memory, head, written)?)
    }

    /// Interrupts the guest for what was finished, if its driver wants to know.
    ///
    /// # Errors
    ///
    /// Rings outside of memory.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        if self.queue.needs_notification(&*self.memory)? {
            self.interrupt.queue(self.index);
        }
        Ok(())
    }

    /// Whether the driver is to ring. When it is to again, says whether it has made something
    /// available meanwhile, for which it has not rung.
    ///
    /// # Errors
    ///
    /// Rings outside of memory.
    pub fn want_doorbell(&mut self, wanted: bool) -> Result<bool, QueueError> {
        if wanted {
            Ok(self.queue.enable_notification(&*self.memory)?)
        } else {
            self.queue.disable_notification(&*self.memory)?;
            Ok(false)
        }
    }

    /// Works off what the driver has made available: `work` says how many bytes of a chain it
    /// has filled. A driver that always has more does not keep it for ever: after as many chains
    /// as the queue is long, the doorbell rings again and this returns.
    ///
    /// # Errors
    ///
    /// What `work` fails with, or rings that make no sense.
    pub fn serve(
        &mut self,
        mut work: impl FnMut(&Chain) -> Result<u32, QueueError>,
    ) -> Result<(), QueueError> {
        self.clear_doorbell();
        let mut left = self.queue.size().saturating_add(1);
        loop {
            // A round counts too, or a ring that cannot be read would be looked at for ever.
            left = left.saturating_sub(1);
            self.want_doorbell(false)?;
            let mut finished = false;
            while left > 0 {
                let Some(chain) = self.next()? else { break };
                let written = work(&chain)?;
                self.finish(chain.head(), written)?;
                finished = true;
                left -= 1;
            }
            if finished {
                self.notify()?;
            }
            if !self.want_doorbell(true)? {
                return Ok(());
            }
            if left == 0 {
                // It cannot be full: it was emptied above.
                let _ = self.doorbell.write(1);
                return Ok(());
            }
        }
    }
}
