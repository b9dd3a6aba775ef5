// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::apic::{Delivery, Destination};
use proptest::prelude::*;
use std::vec::Vec;
use LineStatus::{Coalesced, Delivered, Ignored};

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;

/// An I/O APIC and the messages it has sent, each of which one processor takes.
#[derive(Default)]
struct Machine {
    ioapic: Ioapic,
    sent: Vec<Message>,
}

impl Machine {
    fn deliver(sent: &mut Vec<Message>) -> impl FnMut(&Message) -> Option<u32> + '_ {
        |message| {
            sent.push(*message);
            Some(1)
        }
    }

    fn set_line(&mut self, pin: u8, level: bool) -> LineStatus {
        let deliver = Self::deliver(&mut self.sent);
        self.ioapic.set_line(pin, level, false, deliver)
    }

    /// Programs an entry, the half with the mask last, as Linux does.
    fn program(&mut self, pin: u8, low: u32, high: u32) -> Written {
        self.write(0x11 + 2 * u32::from(pin), high);
        self.write(0x10 + 2 * u32::from(pin), low)
    }

    fn write(&mut self, register: u32, value: u32) -> Written {
        assert_eq!(self.ioapic.write(0x00, register), Written::Nothing);
        let written = self.ioapic.write(0x10, value);
        if let Written::Entry {
            pin, pending: true, ..
        } = written
        {
            self.ioapic.resend(pin, Self::deliver(&mut self.sent));
        }
        written
    }

    fn read(&mut self, register: u32) -> u32 {
        assert_eq!(self.ioapic.write(0x00, register), Written::Nothing);
        self.ioapic.read(0x10)
    }

    fn end(&mut self, vector: u8) -> bool {
        let pins = self.ioapic.pins_of(vector);
        self.ioapic.eoi(pins, Self::deliver(&mut self.sent))
    }

    fn vectors(&mut self) -> Vec<u8> {
        self.sent.drain(..).map(|message| message.vector).collect()
    }
}

#[test]
fn registers_after_reset() {
    let mut machine = Machine::default();
    assert_eq!(machine.read(0), 0);
    assert_eq!(machine.read(1), 0x0017_0011);
    assert_eq!(machine.read(2), 0);
    for register in (0x10..0x40).step_by(2) {
        assert_eq!(machine.read(register), MASKED);
        assert_eq!(machine.read(register + 1), 0);
    }
    for register in [3, 0xf, 0x40, 0xff] {
        assert_eq!(machine.read(register), u32::MAX, "{register:#x}");
        assert_eq!(machine.write(register, 0), Written::Nothing);
    }
    assert_eq!(machine.ioapic.base_address(), DEFAULT_BASE);
}

#[test]
fn id_and_select() {
    let mut machine = Machine::default();
    machine.write(0, 0xffff_ffff);
    assert_eq!(
        (machine.read(0), machine.read(2)),
        (0x0f00_0000, 0x0f00_0000)
    );
    machine.write(1, 0);
    machine.write(2, 0);
    assert_eq!(
        (machine.read(0), machine.read(1)),
        (0x0f00_0000, 0x0017_0011)
    );
    machine.ioapic.write(0, 0x1234_5612);
    assert_eq!(machine.ioapic.read(0), 0x12);
    assert_eq!(machine.ioapic.read(0x100), 0x12, "the page repeats");
    assert_eq!(machine.ioapic.read(0x20), 0);
    assert_eq!(machine.ioapic.write(0x20, 1), Written::Nothing);
}

