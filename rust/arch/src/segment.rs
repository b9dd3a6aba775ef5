// SPDX-License-Identifier: GPL-2.0

//! Segment registers and descriptors (SDM vol. 3, 3.4 and 25.4.1).
//!
//! The same access rights come in three layouts: the VMCS's ([`AccessRights`]), a field for each
//! as in `struct kvm_segment` ([`Fields`]), and a descriptor's in memory ([`Descriptor`]).

use crate::addr::Gva;

/// A segment selector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Selector(pub u16);

impl Selector {
    /// Requested privilege level, 0 to 3.
    pub const fn rpl(self) -> u8 {
        (self.0 & 3) as u8
    }

    /// The descriptor is in the LDT and not in the GDT.
    pub const fn is_local(self) -> bool {
        self.0 & 4 != 0
    }

    /// Offset of the descriptor in its table, in bytes.
    pub const fn offset(self) -> u16 {
        self.0 & !7
    }

    /// Selects nothing: one of the four selectors of the GDT's entry 0.
    pub const fn is_null(self) -> bool {
        self.0 & !3 == 0
    }
}

/// Access rights as the VMCS holds them.
///
/// ```text
/// 16        15  14   13  12   11..8  7  6..5  4  3..0
/// unusable  G   D/B  L   AVL  0      P  DPL   S  type
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct AccessRights(pub u32);

/// Type bit 0 of a code or data segment: accessed.
pub const TYPE_ACCESSED: u8 = 1 << 0;
/// Type bit 1 of a data segment: writable.
pub const TYPE_WRITABLE: u8 = 1 << 1;
/// Type bit 1 of a code segment: readable.
pub const TYPE_READABLE: u8 = 1 << 1;
/// Type bit 2 of a data segment: valid offsets are above the limit.
pub const TYPE_EXPAND_DOWN: u8 = 1 << 2;
/// Type bit 2 of a code segment: conforming.
pub const TYPE_CONFORMING: u8 = 1 << 2;
/// Type bit 3 of a segment with S set: code.
pub const TYPE_CODE: u8 = 1 << 3;
/// Type of an LDT (S clear).
pub const TYPE_LDT: u8 = 2;
/// Type of a busy 16-bit TSS (S clear).
pub const TYPE_BUSY_TSS16: u8 = 3;
/// Type of a busy 32-bit or 64-bit TSS (S clear).
pub const TYPE_BUSY_TSS: u8 = 11;

impl AccessRights {
    /// The register cannot be used, whatever else it holds.
    pub const UNUSABLE: Self = Self(1 << 16);
    /// The bits that must be zero.
    pub const RESERVED: u32 = 0xfffe_0f00;

    const fn bit(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// The type.
    pub const fn segment_type(self) -> u8 {
        (self.0 & 0xf) as u8
    }

    /// A code or data segment, and not a system segment.
    pub const fn is_code_or_data(self) -> bool {
        self.bit(4)
    }

    /// A code segment.
    pub const fn is_code(self) -> bool {
        self.is_code_or_data() && self.segment_type() & TYPE_CODE != 0
    }

    /// Descriptor privilege level, 0 to 3.
    pub const fn dpl(self) -> u8 {
        ((self.0 >> 5) & 3) as u8
    }

    /// Present.
    pub const fn is_present(self) -> bool {
        self.bit(7)
    }

    /// For software's use.
    pub const fn is_available(self) -> bool {
        self.bit(12)
    }

    /// A 64-bit code segment.
    pub const fn is_long(self) -> bool {
        self.bit(13)
    }

    /// Operands (code), the stack pointer (stack) or the upper bound (expand-down) have 32 bits.
    pub const fn is_default_big(self) -> bool {
        self.bit(14)
    }

    /// The descriptor's limit counts 4 KiB units.
    pub const fn is_granular(self) -> bool {
        self.bit(15)
    }

    /// The register cannot be used.
    pub const fn is_unusable(self) -> bool {
        self.bit(16)
    }
}

/// Access rights with a field each, as in `struct kvm_segment`. Bits a field has too many are
/// ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fields {
    /// Type.
    pub type_: u8,
    /// Present.
    pub present: u8,
    /// Descriptor privilege level.
    pub dpl: u8,
    /// Default operand size.
    pub db: u8,
    /// Code or data.
    pub s: u8,
    /// 64-bit code.
    pub l: u8,
    /// Granularity.
    pub g: u8,
    /// For software's use.
    pub avl: u8,
    /// Not to be used.
    pub unusable: u8,
}

