// SPDX-License-Identifier: GPL-2.0

//! The configuration space of a function (PCI 3.0, chapter 6), as bytes of which the guest may
//! write some.

/// Bytes of it that conventional PCI has.
pub const SIZE: usize = 256;

/// Registers of a header of type 0.
pub const VENDOR: usize = 0x00;
/// As above.
pub const DEVICE: usize = 0x02;
/// As above.
pub const COMMAND: usize = 0x04;
/// As above.
pub const STATUS: usize = 0x06;
/// As above.
pub const REVISION: usize = 0x08;
/// Class code: programming interface, subclass, base class.
pub const CLASS: usize = 0x09;
/// The first base address register.
pub const BAR0: usize = 0x10;
/// As above.
pub const SUBSYSTEM_VENDOR: usize = 0x2c;
/// As above.
pub const SUBSYSTEM: usize = 0x2e;
/// Where the first capability is.
pub const CAPABILITIES: usize = 0x34;
/// As above.
pub const INTERRUPT_LINE: usize = 0x3c;
/// As above.
pub const INTERRUPT_PIN: usize = 0x3d;

/// Command: answer to memory accesses.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: read and write memory.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// Command: do not move the interrupt line.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// Status, low byte: the interrupt line is wanted; there are capabilities.
pub const STATUS_INTERRUPT: u8 = 1 << 3;
/// As above.
pub const STATUS_CAPABILITIES: u8 = 1 << 4;

/// A configuration space.
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits the guest may write.
    writable: [u8; SIZE],
    /// Where the last capability says where the next one is.
    link: usize,
}

impl ConfigSpace {
    /// One of a function that is `device` of `vendor`, of this `class` (base, sub, interface).
    pub fn new(vendor: u16, device: u16, class: [u8; 3]) -> Self {
        let mut space = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            link: CAPABILITIES,
        };
        let [base, sub, interface] = class;
        space.set(VENDOR, &vendor.to_le_bytes());
        space.set(DEVICE, &device.to_le_bytes());
        space.set(CLASS, &[interface, sub, base]);
        space
    }

    /// Sets bytes, whoever may write them.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Lets the guest write the bits of `mask`.
    pub fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }

    /// Puts a capability of this kind at `offset`, behind those that there are; `body` is what
    /// follows its kind and its link.
    pub fn add_capability(&mut self, offset: usize, kind: u8, body: &[u8]) {
        let link = self.link;
        self.bytes[link] = offset as u8;
        self.set(offset, &[kind, 0]);
        self.set(offset + 2, body);
        self.link = offset + 1;
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
    }

    /// A register of 16 bits.
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// A register of 32 bits.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    /// A load: what is past the end reads as zero.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (offset, byte) in (offset..).zip(data) {
            *byte = self.bytes.get(offset).copied().unwrap_or(0);
        }
    }

    /// A store: it changes what it may.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (offset, byte) in (offset..).zip(data) {
            if let Some(old) = self.bytes.get_mut(offset) {
                let mask = self.writable[offset];
                *old = *old & !mask | byte & mask;
            }
        }
    }
}
