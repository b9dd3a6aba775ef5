// SPDX-License-Identifier: GPL-2.0

//! What a virtual machine is: memory, vCPUs, and what passes between them and their VMM.
//!
//! Nothing here knows a vendor: hardware is behind [`backend::Backend`].
//!
//! # Lock order
//!
//! 1. `Vm::vcpus` (mutex): creating vCPUs, and adding up what was counted of them. The list of all
//!    VMs (`abi/debugfs.rs`) is held over this one.
//! 2. `Vcpu::state` (killable mutex): a vCPU's thread, for as long as KVM_RUN lasts.
//! 3. `Memory::update` (mutex): changing slots, and sweeps.
//! 4. `Memory::current` (SRCU): using slots. Nobody waits for its readers with 2 held.
//! 5. the VMM's `mmap_lock` and page-table locks, taken by touching its memory. The memory manager
//!    calls us with them held, so nothing below touches user memory.
//! 6. `Memory::tables` (spinlock): second-level tables and the current slots.
//! 7. `Clock::shared` (spinlock): clocks and counters of a VM.
//! 8. `Runners::list` (spinlock): who is in guest mode.
//! 9. `Irqchip::routes`, then `Irqchip::chips` (spinlocks, interrupts off): interrupts on their way.
//!    Nothing above is taken with one of these held; waking a vCPU is.
//!
//! `Buses::update` (mutex) is held over nothing but itself, and whoever has it waits for readers of
//! `Buses::tables` (SRCU). Under that, a vCPU takes `Ring::adding` (spinlock) or an eventfd's lock.
//!
//! `Irqfds::list`, then `List::irqfds` (mutexes) are held over an eventfd's lock, and that over 8.
//! Whoever signals an eventfd holds neither 8 nor `Resamplers::entries` (spinlock, interrupts off).

pub(crate) mod backend;
mod bus;
mod coalesced;
mod cpuid;
mod cr;
mod debug;
mod devices;
mod dirty;
mod emulate;
mod event;
mod halt;
mod hypercall;
mod io;
mod ioeventfd;
pub(crate) mod irq;
mod irqfd;
mod kick;
mod mce;
mod memory;
mod mmio;
mod msr;
mod options;
mod pre_fault;
pub(crate) mod pv;
mod report;
mod run;
mod statistics;
mod tsc;
mod vcpu;
mod watch;

use core::sync::atomic::{
    AtomicU32,
    AtomicU64,
    AtomicU8,
    Ordering, //
};

use arch::apic::Features;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SetOnce, //
    },
};

pub(crate) use self::{
    backend::Backend,
    bus::{
        Buses,
        Space, //
    },
    event::{
        Event,
        Queued,
        SHADOW_MOV_SS,
        SHADOW_STI, //
    },
    ioeventfd::Listen,
    irqfd::{
        Inject,
        Irqfds, //
    },
    memory::{
        Clear,
        Limits,
        Mapped,
        Mapping,
        Memory,
        Region,
        SecondLevel,
        Serial,
        SpareTables,
        LOG_OPTIONS,
        MAX_RING_SIZE,
        MAX_SLOTS, //
    },
    options::{
        DisabledExits,
        Switches, //
    },
    statistics::Counted,
    vcpu::{
        Loaded,
        State,
        Vcpu, //
    },
};
pub(crate) use self::{
    cpuid::{
        supported as supported_cpuid,
        Cpuid,
        Entry as CpuidEntry, //
    },
    msr::{
        filter as msr_filter,
        pat_reset,
        read_feature_msr,
        MsrAccess,
        FEATURE_MSRS,
        SAVED_MSRS, //
    },
};
use self::{
    irq::{
        Irqchip,
        LocalApic,
        Mode,
        Pit,
        X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST,
        X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST, //
    },
    msr::filter::MsrFilter,
    options::Options, //
};
use crate::host::{
    cpu,
    mm::AddressSpace,
    mmu_notifier,
    preempt, //
};

