// SPDX-License-Identifier: GPL-2.0

//! A guest that spins: its turn goes to a vCPU that has none, and may be what it waits for.

use crate::{
    host::{
        sched,
        wait, //
    },
    vm::{
        backend::Backend,
        run::Next,
        vcpu::Loaded, //
    },
};

impl<B: Backend> Loaded<'_, B> {
    /// A loop of PAUSEs, which is a spinning lock: its holder may be waiting for a CPU.
    pub(crate) fn handle_pause(&mut self) -> Next {
        B::skip_instruction(self);
        // With nobody else to run, spinning is the fastest way to go on.
        if !wait::may_poll() {
            let runners = &self.vm.memory.runners;
            if let Some(thread) = runners.next_waiting(&self.vcpu.runner) {
                sched::yield_to(thread);
            }
        }
        Next::Guest
    }
}
