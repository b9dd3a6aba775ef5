// SPDX-License-Identifier: GPL-2.0

//! The page-modification log: the processor notes the frames whose dirty flag in the EPT it sets
//! (SDM vol. 3, 29.3.6).

use core::sync::atomic::Ordering;

use arch::{
    addr::{
        Gfn,
        Gpa, //
    },
    controls::Secondary,
    vmcs, //
};
use kernel::prelude::*;

use super::{
    controls,
    Vmx, //
};
use crate::{
    host::page::{
        HardwarePage,
        WORDS, //
    },
    vm::Loaded, //
};

/// Frames that the log has room for.
pub(super) const ENTRIES: u32 = WORDS as u32;
/// The index of an empty log: it is filled from its end.
const EMPTY: u16 = ENTRIES as u16 - 1;

/// The log of a vCPU.
pub(super) struct WriteLog {
    page: HardwarePage,
    is_on: bool,
}

impl WriteLog {
    /// A log that is off.
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            page: HardwarePage::new()?,
            is_on: false,
        })
    }
}

/// Turns the log of a vCPU that has one on or off.
pub(super) fn set(cx: &mut Loaded<'_, Vmx>, on: bool) {
    let f = &cx.vcpu.resident;
    let Some(log) = &mut cx.state.hw.write_log else {
        return;
    };
    if log.is_on == on {
        return;
    }
    log.is_on = on;
    if on {
        f.write(vmcs::PML_ADDRESS, log.page.hpa().0);
        f.write(vmcs::GUEST_PML_INDEX, EMPTY);
    }
    controls::set_secondary(cx, Secondary::ENABLE_PML, on);
}

/// Calls `note` with each frame in the log, which is empty then.
#[inline]
pub(super) fn drain(cx: &mut Loaded<'_, Vmx>, mut note: impl FnMut(Gfn)) {
    let f = &cx.vcpu.resident;
    let Some(log) = cx.state.hw.write_log.as_ref().filter(|log| log.is_on) else {
        return;
    };
    let index = f.read(vmcs::GUEST_PML_INDEX);
    if index == EMPTY {
        return;
    }
    // The index is that of the next entry, and has wrapped where there is none.
    let first = usize::from(index.wrapping_add(1));
    for entry in log.page.words().iter().skip(first) {
        note(Gpa(entry.load(Ordering::Relaxed)).gfn());
    }
    f.write(vmcs::GUEST_PML_INDEX, EMPTY);
}
