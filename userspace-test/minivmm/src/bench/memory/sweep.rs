// SPDX-License-Identifier: GPL-2.0

//! What a round of a migration costs: the VMM asks which pages were written, has the kernel note the
//! next writes to them, and the guest writes as many again.
//!
//! 256 MiB of guest memory, large pages where the kernel has them, all of it mapped; one page of a
//! hundred is written between two rounds. Copying pages is no part of it.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_dirty_log,
    kvm_dirty_log__bindgen_ty_1, kvm_enable_cap, kvm_userspace_memory_region,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, KVM_MEM_LOG_DIRTY_PAGES,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_iow_nr, ioctl_iowr_nr};

use crate::bench::cost::Cost;
use crate::bench::{tsc, vmm};
use crate::guests::page_writer::PAGE_WRITER;
use crate::guests::{ports, Error, Machine};

const PAGE: u64 = 4096;
/// Bytes of the memory that is swept.
const SIZE: u64 = 256 << 20;
/// Where it lies.
const START: u64 = 0x4000_0000;
/// One page of so many is written.
const STEP: u64 = 100;
/// Rounds before those that count. The first splits large pages.
const WARM_UP: usize = 2;
/// Rounds that count.
const ROUNDS: usize = 16;

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, 0xae, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, 0xae, 0xc0, kvm_clear_dirty_log);

/// Measures a round.
///
/// # Errors
///
/// As the KVM calls give them, and [`Error::Memory`] if the log is not what the guest wrote.
pub fn measure(kvm: &Kvm) -> Result<Cost, Error> {
    let mut machine = Machine::new(kvm)?;
    let host = machine.add_memory(START, SIZE)?;
    // SAFETY: The range is the mapping that was just made, and advice changes no contents; without
    // large pages the kernel refuses it.
    unsafe { libc::madvise(host.cast(), SIZE as usize, libc::MADV_HUGEPAGE) };
    let mut vcpu = machine.vcpu(0)?;
    machine.start_long_mode(&vcpu, &PAGE_WRITER)?;

    write_pages(&mut vcpu, 1)?;
    let mut log = Log::start(&machine, host as u64)?;
    let mut samples = Vec::with_capacity(ROUNDS);
    for round in 0..WARM_UP + ROUNDS {
        let start = tsc::read();
        let pages = log.sweep()?;
        write_pages(&mut vcpu, STEP)?;
        let ticks = tsc::read().wrapping_sub(start);
        if round >= WARM_UP {
            if pages != SIZE / PAGE / STEP {
                return Err(Error::Memory(format!("{pages} pages count as written")));
            }
            samples.push(ticks);
        }
    }
    Ok(Cost::of(&samples, &[0]))
}

/// Lets the guest write one page of `step`.
fn write_pages(vcpu: &mut VcpuFd, step: u64) -> Result<(), Error> {
    let mut regs = vcpu
        .get_regs()
        .map_err(|e| Error::Ioctl("KVM_GET_REGS", e))?;
    regs.r12 = START;
    regs.r13 = step * PAGE;
    regs.r14 = SIZE / PAGE / step;
    vcpu.set_regs(&regs)
        .map_err(|e| Error::Ioctl("KVM_SET_REGS", e))?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(ports::DONE, _)) => return Ok(()),
            Ok(other) => {
                let exit = format!("{other:?}");
                return Err(vmm::unexpected(vcpu, &PAGE_WRITER, exit));
            }
            Err(e) if e.errno() == libc::EINTR => {}
            Err(e) => return Err(Error::Ioctl("KVM_RUN", e)),
        }
    }
}

/// The log of the slot.
struct Log<'a> {
    machine: &'a Machine,
    slot: u32,
    bitmap: Vec<u64>,
}

impl<'a> Log<'a> {
    /// Turns it on: the VMM clears it by itself, and at first all pages count as written.
    fn start(machine: &'a Machine, host: u64) -> Result<Self, Error> {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            ..Default::default()
        };
        cap.args[0] = (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET).into();
        machine
            .vm()
            .enable_cap(&cap)
            .map_err(|e| Error::Ioctl("KVM_ENABLE_CAP", e))?;
        let slot = machine.last_slot();
        let region = kvm_userspace_memory_region {
            slot,
            guest_phys_addr: START,
            memory_size: SIZE,
            userspace_addr: host,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
        };
        // SAFETY: The slot stays where it is.
        unsafe { machine.vm().set_user_memory_region(region) }
            .map_err(|e| Error::Ioctl("KVM_SET_USER_MEMORY_REGION", e))?;
        Ok(Self {
            machine,
            slot,
            bitmap: vec![0; (SIZE / PAGE / 64) as usize],
        })
    }

    /// Reads the log and clears what was set in it. Returns how many pages that were.
    fn sweep(&mut self) -> Result<u64, Error> {
        let get = kvm_dirty_log {
            slot: self.slot,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 {
                dirty_bitmap: self.bitmap.as_mut_ptr().cast(),
            },
            ..Default::default()
        };
        // SAFETY: The bitmap has a bit for each page of the slot.
        check("KVM_GET_DIRTY_LOG", unsafe {
            ioctl_with_ref(&self.machine.vm().as_raw_fd(), KVM_GET_DIRTY_LOG(), &get)
        })?;
        let mut clear = kvm_clear_dirty_log {
            slot: self.slot,
            num_pages: (SIZE / PAGE) as u32,
            first_page: 0,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
                dirty_bitmap: self.bitmap.as_mut_ptr().cast(),
            },
        };
        // SAFETY: As above.
        check("KVM_CLEAR_DIRTY_LOG", unsafe {
            let vm = self.machine.vm().as_raw_fd();
            ioctl_with_mut_ref(&vm, KVM_CLEAR_DIRTY_LOG(), &mut clear)
        })?;
        let pages = self.bitmap.iter().map(|word| word.count_ones());
        Ok(pages.map(u64::from).sum())
    }
}

fn check(call: &'static str, result: i32) -> Result<(), Error> {
    if result < 0 {
        return Err(Error::Ioctl(call, kvm_ioctls::Error::last()));
    }
    Ok(())
}