/// vCPUs a VM can have (KVM_CAP_MAX_VCPUS), and the bound of their ids (KVM_CAP_MAX_VCPU_ID).
pub(crate) const MAX_VCPUS: usize = 1024;
/// See [`MAX_VCPUS`].
pub(crate) const MAX_VCPU_ID: u32 = 4096;

/// KVM_X86_QUIRK_LINT0_REENABLED: the bootstrap processor starts with LINT0 passing on the PICs'
/// interrupts.
const QUIRK_LINT0_REENABLED: u32 = 1 << 0;
/// KVM_X86_QUIRK_LAPIC_MMIO_HOLE: where the APIC's registers are not, because it is disabled or in
/// x2APIC mode, there is nothing, and not the VMM.
pub(crate) const QUIRK_LAPIC_MMIO_HOLE: u32 = 1 << 2;
/// KVM_X86_QUIRK_OUT_7E_INC_RIP: OUT to port 7EH is over before its VMM hears of it.
const QUIRK_OUT_7E_INC_RIP: u32 = 1 << 3;
/// KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT: CPUID shows MONITOR whatever IA32_MISC_ENABLE says.
const QUIRK_MISC_ENABLE_NO_MWAIT: u32 = 1 << 4;
/// KVM_X86_QUIRK_FIX_HYPERCALL_INSN: a VMMCALL becomes a VMCALL.
const QUIRK_FIX_HYPERCALL_INSN: u32 = 1 << 5;
/// KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS: MONITOR and MWAIT do nothing where they are not there.
const QUIRK_MWAIT_NEVER_UD_FAULTS: u32 = 1 << 6;
/// KVM_X86_QUIRK_SLOT_ZAP_ALL: a slot that goes may take the mappings of others with it. Here it
/// never does.
const QUIRK_SLOT_ZAP_ALL: u32 = 1 << 7;
/// KVM_X86_QUIRK_STUFF_FEATURE_MSRS: MSRs that describe the processor are set from the start.
const QUIRK_STUFF_FEATURE_MSRS: u32 = 1 << 8;
/// The quirks there are (KVM_CAP_DISABLE_QUIRKS2).
pub(crate) const SUPPORTED_QUIRKS: u32 = QUIRK_LINT0_REENABLED
    | QUIRK_LAPIC_MMIO_HOLE
    | QUIRK_OUT_7E_INC_RIP
    | QUIRK_MISC_ENABLE_NO_MWAIT
    | QUIRK_FIX_HYPERCALL_INSN
    | QUIRK_MWAIT_NEVER_UD_FAULTS
    | QUIRK_SLOT_ZAP_ALL
    | QUIRK_STUFF_FEATURE_MSRS;

/// A virtual machine: the property of the process that made it.
#[pin_data]
pub(crate) struct Vm<B: Backend> {
    pub(crate) backend: Arc<B>,
    pub(crate) memory: Arc<Memory<B::Tables>>,
    pub(crate) machine: B::Machine,
    #[pin]
    pub(crate) buses: Buses,
    #[pin]
    pub(crate) irqfds: Irqfds,
    _mirror: Pin<KBox<mmu_notifier::Registration<Memory<B::Tables>>>>,
    #[pin]
    vcpus: Mutex<KVec<Arc<Vcpu<B>>>>,
    /// The interrupt controllers, if they are in the kernel.
    irqchip: SetOnce<Arc<Irqchip>>,
    pit: SetOnce<Arc<Pit>>,
    /// The vCPU that starts by itself (KVM_SET_BOOT_CPU_ID).
    boot_cpu_id: AtomicU32,
    /// The bound of vCPUs' ids; 0 where nobody has said it yet.
    max_vcpu_id: AtomicU32,
    /// KVM_X2APIC_API_* in force.
    x2apic_api: AtomicU8,
    /// In nanoseconds.
    apic_bus_cycle: AtomicU64,
    /// KVM_X86_QUIRK_* that the VMM does without.
    disabled_quirks: AtomicU32,
    pub(crate) options: Options,
    #[pin]
    pub(crate) msr_filter: MsrFilter,
    /// The guest's clock, and its time-stamp counters.
    #[pin]
    clock: pv::Clock,
    tsc_khz: AtomicU32,
    _preempt: preempt::Enabled,
}

