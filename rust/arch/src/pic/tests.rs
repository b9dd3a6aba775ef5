// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const EOI: u8 = 0x20;

/// Programmed as a PC's firmware and Linux do: bases 0x20 and 0x28, nothing masked.
fn programmed() -> DualPic {
    let mut pic = DualPic::new();
    initialise(&mut pic, 0x01);
    pic
}

fn initialise(pic: &mut DualPic, icw4: u8) {
    for (command, data, base, wiring) in [
        (MASTER_COMMAND, MASTER_DATA, 0x20, 0x04),
        (SLAVE_COMMAND, SLAVE_DATA, 0x28, 0x02),
    ] {
        pic.write(command, 0x11);
        pic.write(data, base);
        pic.write(data, wiring);
        pic.write(data, icw4);
        pic.write(data, 0x00);
    }
}

fn pulse(pic: &mut DualPic, line: u8) {
    pic.set_irq(line, true);
    pic.set_irq(line, false);
}

#[test]
fn ports_are_the_listed_ones() {
    let mut pic = programmed();
    for port in 0..=u16::MAX {
        assert_eq!(
            pic.read(port).is_some(),
            PORTS.contains(&port),
            "read {port:#x}"
        );
        assert_eq!(pic.write(port, 0), PORTS.contains(&port), "write {port:#x}");
    }
}

#[test]
fn every_line_has_its_vector() {
    for line in (0..16).filter(|line| *line != CASCADE) {
        let mut pic = programmed();
        assert!(!pic.pending());
        pulse(&mut pic, line);
        assert!(pic.pending(), "line {line}");
        assert_eq!(pic.acknowledge(), 0x20 + line);
        assert!(!pic.pending());
        assert_eq!(
            pic.acknowledge(),
            0x27,
            "nothing left but a spurious interrupt"
        );
    }
}

#[test]
fn the_cascade_and_lines_past_15_are_not_for_devices() {
    let mut pic = programmed();
    for line in [2, 16, 17, 255] {
        pulse(&mut pic, line);
        assert!(!pic.pending());
    }
}

#[test]
fn the_mask_reads_back_and_keeps_requests() {
    let mut pic = programmed();
    pic.write(MASTER_DATA, 0xfb);
    pic.write(SLAVE_DATA, 0xff);
    assert_eq!(
        (pic.read(MASTER_DATA), pic.read(SLAVE_DATA)),
        (Some(0xfb), Some(0xff))
    );
    pulse(&mut pic, 1);
    pulse(&mut pic, 8);
    assert!(!pic.pending());
    pic.write(SLAVE_DATA, 0xfe);
    assert_eq!(pic.acknowledge(), 0x28);
    pic.write(SLAVE_COMMAND, EOI);
    pic.write(MASTER_COMMAND, EOI);
    assert!(!pic.pending());
    pic.write(MASTER_DATA, 0);
    assert_eq!(pic.acknowledge(), 0x21);
}

#[test]
fn priority_is_fixed_until_rotated() {
    let mut pic = programmed();
    for line in [7, 3, 12, 0, 9] {
        pulse(&mut pic, line);
    }
    let mut order = std::vec::Vec::new();
    while pic.pending() {
        let vector = pic.acknowledge();
        order.push(vector - 0x20);
        if vector >= 0x28 {
            pic.write(SLAVE_COMMAND, EOI);
        }
        pic.write(MASTER_COMMAND, EOI);
    }
    assert_eq!(order, [0, 9, 12, 3, 7]);

    // Lowest priority to input 3: 4 comes first.
    pic.write(MASTER_COMMAND, 0xc0 | 3);
    for line in [3, 0, 4] {
        pulse(&mut pic, line);
    }
    assert_eq!(pic.acknowledge(), 0x24);
    pic.write(MASTER_COMMAND, EOI);
    assert_eq!(pic.acknowledge(), 0x20);
    pic.write(MASTER_COMMAND, EOI);
    assert_eq!(pic.acknowledge(), 0x23);
}

#[test]
fn only_a_higher_priority_nests() {
    let mut pic = programmed();
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x24);
    pulse(&mut pic, 4);
    pulse(&mut pic, 5);
    assert!(!pic.pending());
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x21);
    pic.write(MASTER_COMMAND, EOI);
    assert!(!pic.pending(), "4 is still in service");
    pic.write(MASTER_COMMAND, EOI);
    assert_eq!(pic.acknowledge(), 0x24);
}

