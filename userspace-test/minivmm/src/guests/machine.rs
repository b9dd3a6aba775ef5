// SPDX-License-Identifier: GPL-2.0

//! The smallest machine that a guest of ours needs: memory and vCPUs, no devices.

use kvm_bindings::{kvm_sregs, kvm_userspace_memory_region, CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestRegionMmap};

use super::{Error, Guest, LOAD_ADDRESS};
use crate::boot::{layout, state, CpuState};

/// Memory from guest-physical address 0, in bytes.
const LOW_MEMORY: u64 = 4 << 20;

/// CPUID.1:ECX, x2APIC mode.
const X2APIC: u32 = 1 << 21;
/// CPUID.1:ECX, the local APIC's timer has the TSC-deadline mode.
const TSC_DEADLINE_TIMER: u32 = 1 << 24;

/// A VM with a few megabytes of memory.
pub struct Machine {
    vm: VmFd,
    memory: GuestMemoryMmap,
    cpuid: CpuId,
    slots: u32,
}

impl Machine {
    /// Makes a VM with memory from address 0.
    ///
    /// # Errors
    ///
    /// As mmap, KVM_CREATE_VM, KVM_GET_SUPPORTED_CPUID, KVM_SET_TSS_ADDR,
    /// KVM_SET_IDENTITY_MAP_ADDR and KVM_SET_USER_MEMORY_REGION give them.
    pub fn new(kvm: &Kvm) -> Result<Self, Error> {
        let mut machine = Self {
            vm: kvm
                .create_vm()
                .map_err(|e| Error::Ioctl("KVM_CREATE_VM", e))?,
            memory: GuestMemoryMmap::new(),
            cpuid: kvm
                .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
                .map_err(|e| Error::Ioctl("KVM_GET_SUPPORTED_CPUID", e))?,
            slots: 0,
        };
        // Room for what KVM needs on a processor that cannot run real mode as it is.
        machine
            .vm
            .set_tss_address(layout::TSS.0 as usize)
            .map_err(|e| Error::Ioctl("KVM_SET_TSS_ADDR", e))?;
        machine
            .vm
            .set_identity_map_address(layout::IDENTITY_MAP.0)
            .map_err(|e| Error::Ioctl("KVM_SET_IDENTITY_MAP_ADDR", e))?;
        machine.add_memory(0, LOW_MEMORY)?;
        Ok(machine)
    }

    /// As [`Self::new`], with KVM's own interrupt controllers, and vCPUs whose CPUID has x2APIC mode
    /// and the TSC-deadline timer.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and as KVM_CREATE_IRQCHIP gives them.
    pub fn with_irqchip(kvm: &Kvm) -> Result<Self, Error> {
        let mut machine = Self::new(kvm)?;
        machine
            .vm
            .create_irq_chip()
            .map_err(|e| Error::Ioctl("KVM_CREATE_IRQCHIP", e))?;
        // KVM_GET_SUPPORTED_CPUID does not know whether there will be local APICs.
        for entry in machine.cpuid.as_mut_slice() {
            if entry.function == 1 {
                entry.ecx |= X2APIC | TSC_DEADLINE_TIMER;
            }
        }
        Ok(machine)
    }

    /// The VM itself.
    pub fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Gives the VM `size` bytes of fresh memory at guest-physical address `gpa`, as a slot of its
    /// own. Both are multiples of a page. Returns where it lies in this process.
    ///
    /// # Errors
    ///
    /// As mmap and KVM_SET_USER_MEMORY_REGION give them.
    pub fn add_memory(&mut self, gpa: u64, size: u64) -> Result<*mut u8, Error> {
        let memory_error = |e: &dyn std::fmt::Display| Error::Memory(e.to_string());
        let region = GuestRegionMmap::from_range(GuestAddress(gpa), size as usize, None)
            .map_err(|e| memory_error(&e))?;
        let host = region.as_ptr();
        self.memory = self
            .memory
            .insert_region(std::sync::Arc::new(region))
            .map_err(|e| memory_error(&e))?;
        let slot = kvm_userspace_memory_region {
            slot: self.slots,
            guest_phys_addr: gpa,
            memory_size: size,
            userspace_addr: host as u64,
            flags: 0,
        };
        // SAFETY: The mapping is `size` bytes at `host`, nothing else owns it, and it lives in
        // `self.memory`, which is dropped after `self.vm`.
        unsafe { self.vm.set_user_memory_region(slot) }
            .map_err(|e| Error::Ioctl("KVM_SET_USER_MEMORY_REGION", e))?;
        self.slots += 1;
        Ok(host)
    }

