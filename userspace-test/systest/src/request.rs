// SPDX-License-Identifier: GPL-2.0
//! KVM's ioctl numbers, each with the type of its argument, and the ways to make the call.

use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::ptr::from_mut;

use kvm_bindings::*;

use crate::memory::Mapping;
use crate::sys::{self, Errno};

/// An ioctl whose argument points to a `T` that the kernel reads, writes or both.
pub struct Request<T> {
    /// The number, as `<linux/kvm.h>` makes it.
    pub number: u64,
    argument: PhantomData<fn(T)>,
}

impl<T> Clone for Request<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Request<T> {}

/// `_IOC` of `<asm-generic/ioctl.h>`; the type is KVMIO.
pub const fn ioc(direction: u64, nr: u64, size: usize) -> u64 {
    (direction << 30) | ((size as u64) << 16) | ((KVMIO as u64) << 8) | nr
}

/// A request whose argument the kernel reads.
pub const fn write<T>(nr: u64) -> Request<T> {
    sized(1, nr, size_of::<T>())
}

/// A request whose argument the kernel writes.
pub const fn read<T>(nr: u64) -> Request<T> {
    sized(2, nr, size_of::<T>())
}

/// A request whose argument the kernel reads and writes.
pub const fn read_write<T>(nr: u64) -> Request<T> {
    sized(3, nr, size_of::<T>())
}

/// A request whose number carries the size of the argument's header alone.
pub const fn sized<T>(direction: u64, nr: u64, size: usize) -> Request<T> {
    Request {
        number: ioc(direction, nr, size),
        argument: PhantomData,
    }
}

/// Most MSRs in a list or a call of this suite (the kernel's own limit is below it).
pub const MSR_ROOM: usize = 1024;
/// Most CPUID entries in a call of this suite; the kernel takes at most 256.
pub const CPUID_ROOM: usize = 512;

/// `struct kvm_msrs` with room for its entries.
#[repr(C)]
pub struct Msrs {
    /// Entries in use.
    pub nmsrs: u32,
    /// Unused.
    pub pad: u32,
    /// The MSRs and their values.
    pub entries: [kvm_msr_entry; MSR_ROOM],
}

impl Msrs {
    /// A list of MSRs with their values.
    pub fn new(entries: &[(u32, u64)]) -> Box<Self> {
        let mut list = Box::new(Self {
            nmsrs: entries.len() as u32,
            pad: 0,
            entries: [kvm_msr_entry::default(); MSR_ROOM],
        });
        for (entry, &(index, data)) in list.entries.iter_mut().zip(entries) {
            entry.index = index;
            entry.data = data;
        }
        list
    }
}

/// `struct kvm_msr_list` with room for its entries.
#[repr(C)]
pub struct MsrList {
    /// Entries there is room for, then entries there are.
    pub nmsrs: u32,
    /// The MSRs' numbers.
    pub indices: [u32; MSR_ROOM],
}

impl MsrList {
    /// A list that says it has room for `room` entries.
    pub fn with_room(room: usize) -> Box<Self> {
        assert!(room <= MSR_ROOM);
        Box::new(Self {
            nmsrs: room as u32,
            indices: [0; MSR_ROOM],
        })
    }

    /// The numbers in the list.
    pub fn as_slice(&self) -> &[u32] {
        &self.indices[..self.nmsrs as usize]
    }
}

/// `struct kvm_cpuid2` with room for its entries.
#[repr(C)]
pub struct Cpuid {
    /// Entries there is room for or in use.
    pub nent: u32,
    /// Unused.
    pub padding: u32,
    /// The leaves.
    pub entries: [kvm_cpuid_entry2; CPUID_ROOM],
}

impl Cpuid {
    /// A list that says it has room for `room` entries.
    pub fn with_room(room: usize) -> Box<Self> {
        assert!(room <= CPUID_ROOM);
        Box::new(Self {
            nent: room as u32,
            padding: 0,
            entries: [kvm_cpuid_entry2::default(); CPUID_ROOM],
        })
    }

