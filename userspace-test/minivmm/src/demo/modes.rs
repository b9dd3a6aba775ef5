// SPDX-License-Identifier: GPL-2.0

//! The modes of the CPU, entered by the guest itself from real mode.
//!
//! The VMM does nothing here but start them: with unrestricted guest and EPT every step runs in
//! non-root operation, and all exits are the guest's reports.

use kvm_ioctls::Kvm;

use super::report::Outcome;
use crate::guests::{
    long_mode, pae, paging32, protected_mode, real_mode, Ended, Error, Guest, Machine, NoDevices,
    Session, Subject,
};

/// Real mode.
pub fn real_mode(kvm: &Kvm) -> Result<Outcome, Error> {
    boot(
        &Machine::new(kvm)?,
        &real_mode::REAL_MODE,
        real_mode::CHECKS,
    )
}

/// Protected mode.
pub fn protected_mode(kvm: &Kvm) -> Result<Outcome, Error> {
    boot(
        &Machine::new(kvm)?,
        &protected_mode::PROTECTED_MODE,
        protected_mode::CHECKS,
    )
}

/// 32-bit paging.
pub fn paging32(kvm: &Kvm) -> Result<Outcome, Error> {
    boot(&Machine::new(kvm)?, &paging32::PAGING32, paging32::CHECKS)
}

/// PAE, with memory where only PAE reaches it. The VMM looks there as well.
pub fn pae(kvm: &Kvm) -> Result<Outcome, Error> {
    let mut machine = Machine::new(kvm)?;
    machine.add_memory(pae::HIGH_MEMORY, 2 << 20)?;
    let mut outcome = boot(&machine, &pae::PAE, pae::CHECKS)?;

    let mut bytes = [0; 4];
    machine.read(pae::HIGH_MEMORY + 0x1000, &mut bytes)?;
    let found = u32::from_le_bytes(bytes);
    outcome.check(
        "the VMM finds the guest's value in the memory it put at 4 GiB",
        format_args!("{found:#010x}"),
        found == pae::HIGH_VALUE,
    );
    Ok(outcome)
}

/// Long mode.
pub fn long_mode(kvm: &Kvm) -> Result<Outcome, Error> {
    boot(
        &Machine::new(kvm)?,
        &long_mode::LONG_MODE,
        long_mode::CHECKS,
    )
}

/// Runs `guest` from real mode to its end.
fn boot(machine: &Machine, guest: &'static Guest, checks: &[Subject]) -> Result<Outcome, Error> {
    let mut vcpu = machine.vcpu(0)?;
    machine.start_real_mode(&vcpu, guest)?;
    let mut session = Session::new(guest, &mut vcpu);
    session.expect(Ended::Done, &mut NoDevices)?;
    Ok(Outcome::of(&session, checks, &[]))
}
