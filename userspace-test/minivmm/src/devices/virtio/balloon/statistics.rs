// SPDX-License-Identifier: GPL-2.0

//! What the guest says of its memory (virtio 1.2, 5.5.6.3): its driver leaves a buffer with the
//! device, and fills it anew each time the device has used it.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

use crate::devices::virtio::{Chain, QueueError, WorkQueue};

/// How often the guest is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of one statistic: its tag, 16 bits, and its value.
const ENTRY: usize = 10;
/// Statistics in a buffer at most; a driver has fewer.
const ENTRIES: usize = 64;
/// By their tags.
const NAMES: [&str; 16] = [
    "swapped in, bytes",
    "swapped out, bytes",
    "major faults",
    "minor faults",
    "free, bytes",
    "all, bytes",
    "available, bytes",
    "caches, bytes",
    "huge pages allocated",
    "huge pages not allocated",
    "processes killed for want of memory",
    "allocations stalled",
    "pages scanned in the background",
    "pages scanned for an allocation",
    "pages reclaimed in the background",
    "pages reclaimed for an allocation",
];

/// What the guest has last said.
#[derive(Clone, Default)]
pub struct Statistics(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    values: [Option<u64>; NAMES.len()],
    /// Bytes the balloon has.
    taken: u64,
}

impl Statistics {
    /// Names and values of what the guest has said; empty if that is nothing.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        let said = self.said();
        let values = NAMES.iter().zip(said.values);
        let mut list: Vec<_> = values
            .filter_map(|(name, value)| Some((*name, value?)))
            .collect();
        if !list.is_empty() {
            list.push(("in the balloon, bytes", said.taken));
        }
        list
    }

    pub(super) fn set_taken(&self, bytes: u64) {
        self.said().taken = bytes;
    }

    fn set(&self, entry: &[u8; ENTRY]) {
        let (tag, value) = entry.split_at(2);
        let tag = u16::from_le_bytes(tag.try_into().expect("2 bytes"));
        let value = u64::from_le_bytes(value.try_into().expect("8 bytes"));
        // Some drivers know of more.
        if let Some(place) = self.said().values.get_mut(usize::from(tag)) {
            *place = Some(value);
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().expect("a thread of minivmm has panicked")
    }
}

/// The queue, and when to ask next.
pub struct Asking {
    pub(super) queue: WorkQueue,
    pub(super) timer: TimerFd,
    statistics: Statistics,
    /// The buffer that the driver has left.
    buffer: Option<u16>,
}

impl Asking {
    /// Asks by `queue`.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a timer.
    pub fn new(queue: WorkQueue, statistics: Statistics) -> io::Result<Self> {
        let mut timer = TimerFd::new().map_err(io::Error::from)?;
        timer
            .reset(INTERVAL, Some(INTERVAL))
            .map_err(io::Error::from)?;
        Ok(Self {
            queue,
            timer,
            statistics,
            buffer: None,
        })
    }

    /// The driver has filled a buffer.
    ///
    /// # Errors
    ///
    /// A queue that makes no sense.
    pub fn take(&mut self) -> Result<(), QueueError> {
        self.queue.clear_doorbell();
        // One buffer is left with the device. A driver that has more gets the older ones back.
        while let Some(chain) = self.next()? {
            read(&chain, &self.statistics)?;
            if let Some(before) = self.buffer.replace(chain.head()) {
                self.queue.finish(before, 0)?;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Chain>, QueueError> {
        match self.queue.next()? {
            None if self.queue.want_doorbell(true)? => self.queue.next(),
            chain => Ok(chain),
        }
    }

    /// Asks anew: it is time.
    ///
    /// # Errors
    ///
    /// A queue that makes no sense.
    pub fn ask(&mut self) -> Result<(), QueueError> {
        // It has expired, so this does not wait; how often does not matter.
        let _ = self.timer.wait();
        if let Some(buffer) = self.buffer.take() {
            self.queue.finish(buffer, 0)?;
            self.queue.notify()?;
        }
        Ok(())
    }
}

fn read(chain: &Chain, statistics: &Statistics) -> Result<(), QueueError> {
    let mut reader = chain.reader()?;
    for _ in 0..ENTRIES {
        if reader.available_bytes() < ENTRY {
            break;
        }
        let mut entry = [0; ENTRY];
        reader
            .read_exact(&mut entry)
            .map_err(|_| QueueError::Request("its statistics cannot be read"))?;
        statistics.set(&entry);
    }
    Ok(())
}