impl<B: Backend> Vm<B> {
    /// A VM of the current process, without memory or vCPUs.
    pub(crate) fn new(backend: Arc<B>) -> Result<Arc<Self>> {
        let mm = Arc::new(AddressSpace::current()?, GFP_KERNEL_ACCOUNT)?;
        let memory = Memory::new(mm.clone(), backend.memory_limits())?;
        let mirror = mmu_notifier::Registration::new(memory.clone(), mm)?;
        let machine = backend.new_machine()?;
        let clock = pv::Clock::new()?;
        Arc::pin_init(
            try_pin_init!(Self {
                backend: backend,
                memory: memory,
                machine: machine,
                buses <- Buses::new(),
                irqfds <- Irqfds::new(),
                _mirror: mirror,
                vcpus <- new_mutex!(KVec::new()),
                irqchip: SetOnce::new(),
                pit: SetOnce::new(),
                boot_cpu_id: AtomicU32::new(0),
                max_vcpu_id: AtomicU32::new(0),
                x2apic_api: AtomicU8::new(0),
                apic_bus_cycle: AtomicU64::new(1),
                disabled_quirks: AtomicU32::new(0),
                options: Options::new(),
                msr_filter <- MsrFilter::new(),
                clock <- clock,
                tsc_khz: AtomicU32::new(cpu::tsc_khz()),
                _preempt: preempt::Enabled::new(),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Creates a vCPU and calls `publish` with it, which makes it known to user space; where that
    /// fails, the vCPU never was.
    ///
    /// # Errors
    ///
    /// EINVAL for an id or a count beyond the limits, EEXIST where the id is taken, ENOMEM, and
    /// `publish`'s.
    pub(crate) fn create_vcpu<R>(
        &self,
        id: usize,
        publish: impl FnOnce(Arc<Vcpu<B>>) -> Result<R>,
    ) -> Result<R> {
        let mut vcpus = self.vcpus.lock();
        // Whoever makes a vCPU has settled for this.
        let _ =
            self.max_vcpu_id
                .compare_exchange(0, MAX_VCPU_ID, Ordering::Relaxed, Ordering::Relaxed);
        if id >= self.max_vcpu_id.load(Ordering::Relaxed) as usize {
            return Err(EINVAL);
        }
        if vcpus.len() >= MAX_VCPUS {
            return Err(EINVAL);
        }
        if vcpus.iter().any(|vcpu| vcpu.id as usize == id) {
            return Err(EEXIST);
        }
        vcpus.reserve(1, GFP_KERNEL_ACCOUNT)?;
        if let Some(irqchip) = self.irqchip() {
            irqchip.make_room()?;
        }
        let vcpu = Vcpu::new(self, id as u32)?;
        self.memory.runners.add(vcpu.runner.clone())?;
        vcpus.push(vcpu.clone(), GFP_KERNEL_ACCOUNT)?;
        let apic = vcpu.apic.clone();
        let started = vcpu.with_loaded(self, |cx| {
            cx.join_counters();
            Ok(())
        });
        let published = started
            .and_then(|()| publish(vcpu.clone()))
            .inspect_err(|_| {
                self.memory.runners.remove_last();
                vcpus.pop();
                self.leave_counters(&vcpu);
            })?;
        // Last, since this cannot be taken back: until now no interrupt finds the vCPU.
        if let (Some(irqchip), Some(apic)) = (self.irqchip(), apic) {
            irqchip.add_apic(apic);
        }
        Ok(published)
    }

    /// The interrupt controllers, where they are in the kernel.
    #[inline]
    pub(crate) fn irqchip(&self) -> Option<&Arc<Irqchip>> {
        self.irqchip.as_ref()
    }

    /// Vectors, a bit each, whose end concerns the IOAPIC though they are edge-triggered.
    pub(crate) fn watched_vectors(&self) -> [u64; 4] {
        self.irqchip().map_or([0; 4], |irqchip| irqchip.watched())
    }

    /// The interrupt controllers, where all of them are in the kernel.
    ///
    /// # Errors
    ///
    /// ENXIO where they are not.
    pub(crate) fn full_irqchip(&self) -> Result<&Arc<Irqchip>> {
        self.irqchip()
            .filter(|irqchip| irqchip.has_chips())
            .ok_or(ENXIO)
    }

    /// Puts the interrupt controllers into the kernel (api.rst, 4.24 KVM_CREATE_IRQCHIP and 7.5
    /// KVM_CAP_SPLIT_IRQCHIP).
    ///
    /// # Errors
    ///
    /// EEXIST where they are there already, EINVAL where there are vCPUs, ENOMEM.
    pub(crate) fn create_irqchip(&self, mode: Mode) -> Result {
        let vcpus = self.vcpus.lock();
        if self.irqchip().is_some() {
            return Err(EEXIST);
        }
        if !vcpus.is_empty() {
            return Err(EINVAL);
        }
        let x2apic_api = self.x2apic_api.load(Ordering::Relaxed);
        self.irqchip.populate(Irqchip::new(mode, x2apic_api)?);
        Ok(())
    }

    /// More of KVM_X2APIC_API_*. Of the two about EOI broadcasts the last counts.
    pub(crate) fn add_x2apic_api(&self, flags: u8) {
        const EOI_BROADCAST: u8 =
            X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST | X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;
        let _vcpus = self.vcpus.lock();
        let mut all = self.x2apic_api.load(Ordering::Relaxed);
        if flags & EOI_BROADCAST != 0 {
            all &= !EOI_BROADCAST;
        }
        all |= flags;
        self.x2apic_api.store(all, Ordering::Relaxed);
        if let Some(irqchip) = self.irqchip() {
            irqchip.set_x2apic_api(all);
        }
    }

    /// The timer chip.
    #[inline]
    pub(crate) fn pit(&self) -> Option<&Arc<Pit>> {
        self.pit.as_ref()
    }

    /// Adds the timer chip (api.rst, 4.71 KVM_CREATE_PIT2).
    ///
    /// # Errors
    ///
    /// EEXIST where there is one, ENOENT where the interrupt controllers are not in the kernel,
    /// ENOMEM.
    pub(crate) fn create_pit(&self, has_speaker: bool) -> Result {
        let _vcpus = self.vcpus.lock();
        if self.pit().is_some() {
            return Err(EEXIST);
        }
        let irqchip = self.full_irqchip().map_err(|_| ENOENT)?;
        self.pit.populate(Pit::new(irqchip.clone(), has_speaker)?);
        Ok(())
    }

    /// Says which vCPU starts by itself (api.rst, 4.39 KVM_SET_BOOT_CPU_ID).
    ///
    /// # Errors
    ///
    /// EBUSY where there are vCPUs, EINVAL for an id that none can have.
    pub(crate) fn set_boot_cpu_id(&self, id: usize) -> Result {
        let vcpus = self.vcpus.lock();
        if !vcpus.is_empty() {
            return Err(EBUSY);
        }
        if id > MAX_VCPU_ID as usize {
            return Err(EINVAL);
        }
        self.boot_cpu_id.store(id as u32, Ordering::Relaxed);
        Ok(())
    }

    /// Sets the bound of vCPUs' ids, once (api.rst, 7.29 KVM_CAP_MAX_VCPU_ID).
    ///
    /// # Errors
    ///
    /// EINVAL where it is another already, or above what is possible, or below the vCPU that starts
    /// by itself.
    pub(crate) fn set_max_vcpu_id(&self, bound: u64) -> Result {
        let _vcpus = self.vcpus.lock();
        let bound = u32::try_from(bound).map_err(|_| EINVAL)?;
        let old = self.max_vcpu_id.load(Ordering::Relaxed);
        if bound > MAX_VCPU_ID
            || self.boot_cpu_id.load(Ordering::Relaxed) > bound
            || (old != 0 && old != bound)
        {
            return Err(EINVAL);
        }
        self.max_vcpu_id.store(bound, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the vCPUs to come do things without an exit (api.rst, 7.13
    /// KVM_CAP_X86_DISABLE_EXITS).
    ///
    /// # Errors
    ///
    /// EINVAL where there are vCPUs.
    pub(crate) fn disable_exits(&self, exits: DisabledExits) -> Result {
        let vcpus = self.vcpus.lock();
        if !vcpus.is_empty() {
            return Err(EINVAL);
        }
        self.options.disable_exits(exits);
        self.apply_msr_filter();
        Ok(())
    }

    /// Sets how long a cycle of the APICs' bus takes, in nanoseconds.
    ///
    /// # Errors
    ///
    /// ENXIO where the APICs are not in the kernel, EINVAL where there are vCPUs.
    pub(crate) fn set_apic_bus_cycle(&self, nanoseconds: u64) -> Result {
        let vcpus = self.vcpus.lock();
        if self.irqchip().is_none() {
            return Err(ENXIO);
        }
        if !vcpus.is_empty() {
            return Err(EINVAL);
        }
        self.apic_bus_cycle.store(nanoseconds, Ordering::Relaxed);
        Ok(())
    }

    /// How long a cycle of the APICs' bus takes, in nanoseconds.
    pub(crate) fn apic_bus_cycle(&self) -> u64 {
        self.apic_bus_cycle.load(Ordering::Relaxed)
    }

    /// Turns off what KVM does differently from a processor, for VMMs that can do without (api.rst,
    /// 7.31 KVM_CAP_DISABLE_QUIRKS2).
    ///
    /// # Errors
    ///
    /// EINVAL for a quirk that is none here.
    pub(crate) fn disable_quirks(&self, quirks: u64) -> Result {
        if quirks & !u64::from(SUPPORTED_QUIRKS) != 0 {
            return Err(EINVAL);
        }
        self.disabled_quirks
            .fetch_or(quirks as u32, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a quirk, KVM_X86_QUIRK_*, is in force.
    pub(crate) fn has_quirk(&self, quirk: u32) -> bool {
        self.disabled_quirks.load(Ordering::Relaxed) & quirk == 0
    }

    /// Whether vCPU `id` starts by itself.
    pub(crate) fn is_boot_cpu(&self, id: u32) -> bool {
        self.boot_cpu_id.load(Ordering::Relaxed) == id
    }

    /// The local APIC for a new vCPU, where it is to be in the kernel.
    fn new_apic(&self, id: u32, runner: Arc<kick::Runner>) -> Result<Option<Arc<LocalApic>>> {
        if self.irqchip().is_none() {
            return Ok(None);
        }
        let mut features = Features::empty();
        features.set(
            Features::LINT0_EXTINT,
            self.has_quirk(QUIRK_LINT0_REENABLED),
        );
        let can_post = self.backend.posts_interrupts();
        LocalApic::new(id, self.is_boot_cpu(id), features, runner, can_post).map(Some)
    }

    /// Whether a vCPU was created.
    pub(crate) fn has_vcpus(&self) -> bool {
        !self.vcpus.lock().is_empty()
    }

    /// Frequency that a new vCPU's time-stamp counter has, in kHz.
    pub(crate) fn tsc_khz(&self) -> u32 {
        self.tsc_khz.load(Ordering::Relaxed)
    }

    /// Sets it, for vCPUs to come (api.rst, 4.55 KVM_SET_TSC_KHZ).
    ///
    /// # Errors
    ///
    /// EINVAL where there are vCPUs, and as for [`tsc::checked_khz`].
    pub(crate) fn set_tsc_khz(&self, khz: u32) -> Result {
        let vcpus = self.vcpus.lock();
        if !vcpus.is_empty() {
            return Err(EINVAL);
        }
        self.tsc_khz
            .store(tsc::checked_khz(khz)?, Ordering::Relaxed);
        Ok(())
    }
}
