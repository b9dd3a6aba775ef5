// SPDX-License-Identifier: GPL-2.0

//! Exit reasons and what their qualifications mean (SDM vol. 3, 28.2 and appendix C).

use crate::addr::Gva;

macro_rules! reasons {
    ($($name:ident = $number:literal, $doc:literal;)*) => {
        /// A basic exit reason.
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct Reason(pub u16);

        impl Reason {
            $(
                #[doc = $doc]
                pub const $name: Self = Self($number);
            )*

            /// The reason's name, where it has one.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($number => stringify!($name),)*
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

reasons! {
    EXCEPTION_NMI = 0, "An exception that the exception bitmap names, or an NMI.";
    EXTERNAL_INTERRUPT = 1, "An interrupt for the host.";
    TRIPLE_FAULT = 2, "A fault while a double fault was delivered.";
    INIT_SIGNAL = 3, "An INIT signal.";
    INTERRUPT_WINDOW = 7, "The guest can take an interrupt now.";
    NMI_WINDOW = 8, "The guest can take an NMI now.";
    TASK_SWITCH = 9, "A task switch.";
    CPUID = 10, "CPUID.";
    HLT = 12, "HLT.";
    INVD = 13, "INVD.";
    INVLPG = 14, "INVLPG.";
    RDPMC = 15, "RDPMC.";
    RDTSC = 16, "RDTSC.";
    VMCALL = 18, "VMCALL.";
    VMCLEAR = 19, "VMCLEAR.";
    VMLAUNCH = 20, "VMLAUNCH.";
    VMPTRLD = 21, "VMPTRLD.";
    VMPTRST = 22, "VMPTRST.";
    VMREAD = 23, "VMREAD.";
    VMRESUME = 24, "VMRESUME.";
    VMWRITE = 25, "VMWRITE.";
    VMXOFF = 26, "VMXOFF.";
    VMXON = 27, "VMXON.";
    CR_ACCESS = 28, "MOV CR, CLTS or LMSW.";
    MOV_DR = 29, "MOV DR.";
    IO_INSTRUCTION = 30, "IN, OUT, INS or OUTS.";
    RDMSR = 31, "RDMSR.";
    WRMSR = 32, "WRMSR.";
    INVALID_GUEST_STATE = 33, "An entry failed for the guest state.";
    MSR_LOADING = 34, "An entry failed loading MSRs.";
    MWAIT = 36, "MWAIT.";
    MONITOR_TRAP_FLAG = 37, "The monitor trap flag.";
    MONITOR = 39, "MONITOR.";
    PAUSE = 40, "PAUSE.";
    MACHINE_CHECK_DURING_ENTRY = 41, "An entry failed for a machine check.";
    TPR_BELOW_THRESHOLD = 43, "The TPR fell below its threshold.";
    APIC_ACCESS = 44, "An access to the APIC-access page.";
    EOI_INDUCED = 45, "The guest ended an interrupt whose EOI exits.";
    GDTR_IDTR = 46, "LGDT, LIDT, SGDT or SIDT.";
    LDTR_TR = 47, "LLDT, LTR, SLDT or STR.";
    EPT_VIOLATION = 48, "The EPT does not allow an access.";
    EPT_MISCONFIGURATION = 49, "An EPT entry is not valid.";
    INVEPT = 50, "INVEPT.";
    RDTSCP = 51, "RDTSCP.";
    PREEMPTION_TIMER = 52, "The preemption timer ran out.";
    INVVPID = 53, "INVVPID.";
    WBINVD = 54, "WBINVD.";
    XSETBV = 55, "XSETBV.";
    APIC_WRITE = 56, "The guest wrote a register of its APIC.";
    RDRAND = 57, "RDRAND.";
    INVPCID = 58, "INVPCID.";
    VMFUNC = 59, "VMFUNC.";
    RDSEED = 61, "RDSEED.";
    PML_FULL = 62, "The page-modification log is full.";
    XSAVES = 63, "XSAVES.";
    XRSTORS = 64, "XRSTORS.";
    UMWAIT = 67, "UMWAIT.";
    TPAUSE = 68, "TPAUSE.";
}

/// The exit-reason field (SDM vol. 3, table 25-19).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitReason(pub u32);

impl ExitReason {
    /// The basic reason.
    pub const fn basic(self) -> Reason {
        Reason(self.0 as u16)
    }

    /// Whether an entry failed, rather than a guest ran.
    pub const fn is_entry_failure(self) -> bool {
        self.0 & (1 << 31) != 0
    }
}

impl core::fmt::Debug for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

/// Exit qualification of an I/O instruction (SDM vol. 3, table 28-5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoQualification(pub u64);

impl IoQualification {
    /// Bytes an access moves: 1, 2 or 4.
    #[inline]
    pub const fn size(self) -> u8 {
        (self.0 & 7) as u8 + 1
    }

    /// IN or INS rather than OUT or OUTS.
    #[inline]
    pub const fn is_in(self) -> bool {
        self.0 & (1 << 3) != 0
    }

    /// INS or OUTS.
    #[inline]
    pub const fn is_string(self) -> bool {
        self.0 & (1 << 4) != 0
    }

    /// REP-prefixed.
    #[inline]
    pub const fn is_rep(self) -> bool {
        self.0 & (1 << 5) != 0
    }

    /// The port.
    #[inline]
    pub const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// What a control-register exit is about (SDM vol. 3, table 28-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrAccess {
    /// MOV to a control register from a general-purpose one.
    MovTo {
        /// Control register.
        cr: u8,
        /// General-purpose register.
        gpr: u8,
    },
    /// MOV from a control register to a general-purpose one.
    MovFrom {
        /// Control register.
        cr: u8,
        /// General-purpose register.
        gpr: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with its source operand.
    Lmsw {
        /// The 16 bits loaded.
        source: u16,
    },
}

impl CrAccess {
    /// Decodes the qualification.
    pub const fn decode(qualification: u64) -> Self {
        let cr = (qualification & 0xf) as u8;
        let gpr = (qualification >> 8) as u8 & 0xf;
        match (qualification >> 4) & 3 {
            0 => Self::MovTo { cr, gpr },
            1 => Self::MovFrom { cr, gpr },
            2 => Self::Clts,
            _ => Self::Lmsw {
                source: (qualification >> 16) as u16,
            },
        }
    }
}

/// What a debug-register exit is about (SDM vol. 3, table 28-4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrAccess {
    /// Debug register.
    pub dr: u8,
    /// General-purpose register.
    pub gpr: u8,
    /// MOV from the debug register.
    pub is_read: bool,
}

impl DrAccess {
    /// Decodes the qualification.
    pub const fn decode(qualification: u64) -> Self {
        Self {
            dr: (qualification & 7) as u8,
            gpr: (qualification >> 8) as u8 & 0xf,
            is_read: qualification & (1 << 4) != 0,
        }
    }
}

/// Exit qualification of an EPT violation (SDM vol. 3, table 28-7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptQualification(pub u64);

impl EptQualification {
    /// The access was a data read.
    pub const fn is_read(self) -> bool {
        self.0 & 1 != 0
    }

    /// The access was a data write.
    pub const fn is_write(self) -> bool {
        self.0 & 2 != 0
    }

    /// The access was an instruction fetch.
    pub const fn is_fetch(self) -> bool {
        self.0 & 4 != 0
    }

    /// The linear address the access was for, given that the guest-linear-address field holds
    /// `linear`; `None` where the field is not valid, or the access was to a paging structure.
    pub const fn linear_address(self, linear: u64) -> Option<Gva> {
        if self.0 & (1 << 7) != 0 && self.0 & (1 << 8) != 0 {
            Some(Gva(linear))
        } else {
            None
        }
    }

    /// The exit happened while NMI blocking by IRET was being lifted.
    pub const fn nmi_unblocking_by_iret(self) -> bool {
        self.0 & (1 << 12) != 0
    }
}

/// Kind of an event in an interruption-information field (SDM vol. 3, table 25-20).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventKind(pub u8);

impl EventKind {
    /// External interrupt.
    pub const EXTERNAL_INTERRUPT: Self = Self(0);
    /// Non-maskable interrupt.
    pub const NMI: Self = Self(2);
    /// Hardware exception.
    pub const HARDWARE_EXCEPTION: Self = Self(3);
    /// INT n.
    pub const SOFTWARE_INTERRUPT: Self = Self(4);
    /// INT1.
    pub const PRIVILEGED_SOFTWARE_EXCEPTION: Self = Self(5);
    /// INT3 or INTO.
    pub const SOFTWARE_EXCEPTION: Self = Self(6);
}

/// An interruption-information word: of an exit, of IDT vectoring, or for an entry
/// (SDM vol. 3, tables 25-18, 25-20 and 25-21).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptionInfo(pub u32);

impl InterruptionInfo {
    /// A word for an entry.
    pub const fn new(vector: u8, kind: EventKind, has_error_code: bool) -> Self {
        Self((1 << 31) | ((has_error_code as u32) << 11) | ((kind.0 as u32) << 8) | vector as u32)
    }

    /// Whether the word says anything.
    pub const fn is_valid(self) -> bool {
        self.0 & (1 << 31) != 0
    }

    /// The vector.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The kind of event.
    pub const fn kind(self) -> EventKind {
        EventKind((self.0 >> 8) as u8 & 7)
    }

    /// Whether an error code goes with it.
    pub const fn has_error_code(self) -> bool {
        self.0 & (1 << 11) != 0
    }

    /// NMI blocking was being lifted by IRET.
    pub const fn nmi_unblocking_by_iret(self) -> bool {
        self.0 & (1 << 12) != 0
    }
}

/// VM-instruction errors (SDM vol. 3, table 31-1).
pub const fn instruction_error(number: u32) -> &'static str {
    match number {
        1 => "VMCALL executed in VMX root operation",
        2 => "VMCLEAR with invalid physical address",
        3 => "VMCLEAR with VMXON pointer",
        4 => "VMLAUNCH with non-clear VMCS",
        5 => "VMRESUME with non-launched VMCS",
        6 => "VMRESUME after VMXOFF",
        7 => "VM entry with invalid control fields",
        8 => "VM entry with invalid host-state fields",
        9 => "VMPTRLD with invalid physical address",
        10 => "VMPTRLD with VMXON pointer",
        11 => "VMPTRLD with incorrect VMCS revision identifier",
        12 => "VMREAD or VMWRITE of an unsupported component",
        13 => "VMWRITE to a read-only component",
        15 => "VMXON executed in VMX root operation",
        26 => "VM entry with events blocked by MOV SS",
        28 => "invalid operand to INVEPT or INVVPID",
        _ => "unknown VM-instruction error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_qualification_is_decoded() {
        // rep outsw to port 0x1f0
        let q = IoQualification((0x1f0 << 16) | (1 << 5) | (1 << 4) | 1);
        assert_eq!((q.size(), q.port()), (2, 0x1f0));
        assert!(q.is_string() && q.is_rep() && !q.is_in());
    }

    #[test]
    fn cr_accesses_are_decoded() {
        assert_eq!(CrAccess::decode(0x0304), CrAccess::MovTo { cr: 4, gpr: 3 });
        assert_eq!(
            CrAccess::decode(0x0818),
            CrAccess::MovFrom { cr: 8, gpr: 8 }
        );
        assert_eq!(CrAccess::decode(0x20), CrAccess::Clts);
        assert_eq!(
            CrAccess::decode(0xabcd_0030),
            CrAccess::Lmsw { source: 0xabcd }
        );
    }

    #[test]
    fn linear_address_only_where_it_is_that_of_the_access() {
        assert_eq!(EptQualification(0x181).linear_address(5), Some(Gva(5)));
        assert_eq!(EptQualification(0x081).linear_address(5), None);
        assert_eq!(EptQualification(0x001).linear_address(5), None);
    }

    #[test]
    fn interruption_info_round_trips() {
        let info = InterruptionInfo::new(14, EventKind::HARDWARE_EXCEPTION, true);
        assert!(info.is_valid() && info.has_error_code());
        assert_eq!(
            (info.vector(), info.kind()),
            (14, EventKind::HARDWARE_EXCEPTION)
        );
        assert_eq!(info.0, 0x8000_0b0e);
    }

    #[test]
    fn entry_failures_are_told_apart() {
        let reason = ExitReason(0x8000_0021);
        assert!(reason.is_entry_failure());
        assert_eq!(reason.basic(), Reason::INVALID_GUEST_STATE);
        assert_eq!(Reason(6).name(), "UNKNOWN");
    }
}
