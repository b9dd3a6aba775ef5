// SPDX-License-Identifier: GPL-2.0

//! What this processor's VT-x can do (SDM vol. 3, appendix A).

use arch::controls::{
    Allowed, CpuBased, EntryControls, EptVpidCap, ExitControls, PinBased, Secondary, VmxBasic,
};
use bitflags::Flags;
use serde::Serialize;

use super::msr::{Error, Msrs};
use super::report::Report;

const FEATURE_CONTROL: u32 = 0x3a;
const BASIC: u32 = 0x480;
const MISC: u32 = 0x485;
const CR0_FIXED: [u32; 2] = [0x486, 0x487];
const CR4_FIXED: [u32; 2] = [0x488, 0x489];
const SECONDARY_CONTROLS: u32 = 0x48b;
const EPT_VPID_CAP: u32 = 0x48c;

/// One control of a control word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Control {
    /// The manual's name, or `bit N`.
    pub name: String,
    /// Its bit.
    pub bit: u32,
    /// It cannot be off.
    pub must_be_one: bool,
    /// It can be on.
    pub may_be_one: bool,
    /// Our module asked for it; not there if the module is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<bool>,
    /// Our module has it on; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<bool>,
}

/// One control word.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Word {
    /// Its name.
    pub name: &'static str,
    /// The MSR it comes from; not there if our module told it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msr: Option<u32>,
    /// Bits that must be 1.
    pub must_be_one: u32,
    /// Bits that may be 1.
    pub may_be_one: u32,
    /// The controls that have a name, and those without one that may be on or off.
    pub controls: Vec<Control>,
}

/// A capability that is there or not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Capability {
    /// The manual's name.
    pub name: String,
    /// Whether it is there.
    pub supported: bool,
}

/// What does not come in control words. Only the MSRs tell all of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Details {
    /// IA32_FEATURE_CONTROL.
    pub feature_control: Option<u64>,
    /// What begins each VMCS.
    pub revision_id: u32,
    /// Bytes of a VMCS.
    pub region_size: u32,
    /// Memory type of a VMCS: 6 is write-back.
    pub memory_type: u8,
    /// Whether the TRUE capability MSRs exist.
    pub true_controls: bool,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// CR3-target values.
    pub cr3_targets: u64,
    /// The preemption timer counts down once in two to the power of this many TSC ticks.
    pub preemption_timer_shift: u64,
    /// Bits of CR0 that must be 1, and that may be.
    pub cr0_fixed: [u64; 2],
    /// Bits of CR4 that must be 1, and that may be.
    pub cr4_fixed: [u64; 2],
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid: Vec<Capability>,
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Vmx {
    /// The control words.
    pub words: Vec<Word>,
    /// The rest, if the MSRs can be read.
    pub details: Option<Details>,
}

/// What is asked about each control word: what it is called here and by our module, its MSR and
/// its TRUE MSR, its flags.
struct Source {
    name: &'static str,
    reported_as: &'static str,
    msr: u32,
    true_msr: u32,
    flags: fn() -> Vec<(&'static str, u32)>,
}

const WORDS: [Source; 5] = [
    Source {
        name: "Pin-based controls",
        reported_as: "pin_based",
        msr: 0x481,
        true_msr: 0x48d,
        flags: names::<PinBased>,
    },
    Source {
        name: "Primary processor-based controls",
        reported_as: "cpu_based",
        msr: 0x482,
        true_msr: 0x48e,
        flags: names::<CpuBased>,
    },
    Source {
        name: "Secondary processor-based controls",
        reported_as: "secondary",
        msr: SECONDARY_CONTROLS,
        true_msr: SECONDARY_CONTROLS,
        flags: names::<Secondary>,
    },
    Source {
        name: "VM-exit controls",
        reported_as: "exit",
        msr: 0x483,
        true_msr: 0x48f,
        flags: names::<ExitControls>,
    },
    Source {
        name: "VM-entry controls",
        reported_as: "entry",
        msr: 0x484,
        true_msr: 0x490,
        flags: names::<EntryControls>,
    },
];

impl Vmx {
    /// Reads the MSRs, and takes what the module wanted and got from its report.
    ///
    /// # Errors
    ///
    /// What keeps the MSRs from being read.
    pub fn from_msrs(msrs: &Msrs, report: Option<&Report>) -> Result<Self, Error> {
        let basic = VmxBasic(msrs.read(BASIC)?);
        let mut words = Vec::new();
        for source in &WORDS {
            let index = if basic.has_true_controls() {
                source.true_msr
            } else {
                source.msr
            };
            if index == SECONDARY_CONTROLS && !has_secondary(&words) {
                continue;
            }
            let allowed = Allowed::from_msr(msrs.read(index)?);
            words.push(word(source, Some(index), allowed, report));
        }
        let has_ept_or_vpid = words.iter().any(|word| {
            word.name == WORDS[2].name
                && word.may_be_one & (Secondary::ENABLE_EPT | Secondary::ENABLE_VPID).bits() != 0
        });
        let ept_vpid = if has_ept_or_vpid {
            ept_vpid(msrs.read(EPT_VPID_CAP)?)
        } else {
            Vec::new()
        };
        let misc = msrs.read(MISC)?;
        let pair = |[low, high]: [u32; 2]| Ok([msrs.read(low)?, msrs.read(high)?]);
        let details = Details {
            feature_control: msrs.read(FEATURE_CONTROL).ok(),
            revision_id: basic.revision_id(),
            region_size: basic.region_size(),
            memory_type: basic.memory_type(),
            true_controls: basic.has_true_controls(),
            misc,
            cr3_targets: (misc >> 16) & 0x1ff,
            preemption_timer_shift: misc & 0x1f,
            cr0_fixed: pair(CR0_FIXED)?,
            cr4_fixed: pair(CR4_FIXED)?,
            ept_vpid,
        };
        Ok(Self {
            words,
            details: Some(details),
        })
    }

