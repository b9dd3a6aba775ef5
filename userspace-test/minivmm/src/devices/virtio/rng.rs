// SPDX-License-Identifier: GPL-2.0

//! Entropy (virtio 1.2, 5.4): the host's random numbers for the guest.

use std::io;

use super::worker::{Watch, Work, Worker};
use super::{ids, Activation, Interrupt, QueueError, Stopper, VirtioDevice, WorkQueue};

const QUEUE_SIZES: &[u16] = &[64];
/// Bytes given for one request at most: who wants more asks again.
const LIMIT: usize = 4096;

/// The device.
#[derive(Default)]
pub struct Rng {
    worker: Option<Worker<Requests>>,
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        ids::VIRTIO_ID_RNG
    }

    fn name(&self) -> &str {
        "rng"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let requests = Requests {
            queue: activation.take_queue(0)?,
        };
        let interrupt: Interrupt = activation.interrupt;
        self.worker = Some(Worker::start(self.name(), requests, interrupt)?);
        Ok(())
    }

    fn stopper(&self) -> Option<Stopper> {
        self.worker.as_ref().and_then(Worker::stopper)
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
    }
}

struct Requests {
    queue: WorkQueue,
}

impl Work for Requests {
    fn watch(&self, watch: &mut Watch) {
        watch.readable(self.queue.doorbell(), 0);
    }

    fn ready(&mut self, _token: usize) -> Result<(), QueueError> {
        self.queue.serve(|chain| {
            let mut writer = chain.writer()?;
            let mut bytes = vec![0; writer.available_bytes().min(LIMIT)];
            fill(&mut bytes).map_err(host)?;
            io::Write::write_all(&mut writer, &bytes).map_err(host)?;
            Ok(bytes.len() as u32)
        })
    }
}

fn host(source: io::Error) -> QueueError {
    QueueError::Host {
        what: "cannot get random numbers".into(),
        source,
    }
}

/// Fills `bytes` by getrandom(2).
fn fill(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and the length are those of a slice that is to be filled.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => bytes = &mut bytes[count..],
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::rig::{Buffer, Rig};

    #[test]
    fn each_request_gets_other_bytes() {
        let mut rig = Rig::new(Box::new(Rng::default()));
        rig.start(0);
        let (written, first) = rig.request(0, &[Buffer::In(32)]);
        assert_eq!(written, 32);
        let (_, second) = rig.request(0, &[Buffer::In(32)]);
        assert_ne!(first, second);
    }

    #[test]
    fn a_request_has_a_limit_and_needs_room() {
        let mut rig = Rig::new(Box::new(Rng::default()));
        rig.start(0);
        assert_eq!(rig.request(0, &[Buffer::In(LIMIT + 1)]).0, LIMIT as u32);
        assert_eq!(rig.request(0, &[Buffer::Out(b"nothing to fill")]).0, 0);
    }
}
