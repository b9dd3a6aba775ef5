// SPDX-License-Identifier: GPL-2.0

//! One run of a vCPU and why it came back.

use kvm_bindings as kvm;
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno;

/// Which way a port access goes, as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// IN and INS.
    In,
    /// OUT and OUTS.
    Out,
}

/// A port access, or several of one string instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pio {
    /// Which way.
    pub direction: Direction,
    /// The port.
    pub port: u16,
    /// Bytes in one access: 1, 2 or 4.
    pub width: usize,
    /// Accesses.
    pub count: usize,
}

/// Details of KVM_EXIT_INTERNAL_ERROR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InternalError {
    /// KVM_INTERNAL_ERROR_*.
    pub suberror: u32,
    /// What comes with it.
    pub data: Vec<u64>,
    /// Bytes of the instruction KVM could not emulate, where it gives them.
    pub instruction: Vec<u8>,
}

/// Why KVM_RUN came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A port access; [`pio_data`] has its bytes.
    Io(Pio),
    /// A load from an address without memory; [`mmio_data`] takes what it gives.
    MmioRead {
        /// Guest-physical address.
        address: u64,
    },
    /// A store to an address without memory; [`mmio_data`] has what was stored.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
    },
    /// HLT.
    Halt,
    /// An end of interrupt that an IOAPIC in user space wants to know of.
    IoapicEoi {
        /// The interrupt's vector.
        vector: u8,
    },
    /// The guest lowered its task priority (CR8).
    SetTpr,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// A signal, or `immediate_exit`.
    Interrupted,
    /// Triple fault.
    Shutdown,
    /// The processor refused to enter the guest.
    FailEntry {
        /// The reason the hardware gave.
        reason: u64,
        /// Host CPU it happened on.
        cpu: u32,
    },
    /// KVM could not go on.
    InternalError(InternalError),
    /// An exit this machine has not asked for; its number.
    Other(u32),
}

/// Runs the vCPU until it needs the VMM.
///
/// # Errors
///
/// The errno of KVM_RUN, other than those that say "again".
pub fn run(vcpu: &mut VcpuFd) -> Result<Exit, errno::Error> {
    let exit = match vcpu.run() {
        Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => None,
        Ok(VcpuExit::MmioRead(address, _)) => Some(Exit::MmioRead { address }),
        Ok(VcpuExit::MmioWrite(address, _)) => Some(Exit::MmioWrite { address }),
        Ok(VcpuExit::IoapicEoi(vector)) => Some(Exit::IoapicEoi { vector }),
        Ok(VcpuExit::SetTpr) => Some(Exit::SetTpr),
        Ok(VcpuExit::Hlt) => Some(Exit::Halt),
        Ok(VcpuExit::IrqWindowOpen) => Some(Exit::InterruptWindow),
        Ok(VcpuExit::Intr) => Some(Exit::Interrupted),
        Ok(VcpuExit::Shutdown) => Some(Exit::Shutdown),
        Ok(VcpuExit::FailEntry(reason, cpu)) => Some(Exit::FailEntry { reason, cpu }),
        Ok(_) => None,
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            Some(Exit::Interrupted)
        }
        Err(error) => return Err(error),
    };
    Ok(exit.unwrap_or_else(|| from_page(vcpu.get_kvm_run())))
}

/// The exits whose details the `kvm_run` page has to be asked for.
fn from_page(run: &kvm::kvm_run) -> Exit {
    match run.exit_reason {
        kvm::KVM_EXIT_IO => {
            // SAFETY: the exit reason says that this member is the valid one.
            let io = unsafe { run.__bindgen_anon_1.io };
            Exit::Io(Pio {
                direction: if u32::from(io.direction) == kvm::KVM_EXIT_IO_IN {
                    Direction::In
                } else {
                    Direction::Out
                },
                port: io.port,
                width: usize::from(io.size),
                count: io.count as usize,
            })
        }
        kvm::KVM_EXIT_INTERNAL_ERROR => Exit::InternalError(internal_error(run)),
        reason => Exit::Other(reason),
    }
}

fn internal_error(run: &kvm::kvm_run) -> InternalError {
    // SAFETY: the caller has seen KVM_EXIT_INTERNAL_ERROR, so this member is the valid one.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = (internal.ndata as usize).min(internal.data.len());
    let data = internal.data[..count].to_vec();
    let has_bytes = internal.suberror == kvm::KVM_INTERNAL_ERROR_EMULATION
        && data.first().is_some_and(|flags| {
            flags & u64::from(kvm::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0
        });
    let instruction = if has_bytes {
        // A length and up to 15 bytes follow the flags.
        let bytes: Vec<u8> = data[1..]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let length = bytes.first().map_or(0, |length| usize::from(*length));
        bytes.get(1..=length).unwrap_or_default().to_vec()
    } else {
        Vec::new()
    };
    InternalError {
        suberror: internal.suberror,
        data,
        instruction,
    }
}

/// The bytes of the port access that the last run ended with: to be read for OUT, to be filled for
/// IN. Empty after any other exit.
pub fn pio_data(vcpu: &mut VcpuFd) -> &mut [u8] {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != kvm::KVM_EXIT_IO {
        return &mut [];
    }
    // SAFETY: the exit reason says that this member is the valid one.
    let io = unsafe { run.__bindgen_anon_1.io };
    let length = usize::from(io.size) * io.count as usize;
    let page: *mut kvm::kvm_run = run;
    // SAFETY: KVM puts the data within the mapping that begins with `kvm_run`, and the borrow of
    // the vCPU keeps the mapping, and everybody else from using it.
    unsafe {
        std::slice::from_raw_parts_mut(page.cast::<u8>().add(io.data_offset as usize), length)
    }
}

/// The bytes of the access to memory-mapped registers that the last run ended with: to be read for
/// a store, to be filled for a load. Empty after any other exit.
pub fn mmio_data(vcpu: &mut VcpuFd) -> &mut [u8] {
    let run = vcpu.get_kvm_run();
    if run.exit_reason != kvm::KVM_EXIT_MMIO {
        return &mut [];
    }
    // SAFETY: the exit reason says that this member is the valid one.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let length = (mmio.len as usize).min(mmio.data.len());
    &mut mmio.data[..length]
}

/// The bytes of the access that the last run ended with, of either kind.
pub fn data(vcpu: &mut VcpuFd) -> &mut [u8] {
    match vcpu.get_kvm_run().exit_reason {
        kvm::KVM_EXIT_MMIO => mmio_data(vcpu),
        _ => pio_data(vcpu),
    }
}
