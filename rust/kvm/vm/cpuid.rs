// SPDX-License-Identifier: GPL-2.0

//! CPUID: what a guest may be offered, what a VMM gave this one, and the instruction.

use arch::{
    control_regs::{
        CpuidWords,
        Limits, //
    },
    cpuid::{
        self,
        Hardware,
        Words, //
    },
};
use kernel::prelude::*;

use super::{
    backend::Backend,
    options::DisabledExits,
    pv::{
        self,
        Feature, //
    },
    vcpu::{
        Loaded,
        RAX,
        RBX,
        RCX,
        RDX, //
    },
    QUIRK_MISC_ENABLE_NO_MWAIT,
    QUIRK_MWAIT_NEVER_UD_FAULTS, //
};
use crate::host::cpu;

/// One answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) function: u32,
    pub(crate) index: u32,
    /// KVM_CPUID_FLAG_*: bit 0 says that the index counts.
    pub(crate) flags: u32,
    pub(crate) words: Words,
}

const FLAG_SIGNIFICANT_INDEX: u32 = 1 << 0;
const CR4_OSXSAVE: u64 = 1 << 18;
const LEAF_1_ECX_OSXSAVE: u32 = 1 << 27;
const LEAF_1_ECX_MONITOR: u32 = 1 << 3;
const LEAF_1_EDX_APIC: u32 = 1 << 9;
const APIC_BASE_ENABLE: u64 = 1 << 11;
/// Functions in each of the two ranges whose place is remembered.
const INDEXED: usize = 32;
const EXTENDED: u32 = 0x8000_0000;

/// Calls `f` with each entry that guests can be offered (api.rst, 4.46 KVM_GET_SUPPORTED_CPUID).
pub(crate) fn supported(hardware: &Hardware, mut f: impl FnMut(Entry) -> Result) -> Result {
    let mut put = |function: u32, index: u32, words: Words| {
        f(Entry {
            function,
            index,
            flags: if cpuid::has_index(function) {
                FLAG_SIGNIFICANT_INDEX
            } else {
                0
            },
            words,
        })
    };
    let offered = |function, index| {
        cpuid::offered(
            function,
            index,
            cpu::cpuid_in_use(function, index),
            hardware,
        )
    };

    let max_basic = offered(0, 0)[0];
    for function in 0..=max_basic {
        match function {
            4 => {
                for index in 0.. {
                    let words = offered(function, index);
                    put(function, index, words)?;
                    // The cache type is 0 after the last one.
                    if words[0] & 0x1f == 0 {
                        break;
                    }
                }
            }
            0xd => {
                for index in 0..63 {
                    let words = offered(function, index);
                    if index < 2 || words != [0; 4] {
                        put(function, index, words)?;
                    }
                }
            }
            _ => put(function, 0, offered(function, 0))?,
        }
    }
    put(cpuid::HYPERVISOR_BASE, 0, cpuid::HYPERVISOR_SIGNATURE)?;
    put(
        cpuid::HYPERVISOR_FEATURES,
        0,
        [pv::offered_features(), 0, 0, 0],
    )?;
    let max_extended = offered(EXTENDED, 0)[0];
    for function in EXTENDED..=max_extended {
        put(function, 0, offered(function, 0))?;
    }
    Ok(())
}

/// The answers that a VMM gave a vCPU (api.rst, 4.20 KVM_SET_CPUID2).
pub(crate) struct Cpuid {
    entries: KVVec<Entry>,
    /// Where functions without an index are, plus one; 0 means: look for it.
    basic: [u8; INDEXED],
    extended: [u8; INDEXED],
    limits: Limits,
    /// EAX of KVM_CPUID_FEATURES, wherever KVM's range is.
    pv_features: u32,
}

impl Cpuid {
    /// No answers: every function is zero.
    pub(crate) fn empty() -> Self {
        Self {
            entries: KVVec::new(),
            basic: [0; INDEXED],
            extended: [0; INDEXED],
            limits: Limits::from_cpuid(&CpuidWords {
                maxphyaddr: 36,
                ..CpuidWords::default()
            }),
            pv_features: 0,
        }
    }

    /// Takes a VMM's answers.
    ///
    /// # Errors
    ///
    /// EINVAL where linear addresses are of a width that no processor has.
    pub(crate) fn new(entries: KVVec<Entry>) -> Result<Self> {
        let mut cpuid = Self {
            entries,
            ..Self::empty()
        };
        for (i, entry) in cpuid.entries.iter().enumerate() {
            if entry.flags & FLAG_SIGNIFICANT_INDEX != 0 {
                continue;
            }
            let place = (i + 1) as u8;
            let table = if entry.function >= EXTENDED {
                &mut cpuid.extended
            } else {
                &mut cpuid.basic
            };
            if let Some(slot) = table.get_mut((entry.function & !EXTENDED) as usize) {
                // The first answer counts.
                if *slot == 0 {
                    *slot = place;
                }
            }
        }
        if !matches!(cpuid.words(EXTENDED + 8, 0)[0] >> 8 & 0xff, 0 | 48 | 57) {
            return Err(EINVAL);
        }
        cpuid.limits = Limits::from_cpuid(&cpuid.feature_words());
        cpuid.pv_features = cpuid.find_pv_features();
        Ok(cpuid)
    }

