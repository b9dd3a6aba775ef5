// SPDX-License-Identifier: GPL-2.0

//! One local APIC: accepting, prioritising and ending interrupts (SDM vol. 3, 11.8).

use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};

use bitflags::bitflags;

use super::mode::{BASE_ENABLE, BASE_X2APIC};
use super::registers::{bit_of, highest_in};
use super::{Destination, Message, Register, Registers};

const SVR_SUPPRESS_EOI_BROADCAST: u32 = 1 << 12;
const DFR_FLAT: u32 = 0xffff_ffff;
const DFR_CLUSTER: u32 = 0x0fff_ffff;
const BROADCAST: u32 = 0xff;
const X2APIC_BROADCAST: u32 = 0xffff_ffff;
/// In a summary of words: the processor changes the registers too, so look at them all.
const UNKNOWN: u32 = 1 << 31;

bitflags! {
    /// What an APIC has, by its guest's CPUID and the VM's settings.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Features: u8 {
        /// x2APIC mode.
        const X2APIC = 1 << 0;
        /// The timer's TSC-deadline mode.
        const TSC_DEADLINE = 1 << 1;
        /// The LVT entry for corrected machine checks.
        const CMCI = 1 << 2;
        /// An EOI can be kept from the I/O APICs.
        const SUPPRESS_EOI_BROADCAST = 1 << 3;
        /// KVM_X86_QUIRK_LINT0_REENABLED: after reset the bootstrap processor's LINT0 delivers the
        /// 8259A's interrupts.
        const LINT0_EXTINT = 1 << 4;
    }
}

/// What became of an interrupt message at an APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acceptance {
    /// The APIC is disabled and takes none.
    Refused,
    /// The vector was requested already.
    Already,
    /// The vector is requested now: the processor may have to be told.
    New,
}

/// An interrupt that has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Eoi {
    /// Its vector.
    pub vector: u8,
    /// It was level-triggered: I/O APICs want to know.
    pub level: bool,
    /// Software asked that I/O APICs be not told (SVR bit 12).
    pub suppressed: bool,
}

/// One local APIC.
///
/// [`Self::accept`], [`Self::matches`] and what only reads may be called from any thread, the rest
/// from the one that has the virtual processor.
///
/// # Invariants
///
/// `irr_words` has a bit for each non-zero IRR word, except that a thread which clears a bit may
/// not yet have looked whether the word is zero. `isr_words` has exactly the bits of the non-zero
/// ISR words. Both may be `UNKNOWN` instead.
pub struct Lapic<P> {
    registers: P,
    pub(super) id: u32,
    pub(super) bsp: bool,
    /// IA32_APIC_BASE.
    pub(super) base: AtomicU64,
    features: AtomicU8,
    /// SVR's enable bit as last seen: the processor may write SVR before anybody compares.
    pub(super) software_enabled: AtomicBool,
    /// LVT_TIMER's mode bits as last seen.
    pub(super) timer_mode: AtomicU32,
    irr_words: AtomicU32,
    isr_words: AtomicU32,
}

impl<P: Deref<Target = Registers>> Lapic<P> {
    /// An APIC after power-up. Its x2APIC id is `id` for good, its xAPIC id the low 8 bits of it
    /// until the guest changes it; `bsp` if its processor is the one that starts by itself.
    pub fn new(registers: P, id: u32, bsp: bool, features: Features) -> Self {
        let apic = Self {
            registers,
            id,
            bsp,
            base: AtomicU64::new(0),
            features: AtomicU8::new(features.bits()),
            software_enabled: AtomicBool::new(false),
            timer_mode: AtomicU32::new(0),
            irr_words: AtomicU32::new(0),
            isr_words: AtomicU32::new(0),
        };
        apic.reset();
        apic
    }

    /// The page.
    #[inline]
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    #[inline]
    pub(super) fn load(&self, register: Register) -> u32 {
        self.registers.load(register)
    }

    #[inline]
    pub(super) fn store(&self, register: Register, value: u32) {
        self.registers.store(register, value);
    }

    /// The x2APIC id.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What the APIC has.
    pub fn features(&self) -> Features {
        Features::from_bits_retain(self.features.load(Ordering::Relaxed))
    }

    /// Changes what the APIC has, as KVM_SET_CPUID2 and KVM_X86_SETUP_MCE do.
    pub fn set_features(&self, features: Features) {
        let added = features.difference(self.features());
        self.features.store(features.bits(), Ordering::Relaxed);
        if added.contains(Features::CMCI) {
            self.store(Register::LVT_CMCI, super::lvt::MASKED);
        }
        self.update_version();
    }

