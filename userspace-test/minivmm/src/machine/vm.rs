// SPDX-License-Identifier: GPL-2.0

//! The virtual machine as KVM sees it: memory slots and one vCPU.

use kvm_bindings::{kvm_msr_entry, kvm_userspace_memory_region, CpuId, Msrs, KVM_API_VERSION};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;

use crate::boot::layout::{self, Range};
use crate::boot::{cpuid, CpuState};

/// Entries asked for of KVM_GET_SUPPORTED_CPUID: more than any processor has leaves.
const CPUID_ENTRIES: usize = 256;
/// IA32_MTRR_DEF_TYPE: MTRRs on, everything write-back. Firmware would have set this.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;

/// Why there is no virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// /dev/kvm cannot be opened.
    #[error("cannot open /dev/kvm ({error}): {hint}")]
    Open {
        /// What the system said.
        error: errno::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// The API is another one.
    #[error("/dev/kvm speaks version {version} of the KVM API, and minivmm version 12")]
    ApiVersion {
        /// The version it speaks.
        version: i32,
    },
    /// A capability is missing.
    #[error("/dev/kvm lacks {capability:?}, which minivmm needs")]
    Missing {
        /// The capability.
        capability: Cap,
    },
    /// An ioctl failed.
    #[error("{call} failed")]
    Call {
        /// Which.
        call: &'static str,
        /// What the system said.
        source: errno::Error,
    },
    /// Guest memory could not be had.
    #[error("cannot have {mib} MiB of memory for the guest (try a smaller --memory)")]
    Memory {
        /// How much, in MiB.
        mib: u64,
        /// What the system said.
        source: vm_memory::Error,
    },
}

/// A virtual machine with one vCPU and memory, nothing in it yet.
///
/// The order of the fields is that of their drop: memory goes when no vCPU and no VM uses it.
pub struct Vm {
    /// The vCPU.
    pub vcpu: VcpuFd,
    /// The VM; open as long as the vCPU is.
    _vm: VmFd,
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// Where it lies.
    pub ram: Vec<Range>,
}

impl Vm {
    /// Makes one with `size` bytes of memory.
    ///
    /// # Errors
    ///
    /// What /dev/kvm, or the system, refuses.
    pub fn new(size: u64) -> Result<Self, Error> {
        let kvm = open()?;
        let vm = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        // What a processor without unrestricted guest needs; harmless on others.
        vm.set_identity_map_address(layout::IDENTITY_MAP.raw_value())
            .map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(layout::TSS.raw_value() as usize)
            .map_err(call("KVM_SET_TSS_ADDR"))?;

        let ram = layout::ram(size);
        let memory = GuestMemoryMmap::from_ranges(&ram).map_err(|source| Error::Memory {
            mib: size >> 20,
            source,
        })?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            // SAFETY: the region is a mapping of its own that nothing else uses as Rust memory,
            // and the order of the fields keeps it for longer than the VM.
            unsafe { vm.set_user_memory_region(region) }
                .map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        }

        let vcpu = vm.create_vcpu(0).map_err(call("KVM_CREATE_VCPU"))?;
        set_cpuid(&kvm, &vcpu)?;
        set_memory_types(&vcpu);
        Ok(Self {
            vcpu,
            _vm: vm,
            memory,
            ram,
        })
    }

    /// Puts the vCPU into a state.
    ///
    /// # Errors
    ///
    /// What KVM refuses.
    pub fn set_state(&self, state: &CpuState) -> Result<(), Error> {
        self.vcpu
            .set_sregs(&state.sregs)
            .map_err(call("KVM_SET_SREGS"))?;
        self.vcpu
            .set_regs(&state.regs)
            .map_err(call("KVM_SET_REGS"))
    }
}

/// Opens /dev/kvm and checks that it is one minivmm can use.
///
/// # Errors
///
/// [`Error::Open`], [`Error::ApiVersion`] or [`Error::Missing`].
pub fn open() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|error| Error::Open {
        error,
        hint: hint(error.errno()),
    })?;
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(Error::ApiVersion { version });
    }
    for capability in [Cap::UserMemory, Cap::ExtCpuid, Cap::ImmediateExit] {
        if !kvm.check_extension(capability) {
            return Err(Error::Missing { capability });
        }
    }
    Ok(kvm)
}

/// What to do when /dev/kvm cannot be opened.
fn hint(errno: i32) -> &'static str {
    match errno {
        libc::ENOENT => {
            "load a KVM module (insmod kvm.ko, or modprobe kvm_intel); `minivmm info` \
                         says whether this processor can do it"
        }
        libc::EACCES | libc::EPERM => "be root, or join the group that may (usually kvm)",
        libc::ENODEV | libc::ENXIO => {
            "the device is there and no module behind it; `dmesg` says why it went"
        }
        _ => "`dmesg` may say why",
    }
}

fn set_cpuid(kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), Error> {
    let supported = kvm
        .get_supported_cpuid(CPUID_ENTRIES)
        .map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
    let entries = cpuid::for_this_machine(supported.as_slice(), vcpu.get_tsc_khz().ok());
    let entries = CpuId::from_entries(&entries).expect("fewer entries than KVM allows");
    vcpu.set_cpuid2(&entries).map_err(call("KVM_SET_CPUID2"))
}

/// Says that memory is write-back. Where KVM knows no MTRRs it is all the same.
fn set_memory_types(vcpu: &VcpuFd) {
    let entry = kvm_msr_entry {
        index: MTRR_DEF_TYPE,
        data: MTRR_ENABLED_WRITE_BACK,
        ..Default::default()
    };
    let msrs = Msrs::from_entries(&[entry]).expect("one entry");
    let _ = vcpu.set_msrs(&msrs);
}

fn call(call: &'static str) -> impl FnOnce(errno::Error) -> Error {
    move |source| Error::Call { call, source }
}
