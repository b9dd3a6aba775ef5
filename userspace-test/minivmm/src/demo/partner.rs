// SPDX-License-Identifier: GPL-2.0

//! Two threads that take each step together.

use std::sync::mpsc::{channel, Receiver, Sender};

use crate::guests::Error;

/// One of two threads. When it is dropped, the other does not wait for it any longer.
pub struct Partner {
    here: Sender<()>,
    there: Receiver<()>,
}

/// Both of them.
pub fn pair() -> [Partner; 2] {
    let (here, from_here) = channel();
    let (there, from_there) = channel();
    [
        Partner {
            here,
            there: from_there,
        },
        Partner {
            here: there,
            there: from_here,
        },
    ]
}

impl Partner {
    /// Returns when the other has called this as often.
    ///
    /// # Errors
    ///
    /// [`Error::Partner`] if the other is gone.
    pub fn meet(&self) -> Result<(), Error> {
        self.here.send(()).map_err(|_| Error::Partner)?;
        self.there.recv().map_err(|_| Error::Partner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn neither_is_ever_two_steps_ahead() {
        let steps = [const { AtomicU32::new(0) }; 2];
        let [a, b] = pair();
        let walk = |partner: Partner, mine: usize| {
            for step in 1..=100 {
                steps[mine].store(step, Ordering::SeqCst);
                partner.meet().expect("both walk to the end");
                assert!(steps[1 - mine].load(Ordering::SeqCst) >= step);
                partner.meet().expect("both walk to the end");
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| walk(a, 0));
            scope.spawn(|| walk(b, 1));
        });
    }

    #[test]
    fn a_lost_partner_is_an_error() {
        let [a, b] = pair();
        drop(b);
        assert!(matches!(a.meet(), Err(Error::Partner)));
    }
}
