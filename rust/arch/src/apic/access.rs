// SPDX-License-Identifier: GPL-2.0

//! Register accesses: the xAPIC's memory-mapped ones, the x2APIC's MSRs, and writes that the
//! processor did to the page by itself.

use core::ops::Deref;
use core::sync::atomic::Ordering;

use super::{Eoi, Lapic, Lvt, Message, Register, Registers, TimerMode, TimerWrite, FIRST_MSR};

const SVR_ENABLE: u32 = 1 << 8;
const SVR_WRITABLE: u32 = 0x3ff;
const SVR_SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;
const VERSION_SUPPRESSES_EOI_BROADCAST: u32 = 1 << 24;
const ID_BITS: u32 = 0xff00_0000;
const DFR_FIXED: u32 = 0x0fff_ffff;
const TDCR_WRITABLE: u32 = 0xb;
const ICR_BUSY: u32 = 1 << 12;
/// Bits 31 to 20, 17, 16 and 13.
const X2APIC_ICR_RESERVED: u64 = 0xfff3_2000;
const LAST_REGISTER: u32 = 0x3f0;

/// A general-protection exception, in place of the access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gp;

/// What is to be done after an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// The message is to be sent.
    Send(Message),
    /// An interrupt has ended: another may be deliverable, I/O APICs may want to know.
    Eoi(Eoi),
    /// The task priority changed: another interrupt may be deliverable.
    Tpr,
    /// The timer is to be told ([`super::Timer::write`]).
    Timer(TimerWrite),
    /// SVR was written; whether it has the APIC enabled. If not, every LVT entry is masked now, and
    /// a timer interrupt that is not in the IRR yet is lost.
    SoftwareEnable(bool),
    /// Where messages find this APIC changed: its id, LDR or DFR.
    Destination,
    /// Mode or address changed, and where messages find this APIC.
    Mode,
    /// An LVT entry was written.
    Lvt(Lvt),
}

/// The registers that can be read in either mode: bit `n` is the one at offset `16 * n`.
const READABLE: u64 = bit(Register::ID)
    | bit(Register::VERSION)
    | bit(Register::TPR)
    | bit(Register::PPR)
    | bit(Register::LDR)
    | bit(Register::SVR)
    | bit(Register::ISR) * 0xff
    | bit(Register::TMR) * 0xff
    | bit(Register::IRR) * 0xff
    | bit(Register::ESR)
    | bit(Register::ICR)
    | bit(Register::LVT_TIMER)
    | bit(Register::LVT_THERMAL)
    | bit(Register::LVT_PMC)
    | bit(Register::LVT_LINT0)
    | bit(Register::LVT_LINT1)
    | bit(Register::LVT_ERROR)
    | bit(Register::TMICT)
    | bit(Register::TMCCT)
    | bit(Register::TDCR);

const fn bit(register: Register) -> u64 {
    1 << ((register.0 >> 4) & 63)
}

/// What can be read besides in xAPIC mode.
const READABLE_XAPIC: u64 = bit(Register::APR) | bit(Register::DFR) | bit(Register::ICR2);

impl<P: Deref<Target = Registers>> Lapic<P> {
    /// Whether the register page answers at [`Self::address`]: enabled and not in x2APIC mode.
    #[inline]
    pub fn is_memory_mapped(&self) -> bool {
        self.is_enabled() && !self.is_x2apic()
    }

    /// The registers that can be read, bit `n` for the one at offset `16 * n`, that is MSR
    /// `FIRST_MSR + n`: those whose reads need no interception where the processor virtualises the
    /// registers, [`Register::TMCCT`] and in xAPIC mode nothing excepted.
    pub fn readable(&self) -> u64 {
        let mut readable = READABLE;
        if self.features().contains(super::Features::CMCI) {
            readable |= bit(Register::LVT_CMCI);
        }
        if !self.is_x2apic() {
            readable |= READABLE_XAPIC;
        }
        readable
    }

