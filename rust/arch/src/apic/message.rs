// SPDX-License-Identifier: GPL-2.0

//! Interrupt messages: what an ICR write, an MSI or an I/O APIC entry sends.

/// What a message does to the processor that takes it (SDM vol. 3, 11.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Delivery {
    /// The vector's interrupt.
    Fixed = 0,
    /// The vector's interrupt, to one of those addressed.
    LowestPriority = 1,
    /// System-management interrupt.
    Smi = 2,
    /// Reserved; KVM wakes a processor that waits for a para-virtual kick by it.
    Reserved = 3,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// Start-up: begin at vector * 4096.
    StartUp = 6,
    /// The vector comes from the 8259A.
    ExtInt = 7,
}

impl Delivery {
    /// From bits 10 to 8 of an ICR, LVT entry, MSI data or redirection entry.
    #[inline]
    pub const fn from_bits(register: u32) -> Self {
        match (register >> 8) & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }
}

/// Whom a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The APIC of this id, or all.
    Physical(u32),
    /// Those whose logical destination register has a bit of it.
    Logical(u32),
    /// The sender.
    Itself,
    /// Every APIC.
    All,
    /// Every APIC but the sender's.
    AllButSelf,
}

/// An interrupt message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Whom it is for.
    pub destination: Destination,
    /// The destination is an x2APIC's: 0xff means APIC 255 (or cluster 0) to an APIC in x2APIC mode,
    /// not all. For an MSI or an I/O APIC's message, false is KVM's broadcast quirk.
    pub x2apic: bool,
    /// What it does.
    pub delivery: Delivery,
    /// Which vector.
    pub vector: u8,
    /// Level-triggered.
    pub level: bool,
    /// The level is asserted.
    pub assert: bool,
    /// An MSI's redirection hint: one of those addressed takes it, as if of lowest priority.
    pub redirection_hint: bool,
}

const LOGICAL: u32 = 1 << 11;
const ASSERT: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;

impl Message {
    /// What a write of the ICR sends (SDM vol. 3, 11.6.1 and 11.12.9).
    #[inline]
    pub const fn from_icr(icr: u64, x2apic: bool) -> Self {
        let low = icr as u32;
        let high = (icr >> 32) as u32;
        let address = if x2apic { high } else { high >> 24 };
        Self {
            destination: match (low >> 18) & 3 {
                0 if low & LOGICAL != 0 => Destination::Logical(address),
                0 => Destination::Physical(address),
                1 => Destination::Itself,
                2 => Destination::All,
                _ => Destination::AllButSelf,
            },
            x2apic,
            delivery: Delivery::from_bits(low),
            vector: low as u8,
            level: low & LEVEL != 0,
            assert: low & ASSERT != 0,
            redirection_hint: false,
        }
    }

    /// A fixed interrupt to the sender itself.
    #[inline]
    pub const fn to_itself(vector: u8) -> Self {
        Self {
            destination: Destination::Itself,
            x2apic: true,
            delivery: Delivery::Fixed,
            vector,
            level: false,
            assert: false,
            redirection_hint: false,
        }
    }

    /// What an MSI of this address and data is (SDM vol. 3, 11.11). With `wide`
    /// (KVM_X2APIC_API_USE_32BIT_IDS) bits 63 to 40 of the address are bits 31 to 8 of the
    /// destination; bits 39 to 32 must be zero then, see [`Self::is_valid_wide_address`].
    pub const fn from_msi(address: u64, data: u32, wide: bool) -> Self {
        const MSI_LOGICAL: u64 = 1 << 2;
        const MSI_REDIRECTION_HINT: u64 = 1 << 3;
        let mut id = (address >> 12) as u32 & 0xff;
        if wide {
            id |= (address >> 32) as u32 & 0xffff_ff00;
        }
        Self {
            destination: if address & MSI_LOGICAL != 0 {
                Destination::Logical(id)
            } else {
                Destination::Physical(id)
            },
            x2apic: false,
            delivery: Delivery::from_bits(data),
            vector: data as u8,
            level: data & LEVEL != 0,
            assert: true,
            redirection_hint: address & MSI_REDIRECTION_HINT != 0,
        }
    }

    /// Whether an MSI address with a 32-bit destination leaves its reserved bits zero.
    pub const fn is_valid_wide_address(address: u64) -> bool {
        (address >> 32) & 0xff == 0
    }

    /// Whether one of those addressed is to be chosen.
    #[inline]
    pub const fn is_lowest_priority(&self) -> bool {
        matches!(self.delivery, Delivery::LowestPriority) || self.redirection_hint
    }

    /// Whether it is the end of a level, which no APIC since the Pentium 4 does anything with.
    #[inline]
    pub const fn is_deassert(&self) -> bool {
        self.level
            && !self.assert
            && matches!(
                self.delivery,
                Delivery::Fixed | Delivery::LowestPriority | Delivery::Init
            )
    }

    /// Which of `candidates` APICs takes a lowest-priority message: as KVM and recent chipsets, by
    /// the vector. `None` without candidates.
    pub const fn choose(&self, candidates: u32) -> Option<u32> {
        (self.vector as u32).checked_rem(candidates)
    }
}
