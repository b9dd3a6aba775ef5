// SPDX-License-Identifier: GPL-2.0

//! `minivmm bench memory`: what memory of the kernel a VM and a vCPU take, and what it costs to follow
//! which pages a guest writes (see [`sweep`]).
//!
//! Many are made, and the pages that are not free any more are counted (see [`pages`]). A vCPU's
//! shared pages (KVM_GET_VCPU_MMAP_SIZE) are the ABI's and do not count. There are no memory slots
//! and no second-level tables yet.

mod pages;
mod sweep;

use std::io;
use std::thread::sleep;
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::cost::Cost;
use super::report::{Report, Unit};
use crate::guests::Error;
use pages::Pages;

/// VMs, and vCPUs of one VM, that are made at a time.
const MANY: u64 = 64;
/// Measurements that count. One before them fills the slabs and this program's own tables.
const ROUNDS: usize = 5;
/// Until the kernel has really freed what was closed.
const SETTLE: Duration = Duration::from_millis(500);

/// Measures both and prints them.
///
/// # Errors
///
/// As the KVM calls give them, and where /proc does not have the counters.
pub fn run(json: bool) -> Result<(), Error> {
    let kvm = Kvm::new().map_err(Error::OpenKvm)?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|e| Error::Ioctl("KVM_GET_SUPPORTED_CPUID", e))?;
    let shared = kvm
        .get_vcpu_mmap_size()
        .map_err(|e| Error::Ioctl("KVM_GET_VCPU_MMAP_SIZE", e))?;
    let title = format!("Bytes of kernel memory, {ROUNDS} rounds of {MANY} each");
    let mut report = Report::new(io::stdout().lock(), json, Unit::Bytes, &title)?;
    let vm = measure(|| Ok(()), |(), _| new_vm(&kvm), 0)?;
    report.print("vm_bytes", "a VM with KVM_CREATE_IRQCHIP", vm)?;
    let vcpu = measure(|| new_vm(&kvm), |vm, id| new_vcpu(vm, id, &cpuid), shared)?;
    report.print("vcpu_bytes", "a vCPU, without its shared pages", vcpu)?;
    drop(report);
    let title = "\nTicks of the time-stamp counter";
    let mut report = Report::new(io::stdout().lock(), json, Unit::Ticks, title)?;
    let sweep = sweep::measure(&kvm)?;
    report.print(
        "dirty_sweep",
        "256 MB swept, 1 % of the pages written",
        sweep,
    )?;
    Ok(())
}

/// The bytes that each of [`MANY`] things takes, less `free` that do not count. Each round makes
/// them, with their numbers, in a place of their own.
fn measure<P, T>(
    place: impl Fn() -> Result<P, Error>,
    make: impl Fn(&P, u64) -> Result<T, Error>,
    free: usize,
) -> Result<Cost, Error> {
    let mut samples = Vec::with_capacity(1 + ROUNDS);
    for _ in 0..=ROUNDS {
        let place = place()?;
        sleep(SETTLE);
        let before = Pages::now()?;
        let made = (0..MANY)
            .map(|id| make(&place, id))
            .collect::<Result<Vec<_>, _>>()?;
        let bytes = Pages::now()?.bytes_since(before) / MANY;
        drop((made, place));
        samples.push(bytes.saturating_sub(free as u64));
    }
    Ok(Cost::of(&samples[1..], &[0]))
}

fn new_vm(kvm: &Kvm) -> Result<VmFd, Error> {
    let vm = kvm
        .create_vm()
        .map_err(|e| Error::Ioctl("KVM_CREATE_VM", e))?;
    vm.create_irq_chip()
        .map_err(|e| Error::Ioctl("KVM_CREATE_IRQCHIP", e))?;
    Ok(vm)
}

fn new_vcpu(vm: &VmFd, id: u64, cpuid: &CpuId) -> Result<VcpuFd, Error> {
    let vcpu = vm
        .create_vcpu(id)
        .map_err(|e| Error::Ioctl("KVM_CREATE_VCPU", e))?;
    vcpu.set_cpuid2(cpuid)
        .map_err(|e| Error::Ioctl("KVM_SET_CPUID2", e))?;
    Ok(vcpu)
}
