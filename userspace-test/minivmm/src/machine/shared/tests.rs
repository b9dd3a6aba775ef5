// SPDX-License-Identifier: GPL-2.0

//! The shared state without a KVM.

use std::thread;

use super::*;
use crate::devices::irqchip::Irqchip;
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
