// SPDX-License-Identifier: GPL-2.0

//! What the rest of the module asks of a processor's virtualisation: VT-x, or AMD-V later.
//!
//! Static dispatch throughout: a vCPU is generic over its backend, and no exit makes an indirect
//! call.

use arch::{
    addr::{
        Gfn,
        Gpa,
        Gva,
        Hpa, //
    },
    cpuid::Hardware,
    exit::{
        CrAccess,
        DrAccess, //
    },
    operand,
    segment::{
        AccessRights,
        Segment, //
    },
};
use kernel::prelude::*;

use super::{
    event::Event,
    memory::{
        Limits,
        SecondLevel, //
    },
    options::DisabledExits,
    vcpu::Loaded, //
};
use crate::host::{
    cpu::{
        IrqsOff,
        Pinned, //
    },
    guest_mode::{
        GuestMode,
        GuestTime, //
    },
    preempt::Resident, //
};

/// A segment register, in the order in which the VMCS numbers its fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentRegister {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

/// GDTR or IDTR.
#[derive(Clone, Copy)]
pub(crate) struct TableRegister {
    pub(crate) base: u64,
    pub(crate) limit: u32,
}

impl From<operand::Segment> for SegmentRegister {
    fn from(segment: operand::Segment) -> Self {
        match segment {
            operand::Segment::Es => Self::Es,
            operand::Segment::Cs => Self::Cs,
            operand::Segment::Ss => Self::Ss,
            operand::Segment::Ds => Self::Ds,
            operand::Segment::Fs => Self::Fs,
            operand::Segment::Gs => Self::Gs,
        }
    }
}

/// Where a string I/O instruction finds its memory operand.
#[derive(Clone, Copy)]
pub(crate) struct StringOperand {
    /// How much of the index and count registers is used.
    pub(crate) address_size: operand::Size,
    /// The segment of OUTS; INS uses ES.
    pub(crate) segment: operand::Segment,
}

/// An I/O instruction.
#[derive(Clone, Copy)]
pub(crate) struct IoExit {
    pub(crate) port: u16,
    /// What an access moves: a byte, a word or a doubleword.
    pub(crate) size: operand::Size,
    pub(crate) is_in: bool,
    pub(crate) is_rep: bool,
    pub(crate) string: Option<StringOperand>,
}

/// Why a guest came back, in terms that are not a vendor's.
#[derive(Clone, Copy)]
pub(crate) enum Exit {
    /// Served already: an interrupt or NMI for the host, a window that opened.
    Handled,
    /// CPUID.
    Cpuid,
    /// RDMSR.
    MsrRead,
    /// WRMSR.
    MsrWrite,
    /// A hypercall.
    Hypercall,
    /// HLT.
    Hlt,
    /// An I/O instruction.
    Io(IoExit),
    /// A control register.
    Cr(CrAccess),
    /// A debug register.
    Dr(DrAccess),
    /// XSETBV.
    Xsetbv,
    /// A loop of PAUSEs: the guest spins.
    Pause,
    /// An instruction that does nothing here: INVD, WBINVD.
    Ignored,
    /// MONITOR or MWAIT.
    Monitor,
    /// An instruction that this virtual processor does not have: #UD.
    InvalidOpcode,
    /// RDPMC: there are no counters, so #GP.
    Rdpmc,
    /// The guest touched memory that is not mapped, or not for this.
    Memory {
        gpa: Gpa,
        gva: Option<Gva>,
        is_write: bool,
        is_fetch: bool,
    },
    /// The processor's log of written frames is full.
    LogFull,
    /// An exception that exits.
    Exception {
        vector: u8,
        error_code: u32,
        qualification: u64,
    },
    /// The processor has ended an interrupt of the virtual APIC by itself.
    InterruptEnded { vector: u8 },
    /// The processor has written a register of the virtual APIC by itself.
    ApicWritten { offset: u32 },
    /// The deadline of [`Backend::start_timer`] has come.
    TimerExpired,
    /// A task switch, which is not emulated.
    TaskSwitch,
    /// A triple fault.
    TripleFault,
    /// The entry failed before the guest ran; `reason` is the hardware's.
    EntryFailed { reason: u64 },
    /// Something that must not happen; the words go to the VMM.
    Unexpected { reason: u64 },
}

/// What the hardware says of an exit, for whoever looks on (`kvm_exit` in KVM's tracepoints).
pub(crate) struct ExitInfo {
    pub(crate) reason: u32,
    /// The exit's qualification.
    pub(crate) info1: u64,
    /// The event whose delivery it cut short.
    pub(crate) info2: u64,
    /// The event that caused it.
    pub(crate) intr_info: u32,
    pub(crate) error_code: u32,
}

