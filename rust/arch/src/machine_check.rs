// SPDX-License-Identifier: GPL-2.0

//! Machine checks (SDM vol. 3, chapter 16): the registers in which a processor reports errors of the
//! hardware, and what an error that a VMM reports does to a virtual processor.

/// Most banks of registers that a processor can have here.
pub const MAX_BANKS: usize = 32;

/// IA32_MCG_CAP: there is IA32_MCG_CTL.
pub const MCG_CTL_P: u64 = 1 << 8;
/// IA32_MCG_CAP: corrected errors can be interrupts, by IA32_MCi_CTL2.
pub const MCG_CMCI_P: u64 = 1 << 10;
/// IA32_MCG_CAP: software can recover from some uncorrected errors.
pub const MCG_SER_P: u64 = 1 << 24;
/// IA32_MCG_CAP: an error can be reported to one processor alone.
pub const MCG_LMCE_P: u64 = 1 << 27;
/// What a virtual processor can be given in IA32_MCG_CAP beside the number of its banks.
pub const SUPPORTED: u64 = MCG_CTL_P | MCG_CMCI_P | MCG_SER_P | MCG_LMCE_P;
/// Number of banks, and of extended state registers, which there are none of.
const MCG_COUNTS: u64 = 0xff_00ff;

/// IA32_MCG_STATUS: a machine check is being handled.
const MCG_STATUS_MCIP: u64 = 1 << 2;
const MCG_EXT_CTL_LMCE_EN: u64 = 1 << 0;

/// IA32_MCi_STATUS: the bank holds an error.
pub const MCI_STATUS_VAL: u64 = 1 << 63;
/// IA32_MCi_STATUS: and has lost another.
pub const MCI_STATUS_OVER: u64 = 1 << 62;
/// IA32_MCi_STATUS: the error was not corrected.
pub const MCI_STATUS_UC: u64 = 1 << 61;
const MCI_STATUS_PCC: u64 = 1 << 57;
const MCI_STATUS_S: u64 = 1 << 56;
const MCI_STATUS_AR: u64 = 1 << 55;
const MCI_CTL2_CMCI_EN: u64 = 1 << 30;
const MCI_CTL2_THRESHOLD: u64 = 0x7fff;

const P5_MC_ADDR: u32 = 0;
const P5_MC_TYPE: u32 = 1;
const IA32_MCG_CAP: u32 = 0x179;
/// IA32_MCG_STATUS.
pub const IA32_MCG_STATUS: u32 = 0x17a;
/// IA32_MCG_CTL.
pub const IA32_MCG_CTL: u32 = 0x17b;
const IA32_MC0_CTL2: u32 = 0x280;
const LAST_CTL2: u32 = IA32_MC0_CTL2 + MAX_BANKS as u32 - 1;
const IA32_MC0_CTL: u32 = 0x400;
const LAST_BANK: u32 = IA32_MC0_CTL + 4 * MAX_BANKS as u32 - 1;
/// IA32_MCG_EXT_CTL.
pub const IA32_MCG_EXT_CTL: u32 = 0x4d0;

/// IA32_MCi_CTL, _STATUS, _ADDR and _MISC, in the order of their numbers.
const CTL: usize = 0;
const STATUS: usize = 1;
const ADDR: usize = 2;
const MISC: usize = 3;

#[derive(Clone, Copy, Default)]
struct Bank {
    registers: [u64; 4],
    ctl2: u64,
}

/// The machine-check registers of a virtual processor.
pub struct MachineChecks {
    cap: u64,
    status: u64,
    ctl: u64,
    ext_ctl: u64,
    banks: [Bank; MAX_BANKS],
}

/// An error, as `struct kvm_x86_mce` describes it.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// For IA32_MCi_STATUS.
    pub status: u64,
    /// For IA32_MCi_ADDR.
    pub addr: u64,
    /// For IA32_MCi_MISC.
    pub misc: u64,
    /// For IA32_MCG_STATUS.
    pub mcg_status: u64,
    /// The bank.
    pub bank: u8,
}

/// What an error does beside what the registers say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing.
    Recorded,
    /// The interrupt of corrected errors.
    Interrupt,
    /// #MC.
    Exception,
    /// The processor shuts down: it cannot take an #MC.
    Shutdown,
}

/// What was asked for does not exist or breaks a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

/// What an index names.
enum Register {
    /// Always 0: the Pentium's.
    Zero,
    Cap,
    Status,
    Ctl,
    ExtCtl,
    Bank(usize, usize),
    Ctl2(usize),
}

impl MachineChecks {
    /// All banks, and nothing that IA32_MCG_CAP could offer.
    pub const fn new() -> Self {
        Self {
            cap: MAX_BANKS as u64,
            status: 0,
            ctl: 0,
            ext_ctl: 0,
            banks: [Bank {
                registers: [0; 4],
                ctl2: 0,
            }; MAX_BANKS],
        }
    }

