// SPDX-License-Identifier: GPL-2.0

//! The VMCS of a vCPU, and where it resides.
//!
//! A VMCS is active on at most one CPU. It moves with its thread: VMCLEAR where it last ran, then
//! VMPTRLD where it runs now (SDM vol. 3, 25.1).

use core::{
    cell::UnsafeCell,
    sync::atomic::{
        AtomicBool,
        AtomicI32,
        AtomicU64,
        Ordering, //
    },
};

use arch::addr::Hpa;
use kernel::prelude::*;

use super::{
    host_state,
    instructions::{
        self,
        Field, //
    },
    vmxon::Root, //
};
use crate::host::{
    cpu::{
        self,
        IrqsOff,
        Pinned, //
    },
    cpu_list::Node,
    page::HardwarePage,
    preempt::Resident,
    speculation,
    thread::ThreadState, //
};

/// Where a VMCS resides: known to the CPU whose list it is on.
pub(super) struct Residence {
    hpa: Hpa,
    /// The CPU it is active on, -1 for none.
    cpu: AtomicI32,
    /// Whether VMRESUME, not VMLAUNCH, enters it.
    launched: AtomicBool,
}

/// MSRs that a guest has of its own and that neither an entry nor an exit switches. The kernel
/// needs its own values only once the thread leaves for user space or another thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SwitchedMsr {
    /// IA32_STAR.
    Star,
    /// IA32_LSTAR.
    Lstar,
    /// IA32_CSTAR.
    Cstar,
    /// IA32_FMASK.
    Fmask,
    /// IA32_TSC_AUX.
    TscAux,
}

/// Their indices, in the order of [`SwitchedMsr`].
pub(super) const SWITCHED_MSRS: [u32; 5] = [
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0103,
];
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// A VMCS, and the state of the processor that goes with it without being in it.
pub(crate) struct Vmcs {
    region: HardwarePage,
    node: Node<Residence>,
    /// Whether translations of the vCPU may be stale on this CPU.
    moved: AtomicBool,
    /// Whether guest MSRs are in the processor, and the thread's segments in `thread`.
    guest_loaded: AtomicBool,
    thread: UnsafeCell<ThreadState>,
    /// The guest's values of [`SWITCHED_MSRS`].
    guest_msrs: [AtomicU64; SWITCHED_MSRS.len()],
    /// The host's: the same for all time, on the CPU that the VMCS is active on.
    host_msrs: [AtomicU64; SWITCHED_MSRS.len()],
    /// How many of them this processor has.
    msr_count: usize,
    /// The guest's IA32_KERNEL_GS_BASE while it is not in the processor.
    kernel_gs_base: AtomicU64,
}

// SAFETY: `thread` is used only by the thread that has the vCPU loaded, or in its scheduler
// callbacks.
unsafe impl Send for Vmcs {}
// SAFETY: As above; everything else is atomic.
unsafe impl Sync for Vmcs {}

impl Vmcs {
    /// A VMCS that was never active, with `revision_id` in its first word.
    pub(super) fn new(revision_id: u32, has_tsc_aux: bool) -> Result<Self> {
        let region = HardwarePage::new()?;
        region.words()[0].store(revision_id.into(), Ordering::Relaxed);
        Ok(Self {
            node: Node::new(Residence {
                hpa: region.hpa(),
                cpu: AtomicI32::new(-1),
                launched: AtomicBool::new(false),
            }),
            region,
            moved: AtomicBool::new(true),
            guest_loaded: AtomicBool::new(false),
            thread: UnsafeCell::new(ThreadState::default()),
            guest_msrs: [const { AtomicU64::new(0) }; SWITCHED_MSRS.len()],
            host_msrs: [const { AtomicU64::new(0) }; SWITCHED_MSRS.len()],
            msr_count: SWITCHED_MSRS.len() - usize::from(!has_tsc_aux),
            kernel_gs_base: AtomicU64::new(0),
        })
    }

    fn residence(&self) -> &Residence {
        self.node.value()
    }

    /// Reads a field. The vCPU is loaded: whoever has a `Loaded` may call this.
    #[inline(always)]
    pub(super) fn read<F: Field>(&self, field: F) -> F::Value {
        // SAFETY: While a vCPU is loaded, its VMCS is current whenever its thread runs.
        unsafe { field.read() }
    }