#[test]
fn widths() {
    let mut ioapic = Ioapic::new();
    let mut bytes = [0xee; 8];
    ioapic.write_bytes(0, &[1]);
    ioapic.read_bytes(0x10, &mut bytes);
    assert_eq!(bytes, [0x11, 0, 0x17, 0, 0, 0, 0, 0]);
    ioapic.read_bytes(0x10, &mut bytes[..2]);
    assert_eq!(bytes[..2], [0x11, 0]);
    ioapic.write_bytes(0, &[0x10, 0, 0, 0]);
    ioapic.write_bytes(0x10, &[0x34, 0x82, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(ioapic.entry(0), Some(Entry(0x8234)));
    ioapic.write_bytes(0x10, &[1, 2, 3]);
    assert_eq!(ioapic.entry(0), Some(Entry(0x8234)));
    ioapic.write_bytes(0x10, &[0x41, 0x01]);
    assert_eq!(ioapic.entry(0), Some(Entry(0x141)));
}

#[test]
fn an_edge_is_one_interrupt() {
    let mut machine = Machine::default();
    machine.program(4, 0x34, 0x0500_0000);
    assert_eq!(machine.set_line(4, true), Delivered(1));
    let message = Message {
        destination: Destination::Physical(5),
        x2apic: false,
        delivery: Delivery::Fixed,
        vector: 0x34,
        level: false,
        assert: true,
        redirection_hint: false,
    };
    assert_eq!(machine.sent, [message]);
    assert_eq!(machine.set_line(4, true), Coalesced, "no edge");
    assert_eq!(machine.set_line(4, false), Delivered(1));
    assert_eq!(machine.set_line(4, true), Delivered(1));
    assert_eq!(machine.vectors(), [0x34, 0x34]);
    assert!(!machine.end(0x34));
    assert_eq!(machine.vectors(), [], "an EOI means nothing to it");
}

#[test]
fn what_an_entry_sends() {
    let mut machine = Machine::default();
    machine.program(0, 0x0931, 0x0300_0000);
    machine.set_line(0, true);
    assert_eq!(machine.sent[0].destination, Destination::Logical(3));
    assert_eq!(machine.sent[0].delivery, Delivery::LowestPriority);
    machine.program(1, LEVEL | 0x432, 0);
    machine.set_line(1, true);
    assert_eq!(machine.sent[1].delivery, Delivery::Nmi);
    assert!(machine.sent[1].level);
}

#[test]
fn masked_edges() {
    let mut machine = Machine::default();
    machine.program(4, MASKED | 0x34, 0);
    assert_eq!(machine.set_line(4, true), Ignored);
    assert_eq!(machine.set_line(4, true), Coalesced);
    machine.program(4, 0x34, 0);
    assert_eq!(machine.vectors(), [], "an edge while masked is lost");
    machine.set_line(4, false);
    machine.set_line(4, true);
    assert_eq!(machine.vectors(), [0x34]);
}

#[test]
fn a_level_is_sent_until_it_ends_low() {
    let mut machine = Machine::default();
    machine.program(9, LEVEL | 0x49, 0);
    assert_eq!(machine.set_line(9, true), Delivered(1));
    assert_eq!(machine.read(0x22), LEVEL | REMOTE_IRR | 0x49);
    assert_eq!(machine.set_line(9, true), Ignored, "waits for its EOI");
    assert_eq!(machine.vectors(), [0x49]);
    assert!(!machine.end(0x49));
    assert_eq!(machine.vectors(), [0x49], "still asserted");
    machine.set_line(9, false);
    assert_eq!(machine.read(0x22), LEVEL | REMOTE_IRR | 0x49);
    assert!(!machine.end(0x49));
    assert_eq!(machine.vectors(), []);
    assert_eq!(machine.read(0x22), LEVEL | 0x49);
    assert_eq!(machine.set_line(9, true), Delivered(1));
}

#[test]
fn a_level_that_was_masked_is_sent_when_unmasked() {
    let mut machine = Machine::default();
    machine.program(9, MASKED | LEVEL | 0x49, 0);
    assert_eq!(machine.set_line(9, true), Ignored);
    let old = Entry((MASKED | LEVEL | 0x49).into());
    let new = Entry((LEVEL | 0x49).into());
    let written = Written::Entry {
        pin: 9,
        old,
        new,
        pending: true,
    };
    assert_eq!(machine.program(9, LEVEL | 0x49, 0), written);
    assert_eq!(machine.vectors(), [0x49]);
    // With remote IRR set nothing is pending.
    assert!(matches!(
        machine.program(9, LEVEL | 0x49, 0),
        Written::Entry { pending: false, .. }
    ));
    machine.program(9, MASKED | LEVEL | 0x49, 0);
    machine.end(0x49);
    machine.ioapic.withdraw(9);
    machine.ioapic.withdraw(99);
    machine.program(9, LEVEL | 0x49, 0);
    assert_eq!(machine.vectors(), [], "withdrawn for resampling");
}

#[test]
fn remote_irr_is_read_only_and_goes_with_the_level() {
    let mut machine = Machine::default();
    machine.program(9, LEVEL | REMOTE_IRR | 1 << 12 | 0x49, 0);
    assert_eq!(machine.read(0x22), LEVEL | 0x49);
    machine.set_line(9, true);
    machine.program(9, LEVEL | 0x50, 0x0100_0000);
    assert_eq!(machine.read(0x22), LEVEL | REMOTE_IRR | 0x50);
    machine.program(9, MASKED | 0x50, 0);
    assert_eq!(machine.read(0x22), MASKED | 0x50, "Linux's explicit EOI");
}

#[test]
fn who_takes_it_decides_about_remote_irr() {
    for (takers, status, remote_irr) in [
        (Some(2), Delivered(2), true),
        (Some(0), Coalesced, false),
        (None, Ignored, true),
    ] {
        let mut machine = Machine::default();
        machine.program(9, LEVEL | 0x49, 0);
        let line = machine.ioapic.set_line(9, true, false, |_| takers);
        assert_eq!(line, status);
        assert_eq!(machine.ioapic.entry(9).unwrap().remote_irr(), remote_irr);
    }
}

#[test]
fn an_eoi_is_for_all_inputs_with_the_vector() {
    let mut machine = Machine::default();
    for pin in [3, 9, 23] {
        machine.program(pin, LEVEL | 0x49, 0);
        machine.set_line(pin, true);
    }
    machine.program(5, 0x49, 0);
    machine.program(6, LEVEL | 0x50, 0);
    machine.vectors();
    assert_eq!(
        machine.ioapic.pins_of(0x49),
        1 << 3 | 1 << 5 | 1 << 9 | 1 << 23
    );
    machine.set_line(9, false);
    machine.end(0x49);
    assert_eq!(machine.vectors(), [0x49, 0x49]);
    assert!(!machine.ioapic.entry(9).unwrap().remote_irr());
}

#[test]
fn a_storm_is_slowed_down() {
    let mut machine = Machine::default();
    machine.program(9, LEVEL | 0x49, 0);
    machine.set_line(9, true);
    for _ in 0..STORM - 1 {
        assert!(!machine.end(0x49));
    }
    assert_eq!(machine.vectors().len(), usize::from(STORM));
    assert!(machine.end(0x49));
    assert_eq!(machine.vectors(), []);
    let deliver = Machine::deliver(&mut machine.sent);
    machine.ioapic.reinject(deliver);
    assert_eq!(machine.vectors(), [0x49]);
    assert!(!machine.end(0x49), "and it counts anew");

    machine.vectors();
    let deliver = Machine::deliver(&mut machine.sent);
    machine.ioapic.reinject(deliver);
    assert_eq!(machine.vectors(), [], "waits for its EOI");
}

#[test]
fn a_quiet_line_is_no_storm() {
    let mut machine = Machine::default();
    machine.program(9, LEVEL | 0x49, 0);
    for _ in 0..u32::from(STORM) * 2 {
        machine.set_line(9, true);
        machine.set_line(9, false);
        assert!(!machine.end(0x49));
    }
}

#[test]
fn ticks_of_the_clock_are_coalesced_until_they_end() {
    let mut machine = Machine::default();
    machine.program(RTC_PIN, 0x48, 0);
    let mut tick = |takers| {
        let ioapic = &mut machine.ioapic;
        let status = ioapic.set_line(RTC_PIN, true, true, |_| takers);
        ioapic.set_line(RTC_PIN, false, true, |_| None);
        status
    };
    assert_eq!(tick(Some(2)), Delivered(2));
    assert_eq!(tick(Some(2)), Coalesced);
    machine.ioapic.pins_of(0x47);
    machine.ioapic.pins_of(0x48);
    let mut tick = |takers| machine.ioapic.set_line(RTC_PIN, true, true, |_| takers);
    assert_eq!(tick(Some(1)), Coalesced, "one processor is still at it");
    machine.ioapic.pins_of(0x48);
    machine.set_line(RTC_PIN, false);
    let mut tick = |takers| machine.ioapic.set_line(RTC_PIN, true, true, |_| takers);
    assert_eq!(tick(None), Ignored);
    machine.set_line(RTC_PIN, false);
    assert_eq!(machine.set_line(RTC_PIN, true), Delivered(1));
}

#[test]
fn pins_past_the_last_are_none() {
    let mut machine = Machine::default();
    for pin in [24, 31, 32, 255] {
        assert_eq!(machine.set_line(pin, true), Ignored);
        assert_eq!(machine.ioapic.entry(pin), None);
        assert_eq!(machine.ioapic.resend(pin, |_| Some(1)), Ignored);
    }
    assert!(!machine.ioapic.eoi(0xff00_0000, |_| Some(1)));
    assert_eq!(machine.ioapic, Ioapic::new());
}

#[test]
fn whose_ends_come_here() {
    let mut machine = Machine::default();
    machine.program(3, LEVEL | 0x43, 0);
    machine.program(4, 0x44, 0);
    machine.program(5, 0x45, 0);
    machine.program(RTC_PIN, 0x48, 0);
    let vectors = |watched| -> Vec<u8> {
        let messages = machine.ioapic.ended_here(watched);
        messages.map(|message| message.vector).collect()
    };
    assert_eq!(vectors(0), [0x43, 0x48]);
    assert_eq!(vectors(1 << 5), [0x43, 0x45, 0x48]);
}

#[test]
fn state_goes_round() {
    let mut machine = Machine::default();
    machine.program(3, LEVEL | 0x43, 0x0100_0000);
    machine.program(4, 0x44, 0);
    machine.program(5, MASKED | 0x45, 0);
    machine.program(6, MASKED | LEVEL | 0x46, 0);
    machine.write(0, 0x0300_0000);
    for pin in [3, 4, 5, 6] {
        machine.set_line(pin, true);
    }
    let state = machine.ioapic.state();
    assert_eq!(state.irr, 1 << 3 | 1 << 5 | 1 << 6, "4 was sent");
    assert_eq!((state.id, state.base_address), (3, DEFAULT_BASE));
    let bytes = state.to_bytes();
    assert_eq!(bytes.len(), 216);
    assert_eq!(bytes[..8], DEFAULT_BASE.to_le_bytes());
    assert_eq!((bytes[12], bytes[16]), (3, 0x68));
    assert_eq!(bytes[24 + 8 * 3..][..8], [0x43, 0xc0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(State::from_bytes(&bytes), state);

    let mut other = Machine::default();
    let deliver = Machine::deliver(&mut other.sent);
    other.ioapic.set_state(state, deliver);
    assert_eq!(
        other.vectors(),
        [],
        "3 waits for its EOI, 5 and 6 are masked"
    );
    assert_eq!(other.ioapic.state(), state);
    other.end(0x43);
    assert_eq!(other.vectors(), [0x43]);
    other.program(6, LEVEL | 0x46, 0);
    assert_eq!(other.vectors(), [0x46]);
    other.ioapic.reset();
    assert_eq!(other.ioapic, Ioapic::new());

    // What was pending and can be sent is.
    let mut waiting = state;
    waiting.redirtbl[5] = Entry(0x45);
    other
        .ioapic
        .set_state(waiting, Machine::deliver(&mut other.sent));
    assert_eq!(other.vectors(), [0x45]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Line(u8, bool),
    Write(u32, u32),
    Eoi(u8),
    Reinject,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..26, any::<bool>()).prop_map(|(pin, level)| Step::Line(pin, level)),
        // Few vectors, so that they meet.
        (0u32..0x42, any::<u32>())
            .prop_map(|(register, value)| Step::Write(register, value & !0xfc)),
        (0u8..4).prop_map(Step::Eoi),
        Just(Step::Reinject),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// A level-triggered entry sends only what is asserted, and once until its EOI; an edge sends
    /// once a rise.
    #[test]
    fn the_level_protocol_holds(steps in prop::collection::vec(step(), 1..300)) {
        let mut machine = Machine::default();
        let mut lines = 0u32;
        for step in steps {
            let before = machine.ioapic.state();
            let mut ended = 0;
            match step {
                Step::Line(pin, level) => {
                    if usize::from(pin) < PINS {
                        lines = if level { lines | 1 << pin } else { lines & !(1 << pin) };
                    }
                    machine.set_line(pin, level);
                }
                Step::Write(register, value) => {
                    machine.write(register, value);
                }
                Step::Eoi(vector) => {
                    ended = machine.ioapic.pins_of(vector);
                    machine.end(vector);
                }
                Step::Reinject => {
                    let deliver = Machine::deliver(&mut machine.sent);
                    machine.ioapic.reinject(deliver);
                }
            }
            prop_assert_eq!(machine.ioapic.state.irr, lines);
            let after = machine.ioapic.state();
            let mut sent = machine.vectors();
            for (pin, (old, new)) in before.redirtbl.iter().zip(after.redirtbl).enumerate() {
                let asserted = lines & (1 << pin) != 0;
                let had_ended = ended & (1 << pin) != 0;
                if new.remote_irr() && (!old.remote_irr() || had_ended) {
                    prop_assert!(new.is_level() && asserted && !new.is_masked());
                    let at = sent.iter().position(|vector| *vector == new.vector());
                    prop_assert!(at.is_some());
                    sent.remove(at.unwrap());
                }
                prop_assert!(!new.remote_irr() || new.is_level());
                let waits = asserted && new.is_level() && !new.is_masked();
                prop_assert!(!waits || new.remote_irr(), "not sent");
            }
            // The rest are edges: only a line that rose.
            let rose = matches!(step, Step::Line(_, true));
            prop_assert!(sent.is_empty() || rose && sent.len() == 1, "{:?}", sent);
            prop_assert_eq!(State::from_bytes(&after.to_bytes()), after);
        }
    }

    #[test]
    fn any_state_is_survived(
        bytes in prop::collection::vec(any::<u8>(), State::SIZE),
        steps in prop::collection::vec(step(), 1..20),
    ) {
        let mut machine = Machine::default();
        let state = State::from_bytes(&<[u8; State::SIZE]>::try_from(bytes).unwrap());
        machine.ioapic.set_state(state, Machine::deliver(&mut machine.sent));
        machine.ioapic.read(0x10);
        for step in steps {
            match step {
                Step::Line(pin, level) => {
                    machine.set_line(pin, level);
                }
                Step::Write(register, value) => {
                    machine.write(register, value);
                }
                Step::Eoi(vector) => {
                    machine.end(vector);
                }
                Step::Reinject => machine.ioapic.reinject(|_| Some(0)),
            }
        }
    }
}