#[test]
fn a_second_slave_interrupt_nests_only_in_special_fully_nested_mode() {
    for (icw4, nests) in [(0x01, false), (0x11, true)] {
        let mut pic = DualPic::new();
        initialise(&mut pic, icw4);
        pulse(&mut pic, 12);
        assert_eq!(pic.acknowledge(), 0x2c);
        pulse(&mut pic, 9);
        assert_eq!(pic.pending(), nests);
        if nests {
            assert_eq!(pic.acknowledge(), 0x29);
        }
    }
}

#[test]
fn irr_and_isr_are_read_through_the_command_port() {
    let mut pic = programmed();
    pulse(&mut pic, 3);
    pulse(&mut pic, 10);
    assert_eq!(pic.read(MASTER_COMMAND), Some(0x0c));
    assert_eq!(pic.read(SLAVE_COMMAND), Some(0x04));
    assert_eq!(pic.acknowledge(), 0x2a);
    pic.write(MASTER_COMMAND, 0x0b);
    pic.write(SLAVE_COMMAND, 0x0b);
    assert_eq!(pic.read(MASTER_COMMAND), Some(0x04));
    assert_eq!(pic.read(SLAVE_COMMAND), Some(0x04));
    pic.write(MASTER_COMMAND, 0x0a);
    assert_eq!(pic.read(MASTER_COMMAND), Some(0x08));
}

#[test]
fn specific_eoi_ends_the_named_interrupt() {
    let mut pic = programmed();
    pulse(&mut pic, 6);
    pic.acknowledge();
    pulse(&mut pic, 2 + 1);
    pic.acknowledge();
    pic.write(MASTER_COMMAND, 0x60 | 6);
    assert_eq!(pic.state().0.isr, 1 << 3);
    pic.write(MASTER_COMMAND, 0x60 | 3);
    assert_eq!(pic.state().0.isr, 0);
}

#[test]
fn rotation_on_eoi_makes_the_served_input_the_lowest() {
    for eoi in [0xa0, 0xe0 | 4] {
        let mut pic = programmed();
        pulse(&mut pic, 4);
        pic.acknowledge();
        pic.write(MASTER_COMMAND, eoi);
        assert_eq!(pic.state().0.isr, 0);
        pulse(&mut pic, 4);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), 0x25);
    }
}

#[test]
fn auto_eoi_leaves_nothing_in_service() {
    let mut pic = DualPic::new();
    initialise(&mut pic, 0x03);
    pulse(&mut pic, 4);
    pic.acknowledge();
    assert_eq!(pic.state().0.isr, 0);
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x25);

    pic.write(MASTER_COMMAND, 0x80);
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x21);
    pulse(&mut pic, 1);
    pulse(&mut pic, 6);
    assert_eq!(pic.acknowledge(), 0x26, "1 became the lowest");
    pic.write(MASTER_COMMAND, 0x00);
    assert!(!pic.state().0.rotate_on_auto_eoi);
}

#[test]
fn special_mask_mode_lets_lower_priorities_in() {
    let mut pic = programmed();
    pulse(&mut pic, 3);
    pic.acknowledge();
    pic.write(MASTER_DATA, 1 << 3);
    pulse(&mut pic, 5);
    assert!(!pic.pending());
    pic.write(MASTER_COMMAND, 0x68);
    assert_eq!(pic.acknowledge(), 0x25);
    pic.write(MASTER_COMMAND, EOI);
    assert_eq!(
        pic.state().0.isr,
        1 << 3,
        "a masked one is not ended by the non-specific EOI"
    );
    pic.write(MASTER_COMMAND, 0x48);
    assert!(!pic.state().0.special_mask);
}

#[test]
fn poll_acknowledges_without_a_vector() {
    let mut pic = programmed();
    pic.write(MASTER_COMMAND, 0x0c);
    assert_eq!(pic.read(MASTER_COMMAND), Some(0x00));
    pulse(&mut pic, 5);
    pic.write(MASTER_COMMAND, 0x0c);
    assert_eq!(pic.read(MASTER_DATA), Some(0x85));
    assert!(!pic.pending());
    assert_eq!(pic.state().0.isr, 1 << 5);
    assert_eq!(pic.read(MASTER_DATA), Some(0x00), "one read is one poll");

    pulse(&mut pic, 14);
    pic.write(SLAVE_COMMAND, 0x0c);
    assert_eq!(pic.read(SLAVE_COMMAND), Some(0x86));
    pic.write(MASTER_COMMAND, EOI);
    assert!(!pic.pending(), "the slave asks no more");
}

