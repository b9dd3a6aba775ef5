// SPDX-License-Identifier: GPL-2.0

//! Two vCPUs of one VM, each a thread that moves between the host's CPUs.

use std::thread;

use kvm_ioctls::{Kvm, VcpuFd};

use super::partner::{pair, Partner};
use super::report::Outcome;
use crate::guests::threads::{CHECKS, COUNTER, INCREMENTS, THREADS};
use crate::guests::{affinity, Ended, Error, Machine, NoDevices, Session};

/// The demo.
pub fn run(kvm: &Kvm) -> Result<Outcome, Error> {
    let machine = Machine::new(kvm)?;
    let mut vcpus = Vec::new();
    for number in 0..2 {
        let vcpu = machine.vcpu(number)?;
        machine.start_long_mode(&vcpu, &THREADS)?;
        let mut regs = vcpu
            .get_regs()
            .map_err(|e| Error::Ioctl("KVM_GET_REGS", e))?;
        regs.rdx = number;
        vcpu.set_regs(&regs)
            .map_err(|e| Error::Ioctl("KVM_SET_REGS", e))?;
        vcpus.push(vcpu);
    }

    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = vcpus
            .into_iter()
            .zip(pair())
            .map(|(vcpu, other)| scope.spawn(move || live(vcpu, other)))
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or(Err(Error::Partner)))
            .collect()
    });

    let mut outcome = Outcome::default();
    for (number, result) in results.into_iter().enumerate() {
        outcome.add(&format!("vCPU {number}"), result?);
    }
    let mut bytes = [0; 4];
    machine.read(COUNTER, &mut bytes)?;
    let counted = u32::from_le_bytes(bytes);
    outcome.check(
        "the counter in the memory they share",
        counted,
        counted == 2 * INCREMENTS,
    );
    Ok(outcome)
}

/// The life of one vCPU: after each step of the guest its thread moves to the next CPU.
fn live(mut vcpu: VcpuFd, other: Partner) -> Result<Outcome, Error> {
    let cpus = affinity::allowed()?;
    let mut moves = 0;
    let mut session = Session::new(&THREADS, &mut vcpu);
    while session.run(&mut NoDevices)? == Ended::Turn {
        other.meet()?;
        if cpus.len() > 1 {
            moves += 1;
            affinity::pin(cpus[moves % cpus.len()])?;
        }
    }
    let mut outcome = Outcome::of(&session, CHECKS, &[]);
    outcome.note(
        &format!("moves of its thread (CPUs in the host: {})", cpus.len()),
        moves,
    );
    Ok(outcome)
}
