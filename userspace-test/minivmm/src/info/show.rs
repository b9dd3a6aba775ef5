// SPDX-License-Identifier: GPL-2.0

//! The tables of `minivmm info`.

use std::fmt::{self, Display, Formatter};

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::kvm::Support;
use super::processor::Processor;
use super::report::Report;
use super::vmx::{Control, Details, Vmx, Word};
use super::Info;

/// Columns that names of absent extensions are set in.
const WIDTH: usize = 96;

impl Display for Info {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        section(f, "Processor", &processor(&self.processor))?;
        if let Some(vmx) = &self.vmx {
            if let Some(details) = &vmx.details {
                section(f, "VT-x", &vmx_details(details))?;
                if !details.ept_vpid.is_empty() {
                    section(f, "EPT and VPID", &ept_vpid(details))?;
                }
            }
            write_words(f, vmx)?;
        }
        if let Some(report) = &self.module {
            section(f, "Our module", &module(report))?;
        }
        if let Some(kvm) = &self.kvm {
            write_kvm(f, kvm)?;
        }
        Ok(())
    }
}

fn section(f: &mut Formatter<'_>, title: &str, content: &impl Display) -> fmt::Result {
    writeln!(f, "{title}\n{content}\n")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn yes(value: bool) -> &'static str {
    if value {
        "yes"
    } else {
        "no"
    }
}

fn processor(processor: &Processor) -> Table {
    let mut table = table(&[]);
    table.add_row(["Vendor", &processor.vendor]);
    table.add_row(["Name", &processor.name]);
    table.add_row(["VT-x (VMX)", yes(processor.vmx)]);
    table.add_row(["AMD-V (SVM)", yes(processor.svm)]);
    table.add_row(["Is virtual itself", yes(processor.hypervisor)]);
    table
}

fn vmx_details(details: &Details) -> Table {
    let range = |[one, may]: [u64; 2]| format!("must be 1: {one:#x}, may be 1: {may:#x}");
    let mut table = table(&[]);
    let feature_control = details
        .feature_control
        .map_or("unreadable".into(), |value| {
            let locked = if value & 1 != 0 {
                "locked"
            } else {
                "not locked"
            };
            let on = if value & 4 != 0 {
                "VMX allowed"
            } else {
                "VMX not allowed"
            };
            format!("{value:#x} ({locked}, {on})")
        });
    table.add_row(["IA32_FEATURE_CONTROL", &feature_control]);
    table.add_row(["VMCS revision", &format!("{:#x}", details.revision_id)]);
    let memory_type = if details.memory_type == 6 {
        " (write-back)"
    } else {
        ""
    };
    let size = format!(
        "{} bytes of memory type {}{memory_type}",
        details.region_size, details.memory_type
    );
    table.add_row(["VMCS region", &size]);
    table.add_row(["TRUE control MSRs", yes(details.true_controls)]);
    table.add_row(["CR0", &range(details.cr0_fixed)]);
    table.add_row(["CR4", &range(details.cr4_fixed)]);
    table.add_row(["CR3-target values", &details.cr3_targets.to_string()]);
    let ticks = format!(
        "once in {} TSC ticks",
        1u64 << details.preemption_timer_shift
    );
    table.add_row(["Preemption timer counts", &ticks]);
    table.add_row(["IA32_VMX_MISC", &format!("{:#x}", details.misc)]);
    table
}

fn ept_vpid(details: &Details) -> Table {
    let mut table = table(&["capability", "there"]);
    for capability in &details.ept_vpid {
        table.add_row([capability.name.as_str(), yes(capability.supported)]);
    }
    table
}

fn write_words(f: &mut Formatter<'_>, vmx: &Vmx) -> fmt::Result {
    for word in &vmx.words {
        let source = word.msr.map_or("as our module read them".into(), |msr| {
            format!("MSR {msr:#x}")
        });
        let title = format!(
            "{} ({source}): must be 1 {:#010x}, may be 1 {:#010x}",
            word.name, word.must_be_one, word.may_be_one
        );
        section(f, &title, &controls(word))?;
    }
    Ok(())
}

