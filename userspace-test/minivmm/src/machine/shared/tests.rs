// SPDX-License-Identifier: GPL-2.0

//! The shared state without a KVM.

use std::thread;

use std::io;
use std::sync::mpsc::{channel, Receiver, Sender};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::*;
use crate::devices::irqchip::Irqchip;
use crate::devices::virtio::backend::recorder::Recorder;
use crate::devices::virtio::worker::{Watch, Work, Worker};
use crate::devices::virtio::{
    ids, mmio, Activation, Lineage, MmioBus, QueueError, Rng, Stopper, VirtioDevice, WorkQueue,
};
use crate::devices::Request;
use crate::terminal::poll;

const PIT_CHANNEL_0: u16 = 0x40;
const PIT_CONTROL: u16 = 0x43;
const ONE_SHOT: u8 = 0x38;

fn shared() -> Shared {
    let board = Board::new(Irqchip::user(1));
    let console = Arc::new(Console::new(false).expect("standard output"));
    let lines = Lines::new().expect("eventfd");
    Shared::new(board, lines, Vec::new(), console).expect("descriptors")
}

fn is_readable(shared: &Shared, timeout: Duration) -> bool {
    poll::readable([Some(shared.timer())], Some(timeout)).expect("poll")[0]
}

#[test]
fn a_one_shot_timer_expires_once() {
    let shared = shared();
    for (port, value) in [
        (PIT_CONTROL, ONE_SHOT),
        (PIT_CHANNEL_0, 0x10),
        (PIT_CHANNEL_0, 0),
    ] {
        shared
            .access(None, |board| board.write(port, 1, &[value]))
            .expect("armed");
    }
    assert!(
        is_readable(&shared, Duration::from_secs(1)),
        "it never expires"
    );
    shared.timer_expired().expect("armed again");
    assert!(
        !is_readable(&shared, Duration::ZERO),
        "it is said to have expired for ever"
    );
}

#[test]
fn the_first_end_counts_and_being_stopped_is_none() {
    let shared = shared();
    shared.record(2, Ok(End::Stopped));
    shared.record(1, Ok(End::Asked(Request::PowerOff)));
    shared.record(0, Ok(End::Halted));
    let (cpu, end) = shared.take_end().expect("there is one");
    assert_eq!(cpu, 1);
    assert_eq!(end.expect("no error"), End::Asked(Request::PowerOff));
}

#[test]
fn the_end_waits_for_every_thread() {
    let shared = shared();
    thread::scope(|scope| {
        for _ in 0..3 {
            let running = shared.begin();
            scope.spawn(|| {
                let _running = running;
                while !shared.is_over() {
                    thread::yield_now();
                }
            });
        }
        shared.end_all();
        assert_eq!(shared.lock().running, 0);
        assert!(
            poll::readable([Some(shared.ended().as_raw_fd())], Some(Duration::ZERO)).expect("poll")
                [0]
        );
    });
}

/// A device whose thread is at its work until it is told to go on.
struct Stuck {
    ends: Option<(Sender<()>, Receiver<()>)>,
    worker: Option<Worker<Sticking>>,
}

struct Sticking {
    queue: WorkQueue,
    begun: Sender<()>,
    go_on: Receiver<()>,
}

impl Work for Sticking {
    fn watch(&self, watch: &mut Watch) {
        watch.readable(self.queue.doorbell(), 0);
    }

    fn ready(&mut self, _token: usize) -> Result<(), QueueError> {
        self.queue.clear_doorbell();
        self.begun.send(()).expect("the test listens");
        self.go_on.recv().expect("the test tells");
        Ok(())
    }
}

impl VirtioDevice for Stuck {
    fn device_type(&self) -> u32 {
        ids::VIRTIO_ID_RNG
    }

    fn name(&self) -> &str {
        "stuck"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let (begun, go_on) = self.ends.take().expect("it is activated once");
        let work = Sticking {
            queue: activation.take_queue(0)?,
            begun,
            go_on,
        };
        self.worker = Some(Worker::start("stuck", work, activation.interrupt)?);
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

const STATUS: u64 = 0x70;
const QUEUE_NOTIFY: u64 = 0x50;

fn store(shared: &Shared, address: u64, value: u32) {
    shared
        .access(None, |board| board.store(0, address, &value.to_le_bytes()))
        .expect("stored");
}

fn load(shared: &Shared, address: u64) -> u32 {
    let mut data = [0; 4];
    shared
        .access(None, |board| board.load(0, address, &mut data))
        .expect("loaded");
    u32::from_le_bytes(data)
}

#[test]
fn a_device_that_is_reset_holds_up_no_other() {
    let (begun, has_begun) = channel();
    let (tell, go_on) = channel();
    let stuck = Stuck {
        ends: Some((begun, go_on)),
        worker: None,
    };
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).expect("memory");
    let lines = Lines::new().expect("eventfd");
    let devices: Vec<Box<dyn VirtioDevice>> = vec![Box::new(stuck), Box::new(Rng::default())];
    let lineage = Lineage::Board(lines.clone());
    let bus = MmioBus::new(devices, &Arc::new(memory), &Recorder::default(), &lineage);
    let mut board = Board::new(Irqchip::user(1));
    board.add_virtio(bus.expect("eventfds"));
    let console = Arc::new(Console::new(false).expect("standard output"));
    let shared = Shared::new(board, lines, Vec::new(), console).expect("descriptors");

    let [first, second] = [0, 1].map(|index| mmio::place(index).address);
    // Version 1, a queue of 8 entries at 0x1000, and the driver is ready.
    for (register, value) in [
        (STATUS, 3),
        (0x24, 1),
        (0x20, 1),
        (STATUS, 0xb),
        (0x38, 8),
        (0x80, 0x1000),
        (0x90, 0x2000),
        (0xa0, 0x3000),
        (0x44, 1),
        (STATUS, 0xf),
        (QUEUE_NOTIFY, 0),
    ] {
        store(&shared, first + register, value);
    }
    has_begun.recv().expect("it is at its work");

    thread::scope(|scope| {
        let (ask, answer) = channel();
        let resetting = scope.spawn(|| store(&shared, first + STATUS, 0));
        scope.spawn(|| {
            let ask = ask;
            // The reset may only be about to begin: the other device is used for a while.
            for _ in 0..20 {
                store(&shared, second + STATUS, 1);
                let read = [first, second].map(|device| load(&shared, device + STATUS));
                store(&shared, second + STATUS, 0);
                ask.send(read).expect("the test listens");
                thread::sleep(Duration::from_millis(5));
            }
        });
        let answers: Vec<_> = (0..20)
            .map(|_| answer.recv_timeout(Duration::from_secs(10)))
            .collect();
        let waits = !resetting.is_finished();
        tell.send(()).expect("it waits for this");
        resetting.join().expect("the reset ends");
        assert!(waits);
        assert_eq!(answers, vec![Ok([0xf, 1]); 20]);
    });
    assert_eq!(load(&shared, first + STATUS), 0);
}