impl From<Fields> for AccessRights {
    /// A segment that is not present is unusable, as in KVM: some VMMs keep the one and lose the
    /// other.
    fn from(fields: Fields) -> Self {
        let part = |value: u8, mask: u8, shift: u32| u32::from(value & mask) << shift;
        let unusable = fields.unusable != 0 || fields.present & 1 == 0;
        Self(
            part(fields.type_, 0xf, 0)
                | part(fields.s, 1, 4)
                | part(fields.dpl, 3, 5)
                | part(fields.present, 1, 7)
                | part(fields.avl, 1, 12)
                | part(fields.l, 1, 13)
                | part(fields.db, 1, 14)
                | part(fields.g, 1, 15)
                | (u32::from(unusable) << 16),
        )
    }
}

impl From<AccessRights> for Fields {
    /// Present is told as "not unusable", as in KVM.
    fn from(rights: AccessRights) -> Self {
        Self {
            type_: rights.segment_type(),
            present: u8::from(!rights.is_unusable()),
            dpl: rights.dpl(),
            db: u8::from(rights.is_default_big()),
            s: u8::from(rights.is_code_or_data()),
            l: u8::from(rights.is_long()),
            g: u8::from(rights.is_granular()),
            avl: u8::from(rights.is_available()),
            unusable: u8::from(rights.is_unusable()),
        }
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// Selector.
    pub selector: Selector,
    /// Linear address of offset 0.
    pub base: Gva,
    /// Highest offset, in bytes (lowest minus one if it expands down).
    pub limit: u32,
    /// Access rights.
    pub rights: AccessRights,
}

impl Segment {
    /// What a real-mode load of `selector` leaves, for a register that had 64 KiB data rights.
    pub const fn real_mode(selector: Selector) -> Self {
        Self {
            selector,
            base: Gva((selector.0 as u64) << 4),
            limit: 0xffff,
            rights: AccessRights(0x93),
        }
    }

    /// Whether `size` bytes at `offset` lie within the limit (SDM vol. 3, 5.3). In 64-bit mode
    /// there is no limit to check.
    pub const fn contains(&self, offset: u32, size: u32) -> bool {
        if size == 0 {
            return true;
        }
        let Some(last) = offset.checked_add(size - 1) else {
            return false;
        };
        let expands_down = self.rights.is_code_or_data()
            && !self.rights.is_code()
            && self.rights.segment_type() & TYPE_EXPAND_DOWN != 0;
        if expands_down {
            let top = if self.rights.is_default_big() {
                u32::MAX
            } else {
                0xffff
            };
            offset > self.limit && last <= top
        } else {
            last <= self.limit
        }
    }
}

/// A segment descriptor as it lies in a descriptor table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Descriptor(pub u64);

impl Descriptor {
    /// Base address; of a 16-byte system descriptor the lower half.
    pub const fn base(self) -> u32 {
        (((self.0 >> 16) & 0xff_ffff) | ((self.0 >> 56) << 24)) as u32
    }

    /// Highest offset in bytes, granularity applied.
    pub const fn limit(self) -> u32 {
        let limit = ((self.0 & 0xffff) | ((self.0 >> 32) & 0xf_0000)) as u32;
        if self.rights().is_granular() {
            (limit << 12) | 0xfff
        } else {
            limit
        }
    }

    /// Access rights; unusable where not present.
    pub const fn rights(self) -> AccessRights {
        let rights = ((self.0 >> 40) & 0xf0ff) as u32;
        let present = AccessRights(rights).is_present();
        AccessRights(if present {
            rights
        } else {
            rights | AccessRights::UNUSABLE.0
        })
    }

    /// The register that a load of `selector`, which named this descriptor, makes.
    pub const fn segment(self, selector: Selector) -> Segment {
        Segment {
            selector,
            base: Gva(self.base() as u64),
            limit: self.limit(),
            rights: self.rights(),
        }
    }

    /// The register that a 16-byte system descriptor of long mode (LDT, TSS) makes, `upper` being
    /// its second half.
    pub const fn system_segment(self, upper: u64, selector: Selector) -> Segment {
        let segment = self.segment(selector);
        Segment {
            base: Gva(segment.base.0 | (upper << 32)),
            ..segment
        }
    }
}

#[cfg(test)]
mod tests;
