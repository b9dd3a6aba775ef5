// SPDX-License-Identifier: GPL-2.0

//! Debug registers: the guest's own, and what a debugger outside puts over them
//! (api.rst, 4.86 KVM_SET_GUEST_DEBUG).

use arch::{
    dr::{
        Dr6,
        Dr7, //
    },
    exit::DrAccess, //
};
use kernel::prelude::*;

use super::{
    backend::Backend,
    event::Event,
    run::Next,
    vcpu::Loaded,
    QUIRK_FIX_HYPERCALL_INSN, //
};
use crate::host::{
    cpu::IrqsOff,
    debug_regs,
    shared::UserExit, //
};

/// KVM_GUESTDBG_ENABLE.
pub(crate) const ENABLE: u32 = 1 << 0;
/// KVM_GUESTDBG_SINGLESTEP.
pub(crate) const SINGLESTEP: u32 = 1 << 1;
/// KVM_GUESTDBG_USE_SW_BP.
pub(crate) const USE_SW_BP: u32 = 1 << 16;
/// KVM_GUESTDBG_USE_HW_BP.
pub(crate) const USE_HW_BP: u32 = 1 << 17;
/// KVM_GUESTDBG_INJECT_DB.
pub(crate) const INJECT_DB: u32 = 1 << 18;
/// KVM_GUESTDBG_INJECT_BP.
pub(crate) const INJECT_BP: u32 = 1 << 19;

/// KVM_GUESTDBG_BLOCKIRQ.
const BLOCKIRQ: u32 = 1 << 20;

const RFLAGS_TF: u64 = 1 << 8;
const VECTOR_DB: u8 = 1;
const VECTOR_BP: u8 = 3;
const VECTOR_UD: u8 = 6;
const VECTOR_AC: u8 = 17;
const VECTOR_MC: u8 = 18;

/// The debug registers of a vCPU.
pub(crate) struct DebugRegs {
    /// DR0 to DR3 of the guest.
    pub(crate) db: [u64; 4],
    /// DR6 of the guest.
    pub(crate) dr6: u64,
    /// DR7 of the guest.
    pub(crate) dr7: u64,
    /// KVM_GUESTDBG_* in force.
    pub(crate) control: u32,
    /// DR0 to DR3 of the debugger, and its DR7.
    debugger: ([u64; 4], u64),
}

impl DebugRegs {
    /// As after reset, and no debugger.
    pub(crate) const fn new() -> Self {
        Self {
            db: [0; 4],
            dr6: Dr6::RESET,
            dr7: Dr7::RESET,
            control: 0,
            debugger: ([0; 4], 0),
        }
    }

    /// The guest's part as after reset; a debugger's stays.
    pub(crate) fn reset(&mut self) {
        self.db = [0; 4];
        self.dr6 = Dr6::RESET;
        self.dr7 = Dr7::RESET;
    }

    /// What a debug exception adds to DR6: bits of its payload are set, and those that are stored
    /// inverted are cleared.
    pub(crate) fn add_to_dr6(&mut self, payload: u64) {
        const INVERTED: u64 = Dr6::RTM.bits() | Dr6::BUS_LOCK.bits();
        const BREAKPOINTS: u64 = 0xf;
        self.dr6 &= !BREAKPOINTS;
        self.dr6 |= Dr6::RTM.bits();
        self.dr6 |= payload & !INVERTED;
        self.dr6 ^= payload & Dr6::RTM.bits();
    }

    /// DR0 to DR3 and DR7 as the processor is to have them.
    pub(crate) fn effective(&self) -> ([u64; 4], u64) {
        if self.control & USE_HW_BP != 0 {
            self.debugger
        } else {
            (self.db, self.dr7)
        }
    }

    /// Whether a debugger has interrupts and NMIs wait.
    #[inline]
    pub(crate) fn blocks_interrupts(&self) -> bool {
        self.control & BLOCKIRQ != 0
    }

