// SPDX-License-Identifier: GPL-2.0

//! What the vCPUs' threads and the thread that waits for events share.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::timerfd::TimerFd;

use super::cpu::{End, Error};
use crate::devices::virtio::Lines;
use crate::devices::Board;
use crate::statistics::Tally;
use crate::terminal::Console;
use crate::vcpu::Kick;

/// How long a vCPU's thread gets to react to a kick before it is kicked again.
const KICK_RETRY: Duration = Duration::from_millis(10);

/// What a vCPU will notice by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Attention {
    /// Nothing: it may be running guest code, and wants a kick.
    None,
    /// A kick it has been given already.
    Kicked,
    /// An interrupt window: it comes out by itself and looks at the interrupt controller.
    Window,
    /// It waits on its condition variable.
    Waiting(Until),
}

/// What ends a vCPU's wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// An interrupt, or an event: it is in HLT.
    Interrupt,
    /// An event only: it is in HLT with interrupts off, or waits for its start.
    Event,
}

/// The devices, and what goes with them under one lock. Nobody waits for anything while holding it.
struct State {
    board: Board,
    /// Of each vCPU.
    attention: Vec<Attention>,
    timer: TimerFd,
    armed: Option<u64>,
    /// Threads of vCPUs that have begun and not ended.
    running: usize,
    /// Exits of the threads that have ended.
    exits: Tally,
    /// How the first vCPU ended that did so by itself, and which it was.
    end: Option<(usize, Result<End, Error>)>,
}

impl State {
    /// Sets the host's timer to what time has to do next on the board, if that has changed. A
    /// timer that is no longer wanted may expire for nothing: the guest stops it each time it
    /// reprograms it, which is not worth a system call.
    fn arm_timer(&mut self) -> io::Result<()> {
        match self.board.next_deadline() {
            Some((deadline, _)) if self.armed != Some(deadline) => self.set_timer(),
            _ => Ok(()),
        }
    }

    fn set_timer(&mut self) -> io::Result<()> {
        let next = self.board.next_deadline();
        self.armed = next.map(|(deadline, _)| deadline);
        match next {
            // No time at all would switch the timer off.
            Some((_, away)) => self.timer.reset(away.max(Duration::from_nanos(1)), None),
            None => self.timer.clear(),
        }
        .map_err(io::Error::from)
    }
}

/// Everything the threads share.
pub struct Shared {
    state: Mutex<State>,
    /// Of each vCPU: what it waits on.
    wake: Vec<Condvar>,
    /// Of each vCPU: how to get it out of KVM_RUN.
    kicks: Vec<Kick>,
    console: Arc<Console>,
    over: AtomicBool,
    ended: EventFd,
    all_ended: Condvar,
    timer: RawFd,
    lines: Lines,
}