fn controls(word: &Word) -> Table {
    let settled = word.controls.iter().any(|control| control.wanted.is_some());
    let mut header = vec!["control", "bit", "can be"];
    if settled {
        header.extend(["our module wants", "our module has"]);
    }
    let mut table = table(&header);
    for control in &word.controls {
        let mut row = vec![
            control.name.clone(),
            control.bit.to_string(),
            range(control).into(),
        ];
        if settled {
            let wanted = if control.wanted == Some(true) {
                "on"
            } else {
                ""
            };
            let got = if control.got == Some(true) {
                "on"
            } else {
                "off"
            };
            row.extend([wanted.into(), got.into()]);
        }
        table.add_row(row);
    }
    right(&mut table, &[1]);
    table
}

/// Which values a control can have.
fn range(control: &Control) -> &'static str {
    match (control.must_be_one, control.may_be_one) {
        (true, _) => "on",
        (false, true) => "on, off",
        (false, false) => "off",
    }
}

fn module(report: &Report) -> Table {
    let mut table = table(&[]);
    for (key, value) in &report.values {
        table.add_row([key, value]);
    }
    table
}

fn write_kvm(f: &mut Formatter<'_>, kvm: &Support) -> fmt::Result {
    let mut limits = table(&[]);
    limits.add_row(["API version", &kvm.api_version.to_string()]);
    limits.add_row(["vCPUs, recommended", &kvm.recommended_vcpus.to_string()]);
    limits.add_row(["vCPUs, at most", &kvm.max_vcpus.to_string()]);
    limits.add_row(["vCPU IDs below", &kvm.max_vcpu_id.to_string()]);
    limits.add_row(["Memory slots", &kvm.memory_slots.to_string()]);
    limits.add_row(["vCPU mapping", &format!("{} bytes", kvm.vcpu_mmap_size)]);
    limits.add_row(["MSRs to save", &kvm.msrs.to_string()]);
    limits.add_row(["Feature MSRs", &kvm.feature_msrs.to_string()]);
    section(f, "/dev/kvm", &limits)?;

    let mut extensions = table(&["extension", "number", "value"]);
    let (present, absent): (Vec<_>, Vec<_>) = kvm
        .extensions
        .iter()
        .partition(|extension| extension.value != 0);
    for extension in &present {
        extensions.add_row([
            extension.name.to_string(),
            extension.number.to_string(),
            extension.value.to_string(),
        ]);
    }
    right(&mut extensions, &[1, 2]);
    section(
        f,
        &format!("Extensions it has ({})", present.len()),
        &extensions,
    )?;
    let names = absent.iter().map(|extension| extension.name);
    section(
        f,
        &format!("Extensions it has not ({})", absent.len()),
        &filled(names),
    )?;

    let mut cpuid = table(&["leaf", "index", "EAX", "EBX", "ECX", "EDX"]);
    for leaf in &kvm.cpuid {
        let mut row = vec![format!("{:#x}", leaf.function), leaf.index.to_string()];
        row.extend([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx].map(|value| format!("{value:08x}")));
        cpuid.add_row(row);
    }
    right(&mut cpuid, &[0, 1]);
    section(f, "CPUID it supports", &cpuid)
}

/// Words set in lines of at most [`WIDTH`] columns.
fn filled<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in words {
        if column > 0 && column + 1 + word.len() > WIDTH {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += word.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_filled_and_not_overfull() {
        let word = "x".repeat(30);
        let text = filled(std::iter::repeat(word.as_str()).take(7));
        let lengths: Vec<_> = text.lines().map(str::len).collect();
        assert_eq!(lengths, [92, 92, 30]);
        assert_eq!(filled(std::iter::empty()), "");
    }

    #[test]
    fn a_control_can_be_what_the_processor_allows() {
        let control = |must_be_one, may_be_one| Control {
            name: String::new(),
            bit: 0,
            must_be_one,
            may_be_one,
            wanted: None,
            got: None,
        };
        assert_eq!(range(&control(true, true)), "on");
        assert_eq!(range(&control(false, true)), "on, off");
        assert_eq!(range(&control(false, false)), "off");
    }
}
