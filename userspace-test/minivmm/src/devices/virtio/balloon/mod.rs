// SPDX-License-Identifier: GPL-2.0

//! A balloon (virtio 1.2, 5.5): memory that the guest does without goes back to the host.
//!
//! The guest gives up as many pages as the device asks for, and takes some of them back rather than
//! run out of memory. It also reports memory it does not use for the time being. Either way the
//! host keeps nothing of the pages: the guest finds zeroes when it uses them again.

mod statistics;

use std::io;
use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, VolatileSlice};

use super::worker::{Watch, Work, Worker};
use super::{ids, read_space, Activation, Chain, QueueError, Stopper, VirtioDevice, WorkQueue};
use statistics::Asking;
pub use statistics::Statistics;

/// Features (5.5.3): the guest tells of its memory; pages are taken back rather than run out of
/// memory; unused memory is reported.
const VIRTIO_BALLOON_F_STATS_VQ: u32 = 1;
const VIRTIO_BALLOON_F_DEFLATE_ON_OOM: u32 = 2;
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;
/// The device's page, whatever the guest's is.
const PAGE: u64 = 4096;
const PAGES_IN_MIB: u32 = (1 << 20) / PAGE as u32;
/// The queues: pages given up, pages taken back, statistics, memory not used. A queue of a feature
/// that the driver does not accept has no number, and those behind it move up.
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const QUEUE_SIZES: &[u16] = &[128, 128, 32, 32];
/// What the thread watches besides [`INFLATE`] and [`DEFLATE`].
const REPORTED: usize = 2;
const SAID: usize = 3;
const TIME_TO_ASK: usize = 4;
/// Where the driver writes how many pages it has given up.
const ACTUAL: u64 = 4;
const CONFIG_SIZE: usize = 8;
/// Page numbers looked at together.
const NUMBERS: usize = 1024;

/// The device.
pub struct Balloon {
    /// Where what the guest says of its memory goes, if it is asked.
    statistics: Option<Statistics>,
    config: [u8; CONFIG_SIZE],
    worker: Option<Worker<Queues>>,
}

impl Balloon {
    /// A balloon that asks for `mib` MiB of the guest's memory, and for what it says of it if there
    /// are `statistics`.
    pub fn new(mib: u32, statistics: Option<Statistics>) -> Self {
        let mut config = [0; CONFIG_SIZE];
        let pages = mib.saturating_mul(PAGES_IN_MIB);
        config[..4].copy_from_slice(&pages.to_le_bytes());
        Self {
            statistics,
            config,
            worker: None,
        }
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        ids::VIRTIO_ID_BALLOON
    }

    fn name(&self) -> &str {
        "balloon"
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BALLOON_F_DEFLATE_ON_OOM
            | 1 << VIRTIO_BALLOON_F_REPORTING
            | u64::from(self.statistics.is_some()) << VIRTIO_BALLOON_F_STATS_VQ
    }

    fn queue_sizes(&self) -> &[u16] {
        match self.statistics {
            Some(_) => QUEUE_SIZES,
            None => &QUEUE_SIZES[..QUEUE_SIZES.len() - 1],
        }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_space(&self.config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let (ACTUAL, Ok(pages)) = (offset, <[u8; 4]>::try_from(data)) {
            self.config[ACTUAL as usize..].copy_from_slice(&pages);
            if let Some(statistics) = &self.statistics {
                statistics.set_taken(u64::from(u32::from_le_bytes(pages)) * PAGE);
            }
        }
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let asked = activation.has(VIRTIO_BALLOON_F_STATS_VQ);
        let statistics = self.statistics.clone().filter(|_| asked);
        let asking = statistics.map(|statistics| {
            let queue = activation.take_queue(STATISTICS)?;
            Asking::new(queue, statistics)
        });
        let queues = Queues {
            memory: Arc::clone(&activation.memory),
            queues: [
                Some(activation.take_queue(INFLATE)?),
                Some(activation.take_queue(DEFLATE)?),
                // Not of a driver that does not report.
                activation.take_queue(STATISTICS + usize::from(asked)).ok(),
            ],
            asking: asking.transpose()?,
        };
        self.worker = Some(Worker::start("balloon", queues, activation.interrupt)?);
        Ok(())
    }

    fn stopper(&self) -> Option<Stopper> {
        self.worker.as_ref().and_then(Worker::stopper)
    }

    fn reset(&mut self) {
        self.config[ACTUAL as usize..].fill(0);
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }
}

struct Queues {
    memory: Arc<GuestMemoryMmap>,
    queues: [Option<WorkQueue>; 3],
    asking: Option<Asking>,
}

impl Work for Queues {
    fn watch(&self, watch: &mut Watch) {
        for (token, queue) in self.queues.iter().enumerate() {
            if let Some(queue) = queue {
                watch.readable(queue.doorbell(), token);
            }
        }
        if let Some(asking) = &self.asking {
            watch.readable(asking.queue.doorbell(), SAID);
            watch.readable(&asking.timer, TIME_TO_ASK);
        }
    }

