// SPDX-License-Identifier: GPL-2.0

//! The local vector table (SDM vol. 3, 11.5.1): interrupts that arise at the processor.

use core::ops::Deref;
use core::sync::atomic::Ordering;

use super::{Delivery, Effect, Features, Lapic, Register, Registers, TimerMode, TimerWrite};

/// An entry does not deliver.
pub(super) const MASKED: u32 = 1 << 16;
const VECTOR: u32 = 0xff;
const DELIVERY: u32 = 7 << 8;
const SEND_PENDING: u32 = 1 << 12;
const LOW_ACTIVE: u32 = 1 << 13;
const REMOTE_IRR: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;
const TIMER_PERIODIC: u32 = 1 << 17;
const TIMER_MODE: u32 = 3 << 17;

/// Bits that KVM lets a guest keep in every entry.
const ANY_ENTRY: u32 = MASKED | SEND_PENDING | VECTOR;
const PIN_ENTRY: u32 = ANY_ENTRY | DELIVERY | LOW_ACTIVE | REMOTE_IRR | LEVEL;

/// An entry of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lvt {
    /// The timer.
    Timer,
    /// The thermal sensor.
    Thermal,
    /// The performance counters.
    PerformanceCounters,
    /// Pin LINT0.
    Lint0,
    /// Pin LINT1.
    Lint1,
    /// APIC errors.
    Error,
    /// Corrected machine checks; see [`Features::CMCI`].
    Cmci,
}

impl Lvt {
    /// The entry's register.
    pub const fn register(self) -> Register {
        match self {
            Self::Timer => Register::LVT_TIMER,
            Self::Thermal => Register::LVT_THERMAL,
            Self::PerformanceCounters => Register::LVT_PMC,
            Self::Lint0 => Register::LVT_LINT0,
            Self::Lint1 => Register::LVT_LINT1,
            Self::Error => Register::LVT_ERROR,
            Self::Cmci => Register::LVT_CMCI,
        }
    }

    /// Bits that can be set in it, apart from the timer's mode.
    const fn writable(self) -> u32 {
        match self {
            Self::Timer | Self::Error => ANY_ENTRY,
            Self::Thermal | Self::PerformanceCounters | Self::Cmci => ANY_ENTRY | DELIVERY,
            Self::Lint0 | Self::Lint1 => PIN_ENTRY,
        }
    }
}

/// What an entry delivers to its own processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalInterrupt {
    /// How: as [`super::Message::delivery`].
    pub delivery: Delivery,
    /// Which vector.
    pub vector: u8,
    /// Level-triggered.
    pub level: bool,
}

impl<P: Deref<Target = Registers>> Lapic<P> {
    /// The registers of the entries there are.
    pub(super) fn lvt_registers(&self) -> impl Iterator<Item = Register> {
        let cmci = self.features().contains(Features::CMCI);
        [
            Register::LVT_TIMER,
            Register::LVT_THERMAL,
            Register::LVT_PMC,
            Register::LVT_LINT0,
            Register::LVT_LINT1,
            Register::LVT_ERROR,
        ]
        .into_iter()
        .chain(cmci.then_some(Register::LVT_CMCI))
    }

    /// What entry `lvt` delivers when its source calls, `None` if it is masked or the APIC is
    /// disabled. A fixed interrupt is to be given to [`Self::accept`]. Delivering the performance
    /// counters' masks the entry, as SDM vol. 3, 11.5.1 has it.
    #[inline]
    pub fn local(&self, lvt: Lvt) -> Option<LocalInterrupt> {
        let entry = self.load(lvt.register());
        if entry & MASKED != 0 || !self.is_enabled() {
            return None;
        }
        if lvt == Lvt::PerformanceCounters {
            self.store(Register::LVT_PMC, entry | MASKED);
        }
        Some(LocalInterrupt {
            delivery: Delivery::from_bits(entry),
            vector: entry as u8,
            level: entry & LEVEL != 0,
        })
    }

    /// Whether the 8259A's interrupts reach this processor: LINT0 delivers them, or the APIC is
    /// disabled and its pin is the processor's INTR.
    #[inline]
    pub fn takes_extint(&self) -> bool {
        let entry = self.load(Register::LVT_LINT0);
        !self.is_enabled() || entry & MASKED == 0 && Delivery::from_bits(entry) == Delivery::ExtInt
    }

    /// Whether LINT0 delivers NMIs, as Linux's old NMI watchdog has it.
    pub fn lint0_is_nmi(&self) -> bool {
        let entry = self.load(Register::LVT_LINT0);
        entry & MASKED == 0 && Delivery::from_bits(entry) == Delivery::Nmi
    }

    /// Writes an entry; `None` if there is none such.
    pub(super) fn write_lvt(&self, lvt: Lvt, value: u32) -> Option<Effect> {
        if lvt == Lvt::Cmci && !self.features().contains(Features::CMCI) {
            return None;
        }
        let mut writable = lvt.writable();
        if lvt == Lvt::Timer {
            writable |= self.timer_mode_bits();
        }
        let mut entry = value & writable;
        if !self.is_software_enabled() {
            entry |= MASKED;
        }
        self.store(lvt.register(), entry);
        if lvt == Lvt::Timer {
            if let Some(mode) = self.update_timer_mode() {
                return Some(Effect::Timer(TimerWrite::Mode(mode)));
            }
        }
        Some(Effect::Lvt(lvt))
    }

    /// Masks every entry, as happens when software disables the APIC.
    pub(super) fn mask_lvt(&self) {
        for register in self.lvt_registers() {
            self.store(register, self.load(register) | MASKED);
        }
    }

    /// LVT_TIMER's mode bits that can be set.
    fn timer_mode_bits(&self) -> u32 {
        if self.features().contains(Features::TSC_DEADLINE) {
            TIMER_MODE
        } else {
            TIMER_PERIODIC
        }
    }

    /// The timer's mode, as LVT_TIMER has it.
    pub fn timer_mode(&self) -> TimerMode {
        TimerMode::from_bits(self.timer_mode.load(Ordering::Relaxed))
    }

    /// Follows LVT_TIMER; the new mode if it is another. To or from the TSC deadline the initial
    /// count becomes zero (SDM vol. 3, 11.5.4.1).
    pub(super) fn update_timer_mode(&self) -> Option<TimerMode> {
        let bits = (self.load(Register::LVT_TIMER) & self.timer_mode_bits()) >> 17;
        let old = self.timer_mode();
        let mode = TimerMode::from_bits(bits);
        if mode == old {
            return None;
        }
        self.timer_mode.store(bits, Ordering::Relaxed);
        if (mode == TimerMode::TscDeadline) != (old == TimerMode::TscDeadline) {
            self.store(Register::TMICT, 0);
        }
        Some(mode)
    }
}
