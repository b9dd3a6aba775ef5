// SPDX-License-Identifier: GPL-2.0

//! Intel VT-x: the backend that runs guests with it.
//!
//! The six groups of a VMCS (SDM vol. 3, 25.3) are six places here: [`guest_state`],
//! [`host_state`], [`controls`] for the execution, exit and entry controls with what the processor
//! allows of each in [`capability`], and [`exit`] for the exit information.

mod apic;
mod bitmaps;
mod capability;
mod controls;
mod dump;
mod entry;
mod entry_check;
mod ept;
mod exit;
mod guest_state;
mod host_state;
mod inject;
mod instructions;
mod timer;
mod vmcs;
mod vmxon;
mod vpid;
mod write_log;

use arch::{
    addr::{
        Gfn,
        Hpa, //
    },
    controls::{
        CpuBased,
        EptVpidCap,
        PinBased,
        Secondary, //
    },
    exit::InterruptionInfo,
    segment::{
        AccessRights,
        Segment, //
    },
    vmcs as field, //
};
use core::fmt;

use kernel::{
    prelude::*,
    sync::Arc, //
};

pub(crate) use self::vmxon::RootOperation;
use self::{
    apic::VirtualApic,
    bitmaps::Bitmaps,
    capability::Capability,
    ept::Ept,
    guest_state::{
        BLOCKED_BY_MOV_SS,
        BLOCKED_BY_NMI,
        BLOCKED_BY_STI, //
    },
    timer::PreemptionTimer,
    vmcs::Vmcs,
    vpid::{
        Vpid,
        Vpids, //
    },
    write_log::WriteLog, //
};
use crate::{
    host::{
        cpu::{
            IrqsOff,
            Pinned, //
        },
        guest_mode::{
            GuestMode,
            GuestTime, //
        },
        speculation::{
            self,
            Mitigations, //
        },
    },
    stats::vcpu as stat,
    vm::{
        backend::{
            Backend,
            Exit,
            ExitInfo,
            SegmentRegister,
            TableRegister, //
        },
        DisabledExits,
        Event,
        Limits,
        Loaded,
        SHADOW_MOV_SS,
        SHADOW_STI, //
    },
};

/// VT-x on this machine.
pub(crate) struct Vmx {
    capability: Capability,
    vpids: Arc<Vpids>,
    _mitigations: Mitigations,
}

/// What a vCPU's thread owns beside the VMCS.
pub(crate) struct VmxVcpu {
    /// As in the VMCS.
    pin_based: PinBased,
    /// As in the VMCS.
    cpu_based: CpuBased,
    /// As in the VMCS.
    secondary: Secondary,
    vpid: Option<Vpid>,
    eptp: u64,
    /// As in the VMCS.
    host_cr3: u64,
    /// As in the VMCS.
    host_cr4: u64,
    host_debugctl: u64,
    /// An interrupt that an exit acknowledged.
    host_interrupt: Option<u8>,
    /// A machine check ended the guest's turn.
    machine_check: bool,
    /// Translations of the guest's page tables must go before the next entry.
    flush_guest_tlb: bool,
    virtual_apic: VirtualApic,
    timer: PreemptionTimer,
    /// Where the processor notes which pages the guest writes.
    write_log: Option<WriteLog>,
}

impl Vmx {
    /// Checks what the processor can do.
    ///
    /// # Errors
    ///
    /// Those of [`Capability::read`].
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            capability: Capability::read()?,
            vpids: Vpids::new()?,
            _mitigations: Mitigations::new()?,
        })
    }

    /// What VMXON regions and VMCSs start with.
    pub(crate) fn revision_id(&self) -> u32 {
        self.capability.basic.revision_id()
    }

    /// Whether a secondary control is in use.
    pub(crate) fn has_rdtscp(&self) -> bool {
        self.capability.has(Secondary::ENABLE_RDTSCP)
    }

    /// Whether INVPCID works in guests.
    pub(crate) fn has_invpcid(&self) -> bool {
        self.capability.has(Secondary::ENABLE_INVPCID)
    }
}

impl Backend for Vmx {
    const ISA: u32 = 1;

    type Tables = Ept;
    type Machine = Bitmaps;
    type Resident = Vmcs;
    type Vcpu = VmxVcpu;

