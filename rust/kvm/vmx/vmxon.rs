// SPDX-License-Identifier: GPL-2.0

//! VMX root operation: a VMXON region a CPU, and every CPU in it while the module is loaded.

use core::sync::atomic::{
    AtomicBool,
    AtomicPtr,
    AtomicU64,
    Ordering, //
};

use kernel::prelude::*;

use super::{
    instructions,
    vmcs::Residence, //
};
use crate::host::{
    cpu::{
        self,
        Pinned, //
    },
    cpu_list::CpuList,
    page::HardwarePage,
    per_cpu::PerCpu,
    power, //
};

/// What VMX keeps of one CPU.
pub(super) struct RootCpu {
    region: HardwarePage,
    /// Whether this CPU is in VMX operation by our doing.
    on: AtomicBool,
    /// Physical address of the current VMCS, 0 for none.
    pub(super) current: AtomicU64,
    /// The VMCSs that are active here.
    pub(super) active: CpuList<Residence>,
}

/// Root operation on every CPU.
pub(crate) struct Root {
    cpus: PerCpu<RootCpu>,
}

/// The one [`Root`], for callbacks that carry no argument.
static ROOT: AtomicPtr<Root> = AtomicPtr::new(core::ptr::null_mut());

impl Root {
    fn new(revision_id: u32) -> Result<Self> {
        Ok(Self {
            cpus: PerCpu::new(|_| {
                let region = HardwarePage::new()?;
                region.words()[0].store(revision_id.into(), Ordering::Relaxed);
                Ok(RootCpu {
                    region,
                    on: AtomicBool::new(false),
                    current: AtomicU64::new(0),
                    active: CpuList::new(),
                })
            })?,
        })
    }

    /// CPU `cpu`'s part.
    #[inline]
    pub(super) fn cpu(cpu: u32) -> &'static RootCpu {
        // SAFETY: `ROOT` is set before any vCPU exists and until after the last is gone: vCPUs are
        // files of this module, which cannot be unloaded while one is open.
        unsafe { &*ROOT.load(Ordering::Relaxed) }.cpus.get(cpu)
    }
}

/// VMX is on, on every online CPU, until this is dropped.
#[pin_data(PinnedDrop)]
pub(crate) struct RootOperation {
    #[pin]
    enabled: power::Enabled<Root>,
    root: KBox<Root>,
}

impl RootOperation {
    /// Enters root operation everywhere.
    ///
    /// # Errors
    ///
    /// EBUSY where another hypervisor is on some CPU, EIO where VMXON fails, ENOMEM.
    pub(crate) fn new(revision_id: u32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            root: {
                let root = KBox::new(Root::new(revision_id)?, GFP_KERNEL)?;
                ROOT.store(core::ptr::from_ref(&*root).cast_mut(), Ordering::Release);
                root
            },
            enabled <- power::Enabled::new(),
        }? Error)
    }
}

#[pinned_drop]
impl PinnedDrop for RootOperation {
    fn drop(self: Pin<&mut Self>) {}
}

impl power::PerCpuHardware for Root {
    fn enable(pinned: &Pinned) -> Result {
        if cpu::cr4() & cpu::CR4_VMXE != 0 {
            pr_err!(
                "CPU {}: another hypervisor uses VT-x (CR4.VMXE is set)\n",
                cpu::current()
            );
            return Err(EBUSY);
        }

        enable_in_feature_control()?;

        let this = Self::cpu(cpu::current());
        cpu::set_cr4_vmxe(pinned);
        // SAFETY: CR4.VMXE is set, and the region is this CPU's until `disable`.
        if let Err(e) = unsafe { instructions::vmxon(this.region.hpa()) } {
            cpu::clear_cr4_vmxe(pinned);
            pr_err!("CPU {}: VMXON failed\n", cpu::current());
            return Err(e);
        }
        this.on.store(true, Ordering::Relaxed);

        // What another user of VMX left in the translation caches is not ours.
        // SAFETY: In VMX operation; the capability check saw INVEPT.
        unsafe { instructions::invept(None) };
        Ok(())
    }

    fn disable(pinned: &Pinned) {
        let this = Self::cpu(cpu::current());
        if !this.on.swap(false, Ordering::Relaxed) {
            return;
        }

        // SAFETY: This is the list's CPU; the callbacks change no list.
        unsafe { this.active.for_each(Residence::clear_before_vmxoff) };
        // SAFETY: This is the list's CPU, and no vCPU can be loaded from an interrupt.
        unsafe { this.active.clear() };
        this.current.store(0, Ordering::Relaxed);
        // SAFETY: All VMCSs of this CPU are clear.
        unsafe { instructions::vmxoff() };
        cpu::clear_cr4_vmxe(pinned);
    }

    fn emergency() {
        // The kernel itself does VMXOFF after this. A VMCS left active could be written back by the
        // processor at any later time, into a crash kernel's memory for one.
        let this = Self::cpu(cpu::current());
        // SAFETY: This is the list's CPU; the list is consistent at every moment.
        unsafe { this.active.for_each(Residence::clear_in_emergency) };
    }
}

/// Where the firmware left VMX undecided, decides for it.
fn enable_in_feature_control() -> Result {
    const IA32_FEATURE_CONTROL: u32 = 0x3a;
    const LOCKED: u64 = 1 << 0;
    const VMX_OUTSIDE_SMX: u64 = 1 << 2;

    // Emulated processors may lack the MSR, and then nothing is locked.
    let Ok(control) = cpu::rdmsr(IA32_FEATURE_CONTROL) else {
        return Ok(());
    };
    if control & LOCKED != 0 {
        return if control & VMX_OUTSIDE_SMX != 0 {
            Ok(())
        } else {
            pr_err!(
                "CPU {}: VT-x is locked off by the firmware\n",
                cpu::current()
            );
            Err(EPERM)
        };
    }
    // SAFETY: The bit allows VMXON; the lock keeps it until reset, as firmware would.
    unsafe { cpu::wrmsr(IA32_FEATURE_CONTROL, control | LOCKED | VMX_OUTSIDE_SMX) }
}