#[test]
fn a_level_line_asks_for_as_long_as_it_is_high() {
    let mut pic = programmed();
    pic.write(SLAVE_ELCR, 0xff);
    pic.write(MASTER_ELCR, 0xff);
    assert_eq!(
        (pic.read(MASTER_ELCR), pic.read(SLAVE_ELCR)),
        (Some(0xf8), Some(0xde))
    );
    pic.set_irq(10, true);
    for _ in 0..3 {
        assert_eq!(pic.acknowledge(), 0x2a);
        assert!(!pic.pending());
        pic.write(SLAVE_COMMAND, EOI);
        pic.write(MASTER_COMMAND, EOI);
        assert!(pic.pending());
    }
    pic.set_irq(10, false);
    assert!(!pic.pending());
}

#[test]
fn an_edge_line_asks_once_for_each_rise() {
    let mut pic = programmed();
    pic.set_irq(4, true);
    pic.acknowledge();
    pic.write(MASTER_COMMAND, EOI);
    pic.set_irq(4, true);
    assert!(!pic.pending());
    pic.set_irq(4, false);
    pic.set_irq(4, true);
    assert!(pic.pending());
}

#[test]
fn a_request_that_went_away_is_spurious() {
    let mut pic = programmed();
    pic.write(MASTER_ELCR, 1 << 5);
    pic.set_irq(5, true);
    assert!(pic.pending());
    pic.set_irq(5, false);
    assert_eq!(pic.acknowledge(), 0x27);
    assert_eq!(pic.state().0.isr, 0);
}

#[test]
fn icw1_forgets_edges_and_keeps_levels() {
    let mut pic = programmed();
    pic.write(MASTER_ELCR, 1 << 5);
    pic.set_irq(5, true);
    pic.set_irq(3, true);
    pic.set_irq(8, true);
    initialise(&mut pic, 0x01);
    assert_eq!(pic.state().0.irr, 1 << 5);
    assert_eq!(pic.acknowledge(), 0x25);
}

#[test]
fn icw4_is_optional() {
    let mut pic = DualPic::new();
    initialise(&mut pic, 0x13);
    pic.write(MASTER_COMMAND, 0x10);
    pic.write(MASTER_DATA, 0x40);
    pic.write(MASTER_DATA, 0x04);
    pic.write(MASTER_DATA, 0xa5);
    assert_eq!(pic.read(MASTER_DATA), Some(0xa5));
    let master = pic.state().0;
    assert!(!master.auto_eoi && !master.special_fully_nested);
    assert_eq!(master.irq_base, 0x40);
}

#[test]
fn linux_finds_the_controller_by_its_mask() {
    let mut pic = DualPic::new();
    pic.write(SLAVE_DATA, 0xff);
    pic.write(MASTER_DATA, 0xfb);
    assert_eq!(pic.read(MASTER_DATA), Some(0xfb));
}

#[test]
fn lines_say_what_became_of_a_request() {
    use LineStatus::{Coalesced, Delivered, Ignored};
    let mut pic = programmed();
    pic.write(MASTER_DATA, 1 << 6);
    pic.write(MASTER_ELCR, 1 << 5);
    for (line, level, status) in [
        (4, true, Delivered(1)),
        (4, true, Delivered(1)),
        (4, false, Delivered(1)),
        (4, true, Coalesced),
        (5, true, Delivered(1)),
        (5, true, Coalesced),
        (6, true, Ignored),
        (12, true, Delivered(1)),
        (2, true, Ignored),
        (16, true, Ignored),
    ] {
        assert_eq!(pic.set_irq(line, level), status, "{line} {level}");
    }
}