    /// Whether somebody outside steps the guest.
    #[inline]
    pub(crate) fn is_stepping(&self) -> bool {
        self.control & SINGLESTEP != 0
    }
}

impl<B: Backend> Loaded<'_, B> {
    /// Sets what a debugger wants.
    ///
    /// # Errors
    ///
    /// EBUSY where an exception waits that an injected one would lose.
    pub(crate) fn set_guest_debug(&mut self, control: u32, db: [u64; 4], dr7: u64) -> Result {
        if control & (INJECT_DB | INJECT_BP) != 0 {
            let events = &self.state.events;
            let under_way = matches!(
                events.injected,
                Some(Event::Exception { .. } | Event::SoftwareException { .. })
            );
            if events.exception.is_some() || under_way {
                return Err(EBUSY);
            }
            if control & INJECT_DB != 0 {
                self.state.events.queue_exception(VECTOR_DB, None, None);
            } else {
                self.state.events.queue_exception(VECTOR_BP, None, None);
            }
        }

        let rflags = self.visible_rflags();
        let dr = &mut self.state.dr;
        dr.control = if control & ENABLE != 0 { control } else { 0 };
        dr.debugger = (db, dr7);
        self.set_visible_rflags(rflags);
        self.update_dr7();
        self.update_exception_exits();
        Ok(())
    }

    /// The trap after an instruction that the VMM had a part in: for whoever steps the guest, or the
    /// guest's own.
    pub(crate) fn trap_single_step(&mut self) -> Next {
        if self.state.dr.is_stepping() {
            return self.leave(&UserExit::Debug {
                exception: VECTOR_DB.into(),
                pc: self.linear_rip().0,
                dr6: Dr6::BS.bits() | Dr6::RESET,
                dr7: B::dr7(self),
            });
        }
        let events = &mut self.state.events;
        events.queue_exception(VECTOR_DB, None, Some(Dr6::BS.bits()));
        Next::Guest
    }

    /// RFLAGS without the trap flag of whoever steps the guest.
    pub(crate) fn visible_rflags(&self) -> u64 {
        let rflags = B::rflags(self);
        if self.state.dr.is_stepping() {
            rflags & !RFLAGS_TF
        } else {
            rflags
        }
    }

    /// Sets RFLAGS; whoever steps the guest keeps the trap flag.
    pub(crate) fn set_visible_rflags(&mut self, value: u64) {
        let stepping = if self.state.dr.is_stepping() {
            RFLAGS_TF
        } else {
            0
        };
        B::set_rflags(self, value | stepping);
    }

    /// Delivery of #DB lets its handler use the debug registers (SDM vol. 3, 18.2.4).
    pub(crate) fn clear_general_detect(&mut self) {
        if self.state.dr.dr7 & Dr7::GD.bits() != 0 {
            self.state.dr.dr7 &= !Dr7::GD.bits();
            self.update_dr7();
        }
    }

    /// Puts the DR7 in force where entries take it from.
    pub(crate) fn update_dr7(&mut self) {
        let (_, dr7) = self.state.dr.effective();
        B::set_dr7(self, dr7 | Dr7::RESET);
    }

    fn update_exception_exits(&mut self) {
        // #DB and #AC always exit: a guest that makes their delivery raise them again would keep
        // the processor for good. #MC is the host's.
        let mut bitmap = 1 << VECTOR_DB | 1 << VECTOR_AC | 1 << VECTOR_MC;
        if self.state.dr.control & USE_SW_BP != 0 {
            bitmap |= 1 << VECTOR_BP;
        }
        if self.vm.has_quirk(QUIRK_FIX_HYPERCALL_INSN) {
            bitmap |= 1 << VECTOR_UD;
        }
        B::set_exception_exits(self, bitmap);
    }

    /// Loads DR0 to DR3 if the guest, or its debugger, has breakpoints on.
    #[inline]
    pub(crate) fn load_debug_regs(&self, irqs_off: &IrqsOff<'_>) {
        if (self.state.dr.dr7 | self.state.dr.debugger.1) & Dr7::ENABLED == 0 {
            return;
        }
        let (db, dr7) = self.state.dr.effective();
        if dr7 & Dr7::ENABLED != 0 {
            debug_regs::load(&db, irqs_off);
        }
    }

    /// An exception that exits: #DB, #BP, #UD or #AC.
    pub(crate) fn handle_exception(
        &mut self,
        vector: u8,
        error_code: u32,
        qualification: u64,
    ) -> Result<Next> {
        match vector {
            VECTOR_DB if self.state.dr.control & (SINGLESTEP | USE_HW_BP) != 0 => {
                Ok(self.leave(&UserExit::Debug {
                    exception: VECTOR_DB.into(),
                    pc: self.linear_rip().0,
                    dr6: qualification | Dr6::RESET,
                    dr7: B::dr7(self),
                }))
            }
            VECTOR_DB => {
                self.state
                    .events
                    .queue_exception(VECTOR_DB, None, Some(qualification));
                Ok(Next::Guest)
            }
            VECTOR_BP => Ok(self.leave(&UserExit::Debug {
                exception: VECTOR_BP.into(),
                pc: self.linear_rip().0,
                dr6: 0,
                dr7: 0,
            })),
            VECTOR_UD => {
                if !self.vm.has_quirk(QUIRK_FIX_HYPERCALL_INSN) || !self.fix_hypercall() {
                    self.queue_ud();
                }
                Ok(Next::Guest)
            }
            VECTOR_AC => {
                self.state
                    .events
                    .queue_exception(VECTOR_AC, Some(error_code), None);
                Ok(Next::Guest)
            }
            _ => Ok(Next::Guest),
        }
    }

    /// MOV to or from a debug register (SDM vol. 3, 18.2).
    pub(crate) fn handle_dr_access(&mut self, access: DrAccess) -> Result<Next> {
        const CR4_DE: u64 = 1 << 3;
        let dr = match access.dr {
            4 | 5 if B::cr4(self) & CR4_DE != 0 => {
                self.queue_ud();
                return Ok(Next::Guest);
            }
            4 => 6,
            5 => 7,
            other => other,
        };
        if B::cpl(self) != 0 {
            self.queue_gp();
            return Ok(Next::Guest);
        }

        let dr7 = B::dr7(self);
        if dr7 & Dr7::GD.bits() != 0 {
            if self.state.dr.control & USE_HW_BP != 0 {
                return Ok(self.leave(&UserExit::Debug {
                    exception: VECTOR_DB.into(),
                    pc: self.linear_rip().0,
                    dr6: Dr6::BD.bits() | Dr6::RESET,
                    dr7,
                }));
            }
            self.state
                .events
                .queue_exception(VECTOR_DB, None, Some(Dr6::BD.bits()));
            return Ok(Next::Guest);
        }

        if access.is_read {
            let value = match dr {
                0..=3 => self.state.dr.db[dr as usize],
                6 => self.state.dr.dr6,
                _ => self.state.dr.dr7,
            };
            self.set_reg(access.gpr.into(), value);
        } else {
            let mut value = self.reg(access.gpr.into());
            if !self.is_64_bit_mode() {
                value = u64::from(value as u32);
            }
            let written = match dr {
                0..=3 => {
                    self.state.dr.db[dr as usize] = value;
                    Some(())
                }
                6 => Dr6::write(value, false, false).map(|new| self.state.dr.dr6 = new),
                _ => Dr7::write(value).map(|new| {
                    self.state.dr.dr7 = new;
                    self.update_dr7();
                }),
            };
            if written.is_none() {
                self.queue_gp();
                return Ok(Next::Guest);
            }
        }
        B::skip_instruction(self);
        Ok(Next::Guest)
    }

    /// After reset.
    pub(crate) fn reset_debug(&mut self) {
        self.update_dr7();
        self.update_exception_exits();
    }
}
