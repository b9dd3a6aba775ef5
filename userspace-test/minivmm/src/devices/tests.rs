// SPDX-License-Identifier: GPL-2.0

//! The board as a guest sees it through its ports.

use std::thread::sleep;

use super::*;

const PIC_MASTER: u16 = 0x20;
const PIC_MASK: u16 = 0x21;
const PIT_CHANNEL_0: u16 = 0x40;
const PIT_CONTROL: u16 = 0x43;
const COM1_DATA: u16 = 0x3f8;
const COM1_INTERRUPT_ENABLE: u16 = 0x3f9;

/// A board with its own controllers, which need no KVM.
fn board() -> Board {
    Board::new(Irqchip::user(1))
}

fn interrupt_pending(board: &mut Board) -> bool {
    board.irqchip().pending(0)
}

fn outb(board: &mut Board, port: u16, value: u8) {
    board.write(port, 1, &[value]);
}

fn inb(board: &mut Board, port: u16) -> u8 {
    let mut data = [0];
    board.read(port, 1, &mut data);
    data[0]
}

/// Programs the master controller: vectors from 0x20, nothing masked.
fn program_pic(board: &mut Board) {
    for (port, value) in [
        (PIC_MASTER, 0x11),
        (PIC_MASK, 0x20),
        (PIC_MASK, 4),
        (PIC_MASK, 1),
    ] {
        outb(board, port, value);
    }
    outb(board, PIC_MASK, 0);
}

#[test]
fn nobody_s_port_floats_high() {
    let mut board = board();
    let mut data = [0; 4];
    board.read(0xcfc, 4, &mut data);
    assert_eq!(data, [0xff; 4]);
    assert_eq!(inb(&mut board, 0x80), 0xff);
}

#[test]
fn a_wide_access_is_one_access_a_byte() {
    let mut board = board();
    let mut wide = [0; 2];
    board.read(0x3fd, 2, &mut wide);
    assert_eq!(wide, [inb(&mut board, 0x3fd), inb(&mut board, 0x3fe)]);
    assert_ne!(wide, [0xff; 2]);
}

#[test]
fn a_wide_access_ends_at_the_last_port() {
    let mut board = board();
    let mut data = [0; 4];
    board.read(0xffff, 4, &mut data);
    assert_eq!(data, [0xff; 4]);
    board.write(0xfffe, 4, &[0; 4]);
}

#[test]
fn a_string_access_stays_on_its_port() {
    let mut board = board();
    board.write(COM1_DATA, 1, b"hello");
    assert_eq!(board.take_console_output(), b"hello");
}

#[test]
fn a_pci_configuration_address_does_not_reset() {
    let mut board = board();
    board.write(0xcf8, 4, &[0, 0xff, 0, 0x80]);
    assert_eq!(board.request(), None);
    outb(&mut board, 0xcf9, 0x06);
    assert_eq!(board.request(), Some(Request::Reset(Reset::PciControl)));
}

#[test]
fn one_wide_write_switches_off() {
    let mut board = board();
    let control = 1 << 13 | u16::from(power::S5) << 10;
    board.write(power::CONTROL_BLOCK, 2, &control.to_le_bytes());
    assert_eq!(board.request(), Some(Request::PowerOff));
}

#[test]
fn typing_raises_irq_4() {
    let mut board = board();
    program_pic(&mut board);
    outb(&mut board, COM1_INTERRUPT_ENABLE, 1);
    assert!(!interrupt_pending(&mut board));
    board.type_in(b"a");
    assert!(interrupt_pending(&mut board));
    assert_eq!(board.irqchip().acknowledge(0), Some(0x24));
    assert_eq!(inb(&mut board, COM1_DATA), b'a');
}

#[test]
fn the_timer_raises_irq_0_again_and_again() {
    let mut board = board();
    program_pic(&mut board);
    assert_eq!(board.next_deadline(), None);
    outb(&mut board, PIT_CONTROL, 0x34);
    outb(&mut board, PIT_CHANNEL_0, 0x00);
    outb(&mut board, PIT_CHANNEL_0, 0x10);
    let mut last = 0;
    for _ in 0..3 {
        let (tick, away) = board.next_deadline().expect("the timer runs");
        assert!(tick > last);
        last = tick;
        sleep(away);
        board.pass_time();
        assert!(interrupt_pending(&mut board));
        assert_eq!(board.irqchip().acknowledge(0), Some(0x20));
        outb(&mut board, PIC_MASTER, 0x20);
        assert!(!interrupt_pending(&mut board));
    }
}

#[test]
fn a_one_shot_timer_fires_once() {
    let mut board = board();
    program_pic(&mut board);
    outb(&mut board, PIT_CONTROL, 0x38);
    outb(&mut board, PIT_CHANNEL_0, 0x10);
    outb(&mut board, PIT_CHANNEL_0, 0x00);
    sleep(board.next_deadline().expect("the timer runs").1);
    board.pass_time();
    assert!(interrupt_pending(&mut board));
    assert_eq!(board.next_deadline(), None);
}

#[test]
fn a_tick_that_is_due_outlives_programming_the_timer() {
    let mut board = board();
    program_pic(&mut board);
    for (port, value) in [
        (PIT_CONTROL, 0x38),
        (PIT_CHANNEL_0, 0x10),
        (PIT_CHANNEL_0, 0),
    ] {
        board.write_timer(port, value, 0);
    }
    let (tick, _) = board.next_deadline().expect("the timer runs");
    board.write_timer(PIT_CONTROL, 0x38, tick);
    assert!(interrupt_pending(&mut board));
}

#[test]
fn a_count_counts_from_when_it_was_written() {
    let mut board = board();
    program_pic(&mut board);
    for (port, value) in [(PIT_CONTROL, 0x38), (PIT_CHANNEL_0, 1), (PIT_CHANNEL_0, 0)] {
        board.write_timer(port, value, 0);
    }
    sleep(Duration::from_micros(10));
    board.pass_time();
    assert_eq!(board.next_deadline(), None, "it is still to come");
    assert!(interrupt_pending(&mut board), "it never came");
}

#[test]
fn the_speaker_port_gates_channel_2() {
    let mut board = board();
    outb(&mut board, 0x61, 0x01);
    assert_eq!(inb(&mut board, 0x61) & 0x01, 0x01);
}

#[test]
fn the_power_button_is_the_system_control_interrupt() {
    const PIC_SLAVE: u16 = 0xa0;
    const PIC_SLAVE_MASK: u16 = 0xa1;
    const PM1_ENABLE_HIGH: u16 = power::EVENT_BLOCK + 3;
    let mut board = board();
    program_pic(&mut board);
    for (port, value) in [
        (PIC_SLAVE, 0x11),
        (PIC_SLAVE_MASK, 0x28),
        (PIC_SLAVE_MASK, 2),
        (PIC_SLAVE_MASK, 1),
        (PIC_SLAVE_MASK, 0),
    ] {
        outb(&mut board, port, value);
    }
    assert!(!board.press_power_button(), "nobody listens yet");
    assert!(!interrupt_pending(&mut board));
    outb(&mut board, PM1_ENABLE_HIGH, 1);
    assert!(interrupt_pending(&mut board));
    assert_eq!(board.irqchip().acknowledge(0), Some(0x28 + 1));
    assert!(board.press_power_button());
}
