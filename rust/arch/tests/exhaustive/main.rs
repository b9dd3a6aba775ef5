// SPDX-License-Identifier: GPL-2.0

//! Every case of rules whose domain is small, against the manual's own words: what stands here as
//! expected is written from the SDM's sections, and not from the code.
//!
//! Each test counts its cases and knows how many they are, so that none is left out unnoticed.
//! Documentation/security.md has the table.

mod apic;
mod clocks;
mod control_regs;
mod controls;
mod debug_regs;
mod ept;
mod exceptions;
mod guest_state;
mod memory_types;
mod paging;
mod pic;
mod segments;
