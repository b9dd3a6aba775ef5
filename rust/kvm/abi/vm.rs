// SPDX-License-Identifier: GPL-2.0

//! A VM's file: VM ioctls.

use arch::addr::{
    Gpa,
    Hva, //
};
use kernel::{
    debugfs::Dir,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

use super::{
    capability,
    copy,
    eventfd,
    number,
    vcpu::VcpuFile, //
};
use crate::{
    host::{
        bindings::kvm_userspace_memory_region,
        file::{
            self,
            FileObject, //
        },
    },
    vm::{
        Backend,
        Region,
        Vm, //
    },
};

/// What stands behind a VM's file.
pub(super) struct VmFile<B: Backend> {
    vm: Arc<Vm<B>>,
    debugfs: Dir,
    xsave_size: usize,
}

impl<B: Backend> VmFile<B> {
    pub(super) fn new(vm: Arc<Vm<B>>, debugfs: Dir, xsave_size: usize) -> Result<Arc<Self>> {
        let file = Self {
            vm,
            debugfs,
            xsave_size,
        };
        Ok(Arc::new(file, GFP_KERNEL_ACCOUNT)?)
    }

    fn set_memory_region(&self, arg: usize) -> Result<i32> {
        let region: kvm_userspace_memory_region = copy::read(arg)?;
        self.vm.memory.set_region(&Region {
            slot: region.slot,
            flags: region.flags,
            gpa: Gpa(region.guest_phys_addr),
            size: region.memory_size,
            hva: Hva(region.userspace_addr),
        })?;
        Ok(0)
    }

    /// Hardware with unrestricted guests needs no task state for real mode; three pages below 4 GiB
    /// must fit all the same (api.rst, 4.37 KVM_SET_TSS_ADDR).
    fn set_tss_addr(&self, arg: usize) -> Result<i32> {
        const THREE_PAGES: u32 = 3 * 4096;
        if arg > (u32::MAX - THREE_PAGES + 1) as usize {
            return Err(EINVAL);
        }
        Ok(0)
    }

    /// As above (api.rst, 4.41 KVM_SET_IDENTITY_MAP_ADDR).
    fn set_identity_map_addr(&self, arg: usize) -> Result<i32> {
        if self.vm.has_vcpus() {
            return Err(EINVAL);
        }
        let _unused: u64 = copy::read(arg)?;
        Ok(0)
    }
}

impl<B: Backend> FileObject for VmFile<B> {
    const NAME: &'static CStr = c"kvm-vm";

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<i32> {
        if !this.vm.memory.mm.is_current() {
            return Err(EIO);
        }
        match cmd {
            number::KVM_CREATE_VCPU => this.vm.create_vcpu(arg, |vcpu| {
                file::new_fd(|_| VcpuFile::new(this.vm.clone(), vcpu, &this.debugfs))
            }),
            number::KVM_SET_USER_MEMORY_REGION => this.set_memory_region(arg),
            number::KVM_CHECK_EXTENSION => Ok(capability::check(arg, this.xsave_size)),
            number::KVM_SET_TSS_ADDR => this.set_tss_addr(arg),
            number::KVM_SET_IDENTITY_MAP_ADDR => this.set_identity_map_addr(arg),
            number::KVM_IOEVENTFD => eventfd::ioeventfd(&this.vm.buses, arg),
            number::KVM_REGISTER_COALESCED_MMIO => eventfd::register_coalesced(&this.vm.buses, arg),
            number::KVM_UNREGISTER_COALESCED_MMIO => {
                eventfd::unregister_coalesced(&this.vm.buses, arg)
            }
            _ => Err(ENOTTY),
        }
    }
}
