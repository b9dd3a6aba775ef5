// SPDX-License-Identifier: GPL-2.0

//! What goes to the kernel log when the hardware refuses to run a guest.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};

use core::fmt;

use kernel::prelude::*;

use super::{
    backend::Backend,
    vcpu::Loaded, //
};
use crate::host::cpu;

/// Shows a vCPU's hardware state.
struct Dump<'a, 'b, B: Backend>(&'a Loaded<'b, B>);

impl<B: Backend> fmt::Display for Dump<'_, '_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        B::dump(self.0, f)
    }
}

/// Prints what is written to it, a line a message: a message of the log is short.
struct Lines {
    line: [u8; 256],
    len: usize,
}

impl fmt::Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if byte == b'\n' {
                pr_warn!(
                    "{}\n",
                    core::str::from_utf8(&self.line[..self.len]).unwrap_or("?")
                );
                self.len = 0;
            } else if self.len < self.line.len() {
                self.line[self.len] = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// Dumps the state of the first vCPU that cannot be entered. Once: a VMM can bring this about
    /// at will, and all dumps after the first are in debugfs.
    pub(crate) fn report_entry_failure(&self, reason: u64) {
        static REPORTED: AtomicBool = AtomicBool::new(false);
        // On the way down VMX is off, and that is no news.
        if cpu::is_rebooting() || REPORTED.swap(true, Ordering::Relaxed) {
            return;
        }
        pr_warn!(
            "vCPU {} cannot be entered (reason {:#x}); its state, this once:\n",
            self.vcpu.id,
            reason
        );
        let mut lines = Lines {
            line: [0; 256],
            len: 0,
        };
        let _ = fmt::Write::write_fmt(&mut lines, core::format_args!("{}", Dump(self)));
    }

    /// Writes the hardware state for people.
    pub(crate) fn write_dump(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        B::dump(self, f)
    }
}
