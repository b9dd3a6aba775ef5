// SPDX-License-Identifier: GPL-2.0

//! A VM's file: VM ioctls.

use arch::{
    addr::{
        Gpa,
        Hva, //
    },
    pit::State, //
};
use kernel::{
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

use super::{
    capability,
    clock,
    copy,
    debugfs::Shown,
    dirty_log,
    eventfd,
    irqchip,
    msr_filter,
    number,
    options,
    pit,
    stats::VmStats,
    vcpu::VcpuFile, //
};
use crate::{
    host::{
        bindings::{
            self,
            kvm_create_device,
            kvm_enable_cap,
            kvm_userspace_memory_region,
            kvm_userspace_memory_region2, //
        },
        file::{
            self,
            FileObject, //
        },
    },
    vm::{
        irq::Mode,
        Backend,
        Region,
        Vm, //
    },
};

/// What stands behind a VM's file.
pub(super) struct VmFile<B: Backend> {
    vm: Arc<Vm<B>>,
    shown: Arc<Shown<B>>,
    xsave_size: usize,
}

impl<B: Backend> VmFile<B> {
    pub(super) fn new(shown: Arc<Shown<B>>, xsave_size: usize) -> Result<Arc<Self>> {
        let file = Self {
            vm: shown.vm.clone(),
            shown,
            xsave_size,
        };
        Ok(Arc::new(file, GFP_KERNEL_ACCOUNT)?)
    }

    fn set_memory_region(&self, arg: usize) -> Result<i32> {
        self.set_region(&copy::read(arg)?)
    }

    /// api.rst, 4.140 KVM_SET_USER_MEMORY_REGION2, which begins as the older one does. What is about
    /// guest_memfd means nothing without KVM_MEM_GUEST_MEMFD, which is refused.
    fn set_memory_region2(&self, arg: usize) -> Result<i32> {
        let region: kvm_userspace_memory_region2 = copy::read(arg)?;
        self.set_region(&kvm_userspace_memory_region {
            slot: region.slot,
            flags: region.flags,
            guest_phys_addr: region.guest_phys_addr,
            memory_size: region.memory_size,
            userspace_addr: region.userspace_addr,
        })
    }

    fn set_region(&self, region: &kvm_userspace_memory_region) -> Result<i32> {
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

    /// api.rst, 4.39 KVM_SET_BOOT_CPU_ID.
    fn set_boot_cpu_id(&self, arg: usize) -> Result<i32> {
        self.vm.set_boot_cpu_id(arg)?;
        Ok(0)
    }

    /// api.rst, 4.37 KVM_ENABLE_CAP.
    fn enable_cap(&self, arg: usize) -> Result<i32> {
        let cap: kvm_enable_cap = copy::read(arg)?;
        if cap.flags != 0 {
            return Err(EINVAL);
        }
        match cap.cap {
            bindings::KVM_CAP_SPLIT_IRQCHIP => irqchip::split(&self.vm, &cap),
            bindings::KVM_CAP_X86_APIC_BUS_CYCLES_NS => irqchip::bus_cycle(&self.vm, &cap),
            bindings::KVM_CAP_DISABLE_QUIRKS2 => {
                self.vm.disable_quirks(cap.args[0])?;
                Ok(0)
            }
            bindings::KVM_CAP_X2APIC_API => irqchip::x2apic_api(&self.vm, &cap),
            bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => dirty_log::set_options(&self.vm, &cap),
            bindings::KVM_CAP_DIRTY_LOG_RING | bindings::KVM_CAP_DIRTY_LOG_RING_ACQ_REL => {
                dirty_log::set_ring(&self.vm, &cap)
            }
            _ => options::enable(&self.vm, cap.cap, &cap.args),
        }
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

/// How many shadow pages there may be: EPT has none, so this is checked and without effect
/// (api.rst, 4.44 KVM_SET_NR_MMU_PAGES).
fn set_nr_mmu_pages(arg: usize) -> Result<i32> {
    /// `KVM_MIN_ALLOC_MMU_PAGES`.
    const LEAST: usize = 64;
    if arg < LEAST {
        return Err(EINVAL);
    }
    Ok(0)
}

impl<B: Backend> Drop for VmFile<B> {
    /// vCPUs that are still open keep the VM, but nobody injects any more.
    fn drop(&mut self) {
        self.vm.irqfds.release();
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
                file::new_fd(|_| VcpuFile::new(this.shown.clone(), vcpu))
            }),
            number::KVM_SET_USER_MEMORY_REGION => this.set_memory_region(arg),
            number::KVM_SET_USER_MEMORY_REGION2 => this.set_memory_region2(arg),
            number::KVM_CHECK_EXTENSION => {
                if arg == bindings::KVM_CAP_X86_APIC_BUS_CYCLES_NS as usize {
                    return Ok(this.vm.apic_bus_cycle() as i32);
                }
                if arg == bindings::KVM_CAP_X2APIC_API as usize {
                    return Ok(irqchip::valid_x2apic_api(&this.vm).into());
                }
                Ok(capability::check(arg, this.xsave_size))
            }
            number::KVM_SET_NR_MMU_PAGES => set_nr_mmu_pages(arg),
            number::KVM_GET_DIRTY_LOG => dirty_log::get(&this.vm, arg),
            number::KVM_CLEAR_DIRTY_LOG => dirty_log::clear(&this.vm, arg),
            number::KVM_RESET_DIRTY_RINGS => this.vm.reset_dirty_rings(),
            number::KVM_CREATE_IRQCHIP => this.vm.create_irqchip(Mode::Kernel).map(|()| 0),
            number::KVM_GET_IRQCHIP => irqchip::get_irqchip(&this.vm, arg),
            number::KVM_SET_IRQCHIP => irqchip::set_irqchip(&this.vm, arg),
            number::KVM_IRQ_LINE => irqchip::irq_line(&this.vm, arg, false),
            number::KVM_IRQ_LINE_STATUS => irqchip::irq_line(&this.vm, arg, true),
            number::KVM_SET_GSI_ROUTING => irqchip::set_gsi_routing(&this.vm, arg),
            number::KVM_SIGNAL_MSI => irqchip::signal_msi(&this.vm, arg),
            number::KVM_CREATE_PIT => this.vm.create_pit(true).map(|()| 0),
            number::KVM_CREATE_PIT2 => pit::create2(&this.vm, arg),
            number::KVM_GET_PIT => pit::get(&this.vm, arg, State::CHANNELS_SIZE),
            number::KVM_SET_PIT => pit::set(&this.vm, arg, State::CHANNELS_SIZE),
            number::KVM_GET_PIT2 => pit::get(&this.vm, arg, State::SIZE),
            number::KVM_SET_PIT2 => pit::set(&this.vm, arg, State::SIZE),
            number::KVM_REINJECT_CONTROL => pit::reinject_control(&this.vm, arg),
            number::KVM_SET_BOOT_CPU_ID => this.set_boot_cpu_id(arg),
            number::KVM_CREATE_DEVICE => {
                // A kernel without VFIO has no device for any VM here.
                let _device: kvm_create_device = copy::read(arg)?;
                Err(ENODEV)
            }
            number::KVM_X86_SET_MSR_FILTER => msr_filter::set(&this.vm, arg),
            number::KVM_ENABLE_CAP => this.enable_cap(arg),
            number::KVM_GET_STATS_FD => file::new_fd(|_| VmStats::new(this.shown.clone())),
            number::KVM_GET_TSC_KHZ => Ok(this.vm.tsc_khz() as i32),
            number::KVM_SET_TSC_KHZ => this.vm.set_tsc_khz(arg as u32).map(|()| 0),
            number::KVM_GET_CLOCK => clock::get(&this.vm, arg),
            number::KVM_SET_CLOCK => clock::set(&this.vm, arg),
            number::KVM_SET_TSS_ADDR => this.set_tss_addr(arg),
            number::KVM_SET_IDENTITY_MAP_ADDR => this.set_identity_map_addr(arg),
            number::KVM_IRQFD => eventfd::irqfd(&this.vm, arg),
            number::KVM_IOEVENTFD => eventfd::ioeventfd(&this.vm.buses, arg),
            number::KVM_REGISTER_COALESCED_MMIO => eventfd::register_coalesced(&this.vm.buses, arg),
            number::KVM_UNREGISTER_COALESCED_MMIO => {
                eventfd::unregister_coalesced(&this.vm.buses, arg)
            }
            _ => Err(ENOTTY),
        }
    }
}
