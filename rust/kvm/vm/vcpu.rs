// SPDX-License-Identifier: GPL-2.0

//! A virtual processor.
//!
//! An ordinary thread of the VMM runs it, whichever calls KVM_RUN. Its state belongs to whoever
//! holds its mutex; [`Loaded`] is a vCPU whose state is, moreover, in the processor whenever the
//! thread runs: the scheduler's notifier sees to that.

use arch::{
    addr::Gva,
    control_regs::{
        Cr0,
        Cr4,
        Efer,
        State as ControlState, //
    },
    paging::{
        Access,
        AccessKind,
        Paging, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    backend::{
        Backend,
        SegmentRegister, //
    },
    cpuid::Cpuid,
    debug::DebugRegs,
    emulate::Emulation,
    event::Events,
    halt::MpState,
    io::Pending,
    irq::{
        Aftermath,
        ApicTimer,
        Irqchip,
        LocalApic, //
    },
    kick::{
        Requests,
        Runner, //
    },
    memory::{
        DirtyRing,
        GuestAccess,
        Memory,
        SpareTables, //
    },
    msr::Msrs,
    pv::{
        Pv,
        StealTime, //
    },
    Vm,
    QUIRK_STUFF_FEATURE_MSRS, //
};
use crate::{
    host::{
        cpu::Pinned,
        fpu::GuestFpu,
        mutex::KillableMutex,
        preempt::{
            Notifier,
            Resident, //
        },
        sched,
        shared::{
            RunPage,
            SharedPage, //
        },
        signal::SigSet, //
        speculation,
    },
    stats::vcpu::{
        self as stat,
        VcpuCounters,
        VcpuPlace, //
    },
};

/// A vCPU of a VM.
#[pin_data]
pub(crate) struct Vcpu<B: Backend> {
    /// The number KVM_CREATE_VCPU gave it, which is its APIC id.
    pub(crate) id: u32,
    /// The thread that made it.
    pub(crate) creator: i32,
    pub(crate) runner: Arc<Runner>,
    /// Its local APIC, where that is in the kernel.
    pub(crate) apic: Option<Arc<LocalApic>>,
    /// The VM's interrupt controllers, where they are in the kernel: made before any vCPU.
    irqchip: Option<Arc<Irqchip>>,
    /// `struct kvm_run`, page 0 of the mapping.
    pub(crate) run: RunPage,
    /// Data of port I/O, page 1 of the mapping.
    pub(crate) pio: SharedPage,
    pub(crate) resident: B::Resident,
    pub(crate) steal_time: StealTime,
    pub(crate) stats: VcpuCounters,
    /// Where the VMM finds which pages the vCPU wrote, where the VM has rings for that.
    pub(crate) ring: Option<DirtyRing>,
    /// The VM's, for the scheduler's callbacks.
    memory: Arc<Memory<B::Tables>>,
    #[pin]
    notifier: Notifier<Self>,
    #[pin]
    state: KillableMutex<State<B>>,
}

/// What a vCPU's thread owns. Registers that the hardware keeps are not here.
pub(crate) struct State<B: Backend> {
    /// RAX to R15 in the order of their encoding. RSP is the hardware's.
    pub(crate) regs: [u64; 16],
    pub(crate) cr2: u64,
    pub(crate) cr8: u64,
    pub(crate) xcr0: u64,
    pub(crate) dr: DebugRegs,
    pub(crate) fpu: GuestFpu,
    pub(crate) events: Events,
    pub(crate) msrs: Msrs,
    pub(crate) cpuid: Cpuid,
    pub(crate) mp_state: MpState,
    pub(crate) apic_timer: ApicTimer,
    /// An interrupt of the VMM's PICs, with a split interrupt controller (KVM_INTERRUPT).
    pub(crate) external_interrupt: Option<u8>,
    /// Whether the VMM hears of accesses to the task priority (KVM_TPR_ACCESS_REPORTING).
    pub(crate) reports_tpr: bool,
    /// Where the guest's memory has the task priority (KVM_SET_VAPIC_ADDR).
    pub(crate) vapic: Option<u64>,
    /// What an access to the APIC left to do.
    pub(crate) aftermath: Aftermath,
    /// How long to poll before sleeping, in nanoseconds.
    pub(crate) halt_poll_ns: u64,
    /// What the next KVM_RUN completes first.
    pub(crate) pending: Pending,
    pub(crate) emulation: Emulation,
    pub(crate) sigmask: Option<SigSet>,
    pub(crate) tsc_khz: u32,
    pub(crate) pv: Pv,
    pub(crate) spare: SpareTables,
    /// Whether the vCPU has been entered: then its CPUID is settled.
    pub(crate) has_run: bool,
    pub(crate) hw: B::Vcpu,
}

/// A vCPU whose state is in the processor whenever this thread runs.
pub(crate) struct Loaded<'a, B: Backend> {
    pub(crate) vm: &'a Vm<B>,
    pub(crate) vcpu: &'a Vcpu<B>,
    pub(crate) state: &'a mut State<B>,
}

