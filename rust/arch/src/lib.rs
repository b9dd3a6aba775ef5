// SPDX-License-Identifier: GPL-2.0

//! The rules of the x86 architecture and of VT-x that need no kernel to be stated.
//!
//! This crate knows the manuals and nothing of Linux: it compiles into the module through Kbuild
//! and, unchanged, with cargo on a development machine, where it is tested. It allocates nothing
//! and contains no `unsafe`.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(any(test, feature = "fuzzing"))]
extern crate std;

pub mod addr;
pub mod apic;
pub mod control_regs;
pub mod controls;
pub mod cpuid;
pub mod dr;
pub mod emulator;
pub mod ept;
pub mod exception;
pub mod exit;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod guest_state;
pub mod ioapic;
pub mod ioport;
pub mod line;
pub mod machine_check;
pub mod memory_type;
pub mod operand;
pub mod paging;
pub mod pic;
pub mod pit;
pub mod pvclock;
pub mod rflags;
pub mod segment;
pub mod tsc_sync;
pub mod vmcs;
