// SPDX-License-Identifier: GPL-2.0

//! The thread a device works on its queues with.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use super::{Interrupt, QueueError};

/// What a device does on its thread.
pub trait Work: Send + 'static {
    /// Says what to wait for. Asked before each wait, so it may differ from time to time.
    fn watch(&self, watch: &mut Watch);

    /// The descriptor that was watched as `token` is ready.
    ///
    /// # Errors
    ///
    /// What the device cannot go on after: it does nothing more until it is reset.
    fn ready(&mut self, token: usize) -> Result<(), QueueError>;
}

/// What to wait for.
#[derive(Default)]
pub struct Watch {
    polled: Vec<libc::pollfd>,
    tokens: Vec<usize>,
}

impl Watch {
    /// Waits until `fd` can be read, or is at its end.
    pub fn readable(&mut self, fd: &impl AsRawFd, token: usize) {
        self.add(fd.as_raw_fd(), libc::POLLIN, token);
    }

    /// Waits until `fd` can be written.
    pub fn writable(&mut self, fd: &impl AsRawFd, token: usize) {
        self.add(fd.as_raw_fd(), libc::POLLOUT, token);
    }

    fn add(&mut self, fd: RawFd, events: libc::c_short, token: usize) {
        self.polled.push(libc::pollfd {
            fd,
            events,
            revents: 0,
        });
        self.tokens.push(token);
    }

    fn clear(&mut self) {
        self.polled.clear();
        self.tokens.clear();
    }

    /// Waits, for so many milliseconds or, with -1, for as long as it takes.
    fn wait(&mut self, timeout: libc::c_int) -> io::Result<()> {
        let count = self.polled.len() as libc::nfds_t;
        // SAFETY: the pointer and the length are those of a vector that outlives the call.
        let result = unsafe { libc::poll(self.polled.as_mut_ptr(), count, timeout) };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            self.polled.iter_mut().for_each(|polled| polled.revents = 0);
        }
        Ok(())
    }

    fn is_ready(&self, index: usize) -> bool {
        self.polled[index].revents != 0
    }
}

/// A thread that works until it is stopped.
pub struct Worker<W>(Handle<W>);

enum Handle<W> {
    Thread {
        stopper: Stopper,
        thread: JoinHandle<W>,
    },
    /// No thread: whoever asked for that calls [`inline::run`].
    #[cfg(any(test, feature = "fuzzing"))]
    Inline(std::sync::Arc<inline::Inline<W>>),
}

/// Stops a [`Worker`] and waits for its end without having it: who resets a device waits by this
/// while others use the board.
#[derive(Clone)]
pub struct Stopper(Arc<Ending>);

struct Ending {
    stop: EventFd,
    over: Mutex<bool>,
    ended: Condvar,
}

impl Stopper {
    fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(Ending {
            stop: EventFd::new(EFD_NONBLOCK)?,
            over: Mutex::new(false),
            ended: Condvar::new(),
        })))
    }

    /// Stops it, when it has done what it is at, and waits for that.
    pub fn wait(&self) {
        self.stop();
        let over = self.over();
        let wait = self.0.ended.wait_while(over, |over| !*over);
        drop(wait.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        *self.over()
    }

    fn stop(&self) {
        // Full only after 2^64 - 2 of these, and then it is readable.
        let _ = self.0.stop.write(1);
    }

    fn over(&self) -> MutexGuard<'_, bool> {
        self.0.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's own, by which it tells that it has ended, also by a panic.
struct Running(Stopper);

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.over() = true;
        self.0 .0.ended.notify_all();
    }
}

impl<W: Work> Worker<W> {
    /// Starts it. `name` is the device's; `interrupt` tells the driver when the work fails.
    ///
    /// # Errors
    ///
    /// What the system says when it refuses a thread or a descriptor.
    pub fn start(name: &str, mut work: W, interrupt: Interrupt) -> io::Result<Self> {
        #[cfg(any(test, feature = "fuzzing"))]
        if inline::is_wanted() {
            return Ok(Self(Handle::Inline(inline::start(work, interrupt))));
        }
        let stopper = Stopper::new()?;
        let running = Running(stopper.clone());
        let device = name.to_owned();
        let thread = thread::Builder::new().name(device.clone()).spawn(move || {
            let running = running;
            if let Err(error) = run(&mut work, &running.0 .0.stop) {
                eprintln!("minivmm: {device}: {error}; it does nothing more until it is reset");
                interrupt.needs_reset();
            }
            work
        })?;
        Ok(Self(Handle::Thread { stopper, thread }))
    }

    /// What stops it and waits for that, if that can take time.
    pub fn stopper(&self) -> Option<Stopper> {
        match &self.0 {
            Handle::Thread { stopper, .. } => Some(stopper.clone()),
            #[cfg(any(test, feature = "fuzzing"))]
            Handle::Inline(_) => None,
        }
    }

    /// Stops it, when it has done what it is at, and gives back what it worked with.
    pub fn stop(self) -> W {
        match self.0 {
            Handle::Thread { stopper, thread } => {
                stopper.stop();
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
            #[cfg(any(test, feature = "fuzzing"))]
            Handle::Inline(inline) => inline::stop(inline),
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
pub mod inline;

fn run(work: &mut impl Work, stop: &EventFd) -> Result<(), QueueError> {
    let mut watch = Watch::default();
    loop {
        watch.clear();
        watch.readable(stop, 0);
        work.watch(&mut watch);
        watch.wait(-1).map_err(|source| QueueError::Host {
            what: "cannot wait for events".into(),
            source,
        })?;
        if watch.is_ready(0) {
            return Ok(());
        }
        for index in 1..watch.tokens.len() {
            if watch.is_ready(index) {
                work.ready(watch.tokens[index])?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::driver::Status;
    use crate::devices::virtio::interrupt::{Line, Lines};
    use std::sync::mpsc::{channel, Sender};
    use std::sync::Arc;

    struct Echo {
        event: EventFd,
        heard: Sender<u64>,
    }

    impl Work for Echo {
        fn watch(&self, watch: &mut Watch) {
            watch.readable(&self.event, 7);
        }

        fn ready(&mut self, token: usize) -> Result<(), QueueError> {
            assert_eq!(token, 7);
            let count = self.event.read().expect("readable");
            self.heard.send(count).expect("somebody listens");
            match count {
                13 => Err(QueueError::Request("thirteen")),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn works_until_it_is_stopped_or_fails() {
        let lines = Lines::new().expect("eventfd");
        let line = Arc::new(Line::board(lines));
        let status = Arc::new(Status::default());
        let interrupt = Interrupt {
            route: line.clone(),
            status: Arc::clone(&status),
        };
        let event = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let (heard, hears) = channel();
        let work = Echo {
            event: event.try_clone().expect("clone"),
            heard,
        };
        let worker = Worker::start("echo", work, interrupt.clone()).expect("thread");
        event.write(3).expect("written");
        assert_eq!(hears.recv(), Ok(3));
        let work = worker.stop();
        assert!(!status.needs_reset());

        let worker = Worker::start("echo", work, interrupt).expect("thread");
        event.write(13).expect("written");
        assert_eq!(hears.recv(), Ok(13));
        worker.stop();
        assert!(status.needs_reset());
        assert_ne!(line.status(), 0);
    }
}
