// SPDX-License-Identifier: GPL-2.0

//! An entry of the redirection table.

use crate::apic::{Delivery, Destination, Message};

const LOGICAL: u64 = 1 << 11;
const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;

/// An entry of the redirection table, in the layout of its two registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry(pub u64);

impl Entry {
    /// As after reset.
    pub const RESET: Self = Self(MASKED);

    /// The vector.
    #[inline]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Whether its interrupt is kept back.
    #[inline]
    pub const fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    /// Whether its input is level-triggered.
    #[inline]
    pub const fn is_level(self) -> bool {
        self.0 & LEVEL != 0
    }

    /// Whether a level-triggered interrupt was sent and its EOI has not come.
    #[inline]
    pub const fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    pub(super) fn set_remote_irr(&mut self, set: bool) {
        if set {
            self.0 |= REMOTE_IRR;
        } else {
            self.0 &= !REMOTE_IRR;
        }
    }

    /// What the entry sends. [`Message::x2apic`] is KVM's broadcast quirk; who has it disabled sets
    /// it.
    #[inline]
    pub const fn message(self) -> Message {
        let id = (self.0 >> 56) as u32;
        Message {
            destination: if self.0 & LOGICAL != 0 {
                Destination::Logical(id)
            } else {
                Destination::Physical(id)
            },
            x2apic: false,
            delivery: Delivery::from_bits(self.0 as u32),
            vector: self.vector(),
            level: self.is_level(),
            assert: true,
            redirection_hint: false,
        }
    }

    /// The entry after software wrote one of its registers. An edge-triggered entry has no remote
    /// IRR: Linux and Xen switch the trigger mode to and fro for an EOI.
    pub(super) const fn with_half(self, high: bool, value: u32) -> Self {
        let written = if high {
            self.0 & 0xffff_ffff | (value as u64) << 32
        } else {
            self.0 & !0xffff_ffff | value as u64
        };
        let mut bits = written & !READ_ONLY | self.0 & READ_ONLY;
        if bits & LEVEL == 0 {
            bits &= !REMOTE_IRR;
        }
        Self(bits)
    }
}