    /// IA32_MCG_CAP.
    pub const fn cap(&self) -> u64 {
        self.cap
    }

    /// IA32_MCG_STATUS.
    pub const fn status(&self) -> u64 {
        self.status
    }

    /// Sets IA32_MCG_CAP (KVM_X86_SETUP_MCE), and enables the reporting of every error.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for no banks or too many, and for what is not [`SUPPORTED`].
    pub fn set_up(&mut self, cap: u64) -> Result<(), Invalid> {
        let count = (cap & 0xff) as usize;
        if count == 0 || count > MAX_BANKS || cap & !(SUPPORTED | MCG_COUNTS) != 0 {
            return Err(Invalid);
        }
        self.cap = cap;
        if cap & MCG_CTL_P != 0 {
            self.ctl = !0;
        }
        for bank in self.banks.iter_mut().take(count) {
            bank.registers[CTL] = !0;
            if cap & MCG_CMCI_P != 0 {
                bank.ctl2 = 0;
            }
        }
        Ok(())
    }

    /// Whether `index` is an MSR of machine checks, be it one that this processor lacks.
    #[inline]
    pub const fn is_msr(index: u32) -> bool {
        matches!(
            index,
            P5_MC_ADDR
                | P5_MC_TYPE
                | IA32_MCG_CAP
                | IA32_MCG_STATUS
                | IA32_MCG_CTL
                | IA32_MC0_CTL2..=LAST_CTL2
                | IA32_MC0_CTL..=LAST_BANK
                | IA32_MCG_EXT_CTL
        )
    }

    fn register(&self, index: u32) -> Option<Register> {
        let count = (self.cap & 0xff) as usize;
        let register = match index {
            P5_MC_ADDR | P5_MC_TYPE => Register::Zero,
            IA32_MCG_CAP => Register::Cap,
            IA32_MCG_STATUS => Register::Status,
            IA32_MCG_CTL => Register::Ctl,
            IA32_MCG_EXT_CTL => Register::ExtCtl,
            IA32_MC0_CTL2..=LAST_CTL2 => Register::Ctl2((index - IA32_MC0_CTL2) as usize),
            IA32_MC0_CTL..=LAST_BANK => {
                let offset = (index - IA32_MC0_CTL) as usize;
                Register::Bank(offset / 4, offset % 4)
            }
            _ => return None,
        };
        match register {
            Register::Bank(bank, _) | Register::Ctl2(bank) if bank >= count => None,
            register => Some(register),
        }
    }

    /// The value of an MSR; `host` if it is the VMM that asks, which sees registers that
    /// IA32_MCG_CAP hides. `lmce` says whether IA32_FEATURE_CONTROL has local machine checks enabled.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where there is no such MSR: #GP for a guest.
    pub fn read(&self, index: u32, host: bool, lmce: bool) -> Result<u64, Invalid> {
        Ok(match self.register(index).ok_or(Invalid)? {
            Register::Zero => 0,
            Register::Cap => self.cap,
            Register::Status => self.status,
            Register::Ctl if host || self.cap & MCG_CTL_P != 0 => self.ctl,
            Register::ExtCtl if host || lmce => self.ext_ctl,
            Register::Bank(bank, register) => {
                self.banks.get(bank).ok_or(Invalid)?.registers[register & 3]
            }
            Register::Ctl2(bank) if host || self.cap & MCG_CMCI_P != 0 => {
                self.banks.get(bank).ok_or(Invalid)?.ctl2
            }
            Register::Ctl | Register::ExtCtl | Register::Ctl2(_) => return Err(Invalid),
        })
    }

    /// Sets an MSR; arguments as for [`Self::read`].
    ///
    /// # Errors
    ///
    /// [`Invalid`] where there is no such MSR or the value breaks its rules: #GP for a guest.
    pub fn write(&mut self, index: u32, value: u64, host: bool, lmce: bool) -> Result<(), Invalid> {
        // A VMM may clear what the processor does not have.
        let may_write = |present: bool| present || host && value == 0;
        let register = self.register(index).ok_or(Invalid)?;
        match register {
            Register::Status => self.status = value,
            Register::Ctl if may_write(self.cap & MCG_CTL_P != 0) && is_all_or_nothing(value) => {
                self.ctl = value;
            }
            Register::ExtCtl if (host || lmce) && value & !MCG_EXT_CTL_LMCE_EN == 0 => {
                self.ext_ctl = value;
            }
            Register::Ctl2(bank)
                if may_write(self.cap & MCG_CMCI_P != 0)
                    && value & !(MCI_CTL2_CMCI_EN | MCI_CTL2_THRESHOLD) == 0 =>
            {
                self.banks.get_mut(bank).ok_or(Invalid)?.ctl2 = value;
            }
            Register::Bank(bank, register) => {
                let valid = match register {
                    // Guests clear bit 0, or bit 10, where real processors have errata.
                    CTL => value == 0 || value | 1 << 10 | 1 == !0,
                    STATUS => host || value == 0,
                    _ => true,
                };
                if !valid {
                    return Err(Invalid);
                }
                self.banks.get_mut(bank).ok_or(Invalid)?.registers[register & 3] = value;
            }
            Register::Zero
            | Register::Cap
            | Register::Ctl
            | Register::ExtCtl
            | Register::Ctl2(_) => return Err(Invalid),
        }
        Ok(())
    }

