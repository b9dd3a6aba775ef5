// SPDX-License-Identifier: GPL-2.0

//! A VMCS for people: its six groups, names and decoded bits.

use arch::{
    controls::{
        CpuBased,
        EntryControls,
        ExitControls,
        PinBased,
        Secondary, //
    },
    exit::{
        instruction_error,
        ExitReason, //
    },
    vmcs::{
        self,
        Encoding,
        Group,
        Width, //
    },
};
use core::fmt;

use super::{
    entry_check,
    vmcs::Vmcs,
    Vmx, //
};
use crate::vm::Loaded;

/// Writes the VMCS of a loaded vCPU.
pub(super) fn write(cx: &Loaded<'_, Vmx>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let fields = &cx.vcpu.resident;
    for (group, table) in vmcs::GROUPS {
        writeln!(f, "{}", title(group))?;
        for field in table {
            if !exists(cx, field.encoding) {
                continue;
            }
            let value = fields.read_raw(field.encoding.0);
            let digits = match field.encoding.width() {
                Width::Word => 4,
                Width::Double => 8,
                Width::Quad | Width::Natural => 16,
            };
            write!(
                f,
                "  {:<30} {:0digits$x}",
                field.name,
                value,
                digits = digits
            )?;
            decode(fields, field.encoding, value as u32, f)?;
            writeln!(f)?;
        }
    }
    if ExitReason(fields.read(vmcs::VM_EXIT_REASON)).is_entry_failure() {
        if let Some(rule) = entry_check::broken_rule(fields) {
            writeln!(f, "rule broken by the guest state: {rule:?}")?;
        }
    }
    Ok(())
}

fn title(group: Group) -> &'static str {
    match group {
        Group::GuestState => "guest state",
        Group::HostState => "host state",
        Group::ExecutionControls => "execution controls",
        Group::ExitControls => "exit controls",
        Group::EntryControls => "entry controls",
        Group::ExitInformation => "exit information",
    }
}

/// Whether this processor has a field that not all have.
fn exists(cx: &Loaded<'_, Vmx>, encoding: Encoding) -> bool {
    let capability = &cx.vm.backend.capability;
    let needs = match encoding {
        e if e == vmcs::VIRTUAL_PROCESSOR_ID.encoding() => Secondary::ENABLE_VPID,
        e if e == vmcs::PML_ADDRESS.encoding() || e == vmcs::GUEST_PML_INDEX.encoding() => {
            Secondary::ENABLE_PML
        }
        e if e == vmcs::TSC_MULTIPLIER.encoding() => Secondary::USE_TSC_SCALING,
        e if e == vmcs::PLE_GAP.encoding() || e == vmcs::PLE_WINDOW.encoding() => {
            Secondary::PAUSE_LOOP_EXITING
        }
        e if e == vmcs::VIRTUAL_APIC_PAGE_ADDR.encoding()
            || e == vmcs::TPR_THRESHOLD.encoding() =>
        {
            return capability.has_tpr_shadow();
        }
        e if e == vmcs::APIC_ACCESS_ADDR.encoding() => Secondary::VIRTUALIZE_APIC_ACCESSES,
        e if e == vmcs::VMX_PREEMPTION_TIMER_VALUE.encoding() => {
            return capability.has_preemption_timer();
        }
        e if e == vmcs::GUEST_INTERRUPT_STATUS.encoding()
            || e == vmcs::POSTED_INTR_NV.encoding()
            || e == vmcs::POSTED_INTR_DESC_ADDR.encoding()
            || (vmcs::EOI_EXIT_BITMAP0.0..=vmcs::EOI_EXIT_BITMAP3.0).contains(&e.0) =>
        {
            return capability.has_apicv();
        }
        _ => return true,
    };
    capability.has(needs)
}

fn decode(
    fields: &Vmcs,
    encoding: Encoding,
    value: u32,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    if encoding == vmcs::PIN_BASED_VM_EXEC_CONTROL.encoding() {
        flags::<PinBased>(value, f)
    } else if encoding == vmcs::CPU_BASED_VM_EXEC_CONTROL.encoding() {
        flags::<CpuBased>(value, f)
    } else if encoding == vmcs::SECONDARY_VM_EXEC_CONTROL.encoding() {
        flags::<Secondary>(value, f)
    } else if encoding == vmcs::VM_EXIT_CONTROLS.encoding() {
        flags::<ExitControls>(value, f)
    } else if encoding == vmcs::VM_ENTRY_CONTROLS.encoding() {
        flags::<EntryControls>(value, f)
    } else if encoding == vmcs::VM_EXIT_REASON.encoding() {
        let reason = ExitReason(value);
        let failed = if reason.is_entry_failure() {
            " (entry failed)"
        } else {
            ""
        };
        write!(f, "  {}{}", reason.basic().name(), failed)
    } else if encoding == vmcs::VM_INSTRUCTION_ERROR.encoding() && value != 0 {
        write!(
            f,
            "  {}",
            instruction_error(fields.read(vmcs::VM_INSTRUCTION_ERROR))
        )
    } else {
        Ok(())
    }
}

fn flags<F: bitflags::Flags<Bits = u32>>(value: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for flag in F::FLAGS {
        if !flag.name().is_empty() && flag.value().bits() & value != 0 {
            write!(f, " {}", flag.name())?;
        }
    }
    Ok(())
}
