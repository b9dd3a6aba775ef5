// SPDX-License-Identifier: GPL-2.0

//! A value for every possible CPU.

use kernel::prelude::*;

/// A value for every CPU that the machine can ever have, each on cache lines of its own.
pub(crate) struct PerCpu<T>(KVVec<Padded<T>>);

#[repr(align(64))]
struct Padded<T>(T);

impl<T> PerCpu<T> {
    /// Makes the values with `make`, which is given the CPU's number.
    pub(crate) fn new(mut make: impl FnMut(u32) -> Result<T>) -> Result<Self> {
        let cpus = kernel::cpu::nr_cpu_ids();
        let mut values = KVVec::with_capacity(cpus as usize, GFP_KERNEL_ACCOUNT)?;
        for cpu in 0..cpus {
            values.push(Padded(make(cpu)?), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self(values))
    }

    /// The value of CPU `cpu`.
    #[inline]
    pub(crate) fn get(&self, cpu: u32) -> &T {
        &self.0[cpu as usize].0
    }
}
