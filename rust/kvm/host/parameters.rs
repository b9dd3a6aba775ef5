// SPDX-License-Identifier: GPL-2.0

//! Module parameters that can be changed while the module is loaded.

use super::bindings;

/// Whether an access to an MSR that there is none of reads 0, or does nothing.
pub(crate) fn ignore_msrs() -> bool {
    // SAFETY: Reads a variable of the module.
    unsafe { bindings::shim_ignore_msrs() }
}

/// Whether the kernel log has what [`ignore_msrs`] lets pass.
pub(crate) fn report_ignored_msrs() -> bool {
    // SAFETY: Reads a variable of the module.
    unsafe { bindings::shim_report_ignored_msrs() }
}
