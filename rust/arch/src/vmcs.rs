// SPDX-License-Identifier: GPL-2.0

//! The fields of a VMCS (SDM vol. 3, appendix B).
//!
//! A field is a constant whose type is its width, so that a 16-bit field cannot be written with a
//! 64-bit value. The tables below are the six groups of SDM vol. 3, 25.3: guest state, host state,
//! execution controls, exit controls, entry controls and exit information.

/// The encoding of a field as VMREAD and VMWRITE take it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoding(pub u32);

/// Width of a field, from bits 14:13 of its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 16 bits.
    Word,
    /// 64 bits.
    Quad,
    /// 32 bits.
    Double,
    /// As wide as the processor's registers: 64 bits here.
    Natural,
}

/// One of the six groups of SDM vol. 3, 25.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Processor state loaded on entry and saved on exit.
    GuestState,
    /// Processor state loaded on exit.
    HostState,
    /// What causes exits in non-root operation.
    ExecutionControls,
    /// What an exit does.
    ExitControls,
    /// What an entry does.
    EntryControls,
    /// Why and where the last exit happened; read only.
    ExitInformation,
}

impl Encoding {
    /// Width of the field.
    pub const fn width(self) -> Width {
        match (self.0 >> 13) & 3 {
            0 => Width::Word,
            1 => Width::Quad,
            2 => Width::Double,
            _ => Width::Natural,
        }
    }
}

macro_rules! field_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name(pub u32);

        impl $name {
            /// The field's encoding.
            pub const fn encoding(self) -> Encoding {
                Encoding(self.0)
            }
        }
    };
}

field_type! {
    /// A 16-bit field.
    Field16
}
field_type! {
    /// A 32-bit field.
    Field32
}
field_type! {
    /// A 64-bit field.
    Field64
}
field_type! {
    /// A field of natural width, 64 bits on the processors this crate is for.
    FieldNatural
}

/// A row of the field table, for those who list fields rather than use them.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// The name the SDM gives it, as a constant's name.
    pub name: &'static str,
    /// Its encoding.
    pub encoding: Encoding,
}