    /// The leaves in use.
    pub fn as_slice(&self) -> &[kvm_cpuid_entry2] {
        &self.entries[..self.nent as usize]
    }

    /// The leaf `function` with `index`, where it is there.
    pub fn find(&mut self, function: u32, index: u32) -> Option<&mut kvm_cpuid_entry2> {
        let used = self.nent as usize;
        self.entries[..used]
            .iter_mut()
            .find(|e| e.function == function && e.index == index)
    }
}

/// `struct kvm_signal_mask` with the kernel's 8-byte signal set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SignalMask {
    /// Bytes in the set; the kernel takes 8.
    pub len: u32,
    /// Bit n-1 blocks signal n.
    pub sigset: [u8; 8],
}

pub const GET_API_VERSION: u64 = ioc(0, 0x00, 0);
pub const CREATE_VM: u64 = ioc(0, 0x01, 0);
pub const GET_MSR_INDEX_LIST: Request<MsrList> = sized(3, 0x02, 4);
pub const CHECK_EXTENSION: u64 = ioc(0, 0x03, 0);
pub const GET_VCPU_MMAP_SIZE: u64 = ioc(0, 0x04, 0);
pub const GET_SUPPORTED_CPUID: Request<Cpuid> = sized(3, 0x05, 8);
pub const GET_EMULATED_CPUID: Request<Cpuid> = sized(3, 0x09, 8);
pub const GET_MSR_FEATURE_INDEX_LIST: Request<MsrList> = sized(3, 0x0a, 4);
pub const CREATE_VCPU: u64 = ioc(0, 0x41, 0);
pub const GET_STATS_FD: u64 = ioc(0, 0xce, 0);
pub const SET_NR_MMU_PAGES: u64 = ioc(0, 0x44, 0);
pub const GET_DIRTY_LOG: Request<kvm_dirty_log> = write(0x42);
pub const SET_USER_MEMORY_REGION: Request<kvm_userspace_memory_region> = write(0x46);
pub const SET_TSS_ADDR: u64 = ioc(0, 0x47, 0);
pub const SET_IDENTITY_MAP_ADDR: Request<u64> = write(0x48);
pub const RUN: u64 = ioc(0, 0x80, 0);
pub const GET_REGS: Request<kvm_regs> = read(0x81);
pub const SET_REGS: Request<kvm_regs> = write(0x82);
pub const GET_SREGS: Request<kvm_sregs> = read(0x83);
pub const SET_SREGS: Request<kvm_sregs> = write(0x84);
pub const TRANSLATE: Request<kvm_translation> = read_write(0x85);
pub const INTERRUPT: Request<kvm_interrupt> = write(0x86);
pub const GET_MSRS: Request<Msrs> = sized(3, 0x88, 8);
pub const SET_MSRS: Request<Msrs> = sized(1, 0x89, 8);
pub const SET_SIGNAL_MASK: Request<SignalMask> = sized(1, 0x8b, 4);
/// Without a mask the argument is NULL.
pub const SET_SIGNAL_MASK_NONE: u64 = SET_SIGNAL_MASK.number;
pub const GET_FPU: Request<kvm_fpu> = read(0x8c);
pub const SET_FPU: Request<kvm_fpu> = write(0x8d);
pub const SET_CPUID2: Request<Cpuid> = sized(1, 0x90, 8);
pub const GET_CPUID2: Request<Cpuid> = sized(3, 0x91, 8);
pub const GET_MP_STATE: Request<kvm_mp_state> = read(0x98);
pub const SET_MP_STATE: Request<kvm_mp_state> = write(0x99);
pub const NMI: u64 = ioc(0, 0x9a, 0);
pub const SET_GUEST_DEBUG: Request<kvm_guest_debug> = write(0x9b);
pub const GET_VCPU_EVENTS: Request<kvm_vcpu_events> = read(0x9f);
pub const SET_VCPU_EVENTS: Request<kvm_vcpu_events> = write(0xa0);
pub const GET_DEBUGREGS: Request<kvm_debugregs> = read(0xa1);
pub const SET_DEBUGREGS: Request<kvm_debugregs> = write(0xa2);
pub const SET_TSC_KHZ: u64 = ioc(0, 0xa2, 0);
pub const GET_TSC_KHZ: u64 = ioc(0, 0xa3, 0);
pub const GET_XSAVE: Request<kvm_xsave> = read(0xa4);
pub const SET_XSAVE: Request<kvm_xsave> = write(0xa5);
pub const GET_XCRS: Request<kvm_xcrs> = read(0xa6);
pub const SET_XCRS: Request<kvm_xcrs> = write(0xa7);
pub const CLEAR_DIRTY_LOG: Request<kvm_clear_dirty_log> = read_write(0xc0);
pub const RESET_DIRTY_RINGS: u64 = ioc(0, 0xc7, 0);
pub const PRE_FAULT_MEMORY: Request<kvm_pre_fault_memory> = read_write(0xd5);
pub const GET_SREGS2: Request<kvm_sregs2> = read(0xcc);
pub const SET_SREGS2: Request<kvm_sregs2> = write(0xcd);
/// Takes a buffer whose size KVM_CAP_XSAVE2 tells; see [`KvmFd::at`].
pub const GET_XSAVE2: u64 = ioc(2, 0xcf, size_of::<kvm_xsave>());

