// SPDX-License-Identifier: GPL-2.0

//! What an 8259A remembers, and how `struct kvm_pic_state` has it.

use super::{DualPic, MASTER_ELCR_MASK, SLAVE_ELCR_MASK};

/// Bytes of `struct kvm_pic_state`.
const SIZE: usize = 16;

/// One of the two chips.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chip {
    /// KVM_IRQCHIP_PIC_MASTER.
    Master,
    /// KVM_IRQCHIP_PIC_SLAVE.
    Slave,
}

/// Which initialisation command word the data port takes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum InitState {
    /// None: the chip is programmed and the data port is the mask.
    #[default]
    Ready = 0,
    /// ICW2, the vector base.
    Icw2 = 1,
    /// ICW3, the cascade wiring.
    Icw3 = 2,
    /// ICW4, the mode.
    Icw4 = 3,
}

/// All that one 8259A remembers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChipState {
    /// Level of each input when last told.
    pub last_irr: u8,
    /// Interrupt requests.
    pub irr: u8,
    /// Interrupt mask: a set bit keeps its request from INTR.
    pub imr: u8,
    /// Interrupts in service.
    pub isr: u8,
    /// The input with the highest priority, 0 to 7.
    pub priority_add: u8,
    /// Vector of input 0: a multiple of 8, unless a VMM has set another.
    pub irq_base: u8,
    /// The command port reads ISR and not IRR.
    pub read_isr: bool,
    /// The next read is a poll.
    pub poll: bool,
    /// Special mask mode.
    pub special_mask: bool,
    /// What the data port takes next.
    pub init_state: InitState,
    /// The interrupt is no longer in service once acknowledged.
    pub auto_eoi: bool,
    /// Priorities rotate with each automatic EOI.
    pub rotate_on_auto_eoi: bool,
    /// A slave's interrupt in service does not keep back the slave's others.
    pub special_fully_nested: bool,
    /// ICW1 announced an ICW4.
    pub expect_icw4: bool,
    /// Level-triggered inputs.
    pub elcr: u8,
}

impl ChipState {
    /// A chip that has just been switched on.
    pub(super) const POWER_ON: Self = Self {
        last_irr: 0,
        irr: 0,
        imr: 0,
        isr: 0,
        priority_add: 0,
        irq_base: 0,
        read_isr: false,
        poll: false,
        special_mask: false,
        init_state: InitState::Ready,
        auto_eoi: false,
        rotate_on_auto_eoi: false,
        special_fully_nested: false,
        expect_icw4: false,
        elcr: 0,
    };

    /// As `struct kvm_pic_state` has it, with the inputs that can be level-triggered.
    fn to_bytes(self, elcr_mask: u8) -> [u8; SIZE] {
        [
            self.last_irr,
            self.irr,
            self.imr,
            self.isr,
            self.priority_add,
            self.irq_base,
            self.read_isr.into(),
            self.poll.into(),
            self.special_mask.into(),
            self.init_state as u8,
            self.auto_eoi.into(),
            self.rotate_on_auto_eoi.into(),
            self.special_fully_nested.into(),
            self.expect_icw4.into(),
            self.elcr,
            elcr_mask,
        ]
    }

    fn from_bytes(state: &[u8; SIZE]) -> Self {
        let [last_irr, irr, imr, isr, priority_add, irq_base, read_isr, poll, special_mask, init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested, expect_icw4, elcr, _elcr_mask] =
            *state;
        Self {
            last_irr,
            irr,
            imr,
            isr,
            priority_add,
            irq_base,
            read_isr: read_isr != 0,
            poll: poll != 0,
            special_mask: special_mask != 0,
            init_state: match init_state {
                1 => InitState::Icw2,
                2 => InitState::Icw3,
                3 => InitState::Icw4,
                _ => InitState::Ready,
            },
            auto_eoi: auto_eoi != 0,
            rotate_on_auto_eoi: rotate_on_auto_eoi != 0,
            special_fully_nested: special_fully_nested != 0,
            expect_icw4: expect_icw4 != 0,
            elcr,
        }
    }
}

impl DualPic {
    /// A chip's state as a `struct kvm_pic_state`.
    pub fn save(&self, chip: Chip) -> [u8; SIZE] {
        match chip {
            Chip::Master => self.master.to_bytes(MASTER_ELCR_MASK),
            Chip::Slave => self.slave.to_bytes(SLAVE_ELCR_MASK),
        }
    }

    /// Replaces a chip's state by a `struct kvm_pic_state`; see [`Self::set_state`]. Which inputs
    /// can be level-triggered is not the state's to say.
    pub fn restore(&mut self, chip: Chip, state: &[u8; SIZE]) {
        let state = ChipState::from_bytes(state);
        match chip {
            Chip::Master => self.set_state(state, self.slave),
            Chip::Slave => self.set_state(self.master, state),
        }
    }
}