impl Shared {
    /// A machine that has just been switched on, with a kick for each of its vCPUs. `lines` are
    /// those of the board's virtio devices.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a descriptor.
    pub fn new(
        board: Board,
        lines: Lines,
        kicks: Vec<Kick>,
        console: Arc<Console>,
    ) -> io::Result<Self> {
        let timer = TimerFd::new().map_err(io::Error::from)?;
        Ok(Self {
            timer: timer.as_raw_fd(),
            lines,
            state: Mutex::new(State {
                board,
                attention: vec![Attention::None; kicks.len()],
                timer,
                armed: None,
                running: 0,
                exits: Tally::default(),
                end: None,
            }),
            wake: kicks.iter().map(|_| Condvar::new()).collect(),
            kicks,
            console,
            over: AtomicBool::new(false),
            ended: EventFd::new(EFD_NONBLOCK)?,
            all_ended: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("a thread of minivmm has panicked")
    }

    /// How to kick vCPU `cpu`.
    pub fn kick(&self, cpu: usize) -> &Kick {
        &self.kicks[cpu]
    }

    /// Works on the devices. vCPUs that have something to attend to afterwards are told, but for
    /// `by`, the caller's own, which looks by itself before it runs the guest again. Where the work
    /// is the reset of a device that has a thread, this waits for the thread, while others work on
    /// the other devices.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses to set the timer.
    pub fn access<R>(
        &self,
        by: Option<usize>,
        work: impl FnOnce(&mut Board) -> R,
    ) -> io::Result<R> {
        let mut state = self.lock();
        let result = work(&mut state.board);
        if let Some(stopper) = state.board.take_stopper() {
            drop(state);
            stopper.wait();
            state = self.lock();
            state.board.finish_resets();
        }
        state.arm_timer()?;
        self.tell(&mut state, by);
        Ok(result)
    }

    /// The host's timer has expired: lets time pass on the board and sets the host's timer anew,
    /// which also takes back that it has expired.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses to set the timer.
    pub fn timer_expired(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.board.pass_time();
        state.set_timer()?;
        self.tell(&mut state, None);
        Ok(())
    }

    /// A virtio device has done something to its interrupt line.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses to set the timer.
    pub fn lines_moved(&self) -> io::Result<()> {
        self.lines.clear();
        self.access(None, Board::move_lines)
    }

    /// Tells vCPUs that there is something for them, each in the way it waits for.
    fn tell(&self, state: &mut State, by: Option<usize>) {
        let State {
            board, attention, ..
        } = state;
        for (cpu, attention) in attention.iter_mut().enumerate() {
            if Some(cpu) == by || !board.irqchip().wants(cpu) {
                continue;
            }
            match attention {
                Attention::None => {
                    *attention = Attention::Kicked;
                    self.kicks[cpu].kick();
                }
                Attention::Kicked | Attention::Window => {}
                Attention::Waiting(_) => self.wake[cpu].notify_all(),
            }
        }
    }

    /// Before vCPU `cpu` runs the guest: lets `deliver` give it what the interrupt controllers
    /// have for it. `deliver` also says whether something is left for an interrupt window, and so
    /// does this.
    pub fn deliver<R>(
        &self,
        cpu: usize,
        deliver: impl FnOnce(&mut Board) -> (R, bool),
    ) -> (R, bool) {
        let mut state = self.lock();
        let (result, left) = deliver(&mut state.board);
        state.attention[cpu] = if left {
            Attention::Window
        } else {
            Attention::None
        };
        (result, left)
    }

    /// vCPU `cpu` waits until there is something for it or the machine is over. False, at once, if
    /// nothing can come any more: no other vCPU runs either, or will by an interrupt.
    pub fn wait(&self, cpu: usize, until: Until) -> bool {
        let mut state = self.lock();
        state.attention[cpu] = Attention::Waiting(until);
        let goes_on = |state: &mut State| {
            let irqchip = state.board.irqchip();
            let something = match until {
                Until::Interrupt => irqchip.wants(cpu),
                Until::Event => irqchip.has_event(cpu),
            };
            something || self.is_over()
        };
        let dead = state
            .attention
            .iter()
            .all(|attention| *attention == Attention::Waiting(Until::Event));
        if dead && !goes_on(&mut state) {
            return false;
        }
        let mut state = self.wake[cpu]
            .wait_while(state, |state| !goes_on(state))
            .expect("a thread of minivmm has panicked");
        state.attention[cpu] = Attention::None;
        true
    }

    /// Writes what the guest sent to its console.
    ///
    /// # Errors
    ///
    /// What the system says when the reader is gone.
    pub fn write_console(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.console.write(bytes)
    }

    /// Becomes readable when a device's thread has found the console's reader gone.
    pub fn console_lost(&self) -> &EventFd {
        self.console.lost()
    }

    /// How many bytes can be typed ahead of the guest without losing any.
    pub fn typing_room(&self) -> usize {
        self.lock().board.typing_room()
    }

    /// Whether the machine is to end.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// A thread of a vCPU begins; its end is announced when the result is dropped.
    pub fn begin(&self) -> Running<'_> {
        self.lock().running += 1;
        Running(self)
    }

    /// vCPU `cpu` has ended. The first to do so by itself decides how the machine ends.
    pub fn record(&self, cpu: usize, end: Result<End, Error>) {
        if !matches!(end, Ok(End::Stopped)) {
            self.lock().end.get_or_insert((cpu, end));
        }
    }

    /// Adds the exits of a vCPU that has ended.
    pub fn add_exits(&self, exits: &Tally) {
        self.lock().exits.add(exits);
    }

    /// The exits of all vCPUs that have ended.
    pub fn exits(&self) -> Tally {
        self.lock().exits
    }

    /// How the machine ended, and by which vCPU; `None` if it was ended from outside.
    pub fn take_end(&self) -> Option<(usize, Result<End, Error>)> {
        self.lock().end.take()
    }

    /// Becomes readable when a vCPU's thread has ended.
    pub fn ended(&self) -> &EventFd {
        &self.ended
    }

    /// Becomes readable when [`Self::timer_expired`] is due.
    pub fn timer(&self) -> RawFd {
        self.timer
    }

    /// Becomes readable when [`Self::lines_moved`] is due.
    pub fn lines(&self) -> RawFd {
        self.lines.event().as_raw_fd()
    }

    /// Makes every vCPU's thread end, and waits until they have. A thread may be anywhere, also in
    /// a write to a reader that does not read, so it is kicked until it has ended.
    pub fn end_all(&self) {
        let mut state = self
            .state
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        self.over.store(true, Ordering::SeqCst);
        self.console.end();
        while state.running > 0 {
            self.wake.iter().for_each(Condvar::notify_all);
            self.kicks.iter().for_each(Kick::kick);
            state = self
                .all_ended
                .wait_timeout(state, KICK_RETRY)
                .unwrap_or_else(|broken| broken.into_inner())
                .0;
        }
    }
}

/// A thread of a vCPU, which ends when this is dropped, also by a panic.
pub struct Running<'a>(&'a Shared);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        let mut state = shared
            .state
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        state.running -= 1;
        shared.all_ended.notify_all();
        // Adding one to a counter that never gets far cannot overflow it.
        let _ = shared.ended.write(1);
    }
}

#[cfg(test)]
mod tests;