    /// Writes a field. The vCPU is loaded.
    #[inline(always)]
    pub(super) fn write<F: Field>(&self, field: F, value: F::Value) {
        // SAFETY: As for `read`. The host-state area is written from the running kernel's own
        // state only; nothing in the guest-state area can harm the host.
        unsafe { field.write(value) }
    }

    /// Reads a field by its encoding, for dumps.
    pub(super) fn read_raw(&self, encoding: u32) -> u64 {
        // SAFETY: As for `read`.
        unsafe { instructions::vmread(encoding) }
    }

    /// Whether the VMCS was launched since it was last clear.
    #[inline]
    pub(super) fn is_launched(&self) -> bool {
        self.residence().launched.load(Ordering::Relaxed)
    }

    /// Notes that an entry succeeded.
    #[inline]
    pub(super) fn set_launched(&self) {
        self.residence().launched.store(true, Ordering::Relaxed);
    }

    /// Whether the vCPU came to this CPU since this was last asked: then translations of its own
    /// from an earlier stay here may be stale.
    #[inline]
    pub(super) fn take_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed) && self.moved.swap(false, Ordering::Relaxed)
    }

    /// Makes the VMCS current on this CPU.
    pub(super) fn load(&self, pinned: &Pinned) {
        let here = cpu::current();
        let root = Root::cpu(here);
        let residence = self.residence();
        let was = residence.cpu.load(Ordering::Acquire);

        if was != here as i32 {
            self.clear_from_cpu(was);
            {
                let _irqs_off = IrqsOff::new(pinned);
                // SAFETY: This CPU's list, interrupts off; the node left its former list.
                unsafe { root.active.push(&self.node) };
            }
        }

        if root.current.load(Ordering::Relaxed) != residence.hpa.0 {
            // SAFETY: The VMCS is active nowhere else, and this CPU is in VMX operation.
            if unsafe { instructions::vmptrld(residence.hpa) }.is_err() && !cpu::is_rebooting() {
                pr_err!("VMPTRLD of {:#x} failed\n", residence.hpa.0);
            }
            root.current.store(residence.hpa.0, Ordering::Relaxed);
            speculation::another_guest(pinned);
        }

        if was != here as i32 {
            host_state::write_cpu(self);
            for (msr, _, host) in self.switched_msrs() {
                host.store(cpu::rdmsr(msr).unwrap_or(0), Ordering::Relaxed);
            }
            residence.cpu.store(here as i32, Ordering::Relaxed);
            self.moved.store(true, Ordering::Relaxed);
        }
    }

    /// Makes the VMCS inactive on CPU `was`, where it is active.
    fn clear_from_cpu(&self, was: i32) {
        if was < 0 {
            return;
        }
        /// # Safety
        ///
        /// Called by [`cpu::call_on`] with a `Vmcs`.
        unsafe extern "C" fn clear_here(vmcs: *mut c_void) {
            // SAFETY: `call_on` passes the reference it was given.
            let vmcs = unsafe { &*vmcs.cast::<Vmcs>() };
            let residence = vmcs.residence();
            // The CPU may have gone offline and back, which cleared the VMCS.
            if residence.cpu.load(Ordering::Relaxed) != cpu::current() as i32 {
                return;
            }
            let root = Root::cpu(cpu::current());
            residence.clear();
            if root.current.load(Ordering::Relaxed) == residence.hpa.0 {
                root.current.store(0, Ordering::Relaxed);
            }
            // SAFETY: An interrupt handler on the list's CPU.
            unsafe { root.active.remove(&vmcs.node) };
            residence.cpu.store(-1, Ordering::Release);
        }
        cpu::call_on(was as u32, self, clear_here);
    }

    /// Puts the guest's MSRs in the processor and the thread's segments away. Returns whether that was
    /// not done.
    #[inline]
    pub(super) fn load_guest(&self, _pinned: &Pinned) -> bool {
        if self.guest_loaded.load(Ordering::Relaxed) {
            return false;
        }
        // SAFETY: Only this thread touches `thread` while the vCPU is loaded, and its scheduler
        // callback cannot come with preemption off.
        let thread = unsafe { &mut *self.thread.get() };
        thread.save();
        host_state::write_thread(self, thread);
        for (msr, guest, host) in self.switched_msrs() {
            let guest = guest.load(Ordering::Relaxed);
            if guest != host.load(Ordering::Relaxed) {
                write_msr(msr, guest);
            }
        }
        write_msr(
            IA32_KERNEL_GS_BASE,
            self.kernel_gs_base.load(Ordering::Relaxed),
        );
        self.guest_loaded.store(true, Ordering::Relaxed);
        true
    }

    /// Undoes [`Self::load_guest`], if it was done.
    pub(super) fn unload_guest(&self, _pinned: &Pinned) {
        if !self.guest_loaded.swap(false, Ordering::Relaxed) {
            return;
        }
        // SAFETY: The MSR exists on every processor with long mode.
        let kernel_gs_base = unsafe { cpu::rdmsr_unchecked(IA32_KERNEL_GS_BASE) };
        self.kernel_gs_base.store(kernel_gs_base, Ordering::Relaxed);
        for (msr, guest, host) in self.switched_msrs() {
            let host = host.load(Ordering::Relaxed);
            if guest.load(Ordering::Relaxed) != host {
                write_msr(msr, host);
            }
        }
        // SAFETY: As in `load_guest`.
        unsafe { &*self.thread.get() }.restore();
    }

    /// Index, guest's value and host's value of each switched MSR that this processor has.
    #[inline]
    fn switched_msrs(&self) -> impl Iterator<Item = (u32, &AtomicU64, &AtomicU64)> {
        SWITCHED_MSRS
            .iter()
            .zip(&self.guest_msrs)
            .zip(&self.host_msrs)
            .take(self.msr_count)
            .map(|((msr, guest), host)| (*msr, guest, host))
    }

    /// The guest's value of a switched MSR.
    pub(super) fn switched_msr(&self, msr: SwitchedMsr) -> u64 {
        self.guest_msrs[msr as usize].load(Ordering::Relaxed)
    }

    /// Sets the guest's value of a switched MSR. It reaches the processor at the next entry.
    pub(super) fn set_switched_msr(&self, msr: SwitchedMsr, value: u64) {
        let pinned = Pinned::new();
        self.unload_guest(&pinned);
        self.guest_msrs[msr as usize].store(value, Ordering::Relaxed);
    }

    /// The guest's IA32_KERNEL_GS_BASE.
    pub(super) fn kernel_gs_base(&self) -> u64 {
        let pinned = Pinned::new();
        self.unload_guest(&pinned);
        self.kernel_gs_base.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub(super) fn set_kernel_gs_base(&self, value: u64) {
        let pinned = Pinned::new();
        self.unload_guest(&pinned);
        self.kernel_gs_base.store(value, Ordering::Relaxed);
    }
}

