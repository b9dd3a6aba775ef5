// SPDX-License-Identifier: GPL-2.0

//! How a device interrupts the guest, from any thread and without a lock.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::driver::Status;

/// Bits of the interrupt status: buffers of a queue were used; the configuration has changed.
const USED_BUFFER: u32 = 1 << 0;
const CONFIGURATION: u32 = 1 << 1;

/// How the interrupts of a device get into the guest.
pub(super) trait Route: Send + Sync {
    /// Buffers of queue `index` were used.
    fn queue(&self, index: u16);
    /// The configuration space has changed, or the status has.
    fn config(&self);
    /// What to write to instead of [`Self::queue`], if that is all it takes.
    fn queue_event(&self, index: u16) -> Option<EventFd>;
}

/// A device's interrupts. Clones are of the same device.
#[derive(Clone)]
pub struct Interrupt {
    pub(super) route: Arc<dyn Route>,
    pub(super) status: Arc<Status>,
}

impl Interrupt {
    /// Tells the driver that buffers of queue `index` were used. Whether it wants to know
    /// [`super::WorkQueue::notify`] finds out.
    pub fn queue(&self, index: u16) {
        self.route.queue(index);
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&self) {
        self.status.config_changed();
        self.route.config();
    }

    /// Tells the driver that the device cannot go on: what it found in its queues makes no sense.
    pub fn needs_reset(&self) {
        self.status.set_needs_reset();
        self.config_changed();
    }

    /// An eventfd that interrupts for queue `index`, for those who work on a queue in the kernel.
    /// There may be none, and then they have to write to one of their own that somebody reads.
    pub fn queue_event(&self, index: u16) -> Option<EventFd> {
        self.route.queue_event(index)
    }
}

/// What all [`Line`]s that are not KVM's alone ring, for the thread that waits for events: the
/// board is to look at them.
#[derive(Clone)]
pub struct Lines(Arc<EventFd>);

impl Lines {
    /// Lines that nothing has happened on.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(EventFd::new(EFD_NONBLOCK)?)))
    }

    /// Readable when something has happened.
    pub fn event(&self) -> &EventFd {
        &self.0
    }

    /// Takes back that something has happened: the caller looks at all lines now.
    pub fn clear(&self) {
        // It is empty if somebody else has looked.
        let _ = self.0.read();
    }

    fn ring(&self) {
        // Full only after 2^64 - 2 of these that nobody looked at, and then it is readable.
        let _ = self.0.write(1);
    }
}

/// An interrupt status register, and the interrupt line that follows it.
pub struct Line {
    status: AtomicU32,
    /// There was an edge that has not been carried out.
    edge: AtomicBool,
    wire: Wire,
}

/// Who is told of what happens to a line.
enum Wire {
    /// KVM: an edge each time.
    Irqfd(EventFd),
    /// The board.
    Board(Lines),
}

impl Line {
    /// A line whose edges KVM makes: `event` is connected to it.
    pub fn irqfd(event: EventFd) -> Self {
        Self::new(Wire::Irqfd(event))
    }

    /// A line the board moves.
    pub fn board(lines: Lines) -> Self {
        Self::new(Wire::Board(lines))
    }

    fn new(wire: Wire) -> Self {
        Self {
            status: AtomicU32::new(0),
            edge: AtomicBool::new(false),
            wire,
        }
    }

    /// The interrupt status.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    /// The interrupt status, which is empty after this.
    pub fn take_status(&self) -> u32 {
        self.status.swap(0, Ordering::SeqCst)
    }

    /// Takes bits out of the interrupt status.
    pub fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Whether there was an edge since this was last called.
    pub fn take_edge(&self) -> bool {
        self.edge.swap(false, Ordering::SeqCst)
    }

    fn raise(&self, bits: u32) {
        self.status.fetch_or(bits, Ordering::SeqCst);
        match &self.wire {
            Wire::Irqfd(event) => {
                // As above.
                let _ = event.write(1);
            }
            Wire::Board(lines) => {
                self.edge.store(true, Ordering::SeqCst);
                lines.ring();
            }
        }
    }
}

impl Route for Line {
    fn queue(&self, _index: u16) {
        self.raise(USED_BUFFER);
    }

    fn config(&self) {
        self.raise(CONFIGURATION);
    }

    fn queue_event(&self, _index: u16) -> Option<EventFd> {
        // The status has to be set too.
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_collects_until_it_is_acknowledged() {
        let lines = Lines::new().expect("eventfd");
        let line = Line::board(lines.clone());
        assert!(!line.take_edge());
        line.queue(0);
        line.config();
        assert_eq!(line.status(), USED_BUFFER | CONFIGURATION);
        assert_eq!(lines.event().read().expect("rung"), 2);
        assert!(line.take_edge());
        assert!(!line.take_edge());
        line.acknowledge(USED_BUFFER);
        assert_eq!(line.status(), CONFIGURATION);
    }

    #[test]
    fn kvm_gets_each_edge() {
        let event = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let line = Line::irqfd(event.try_clone().expect("clone"));
        line.queue(3);
        line.queue(3);
        assert_eq!(event.read().expect("rung"), 2);
        assert_eq!(line.status(), USED_BUFFER);
    }
}