macro_rules! fields {
    ($(
        $(#[$group_doc:meta])*
        $group:ident: $table:ident {
            $($name:ident: $ty:ident = $encoding:literal, $doc:literal;)*
        }
    )*) => {
        $(
            $(
                #[doc = $doc]
                pub const $name: $ty = $ty($encoding);
            )*

            $(#[$group_doc])*
            pub const $table: &[FieldInfo] = &[
                $(FieldInfo { name: stringify!($name), encoding: Encoding($encoding) },)*
            ];
        )*

        /// The six groups with their fields.
        pub const GROUPS: [(Group, &[FieldInfo]); 6] = [$((Group::$group, $table),)*];
    };
}

fields! {
    /// Guest-state area (SDM vol. 3, 25.4).
    GuestState: GUEST_STATE_FIELDS {
        GUEST_ES_SELECTOR: Field16 = 0x0800, "Selector of ES.";
        GUEST_CS_SELECTOR: Field16 = 0x0802, "Selector of CS.";
        GUEST_SS_SELECTOR: Field16 = 0x0804, "Selector of SS.";
        GUEST_DS_SELECTOR: Field16 = 0x0806, "Selector of DS.";
        GUEST_FS_SELECTOR: Field16 = 0x0808, "Selector of FS.";
        GUEST_GS_SELECTOR: Field16 = 0x080a, "Selector of GS.";
        GUEST_LDTR_SELECTOR: Field16 = 0x080c, "Selector of LDTR.";
        GUEST_TR_SELECTOR: Field16 = 0x080e, "Selector of TR.";
        GUEST_INTERRUPT_STATUS: Field16 = 0x0810, "Requesting and servicing virtual interrupt.";
        GUEST_PML_INDEX: Field16 = 0x0812, "Next entry of the page-modification log.";
        VMCS_LINK_POINTER: Field64 = 0x2800, "All ones where no shadow VMCS is linked.";
        GUEST_IA32_DEBUGCTL: Field64 = 0x2802, "IA32_DEBUGCTL.";
        GUEST_IA32_PAT: Field64 = 0x2804, "IA32_PAT.";
        GUEST_IA32_EFER: Field64 = 0x2806, "IA32_EFER.";
        GUEST_PDPTE0: Field64 = 0x280a, "PDPTE0 of PAE paging under EPT.";
        GUEST_PDPTE1: Field64 = 0x280c, "PDPTE1 of PAE paging under EPT.";
        GUEST_PDPTE2: Field64 = 0x280e, "PDPTE2 of PAE paging under EPT.";
        GUEST_PDPTE3: Field64 = 0x2810, "PDPTE3 of PAE paging under EPT.";
        GUEST_ES_LIMIT: Field32 = 0x4800, "Limit of ES in bytes.";
        GUEST_CS_LIMIT: Field32 = 0x4802, "Limit of CS in bytes.";
        GUEST_SS_LIMIT: Field32 = 0x4804, "Limit of SS in bytes.";
        GUEST_DS_LIMIT: Field32 = 0x4806, "Limit of DS in bytes.";
        GUEST_FS_LIMIT: Field32 = 0x4808, "Limit of FS in bytes.";
        GUEST_GS_LIMIT: Field32 = 0x480a, "Limit of GS in bytes.";
        GUEST_LDTR_LIMIT: Field32 = 0x480c, "Limit of LDTR in bytes.";
        GUEST_TR_LIMIT: Field32 = 0x480e, "Limit of TR in bytes.";
        GUEST_GDTR_LIMIT: Field32 = 0x4810, "Limit of GDTR in bytes.";
        GUEST_IDTR_LIMIT: Field32 = 0x4812, "Limit of IDTR in bytes.";
        GUEST_ES_AR_BYTES: Field32 = 0x4814, "Access rights of ES.";
        GUEST_CS_AR_BYTES: Field32 = 0x4816, "Access rights of CS.";
        GUEST_SS_AR_BYTES: Field32 = 0x4818, "Access rights of SS.";
        GUEST_DS_AR_BYTES: Field32 = 0x481a, "Access rights of DS.";
        GUEST_FS_AR_BYTES: Field32 = 0x481c, "Access rights of FS.";
        GUEST_GS_AR_BYTES: Field32 = 0x481e, "Access rights of GS.";
        GUEST_LDTR_AR_BYTES: Field32 = 0x4820, "Access rights of LDTR.";
        GUEST_TR_AR_BYTES: Field32 = 0x4822, "Access rights of TR.";
        GUEST_INTERRUPTIBILITY: Field32 = 0x4824, "Blocking by STI, MOV SS, SMI and NMI.";
        GUEST_ACTIVITY_STATE: Field32 = 0x4826, "Active, HLT, shutdown or wait-for-SIPI.";
        GUEST_IA32_SYSENTER_CS: Field32 = 0x482a, "IA32_SYSENTER_CS.";
        VMX_PREEMPTION_TIMER_VALUE: Field32 = 0x482e, "Counts down to an exit.";
        GUEST_CR0: FieldNatural = 0x6800, "CR0.";
        GUEST_CR3: FieldNatural = 0x6802, "CR3.";
        GUEST_CR4: FieldNatural = 0x6804, "CR4.";
        GUEST_ES_BASE: FieldNatural = 0x6806, "Base of ES.";
        GUEST_CS_BASE: FieldNatural = 0x6808, "Base of CS.";
        GUEST_SS_BASE: FieldNatural = 0x680a, "Base of SS.";
        GUEST_DS_BASE: FieldNatural = 0x680c, "Base of DS.";
        GUEST_FS_BASE: FieldNatural = 0x680e, "Base of FS.";
        GUEST_GS_BASE: FieldNatural = 0x6810, "Base of GS.";
        GUEST_LDTR_BASE: FieldNatural = 0x6812, "Base of LDTR.";
        GUEST_TR_BASE: FieldNatural = 0x6814, "Base of TR.";
        GUEST_GDTR_BASE: FieldNatural = 0x6816, "Base of GDTR.";
        GUEST_IDTR_BASE: FieldNatural = 0x6818, "Base of IDTR.";
        GUEST_DR7: FieldNatural = 0x681a, "DR7.";
        GUEST_RSP: FieldNatural = 0x681c, "RSP.";
        GUEST_RIP: FieldNatural = 0x681e, "RIP.";
        GUEST_RFLAGS: FieldNatural = 0x6820, "RFLAGS.";
        GUEST_PENDING_DBG_EXCEPTIONS: FieldNatural = 0x6822, "Debug exceptions not yet delivered.";
        GUEST_IA32_SYSENTER_ESP: FieldNatural = 0x6824, "IA32_SYSENTER_ESP.";
        GUEST_IA32_SYSENTER_EIP: FieldNatural = 0x6826, "IA32_SYSENTER_EIP.";
    }

    /// Host-state area (SDM vol. 3, 25.5).
    HostState: HOST_STATE_FIELDS {
        HOST_ES_SELECTOR: Field16 = 0x0c00, "Selector of ES.";
        HOST_CS_SELECTOR: Field16 = 0x0c02, "Selector of CS.";
        HOST_SS_SELECTOR: Field16 = 0x0c04, "Selector of SS.";
        HOST_DS_SELECTOR: Field16 = 0x0c06, "Selector of DS.";
        HOST_FS_SELECTOR: Field16 = 0x0c08, "Selector of FS.";
        HOST_GS_SELECTOR: Field16 = 0x0c0a, "Selector of GS.";
        HOST_TR_SELECTOR: Field16 = 0x0c0c, "Selector of TR.";
        HOST_IA32_PAT: Field64 = 0x2c00, "IA32_PAT.";
        HOST_IA32_EFER: Field64 = 0x2c02, "IA32_EFER.";
        HOST_IA32_SYSENTER_CS: Field32 = 0x4c00, "IA32_SYSENTER_CS.";
        HOST_CR0: FieldNatural = 0x6c00, "CR0.";
        HOST_CR3: FieldNatural = 0x6c02, "CR3.";
        HOST_CR4: FieldNatural = 0x6c04, "CR4.";
        HOST_FS_BASE: FieldNatural = 0x6c06, "Base of FS.";
        HOST_GS_BASE: FieldNatural = 0x6c08, "Base of GS.";
        HOST_TR_BASE: FieldNatural = 0x6c0a, "Base of TR.";
        HOST_GDTR_BASE: FieldNatural = 0x6c0c, "Base of GDTR.";
        HOST_IDTR_BASE: FieldNatural = 0x6c0e, "Base of IDTR.";
        HOST_IA32_SYSENTER_ESP: FieldNatural = 0x6c10, "IA32_SYSENTER_ESP.";
        HOST_IA32_SYSENTER_EIP: FieldNatural = 0x6c12, "IA32_SYSENTER_EIP.";
        HOST_RSP: FieldNatural = 0x6c14, "RSP.";
        HOST_RIP: FieldNatural = 0x6c16, "RIP.";
    }

    /// VM-execution control fields (SDM vol. 3, 25.6).
    ExecutionControls: EXECUTION_CONTROL_FIELDS {
        VIRTUAL_PROCESSOR_ID: Field16 = 0x0000, "VPID: the tag of this vCPU's translations.";
        POSTED_INTR_NV: Field16 = 0x0002, "Vector by which posted interrupts are announced.";
        IO_BITMAP_A: Field64 = 0x2000, "Physical address of the bitmap for ports 0 to 0x7fff.";
        IO_BITMAP_B: Field64 = 0x2002, "Physical address of the bitmap for ports 0x8000 to 0xffff.";
        MSR_BITMAP: Field64 = 0x2004, "Physical address of the MSR bitmaps.";
        PML_ADDRESS: Field64 = 0x200e, "Physical address of the page-modification log.";
        TSC_OFFSET: Field64 = 0x2010, "Added to the time-stamp counter in non-root operation.";
        VIRTUAL_APIC_PAGE_ADDR: Field64 = 0x2012, "Physical address of the virtual-APIC page.";
        APIC_ACCESS_ADDR: Field64 = 0x2014, "Physical address of the APIC-access page.";
        POSTED_INTR_DESC_ADDR: Field64 = 0x2016, "Physical address of the posted interrupts.";
        EPT_POINTER: Field64 = 0x201a, "Root of the EPT and how it is walked.";
        EOI_EXIT_BITMAP0: Field64 = 0x201c, "Vectors 0 to 63 whose EOI exits.";
        EOI_EXIT_BITMAP1: Field64 = 0x201e, "Vectors 64 to 127 whose EOI exits.";
        EOI_EXIT_BITMAP2: Field64 = 0x2020, "Vectors 128 to 191 whose EOI exits.";
        EOI_EXIT_BITMAP3: Field64 = 0x2022, "Vectors 192 to 255 whose EOI exits.";
        TSC_MULTIPLIER: Field64 = 0x2032, "48-bit fixed-point factor of the time-stamp counter.";
        PIN_BASED_VM_EXEC_CONTROL: Field32 = 0x4000, "Which asynchronous events exit.";
        CPU_BASED_VM_EXEC_CONTROL: Field32 = 0x4002, "Which instructions exit, first word.";
        EXCEPTION_BITMAP: Field32 = 0x4004, "Which exceptions exit, a bit a vector.";
        PAGE_FAULT_ERROR_CODE_MASK: Field32 = 0x4006, "Bits of a page fault's error code to compare.";
        PAGE_FAULT_ERROR_CODE_MATCH: Field32 = 0x4008, "What they are compared with.";
        CR3_TARGET_COUNT: Field32 = 0x400a, "How many CR3 targets are in use.";
        TPR_THRESHOLD: Field32 = 0x401c, "TPR below which an exit is due.";
        SECONDARY_VM_EXEC_CONTROL: Field32 = 0x401e, "Which instructions exit, second word.";
        PLE_GAP: Field32 = 0x4020, "Cycles between two PAUSEs of one loop.";
        PLE_WINDOW: Field32 = 0x4022, "Cycles a PAUSE loop may take before it exits.";
        CR0_GUEST_HOST_MASK: FieldNatural = 0x6000, "Bits of CR0 that the host owns.";
        CR4_GUEST_HOST_MASK: FieldNatural = 0x6002, "Bits of CR4 that the host owns.";
        CR0_READ_SHADOW: FieldNatural = 0x6004, "What the guest reads of the bits it does not own.";
        CR4_READ_SHADOW: FieldNatural = 0x6006, "What the guest reads of the bits it does not own.";
    }

    /// VM-exit control fields (SDM vol. 3, 25.7).
    ExitControls: EXIT_CONTROL_FIELDS {
        VM_EXIT_CONTROLS: Field32 = 0x400c, "What an exit saves and loads.";
        VM_EXIT_MSR_STORE_COUNT: Field32 = 0x400e, "MSRs stored on exit.";
        VM_EXIT_MSR_LOAD_COUNT: Field32 = 0x4010, "MSRs loaded on exit.";
    }

    /// VM-entry control fields (SDM vol. 3, 25.8).
    EntryControls: ENTRY_CONTROL_FIELDS {
        VM_ENTRY_CONTROLS: Field32 = 0x4012, "What an entry loads.";
        VM_ENTRY_MSR_LOAD_COUNT: Field32 = 0x4014, "MSRs loaded on entry.";
        VM_ENTRY_INTR_INFO: Field32 = 0x4016, "The event an entry injects.";
        VM_ENTRY_EXCEPTION_ERROR_CODE: Field32 = 0x4018, "Its error code.";
        VM_ENTRY_INSTRUCTION_LEN: Field32 = 0x401a, "Its instruction's length, for software events.";
    }

    /// VM-exit information fields (SDM vol. 3, 25.9).
    ExitInformation: EXIT_INFORMATION_FIELDS {
        GUEST_PHYSICAL_ADDRESS: Field64 = 0x2400, "The address an EPT exit is about.";
        VM_INSTRUCTION_ERROR: Field32 = 0x4400, "Why the last VMX instruction failed.";
        VM_EXIT_REASON: Field32 = 0x4402, "The basic reason and what happened with it.";
        VM_EXIT_INTR_INFO: Field32 = 0x4404, "The event that caused the exit.";
        VM_EXIT_INTR_ERROR_CODE: Field32 = 0x4406, "Its error code.";
        IDT_VECTORING_INFO: Field32 = 0x4408, "The event whose delivery the exit cut short.";
        IDT_VECTORING_ERROR_CODE: Field32 = 0x440a, "Its error code.";
        VM_EXIT_INSTRUCTION_LEN: Field32 = 0x440c, "Length in bytes of the instruction that exited.";
        VM_EXIT_INSTRUCTION_INFO: Field32 = 0x440e, "Operands of the instruction that exited.";
        EXIT_QUALIFICATION: FieldNatural = 0x6400, "What the reason has to say beyond its number.";
        GUEST_LINEAR_ADDRESS: FieldNatural = 0x640a, "The linear address, where there is one.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_unique_and_of_their_group() {
        let mut seen = std::vec::Vec::new();
        for (group, fields) in GROUPS {
            for field in fields {
                assert!(
                    !seen.contains(&field.encoding.0),
                    "{} is there twice",
                    field.name
                );
                seen.push(field.encoding.0);

                // SDM vol. 3, table 25-21: bits 11:10 are the type, bit 0 the access type.
                let kind = match group {
                    Group::GuestState => 2,
                    Group::HostState => 3,
                    Group::ExitInformation => 1,
                    _ => 0,
                };
                assert_eq!((field.encoding.0 >> 10) & 3, kind, "{}", field.name);
                assert_eq!(field.encoding.0 & 1, 0, "{}", field.name);
            }
        }
    }

    #[test]
    fn widths_follow_encodings() {
        assert_eq!(GUEST_ES_SELECTOR.encoding().width(), Width::Word);
        assert_eq!(EPT_POINTER.encoding().width(), Width::Quad);
        assert_eq!(VM_EXIT_REASON.encoding().width(), Width::Double);
        assert_eq!(GUEST_RIP.encoding().width(), Width::Natural);
    }
}
