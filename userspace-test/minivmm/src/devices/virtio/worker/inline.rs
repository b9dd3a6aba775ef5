// SPDX-License-Identifier: GPL-2.0

//! Workers without threads, for runs that repeat exactly: the thread that starts them calls
//! [`run`] whenever they may have something to do.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, Weak};

use super::{Watch, Work};
use crate::devices::virtio::Interrupt;

thread_local! {
    /// The workers of this thread, if it wants them so.
    static WORKERS: RefCell<Option<Vec<Weak<dyn Runner>>>> = const { RefCell::new(None) };
}

/// Rounds of work at most in one [`run`]: a queue can be one that is never empty.
const ROUNDS: usize = 64;

trait Runner {
    /// Does what is ready; false if nothing is.
    fn step(&self) -> bool;
}

/// A worker.
pub struct Inline<W>(Mutex<State<W>>);

struct State<W> {
    work: W,
    interrupt: Interrupt,
    failed: bool,
}

impl<W: Work> Runner for Inline<W> {
    fn step(&self) -> bool {
        let mut state = self.0.lock().expect("it is used by one thread");
        if state.failed {
            return false;
        }
        let mut watch = Watch::default();
        state.work.watch(&mut watch);
        if watch.wait(0).is_err() {
            return false;
        }
        let mut something = false;
        for index in 0..watch.tokens.len() {
            if watch.is_ready(index) && !state.failed {
                something = true;
                if state.work.ready(watch.tokens[index]).is_err() {
                    state.failed = true;
                    state.interrupt.needs_reset();
                }
            }
        }
        something
    }
}

/// Workers that this thread starts from now on are its own.
pub fn want() {
    WORKERS.with_borrow_mut(|workers| *workers = Some(Vec::new()));
}

pub(super) fn is_wanted() -> bool {
    WORKERS.with_borrow(Option::is_some)
}

pub(super) fn start<W: Work>(work: W, interrupt: Interrupt) -> Arc<Inline<W>> {
    let inline = Arc::new(Inline(Mutex::new(State {
        work,
        interrupt,
        failed: false,
    })));
    let runner: Weak<Inline<W>> = Arc::downgrade(&inline);
    WORKERS.with_borrow_mut(|workers| {
        workers.get_or_insert_default().push(runner);
    });
    inline
}

pub(super) fn stop<W>(inline: Arc<Inline<W>>) -> W {
    let inline = Arc::into_inner(inline).expect("it is upgraded for the time of a step only");
    let state = inline.0.into_inner().expect("it is used by one thread");
    state.work
}

/// Has the workers do what there is to do.
pub fn run() {
    for _ in 0..ROUNDS {
        let workers = WORKERS.with_borrow_mut(|workers| {
            let workers = workers.get_or_insert_default();
            workers.retain(|worker| worker.strong_count() > 0);
            workers.clone()
        });
        let mut something = false;
        for worker in workers.iter().filter_map(Weak::upgrade) {
            something |= worker.step();
        }
        if !something {
            return;
        }
    }
}
