// SPDX-License-Identifier: GPL-2.0

//! The pair of 8259As, programmed at random.

use super::input::{Input, Source};
use crate::pic::{DualPic, PORTS};

/// The state goes round, and an interrupt that is acknowledged was one that was asked for.
pub fn pic(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut pic = DualPic::new();
    while !input.is_empty() {
        match input.below(4) {
            0 => {
                let port = input.pick(&PORTS);
                assert!(pic.write(port, input.below(0x100) as u8));
            }
            1 => {
                let port = input.pick(&PORTS);
                assert!(pic.read(port).is_some());
            }
            2 => {
                let line = input.below(17) as u8;
                let _ = pic.set_irq(line, input.below(2) != 0);
            }
            _ => acknowledge(&mut pic),
        }
        let (master, slave) = pic.state();
        let mut other = DualPic::new();
        other.set_state(master, slave);
        assert_eq!(other.state(), (master, slave));
        assert_eq!(other.pending(), pic.pending());
    }
}

/// Takes the interrupt there is; where there is none, the vector is that of input 7 and no request
/// is lost for it.
fn acknowledge(pic: &mut DualPic) {
    let before = *pic;
    let vector = pic.acknowledge();
    if before.pending() {
        return;
    }
    assert_eq!(vector & 7, 7);
    assert_eq!(pic.state(), before.state());
}
