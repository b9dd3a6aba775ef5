// SPDX-License-Identifier: GPL-2.0
//! The host's debug registers, all four in use: watchpoints and a breakpoint of this thread at
//! addresses that guests use too.

use crate::program;
use crate::sys::{Breakpoint, Kind, Place, PAGE};

/// RBX of most guests points here.
const DATA: u64 = 0x2_0000;
/// The first push of most guests goes here.
const STACK: u64 = 0x8_0000 - 8;
/// RET.
const RET: u8 = 0xc3;

/// The breakpoints, and how often each must have been hit.
pub struct Watch {
    code: Place,
    data: Place,
    stack: Place,
    other: Box<u32>,
    breakpoints: Option<[Breakpoint; 4]>,
    hits: u64,
}

impl Watch {
    /// Sets nothing yet.
    pub fn new() -> Self {
        let code = Place::executable(program::CODE, PAGE);
        code.write(0, &[RET]);
        Self {
            code,
            data: Place::new(DATA, PAGE),
            stack: Place::new(STACK & !(PAGE as u64 - 1), PAGE),
            other: Box::new(0),
            breakpoints: None,
            hits: 0,
        }
    }

    /// Sets the breakpoints, or clears them: KVM_RUN goes other ways with them.
    pub fn set(&mut self, on: bool) {
        self.hits = 0;
        // There are but four.
        self.breakpoints = None;
        let other = &raw const *self.other as u64;
        self.breakpoints = on.then(|| {
            [
                Breakpoint::new(Kind::Execute, program::CODE, 8),
                Breakpoint::new(Kind::Access, DATA, 8),
                Breakpoint::new(Kind::Write, STACK, 8),
                Breakpoint::new(Kind::Write, other, 4),
            ]
        });
    }

    /// Does what each waits for, once; then each must have counted that and nothing else.
    pub fn check(&mut self) -> Result<(), String> {
        let Some(breakpoints) = &self.breakpoints else {
            return Ok(());
        };
        self.hits += 1;
        self.code.call();
        self.data.write(0, &self.hits.to_le_bytes());
        self.stack
            .write((STACK % PAGE as u64) as usize, &self.hits.to_le_bytes());
        // SAFETY: our own variable.
        unsafe { (&raw mut *self.other).write_volatile(self.hits as u32) };
        let counts = breakpoints.each_ref().map(Breakpoint::count);
        if counts != [self.hits; 4] {
            return Err(format!(
                "breakpoints of this thread were hit {counts:?} times, not {}",
                self.hits
            ));
        }
        Ok(())
    }
}
