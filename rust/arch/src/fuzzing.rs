// SPDX-License-Identifier: GPL-2.0

//! What must hold for any bytes: checks for a fuzzer to break, used by the tests as well.
//!
//! Each function makes its case out of the bytes it is given and panics if a rule is broken.

mod apic;
pub(crate) mod emulator;
pub(crate) mod input;
mod ioapic;
pub(crate) mod machine;
mod paging;
mod pic;
mod pit;

pub use apic::apic;
pub use emulator::{emulator, Outcome};
pub use ioapic::ioapic;
pub use paging::paging;
pub use pic::pic;
pub use pit::pit;

#[cfg(test)]
mod tests;