    fn value(&self, register: Register, current_count: impl FnOnce() -> u32) -> Option<u32> {
        if register.0 > LAST_REGISTER || self.readable() & bit(register) == 0 {
            return None;
        }
        Some(match register {
            Register::TMCCT => current_count(),
            Register::PPR => {
                self.update_ppr();
                self.load(Register::PPR)
            }
            Register::APR => 0,
            register => self.load(register),
        })
    }

    /// Reads the register at `offset`, a multiple of 16; zero where there is none to be read. The
    /// timer's current count is `current_count`'s to say ([`super::Timer::current_count`]).
    pub fn read(&self, offset: u32, current_count: impl FnOnce() -> u32) -> u32 {
        self.value(Register(offset & !0xf), current_count)
            .unwrap_or(0)
    }

    /// A read of `data.len()` bytes at `offset` in the page. As with KVM it gives the bytes asked
    /// for if they are in the 4 that a register has, and zeroes otherwise.
    pub fn read_bytes(&self, offset: u32, data: &mut [u8], current_count: impl FnOnce() -> u32) {
        data.fill(0);
        let first = (offset & 0xf) as usize;
        let bytes = self.read(offset, current_count).to_le_bytes();
        if let Some(bytes) = bytes.get(first..first.saturating_add(data.len())) {
            data.copy_from_slice(bytes);
        }
    }

    /// A write of `data` at `offset` in the page. Anything but 4 bytes at a multiple of 16 is
    /// ignored.
    #[inline]
    pub fn write_bytes(&self, offset: u32, data: &[u8]) -> Effect {
        match <[u8; 4]>::try_from(data) {
            Ok(bytes) if offset & 0xf == 0 => self.write(offset, u32::from_le_bytes(bytes)),
            _ => Effect::None,
        }
    }

    /// Writes the register at `offset`, a multiple of 16, in xAPIC mode. What is no register, or
    /// read-only, ignores it.
    #[inline]
    pub fn write(&self, offset: u32, value: u32) -> Effect {
        match Register(offset) {
            Register::EOI => self.write_eoi(),
            Register::ICR => {
                let low = value & !ICR_BUSY;
                self.store(Register::ICR, low);
                let high = u64::from(self.load(Register::ICR2));
                Effect::Send(Message::from_icr(high << 32 | u64::from(low), false))
            }
            Register::ICR2 => {
                self.store(Register::ICR2, value & ID_BITS);
                Effect::None
            }
            register => self.write_xapic_rest(register, value),
        }
    }

    #[inline(never)]
    fn write_xapic_rest(&self, register: Register, value: u32) -> Effect {
        match register {
            Register::ID => {
                self.store(Register::ID, value & ID_BITS);
                Effect::Destination
            }
            Register::LDR => {
                self.store(Register::LDR, value & ID_BITS);
                Effect::Destination
            }
            Register::DFR => {
                self.store(Register::DFR, value | DFR_FIXED);
                Effect::Destination
            }
            register => self.write_common(register, value).unwrap_or(Effect::None),
        }
    }

    #[inline]
    fn write_eoi(&self) -> Effect {
        self.eoi().map_or(Effect::None, Effect::Eoi)
    }

    /// Writes a register that is the same in both modes; `None` if it is none such.
    #[inline(never)]
    fn write_common(&self, register: Register, value: u32) -> Option<Effect> {
        Some(match register {
            Register::TPR => {
                self.set_tpr(value as u8);
                Effect::Tpr
            }
            Register::SVR => self.write_svr(value),
            Register::LVT_TIMER => self.write_lvt(Lvt::Timer, value)?,
            Register::LVT_THERMAL => self.write_lvt(Lvt::Thermal, value)?,
            Register::LVT_PMC => self.write_lvt(Lvt::PerformanceCounters, value)?,
            Register::LVT_LINT0 => self.write_lvt(Lvt::Lint0, value)?,
            Register::LVT_LINT1 => self.write_lvt(Lvt::Lint1, value)?,
            Register::LVT_ERROR => self.write_lvt(Lvt::Error, value)?,
            Register::LVT_CMCI => self.write_lvt(Lvt::Cmci, value)?,
            Register::TMICT if self.timer_mode() == TimerMode::TscDeadline => Effect::None,
            Register::TMICT => {
                self.store(Register::TMICT, value);
                Effect::Timer(TimerWrite::InitialCount(value))
            }
            Register::TDCR => {
                let value = value & TDCR_WRITABLE;
                self.store(Register::TDCR, value);
                Effect::Timer(TimerWrite::Divide(value))
            }
            Register::ESR => Effect::None,
            _ => return None,
        })
    }

