// SPDX-License-Identifier: GPL-2.0

//! The user ABI, which is Linux's KVM API (`Documentation/virt/kvm/api.rst`) and nothing else.
//!
//! An ioctl is decoded here, its arguments copied in, `vm` called, results copied out. The
//! structures come from `<linux/kvm.h>`. `Documentation/abi.md` lists what there is.

mod capability;
mod clock;
mod copy;
mod cpuid;
mod debugfs;
mod dirty_log;
mod eventfd;
mod events;
mod fpu;
mod irqchip;
mod lapic;
mod mce;
mod msr;
mod msr_filter;
mod number;
mod one_reg;
mod options;
mod pit;
mod regs;
mod sregs;
mod stats;
mod sync_regs;
mod system;
mod vcpu;
mod vm;

pub(crate) use self::system::System;
