// SPDX-License-Identifier: GPL-2.0

//! Hypercalls that the kernel answers by itself.

use kvm_ioctls::Kvm;

use super::report::Outcome;
use crate::guests::hypercall::{CHECKS, HYPERCALL};
use crate::guests::{Ended, Error, Machine, NoDevices, Session};

/// The demo.
pub fn run(kvm: &Kvm) -> Result<Outcome, Error> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    machine.start_long_mode(&vcpu, &HYPERCALL)?;
    let mut session = Session::new(&HYPERCALL, &mut vcpu);

    session.expect(Ended::Marked, &mut NoDevices)?;
    let before = session.exit_count();
    session.expect(Ended::Marked, &mut NoDevices)?;
    let between = session.exit_count() - before - 1;
    session.expect(Ended::Done, &mut NoDevices)?;

    let mut outcome = Outcome::of(&session, CHECKS, &[]);
    outcome.check("exits to the VMM during both calls", between, between == 0);
    Ok(outcome)
}