    fn memory_limits(&self) -> Limits {
        // Four levels of EPT translate 48 bits; a processor may have fewer.
        let bits = (crate::host::cpu::cpuid(0x8000_0008, 0)[0] & 0xff).min(48);
        let ept = self.capability.ept_vpid;
        Limits {
            max_gfn: (1 << (bits - 12)) - 1,
            max_order: if speculation::has_itlb_multihit() {
                0
            } else if ept.contains(EptVpidCap::PAGE_1G) {
                18
            } else if ept.contains(EptVpidCap::PAGE_2M) {
                9
            } else {
                0
            },
            logged_writes: if self.capability.has(Secondary::ENABLE_PML) {
                write_log::ENTRIES
            } else {
                0
            },
        }
    }

    fn cpuid_hardware(&self, xcr0: u64) -> arch::cpuid::Hardware {
        arch::cpuid::Hardware {
            xcr0,
            rdtscp: self.has_rdtscp(),
            invpcid: self.has_invpcid(),
        }
    }

    fn new_machine(&self) -> Result<Bitmaps> {
        Bitmaps::new(self.capability.has_apicv())
    }

    fn new_vcpu(&self, disabled_exits: DisabledExits) -> Result<(Vmcs, VmxVcpu)> {
        let vpid = if self.capability.has(Secondary::ENABLE_VPID) {
            Vpids::allocate(&self.vpids)
        } else {
            None
        };
        let mut secondary = Secondary::from_bits_retain(self.capability.secondary.got);
        // As long as no local APIC says otherwise.
        secondary.remove(apic::SECONDARY);
        secondary.set(Secondary::ENABLE_VPID, vpid.is_some());
        let write_log = if secondary.contains(Secondary::ENABLE_PML) {
            Some(WriteLog::new()?)
        } else {
            None
        };
        // Until a slot has a log.
        secondary.remove(Secondary::ENABLE_PML);
        let mut cpu_based = CpuBased::from_bits_retain(self.capability.cpu_based.got)
            .difference(CpuBased::USE_TPR_SHADOW);
        if disabled_exits.contains(DisabledExits::HLT) {
            cpu_based.remove(CpuBased::HLT_EXITING);
        }
        if disabled_exits.contains(DisabledExits::MWAIT) {
            cpu_based.remove(CpuBased::MWAIT_EXITING | CpuBased::MONITOR_EXITING);
        }
        if disabled_exits.contains(DisabledExits::PAUSE) {
            secondary.remove(Secondary::PAUSE_LOOP_EXITING);
        }
        let vcpu = VmxVcpu {
            // Both are turned on where they are used.
            pin_based: PinBased::from_bits_retain(self.capability.pin_based.got)
                .difference(PinBased::POSTED_INTERRUPTS | PinBased::PREEMPTION_TIMER),
            cpu_based,
            secondary,
            vpid,
            eptp: 0,
            host_cr3: 0,
            host_cr4: 0,
            host_debugctl: 0,
            host_interrupt: None,
            machine_check: false,
            flush_guest_tlb: true,
            virtual_apic: VirtualApic::default(),
            timer: PreemptionTimer::new(),
            write_log,
        };
        Ok((Vmcs::new(self.revision_id(), self.has_rdtscp())?, vcpu))
    }

