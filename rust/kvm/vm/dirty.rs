// SPDX-License-Identifier: GPL-2.0

//! What a vCPU, and the VM as a whole, do about the log of written pages; the log itself is
//! `memory`'s.

use arch::addr::Gpa;
use kernel::prelude::*;

use super::{
    backend::Backend,
    kick::Requests,
    vcpu::Loaded,
    Vm, //
};
use crate::{
    host::guest_mode::GuestMode,
    stats::vcpu as stat, //
};

impl<B: Backend> Vm<B> {
    /// Has each vCPU note what it writes in a ring of `size` bytes
    /// (api.rst, 8.29 KVM_CAP_DIRTY_LOG_RING).
    ///
    /// # Errors
    ///
    /// EINVAL for a size that cannot be, where it was chosen before, or there are vCPUs; E2BIG.
    pub(crate) fn set_dirty_ring(&self, size: u64) -> Result {
        let vcpus = self.vcpus.lock();
        let size = self.memory.check_ring_size(size)?;
        if !vcpus.is_empty() {
            return Err(EINVAL);
        }
        self.memory.set_ring_size(size);
        Ok(())
    }

    /// Frees what the VMM is done with in the rings of all vCPUs; how many entries that were
    /// (api.rst, 4.134 KVM_RESET_DIRTY_RINGS).
    ///
    /// # Errors
    ///
    /// EINVAL where there are no rings.
    pub(crate) fn reset_dirty_rings(&self) -> Result<i32> {
        let vcpus = self.vcpus.lock();
        let rings = vcpus.iter().filter_map(|vcpu| vcpu.ring.as_ref());
        self.memory.reset_rings(rings)
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// Whether the VMM has to free entries of the ring before the guest goes on.
    pub(crate) fn ring_is_full(&self) -> bool {
        let runner = &self.vcpu.runner;
        if !runner.requests().contains(Requests::DIRTY_RING_FULL) {
            return false;
        }
        let is_full = self
            .vcpu
            .ring
            .as_ref()
            .is_some_and(|ring| ring.is_soft_full());
        if !is_full {
            runner.take_requests(Requests::DIRTY_RING_FULL);
        }
        is_full
    }

    /// The guest's write exited. If nothing but a note of it was missing, makes that, and returns
    /// whether it was so.
    pub(crate) fn allow_logged_write(&self, turn: &GuestMode<'_>, gpa: Gpa) -> bool {
        let ring = self.vcpu.ring.as_ref();
        let allowed = self.vm.memory.allow_logged_write(turn, ring, gpa);
        if allowed {
            self.count(stat::PF_TAKEN);
            self.count(stat::PF_FAST);
        }
        allowed
    }

    /// Notes the writes that the processor has logged by itself.
    pub(crate) fn note_logged_writes(&mut self) {
        let memory = self.vcpu.guest_memory();
        B::drain_write_log(self, |gfn| memory.note_write(gfn));
    }
}
