// SPDX-License-Identifier: GPL-2.0

//! The thread that carries frames between the queues and the backend.

use std::io::{Read, Write};

use super::super::worker::{Watch, Work};
use super::super::{Chain, QueueError, WorkQueue};
use super::backend::Backend;
use super::{FRAME, HEADER};

/// Where in the header the number of chains is that the frame was spread over.
const CHAINS: std::ops::Range<usize> = 10..12;
/// Frames carried before the other direction has its turn.
const TURN: usize = 64;

/// What the thread watches.
const RECEIVE_DOORBELL: usize = 1;
const SEND_DOORBELL: usize = 2;
const ARRIVED: usize = 3;
const CAN_SEND: usize = 4;

/// Both directions.
pub struct Frames<B> {
    backend: B,
    receive: WorkQueue,
    send: WorkQueue,
    /// Whether a frame may be spread over several chains.
    mergeable: bool,
    /// The frame that is being carried.
    frame: Box<[u8]>,
    /// Bytes of the frame that has come and waits for the guest to have room.
    waiting: Option<usize>,
    /// More is to be sent than the backend took.
    congested: bool,
}

impl<B: Backend> Frames<B> {
    /// Carries frames between `backend` and the two queues.
    pub fn new(backend: B, receive: WorkQueue, send: WorkQueue, mergeable: bool) -> Self {
        Self {
            backend,
            receive,
            send,
            mergeable,
            frame: vec![0; FRAME].into(),
            waiting: None,
            congested: false,
        }
    }

    /// What it was connected to.
    pub fn into_backend(self) -> B {
        self.backend
    }

    /// Carries what has come to the guest, as far as that has room.
    fn receive_frames(&mut self) -> Result<(), QueueError> {
        let mut carried = 0;
        while carried < TURN {
            let length = match self.waiting.take() {
                Some(length) => length,
                None => match self.backend.receive(&mut self.frame).map_err(lost)? {
                    Some(length) => length,
                    None => break,
                },
            };
            if !self.deliver(length)? {
                self.waiting = Some(length);
                break;
            }
            carried += 1;
        }
        if carried > 0 {
            self.receive.notify()?;
        }
        Ok(())
    }

    /// Puts the frame into chains of the receive queue. False if the driver has not made enough of
    /// them available.
    fn deliver(&mut self, length: usize) -> Result<bool, QueueError> {
        loop {
            if self.deliver_now(length)? {
                return Ok(true);
            }
            if !self.receive.want_doorbell(true)? {
                return Ok(false);
            }
        }
    }

    fn deliver_now(&mut self, length: usize) -> Result<bool, QueueError> {
        let mut chains: Vec<(Chain, usize)> = Vec::new();
        let mut room = 0;
        while room < length {
            let Some(chain) = self.receive.next()? else {
                for _ in &chains {
                    self.receive.put_back();
                }
                return Ok(false);
            };
            let size = chain.writer()?.available_bytes();
            if size < HEADER {
                return Err(QueueError::Request("a buffer has no room for the header"));
            }
            room += size;
            chains.push((chain, size));
            if !self.mergeable {
                break;
            }
        }
        // A driver that cannot have it spread has to have room for all of it; if not, it is lost.
        let fits = room >= length;
        let mut rest = &mut self.frame[..if fits { length } else { 0 }];
        if fits {
            rest[CHAINS].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        }
        for (chain, size) in chains {
            let (part, behind) = rest.split_at_mut(size.min(rest.len()));
            chain
                .writer()?
                .write_all(part)
                .map_err(|_| QueueError::Request("a buffer is not in memory"))?;
            self.receive.finish(chain.head(), part.len() as u32)?;
            rest = behind;
        }
        Ok(true)
    }

    /// Carries what the guest sends to the backend, as long as that takes it.
    fn send_frames(&mut self) -> Result<(), QueueError> {
        self.send.clear_doorbell();
        let mut carried = 0;
        while !self.congested {
            self.send.want_doorbell(false)?;
            let Some(chain) = self.send.next()? else {
                if self.send.want_doorbell(true)? {
                    continue;
                }
                break;
            };
            if self.waiting.is_some() {
                self.send_by(&chain, &mut vec![0; FRAME])?;
            } else {
                let mut frame = std::mem::take(&mut self.frame);
                let sent = self.send_by(&chain, &mut frame);
                self.frame = frame;
                sent?;
            }
            self.send.finish(chain.head(), 0)?;
            carried += 1;
            if carried % TURN == 0 {
                self.flush()?;
            }
            // The other direction has its turn, and the doorbell calls back.
            if carried == 4 * TURN {
                // It cannot be full: it was emptied above.
                let _ = self.send.doorbell().write(1);
                break;
            }
        }
        if carried > 0 {
            self.flush()?;
            self.send.notify()?;
        }
        Ok(())
    }

    fn send_by(&mut self, chain: &Chain, frame: &mut [u8]) -> Result<(), QueueError> {
        let mut reader = chain.reader()?;
        let length = reader.available_bytes();
        if length <= HEADER {
            return Err(QueueError::Request("a frame is shorter than its header"));
        }
        // Longer than any packet: no network carries it.
        let Some(frame) = frame.get_mut(..length) else {
            return Ok(());
        };
        reader
            .read_exact(frame)
            .map_err(|_| QueueError::Request("a buffer is not in memory"))?;
        self.backend.send(frame).map_err(lost)
    }

    fn flush(&mut self) -> Result<(), QueueError> {
        self.congested = !self.backend.flush().map_err(lost)?;
        Ok(())
    }
}

impl<B: Backend> Work for Frames<B> {
    fn watch(&self, watch: &mut Watch) {
        if self.waiting.is_none() {
            watch.readable(&self.backend, ARRIVED);
        } else {
            watch.readable(self.receive.doorbell(), RECEIVE_DOORBELL);
        }
        if self.congested {
            watch.writable(&self.backend, CAN_SEND);
        } else {
            watch.readable(self.send.doorbell(), SEND_DOORBELL);
        }
    }

    fn ready(&mut self, token: usize) -> Result<(), QueueError> {
        match token {
            RECEIVE_DOORBELL => {
                self.receive.clear_doorbell();
                self.receive.want_doorbell(false)?;
                self.receive_frames()
            }
            ARRIVED => self.receive_frames(),
            CAN_SEND => {
                self.flush()?;
                self.send_frames()
            }
            _ => self.send_frames(),
        }
    }
}

fn lost(source: std::io::Error) -> QueueError {
    QueueError::Host {
        what: "the network is gone".into(),
        source,
    }
}
