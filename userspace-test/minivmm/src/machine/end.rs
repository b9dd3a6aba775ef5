// SPDX-License-Identifier: GPL-2.0

//! How a machine ended: what to tell, and the exit status.

use std::process::ExitCode;

use super::cpu::End;
use super::events::Cause;
use super::vm::Vm;
use crate::devices::Request;
use crate::vcpu::{trace, Dump};

/// Exit status when the guest has died.
const GUEST_DIED: u8 = 3;
/// Exit status when a signal ended minivmm, less its number.
const SIGNALLED: u8 = 128;

/// Says how vCPU `cpu` ended the guest, and what exit status that is. A guest that `panicked`
/// before it reset the machine has died.
pub fn by_guest(end: &End, cpu: usize, panicked: bool, vm: &Vm) -> ExitCode {
    match end {
        End::Halted => eprintln!("minivmm: the guest has halted"),
        End::Asked(Request::PowerOff) => eprintln!("minivmm: the guest has powered off"),
        End::Asked(Request::Reset(reset)) if panicked => {
            let how = reset.describe();
            eprintln!("minivmm: the guest has died: it panicked, and reset itself by {how}");
            return died(cpu, vm);
        }
        End::Asked(Request::Reset(reset)) => {
            eprintln!("minivmm: the guest has rebooted by {}", reset.describe());
        }
        End::Died(exit) => {
            let cause = trace::describe(exit, &[]);
            eprintln!("minivmm: the guest has died: {cause}");
            return died(cpu, vm);
        }
        End::Stopped => eprintln!("minivmm: the guest has stopped"),
    }
    ExitCode::SUCCESS
}

fn died(cpu: usize, vm: &Vm) -> ExitCode {
    eprintln!("  vCPU {cpu} of {}", vm.vcpus.len());
    eprint!("{}", Dump::of(&vm.vcpus[cpu], &vm.memory));
    ExitCode::from(GUEST_DIED)
}

/// Says what ended the machine from outside, and what exit status that is.
pub fn from_outside(cause: Cause) -> ExitCode {
    match cause {
        Cause::Signal(number) => {
            eprintln!("minivmm: ended by signal {number}");
            let number = u8::try_from(number).unwrap_or_default();
            ExitCode::from(SIGNALLED + number)
        }
        Cause::Keys | Cause::Guest | Cause::Console => {
            eprintln!("minivmm: ended from the keyboard");
            ExitCode::SUCCESS
        }
    }
}
