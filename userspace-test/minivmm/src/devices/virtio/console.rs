// SPDX-License-Identifier: GPL-2.0

//! A console (virtio 1.2, 5.3) with one port, which is connected to what minivmm's user types and
//! sees, as the first serial port is.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::worker::{Watch, Work, Worker};
use super::{ids, read_space, Activation, QueueError, Stopper, VirtioDevice, WorkQueue};

/// Feature (5.3.3): the size of the terminal is in the configuration space.
const VIRTIO_CONSOLE_F_SIZE: u32 = 0;
/// The queues of port 0: what the guest receives, and what it sends.
const RECEIVE: usize = 0;
const SEND: usize = 1;
const QUEUE_SIZES: &[u16] = &[64, 64];
/// Bytes typed ahead of the guest that are kept at most.
const TYPED: usize = 4096;
/// Bytes of what the guest sends that are passed on together.
const CHUNK: usize = 4096;

/// What the thread watches.
const RECEIVE_DOORBELL: usize = 1;
const SEND_DOORBELL: usize = 2;
const INPUT: usize = 3;

/// What is typed, on its way to the guest.
pub struct Input {
    bytes: Mutex<VecDeque<u8>>,
    event: EventFd,
}

impl Input {
    /// Nothing typed.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            bytes: Mutex::default(),
            event: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// How many more bytes [`Self::type_in`] takes.
    pub fn room(&self) -> usize {
        TYPED - self.bytes().len()
    }

    /// Sends bytes to the guest. What exceeds [`Self::room`] is lost.
    pub fn type_in(&self, typed: &[u8]) {
        let mut bytes = self.bytes();
        let taken = typed.len().min(TYPED - bytes.len());
        bytes.extend(&typed[..taken]);
        // Full only after 2^64 - 2 of these that nobody looked at.
        let _ = self.event.write(1);
    }

    fn bytes(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().expect("a thread of minivmm has panicked")
    }
}

/// Where what the guest sends goes. It may wait, but not for ever once the machine is at its end.
pub type Output = dyn Fn(&[u8]) -> io::Result<()> + Send + Sync;

/// Columns and rows of the terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// The device.
pub struct Console {
    input: Arc<Input>,
    output: Arc<Output>,
    size: Option<Size>,
    worker: Option<Worker<Port>>,
}

impl Console {
    /// A console between `input` and `output`, whose `size` the guest is told if there is one.
    pub fn new(input: Arc<Input>, output: Arc<Output>, size: Option<Size>) -> Self {
        Self {
            input,
            output,
            size,
            worker: None,
        }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        ids::VIRTIO_ID_CONSOLE
    }

    fn name(&self) -> &str {
        "console"
    }

    fn features(&self) -> u64 {
        u64::from(self.size.is_some()) << VIRTIO_CONSOLE_F_SIZE
    }

    fn queue_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        if let Some(Size { columns, rows }) = self.size {
            let [[a, b], [c, d]] = [columns.to_le_bytes(), rows.to_le_bytes()];
            read_space(&[a, b, c, d], offset, data);
        }
    }

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let port = Port {
            receive: activation.take_queue(RECEIVE)?,
            send: activation.take_queue(SEND)?,
            input: Arc::clone(&self.input),
            output: Arc::clone(&self.output),
            full: false,
        };
        self.worker = Some(Worker::start(self.name(), port, activation.interrupt)?);
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

/// The port at work.
struct Port {
    receive: WorkQueue,
    send: WorkQueue,
    input: Arc<Input>,
    output: Arc<Output>,
    /// The guest has made no room for what is typed.
    full: bool,
}

impl Port {
    /// Carries what is typed to the guest, as far as that has room.
    fn receive(&mut self) -> Result<(), QueueError> {
        // It is empty if this comes by the doorbell.
        let _ = self.input.event.read();
        let mut bytes = self.input.bytes();
        let mut finished = false;
        while !bytes.is_empty() {
            let Some(chain) = self.receive.next()? else {
                self.full = !self.receive.want_doorbell(true)?;
                if self.full {
                    break;
                }
                continue;
            };
            let mut writer = chain.writer()?;
            let count = bytes.len().min(writer.available_bytes());
            let typed: Vec<u8> = bytes.drain(..count).collect();
            writer
                .write_all(&typed)
                .map_err(|_| QueueError::Request("a buffer is not in memory"))?;
            self.receive.finish(chain.head(), count as u32)?;
            finished = true;
        }
        drop(bytes);
        if finished {
            self.receive.notify()?;
        }
        Ok(())
    }

