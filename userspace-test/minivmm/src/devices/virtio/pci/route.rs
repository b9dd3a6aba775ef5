// SPDX-License-Identifier: GPL-2.0

//! The interrupts of a PCI function: messages, as the driver has given them out, or the line.

use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::devices::virtio::interrupt::Route;
use crate::devices::virtio::Line;

/// The vector of what is to interrupt nobody (virtio 1.2, 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;

/// How the interrupts go.
pub struct PciRoute {
    /// What interrupts by each vector.
    events: Vec<EventFd>,
    uses_messages: AtomicBool,
    /// The vectors of the configuration and of each queue.
    config: AtomicU16,
    queues: Vec<AtomicU16>,
    line: Arc<Line>,
}

impl PciRoute {
    /// Of a function with that many `queues`, a vector for each of `events`, and a `line`.
    pub fn new(queues: u16, events: Vec<EventFd>, line: Arc<Line>) -> Self {
        Self {
            events,
            uses_messages: AtomicBool::new(false),
            config: AtomicU16::new(NO_VECTOR),
            queues: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            line,
        }
    }

    /// Whether interrupts are messages.
    pub fn uses_messages(&self) -> bool {
        self.uses_messages.load(Ordering::SeqCst)
    }

    /// Interrupts are messages, or not.
    pub fn use_messages(&self, messages: bool) {
        self.uses_messages.store(messages, Ordering::SeqCst);
    }

    /// The vector for changes of the configuration.
    pub fn config_vector(&self) -> u16 {
        self.config.load(Ordering::SeqCst)
    }

    /// Sets it, if there is such a vector, and otherwise to none.
    pub fn set_config_vector(&self, vector: u16) {
        self.config.store(self.checked(vector), Ordering::SeqCst);
    }

    /// The vector of queue `index`.
    pub fn queue_vector(&self, index: u16) -> u16 {
        let vector = self.queues.get(usize::from(index));
        vector.map_or(NO_VECTOR, |vector| vector.load(Ordering::SeqCst))
    }

    /// Sets it, if there is such a vector, and otherwise to none.
    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(queue) = self.queues.get(usize::from(index)) {
            queue.store(self.checked(vector), Ordering::SeqCst);
        }
    }

    /// No vector is anybody's.
    pub fn reset(&self) {
        for vector in self.queues.iter().chain([&self.config]) {
            vector.store(NO_VECTOR, Ordering::SeqCst);
        }
    }

    fn checked(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.events.len() {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn event(&self, vector: u16) -> Option<&EventFd> {
        self.events.get(usize::from(vector))
    }

    fn send(&self, vector: u16) {
        if let Some(event) = self.event(vector) {
            // Full only after 2^64 - 2 of these that nobody took.
            let _ = event.write(1);
        }
    }
}

impl Route for PciRoute {
    fn queue(&self, index: u16) {
        if self.uses_messages() {
            self.send(self.queue_vector(index));
        } else {
            self.line.queue(index);
        }
    }

    fn config(&self) {
        if self.uses_messages() {
            self.send(self.config_vector());
        } else {
            self.line.config();
        }
    }

    fn queue_event(&self, index: u16) -> Option<EventFd> {
        if !self.uses_messages() {
            return None;
        }
        self.event(self.queue_vector(index))?.try_clone().ok()
    }
}
