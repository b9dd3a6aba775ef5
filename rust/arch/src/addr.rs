// SPDX-License-Identifier: GPL-2.0

//! Addresses that say whose they are.
//!
//! A guest has two kinds of address (virtual and physical), its VMM one (virtual) and the machine
//! one (physical). Mixing them up is the classic hypervisor defect, so each is a type.

/// Bytes in a small page.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address rounded down to a small page.
            pub const fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Bytes from the start of the small page.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// This address plus `bytes`, wrapping round at the end of the 64-bit space.
            pub const fn offset(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }
    };
}

address! {
    /// A guest-virtual (linear) address.
    Gva
}
address! {
    /// A guest-physical address.
    Gpa
}
address! {
    /// A host-virtual address in the VMM's address space.
    Hva
}
address! {
    /// A host-physical address.
    Hpa
}

/// A guest frame number: a guest-physical address in units of [`PAGE_SIZE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Gfn(pub u64);

impl Gpa {
    /// The frame this address lies in.
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

impl Gfn {
    /// The first address of the frame.
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }
}