/// Index of RAX in the register file.
pub(crate) const RAX: usize = 0;
/// Index of RCX.
pub(crate) const RCX: usize = 1;
/// Index of RDX.
pub(crate) const RDX: usize = 2;
/// Index of RBX.
pub(crate) const RBX: usize = 3;
/// Index of RSP.
pub(crate) const RSP: usize = 4;
/// Index of RSI.
pub(crate) const RSI: usize = 6;
/// Index of RDI.
pub(crate) const RDI: usize = 7;

impl<B: Backend> Vcpu<B> {
    /// A vCPU in the state that reset leaves.
    pub(crate) fn new(vm: &Vm<B>, id: u32) -> Result<Arc<Self>> {
        let (resident, hw) = vm.backend.new_vcpu(vm.options.disabled_exits())?;
        let runner = Arc::new(Runner::new(), GFP_KERNEL_ACCOUNT)?;
        let ring = vm.memory.new_ring(&runner)?;
        if vm.memory.logs_writes() {
            runner.request_own(Requests::LOG_WRITES);
        }
        let apic = vm.new_apic(id, runner.clone())?;
        let mp_state = if apic.is_none() || vm.is_boot_cpu(id) {
            MpState::Runnable
        } else {
            MpState::Uninitialized
        };
        let state = State {
            regs: [0; 16],
            cr2: 0,
            cr8: 0,
            xcr0: 1,
            dr: DebugRegs::new(),
            fpu: GuestFpu::new()?,
            events: Events::default(),
            msrs: Msrs::new(vm.is_boot_cpu(id))?,
            cpuid: Cpuid::empty(),
            mp_state,
            apic_timer: ApicTimer::new(vm.apic_bus_cycle()),
            external_interrupt: None,
            reports_tpr: false,
            vapic: None,
            aftermath: Aftermath::None,
            halt_poll_ns: 0,
            pending: Pending::None,
            emulation: Emulation::new(),
            sigmask: None,
            tsc_khz: vm.tsc_khz(),
            pv: Pv::new(),
            spare: SpareTables::new(),
            has_run: false,
            hw,
        };
        let run = RunPage::new()?;
        let pio = SharedPage::new()?;
        let vcpu = Arc::pin_init(
            try_pin_init!(Self {
                id: id,
                creator: sched::current_thread(),
                runner: runner,
                apic: apic,
                irqchip: vm.irqchip().cloned(),
                run: run,
                pio: pio,
                resident: resident,
                steal_time: StealTime::new(),
                stats: VcpuCounters::new(),
                ring: ring,
                memory: vm.memory.clone(),
                notifier <- Notifier::new(),
                state <- KillableMutex::new(state, c"vcpu", kernel::static_lock_class!()),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        vcpu.with_loaded(vm, |cx| {
            cx.reset_registers();
            if !vm.has_quirk(QUIRK_STUFF_FEATURE_MSRS) {
                cx.state.msrs.clear_features();
            }
            Ok(())
        })?;
        Ok(vcpu)
    }

    /// Access to guest memory on behalf of this vCPU.
    #[inline]
    pub(crate) fn guest_memory(&self) -> GuestAccess<'_> {
        self.memory.access(self.ring.as_ref())
    }

    /// Calls `f` with the state, which stays where it is.
    ///
    /// # Errors
    ///
    /// EINTR where the thread is to die before it has the state, and `f`'s.
    pub(crate) fn with_state<R>(&self, f: impl FnOnce(&mut State<B>) -> Result<R>) -> Result<R> {
        f(&mut *self.state.lock()?)
    }

    /// Calls `f` with the vCPU loaded.
    ///
    /// # Errors
    ///
    /// As for [`Self::with_state`].
    pub(crate) fn with_loaded<R>(
        &self,
        vm: &Vm<B>,
        f: impl FnOnce(&mut Loaded<'_, B>) -> Result<R>,
    ) -> Result<R> {
        let mut state = self.state.lock()?;

        let pinned = Pinned::new();
        let registered = self.notifier.register(self, &pinned)?;
        B::load(&self.resident, &pinned);
        drop(pinned);

        let result = f(&mut Loaded {
            vm,
            vcpu: self,
            state: &mut state,
        });

        let pinned = Pinned::new();
        B::unload(&self.resident, &pinned);
        registered.unregister(&pinned);
        drop(pinned);
        result
    }
}

impl<B: Backend> Resident for Vcpu<B> {
    fn sched_in(&self, cpu: u32) {
        self.resident.sched_in(cpu);
        self.runner.set_waits_for_cpu(false);
        self.came_to(cpu);
        speculation::uses_l1d();
    }

    fn sched_out(&self) {
        if sched::is_preempted() {
            self.runner.set_waits_for_cpu(true);
            self.stats.count(if self.steal_time.is_at_boundary() {
                stat::PREEMPTION_REPORTED
            } else {
                stat::PREEMPTION_OTHER
            });
            self.steal_time
                .mark_preempted(&self.memory, self.ring.as_ref());
        }
        self.resident.sched_out();
    }
}

impl<'a, B: Backend> Loaded<'a, B> {
    /// Sets the registers as reset and INIT both leave them (SDM vol. 3, table 10-1).
    pub(crate) fn reset_registers(&mut self) {
        /// What RDX says where no CPUID was set: family 6.
        const SIGNATURE: u32 = 0x600;
        let signature = match self.state.cpuid.words(1, 0)[0] {
            0 => SIGNATURE,
            signature => signature,
        };
        self.state.regs = [0; 16];
        self.state.regs[RDX] = signature.into();
        self.state.cr2 = 0;
        self.state.cr8 = 0;
        self.state.dr.reset();
        self.state.events = Events::default();
        self.state.pending = Pending::None;
        B::reset(self, self.vm.memory.root());
        self.reset_debug();
        B::flush_guest_tlb(self);
    }

    /// The local APIC, where it is in the kernel.
    #[inline]
    pub(crate) fn apic(&self) -> Option<&LocalApic> {
        self.vcpu.apic.as_deref()
    }

    /// The VM's interrupt controllers, where they are in the kernel.
    #[inline]
    pub(crate) fn irqchip(&self) -> Option<&'a Irqchip> {
        self.vcpu.irqchip.as_deref()
    }

    /// Counts one more of what happens to this vCPU.
    #[inline(always)]
    pub(crate) fn count(&self, what: VcpuPlace) {
        self.vcpu.stats.count(what);
    }

    /// Whether this vCPU starts by itself.
    pub(crate) fn is_bsp(&self) -> bool {
        self.vm.is_boot_cpu(self.vcpu.id)
    }

    /// A general-purpose register by its encoding.
    #[inline]
    pub(crate) fn reg(&self, index: usize) -> u64 {
        if index == RSP {
            B::rsp(self)
        } else {
            self.state.regs[index & 15]
        }
    }

    /// Sets one.
    #[inline]
    pub(crate) fn set_reg(&mut self, index: usize, value: u64) {
        if index == RSP {
            B::set_rsp(self, value)
        } else {
            self.state.regs[index & 15] = value;
        }
    }

    /// All general-purpose registers.
    pub(crate) fn all_regs(&self) -> [u64; 16] {
        let mut regs = self.state.regs;
        regs[RSP] = B::rsp(self);
        regs
    }

    /// Whether the guest is in 64-bit mode, not just in IA-32e mode.
    pub(crate) fn is_64_bit_mode(&self) -> bool {
        B::efer(self) & Efer::LMA.bits() != 0 && B::cs_rights(self).is_long()
    }

    /// The linear address of the next instruction.
    pub(crate) fn linear_rip(&self) -> Gva {
        if self.is_64_bit_mode() {
            Gva(B::rip(self))
        } else {
            let base = B::segment_base(self, SegmentRegister::Cs);
            Gva(u64::from(base.wrapping_add(B::rip(self)) as u32))
        }
    }

    /// The control registers, for checks.
    pub(crate) fn control_state(&self) -> ControlState {
        ControlState {
            cr0: Cr0::from_bits_retain(B::cr0(self)),
            cr3: B::cr3(self),
            cr4: Cr4::from_bits_retain(B::cr4(self)),
            efer: Efer::from_bits_retain(B::efer(self)),
            cs_long: B::cs_rights(self).is_long(),
        }
    }

    /// How the guest translates linear addresses now.
    pub(crate) fn paging(&self) -> Paging {
        let control = self.control_state();
        let mut paging = Paging::new(
            control.cr0,
            control.cr3,
            control.cr4,
            control.efer,
            self.state.cpuid.limits().maxphyaddr,
        );
        if control.is_pae_paging() {
            paging.pdptes = Some(B::pdptes(self));
        }
        paging
    }

    /// An access of the given kind at the guest's current privilege.
    pub(crate) fn access(&self, kind: AccessKind) -> Access {
        const AC: u64 = 1 << 18;
        let access = if B::cpl(self) == 3 {
            Access::user(kind)
        } else {
            Access::supervisor(kind)
        };
        access.with_ac(B::rflags(self) & AC != 0)
    }
}
