// SPDX-License-Identifier: GPL-2.0

//! What the vCPU's thread and the thread that waits for events share.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::timerfd::TimerFd;

use crate::devices::Board;

/// What the vCPU will notice by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attention {
    /// Nothing: it may be running guest code, and wants a kick.
    None,
    /// An interrupt window: it comes out by itself and looks at the interrupt controller.
    Window,
    /// It waits in HLT, on the condition variable.
    Halted,
}

/// The devices, and what goes with them under one lock. Nobody waits for anything while holding it.
pub struct State {
    /// The devices.
    pub board: Board,
    /// How the vCPU is to be told of an interrupt.
    pub attention: Attention,
    timer: TimerFd,
    armed: Option<u64>,
}

impl State {
    /// Sets the host's timer to the next interrupt of the guest's timer, if that has changed. A
    /// timer that is no longer wanted may expire for nothing: the guest stops it each time it
    /// reprograms it, which is not worth a system call.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn arm_timer(&mut self) -> io::Result<()> {
        match self.board.next_tick() {
            Some((tick, _)) if self.armed != Some(tick) => self.set_timer(),
            _ => Ok(()),
        }
    }

    /// The host's timer has expired: lets the guest's timer interrupt and sets the host's anew,
    /// which also takes back that it has expired.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn timer_expired(&mut self) -> io::Result<()> {
        self.board.pass_time();
        self.set_timer()
    }

    fn set_timer(&mut self) -> io::Result<()> {
        let next = self.board.next_tick();
        self.armed = next.map(|(tick, _)| tick);
        match next {
            // No time at all would switch the timer off.
            Some((_, away)) => self.timer.reset(away.max(Duration::from_nanos(1)), None),
            None => self.timer.clear(),
        }
        .map_err(io::Error::from)
    }
}

/// Everything the two threads share.
pub struct Shared {
    state: Mutex<State>,
    interrupt: Condvar,
    over: AtomicBool,
    ended: EventFd,
    timer: RawFd,
}

impl Shared {
    /// A machine that has just been switched on.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self {
            timer: timer.as_raw_fd(),
            state: Mutex::new(State {
                board: Board::new(),
                attention: Attention::None,
                timer,
                armed: None,
            }),
            interrupt: Condvar::new(),
            over: AtomicBool::new(false),
            ended: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Locks the state.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a thread of minivmm has panicked")
    }

    /// Waits in HLT until there is an interrupt or the machine is over.
    pub fn wait_for_interrupt(&self) {
        let mut state = self.lock();
        state.attention = Attention::Halted;
        let mut state = self
            .interrupt
            .wait_while(state, |state| {
                !state.board.interrupt_pending() && !self.is_over()
            })
            .expect("a thread of minivmm has panicked");
        state.attention = Attention::None;
    }

    /// Wakes a vCPU that waits in HLT.
    pub fn wake(&self) {
        self.interrupt.notify_all();
    }

    /// Ends the machine: the vCPU's thread stops where it next looks.
    pub fn finish(&self) {
        let _state = self.lock();
        self.over.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether the machine is to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Becomes readable when the vCPU's thread has ended.
    pub fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// Becomes readable when [`State::timer_expired`] is due.
    pub fn timer(&self) -> RawFd {
        self.timer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::poll;

    const PIT_CHANNEL_0: u16 = 0x40;
    const PIT_CONTROL: u16 = 0x43;
    const ONE_SHOT: u8 = 0x38;

    fn is_readable(shared: &Shared) -> bool {
        poll::readable([Some(shared.timer())], Some(Duration::from_secs(1))).expect("poll")[0]
    }

    #[test]
    fn a_one_shot_timer_expires_once() {
        let shared = Shared::new().expect("descriptors");
        let mut state = shared.lock();
        for (port, value) in [
            (PIT_CONTROL, ONE_SHOT),
            (PIT_CHANNEL_0, 0x10),
            (PIT_CHANNEL_0, 0),
        ] {
            state.board.write(port, 1, &[value]);
        }
        state.arm_timer().expect("armed");
        assert!(is_readable(&shared), "it never expires");
        state.timer_expired().expect("armed again");
        let again = poll::readable([Some(shared.timer())], Some(Duration::ZERO)).expect("poll");
        assert_eq!(again, [false], "it is said to have expired for ever");
    }
}