#[test]
fn ended_interrupts_are_told() {
    let mut pic = programmed();
    pulse(&mut pic, 12);
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x2c);
    assert_eq!(pic.take_ended(), 0);
    pic.write(SLAVE_COMMAND, EOI);
    assert_eq!(pic.take_ended(), 1 << 12);
    pic.write(MASTER_COMMAND, EOI);
    assert_eq!(pic.take_ended(), 1 << 2);
    pic.acknowledge();
    pic.write(MASTER_COMMAND, 0x60 | 4);
    assert_eq!(pic.take_ended(), 1 << 4);
    assert_eq!(pic.take_ended(), 0, "told once");

    pulse(&mut pic, 3);
    pic.acknowledge();
    pulse(&mut pic, 5);
    pulse(&mut pic, 13);
    initialise(&mut pic, 0x03);
    assert_eq!(pic.take_ended(), 1 << 3 | 1 << 5 | 1 << 13 | 1 << 2);
    pulse(&mut pic, 1);
    pic.acknowledge();
    assert_eq!(pic.take_ended(), 1 << 1, "automatic EOI");
}

#[test]
fn state_goes_round() {
    let mut pic = programmed();
    pulse(&mut pic, 12);
    pic.write(MASTER_ELCR, 0x20);
    pic.write(MASTER_COMMAND, 0x0b);
    let (master, slave) = (pic.save(Chip::Master), pic.save(Chip::Slave));
    assert_eq!(
        master,
        [4, 4, 0, 0, 0, 0x20, 1, 0, 0, 0, 0, 0, 0, 1, 0x20, 0xf8]
    );
    assert_eq!(
        slave,
        [0, 16, 0, 0, 0, 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0xde]
    );
    let mut other = DualPic::new();
    other.restore(Chip::Slave, &slave);
    other.restore(Chip::Master, &master);
    assert_eq!(other, pic);
}

#[test]
fn a_foreign_state_is_taken_as_it_is() {
    let mut pic = programmed();
    let mut state = pic.save(Chip::Master);
    state[5] = 0x71;
    pic.restore(Chip::Master, &state);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x71, "not a multiple of 8");

    pic.restore(Chip::Master, &[0xff; 16]);
    assert_eq!(
        pic.save(Chip::Master),
        [0xfb, 0xfb, 0xff, 0xff, 0xff, 0xff, 1, 1, 1, 0, 1, 1, 1, 1, 0xff, 0xf8],
        "line 2 is the slave's"
    );
    for init_state in 1..=3 {
        let mut bytes = [0; 16];
        bytes[9] = init_state;
        bytes[15] = 0xde;
        pic.restore(Chip::Slave, &bytes);
        assert_eq!(pic.save(Chip::Slave), bytes);
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Read(u16),
    Write(u16, u8),
    Line(u8, bool),
    Acknowledge,
}

fn step() -> impl Strategy<Value = Step> {
    let port = prop::sample::select(&PORTS[..]);
    prop_oneof![
        port.clone().prop_map(Step::Read),
        (port, any::<u8>()).prop_map(|(port, value)| Step::Write(port, value)),
        (0u8..16, any::<bool>()).prop_map(|(line, level)| Step::Line(line, level)),
        Just(Step::Acknowledge),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_is_done_the_wiring_holds(steps in prop::collection::vec(step(), 0..200)) {
        let mut pic = DualPic::new();
        for step in steps {
            match step {
                Step::Read(port) => prop_assert!(pic.read(port).is_some()),
                Step::Write(port, value) => prop_assert!(pic.write(port, value)),
                Step::Line(line, level) => {
                    pic.set_irq(line, level);
                }
                Step::Acknowledge => {
                    let was_pending = pic.pending();
                    let vector = pic.acknowledge();
                    let (master, slave) = pic.state();
                    let bases = [master.irq_base, slave.irq_base];
                    prop_assert!(bases.contains(&(vector & 0xf8)));
                    prop_assert!(was_pending || vector == master.irq_base | SPURIOUS);
                }
            }
            let (master, slave) = pic.state();
            prop_assert_eq!(master.irr & 4 != 0, slave.request(false).is_some());
            prop_assert!(pic.pending() || master.irr & !master.imr & !master.isr == 0
                || master.isr != 0);
            prop_assert!(master.priority_add < 8 && slave.priority_add < 8);
            let mut copy = DualPic::new();
            copy.restore(Chip::Master, &pic.save(Chip::Master));
            copy.restore(Chip::Slave, &pic.save(Chip::Slave));
            pic.take_ended();
            prop_assert_eq!(copy, pic);
        }
    }
}
