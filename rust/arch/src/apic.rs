// SPDX-License-Identifier: GPL-2.0

//! The local APIC: xAPIC and x2APIC (SDM vol. 3, chapter 11).
//!
//! The registers are in a page laid out as the guest sees it, because the processor's APIC
//! virtualisation reads and writes that page itself. [`Lapic`] is the state machine on top of it,
//! [`Message`] what APICs send each other, [`Timer`] the counter, which has the time told to it.
//!
//! What the caller does: it sends on what [`Effect::Send`] says to every [`Lapic`] that
//! [`Lapic::matches`], asks [`Lapic::pending`] before it enters the guest, injects that vector and
//! calls [`Lapic::acknowledge`].
//!
//! Where KVM's APIC visibly differs from the manual this one does as KVM: the error status
//! register stays zero, reserved bits of 32-bit x2APIC registers other than the ICR and SELF IPI
//! are ignored, switching the APIC off by IA32_APIC_BASE keeps its registers, and what was accepted
//! before a software disable is delivered all the same.

mod access;
mod lapic;
mod lvt;
mod message;
mod mode;
mod registers;
mod state;
mod timer;

pub use access::{Effect, Gp};
pub use lapic::{Acceptance, Eoi, Features, Lapic};
pub use lvt::{LocalInterrupt, Lvt};
pub use message::{Delivery, Destination, Message};
pub use mode::{Invalid, BASE_BSP, BASE_ENABLE, BASE_X2APIC, DEFAULT_BASE};
pub use registers::{Register, Registers};
pub use state::TimerState;
pub use timer::{Timer, TimerMode, TimerWrite, MIN_PERIOD};

/// The first x2APIC MSR; the register at offset `o` of the page is MSR `FIRST_MSR + o / 16`.
pub const FIRST_MSR: u32 = 0x800;
/// The last MSR of the range that belongs to the x2APIC.
pub const LAST_MSR: u32 = 0x8ff;

#[cfg(test)]
mod tests;
