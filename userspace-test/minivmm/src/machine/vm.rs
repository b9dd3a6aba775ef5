// SPDX-License-Identifier: GPL-2.0

//! The virtual machine as KVM sees it: memory slots, interrupt controllers and vCPUs.

use std::sync::Arc;

use kvm_bindings::{
    kvm_enable_cap, kvm_pit_config, kvm_userspace_memory_region, CpuId, Msrs, KVM_API_VERSION,
    KVM_CAP_SPLIT_IRQCHIP, KVM_PIT_SPEAKER_DUMMY,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{Address, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno;

use crate::boot::layout::{self, Range};
use crate::boot::{cpuid, msr, CpuState};
use crate::description::IrqchipMode;

/// Entries asked for of KVM_GET_SUPPORTED_CPUID: more than any processor has leaves.
const CPUID_ENTRIES: usize = 256;
/// Pins of the IOAPIC: GSIs that are not KVM's where the IOAPIC is not.
const IOAPIC_PINS: u64 = 24;

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
    /// The interrupt controllers cannot be where they are to be.
    #[error("/dev/kvm lacks {capability:?}, which --irqchip {mode} needs: use --irqchip user")]
    NoIrqchip {
        /// The capability.
        capability: Cap,
        /// Where they were to be.
        mode: &'static str,
    },
    /// More vCPUs than KVM has.
    #[error("/dev/kvm gives a VM at most {limit} vCPUs: give --cpus {limit} or fewer")]
    TooManyCpus {
        /// How many it has.
        limit: usize,
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

/// What a machine consists of.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of memory.
    pub memory: u64,
    /// Number of vCPUs, at least 1.
    pub cpus: u8,
    /// Where the interrupt controllers are.
    pub irqchip: IrqchipMode,
}

/// A virtual machine with vCPUs and memory, nothing in it yet.
///
/// The order of the fields is that of their drop: memory goes when no vCPU and no VM uses it.
pub struct Vm {
    /// The vCPUs; the index is the APIC ID.
    pub vcpus: Vec<VcpuFd>,
    /// The VM. Whoever shares it lets go of it before this is dropped.
    pub vm: Arc<VmFd>,
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// Where it lies.
    pub ram: Vec<Range>,
}

impl Vm {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// What /dev/kvm, or the system, refuses.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let kvm = open()?;
        let limit = kvm.get_max_vcpus();
        if usize::from(config.cpus) > limit {
            return Err(Error::TooManyCpus { limit });
        }
        check_irqchip(&kvm, config.irqchip)?;
        let vm = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        // What a processor without unrestricted guest needs; harmless on others.
        vm.set_identity_map_address(layout::IDENTITY_MAP.raw_value())
            .map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(layout::TSS.raw_value() as usize)
            .map_err(call("KVM_SET_TSS_ADDR"))?;

        let ram = layout::ram(config.memory);
        let memory = GuestMemoryMmap::from_ranges(&ram).map_err(|source| Error::Memory {
            mib: config.memory >> 20,
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

        // vCPUs get their local APICs, or none, by what there is when they are made.
        create_irqchip(&vm, config.irqchip)?;
        let vcpus = create_vcpus(&kvm, &vm, config)?;
        Ok(Self {
            vcpus,
            vm: Arc::new(vm),
            memory,
            ram,
        })
    }

    /// Puts vCPU 0, which starts by itself, into a state.
    ///
    /// # Errors
    ///
    /// What KVM refuses.
    pub fn set_state(&self, state: &CpuState) -> Result<(), Error> {
        set_state(&self.vcpus[0], state)
    }
}

/// Puts a vCPU into a state.
///
/// # Errors
///
/// What KVM refuses.
pub fn set_state(vcpu: &VcpuFd, state: &CpuState) -> Result<(), Error> {
    vcpu.set_sregs(&state.sregs)
        .map_err(call("KVM_SET_SREGS"))?;
    vcpu.set_regs(&state.regs).map_err(call("KVM_SET_REGS"))
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

fn check_irqchip(kvm: &Kvm, irqchip: IrqchipMode) -> Result<(), Error> {
    let (mode, needed): (_, &[Cap]) = match irqchip {
        IrqchipMode::Kernel => ("kernel", &[Cap::Irqchip, Cap::Pit2]),
        IrqchipMode::Split => (
            "split",
            &[Cap::SplitIrqchip, Cap::SignalMsi, Cap::IrqRouting],
        ),
        IrqchipMode::User => return Ok(()),
    };
    match needed.iter().find(|cap| !kvm.check_extension(**cap)) {
        Some(&capability) => Err(Error::NoIrqchip { capability, mode }),
        None => Ok(()),
    }
}

fn create_irqchip(vm: &VmFd, irqchip: IrqchipMode) -> Result<(), Error> {
    match irqchip {
        IrqchipMode::Kernel => {
            vm.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
            let pit = kvm_pit_config {
                flags: KVM_PIT_SPEAKER_DUMMY,
                ..Default::default()
            };
            vm.create_pit2(pit).map_err(call("KVM_CREATE_PIT2"))
        }
        IrqchipMode::Split => {
            let mut split = kvm_enable_cap {
                cap: KVM_CAP_SPLIT_IRQCHIP,
                ..Default::default()
            };
            split.args[0] = IOAPIC_PINS;
            vm.enable_cap(&split)
                .map_err(call("KVM_ENABLE_CAP of KVM_CAP_SPLIT_IRQCHIP"))
        }
        IrqchipMode::User => Ok(()),
    }
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, config: &Config) -> Result<Vec<VcpuFd>, Error> {
    let supported = kvm
        .get_supported_cpuid(CPUID_ENTRIES)
        .map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
    (0..config.cpus)
        .map(|id| {
            let vcpu = vm.create_vcpu(id.into()).map_err(call("KVM_CREATE_VCPU"))?;
            let platform = cpuid::Platform {
                cpus: config.cpus,
                irqchip: config.irqchip,
                tsc_khz: vcpu.get_tsc_khz().ok(),
                tsc_deadline: config.irqchip != IrqchipMode::User
                    && kvm.check_extension(Cap::TscDeadlineTimer),
            };
            let entries = platform.cpuid(id, supported.as_slice());
            let entries = CpuId::from_entries(&entries).expect("fewer entries than KVM allows");
            vcpu.set_cpuid2(&entries).map_err(call("KVM_SET_CPUID2"))?;
            set_msrs(&vcpu);
            Ok(vcpu)
        })
        .collect()
}

/// Sets what firmware would have set. One at a time: what KVM does not know it has not got.
fn set_msrs(vcpu: &VcpuFd) {
    for entry in msr::AS_FIRMWARE_LEAVES_THEM {
        let msrs = Msrs::from_entries(&[entry]).expect("one entry");
        let _ = vcpu.set_msrs(&msrs);
    }
}

fn call(call: &'static str) -> impl FnOnce(errno::Error) -> Error {
    move |source| Error::Call { call, source }
}