fn write_msr(msr: u32, value: u64) {
    // SAFETY: The MSR exists; a guest's values were checked when they were set, and reach the
    // kernel in no way before the host's are back.
    unsafe { cpu::wrmsr_unchecked(msr, value) };
}

impl Residence {
    fn clear(&self) {
        // SAFETY: The VMCS is active on this CPU.
        if unsafe { instructions::vmclear(self.hpa) }.is_err() && !cpu::is_rebooting() {
            pr_err!("VMCLEAR of {:#x} failed\n", self.hpa.0);
        }
        self.launched.store(false, Ordering::Relaxed);
    }

    /// The CPU leaves VMX operation.
    pub(super) fn clear_before_vmxoff(&self) {
        self.clear();
        self.cpu.store(-1, Ordering::Release);
    }

    /// The machine goes down: only what keeps memory intact.
    pub(super) fn clear_in_emergency(&self) {
        // SAFETY: The VMCS is active on this CPU; the list it is on is walked on that CPU.
        let _ = unsafe { instructions::vmclear(self.hpa) };
    }
}

impl Resident for Vmcs {
    fn sched_in(&self, _cpu: u32) {
        let pinned = Pinned::new();
        self.load(&pinned);
    }

    fn sched_out(&self) {
        let pinned = Pinned::new();
        self.unload_guest(&pinned);
    }
}

impl Drop for Vmcs {
    fn drop(&mut self) {
        let pinned = Pinned::new();
        self.clear_from_cpu(self.residence().cpu.load(Ordering::Acquire));
        drop(pinned);
        debug_assert_eq!(self.residence().hpa, self.region.hpa());
    }
}
