// SPDX-License-Identifier: GPL-2.0

//! The thread a device works on its queues with.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
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
        stop: EventFd,
        thread: JoinHandle<W>,
    },
    /// No thread: whoever asked for that calls [`inline::run`].
    #[cfg(any(test, feature = "fuzzing"))]
    Inline(std::sync::Arc<inline::Inline<W>>),
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
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let stopped = stop.try_clone()?;
        let device = name.to_owned();
        let thread = thread::Builder::new().name(device.clone()).spawn(move || {
            if let Err(error) = run(&mut work, &stopped) {
                eprintln!("minivmm: {device}: {error}; it does nothing more until it is reset");
                interrupt.needs_reset();
            }
            work
        })?;
        Ok(Self(Handle::Thread { stop, thread }))
    }

    /// Stops it, when it has done what it is at, and gives back what it worked with.
    pub fn stop(self) -> W {
        match self.0 {
            Handle::Thread { stop, thread } => {
                // Adding one to a counter of zero cannot overflow it.
                let _ = stop.write(1);
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
