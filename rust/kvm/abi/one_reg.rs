// SPDX-License-Identifier: GPL-2.0

//! Registers one by one (api.rst, 4.68 KVM_SET_ONE_REG): on x86 the MSRs, by their numbers.

use kernel::prelude::*;

use super::copy;
use crate::{
    host::bindings::{
        self,
        kvm_one_reg, //
    },
    vm::{
        Backend,
        Loaded,
        MsrAccess, //
    },
};

/// KVM_X86_REG_TYPE_MSR.
const TYPE_MSR: u64 = bindings::KVM_X86_REG_TYPE_MSR as u64;

/// The MSR that a register's name means, and where its value is.
///
/// # Errors
///
/// EINVAL where the name means none; EFAULT.
fn decode(arg: usize) -> Result<(u32, usize)> {
    let register: kvm_one_reg = copy::read(arg)?;
    // The MSR's number, then its type, and a byte that means nothing; architecture and size.
    let (index, kind) = (register.id as u32, register.id >> 32 & 0xffff);
    let rest = register.id >> 48;
    let wanted = (bindings::KVM_REG_X86 | bindings::KVM_REG_SIZE_U64) >> 48;
    if kind != TYPE_MSR || rest != wanted {
        return Err(EINVAL);
    }
    Ok((index, register.addr as usize))
}

/// KVM_GET_ONE_REG (api.rst, 4.69).
pub(super) fn get<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let (index, place) = decode(arg)?;
    let value = cx.read_msr(index, MsrAccess::Vmm).ok_or(EINVAL)?;
    copy::write(place, &value)?;
    Ok(0)
}

/// KVM_SET_ONE_REG (api.rst, 4.68).
pub(super) fn set<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let (index, place) = decode(arg)?;
    cx.write_msr(index, copy::read(place)?, MsrAccess::Vmm)?;
    Ok(0)
}

/// KVM_GET_REG_LIST (api.rst, 4.83): registers that are not MSRs. The one that KVM has belongs to
/// shadow stacks, which guests here do not have.
pub(super) fn list(arg: usize) -> Result<i32> {
    let _room: u64 = copy::read(arg)?;
    copy::write(arg, &0u64)?;
    Ok(0)
}
