// SPDX-License-Identifier: GPL-2.0

//! Lists of MSRs and their values.

use kernel::prelude::*;

use super::copy;
use crate::{
    host::bindings::{
        kvm_msr_entry,
        kvm_msr_list,
        kvm_msrs, //
    },
    vm::{
        read_feature_msr,
        Backend,
        Loaded,
        MsrAccess, //
    },
};

/// Entries that one call takes (`MAX_IO_MSRS`).
const MAX_ENTRIES: u32 = 256;

/// KVM_GET_MSR_INDEX_LIST and KVM_GET_MSR_FEATURE_INDEX_LIST (api.rst, 4.3): `nmsrs` says how many
/// there are, also where they do not fit.
pub(super) fn get_list(arg: usize, indices: &[u32]) -> Result<i32> {
    let mut list: kvm_msr_list = copy::read(arg)?;
    let room = list.nmsrs as usize;
    list.nmsrs = indices.len() as u32;
    copy::write(arg, &list)?;
    if room < indices.len() {
        return Err(E2BIG);
    }
    for (i, index) in indices.iter().enumerate() {
        copy::write(
            arg + size_of::<kvm_msr_list>() + i * size_of::<u32>(),
            index,
        )?;
    }
    Ok(0)
}

/// Calls `f` with each entry until it fails, writes them back if asked, and returns how many went
/// well: which is how a VMM learns which one did not.
fn for_each(
    arg: usize,
    write_back: bool,
    mut f: impl FnMut(&mut kvm_msr_entry) -> Result,
) -> Result<i32> {
    let header: kvm_msrs = copy::read(arg)?;
    if header.nmsrs >= MAX_ENTRIES {
        return Err(E2BIG);
    }
    let place = |i: u32| arg + size_of::<kvm_msrs>() + i as usize * size_of::<kvm_msr_entry>();

    let mut entries = KVVec::with_capacity(header.nmsrs as usize, GFP_KERNEL_ACCOUNT)?;
    for i in 0..header.nmsrs {
        entries.push(copy::read::<kvm_msr_entry>(place(i))?, GFP_KERNEL_ACCOUNT)?;
    }
    let mut done = 0;
    for entry in entries.iter_mut() {
        if f(entry).is_err() {
            break;
        }
        done += 1;
    }
    if write_back {
        for (i, entry) in entries.iter().enumerate() {
            copy::write(place(i as u32), entry)?;
        }
    }
    Ok(done)
}

/// KVM_GET_MSRS on /dev/kvm: what describes the virtual processor (api.rst, 4.18).
pub(super) fn get_system(arg: usize) -> Result<i32> {
    for_each(arg, true, |entry| {
        entry.data = read_feature_msr(entry.index)?;
        Ok(())
    })
}

/// KVM_GET_MSRS (api.rst, 4.18).
pub(super) fn get<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    for_each(arg, true, |entry| {
        entry.data = cx.read_msr(entry.index, MsrAccess::Vmm).ok_or(EINVAL)?;
        Ok(())
    })
}

/// KVM_SET_MSRS (api.rst, 4.19).
pub(super) fn set<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    for_each(arg, false, |entry| {
        cx.write_msr(entry.index, entry.data, MsrAccess::Vmm)
    })
}
