// SPDX-License-Identifier: GPL-2.0

//! The 8259A's priorities, as its data sheet has them: the input at the top of the order comes first,
//! and what is in service keeps back itself and what comes after it.
//!
//! The slave is looked at through a master that has nothing else to do.

use arch::pic::{ChipState, DualPic};

const SLAVE_COMMAND: u16 = 0xa0;
const BASE: u8 = 0x70;

fn chip() -> ChipState {
    ChipState {
        irq_base: BASE,
        ..DualPic::new().state().1
    }
}

fn pair(slave: ChipState) -> DualPic {
    let mut pic = DualPic::new();
    let (master, _) = pic.state();
    pic.set_state(master, slave);
    pic
}

/// The inputs from the highest priority down.
fn order(highest: u8) -> impl Iterator<Item = u8> {
    (0..8).map(move |n| (highest + n) % 8)
}

fn has(inputs: u8, input: u8) -> bool {
    inputs >> input & 1 != 0
}

/// The input that interrupts.
fn requested(chip: &ChipState) -> Option<u8> {
    for input in order(chip.priority_add) {
        let hidden = chip.special_mask && has(chip.imr, input);
        if has(chip.isr, input) && !hidden {
            return None;
        }
        if has(chip.irr, input) && !has(chip.imr, input) {
            return Some(input);
        }
    }
    None
}

/// Asks for the interrupt and takes it, which must go as `chip` has it.
fn check(chip: ChipState) {
    let mut pic = pair(chip);
    let expected = requested(&chip);
    assert_eq!(pic.pending(), expected.is_some(), "{chip:?}");
    let Some(input) = expected else { return };
    assert_eq!(pic.acknowledge(), BASE + input, "{chip:?}");
    let after = pic.state().1;
    let mut taken = ChipState {
        irr: chip.irr & !(1 << input),
        ..chip
    };
    if !chip.auto_eoi {
        taken.isr |= 1 << input;
    } else if chip.rotate_on_auto_eoi {
        taken.priority_add = (input + 1) % 8;
    }
    assert_eq!(after, taken);
}

fn for_each(mut call: impl FnMut(u8, u8, u8)) -> u64 {
    let mut cases = 0;
    for rotation in 0..8 {
        for (first, second) in (0..=255).flat_map(|a| (0..=255).map(move |b| (a, b))) {
            call(rotation, first, second);
            cases += 1;
        }
    }
    cases
}

#[test]
fn requests_and_what_is_in_service() {
    let cases = for_each(|priority_add, irr, isr| {
        check(ChipState {
            priority_add,
            irr,
            isr,
            ..chip()
        });
    });
    assert_eq!(cases, 524_288);
}

#[test]
fn requests_and_masks() {
    let cases = for_each(|priority_add, irr, imr| {
        for (auto_eoi, rotate_on_auto_eoi) in [(false, false), (true, false), (true, true)] {
            check(ChipState {
                priority_add,
                irr,
                imr,
                auto_eoi,
                rotate_on_auto_eoi,
                ..chip()
            });
        }
    });
    assert_eq!(3 * cases, 3 * 524_288);
}

/// In special mask mode what is in service and masked keeps nothing back.
#[test]
fn special_masks() {
    let cases = for_each(|priority_add, isr, imr| {
        check(ChipState {
            priority_add,
            irr: 0xff,
            isr,
            imr,
            special_mask: true,
            ..chip()
        });
    });
    assert_eq!(cases, 524_288);
}

/// Every OCW2 with everything that may be in service. "An IS bit that is masked by an IMR bit will
/// not be cleared by a non-specific EOI if the 8259A is in the Special Mask Mode."
#[test]
fn ends_of_interrupts() {
    let mut cases = 0u64;
    for_each(|priority_add, isr, ocw2| {
        // Bits 4 and 3 make other words of it.
        if ocw2 & 0x18 != 0 {
            return;
        }
        for (imr, special_mask) in [(0, false), (0x5a, false), (0x5a, true)] {
            let before = ChipState {
                priority_add,
                isr,
                imr,
                special_mask,
                ..chip()
            };
            let mut pic = pair(before);
            assert!(pic.write(SLAVE_COMMAND, ocw2));
            let (rotate, specific, eoi) = (ocw2 & 0x80 != 0, ocw2 & 0x40 != 0, ocw2 & 0x20 != 0);
            let named = ocw2 & 7;
            let served = order(priority_add)
                .find(|input| has(isr, *input) && !(special_mask && has(imr, *input)));
            let input = if specific { Some(named) } else { served };
            let mut after = before;
            if let (true, Some(input)) = (eoi, input) {
                after.isr &= !(1 << input);
            }
            match (rotate, specific, eoi, input) {
                // Rotation, by an EOI or by "set priority", makes that input the lowest.
                (true, _, true, Some(input)) | (true, true, false, Some(input)) => {
                    after.priority_add = (input + 1) % 8;
                }
                (rotate, false, false, _) => after.rotate_on_auto_eoi = rotate,
                _ => {}
            }
            assert_eq!(pic.state().1, after, "{ocw2:#x} {before:?}");
            let ended = u16::from(isr & !after.isr) << 8;
            assert_eq!(pic.take_ended(), ended);
            cases += 1;
        }
    });
    assert_eq!(cases, 8 * 256 * 64 * 3);
}