    /// Reports an error (KVM_X86_SET_MCE); `enabled` is CR4.MCE.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where there is no such bank, or the report is none.
    pub fn report(&mut self, report: &Report, enabled: bool) -> Result<Outcome, Invalid> {
        let count = (self.cap & 0xff) as usize;
        let index = usize::from(report.bank);
        if index >= count || report.status & MCI_STATUS_VAL == 0 {
            return Err(Invalid);
        }
        let bank = self.banks.get_mut(index).ok_or(Invalid)?;
        let uncorrected = report.status & MCI_STATUS_UC != 0;
        let needs_action = report.status & (MCI_STATUS_PCC | MCI_STATUS_S | MCI_STATUS_AR) != 0;
        if uncorrected && !needs_action && report.mcg_status == 0 {
            // UCNA: told like a corrected error, since nothing depends on the data yet.
            bank.record(report, report.status);
            self.status = 0;
            let interrupts = self.cap & MCG_CMCI_P != 0 && bank.ctl2 & MCI_CTL2_CMCI_EN != 0;
            return Ok(if interrupts {
                Outcome::Interrupt
            } else {
                Outcome::Recorded
            });
        }
        let held = bank.registers[STATUS];
        let overflow = if held & MCI_STATUS_VAL != 0 {
            MCI_STATUS_OVER
        } else {
            0
        };
        if !uncorrected {
            if held & MCI_STATUS_VAL != 0 && held & MCI_STATUS_UC != 0 {
                bank.registers[STATUS] |= MCI_STATUS_OVER;
            } else {
                bank.record(report, report.status | overflow);
            }
            return Ok(Outcome::Recorded);
        }
        let disabled = self.cap & MCG_CTL_P != 0 && self.ctl != !0 || bank.registers[CTL] != !0;
        if disabled {
            return Ok(Outcome::Recorded);
        }
        if self.status & MCG_STATUS_MCIP != 0 || !enabled {
            return Ok(Outcome::Shutdown);
        }
        bank.record(report, report.status | overflow);
        self.status = report.mcg_status;
        Ok(Outcome::Exception)
    }
}

impl Default for MachineChecks {
    fn default() -> Self {
        Self::new()
    }
}

impl Bank {
    fn record(&mut self, report: &Report, status: u64) {
        self.registers[STATUS] = status;
        self.registers[ADDR] = report.addr;
        self.registers[MISC] = report.misc;
    }
}