    fn write_capabilities(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.capability)
    }

    fn dump(cx: &Loaded<'_, Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        dump::write(cx, f)
    }

    fn load(resident: &Vmcs, pinned: &Pinned) {
        resident.load(pinned);
    }

    fn unload(resident: &Vmcs, pinned: &Pinned) {
        resident.unload_guest(pinned);
    }

    fn reset(cx: &mut Loaded<'_, Self>, root: Hpa) {
        cx.state.hw.eptp = controls::eptp(&cx.vm.backend, root);
        controls::write(cx);
        host_state::write_constant(&cx.vcpu.resident);
        guest_state::write_reset(cx);
        apic::follow_mode(cx);
    }

    #[inline]
    fn prepare_entry(cx: &mut Loaded<'_, Self>, pinned: &Pinned) {
        if cx.vcpu.resident.load_guest(pinned) {
            cx.count(stat::HOST_STATE_RELOAD);
        }
    }

    #[inline]
    fn begin(cx: &mut Loaded<'_, Self>, irqs_off: &IrqsOff<'_>) {
        entry::begin(cx, irqs_off);
    }

    #[inline(always)]
    fn enter(cx: &mut Loaded<'_, Self>, _guest_mode: &GuestMode<'_>) -> Exit {
        entry::enter(cx)
    }

    #[inline]
    fn finish(cx: &mut Loaded<'_, Self>, time: &GuestTime<'_>) {
        entry::finish(cx, time);
    }

    fn inject(cx: &mut Loaded<'_, Self>, event: &Event) {
        if !cx.state.hw.cpu_based.contains(CpuBased::HLT_EXITING) {
            guest_state::end_halt(&cx.vcpu.resident);
        }
        match event {
            Event::Interrupt { .. } | Event::SoftwareInterrupt { .. } => {
                cx.count(stat::IRQ_INJECTIONS);
            }
            Event::Nmi => cx.count(stat::NMI_INJECTIONS),
            Event::Exception { .. } | Event::SoftwareException { .. } => {}
        }
        inject::write(
            &cx.vcpu.resident,
            event,
            guest_state::cr0(&cx.vcpu.resident),
        );
    }

    #[inline]
    fn cr2(_guest_mode: &GuestMode<'_>) -> u64 {
        entry::read_cr2()
    }

    fn load_cr2(_guest_mode: &GuestMode<'_>, value: u64) {
        entry::write_cr2(value);
    }

    #[inline]
    fn set_interrupt_window(cx: &mut Loaded<'_, Self>, on: bool) {
        controls::set_cpu_based(cx, CpuBased::INTERRUPT_WINDOW_EXITING, on);
    }

    #[inline]
    fn set_nmi_window(cx: &mut Loaded<'_, Self>, on: bool) {
        controls::set_cpu_based(cx, CpuBased::NMI_WINDOW_EXITING, on);
    }

    fn interrupt_shadow(cx: &Loaded<'_, Self>) -> u8 {
        let state = cx.vcpu.resident.read(field::GUEST_INTERRUPTIBILITY);
        let mut shadow = 0;
        if state & BLOCKED_BY_STI != 0 {
            shadow |= SHADOW_STI;
        }
        if state & BLOCKED_BY_MOV_SS != 0 {
            shadow |= SHADOW_MOV_SS;
        }
        shadow
    }

    fn set_interrupt_shadow(cx: &mut Loaded<'_, Self>, shadow: u8) {
        let f = &cx.vcpu.resident;
        let old = f.read(field::GUEST_INTERRUPTIBILITY);
        // Both at once is a state that entries refuse; MOV SS blocks more.
        let new = if shadow & SHADOW_MOV_SS != 0 {
            BLOCKED_BY_MOV_SS
        } else if shadow & SHADOW_STI != 0 {
            BLOCKED_BY_STI
        } else {
            0
        };
        f.write(
            field::GUEST_INTERRUPTIBILITY,
            old & !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) | new,
        );
    }

    fn nmi_masked(cx: &Loaded<'_, Self>) -> bool {
        cx.vcpu.resident.read(field::GUEST_INTERRUPTIBILITY) & BLOCKED_BY_NMI != 0
    }

    fn set_nmi_masked(cx: &mut Loaded<'_, Self>, masked: bool) {
        let f = &cx.vcpu.resident;
        let old = f.read(field::GUEST_INTERRUPTIBILITY);
        let new = if masked {
            old | BLOCKED_BY_NMI
        } else {
            old & !BLOCKED_BY_NMI
        };
        f.write(field::GUEST_INTERRUPTIBILITY, new);
    }

    #[inline]
    fn skip_instruction(cx: &mut Loaded<'_, Self>) {
        let length = cx.vcpu.resident.read(field::VM_EXIT_INSTRUCTION_LEN);
        entry::skip(cx, length.into());
    }

    fn skip_bytes(cx: &mut Loaded<'_, Self>, length: u8) {
        entry::skip(cx, length.into());
    }

    fn take_single_step(cx: &mut Loaded<'_, Self>) -> bool {
        entry::take_single_step(&cx.vcpu.resident)
    }

    fn describe_exit(cx: &Loaded<'_, Self>) -> [u64; 5] {
        let f = &cx.vcpu.resident;
        [
            f.read(field::IDT_VECTORING_INFO).into(),
            f.read(field::VM_EXIT_REASON).into(),
            f.read(field::EXIT_QUALIFICATION),
            f.read(field::GUEST_PHYSICAL_ADDRESS),
            u64::from(crate::host::cpu::current()),
        ]
    }

    fn entry_info(cx: &Loaded<'_, Self>) -> [u32; 2] {
        let f = &cx.vcpu.resident;
        let info = InterruptionInfo(f.read(field::VM_ENTRY_INTR_INFO));
        let code = if info.has_error_code() {
            f.read(field::VM_ENTRY_EXCEPTION_ERROR_CODE)
        } else {
            0
        };
        [info.0, code]
    }

    fn exit_info(cx: &Loaded<'_, Self>) -> ExitInfo {
        let f = &cx.vcpu.resident;
        let info = InterruptionInfo(f.read(field::VM_EXIT_INTR_INFO));
        ExitInfo {
            reason: f.read(field::VM_EXIT_REASON),
            info1: f.read(field::EXIT_QUALIFICATION),
            info2: f.read(field::IDT_VECTORING_INFO).into(),
            intr_info: info.0,
            error_code: if info.is_valid() && info.has_error_code() {
                f.read(field::VM_EXIT_INTR_ERROR_CODE)
            } else {
                0
            },
        }
    }

    fn rip(cx: &Loaded<'_, Self>) -> u64 {
        cx.vcpu.resident.read(field::GUEST_RIP)
    }

    fn set_rip(cx: &mut Loaded<'_, Self>, value: u64) {
        cx.vcpu.resident.write(field::GUEST_RIP, value);
    }

    fn rsp(cx: &Loaded<'_, Self>) -> u64 {
        cx.vcpu.resident.read(field::GUEST_RSP)
    }

    fn set_rsp(cx: &mut Loaded<'_, Self>, value: u64) {
        cx.vcpu.resident.write(field::GUEST_RSP, value);
    }

    fn rflags(cx: &Loaded<'_, Self>) -> u64 {
        cx.vcpu.resident.read(field::GUEST_RFLAGS)
    }

    fn set_rflags(cx: &mut Loaded<'_, Self>, value: u64) {
        cx.vcpu.resident.write(field::GUEST_RFLAGS, value);
    }

    fn cr0(cx: &Loaded<'_, Self>) -> u64 {
        guest_state::cr0(&cx.vcpu.resident)
    }

    fn set_cr0(cx: &mut Loaded<'_, Self>, value: u64) {
        guest_state::set_cr0(cx, value);
    }

    fn cr3(cx: &Loaded<'_, Self>) -> u64 {
        cx.vcpu.resident.read(field::GUEST_CR3)
    }

    fn set_cr3(cx: &mut Loaded<'_, Self>, value: u64) {
        cx.vcpu.resident.write(field::GUEST_CR3, value);
    }

    fn cr4(cx: &Loaded<'_, Self>) -> u64 {
        guest_state::cr4(&cx.vcpu.resident)
    }

    fn set_cr4(cx: &mut Loaded<'_, Self>, value: u64) {
        guest_state::set_cr4(&cx.vcpu.resident, value);
    }

    fn efer(cx: &Loaded<'_, Self>) -> u64 {
        cx.vcpu.resident.read(field::GUEST_IA32_EFER)
    }

    fn set_efer(cx: &mut Loaded<'_, Self>, value: u64) {
        guest_state::set_efer(cx, value);
    }

    fn pdptes(cx: &Loaded<'_, Self>) -> [u64; 4] {
        guest_state::pdptes(&cx.vcpu.resident)
    }

    fn set_pdptes(cx: &mut Loaded<'_, Self>, value: &[u64; 4]) {
        guest_state::set_pdptes(&cx.vcpu.resident, value);
    }

    fn dr7(cx: &Loaded<'_, Self>) -> u64 {
        cx.vcpu.resident.read(field::GUEST_DR7)
    }

    fn set_dr7(cx: &mut Loaded<'_, Self>, value: u64) {
        cx.vcpu.resident.write(field::GUEST_DR7, value);
    }

    fn segment(cx: &Loaded<'_, Self>, register: SegmentRegister) -> Segment {
        guest_state::segment(&cx.vcpu.resident, register)
    }

    fn set_segment(cx: &mut Loaded<'_, Self>, register: SegmentRegister, segment: &Segment) {
        guest_state::set_segment(&cx.vcpu.resident, register, segment);
    }

    fn cs_rights(cx: &Loaded<'_, Self>) -> AccessRights {
        AccessRights(cx.vcpu.resident.read(field::GUEST_CS_AR_BYTES))
    }

    fn segment_base(cx: &Loaded<'_, Self>, register: SegmentRegister) -> u64 {
        guest_state::segment_base(&cx.vcpu.resident, register)
    }

    fn cpl(cx: &Loaded<'_, Self>) -> u8 {
        guest_state::cpl(&cx.vcpu.resident)
    }

    fn gdtr(cx: &Loaded<'_, Self>) -> TableRegister {
        guest_state::gdtr(&cx.vcpu.resident)
    }

    fn set_gdtr(cx: &mut Loaded<'_, Self>, value: TableRegister) {
        guest_state::set_gdtr(&cx.vcpu.resident, value);
    }

    fn idtr(cx: &Loaded<'_, Self>) -> TableRegister {
        guest_state::idtr(&cx.vcpu.resident)
    }

    fn set_idtr(cx: &mut Loaded<'_, Self>, value: TableRegister) {
        guest_state::set_idtr(&cx.vcpu.resident, value);
    }

    fn tsc_offset(cx: &Loaded<'_, Self>) -> u64 {
        cx.vcpu.resident.read(field::TSC_OFFSET)
    }

    fn set_tsc_offset(cx: &mut Loaded<'_, Self>, value: u64) {
        cx.vcpu.resident.write(field::TSC_OFFSET, value);
    }

    fn msr(cx: &Loaded<'_, Self>, index: u32) -> Option<u64> {
        guest_state::msr(&cx.vcpu.resident, index)
    }

    fn set_msr(cx: &mut Loaded<'_, Self>, index: u32, value: u64) -> bool {
        guest_state::set_msr(&cx.vcpu.resident, index, value)
    }

    fn filter_msrs(
        machine: &Bitmaps,
        disabled_exits: DisabledExits,
        allows: impl Fn(u32, u32) -> bool,
    ) {
        machine.filter_msrs(disabled_exits, allows);
    }

    fn set_exception_exits(cx: &mut Loaded<'_, Self>, bitmap: u32) {
        cx.vcpu.resident.write(field::EXCEPTION_BITMAP, bitmap);
    }

    fn cpuid_changed(cx: &mut Loaded<'_, Self>) {
        // Instructions whose CPUID bit the guest does not have raise #UD, as on hardware.
        let rdtscp = cx.has_tsc_aux();
        controls::set_secondary(cx, Secondary::ENABLE_RDTSCP, rdtscp);
        let invpcid = cx.state.cpuid.words(7, 0)[1] & 1 << 10 != 0;
        controls::set_secondary(cx, Secondary::ENABLE_INVPCID, invpcid);

        // Bits change owners; what the guest reads stays.
        let cr4 = guest_state::cr4(&cx.vcpu.resident);
        controls::write_cr4_mask(cx);
        guest_state::set_cr4(&cx.vcpu.resident, cr4);
    }

    fn posts_interrupts(&self) -> bool {
        self.capability.has_apicv()
    }

    #[inline]
    fn has_timer(&self) -> bool {
        self.capability.has_preemption_timer()
    }

    #[inline]
    fn start_timer(cx: &mut Loaded<'_, Self>, deadline: u64) {
        timer::start(cx, deadline);
    }

    #[inline]
    fn stop_timer(cx: &mut Loaded<'_, Self>) {
        timer::stop(cx);
    }

    fn apic_mode_changed(cx: &mut Loaded<'_, Self>) {
        apic::follow_mode(cx);
    }

    fn set_write_log(cx: &mut Loaded<'_, Self>, on: bool) {
        write_log::set(cx, on);
    }

    fn drain_write_log(cx: &mut Loaded<'_, Self>, note: impl FnMut(Gfn)) {
        write_log::drain(cx, note);
    }

    fn flush_guest_tlb(cx: &mut Loaded<'_, Self>) {
        cx.count(stat::TLB_FLUSH);
        cx.state.hw.flush_guest_tlb = true;
    }
}