    /// KVM's functions may be moved up, for another hypervisor's to be at the start of the range
    /// (Linux, `Documentation/virt/kvm/x86/cpuid.rst`).
    fn pv_base(&self) -> Option<u32> {
        const END: u32 = 0x4001_0000;
        const STEP: usize = 0x100;
        (cpuid::HYPERVISOR_BASE..END)
            .step_by(STEP)
            .find(|base| self.words(*base, 0)[1..] == cpuid::HYPERVISOR_SIGNATURE[1..])
    }

    fn find_pv_features(&self) -> u32 {
        self.pv_base().map_or(0, |base| self.words(base | 1, 0)[0])
    }

    /// Takes one of them back.
    fn remove_pv_feature(&mut self, feature: Feature) {
        let bit = 1 << feature as u32;
        if self.pv_features & bit == 0 {
            return;
        }
        if let Some(base) = self.pv_base() {
            if let Some(entry) = self.find_mut(base | 1, 0) {
                entry.words[0] &= !bit;
            }
        }
        self.pv_features &= !bit;
    }

    /// The features of KVM's that the guest is shown.
    #[inline]
    pub(crate) fn pv_features(&self) -> u32 {
        self.pv_features
    }

    fn feature_words(&self) -> CpuidWords {
        let leaf1 = self.words(1, 0);
        let leaf7 = self.words(7, 0);
        let state = self.words(0xd, 0);
        let address_bits = self.words(EXTENDED + 8, 0)[0] as u8;
        CpuidWords {
            leaf1_ecx: leaf1[2],
            leaf7_ebx: leaf7[1],
            leaf7_ecx: leaf7[2],
            leaf7_edx: leaf7[3],
            leaf7_1_eax: self.words(7, 1)[0],
            extended_edx: self.words(EXTENDED + 1, 0)[3],
            maxphyaddr: if address_bits == 0 { 36 } else { address_bits },
            xcr0: u64::from(state[3]) << 32 | u64::from(state[0]),
        }
    }

    /// All answers.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What they let the guest set.
    #[inline]
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The answer to (`function`, `index`); zeroes where there is none.
    pub(crate) fn words(&self, function: u32, index: u32) -> Words {
        self.find(function, index)
            .map_or([0; 4], |entry| entry.words)
    }

    #[inline]
    fn find(&self, function: u32, index: u32) -> Option<&Entry> {
        let table = if function >= EXTENDED {
            &self.extended
        } else {
            &self.basic
        };
        if let Some(&place) = table.get((function & !EXTENDED) as usize) {
            if place != 0 {
                return self.entries.get(usize::from(place) - 1);
            }
        }
        self.entries.iter().find(|entry| {
            entry.function == function
                && (entry.flags & FLAG_SIGNIFICANT_INDEX == 0 || entry.index == index)
        })
    }