const fn is_all_or_nothing(value: u64) -> bool {
    value == 0 || value == !0
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: u64 = 10 | MCG_CTL_P | MCG_CMCI_P | MCG_SER_P;
    const STATUS_1: u32 = IA32_MC0_CTL + 4 + 1;

    fn checks() -> MachineChecks {
        let mut checks = MachineChecks::new();
        checks.set_up(CAP).unwrap();
        checks
    }

    fn report(status: u64) -> Report {
        Report {
            status: status | MCI_STATUS_VAL,
            addr: 0x1000,
            misc: 0x86,
            mcg_status: MCG_STATUS_MCIP,
            bank: 1,
        }
    }

    #[test]
    fn a_processor_has_1_to_32_banks_and_what_is_supported() {
        let mut checks = MachineChecks::new();
        for cap in [0, 33, 0xff, 10 | 1 << 9, 10 | 1 << 32] {
            assert_eq!(checks.set_up(cap), Err(Invalid), "{cap:#x}");
        }
        for cap in [1, 32, 10 | SUPPORTED, 10 | 0x12_0000] {
            assert_eq!(checks.set_up(cap), Ok(()), "{cap:#x}");
            assert_eq!(checks.cap(), cap);
        }
    }

    #[test]
    fn registers_are_those_of_the_banks_there_are() {
        let checks = checks();
        assert_eq!(checks.read(IA32_MC0_CTL + 4 * 9, false, false), Ok(!0));
        assert_eq!(
            checks.read(IA32_MC0_CTL + 4 * 10, true, false),
            Err(Invalid)
        );
        assert_eq!(checks.read(IA32_MC0_CTL2 + 9, false, false), Ok(0));
        assert_eq!(checks.read(IA32_MC0_CTL2 + 10, true, false), Err(Invalid));
        assert_eq!(checks.read(IA32_MCG_EXT_CTL, false, false), Err(Invalid));
        assert_eq!(checks.read(IA32_MCG_EXT_CTL, false, true), Ok(0));
        let bare = MachineChecks::new();
        assert_eq!(bare.read(IA32_MCG_CTL, false, false), Err(Invalid));
        assert_eq!(bare.read(IA32_MCG_CTL, true, false), Ok(0));
    }

    #[test]
    fn a_guest_only_clears_a_status() {
        let mut checks = checks();
        assert_eq!(checks.write(STATUS_1, 1, false, false), Err(Invalid));
        assert_eq!(checks.write(STATUS_1, 1, true, false), Ok(()));
        assert_eq!(checks.write(STATUS_1, 0, false, false), Ok(()));
        assert_eq!(checks.write(IA32_MCG_CTL, 5, true, false), Err(Invalid));
        assert_eq!(checks.write(IA32_MC0_CTL, 5, true, false), Err(Invalid));
        assert_eq!(checks.write(IA32_MC0_CTL, !1, false, false), Ok(()));
        assert_eq!(
            checks.write(IA32_MC0_CTL2, 1 << 15, true, false),
            Err(Invalid)
        );
    }

    #[test]
    fn an_uncorrected_error_is_an_exception_once_and_then_a_shutdown() {
        let mut checks = checks();
        let error = report(MCI_STATUS_UC | MCI_STATUS_S);
        assert_eq!(checks.report(&error, false), Ok(Outcome::Shutdown));
        assert_eq!(checks.report(&error, true), Ok(Outcome::Exception));
        assert_eq!(checks.status(), MCG_STATUS_MCIP);
        assert_eq!(checks.report(&error, true), Ok(Outcome::Shutdown));
        checks.write(IA32_MCG_STATUS, 0, false, false).unwrap();
        assert_eq!(checks.report(&error, true), Ok(Outcome::Exception));
        let status = checks.read(STATUS_1, false, false).unwrap();
        assert_eq!(status, error.status | MCI_STATUS_OVER);
    }

    #[test]
    fn a_disabled_bank_or_processor_reports_no_uncorrected_error() {
        let mut checks = checks();
        let error = report(MCI_STATUS_UC | MCI_STATUS_S);
        checks.write(IA32_MC0_CTL + 4, 0, false, false).unwrap();
        assert_eq!(checks.report(&error, true), Ok(Outcome::Recorded));
        assert_eq!(checks.read(STATUS_1, false, false), Ok(0));
        checks.write(IA32_MC0_CTL + 4, !0, false, false).unwrap();
        checks.write(IA32_MCG_CTL, 0, false, false).unwrap();
        assert_eq!(checks.report(&error, true), Ok(Outcome::Recorded));
        assert_eq!(checks.read(STATUS_1, false, false), Ok(0));
    }

    #[test]
    fn a_corrected_error_does_not_overwrite_an_uncorrected_one() {
        let mut checks = checks();
        checks
            .report(&report(MCI_STATUS_UC | MCI_STATUS_S), true)
            .unwrap();
        let corrected = Report {
            addr: 0x2000,
            ..report(0)
        };
        assert_eq!(checks.report(&corrected, true), Ok(Outcome::Recorded));
        assert_eq!(checks.read(STATUS_1 + 1, false, false), Ok(0x1000));
        let status = checks.read(STATUS_1, false, false).unwrap();
        assert_ne!(status & MCI_STATUS_OVER, 0);
    }

    #[test]
    fn an_error_without_action_interrupts_where_its_bank_asks() {
        let mut checks = checks();
        let error = Report {
            mcg_status: 0,
            ..report(MCI_STATUS_UC)
        };
        assert_eq!(checks.report(&error, true), Ok(Outcome::Recorded));
        checks
            .write(IA32_MC0_CTL2 + 1, MCI_CTL2_CMCI_EN | 1, false, false)
            .unwrap();
        assert_eq!(checks.report(&error, true), Ok(Outcome::Interrupt));
        assert_eq!(checks.read(STATUS_1, false, false), Ok(error.status));
    }

    #[test]
    fn a_report_needs_a_bank_and_an_error() {
        let mut checks = checks();
        let error = report(0);
        let no_bank = Report { bank: 10, ..error };
        assert_eq!(checks.report(&no_bank, true), Err(Invalid));
        let no_error = Report { status: 0, ..error };
        assert_eq!(checks.report(&no_error, true), Err(Invalid));
    }
}