/// An address at which nothing is ever mapped: just below the end of the lower half.
pub const BAD_ADDRESS: u64 = 0x7fff_ffff_e000;

/// A descriptor that takes KVM's ioctls.
pub trait KvmFd: AsRawFd {
    /// An ioctl whose argument is a number, or one that does not exist.
    fn call(&self, number: u64, argument: u64) -> Result<i32, Errno> {
        assert!(
            number >> 16 == 0 || argument == 0,
            "an ioctl with a number for argument"
        );
        // SAFETY: requests of size 0 touch no memory, and at NULL there is none.
        unsafe { sys::ioctl(self.as_raw_fd(), number, argument) }
    }

    /// An ioctl that fills in a structure.
    fn get<T: Default>(&self, request: Request<T>) -> Result<T, Errno> {
        let mut value = T::default();
        self.update(request, &mut value).map(|_| value)
    }

    /// An ioctl that reads a structure.
    fn set<T>(&self, request: Request<T>, value: &T) -> Result<i32, Errno> {
        assert!(request.number >> 30 == 1, "an ioctl that only reads");
        let address = std::ptr::from_ref(value) as u64;
        // SAFETY: the request reads at most a `T`, and `value` is one.
        unsafe { sys::ioctl(self.as_raw_fd(), request.number, address) }
    }

    /// An ioctl that reads and changes a structure.
    fn update<T>(&self, request: Request<T>, value: &mut T) -> Result<i32, Errno> {
        // SAFETY: the request touches at most a `T`, and `value` is one of our own.
        unsafe { sys::ioctl(self.as_raw_fd(), request.number, from_mut(value) as u64) }
    }

    /// An ioctl with an address that is not mapped.
    fn fault(&self, number: u64) -> Result<i32, Errno> {
        // SAFETY: nothing is mapped at the address.
        unsafe { sys::ioctl(self.as_raw_fd(), number, BAD_ADDRESS) }
    }

    /// An ioctl whose structure lies at `offset` of `place` and may reach past its end, where
    /// nothing is mapped.
    fn at(&self, number: u64, place: &Mapping, offset: usize) -> Result<i32, Errno> {
        assert!(offset <= place.len() && place.is_guarded());
        let address = place.address() + offset as u64;
        // SAFETY: from `address` on there is the mapping, of which Rust knows no objects, then a
        // page without access.
        unsafe { sys::ioctl(self.as_raw_fd(), number, address) }
    }
}
