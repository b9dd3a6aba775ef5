// SPDX-License-Identifier: GPL-2.0

//! IA32_APIC_BASE and the APIC's modes (SDM vol. 3, 11.4.4 and 11.12.1), and resets.

use core::ops::Deref;
use core::sync::atomic::Ordering;

use super::{lvt, Effect, Features, Lapic, Register, Registers};

/// IA32_APIC_BASE: the processor is the bootstrap processor.
pub const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is enabled.
pub const BASE_ENABLE: u64 = 1 << 11;
/// Where the register page is after reset.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Bits of IA32_APIC_BASE that are no address and have no meaning.
const BASE_RESERVED: u64 = 0x2ff;
const BASE_MODE: u64 = BASE_ENABLE | BASE_X2APIC;

const SVR_AFTER_RESET: u32 = 0xff;
const DFR_AFTER_RESET: u32 = 0xffff_ffff;
const LINT0_EXTINT: u32 = 0x700;

/// A value or state that the APIC cannot have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

impl<P: Deref<Target = Registers>> Lapic<P> {
    /// IA32_APIC_BASE.
    #[inline]
    pub fn base(&self) -> u64 {
        self.base.load(Ordering::Relaxed)
    }

    /// The physical address of the register page.
    #[inline]
    pub fn address(&self) -> u64 {
        self.base() & !0xfff
    }

    /// Writes IA32_APIC_BASE for a guest whose physical addresses have `maxphyaddr` bits.
    ///
    /// `Err`, a #GP for the guest, if reserved bits are set or the mode cannot be entered from this
    /// one (SDM vol. 3, figure 11-27); the VMM (`host`) may go from any mode to any other.
    /// [`Effect::Mode`] unless nothing changes.
    pub fn set_base(&self, value: u64, maxphyaddr: u8, host: bool) -> Result<Effect, Invalid> {
        let old = self.base();
        if value == old {
            return Ok(Effect::None);
        }
        let mut reserved = BASE_RESERVED;
        if maxphyaddr < 64 {
            reserved |= u64::MAX << maxphyaddr;
        }
        if !self.features().contains(Features::X2APIC) {
            reserved |= BASE_X2APIC;
        }
        if value & reserved != 0 || value & BASE_MODE == BASE_X2APIC {
            return Err(Invalid);
        }
        match (old & BASE_MODE, value & BASE_MODE) {
            (BASE_MODE, BASE_ENABLE) | (0, BASE_MODE) if !host => return Err(Invalid),
            _ => self.change_base(old, value),
        }
        Ok(Effect::Mode)
    }

    fn change_base(&self, old: u64, new: u64) {
        self.base.store(new, Ordering::Relaxed);
        let changed = old ^ new;
        if changed & BASE_ENABLE != 0 && new & BASE_ENABLE != 0 {
            self.reset_xapic_id();
        }
        if changed & BASE_X2APIC == 0 {
            return;
        }
        if new & BASE_X2APIC != 0 {
            self.set_x2apic_id();
        } else if new & BASE_ENABLE != 0 {
            self.reset_xapic_id();
        }
    }

    fn reset_xapic_id(&self) {
        self.store(Register::ID, self.id << 24);
    }

    fn set_x2apic_id(&self) {
        self.store(Register::ID, self.id);
        self.store(Register::LDR, self.x2apic_ldr());
    }

    /// The logical destination of an x2APIC, which follows from its id: the cluster, and a bit in it.
    pub(super) fn x2apic_ldr(&self) -> u32 {
        ((self.id >> 4) << 16) | (1 << (self.id & 0xf))
    }

    /// Power-up: xAPIC mode at [`DEFAULT_BASE`], and everything as after INIT.
    pub fn reset(&self) {
        let bsp = if self.bsp { BASE_BSP } else { 0 };
        let base = DEFAULT_BASE | BASE_ENABLE | bsp;
        self.change_base(self.base(), base);
        self.reset_xapic_id();
        self.init_reset();
    }

    /// INIT (SDM vol. 3, 11.4.7.3): the base, the mode and the id stay. [`super::Timer::reset`]
    /// belongs to it.
    pub fn init_reset(&self) {
        let x2apic = self.is_x2apic();
        for offset in (0..0x400).step_by(4).map(Register) {
            let keeps = offset == Register::ID || x2apic && offset == Register::LDR;
            if !keeps {
                self.store(offset, 0);
            }
        }
        self.update_version();
        for register in self.lvt_registers() {
            self.store(register, lvt::MASKED);
        }
        if self.bsp && self.features().contains(Features::LINT0_EXTINT) {
            self.store(Register::LVT_LINT0, LINT0_EXTINT);
        }
        self.store(Register::DFR, DFR_AFTER_RESET);
        self.store(Register::SVR, SVR_AFTER_RESET);
        self.software_enabled.store(false, Ordering::Relaxed);
        self.timer_mode.store(0, Ordering::Relaxed);
        self.summarise_unless_hardware();
    }

    /// The version register: a version of the Pentium 4 and later, and what the features say.
    pub(super) fn update_version(&self) {
        const VERSION: u32 = 0x14;
        const SUPPRESSES_EOI_BROADCAST: u32 = 1 << 24;
        let features = self.features();
        let last_entry = if features.contains(Features::CMCI) {
            6
        } else {
            5
        };
        let mut version = VERSION | last_entry << 16;
        if features.contains(Features::X2APIC | Features::SUPPRESS_EOI_BROADCAST) {
            version |= SUPPRESSES_EOI_BROADCAST;
        }
        self.store(Register::VERSION, version);
    }
}
