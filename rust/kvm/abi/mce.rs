// SPDX-License-Identifier: GPL-2.0

//! Machine checks (api.rst, 4.104 to 4.106).

use arch::machine_check::{
    Report,
    SUPPORTED, //
};
use kernel::prelude::*;

use super::copy;
use crate::{
    host::bindings::kvm_x86_mce,
    vm::{
        Backend,
        Loaded, //
    },
};

/// KVM_X86_GET_MCE_CAP_SUPPORTED (api.rst, 4.104).
pub(super) fn supported(arg: usize) -> Result<i32> {
    copy::write(arg, &SUPPORTED)?;
    Ok(0)
}

/// KVM_X86_SETUP_MCE (api.rst, 4.105).
pub(super) fn set_up<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    cx.set_up_mce(copy::read(arg)?)?;
    Ok(0)
}

/// KVM_X86_SET_MCE (api.rst, 4.106).
pub(super) fn report<B: Backend>(cx: &mut Loaded<'_, B>, arg: usize) -> Result<i32> {
    let mce: kvm_x86_mce = copy::read(arg)?;
    cx.report_mce(&Report {
        status: mce.status,
        addr: mce.addr,
        misc: mce.misc,
        mcg_status: mce.mcg_status,
        bank: mce.bank,
    })?;
    Ok(0)
}