/// A processor's virtualisation.
///
/// Functions that take a `Loaded` have the vCPU on this CPU, or back on it whenever they run.
pub(crate) trait Backend: Send + Sync + Sized + 'static {
    /// How KVM's tracepoints call it: KVM_ISA_VMX is 1, KVM_ISA_SVM 2.
    const ISA: u32;

    /// Second-level tables.
    type Tables: SecondLevel;
    /// What a VM's vCPUs share: bitmaps.
    type Machine: Send + Sync;
    /// What is in the processor while a vCPU's thread runs.
    type Resident: Resident + Send + Sync;
    /// What else a vCPU has.
    type Vcpu: Send;

    /// What second-level tables can do.
    fn memory_limits(&self) -> Limits;
    /// What CPUID features the hardware can give guests that may use `xcr0`.
    fn cpuid_hardware(&self, xcr0: u64) -> Hardware;
    /// What a new VM shares.
    fn new_machine(&self) -> Result<Self::Machine>;
    /// A new vCPU's parts, which does some things without an exit.
    fn new_vcpu(&self, disabled_exits: DisabledExits) -> Result<(Self::Resident, Self::Vcpu)>;
    /// The text of `/sys/kernel/debug/kvm/vmx_capabilities`.
    fn write_capabilities(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result;
    /// The state of a loaded vCPU as the hardware keeps it.
    fn dump(cx: &Loaded<'_, Self>, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result;

    /// Puts a vCPU on this CPU.
    fn load(resident: &Self::Resident, pinned: &Pinned);
    /// Takes the guest's part out of this CPU, for the thread to go its way.
    fn unload(resident: &Self::Resident, pinned: &Pinned);
    /// Sets up a new vCPU for its first entry: state as after reset.
    fn reset(cx: &mut Loaded<'_, Self>, root: Hpa);

    /// Gets the processor ready to run the guest; interrupts are on, preemption is off.
    fn prepare_entry(cx: &mut Loaded<'_, Self>, pinned: &Pinned);
    /// As the last thing before the guest runs, with interrupts off.
    fn begin(cx: &mut Loaded<'_, Self>, irqs_off: &IrqsOff<'_>);
    /// Runs the guest until it exits, and says why. Serves NMIs.
    fn enter(cx: &mut Loaded<'_, Self>, guest_mode: &GuestMode<'_>) -> Exit;
    /// Serves what a `Handled` exit left to do, before interrupts are on again.
    fn finish(cx: &mut Loaded<'_, Self>, time: &GuestTime<'_>);

    /// Injects an event at the next entry.
    fn inject(cx: &mut Loaded<'_, Self>, event: &Event);
    /// CR2, which is the guest's as long as the host takes no page fault.
    fn cr2(guest_mode: &GuestMode<'_>) -> u64;
    /// Loads CR2, where an injected page fault wants another.
    fn load_cr2(guest_mode: &GuestMode<'_>, value: u64);
    /// Exits as soon as the guest can take an interrupt.
    fn set_interrupt_window(cx: &mut Loaded<'_, Self>, on: bool);
    /// Exits as soon as the guest can take an NMI.
    fn set_nmi_window(cx: &mut Loaded<'_, Self>, on: bool);
    /// STI or MOV SS just before holds interrupts off: KVM_X86_SHADOW_INT_*.
    fn interrupt_shadow(cx: &Loaded<'_, Self>) -> u8;
    /// Sets it.
    fn set_interrupt_shadow(cx: &mut Loaded<'_, Self>, shadow: u8);
    /// An NMI handler runs, or something else holds NMIs off.
    fn nmi_masked(cx: &Loaded<'_, Self>) -> bool;
    /// Sets it.
    fn set_nmi_masked(cx: &mut Loaded<'_, Self>, masked: bool);

    /// Goes on after the instruction that exited.
    fn skip_instruction(cx: &mut Loaded<'_, Self>);
    /// Goes on `length` bytes further.
    fn skip_bytes(cx: &mut Loaded<'_, Self>, length: u8);
    /// Whether the instruction just completed is followed by a single-step trap and nothing else of
    /// its kind, which then is the caller's to deliver.
    fn take_single_step(cx: &mut Loaded<'_, Self>) -> bool;
    /// The words that describe an exit nobody can handle: vectoring information, reason,
    /// qualification, error code and address.
    fn describe_exit(cx: &Loaded<'_, Self>) -> [u64; 5];

    /// What an entry is about to inject: the event and its error code.
    fn entry_info(cx: &Loaded<'_, Self>) -> [u32; 2];
    /// What the hardware says of the last exit.
    fn exit_info(cx: &Loaded<'_, Self>) -> ExitInfo;

    /// RIP.
    fn rip(cx: &Loaded<'_, Self>) -> u64;
    /// Sets RIP.
    fn set_rip(cx: &mut Loaded<'_, Self>, value: u64);
    /// RSP.
    fn rsp(cx: &Loaded<'_, Self>) -> u64;
    /// Sets RSP.
    fn set_rsp(cx: &mut Loaded<'_, Self>, value: u64);
    /// RFLAGS.
    fn rflags(cx: &Loaded<'_, Self>) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(cx: &mut Loaded<'_, Self>, value: u64);
    /// CR0 as the guest sees it.
    fn cr0(cx: &Loaded<'_, Self>) -> u64;
    /// Sets CR0, and what follows from it: EFER.LMA.
    fn set_cr0(cx: &mut Loaded<'_, Self>, value: u64);
    /// CR3.
    fn cr3(cx: &Loaded<'_, Self>) -> u64;
    /// Sets CR3.
    fn set_cr3(cx: &mut Loaded<'_, Self>, value: u64);
    /// CR4 as the guest sees it.
    fn cr4(cx: &Loaded<'_, Self>) -> u64;
    /// Sets CR4.
    fn set_cr4(cx: &mut Loaded<'_, Self>, value: u64);
    /// EFER.
    fn efer(cx: &Loaded<'_, Self>) -> u64;
    /// Sets EFER.
    fn set_efer(cx: &mut Loaded<'_, Self>, value: u64);
    /// The PDPTE registers of PAE paging.
    fn pdptes(cx: &Loaded<'_, Self>) -> [u64; 4];
    /// Sets them.
    fn set_pdptes(cx: &mut Loaded<'_, Self>, value: &[u64; 4]);
    /// DR7 in force.
    fn set_dr7(cx: &mut Loaded<'_, Self>, value: u64);
    /// The DR7 last saved.
    fn dr7(cx: &Loaded<'_, Self>) -> u64;
    /// A segment register.
    fn segment(cx: &Loaded<'_, Self>, register: SegmentRegister) -> Segment;
    /// Sets one.
    fn set_segment(cx: &mut Loaded<'_, Self>, register: SegmentRegister, segment: &Segment);
    /// The access rights of CS.
    fn cs_rights(cx: &Loaded<'_, Self>) -> AccessRights;
    /// The base of a segment register.
    fn segment_base(cx: &Loaded<'_, Self>, register: SegmentRegister) -> u64;
    /// The current privilege level.
    fn cpl(cx: &Loaded<'_, Self>) -> u8;
    /// GDTR.
    fn gdtr(cx: &Loaded<'_, Self>) -> TableRegister;
    /// Sets GDTR.
    fn set_gdtr(cx: &mut Loaded<'_, Self>, value: TableRegister);
    /// IDTR.
    fn idtr(cx: &Loaded<'_, Self>) -> TableRegister;
    /// Sets IDTR.
    fn set_idtr(cx: &mut Loaded<'_, Self>, value: TableRegister);

    /// The guest's TSC minus the host's.
    fn tsc_offset(cx: &Loaded<'_, Self>) -> u64;
    /// Sets it.
    fn set_tsc_offset(cx: &mut Loaded<'_, Self>, value: u64);
    /// An MSR that the hardware keeps; `None` if it is none of those.
    fn msr(cx: &Loaded<'_, Self>, index: u32) -> Option<u64>;
    /// Sets one. Returns false if it is none of those. The value is checked.
    fn set_msr(cx: &mut Loaded<'_, Self>, index: u32, value: u64) -> bool;
    /// Has those accesses to MSRs exit that `allows` does not, or that are not among
    /// `disabled_exits`; the second argument of `allows` is KVM_MSR_FILTER_READ or
    /// KVM_MSR_FILTER_WRITE. Calls come one after another.
    fn filter_msrs(
        machine: &Self::Machine,
        disabled_exits: DisabledExits,
        allows: impl Fn(u32, u32) -> bool,
    );
    /// Sets which exceptions exit, for debuggers: bit n is vector n.
    fn set_exception_exits(cx: &mut Loaded<'_, Self>, bitmap: u32);
    /// What the CPUID of this vCPU leaves to the guest alone has changed.
    fn cpuid_changed(cx: &mut Loaded<'_, Self>);
    /// Whether others may leave interrupts for the processor to take by itself.
    fn posts_interrupts(&self) -> bool;
    /// Whether the processor can end a guest's turn at a value of its counter.
    fn has_timer(&self) -> bool;
    /// Ends the guest's turn with [`Exit::TimerExpired`] when the host's counter is at `deadline`.
    /// Only with [`Self::has_timer`].
    fn start_timer(cx: &mut Loaded<'_, Self>, deadline: u64);
    /// Does not, after [`Self::start_timer`].
    fn stop_timer(cx: &mut Loaded<'_, Self>);
    /// The local APIC is in another mode: what the processor does of it by itself follows.
    fn apic_mode_changed(cx: &mut Loaded<'_, Self>);
    /// Has the processor log the frames that the guest writes first, or no longer.
    fn set_write_log(cx: &mut Loaded<'_, Self>, on: bool);
    /// Calls `note` with each frame of that log, which is empty afterwards.
    fn drain_write_log(cx: &mut Loaded<'_, Self>, note: impl FnMut(Gfn));
    /// Translations of the guest's own page tables are stale.
    fn flush_guest_tlb(cx: &mut Loaded<'_, Self>);
}
