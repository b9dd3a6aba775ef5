// SPDX-License-Identifier: GPL-2.0

//! /dev/kvm: system ioctls.

use kernel::{
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

use super::{
    capability,
    copy,
    cpuid,
    debugfs::SystemDir,
    mce,
    msr,
    number,
    vm::VmFile, //
};
use crate::{
    host::{
        bindings::{
            self,
            kvm_device_attr, //
        },
        file::{
            self,
            FileObject, //
        },
        fpu::GuestFpu,
        shared, //
    },
    vm::{
        Backend,
        Vm, //
    },
};

/// Pages of a vCPU's mapping: `kvm_run`, the data of port I/O and the ring of coalesced writes.
const VCPU_PAGES: usize = 3;

/// What stands behind /dev/kvm.
pub(crate) struct System<B: Backend> {
    backend: Arc<B>,
    debugfs: SystemDir<B>,
    /// Bytes in a guest's XSAVE area as user space sees it.
    xsave_size: usize,
}

impl<B: Backend> System<B> {
    /// The system on `backend`.
    pub(crate) fn new(backend: Arc<B>) -> Result<Self> {
        Ok(Self {
            debugfs: SystemDir::new(backend.clone())?,
            backend,
            xsave_size: GuestFpu::new()?.uabi_size(),
        })
    }
}

impl<B: Backend> FileObject for System<B> {
    const NAME: &'static CStr = c"kvm";

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<i32> {
        match cmd {
            number::KVM_GET_API_VERSION if arg == 0 => Ok(bindings::KVM_API_VERSION as i32),
            number::KVM_GET_VCPU_MMAP_SIZE if arg == 0 => Ok((VCPU_PAGES * shared::SIZE) as i32),
            number::KVM_CREATE_VM => {
                // The only type of VM is the default one.
                if arg != 0 {
                    return Err(EINVAL);
                }
                let vm = Vm::new(this.backend.clone())?;
                file::new_fd(|fd| VmFile::new(this.debugfs.show(vm, fd)?, this.xsave_size))
            }
            number::KVM_CHECK_EXTENSION => Ok(capability::check(arg, this.xsave_size)),
            number::KVM_GET_SUPPORTED_CPUID => {
                let xcr0 = supported_xcr0();
                cpuid::get_supported(arg, &this.backend.cpuid_hardware(xcr0))
            }
            number::KVM_GET_EMULATED_CPUID => cpuid::get_emulated(arg),
            number::KVM_HAS_DEVICE_ATTR => attribute(arg, false),
            number::KVM_GET_DEVICE_ATTR => attribute(arg, true),
            number::KVM_GET_MSR_INDEX_LIST => msr::get_list(arg, crate::vm::SAVED_MSRS),
            number::KVM_GET_MSR_FEATURE_INDEX_LIST => msr::get_list(arg, crate::vm::FEATURE_MSRS),
            number::KVM_GET_MSRS => msr::get_system(arg),
            number::KVM_X86_GET_MCE_CAP_SUPPORTED => mce::supported(arg),
            _ => Err(EINVAL),
        }
    }
}

/// KVM_HAS_DEVICE_ATTR and KVM_GET_DEVICE_ATTR (api.rst, 4.80 and 4.81): XCR0 bits that guests can
/// be given.
fn attribute(arg: usize, get: bool) -> Result<i32> {
    let attribute: kvm_device_attr = copy::read(arg)?;
    if attribute.group != 0 || attribute.attr != u64::from(bindings::KVM_X86_XCOMP_GUEST_SUPP) {
        return Err(ENXIO);
    }
    if get {
        copy::write(attribute.addr as usize, &supported_xcr0())?;
    }
    Ok(0)
}

/// XCR0 bits that guests can be given: those the kernel runs with and allows, but for what needs
/// switching that is not done here (PKRU, AMX).
pub(super) fn supported_xcr0() -> u64 {
    const X87_SSE_AVX_AVX512: u64 = 0xe7;
    GuestFpu::host_xcr0() & GuestFpu::permitted() & X87_SSE_AVX_AVX512
}