    /// Whether IA32_APIC_BASE has the APIC enabled.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.base.load(Ordering::Relaxed) & BASE_ENABLE != 0
    }

    /// Whether SVR has the APIC enabled.
    #[inline]
    pub fn is_software_enabled(&self) -> bool {
        self.software_enabled.load(Ordering::Relaxed)
    }

    /// Whether it is in x2APIC mode.
    #[inline]
    pub fn is_x2apic(&self) -> bool {
        self.base.load(Ordering::Relaxed) & BASE_X2APIC != 0
    }

    /// The xAPIC id, which the guest may change.
    pub fn xapic_id(&self) -> u32 {
        self.load(Register::ID) >> 24
    }

    /// Tells whether the processor itself delivers interrupts from the page and ends them (virtual
    /// interrupt delivery). While it does, nothing is remembered of the page. Only while the
    /// virtual processor does not run.
    pub fn set_hardware_delivery(&self, on: bool) {
        if on {
            self.irr_words.store(UNKNOWN, Ordering::SeqCst);
            self.isr_words.store(UNKNOWN, Ordering::Relaxed);
        } else {
            self.summarise();
        }
    }

    /// Whether the processor delivers interrupts itself.
    #[inline]
    pub fn is_hardware_delivery(&self) -> bool {
        self.isr_words.load(Ordering::Relaxed) & UNKNOWN != 0
    }

    /// Establishes the invariant after the registers were written otherwise.
    pub(super) fn summarise(&self) {
        // Every word of the IRR counts as non-zero: nothing that another thread adds is lost.
        self.irr_words.store(0xff, Ordering::SeqCst);
        let isr = (0..8).filter(|index| self.load(Register::ISR.word(*index)) != 0);
        let words = isr.fold(0, |words, index| words | 1 << index);
        self.isr_words.store(words, Ordering::Relaxed);
    }

    /// After a change of every register: as [`Self::summarise`], unless the processor delivers.
    pub(super) fn summarise_unless_hardware(&self) {
        if !self.is_hardware_delivery() {
            self.summarise();
        }
    }

    /// Whether `message` is addressed to this APIC; `is_sender` if it comes from its processor
    /// (SDM vol. 3, 11.6.2).
    pub fn matches(&self, message: &Message, is_sender: bool) -> bool {
        self.is_enabled()
            && match message.destination {
                Destination::Physical(id) => self.matches_physical(id, message.x2apic),
                Destination::Logical(set) => self.matches_logical(set, message.x2apic),
                Destination::Itself => is_sender,
                Destination::All => true,
                Destination::AllButSelf => !is_sender,
            }
    }

    fn is_broadcast(&self, destination: u32, x2apic_message: bool) -> bool {
        destination == X2APIC_BROADCAST
            || destination == BROADCAST && !(x2apic_message && self.is_x2apic())
    }

    fn matches_physical(&self, id: u32, x2apic_message: bool) -> bool {
        // An id that no xAPIC can have addresses a processor by its number even before it is in
        // x2APIC mode, as KVM does it for processors plugged in late.
        let own = if self.is_x2apic() || id > BROADCAST {
            self.id
        } else {
            self.xapic_id()
        };
        id == own || self.is_broadcast(id, x2apic_message)
    }

    fn matches_logical(&self, set: u32, x2apic_message: bool) -> bool {
        if self.is_broadcast(set, x2apic_message) {
            return true;
        }
        let own = self.load(Register::LDR);
        if self.is_x2apic() {
            return own >> 16 == set >> 16 && own & set & 0xffff != 0;
        }
        let own = own >> 24;
        match self.load(Register::DFR) {
            DFR_FLAT => own & set != 0,
            DFR_CLUSTER => own >> 4 == set >> 4 && own & set & 0xf != 0,
            _ => false,
        }
    }

    /// The priority by which a lowest-priority message finds the least busy processor: the arbitration priority of
    /// SDM vol. 3, 11.6.2.4, without the interrupts that are only requested.
    pub fn priority(&self) -> u32 {
        self.ppr()
    }

    /// Whether it takes interrupts: enabled, both ways.
    #[inline]
    pub fn takes_interrupts(&self) -> bool {
        self.is_software_enabled() && self.is_enabled()
    }

    /// Takes a fixed or lowest-priority interrupt: TMR and IRR. From any thread.
    #[inline]
    pub fn accept(&self, vector: u8, level: bool) -> Acceptance {
        if !self.accept_posted(vector, level) {
            return Acceptance::Refused;
        }
        let bit = bit_of(vector);
        let word = self.registers.cell(Register::IRR.word_of(vector));
        if word.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            return Acceptance::Already;
        }
        // After the word: see `forget_word`.
        let summary = 1 << (vector >> 5);
        if self.irr_words.load(Ordering::SeqCst) & (summary | UNKNOWN) == 0 {
            self.irr_words.fetch_or(summary, Ordering::SeqCst);
        }
        Acceptance::New
    }

    /// The part of [`Self::accept`] before the IRR, for a caller that posts the vector to the
    /// processor instead: whether the APIC takes it. From any thread.
    #[inline]
    pub fn accept_posted(&self, vector: u8, level: bool) -> bool {
        if !self.takes_interrupts() {
            return false;
        }
        if self.registers.has(Register::TMR, vector) != level {
            let word = self.registers.cell(Register::TMR.word_of(vector));
            if level {
                word.fetch_or(bit_of(vector), Ordering::Relaxed);
            } else {
                word.fetch_and(!bit_of(vector), Ordering::Relaxed);
            }
        }
        true
    }

    /// Moves posted interrupt requests (bit `v` of the 256 is vector `v`) into the IRR.
    pub fn accept_requests(&self, requests: &[u64; 4]) {
        for (half, request) in
            (0u32..).zip(requests.iter().flat_map(|r| [*r as u32, (*r >> 32) as u32]))
        {
            if request != 0 {
                self.registers
                    .cell(Register::IRR.word(half))
                    .fetch_or(request, Ordering::SeqCst);
                if self.irr_words.load(Ordering::SeqCst) & UNKNOWN == 0 {
                    self.irr_words.fetch_or(1 << half, Ordering::SeqCst);
                }
            }
        }
    }

    /// Word `index` of the IRR was seen to be zero.
    fn forget_word(&self, index: u32) {
        // `accept` sets the word's bit first and the summary's after it. So whoever clears the
        // summary's and then still finds the word zero has a later `accept` set it again.
        self.irr_words.fetch_and(!(1 << index), Ordering::SeqCst);
        let word = self.registers.cell(Register::IRR.word(index));
        if word.load(Ordering::SeqCst) != 0 {
            self.irr_words.fetch_or(1 << index, Ordering::SeqCst);
        }
    }

    /// The highest vector in the IRR.
    #[inline]
    pub fn highest_irr(&self) -> Option<u8> {
        let words = self.irr_words.load(Ordering::Relaxed);
        let index = words.checked_ilog2()?;
        // With UNKNOWN, and with a request that another thread is about to note or this one has
        // taken, the word is no word or zero.
        if index < 8 {
            let word = self.load(Register::IRR.word(index));
            if word != 0 {
                return Some(highest_in(index, word));
            }
        }
        self.search_irr()
    }

    #[cold]
    #[inline(never)]
    fn search_irr(&self) -> Option<u8> {
        loop {
            let words = self.irr_words.load(Ordering::Relaxed);
            let index = words.checked_ilog2()?;
            if words & UNKNOWN != 0 {
                return self.registers.highest(Register::IRR);
            }
            let word = self.load(Register::IRR.word(index));
            if word != 0 {
                return Some(highest_in(index, word));
            }
            self.forget_word(index);
        }
    }

    /// The highest vector in the ISR.
    #[inline]
    pub fn highest_isr(&self) -> Option<u8> {
        let words = self.isr_words.load(Ordering::Relaxed);
        let index = words.checked_ilog2()?;
        if index < 8 {
            // The word is not zero: the type's invariant.
            Some(highest_in(index, self.load(Register::ISR.word(index))))
        } else {
            self.search_isr()
        }
    }

    #[cold]
    #[inline(never)]
    fn search_isr(&self) -> Option<u8> {
        self.registers.highest(Register::ISR)
    }

    /// The processor's priority, computed from TPR and ISR (SDM vol. 3, 11.8.3.1).
    #[inline]
    pub fn ppr(&self) -> u32 {
        let tpr = self.load(Register::TPR) & 0xff;
        let class = self
            .highest_isr()
            .map_or(0, |vector| u32::from(vector & 0xf0));
        if tpr & 0xf0 >= class {
            tpr
        } else {
            class
        }
    }

    /// Puts [`Self::ppr`] into the page. Nothing else does but reads through [`Self::read`] and
    /// [`Self::save`]: only a processor that reads the page for the guest needs it there.
    pub fn update_ppr(&self) {
        self.store(Register::PPR, self.ppr());
    }

    /// The vector to inject: the highest in the IRR, if above the processor's priority.
    #[inline]
    pub fn pending(&self) -> Option<u8> {
        let vector = self.highest_irr()?;
        (u32::from(vector & 0xf0) > self.ppr() && self.is_enabled()).then_some(vector)
    }

    /// The processor takes the interrupt that [`Self::pending`] said: IRR to ISR.
    #[inline]
    pub fn acknowledge(&self, vector: u8) {
        let bit = bit_of(vector);
        let index = u32::from(vector >> 5);
        let irr = self.registers.cell(Register::IRR.word(index));
        if irr.fetch_and(!bit, Ordering::SeqCst) == bit && !self.is_hardware_delivery() {
            self.forget_word(index);
        }
        let isr = Register::ISR.word(index);
        self.store(isr, self.load(isr) | bit);
        let words = self.isr_words.load(Ordering::Relaxed);
        self.isr_words.store(words | 1 << index, Ordering::Relaxed);
    }

    /// Undoes [`Self::acknowledge`]: the processor did not get to take `vector` after all, which is
    /// what [`Self::highest_isr`] said.
    pub fn take_back(&self, vector: u8) {
        self.end(vector);
        let irr = self.registers.cell(Register::IRR.word_of(vector));
        irr.fetch_or(bit_of(vector), Ordering::SeqCst);
        let summary = 1 << (vector >> 5);
        if self.irr_words.load(Ordering::SeqCst) & UNKNOWN == 0 {
            self.irr_words.fetch_or(summary, Ordering::SeqCst);
        }
    }

    /// Ends the interrupt of the highest priority, if one is in service.
    #[inline]
    pub fn eoi(&self) -> Option<Eoi> {
        let vector = self.highest_isr()?;
        self.end(vector);
        Some(self.ended(vector))
    }

    /// Takes `vector`, which is what [`Self::highest_isr`] said, out of service: a part of
    /// [`Self::eoi`] for who knows the rest.
    #[inline]
    pub fn end(&self, vector: u8) {
        let isr = Register::ISR.word_of(vector);
        let left = self.load(isr) & !bit_of(vector);
        self.store(isr, left);
        if left == 0 {
            let words = self.isr_words.load(Ordering::Relaxed);
            let index = vector >> 5;
            self.isr_words
                .store(words & !(1 << index), Ordering::Relaxed);
        }
    }

    /// What there is to do after the processor itself has ended `vector` (EOI virtualisation,
    /// SDM vol. 3, 30.1.4).
    #[inline]
    pub fn ended(&self, vector: u8) -> Eoi {
        Eoi {
            vector,
            level: self.registers.has(Register::TMR, vector),
            suppressed: self.load(Register::SVR) & SVR_SUPPRESS_EOI_BROADCAST != 0,
        }
    }

    /// Whether `vector` is requested or in service: its EOI is still to come.
    pub fn awaits_eoi(&self, vector: u8) -> bool {
        self.registers.has(Register::IRR, vector) || self.registers.has(Register::ISR, vector)
    }

    /// The task priority.
    #[inline]
    pub fn tpr(&self) -> u8 {
        self.load(Register::TPR) as u8
    }

    /// Sets the task priority.
    #[inline]
    pub fn set_tpr(&self, tpr: u8) {
        self.store(Register::TPR, u32::from(tpr));
    }

    /// CR8, which is bits 7 to 4 of the task priority (SDM vol. 3, 11.8.6).
    #[inline]
    pub fn cr8(&self) -> u64 {
        u64::from(self.tpr() >> 4)
    }

    /// Sets CR8; bits above 3 are ignored.
    #[inline]
    pub fn set_cr8(&self, cr8: u64) {
        self.set_tpr(((cr8 & 0xf) as u8) << 4);
    }

    /// The TPR threshold with which a guest runs whose TPR is virtualised (SDM vol. 3, 30.1.2): a
    /// task priority below it makes the interrupt deliverable that this one holds back. 0 if none
    /// waits for that.
    #[inline]
    pub fn tpr_threshold(&self) -> u32 {
        let Some(vector) = self.highest_irr() else {
            return 0;
        };
        let class = u32::from(vector >> 4);
        if self.tpr() >> 4 < vector >> 4 {
            0
        } else {
            class
        }
    }
}
