// SPDX-License-Identifier: GPL-2.0

//! KVM_RUN with registers that go in and out through `kvm_run`, without a call for each
//! (api.rst, 5, `kvm_valid_regs` and `kvm_dirty_regs`).

use kernel::prelude::*;

use super::{
    events,
    regs,
    sregs, //
};
use crate::{
    host::bindings,
    vm::{
        Backend,
        Loaded, //
    },
};

const REGS: u64 = bindings::KVM_SYNC_X86_REGS as u64;
const SREGS: u64 = bindings::KVM_SYNC_X86_SREGS as u64;
const EVENTS: u64 = bindings::KVM_SYNC_X86_EVENTS as u64;

/// What can be asked for (KVM_CAP_SYNC_REGS).
pub(super) const FIELDS: u64 = REGS | SREGS | EVENTS;

/// KVM_RUN (api.rst, 4.10).
pub(super) fn run<B: Backend>(cx: &mut Loaded<'_, B>) -> Result<i32> {
    let result = cx.run(take);
    // Also after an error, as with KVM: the VMM asked for what there is.
    let valid = cx.vcpu.run.valid_regs();
    if valid != 0 {
        show(cx, valid);
    }
    result
}

/// Takes what the VMM has changed.
///
/// # Errors
///
/// EINVAL for what is not shared, or for values that no processor has; what comes before those is
/// taken then.
#[inline]
fn take<B: Backend>(cx: &mut Loaded<'_, B>) -> Result {
    let dirty = cx.vcpu.run.dirty_regs();
    if (cx.vcpu.run.valid_regs() | dirty) & !FIELDS != 0 {
        return Err(EINVAL);
    }
    if dirty != 0 {
        take_changed(cx, dirty)?;
    }
    Ok(())
}

#[cold]
fn take_changed<B: Backend>(cx: &mut Loaded<'_, B>, mut dirty: u64) -> Result {
    let page = &cx.vcpu.run;
    let new = page.sync_regs();
    if dirty & REGS != 0 {
        regs::set(cx, &new.regs);
        dirty &= !REGS;
        page.set_dirty_regs(dirty);
    }
    if dirty & SREGS != 0 {
        sregs::set_all(cx, &new.sregs)?;
        dirty &= !SREGS;
        page.set_dirty_regs(dirty);
    }
    if dirty & EVENTS != 0 {
        events::set_all(cx, &new.events)?;
        page.set_dirty_regs(dirty & !EVENTS);
    }
    Ok(())
}

/// Shows the VMM what it wants to see.
#[cold]
fn show<B: Backend>(cx: &mut Loaded<'_, B>, valid: u64) {
    let page = &cx.vcpu.run;
    if valid & REGS != 0 {
        page.put_regs(&regs::collect(cx));
    }
    if valid & SREGS != 0 {
        page.put_sregs(&sregs::collect(cx));
    }
    if valid & EVENTS != 0 {
        page.put_events(&events::collect(cx));
    }
}