    /// The number of the slot that [`Self::add_memory`] made last.
    pub fn last_slot(&self) -> u32 {
        self.slots - 1
    }

    /// Makes the vCPU with number `id`, with all the CPUID that KVM offers, and the guest loaded.
    ///
    /// # Errors
    ///
    /// As KVM_CREATE_VCPU and KVM_SET_CPUID2 give them.
    pub fn vcpu(&self, id: u64) -> Result<VcpuFd, Error> {
        let vcpu = self
            .vm
            .create_vcpu(id)
            .map_err(|e| Error::Ioctl("KVM_CREATE_VCPU", e))?;
        vcpu.set_cpuid2(&self.cpuid)
            .map_err(|e| Error::Ioctl("KVM_SET_CPUID2", e))?;
        Ok(vcpu)
    }

    /// Writes `bytes` to guest memory at `gpa`.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] where there is none.
    pub fn write(&self, gpa: u64, bytes: &[u8]) -> Result<(), Error> {
        self.memory
            .write_slice(bytes, GuestAddress(gpa))
            .map_err(|e| Error::Memory(e.to_string()))
    }

    /// Reads `bytes.len()` bytes of guest memory at `gpa`.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] where there is none.
    pub fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.memory
            .read_slice(bytes, GuestAddress(gpa))
            .map_err(|e| Error::Memory(e.to_string()))
    }

    /// Where guest-physical `gpa` lies in this process.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] where there is no memory.
    pub fn host_address(&self, gpa: u64) -> Result<u64, Error> {
        self.memory
            .get_host_address(GuestAddress(gpa))
            .map(|host| host as u64)
            .map_err(|e| Error::Memory(e.to_string()))
    }

    /// Loads `guest` and makes `vcpu` enter it in real mode.
    ///
    /// A vCPU starts as a CPU does after reset (SDM vol. 3, table 10-1), at 16 bytes below 4 GiB.
    /// Here only the segments and RIP are changed, which is what a firmware's jump to a boot
    /// sector does.
    ///
    /// # Errors
    ///
    /// [`Error::Ioctl`], [`Error::Memory`] or [`Error::Boot`].
    pub fn start_real_mode(&self, vcpu: &VcpuFd, guest: &Guest) -> Result<(), Error> {
        let state = state::real_mode(reset_state(vcpu)?, GuestAddress(LOAD_ADDRESS))?;
        self.start(vcpu, guest, state)
    }

    /// Loads `guest` and makes `vcpu` enter it in 64-bit mode, ring 0, with the lowest 4 GiB
    /// mapped to themselves.
    ///
    /// Setting up such a state is one of a VMM's duties: the kernel takes these registers as they
    /// are and puts them into the VMCS's guest-state area, tables in memory and all.
    ///
    /// # Errors
    ///
    /// [`Error::Ioctl`], [`Error::Memory`] or [`Error::Boot`].
    pub fn start_long_mode(&self, vcpu: &VcpuFd, guest: &Guest) -> Result<(), Error> {
        let entry = GuestAddress(LOAD_ADDRESS);
        let state = state::long_mode(&self.memory, reset_state(vcpu)?, entry)?;
        self.start(vcpu, guest, state)
    }

    fn start(&self, vcpu: &VcpuFd, guest: &Guest, mut state: CpuState) -> Result<(), Error> {
        self.write(LOAD_ADDRESS, guest.image())?;
        state.regs.rsp = LOAD_ADDRESS;
        vcpu.set_sregs(&state.sregs)
            .map_err(|e| Error::Ioctl("KVM_SET_SREGS", e))?;
        vcpu.set_regs(&state.regs)
            .map_err(|e| Error::Ioctl("KVM_SET_REGS", e))
    }
}

fn reset_state(vcpu: &VcpuFd) -> Result<kvm_sregs, Error> {
    vcpu.get_sregs()
        .map_err(|e| Error::Ioctl("KVM_GET_SREGS", e))
}
