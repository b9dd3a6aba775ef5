// SPDX-License-Identifier: GPL-2.0

//! Driving one vCPU: running it, and what its exits mean.

mod dump;
pub mod exit;
pub mod interrupt;
mod kick;
pub mod trace;

pub use dump::Dump;
pub use kick::Kick;
