// SPDX-License-Identifier: GPL-2.0

//! Hypercalls: para-virtualisation by VMCALL (`Documentation/virt/kvm/x86/hypercalls.rst`).

use arch::addr::PAGE_SIZE;

use super::{
    backend::Backend,
    io::Pending,
    pv::Feature,
    run::Next,
    vcpu::{
        Loaded,
        RAX,
        RBX,
        RCX,
        RDX,
        RSI, //
    },
};
use crate::{
    host::{
        shared::UserExit,
        trace::kvm_hypercall, //
    },
    stats::vcpu as stat, //
};

/// Does nothing but exit, so that pending interrupts are seen.
const KVM_HC_VAPIC_POLL_IRQ: u64 = 1;
/// Ends the HLT of a vCPU.
const KVM_HC_KICK_CPU: u64 = 5;
/// The counter and the host's time of day at one moment.
const KVM_HC_CLOCK_PAIRING: u64 = 9;
/// An interrupt for up to 128 vCPUs.
const KVM_HC_SEND_IPI: u64 = 10;
/// Another vCPU may have this one's turn.
const KVM_HC_SCHED_YIELD: u64 = 11;

/// Memory changes between private and shared, which is a matter of the VMM's.
const KVM_HC_MAP_GPA_RANGE: u64 = 12;

/// Results that say what went wrong, negated (`include/uapi/linux/kvm_para.h`).
pub(super) mod error {
    /// KVM_EPERM: hypercalls are for ring 0.
    pub(crate) const EPERM: u64 = -1i64 as u64;
    /// KVM_EFAULT.
    pub(crate) const EFAULT: u64 = -14i64 as u64;
    /// KVM_EINVAL.
    pub(crate) const EINVAL: u64 = -22i64 as u64;
    /// KVM_EOPNOTSUPP.
    pub(crate) const EOPNOTSUPP: u64 = -95i64 as u64;
    /// KVM_ENOSYS: no such hypercall.
    pub(crate) const ENOSYS: u64 = -1000i64 as u64;
}

/// What a hypercall needs of whoever serves it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Needs {
    /// Nothing.
    Nothing,
    /// To take spinlocks and wake threads.
    Locks,
    /// To sleep.
    Sleep,
}