    fn ready(&mut self, token: usize) -> Result<(), QueueError> {
        let Self {
            memory,
            queues,
            asking,
        } = self;
        match (token, asking) {
            (SAID, Some(asking)) => return asking.take(),
            (TIME_TO_ASK, Some(asking)) => return asking.ask(),
            _ => {}
        }
        let Some(queue) = queues.get_mut(token).and_then(Option::as_mut) else {
            return Ok(());
        };
        queue.serve(|chain| {
            match token {
                INFLATE => give_back_pages(memory, chain)?,
                REPORTED => give_back_reported(chain)?,
                // The host finds memory for a page when it is used.
                _ => {}
            }
            Ok(0)
        })
    }
}

/// The pages whose numbers are in a chain, one run of them after the other.
fn give_back_pages(memory: &GuestMemoryMmap, chain: &Chain) -> Result<(), QueueError> {
    let mut reader = chain.reader()?;
    let mut bytes = [0; NUMBERS * 4];
    while reader.available_bytes() >= 4 {
        let count = reader.available_bytes().min(bytes.len()) & !3;
        io::Read::read_exact(&mut reader, &mut bytes[..count])
            .map_err(|_| QueueError::Request("its pages cannot be read"))?;
        let mut numbers: Vec<u64> = bytes[..count]
            .chunks_exact(4)
            .map(|number| u64::from(u32::from_le_bytes(number.try_into().expect("4 bytes"))))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        for run in numbers.chunk_by(|page, next| page + 1 == *next) {
            let bytes = run.len() as u64 * PAGE;
            // What is not memory is nobody's to give up.
            if let Ok(slice) = memory.get_slice(GuestAddress(run[0] * PAGE), bytes as usize) {
                give_back(&slice);
            }
        }
    }
    Ok(())
}

/// The memory that a chain is made of.
fn give_back_reported(chain: &Chain) -> Result<(), QueueError> {
    chain.buffers()?.writable.iter().for_each(give_back);
    Ok(())
}

/// Gives the whole pages of `slice` back to the host.
fn give_back(slice: &VolatileSlice<'_>) {
    let guard = slice.ptr_guard_mut();
    let start = guard.as_ptr();
    let skip = start.align_offset(PAGE as usize);
    let length = guard.len().saturating_sub(skip) & !(PAGE as usize - 1);
    if length > 0 {
        // SAFETY: the range is within guest memory, mapped for as long as `guard` is there, and
        // nothing of it is a Rust object. Where the host keeps it, nothing is lost.
        unsafe { libc::madvise(start.wrapping_add(skip).cast(), length, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::rig::{Buffer, Rig, MEMORY};
    use vm_memory::Bytes;

    /// Without statistics.
    const REPORT: usize = 2;
    const PAGE_A: u64 = 0x30_0000;

    fn filled() -> Rig {
        let rig = Rig::new(Box::new(Balloon::new(2, None)));
        for page in 0..4 {
            let at = GuestAddress(PAGE_A + page * PAGE);
            rig.memory
                .write_slice(&[0xaa; PAGE as usize], at)
                .expect("memory");
        }
        rig
    }

    fn bytes_at(rig: &Rig, address: u64) -> u8 {
        rig.memory.read_obj(GuestAddress(address)).expect("memory")
    }

    #[test]
    fn pages_given_up_are_the_host_s() {
        let mut rig = filled();
        rig.start(0);
        // In no order, one twice, and one that is no memory.
        let pages = [
            PAGE_A / PAGE + 1,
            PAGE_A / PAGE,
            PAGE_A / PAGE + 1,
            u64::from(u32::MAX),
        ];
        let numbers: Vec<u8> = pages
            .iter()
            .flat_map(|page| (*page as u32).to_le_bytes())
            .collect();
        rig.request(INFLATE as u16, &[Buffer::Out(&numbers)]);
        assert_eq!(bytes_at(&rig, PAGE_A), 0);
        assert_eq!(bytes_at(&rig, PAGE_A + PAGE), 0);
        assert_eq!(bytes_at(&rig, PAGE_A + 2 * PAGE), 0xaa);
        rig.request(DEFLATE as u16, &[Buffer::Out(&numbers)]);
        assert_eq!(bytes_at(&rig, PAGE_A + 2 * PAGE), 0xaa);
        assert!(!rig.needs_reset());
    }

    #[test]
    fn only_whole_pages_that_are_reported_are_given_back() {
        let mut rig = filled();
        rig.start(1 << VIRTIO_BALLOON_F_REPORTING);
        rig.give_at(REPORT as u16, PAGE_A + 1, 2 * PAGE as u32);
        rig.wait(REPORT as u16);
        assert_eq!(bytes_at(&rig, PAGE_A), 0xaa);
        assert_eq!(bytes_at(&rig, PAGE_A + PAGE), 0);
        assert_eq!(bytes_at(&rig, PAGE_A + 2 * PAGE), 0xaa);
    }

    #[test]
    fn memory_that_is_not_there_needs_a_reset() {
        let mut rig = filled();
        rig.start(1 << VIRTIO_BALLOON_F_REPORTING);
        rig.give_at(REPORT as u16, MEMORY as u64 - PAGE, 2 * PAGE as u32);
        rig.interrupted();
        assert!(rig.needs_reset());
    }

    #[test]
    fn the_guest_tells_of_its_memory_whenever_it_is_asked() {
        let statistics = Statistics::default();
        let mut rig = Rig::new(Box::new(Balloon::new(2, Some(statistics.clone()))));
        rig.start(1 << VIRTIO_BALLOON_F_STATS_VQ | 1 << VIRTIO_BALLOON_F_REPORTING);
        assert!(statistics.list().is_empty());
        let tell = |rig: &mut Rig, free: u64| {
            let entries: Vec<u8> = [(4u16, free), (5, 1 << 30), (0x1234, 1), (9, 0)]
                .into_iter()
                .flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat())
                .collect();
            // Comes back when the device asks again.
            rig.request(STATISTICS as u16, &[Buffer::Out(&entries[..35])]);
        };
        rig.driver.write_config(ACTUAL, &3u32.to_le_bytes());
        let list = |free| {
            vec![
                ("free, bytes", free),
                ("all, bytes", 1 << 30),
                ("in the balloon, bytes", 3 * PAGE),
            ]
        };
        tell(&mut rig, 1000);
        assert_eq!(statistics.list(), list(1000));
        tell(&mut rig, 500);
        assert_eq!(statistics.list(), list(500));
        // The queue behind it is still the one for reports.
        rig.give_at(STATISTICS as u16 + 1, PAGE_A, PAGE as u32);
        rig.wait(STATISTICS as u16 + 1);
    }

    #[test]
    fn a_driver_that_tells_nothing_has_no_queue_for_it() {
        let mut rig = Rig::new(Box::new(Balloon::new(2, Some(Statistics::default()))));
        rig.start(1 << VIRTIO_BALLOON_F_REPORTING);
        rig.give_at(REPORT as u16, PAGE_A, PAGE as u32);
        rig.wait(REPORT as u16);
    }

    #[test]
    fn the_device_asks_and_the_driver_answers() {
        let mut rig = filled();
        let mut config = [0; 8];
        rig.driver.write_config(0, &[1; 4]);
        rig.driver.write_config(ACTUAL, &7u32.to_le_bytes());
        rig.driver.read_config(0, &mut config);
        assert_eq!(config, [0, 2, 0, 0, 7, 0, 0, 0]);
    }
}
