// SPDX-License-Identifier: GPL-2.0

//! The VMM around a probe: as little as a VMM can do for each exit.

use std::io;
use std::mem::size_of;

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

use super::cost::Cost;
use super::{ROUNDS, WARM_UP};
use crate::guests::probe::Probe;
use crate::guests::{ports, Error, Machine};

/// Where the guest stores its samples: 64 bits each, those without the instruction first.
const SAMPLES: u64 = 0x10_0000;
/// An address without memory, for the MMIO probe.
const DEVICE: u64 = 0xd000_0000;
/// Memory of which the guest has not touched a page, for the EPT probe.
const FRESH: u64 = 0x1000_0000;
const PAGE: usize = 4096;

/// Measurements of either kind.
const COUNT: usize = WARM_UP + ROUNDS;

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
    let mut regs = vcpu
        .get_regs()
        .map_err(|e| Error::Ioctl("KVM_GET_REGS", e))?;
    regs.rdi = SAMPLES;
    regs.rsi = COUNT as u64;
    regs.r12 = address;
    vcpu.set_regs(&regs)
        .map_err(|e| Error::Ioctl("KVM_SET_REGS", e))?;

    serve(&mut vcpu, probe)?;

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

/// Answers the probe's exits until it is done.
fn serve(vcpu: &mut VcpuFd, probe: &Probe) -> Result<(), Error> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => {}
            Ok(VcpuExit::IoIn(_, data) | VcpuExit::MmioRead(_, data)) => data[0] = 0,
            Ok(VcpuExit::IoOut(ports::DONE, _)) => return Ok(()),
            Ok(other) => {
                let exit = format!("{other:?}");
                let rip = vcpu.get_regs().map(|regs| regs.rip).unwrap_or_default();
                return Err(Error::Exit {
                    guest: probe.guest.name,
                    exit,
                    rip,
                });
            }
            Err(e) if e.errno() == libc::EINTR => {}
            Err(e) => return Err(Error::Ioctl("KVM_RUN", e)),
        }
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