impl<B: Backend> Loaded<'_, B> {
    /// VMCALL that needs nothing but the vCPU. Returns whether it was one.
    pub(crate) fn hypercall_fast(&mut self) -> bool {
        self.hypercall_within(Needs::Nothing)
    }

    /// VMCALL where spinlocks may be taken, but not slept. Returns whether it was served.
    pub(crate) fn hypercall_locked(&mut self) -> bool {
        self.hypercall_within(Needs::Locks)
    }

    /// VMCALL.
    pub(crate) fn emulate_hypercall(&mut self) -> Next {
        if self.argument(RAX) == KVM_HC_MAP_GPA_RANGE && self.serves_map_gpa_range() {
            return self.leave_for_map_gpa_range();
        }
        self.hypercall_within(Needs::Sleep);
        Next::Guest
    }

    /// Whether KVM_HC_MAP_GPA_RANGE is for the VMM, and its arguments make sense.
    fn serves_map_gpa_range(&self) -> bool {
        B::cpl(self) == 0
            && self
                .vm
                .options
                .exits_for_hypercall(KVM_HC_MAP_GPA_RANGE as u32)
            && self.is_gpa_range()
    }

    /// Whether the first two arguments are an address of a page, and a number of pages that does
    /// not wrap.
    fn is_gpa_range(&self) -> bool {
        let [gpa, pages] = [RBX, RCX].map(|register| self.argument(register));
        let first = gpa / PAGE_SIZE;
        gpa % PAGE_SIZE == 0 && first.wrapping_add(pages) > first
    }

    fn leave_for_map_gpa_range(&mut self) -> Next {
        self.state.pending = Pending::Hypercall;
        self.leave(&UserExit::Hypercall {
            number: KVM_HC_MAP_GPA_RANGE,
            args: [RBX, RCX, RDX].map(|register| self.argument(register)),
            is_long: self.is_64_bit_mode(),
        })
    }

    /// The VMM has done what the hypercall asked for.
    pub(crate) fn complete_hypercall(&mut self) -> Next {
        self.finish_hypercall(self.vcpu.run.hypercall_result());
        Next::Guest
    }

    fn finish_hypercall(&mut self, result: u64) {
        self.state.regs[RAX] = if self.is_64_bit_mode() {
            result
        } else {
            result & 0xffff_ffff
        };
        B::skip_instruction(self);
    }

    fn hypercall_within(&mut self, limit: Needs) -> bool {
        let number = self.argument(RAX);
        let is_privileged = B::cpl(self) == 0;
        let needs = match self.hypercall_needs(number) {
            Some(needs) if is_privileged => needs,
            _ => Needs::Nothing,
        };
        if needs > limit {
            return false;
        }
        self.count(stat::HYPERCALLS);
        if limit == Needs::Sleep && kvm_hypercall::is_on() {
            let [a0, a1, a2, a3] = [RBX, RCX, RDX, RSI].map(|register| self.argument(register));
            kvm_hypercall::emit(number, a0, a1, a2, a3);
        }
        let result = if is_privileged {
            self.hypercall(number)
        } else {
            error::EPERM
        };
        self.finish_hypercall(result);
        true
    }

    /// What a hypercall needs; `None` where there is no such hypercall.
    fn hypercall_needs(&self, number: u64) -> Option<Needs> {
        let (needs, feature) = match number {
            KVM_HC_VAPIC_POLL_IRQ => return Some(Needs::Nothing),
            KVM_HC_CLOCK_PAIRING => return Some(Needs::Sleep),
            KVM_HC_MAP_GPA_RANGE => {
                let is_on = self.vm.options.exits_for_hypercall(number as u32);
                return is_on.then_some(Needs::Sleep);
            }
            // The kicked one may get this one's turn, too.
            KVM_HC_KICK_CPU => (Needs::Sleep, Feature::PvUnhalt),
            KVM_HC_SCHED_YIELD => (Needs::Sleep, Feature::PvSchedYield),
            KVM_HC_SEND_IPI if self.is_for_few() => (Needs::Locks, Feature::PvSendIpi),
            KVM_HC_SEND_IPI => (Needs::Sleep, Feature::PvSendIpi),
            _ => return None,
        };
        self.has_feature(feature).then_some(needs)
    }

    /// Whether the first two arguments, a bit for each vCPU, mean so few that they can be sent
    /// interrupts with interrupts off.
    #[inline(never)]
    fn is_for_few(&self) -> bool {
        let bits = self.argument(RBX).count_ones() + self.argument(RCX).count_ones();
        self.irqchip()
            .is_none_or(|irqchip| irqchip.is_small() || bits == 1 && irqchip.has_few())
    }

    fn hypercall(&mut self, number: u64) -> u64 {
        if self.hypercall_needs(number).is_none() {
            return error::ENOSYS;
        }
        let [a0, a1, a2, a3] = [RBX, RCX, RDX, RSI].map(|register| self.argument(register));
        match number {
            KVM_HC_KICK_CPU => {
                self.kick_apic(a1 as u32);
                0
            }
            KVM_HC_CLOCK_PAIRING => self.pair_clocks(a0, a1),
            // With arguments that make sense it would have gone to the VMM.
            KVM_HC_MAP_GPA_RANGE => error::EINVAL,
            KVM_HC_SEND_IPI => self.send_ipis([a0, a1], a2 as u32, a3 as u32),
            KVM_HC_SCHED_YIELD => {
                self.yield_to_apic(a0 as u32);
                0
            }
            _ => 0,
        }
    }

    /// A register as far as the mode lets a guest fill it.
    fn argument(&self, register: usize) -> u64 {
        let value = self.state.regs[register & 15];
        if self.is_64_bit_mode() {
            value
        } else {
            value & 0xffff_ffff
        }
    }
}
