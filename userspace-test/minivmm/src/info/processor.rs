// SPDX-License-Identifier: GPL-2.0

//! Which processor this is, by its own word.

use core::arch::x86_64::{CpuidResult, __cpuid};

use serde::Serialize;

/// CPUID.1:ECX.
const VMX: u32 = 1 << 5;
const HYPERVISOR: u32 = 1 << 31;
/// CPUID.8000_0001:ECX.
const SVM: u32 = 1 << 2;

/// The processor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Processor {
    /// Its vendor.
    pub vendor: String,
    /// What it calls itself.
    pub name: String,
    /// Whether it has VT-x.
    pub vmx: bool,
    /// Whether it has AMD-V.
    pub svm: bool,
    /// Whether it is a virtual one.
    pub hypervisor: bool,
}

impl Processor {
    /// The one this runs on.
    pub fn this() -> Self {
        let vendor = cpuid(0);
        let features = cpuid(1);
        let extended = cpuid(0x8000_0000).eax;
        let svm = extended > 0x8000_0000 && cpuid(0x8000_0001).ecx & SVM != 0;
        let name: Vec<u8> = (0x8000_0002..=0x8000_0004)
            .filter(|leaf| *leaf <= extended)
            .map(cpuid)
            .flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx])
            .flat_map(u32::to_le_bytes)
            .collect();
        Self {
            vendor: text(
                &[vendor.ebx, vendor.edx, vendor.ecx]
                    .map(u32::to_le_bytes)
                    .concat(),
            ),
            name: text(&name),
            vmx: features.ecx & VMX != 0,
            svm,
            hypervisor: features.ecx & HYPERVISOR != 0,
        }
    }
}

fn cpuid(leaf: u32) -> CpuidResult {
    // SAFETY: every 64-bit processor has the instruction, and it changes nothing.
    unsafe { __cpuid(leaf) }
}

/// The text in bytes that may end in NULs and blanks.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .trim_matches(['\0', ' '])
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_where_the_padding_begins() {
        assert_eq!(text(b"  Some CPU @ 1 GHz \0\0\0"), "Some CPU @ 1 GHz");
    }

    #[test]
    fn a_vendor_has_a_name_of_twelve_letters() {
        assert_eq!(Processor::this().vendor.len(), 12);
    }
}
