// SPDX-License-Identifier: GPL-2.0

//! Rings of the guest, and the proof that the host takes no part in them.
//!
//! Between the guest's two markers lie a thousand traps from ring 3 to ring 0. The VMM counts the
//! exits it gets in between. An exit that the kernel handled by itself would show in two ways: the
//! trap would take longer than an exit does, and the kernel would have counted it (`exits` of the
//! vCPU's statistics, where this KVM keeps any).

use kvm_ioctls::Kvm;

use super::report::Outcome;
use super::statistics::Statistics;
use crate::guests::rings::{CHECKS, CPUIDS, NOTES, PER_ROUND, RINGS, ROUNDS};
use crate::guests::{Ended, Error, Machine, NoDevices, Session};

/// The demo.
pub fn run(kvm: &Kvm) -> Result<Outcome, Error> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    machine.start_long_mode(&vcpu, &RINGS)?;
    let statistics = Statistics::open(&vcpu);
    let handled = || statistics.as_ref().and_then(|all| all.read("exits"));
    let mut session = Session::new(&RINGS, &mut vcpu);

    session.expect(Ended::Marked, &mut NoDevices)?;
    let before = (session.exit_count(), handled());
    session.expect(Ended::Marked, &mut NoDevices)?;
    let after = (session.exit_count(), handled());
    session.expect(Ended::Halted, &mut NoDevices)?;
    let last = handled();
    session.expect(Ended::Done, &mut NoDevices)?;

    let traps = u64::from(ROUNDS * PER_ROUND);
    let mut outcome = Outcome::of(&session, CHECKS, NOTES);
    // The second marker is itself an exit, in both counts.
    let to_vmm = after.0 - before.0 - 1;
    outcome.check(
        &format!("exits to the VMM during {traps} traps"),
        to_vmm,
        to_vmm == 0,
    );
    if let [trap, exit] = session.notes[..] {
        let seen = format!("{trap} < {exit}");
        outcome.check(
            "a trap takes less time than any exit could",
            seen,
            trap < exit,
        );
    }
    let what = format!("exits of any kind during {traps} traps (the host's own interrupts)");
    match (before.1, after.1, last) {
        (Some(before), Some(after), Some(last)) => {
            let exits = (after - before).saturating_sub(1);
            outcome.check(&what, exits, exits < traps / 10);
            // The counter is believed because it does count the CPUIDs that follow.
            let what = format!("exits of any kind during {CPUIDS} CPUIDs and the reports after");
            outcome.check(&what, last - after, last - after >= u64::from(CPUIDS));
        }
        _ => outcome.note(&what, "not counted"),
    }
    outcome.check("HLT in ring 0 is an exit to the VMM", "KVM_EXIT_HLT", true);
    Ok(outcome)
}
