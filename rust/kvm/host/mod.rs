// SPDX-License-Identifier: GPL-2.0

//! Safe types over the kernel services that the `kernel` crate does not offer.
//!
//! `bindings` is named here and nowhere above: what the rest of the module may do with the kernel
//! is what these types let it do.

pub(crate) mod abi_types;
pub(crate) mod bindings;
pub(crate) mod clock;
pub(crate) mod coalesced_ring;
pub(crate) mod cpu;
pub(crate) mod cpu_list;
pub(crate) mod debug_regs;
pub(crate) mod dirty_ring;
pub(crate) mod eventfd;
pub(crate) mod file;
pub(crate) mod fpu;
pub(crate) mod guest_mode;
pub(crate) mod mm;
pub(crate) mod mmu_notifier;
pub(crate) mod mutex;
pub(crate) mod page;
pub(crate) mod parameters;
pub(crate) mod per_cpu;
pub(crate) mod power;
pub(crate) mod preempt;
pub(crate) mod sched;
pub(crate) mod shared;
pub(crate) mod signal;
pub(crate) mod speculation;
pub(crate) mod srcu_cell;
pub(crate) mod thread;
pub(crate) mod timer;
pub(crate) mod trace;
pub(crate) mod vector_regs;
pub(crate) mod wait;
pub(crate) mod work;
pub(crate) mod world;
pub(crate) mod xcr0;
