// SPDX-License-Identifier: GPL-2.0

//! `minivmm run`: one virtual machine, from its files to its end.

mod cpu;
mod end;
mod events;
mod pin;
mod shared;
mod start;
mod virtio;
pub mod vm;

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};

use kvm_ioctls::VcpuFd;

use crate::boot::{self, acpi, flat, linux, CpuState};
use crate::description::{Description, Guest};
use crate::devices::irqchip::Irqchip;
use crate::devices::virtio::{block, net, vsock, Lines, VirtioDevice};
use crate::devices::Board;
use crate::statistics::{Summary, Tally};
use crate::terminal::{Console, RawMode, Signals};
use crate::vcpu::{Dump, Kick};
use cpu::{Cpu, End};
use events::{Cause, Events};
use shared::Shared;
use virtio::Ends;
use vm::{Config, Vm};

/// Why a machine could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No virtual machine.
    #[error(transparent)]
    Vm(#[from] vm::Error),
    /// Nothing to run in it.
    #[error(transparent)]
    Boot(#[from] boot::Error),
    /// A vCPU cannot be run.
    #[error(transparent)]
    Cpu(#[from] cpu::Error),
    /// The state of a new vCPU cannot be read.
    #[error("cannot read the registers of a new vCPU")]
    Reset(#[source] vmm_sys_util::errno::Error),
    /// A disk image cannot be a disk.
    #[error(transparent)]
    Disk(#[from] block::Error),
    /// A network card has nothing to be connected to.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// The sockets between host and guest cannot be had.
    #[error(transparent)]
    Vsock(#[from] vsock::Error),
    /// A virtio device cannot be had.
    #[error("cannot put virtio devices into the machine")]
    Virtio(#[source] io::Error),
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
pub fn run(machine: &Description) -> Result<ExitCode, Error> {
    let mut vm = Vm::new(&Config {
        memory: u64::from(machine.memory) << 20,
        cpus: machine.cpus,
        irqchip: machine.irqchip,
    })?;
    let resets = vm
        .vcpus
        .iter()
        .map(state_of)
        .collect::<Result<Vec<_>, _>>()?;
    let console = Console::new(machine.stamp).map_err(system("open standard output"))?;
    let ends = Ends::new(machine, Arc::new(console)).map_err(Error::Virtio)?;
    let devices = virtio::devices(machine, &ends)?;
    let hardware = virtio::hardware(machine, &devices);
    load(&vm, machine, hardware, &resets[0])?;

    // Before any other thread starts, so that none gets the signals.
    let mut signals = Signals::new().map_err(system("receive signals"))?;
    let terminal = RawMode::enter().map_err(system("set up the terminal"))?;
    let ended = drive(
        &mut vm,
        machine,
        Parts {
            devices,
            ends: &ends,
            resets,
        },
        &mut signals,
        terminal.as_ref(),
    );
    drop(terminal);

    let (ended, exits) = ended?;
    let status = match ended {
        Ended::ByGuest(cpu, Ok(end)) => {
            let panicked = match &machine.guest {
                Guest::Linux { cmdline, .. } => linux::has_panicked(&vm.memory, cmdline.as_deref()),
                Guest::Flat { .. } => false,
            };
            end::by_guest(&end, cpu, panicked, &vm)
        }
        Ended::ByGuest(_, Err(error)) => {
            if let cpu::Error::Run { cpu, .. } = error {
                eprint!("{}", Dump::of(&vm.vcpus[cpu], &vm.memory));
            }
            return Err(error.into());
        }
        Ended::FromOutside(Cause::Console) => {
            let error = ends
                .output
                .take_error()
                .unwrap_or(io::ErrorKind::Other.into());
            return Err(cpu::Error::Console(error).into());
        }
        Ended::FromOutside(cause) => end::from_outside(cause),
    };
    if machine.stats {
        eprint!("{}", Summary::new(exits, &vm.vcpus, ends.memory.as_ref()));
    }
    Ok(status)
}

fn state_of(vcpu: &VcpuFd) -> Result<CpuState, Error> {
    Ok(CpuState {
        regs: vcpu.get_regs().map_err(Error::Reset)?,
        sregs: vcpu.get_sregs().map_err(Error::Reset)?,
    })
}

fn load(
    vm: &Vm,
    machine: &Description,
    hardware: acpi::Hardware,
    reset: &CpuState,
) -> Result<(), Error> {
    let (memory, reset) = (&vm.memory, reset.sregs);
    let state = match &machine.guest {
        Guest::Linux {
            kernel,
            initrd,
            cmdline,
            boot,
        } => {
            let source = linux::Source {
                kernel,
                initrd: initrd.as_deref(),
                cmdline: cmdline.as_deref(),
                protocol: *boot,
                console: machine.console.device(),
            };
            linux::load(memory, &vm.ram, &source, hardware, reset)?
        }
        Guest::Flat {
            code,
            load,
            entry,
            mode,
        } => flat::load(memory, code, *load, *entry, *mode, reset)?,
    };
    Ok(vm.set_state(&state)?)
}

/// Who ended the machine.
enum Ended {
    /// A vCPU, and how.
    ByGuest(usize, Result<End, cpu::Error>),
    /// Nobody inside.
    FromOutside(Cause),
}

/// What goes into a machine besides its [`Vm`].
struct Parts<'a> {
    devices: Vec<Box<dyn VirtioDevice>>,
    ends: &'a Ends,
    /// Of each vCPU.
    resets: Vec<CpuState>,
}

/// Runs each vCPU on a thread of its own and passes events on to them from this one. None of the
/// threads is left when this returns.
fn drive(
    vm: &mut Vm,
    machine: &Description,
    parts: Parts<'_>,
    signals: &mut Signals,
    terminal: Option<&RawMode>,
) -> Result<(Ended, Tally), Error> {
    let irqchip = Irqchip::new(machine.irqchip, &vm.vm, machine.cpus);
    let served: Vec<_> = (0..vm.vcpus.len()).map(|cpu| irqchip.serves(cpu)).collect();
    let kicks = vm
        .vcpus
        .iter_mut()
        // SAFETY: the vCPUs are borrowed from the caller, so they stay open while the kicks exist.
        .map(|vcpu| unsafe { Kick::new(vcpu) })
        .collect::<io::Result<Vec<_>>>()
        .map_err(system("handle SIGRTMIN"))?;
    let lines = Lines::new().map_err(Error::Virtio)?;
    let mut board = Board::new(irqchip);
    virtio::attach(parts.devices, vm, machine, &lines, &mut board).map_err(Error::Virtio)?;
    if let Some(input) = &parts.ends.input {
        board.type_into(Arc::clone(input));
    }
    let shared = Shared::new(board, lines, kicks, Arc::clone(&parts.ends.output))
        .map_err(system("make the machine's timer"))?;

    thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut cause = Ok(Cause::Guest);
        for (id, (vcpu, reset)) in vm.vcpus.iter_mut().zip(parts.resets).enumerate() {
            let cpu = Cpu {
                id,
                vcpu,
                shared: &shared,
                reset,
                is_served: served[id],
                pin: machine.pin.get(id % machine.pin.len().max(1)).copied(),
                trace: machine.trace,
                exits: Tally::default(),
            };
            match start_thread(scope, cpu) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    cause = Err(error);
                    break;
                }
            }
        }
        if cause.is_ok() {
            cause = Events::new(&shared, signals, terminal)
                .pass_on()
                .map_err(system("wait for events"));
        }
        shared.end_all();
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let cause = cause?;
        let ended = match shared.take_end() {
            Some((cpu, end)) => Ended::ByGuest(cpu, end),
            None => Ended::FromOutside(cause),
        };
        Ok((ended, shared.exits()))
    })
}

fn start_thread<'scope, 'a: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    mut cpu: Cpu<'a>,
) -> Result<ScopedJoinHandle<'scope, ()>, Error> {
    let running = cpu.shared.begin();
    thread::Builder::new()
        .name(format!("vcpu{}", cpu.id))
        .spawn_scoped(scope, move || {
            // Dropped last, and also by a panic: it ends the wait of the other threads.
            let _running = running;
            let end = cpu.run();
            cpu.shared.add_exits(&cpu.exits);
            cpu.shared.record(cpu.id, end);
        })
        .map_err(system("start a vCPU's thread"))
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}
