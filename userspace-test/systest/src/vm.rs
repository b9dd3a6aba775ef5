// SPDX-License-Identifier: GPL-2.0
//! The system's and a VM's descriptors.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use kvm_bindings::kvm_userspace_memory_region;

use crate::expect;
use crate::harness::own;
use crate::memory::Mapping;
use crate::request::{self, KvmFd};
use crate::sys::{self, Errno};
use crate::vcpu::Vcpu;

/// `/dev/kvm`.
pub struct Kvm(OwnedFd);

impl AsRawFd for Kvm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
impl KvmFd for Kvm {}

impl Kvm {
    /// Opens the device.
    #[track_caller]
    pub fn open() -> Self {
        Self(expect::ok(
            "open /dev/kvm",
            sys::open("/dev/kvm", libc::O_RDWR),
        ))
    }

    /// Makes a VM of the default type.
    #[track_caller]
    pub fn create_vm(&self) -> Vm {
        let fd = expect::ok("KVM_CREATE_VM", self.call(request::CREATE_VM, 0));
        Vm(own(fd))
    }

    /// Bytes to map of a vCPU.
    #[track_caller]
    pub fn mmap_size(&self) -> usize {
        let size = self.call(request::GET_VCPU_MMAP_SIZE, 0);
        expect::ok("KVM_GET_VCPU_MMAP_SIZE", size) as usize
    }

    /// What a capability is worth; 0 where it is not there.
    #[track_caller]
    pub fn extension(&self, capability: u32) -> i32 {
        let value = self.call(request::CHECK_EXTENSION, capability.into());
        expect::ok("KVM_CHECK_EXTENSION", value)
    }

    /// All the CPUID leaves that KVM can give a guest.
    #[track_caller]
    pub fn supported_cpuid(&self) -> Box<request::Cpuid> {
        let mut cpuid = request::Cpuid::with_room(256);
        let done = self.update(request::GET_SUPPORTED_CPUID, &mut cpuid);
        expect::ok("KVM_GET_SUPPORTED_CPUID", done);
        cpuid
    }
}

/// A VM.
pub struct Vm(pub OwnedFd);

impl AsRawFd for Vm {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
impl KvmFd for Vm {}

/// A memory slot of a VM.
#[derive(Clone, Copy)]
pub struct Slot {
    /// Its number.
    pub slot: u32,
    /// `KVM_MEM_*`.
    pub flags: u32,
    /// Where the guest sees it, bytes.
    pub gpa: u64,
    /// Its size, bytes.
    pub size: u64,
    /// Where it is in this process.
    pub hva: u64,
}

impl Vm {
    /// A VM on a device opened for it alone.
    #[track_caller]
    pub fn new() -> Self {
        Kvm::open().create_vm()
    }

    /// Makes a vCPU.
    #[track_caller]
    pub fn create_vcpu(&self, id: u64) -> Vcpu {
        let fd = expect::ok("KVM_CREATE_VCPU", self.call(request::CREATE_VCPU, id));
        Vcpu::new(own(fd))
    }

    /// Adds, moves, changes or deletes (size 0) a slot.
    pub fn set_slot(&self, slot: Slot) -> Result<i32, Errno> {
        let region = kvm_userspace_memory_region {
            slot: slot.slot,
            flags: slot.flags,
            guest_phys_addr: slot.gpa,
            memory_size: slot.size,
            userspace_addr: slot.hva,
        };
        self.set(request::SET_USER_MEMORY_REGION, &region)
    }

    /// Makes all of `memory` the guest's memory from `gpa` on.
    #[track_caller]
    pub fn add_memory(&self, slot: u32, gpa: u64, memory: &Mapping) {
        let done = self.set_slot(Slot::of(slot, gpa, memory));
        expect::ok("KVM_SET_USER_MEMORY_REGION", done);
    }
}

impl Slot {
    /// The slot that shows all of `memory` at `gpa`.
    pub fn of(slot: u32, gpa: u64, memory: &Mapping) -> Self {
        Self {
            slot,
            flags: 0,
            gpa,
            size: memory.len() as u64,
            hva: memory.address(),
        }
    }
}