    fn send(&mut self) -> Result<(), QueueError> {
        let output = Arc::clone(&self.output);
        self.send.serve(|chain| {
            let mut reader = chain.reader()?;
            let mut bytes = [0; CHUNK];
            while reader.available_bytes() > 0 {
                let count = reader.available_bytes().min(CHUNK);
                reader
                    .read_exact(&mut bytes[..count])
                    .map_err(|_| QueueError::Request("a buffer is not in memory"))?;
                output(&bytes[..count]).map_err(|source| QueueError::Host {
                    what: "cannot write what the guest sends".into(),
                    source,
                })?;
            }
            Ok(0)
        })
    }
}

impl Work for Port {
    fn watch(&self, watch: &mut Watch) {
        if self.full {
            watch.readable(self.receive.doorbell(), RECEIVE_DOORBELL);
        } else {
            watch.readable(&self.input.event, INPUT);
        }
        watch.readable(self.send.doorbell(), SEND_DOORBELL);
    }

    fn ready(&mut self, token: usize) -> Result<(), QueueError> {
        match token {
            RECEIVE_DOORBELL => {
                self.receive.clear_doorbell();
                self.receive.want_doorbell(false)?;
                self.full = false;
                self.receive()
            }
            INPUT => self.receive(),
            _ => self.send(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::rig::{Buffer, Rig};

    struct Terminal {
        input: Arc<Input>,
        shown: Arc<Mutex<Vec<u8>>>,
        rig: Rig,
    }

    fn terminal(size: Option<Size>) -> Terminal {
        let input = Arc::new(Input::new().expect("eventfd"));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let output = {
            let shown = Arc::clone(&shown);
            Arc::new(move |bytes: &[u8]| {
                shown.lock().expect("lock").extend(bytes);
                match bytes {
                    b"broken" => Err(io::ErrorKind::BrokenPipe.into()),
                    _ => Ok(()),
                }
            })
        };
        let rig = Rig::new(Box::new(Console::new(Arc::clone(&input), output, size)));
        Terminal { input, shown, rig }
    }

    #[test]
    fn what_the_guest_sends_is_shown() {
        let Terminal { shown, mut rig, .. } = terminal(None);
        rig.start(0);
        rig.request(SEND as u16, &[Buffer::Out(b"login"), Buffer::Out(b": ")]);
        let much = vec![b'x'; 2 * CHUNK + 1];
        rig.request(SEND as u16, &[Buffer::Out(&much)]);
        let shown = shown.lock().expect("lock");
        assert_eq!(shown[..7], *b"login: ");
        assert_eq!(shown[7..], much);
    }

    #[test]
    fn what_is_typed_waits_for_room() {
        let Terminal { input, mut rig, .. } = terminal(None);
        input.type_in(b"root\n");
        rig.start(0);
        let (written, bytes) = rig.request(RECEIVE as u16, &[Buffer::In(3)]);
        assert_eq!((written, &bytes[..]), (3, &b"roo"[..]));
        let (written, bytes) = rig.request(RECEIVE as u16, &[Buffer::In(64)]);
        assert_eq!((written, &bytes[..2]), (2, &b"t\n"[..]));
        // The other way round: the buffer is there before.
        rig.give(RECEIVE as u16, &[Buffer::In(64)]);
        input.type_in(b"ls");
        rig.wait(RECEIVE as u16);
        assert_eq!(input.room(), TYPED);
    }

    #[test]
    fn typing_ahead_has_a_limit() {
        let Terminal { input, .. } = terminal(None);
        input.type_in(&[b'x'; TYPED - 1]);
        assert_eq!(input.room(), 1);
        input.type_in(b"yz");
        assert_eq!(input.room(), 0);
    }

    #[test]
    fn the_guest_is_told_the_size_of_a_terminal() {
        let mut config = [0xff; 4];
        let mut rig = terminal(None).rig;
        assert_eq!(rig.driver.offered_half(0) & 1 << VIRTIO_CONSOLE_F_SIZE, 0);
        rig.driver.read_config(0, &mut config);
        assert_eq!(config, [0; 4]);
        rig = terminal(Some(Size {
            columns: 0x150,
            rows: 50,
        }))
        .rig;
        assert_ne!(rig.driver.offered_half(0) & 1 << VIRTIO_CONSOLE_F_SIZE, 0);
        rig.driver.read_config(0, &mut config);
        assert_eq!(config, [0x50, 1, 50, 0]);
    }

    #[test]
    fn a_reader_that_is_gone_stops_it() {
        let mut rig = terminal(None).rig;
        rig.start(0);
        rig.give(SEND as u16, &[Buffer::Out(b"broken")]);
        rig.interrupted();
        assert!(rig.needs_reset());
    }
}
