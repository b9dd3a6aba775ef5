// SPDX-License-Identifier: GPL-2.0

//! CPUID: what is offered, and what a VMM chose of it.

use arch::cpuid::Hardware;
use kernel::prelude::*;

use super::copy;
use crate::{
    host::{
        abi_types::Plain,
        bindings::{
            self,
            kvm_cpuid,
            kvm_cpuid2,
            kvm_cpuid_entry,
            kvm_cpuid_entry2, //
        },
    },
    vm::{
        supported_cpuid,
        Backend,
        Cpuid,
        CpuidEntry,
        Loaded, //
    },
};

/// Entries a vCPU can have (`KVM_MAX_CPUID_ENTRIES`).
const MAX_ENTRIES: u32 = 256;

fn place(arg: usize, i: usize) -> usize {
    arg + size_of::<kvm_cpuid2>() + i * size_of::<kvm_cpuid_entry2>()
}

fn to_abi(entry: &CpuidEntry) -> kvm_cpuid_entry2 {
    let mut out = kvm_cpuid_entry2::zeroed();
    out.function = entry.function;
    out.index = entry.index;
    out.flags = entry.flags;
    [out.eax, out.ebx, out.ecx, out.edx] = entry.words;
    out
}

fn from_abi(entry: &kvm_cpuid_entry2) -> CpuidEntry {
    CpuidEntry {
        function: entry.function,
        index: entry.index,
        flags: entry.flags,
        words: [entry.eax, entry.ebx, entry.ecx, entry.edx],
    }
}

fn write_all(arg: usize, header: &mut kvm_cpuid2, entries: &[CpuidEntry]) -> Result<i32> {
    for (i, entry) in entries.iter().enumerate() {
        copy::write(place(arg, i), &to_abi(entry))?;
    }
    header.nent = entries.len() as u32;
    copy::write(arg, header)?;
    Ok(0)
}

/// KVM_GET_SUPPORTED_CPUID (api.rst, 4.46).
pub(super) fn get_supported(arg: usize, hardware: &Hardware) -> Result<i32> {
    let mut header: kvm_cpuid2 = copy::read(arg)?;
    let room = header.nent.min(MAX_ENTRIES) as usize;
    let mut entries = KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
    supported_cpuid(hardware, |entry| {
        if entries.len() >= room {
            return Err(E2BIG);
        }
        entries.push(entry, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    })?;
    write_all(arg, &mut header, &entries)
}

/// KVM_GET_EMULATED_CPUID (api.rst, 4.88): features that the module emulates without the processor's
/// help. There are none, in the functions where KVM has some.
pub(super) fn get_emulated(arg: usize) -> Result<i32> {
    const FLAG_SIGNIFICANT_INDEX: u32 = bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    let mut header: kvm_cpuid2 = copy::read(arg)?;
    // The padding may come to mean something.
    for i in 0..header.nent.min(MAX_ENTRIES) as usize {
        let entry: kvm_cpuid_entry2 = copy::read(place(arg, i)).map_err(|_| EINVAL)?;
        if entry.padding != [0; 3] {
            return Err(EINVAL);
        }
    }
    let entry = |function, flags, eax| CpuidEntry {
        function,
        flags,
        words: [eax, 0, 0, 0],
        ..CpuidEntry::default()
    };
    let entries = [
        entry(0, 0, 7),
        entry(1, 0, 0),
        entry(7, FLAG_SIGNIFICANT_INDEX, 0),
    ];
    if (header.nent as usize) < entries.len() {
        return Err(E2BIG);
    }
    write_all(arg, &mut header, &entries)
}

/// KVM_SET_CPUID (api.rst, 4.21): as KVM_SET_CPUID2, for functions without an index.
pub(super) fn set_without_index<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let header: kvm_cpuid = copy::read(arg)?;
    if header.nent > MAX_ENTRIES {
        return Err(E2BIG);
    }
    let mut entries = KVVec::with_capacity(header.nent as usize, GFP_KERNEL_ACCOUNT)?;
    for i in 0..header.nent as usize {
        let place = arg + size_of::<kvm_cpuid>() + i * size_of::<kvm_cpuid_entry>();
        let entry: kvm_cpuid_entry = copy::read(place)?;
        let entry = CpuidEntry {
            function: entry.function,
            words: [entry.eax, entry.ebx, entry.ecx, entry.edx],
            ..CpuidEntry::default()
        };
        entries.push(entry, GFP_KERNEL_ACCOUNT)?;
    }
    take(cx, entries)
}

/// KVM_SET_CPUID2 (api.rst, 4.20). Once a vCPU has run, its CPUID stays as it is.
pub(super) fn set<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let header: kvm_cpuid2 = copy::read(arg)?;
    if header.nent > MAX_ENTRIES {
        return Err(E2BIG);
    }
    let mut entries = KVVec::with_capacity(header.nent as usize, GFP_KERNEL_ACCOUNT)?;
    for i in 0..header.nent as usize {
        let entry: kvm_cpuid_entry2 = copy::read(place(arg, i))?;
        entries.push(from_abi(&entry), GFP_KERNEL_ACCOUNT)?;
    }
    take(cx, entries)
}

fn take<B: Backend>(cx: &mut Loaded<'_, B>, entries: KVVec<CpuidEntry>) -> Result<i32> {
    let cpuid = Cpuid::new(entries)?;
    if cx.state.has_run {
        return cx.check_same_cpuid(cpuid).map(|()| 0);
    }
    cx.set_cpuid(cpuid);
    Ok(0)
}

/// KVM_GET_CPUID2 (api.rst, 4.21).
pub(super) fn get(cpuid: &Cpuid, arg: usize) -> Result<i32> {
    let mut header: kvm_cpuid2 = copy::read(arg)?;
    if (header.nent as usize) < cpuid.entries().len() {
        return Err(E2BIG);
    }
    write_all(arg, &mut header, cpuid.entries())
}