    /// What the module's report alone tells.
    pub fn from_report(report: &Report) -> Self {
        let words = WORDS.iter().filter_map(|source| {
            let settled = report
                .controls
                .iter()
                .find(|word| word.name == source.reported_as)?;
            let allowed = Allowed {
                must_be_one: settled.must_be_one,
                may_be_one: settled.may_be_one,
            };
            Some(word(source, None, allowed, Some(report)))
        });
        Self {
            words: words.collect(),
            details: None,
        }
    }
}

fn has_secondary(words: &[Word]) -> bool {
    let activate = CpuBased::ACTIVATE_SECONDARY_CONTROLS.bits();
    words
        .iter()
        .any(|word| word.name == WORDS[1].name && word.may_be_one & activate != 0)
}

fn word(source: &Source, msr: Option<u32>, allowed: Allowed, report: Option<&Report>) -> Word {
    let settled = report.and_then(|report| {
        report
            .controls
            .iter()
            .find(|word| word.name == source.reported_as)
    });
    let names = (source.flags)();
    let controls = (0..u32::BITS).filter_map(|bit| {
        let mask = 1 << bit;
        let must_be_one = allowed.must_be_one & mask != 0;
        let may_be_one = allowed.may_be_one & mask != 0;
        let name = match names.iter().find(|(_, bits)| *bits == mask) {
            Some((name, _)) => (*name).to_string(),
            None if may_be_one && !must_be_one => format!("bit {bit}"),
            None => return None,
        };
        Some(Control {
            name,
            bit,
            must_be_one,
            may_be_one,
            wanted: settled.map(|settled| settled.wanted & mask != 0),
            got: settled.map(|settled| settled.got & mask != 0),
        })
    });
    Word {
        name: source.name,
        msr,
        must_be_one: allowed.must_be_one,
        may_be_one: allowed.may_be_one,
        controls: controls.collect(),
    }
}

/// The named flags of a control word.
fn names<F: Flags<Bits = u32>>() -> Vec<(&'static str, u32)> {
    F::FLAGS
        .iter()
        .filter(|flag| !flag.name().is_empty())
        .map(|flag| (flag.name(), flag.value().bits()))
        .collect()
}

fn ept_vpid(value: u64) -> Vec<Capability> {
    let value = EptVpidCap::from_bits_retain(value);
    EptVpidCap::FLAGS
        .iter()
        .filter(|flag| !flag.name().is_empty())
        .map(|flag| Capability {
            name: flag.name().to_string(),
            supported: value.contains(*flag.value()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::Settled;
    use super::*;

    fn report() -> Report {
        Report {
            values: Vec::new(),
            controls: vec![Settled {
                name: "pin_based".into(),
                must_be_one: 0x16,
                may_be_one: 0x1ff,
                wanted: 0x9,
                got: 0x1f,
            }],
        }
    }

    fn control<'a>(word: &'a Word, name: &str) -> &'a Control {
        word.controls
            .iter()
            .find(|control| control.name == name)
            .expect("a control")
    }

    #[test]
    fn controls_have_the_manual_s_names() {
        let vmx = Vmx::from_report(&report());
        assert_eq!(vmx.words.len(), 1, "only what the report tells");
        let nmi = control(&vmx.words[0], "NMI_EXITING");
        assert_eq!((nmi.bit, nmi.must_be_one, nmi.may_be_one), (3, false, true));
        assert_eq!((nmi.wanted, nmi.got), (Some(true), Some(true)));
        let timer = control(&vmx.words[0], "PREEMPTION_TIMER");
        assert_eq!(
            (timer.may_be_one, timer.wanted, timer.got),
            (true, Some(false), Some(false))
        );
    }

    #[test]
    fn a_control_without_a_name_shows_its_bit_and_a_reserved_one_does_not_show() {
        let vmx = Vmx::from_report(&report());
        assert!(control(&vmx.words[0], "bit 8").may_be_one);
        assert!(!vmx.words[0].controls.iter().any(|control| control.bit == 1));
    }

    #[test]
    fn ept_capabilities_are_told_apart() {
        let capabilities = ept_vpid((1 << 6) | (1 << 14));
        let names: Vec<_> = capabilities
            .iter()
            .filter(|capability| capability.supported)
            .map(|capability| capability.name.as_str())
            .collect();
        assert_eq!(names, ["PAGE_WALK_4", "MEMORY_TYPE_WB"]);
    }
}