    fn write_svr(&self, value: u32) -> Effect {
        let mut writable = SVR_WRITABLE;
        if self.load(Register::VERSION) & VERSION_SUPPRESSES_EOI_BROADCAST != 0 {
            writable |= SVR_SUPPRESS_EOI_BROADCAST;
        }
        self.set_svr(value & writable);
        if value & SVR_ENABLE == 0 {
            self.mask_lvt();
        }
        Effect::SoftwareEnable(value & SVR_ENABLE != 0)
    }

    pub(super) fn set_svr(&self, value: u32) {
        self.store(Register::SVR, value);
        self.software_enabled
            .store(value & SVR_ENABLE != 0, Ordering::Relaxed);
    }

    /// RDMSR of an x2APIC register (SDM vol. 3, 11.12.1.2). `Err` in another mode too.
    pub fn read_msr(&self, msr: u32, current_count: impl FnOnce() -> u32) -> Result<u64, Gp> {
        if !self.is_x2apic() {
            return Err(Gp);
        }
        match msr_register(msr) {
            Register::ICR => {
                let high = u64::from(self.load(Register::ICR_HIGH));
                Ok(high << 32 | u64::from(self.load(Register::ICR)))
            }
            register => self.value(register, current_count).map(u64::from).ok_or(Gp),
        }
    }

    /// WRMSR of an x2APIC register (SDM vol. 3, 11.12.1.2). `Err` in another mode too.
    #[inline]
    pub fn write_msr(&self, msr: u32, value: u64) -> Result<Effect, Gp> {
        if !self.is_x2apic() {
            return Err(Gp);
        }
        let register = msr_register(msr);
        if register == Register::ICR {
            return self.write_x2apic_icr(value);
        }
        let value = u32::try_from(value).map_err(|_| Gp)?;
        match register {
            Register::EOI => Ok(self.write_eoi()),
            Register::SELF_IPI => {
                let vector = u8::try_from(value).map_err(|_| Gp)?;
                Ok(Effect::Send(Message::to_itself(vector)))
            }
            Register::ESR if value != 0 => Err(Gp),
            register => self.write_common(register, value).ok_or(Gp),
        }
    }

    #[inline]
    fn write_x2apic_icr(&self, value: u64) -> Result<Effect, Gp> {
        if value & X2APIC_ICR_RESERVED != 0 {
            return Err(Gp);
        }
        let value = value & !u64::from(ICR_BUSY);
        self.store(Register::ICR, value as u32);
        self.store(Register::ICR_HIGH, (value >> 32) as u32);
        Ok(Effect::Send(Message::from_icr(value, true)))
    }

    /// What there is to do after the processor itself has written the register at `offset`
    /// (APIC-write VM exit, SDM vol. 3, 30.4.3.3). Bits that cannot be set are cleared again.
    pub fn after_write(&self, offset: u32) -> Effect {
        let register = Register(offset & !0xf);
        let value = self.load(register);
        if !self.is_x2apic() {
            return self.write(register.0, value);
        }
        let value = match register {
            Register::ICR => u64::from(self.load(Register::ICR_HIGH)) << 32 | u64::from(value),
            _ => u64::from(value),
        };
        self.write_msr(FIRST_MSR.wrapping_add(register.0 >> 4), value)
            .unwrap_or(Effect::None)
    }
}

/// The register of an MSR.
#[inline]
const fn msr_register(msr: u32) -> Register {
    Register(msr.wrapping_sub(FIRST_MSR).wrapping_mul(16))
}
