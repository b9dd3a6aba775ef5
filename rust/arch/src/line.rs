// SPDX-License-Identifier: GPL-2.0

//! What becomes of a level change on an interrupt controller's input, as KVM_IRQ_LINE_STATUS
//! tells it (`Documentation/virt/kvm/api.rst`, KVM_IRQ_LINE).

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineStatus {
    /// Nobody took notice: the input is masked, or no processor is addressed.
    Ignored,
    /// It merged with an earlier request that is still pending.
    Coalesced,
    /// This many processors (or controllers) took it.
    Delivered(u32),
}

impl LineStatus {
    /// From the number of processors addressed, if any was, that took an interrupt.
    pub const fn from_takers(takers: Option<u32>) -> Self {
        match takers {
            None => Self::Ignored,
            Some(0) => Self::Coalesced,
            Some(takers) => Self::Delivered(takers),
        }
    }

    /// The number in `kvm_irq_level.status`: negative for ignored, 0 for coalesced.
    pub fn number(self) -> i32 {
        match self {
            Self::Ignored => -1,
            Self::Coalesced => 0,
            Self::Delivered(takers) => i32::try_from(takers).unwrap_or(i32::MAX),
        }
    }

    /// The status of a line that reaches two controllers.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Ignored, status) | (status, Self::Ignored) => status,
            (Self::Coalesced, status) | (status, Self::Coalesced) => status,
            (Self::Delivered(one), Self::Delivered(two)) => {
                Self::Delivered(one.saturating_add(two))
            }
        }
    }
}
