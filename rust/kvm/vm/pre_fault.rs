// SPDX-License-Identifier: GPL-2.0

//! Guest memory that is mapped before the guest touches it
//! (api.rst, 4.143 KVM_PRE_FAULT_MEMORY).

use arch::addr::{
    Gpa,
    PAGE_SIZE, //
};
use kernel::prelude::*;

use super::{
    backend::Backend,
    memory::Faulted,
    vcpu::Loaded, //
};

impl<B: Backend> Loaded<'_, B> {
    /// Maps `size` bytes from `gpa` on for reading, and takes what is done off the two.
    ///
    /// # Errors
    ///
    /// Only where nothing was mapped: EINVAL for what is no range of pages, ENOENT where there is no
    /// memory, EFAULT where the VMM has none, EINTR for a signal, ENOMEM.
    pub(crate) fn pre_fault(&mut self, gpa: &mut u64, size: &mut u64) -> Result {
        let end = gpa.wrapping_add(*size);
        if (*gpa | *size) & (PAGE_SIZE - 1) != 0 || end <= *gpa {
            return Err(EINVAL);
        }
        let first = *gpa;
        while *size != 0 {
            match self.pre_fault_page(Gpa(*gpa)) {
                Ok(order) => {
                    let page = PAGE_SIZE << order;
                    let done = (page - (*gpa & (page - 1))).min(*size);
                    *size -= done;
                    *gpa = gpa.wrapping_add(done);
                }
                Err(_) if *gpa != first => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Maps a page; how many small ones it has, log2.
    fn pre_fault_page(&mut self, gpa: Gpa) -> Result<u32> {
        let vm = self.vm;
        loop {
            if kernel::current!().signal_pending() {
                return Err(EINTR);
            }
            let memory = self.vcpu.guest_memory();
            let spare = &mut self.state.spare;
            match vm.memory.fault(&memory, gpa, false, false, spare)? {
                Faulted::Mapped(order) => return Ok(order),
                Faulted::Raced | Faulted::NeedsIo(_) => {}
                Faulted::NotMemory => return Err(ENOENT),
            }
        }
    }
}
