// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_lapic_state`, KVM_GET_LAPIC and KVM_SET_LAPIC: the first KiB of the register page.

use core::ops::Deref;

use super::{Invalid, Lapic, Register, Registers, TimerMode};

/// Bytes of `struct kvm_lapic_state`.
const SIZE: usize = 0x400;

/// What the timer is to be restored from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerState {
    /// LVT_TIMER's mode.
    pub mode: TimerMode,
    /// TMICT.
    pub initial_count: u32,
    /// TMCCT.
    pub current_count: u32,
    /// TDCR.
    pub divide: u32,
}

impl<P: Deref<Target = Registers>> Lapic<P> {
    /// The state, with `current_count` as the timer's. In x2APIC mode the id register shows the id
    /// as an x2APIC does if `wide` (KVM_X2APIC_API_USE_32BIT_IDS), else in bits 31 to 24; the upper
    /// half of the ICR is in ICR2 in either mode.
    pub fn save(&self, out: &mut [u8; SIZE], wide: bool, current_count: u32) {
        self.update_ppr();
        let x2apic = self.is_x2apic();
        for (offset, bytes) in (0u32..).step_by(4).zip(out.chunks_exact_mut(4)) {
            let value = match Register(offset) {
                Register::TMCCT => current_count,
                Register::ID if x2apic && !wide => self.id << 24,
                Register::ICR2 if x2apic => self.load(Register::ICR_HIGH),
                register => self.load(register),
            };
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// Replaces the state. The caller then restores the timer ([`super::Timer::restore`]), and must
    /// take the APIC for one whose destination and LVT entries changed.
    ///
    /// `Err` if `wide` and, in x2APIC mode, the id is not this APIC's; SVR is the state's even so.
    pub fn restore(&self, state: &[u8; SIZE], wide: bool) -> Result<TimerState, Invalid> {
        let x2apic = self.is_x2apic();
        let value_at = |register: Register| {
            let bytes = state.get(register.0 as usize..).unwrap_or_default();
            bytes
                .first_chunk()
                .map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        self.set_svr(value_at(Register::SVR));
        if x2apic && wide && value_at(Register::ID) != self.id {
            return Err(Invalid);
        }
        for register in (0..SIZE as u32).step_by(4).map(Register) {
            let value = match register {
                Register::TMCCT => 0,
                Register::ID if x2apic => self.id,
                Register::LDR if x2apic => self.x2apic_ldr(),
                Register::ICR_HIGH if x2apic => value_at(Register::ICR2),
                register => value_at(register),
            };
            self.store(register, value);
        }
        self.update_version();
        // The initial count is the state's, whatever mode the timer was in.
        let initial_count = self.load(Register::TMICT);
        self.update_timer_mode();
        self.store(Register::TMICT, initial_count);
        self.summarise_unless_hardware();
        self.update_ppr();
        Ok(TimerState {
            mode: self.timer_mode(),
            initial_count,
            current_count: value_at(Register::TMCCT),
            divide: self.load(Register::TDCR),
        })
    }
}