    fn find_mut(&mut self, function: u32, index: u32) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| {
            entry.function == function
                && (entry.flags & FLAG_SIGNIFICANT_INDEX == 0 || entry.index == index)
        })
    }

    /// The answer that the instruction gives: beyond the highest basic function, that one's, as
    /// Intel's processors do.
    #[inline]
    pub(super) fn answer(&self, function: u32, index: u32) -> Words {
        if let Some(entry) = self.find(function, index) {
            return entry.words;
        }
        self.answer_out_of_range(function, index)
    }

    /// Whether there is an entry for an answer, and whether for want of one it is that of the last
    /// basic function.
    pub(super) fn provenance(&self, function: u32, index: u32) -> (bool, bool) {
        let found = self.find(function, index).is_some();
        let last = self.find(0, 0).map(|first| first.words[0]);
        let is_above = function & 0xf000_0000 == 0 && last.is_some_and(|last| function > last);
        (found, !found && is_above)
    }

    #[cold]
    fn answer_out_of_range(&self, function: u32, index: u32) -> Words {
        if function & 0xf000_0000 != 0 {
            return [0; 4];
        }
        match self.find(0, 0) {
            Some(first) if function > first.words[0] => self.words(first.words[0], index),
            // Topology functions name the processor at any level.
            _ if matches!(function, 0xb | 0x1f) => [0, 0, index & 0xff, self.words(function, 1)[3]],
            _ => [0; 4],
        }
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// CPUID.
    #[inline(always)]
    pub(crate) fn emulate_cpuid(&mut self) {
        let regs = &mut self.state.regs;
        let [eax, ebx, ecx, edx] = self.state.cpuid.answer(regs[RAX] as u32, regs[RCX] as u32);
        regs[RAX] = eax.into();
        regs[RBX] = ebx.into();
        regs[RCX] = ecx.into();
        regs[RDX] = edx.into();
        B::skip_instruction(self);
    }

    /// MONITOR or MWAIT: as if they did nothing, or #UD where the guest does not have them and the
    /// VMM wants it told (KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS).
    pub(crate) fn emulate_monitor(&mut self) {
        let is_there = if self.vm.has_quirk(QUIRK_MISC_ENABLE_NO_MWAIT) {
            self.state.cpuid.words(1, 0)[2] & LEAF_1_ECX_MONITOR != 0
        } else {
            self.state.msrs.enables_monitor()
        };
        if is_there || self.vm.has_quirk(QUIRK_MWAIT_NEVER_UD_FAULTS) {
            B::skip_instruction(self);
        } else {
            self.queue_ud();
        }
    }

    /// Takes new answers.
    pub(crate) fn set_cpuid(&mut self, cpuid: Cpuid) {
        self.state.cpuid = cpuid;
        self.update_runtime_cpuid();
        self.apic_cpuid_changed();
        B::cpuid_changed(self);
    }

    /// Whether new answers are those the vCPU has.
    ///
    /// # Errors
    ///
    /// EINVAL where they are not.
    pub(crate) fn check_same_cpuid(&self, mut cpuid: Cpuid) -> Result {
        self.update_answers(&mut cpuid);
        if cpuid.entries() == self.state.cpuid.entries() {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// Brings those answers up to date that depend on registers.
    pub(crate) fn update_runtime_cpuid(&mut self) {
        let mut cpuid = core::mem::replace(&mut self.state.cpuid, Cpuid::empty());
        self.update_answers(&mut cpuid);
        self.state.cpuid = cpuid;
    }

    fn update_answers(&self, cpuid: &mut Cpuid) {
        // A guest whose HLT does not exit cannot be kicked out of it.
        if self
            .vm
            .options
            .disabled_exits()
            .contains(DisabledExits::HLT)
        {
            cpuid.remove_pv_feature(Feature::PvUnhalt);
        }
        let osxsave = B::cr4(self) & CR4_OSXSAVE != 0;
        let apic = self.apic_base() & APIC_BASE_ENABLE != 0;
        let xcr0 = self.state.xcr0;

        if let Some(entry) = cpuid.find_mut(1, 0) {
            set_bit(&mut entry.words[2], LEAF_1_ECX_OSXSAVE, osxsave);
            set_bit(&mut entry.words[3], LEAF_1_EDX_APIC, apic);
            if !self.vm.has_quirk(QUIRK_MISC_ENABLE_NO_MWAIT) {
                let monitor = self.state.msrs.enables_monitor();
                set_bit(&mut entry.words[2], LEAF_1_ECX_MONITOR, monitor);
            }
        }
        let size = xsave_size(cpuid, xcr0);
        let compact = compact_xsave_size(cpuid, xcr0);
        if let Some(entry) = cpuid.find_mut(0xd, 0) {
            entry.words[1] = size;
        }
        if let Some(entry) = cpuid.find_mut(0xd, 1) {
            const XSAVEC: u32 = 1 << 1;
            if entry.words[0] & XSAVEC != 0 {
                entry.words[1] = compact;
            }
        }
    }
}

fn set_bit(word: &mut u32, bit: u32, on: bool) {
    if on {
        *word |= bit;
    } else {
        *word &= !bit;
    }
}

/// Bytes of what every XSAVE area starts with: the legacy region and the header.
const LEGACY_AND_HEADER: u32 = 512 + 64;

/// Bytes that XSAVEC needs for `xcr0`: the components one after another, some of them at a multiple
/// of 64 (SDM vol. 1, 13.4.3).
fn compact_xsave_size(cpuid: &Cpuid, xcr0: u64) -> u32 {
    const ALIGNED: u32 = 1 << 1;
    (2..63)
        .filter(|i| xcr0 >> i & 1 != 0)
        .filter_map(|i| cpuid.find(0xd, i))
        .fold(LEGACY_AND_HEADER, |end, entry| {
            let start = if entry.words[2] & ALIGNED != 0 {
                end.saturating_add(63) & !63
            } else {
                end
            };
            start.saturating_add(entry.words[0])
        })
}

/// Bytes that XSAVE needs for `xcr0`: the end of the last component (SDM vol. 1, 13.4.3).
fn xsave_size(cpuid: &Cpuid, xcr0: u64) -> u32 {
    (2..63)
        .filter(|i| xcr0 >> i & 1 != 0)
        .filter_map(|i| cpuid.find(0xd, i))
        .map(|entry| entry.words[0].saturating_add(entry.words[1]))
        .fold(LEGACY_AND_HEADER, u32::max)
}
