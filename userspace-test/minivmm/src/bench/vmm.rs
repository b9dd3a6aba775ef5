// SPDX-License-Identifier: GPL-2.0

//! The VMM around a guest that measures: as little as a VMM can do for each exit.

use std::io;
use std::mem::size_of;
use std::sync::atomic::{AtomicBool, Ordering};

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

use super::cost::Cost;
use super::{COUNT, WARM_UP};
use crate::guests::probe::Probe;
use crate::guests::{ports, Error, Guest, Machine, LOAD_ADDRESS};

/// Where the guest stores its samples: 64 bits each, those without the instruction first.
const SAMPLES: u64 = 0x10_0000;
/// An address without memory, for the MMIO probe.
const DEVICE: u64 = 0xd000_0000;
/// Memory of which the guest has not touched a page, for the EPT probe.
const FRESH: u64 = 0x1000_0000;
const PAGE: usize = 4096;

/// What a guest that measures is given at its start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// R12: an address for the guest to use.
    pub address: u64,
    /// R13: the vCPU's number.
    pub vcpu: u64,
    /// RSP.
    pub stack: u64,
}

/// Runs `probe` in a new VM.
///
/// # Errors
///
/// As the KVM calls give them, and [`Error::Exit`] if the probe ends otherwise than it should.
pub fn measure(kvm: &Kvm, probe: &Probe) -> Result<Cost, Error> {
    let mut machine = Machine::new(kvm)?;
    let address = if probe.exit == "ept_fault" {
        add_fresh_memory(&mut machine)?;
        FRESH
    } else {
        DEVICE
    };
    let mut vcpu = machine.vcpu(0)?;
    machine.start_long_mode(&vcpu, probe.guest)?;
    pass(
        &vcpu,
        Start {
            address,
            vcpu: 0,
            stack: LOAD_ADDRESS,
        },
    )?;
    serve(&mut vcpu, probe.guest, &AtomicBool::new(false))?;
    cost(&machine)
}

/// Gives a vCPU that is about to start what its guest wants in registers.
///
/// # Errors
///
/// As KVM_GET_REGS and KVM_SET_REGS give them.
pub fn pass(vcpu: &VcpuFd, start: Start) -> Result<(), Error> {
    let mut regs = vcpu
        .get_regs()
        .map_err(|e| Error::Ioctl("KVM_GET_REGS", e))?;
    regs.rdi = SAMPLES;
    regs.rsi = COUNT as u64;
    regs.r12 = start.address;
    regs.r13 = start.vcpu;
    regs.rsp = start.stack;
    vcpu.set_regs(&regs)
        .map_err(|e| Error::Ioctl("KVM_SET_REGS", e))
}

/// The cost that a guest which is done has measured.
///
/// # Errors
///
/// [`Error::Memory`] if its samples are gone.
pub fn cost(machine: &Machine) -> Result<Cost, Error> {
    let mut bytes = vec![0; 2 * COUNT * size_of::<u64>()];
    machine.read(SAMPLES, &mut bytes)?;
    let samples: Vec<u64> = bytes
        .chunks_exact(size_of::<u64>())
        .map(|word| {
            word.iter()
                .rev()
                .fold(0, |value, &byte| (value << 8) | u64::from(byte))
        })
        .collect();
    let (empty, full) = samples.split_at(COUNT);
    Ok(Cost::of(&full[WARM_UP..], &empty[WARM_UP..]))
}

/// Answers the exits of `guest` until it is done, or until it is interrupted and `over`.
///
/// # Errors
///
/// As KVM_RUN gives them, and [`Error::Exit`] for an exit that no guest that measures has.
pub fn serve(vcpu: &mut VcpuFd, guest: &Guest, over: &AtomicBool) -> Result<(), Error> {
    while !over.load(Ordering::SeqCst) {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => {}
            Ok(VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data)) => data[0] = 0,
            Ok(VcpuExit::IoOut(ports::DONE, _)) => return Ok(()),
            Ok(other) => {
                let exit = format!("{other:?}");
                return Err(unexpected(vcpu, guest, exit));
            }
            Err(e) if e.errno() == libc::EINTR => {}
            Err(e) => return Err(Error::Ioctl("KVM_RUN", e)),
        }
    }
    Ok(())
}

/// The error for an `exit` that `guest` does not have.
pub fn unexpected(vcpu: &VcpuFd, guest: &Guest, exit: String) -> Error {
    Error::Exit {
        guest: guest.name,
        exit,
        rip: vcpu.get_regs().map(|regs| regs.rip).unwrap_or_default(),
    }
}

/// Adds a page of memory for each measurement, which the host has and the guest has not: what
/// remains to be done at the first touch is the EPT alone, and a page at a time.
fn add_fresh_memory(machine: &mut Machine) -> Result<(), Error> {
    let size = (COUNT * PAGE).next_multiple_of(2 << 20);
    let host = machine.add_memory(FRESH, size as u64)?;
    // SAFETY: The range is the mapping that was just made, and advice changes no contents.
    if unsafe { libc::madvise(host.cast(), size, libc::MADV_NOHUGEPAGE) } != 0 {
        let error = io::Error::last_os_error();
        // A host kernel without huge pages has nothing to be advised about.
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(Error::Memory(format!("madvise: {error}")));
        }
    }
    for page in 0..size / PAGE {
        machine.write(FRESH + (page * PAGE) as u64, &[1])?;
    }
    Ok(())
}
