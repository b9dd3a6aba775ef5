// SPDX-License-Identifier: GPL-2.0

//! Two VMs in one process, taking turns on the same guest-physical addresses.

use std::thread;

use kvm_ioctls::Kvm;

use super::partner::{pair, Partner};
use super::report::Outcome;
use crate::guests::isolation::{CHECKS, ISOLATION, REGION};
use crate::guests::{Ended, Error, Machine, NoDevices, Session};

/// What each VM fills its memory with.
const PATTERNS: [u64; 2] = [0xaaaa_aaaa_0000_0000, 0x5555_5555_0000_0000];

/// What is left of a VM when it has ended.
struct Remains {
    outcome: Outcome,
    /// Where its region lay in this process.
    host: u64,
    /// The region's first word.
    word: u64,
}

/// The demo.
pub fn run(kvm: &Kvm) -> Result<Outcome, Error> {
    let [left, right] = pair();
    let [a, b] = thread::scope(|scope| {
        let a = scope.spawn(|| live(kvm, PATTERNS[0], left));
        let b = scope.spawn(|| live(kvm, PATTERNS[1], right));
        [a, b].map(|thread| thread.join().unwrap_or(Err(Error::Partner)))
    });
    let (a, b) = both(a, b)?;

    let mut outcome = Outcome::default();
    outcome.add("VM A", a.outcome);
    outcome.add("VM B", b.outcome);
    let what = format!("guest-physical {REGION:#x} of A and B, as the VMM finds it");
    let seen = format!("{:#x}, {:#x}", a.word >> 32, b.word >> 32);
    let right = [a.word, b.word].map(|word| word >> 32) == PATTERNS.map(|word| word >> 32);
    outcome.check(&what, seen, right);
    let distance = format!("{} KiB", a.host.abs_diff(b.host) >> 10);
    outcome.check(
        "the two lie apart in the VMM's own memory",
        distance,
        a.host != b.host,
    );
    Ok(outcome)
}

/// Both results, or the error that came first in time: the other thread's is only its echo.
fn both<T>(a: Result<T, Error>, b: Result<T, Error>) -> Result<(T, T), Error> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(Error::Partner), Err(error)) | (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

/// The life of one VM.
fn live(kvm: &Kvm, pattern: u64, other: Partner) -> Result<Remains, Error> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    machine.start_long_mode(&vcpu, &ISOLATION)?;
    let mut regs = vcpu
        .get_regs()
        .map_err(|e| Error::Ioctl("KVM_GET_REGS", e))?;
    regs.rdx = pattern;
    vcpu.set_regs(&regs)
        .map_err(|e| Error::Ioctl("KVM_SET_REGS", e))?;

    let mut session = Session::new(&ISOLATION, &mut vcpu);
    while session.run(&mut NoDevices)? == Ended::Turn {
        other.meet()?;
    }
    let mut word = [0; 8];
    machine.read(REGION, &mut word)?;
    // The other VM must not be gone, and its memory reused, while this one's address is taken.
    let host = machine.host_address(REGION)?;
    other.meet()?;
    Ok(Remains {
        outcome: Outcome::of(&session, CHECKS, &[]),
        host,
        word: u64::from_le_bytes(word),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_echo_of_an_error_is_not_reported() {
        let cause = || Err::<(), _>(Error::Memory("none".into()));
        let echo = || Err::<(), _>(Error::Partner);
        assert!(matches!(both(echo(), cause()), Err(Error::Memory(_))));
        assert!(matches!(both(cause(), echo()), Err(Error::Memory(_))));
        assert!(matches!(both(Ok(()), cause()), Err(Error::Memory(_))));
        assert!(both(Ok(1), Ok(2)).is_ok());
    }
}
