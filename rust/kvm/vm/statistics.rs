// SPDX-License-Identifier: GPL-2.0

//! What was counted of a VM, and of all its vCPUs.

use super::{
    Backend,
    Vm, //
};

/// Which word of the numbers in [`crate::stats`]: of a histogram it is the first.
#[derive(Clone, Copy)]
pub(crate) enum Counted {
    /// Of the VM's own.
    OfVm(usize),
    /// Of its vCPUs', which are added up.
    OfVcpus(usize),
}

impl<B: Backend> Vm<B> {
    /// A number.
    pub(crate) fn counted(&self, which: Counted) -> u64 {
        match which {
            Counted::OfVm(word) => self.memory.stats.word(word),
            Counted::OfVcpus(word) => {
                let vcpus = self.vcpus.lock();
                vcpus
                    .iter()
                    .fold(0, |sum, vcpu| sum.wrapping_add(vcpu.stats.word(word)))
            }
        }
    }

    /// Sets a number to zero.
    pub(crate) fn clear_counted(&self, which: Counted) {
        match which {
            Counted::OfVm(word) => self.memory.stats.clear_word(word),
            Counted::OfVcpus(word) => {
                for vcpu in self.vcpus.lock().iter() {
                    vcpu.stats.clear_word(word);
                }
            }
        }
    }
}
