// SPDX-License-Identifier: GPL-2.0

//! `minivmm run`: one virtual machine, from its files to its end.

mod cpu;
mod events;
mod shared;
pub mod vm;

use std::io;
use std::process::ExitCode;
use std::thread;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, flat, linux};
use crate::cli::RunArgs;
use crate::terminal::{Console, RawMode, Signals};
use crate::vcpu::{trace, Dump, Kick};
use cpu::{Cpu, End};
use events::{Cause, Events};
use shared::Shared;
use vm::Vm;

/// Exit status when the guest has died.
const GUEST_DIED: u8 = 3;
/// Exit status when a signal ended minivmm, less its number.
const SIGNALLED: u8 = 128;

/// Why a machine could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No virtual machine.
    #[error(transparent)]
    Vm(#[from] vm::Error),
    /// Nothing to run in it.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// The vCPU cannot be run.
    #[error(transparent)]
    Cpu(#[from] cpu::Error),
    /// The state of a new vCPU cannot be read.
    #[error("KVM_GET_SREGS failed")]
    Reset(#[source] vmm_sys_util::errno::Error),
    /// The system refuses what minivmm needs to wait for events.
    #[error("cannot {what}")]
    System {
        /// What it does not let minivmm do.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs a guest to its end.
///
/// # Errors
///
/// What keeps minivmm from running it. A guest that dies is no error of minivmm's: it is reported
/// on standard error and gives an exit status of its own.
pub fn run(args: &RunArgs) -> Result<ExitCode, Error> {
    let mut vm = Vm::new(u64::from(args.memory) << 20)?;
    load(&vm, args)?;

    // Before any other thread starts, so that none gets the signals.
    let mut signals = Signals::new().map_err(system("receive signals"))?;
    let terminal = RawMode::enter().map_err(system("set up the terminal"))?;
    let end = drive(&mut vm, &mut signals, terminal.as_ref(), args.trace);
    drop(terminal);

    if let Err(Error::Cpu(cpu::Error::Run(_))) = end {
        eprint!("{}", Dump::of(&vm.vcpu, &vm.memory));
    }
    let (end, cause) = end?;
    let panicked =
        args.kernel.is_some() && linux::has_panicked(&vm.memory, args.cmdline.as_deref());
    Ok(report(&end, cause, panicked, &vm))
}

fn load(vm: &Vm, args: &RunArgs) -> Result<(), Error> {
    let reset = vm.vcpu.get_sregs().map_err(Error::Reset)?;
    let memory: &GuestMemoryMmap = &vm.memory;
    let state = match (&args.kernel, &args.flat) {
        (Some(kernel), _) => {
            let (initrd, cmdline) = (args.initrd.as_deref(), args.cmdline.as_deref());
            linux::load(memory, &vm.ram, kernel, initrd, cmdline, reset)?
        }
        (None, Some(code)) => {
            let entry = args.entry.unwrap_or(args.load);
            flat::load(memory, code, args.load, entry, args.mode, reset)?
        }
        (None, None) => unreachable!("the command line demands one of the two"),
    };
    Ok(vm.set_state(&state)?)
}

/// Runs the vCPU on a thread of its own and passes events on to it from this one.
fn drive(
    vm: &mut Vm,
    signals: &mut Signals,
    terminal: Option<&RawMode>,
    trace: bool,
) -> Result<(End, Cause), Error> {
    let shared = Shared::new().map_err(system("make the machine's timer"))?;
    let console = Console::new().map_err(system("open standard output"))?;
    // SAFETY: the vCPU is borrowed from the caller, so it stays open while `kick` exists.
    let kick = unsafe { Kick::new(&mut vm.vcpu) }.map_err(system("handle SIGRTMIN"))?;
    let mut cpu = Cpu {
        vcpu: &mut vm.vcpu,
        shared: &shared,
        kick: &kick,
        console,
        trace,
    };

    thread::scope(|scope| {
        let vcpu = thread::Builder::new()
            .name("vcpu 0".into())
            .spawn_scoped(scope, || {
                // Also a panic must end the wait of the other thread.
                let _ended = Announce(shared.ended());
                cpu.run()
            })
            .map_err(system("start a thread"))?;
        let cause = Events::new(&shared, &kick, signals, terminal).pass_on();
        let end = vcpu
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((end, cause.map_err(system("wait for events"))?))
    })
}

/// Makes an event happen when dropped.
struct Announce<'a>(&'a EventFd);

impl Drop for Announce<'_> {
    fn drop(&mut self) {
        // Adding one to a counter that nobody counts up cannot overflow it.
        let _ = self.0.write(1);
    }
}

/// Says how it ended, and what exit status that is. A guest that `panicked` before it reset the
/// machine has died.
fn report(end: &End, cause: Cause, panicked: bool, vm: &Vm) -> ExitCode {
    match end {
        End::Halted => eprintln!("minivmm: the guest has halted"),
        End::Reset(reset) if panicked => {
            let how = reset.describe();
            eprintln!("minivmm: the guest has died: it panicked, and reset itself by {how}");
            eprint!("{}", Dump::of(&vm.vcpu, &vm.memory));
            return ExitCode::from(GUEST_DIED);
        }
        End::Reset(reset) => eprintln!("minivmm: the guest has rebooted by {}", reset.describe()),
        End::Died(exit) => {
            let cause = trace::describe(exit, &[]);
            eprintln!("minivmm: the guest has died: {cause}");
            eprint!("{}", Dump::of(&vm.vcpu, &vm.memory));
            return ExitCode::from(GUEST_DIED);
        }
        End::Stopped => match cause {
            Cause::Signal(number) => {
                eprintln!("minivmm: ended by signal {number}");
                let number = u8::try_from(number).unwrap_or_default();
                return ExitCode::from(SIGNALLED + number);
            }
            Cause::Keys | Cause::Guest => eprintln!("minivmm: ended from the keyboard"),
        },
    }
    ExitCode::SUCCESS
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}
