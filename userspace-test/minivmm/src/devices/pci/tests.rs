// SPDX-License-Identifier: GPL-2.0

//! The bus, by its ports.

use super::config::{COMMAND, VENDOR};
use super::*;

/// A function with nothing but a configuration space and a byte of memory at 0x1000.
struct Plain {
    config: ConfigSpace,
    byte: u8,
}

impl Function for Plain {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn read(&mut self, address: u64, data: &mut [u8]) -> bool {
        data.fill(self.byte);
        address == 0x1000
    }

    fn write(&mut self, address: u64, data: &[u8]) -> bool {
        if address == 0x1000 {
            self.byte = data[0];
        }
        address == 0x1000
    }

    fn wants_line(&self) -> bool {
        self.byte != 0
    }
}

fn bus(functions: usize) -> PciBus {
    let function = |index| {
        let mut config = ConfigSpace::new(0x1234, index as u16, [0xff, 0, 0]);
        config.allow(COMMAND, &[0x06, 0x04]);
        Box::new(Plain { config, byte: 0 }) as Box<dyn Function>
    };
    PciBus::new((0..functions).map(function).collect())
}

fn select(bus: &mut PciBus, address: u32) {
    bus.write_port(ADDRESS, &address.to_le_bytes());
}

fn read_port<const N: usize>(bus: &mut PciBus, port: u16) -> [u8; N] {
    let mut data = [0; N];
    bus.read_port(port, &mut data);
    data
}

#[test]
fn functions_are_in_their_slots() {
    let mut bus = bus(2);
    for (slot, expected) in [
        (0, 0x0008_1b36),
        (1, 0x1234),
        (2, 0x0001_1234),
        (3, u32::MAX),
    ] {
        select(&mut bus, ENABLE | slot << 11);
        assert_eq!(
            u32::from_le_bytes(read_port(&mut bus, DATA)),
            expected,
            "slot {slot}"
        );
    }
    // Other functions and other buses are nowhere, and neither is what is not enabled.
    for address in [ENABLE | 1 << 11 | 1 << 8, ENABLE | 1 << 16, 1 << 11] {
        select(&mut bus, address);
        assert_eq!(read_port(&mut bus, DATA), [0xff; 4], "{address:#x}");
    }
}

#[test]
fn registers_are_reached_in_any_width() {
    let mut bus = bus(1);
    select(&mut bus, ENABLE | 1 << 11 | COMMAND as u32);
    bus.write_port(DATA, &[0xff; 2]);
    assert_eq!(read_port(&mut bus, DATA), [0x06, 0x04]);
    assert_eq!(read_port(&mut bus, DATA + 1), [0x04]);
    bus.write_port(DATA + 1, &[0]);
    assert_eq!(read_port(&mut bus, DATA), [0x06, 0x00, 0x00, 0x00]);
    // What is read only stays.
    select(&mut bus, ENABLE | 1 << 11 | VENDOR as u32);
    bus.write_port(DATA, &[0; 4]);
    assert_eq!(read_port(&mut bus, DATA), [0x34, 0x12]);
    // The address register is one of 32 bits.
    bus.write_port(ADDRESS, &[0; 2]);
    assert_eq!(
        read_port(&mut bus, ADDRESS),
        (ENABLE | 1 << 11).to_le_bytes()
    );
}

#[test]
fn no_access_reaches_past_a_configuration_space() {
    let mut bus = bus(1);
    select(&mut bus, ENABLE | 1 << 11 | 0xfc);
    for port in DATA..=DATA + 3 {
        bus.write_port(port, &[0xff; 4]);
        let _: [u8; 4] = read_port(&mut bus, port);
    }
}

#[test]
fn lines_are_shared_by_slots_that_are_eight_apart() {
    let mut bus = bus(9);
    assert_eq!(bus.wanted_lines(), 0);
    bus.functions[0].write(0x1000, &[1]);
    assert_eq!((gsi(1), bus.wanted_lines()), (17, 0b10));
    bus.functions[8].write(0x1000, &[1]);
    bus.functions[0].write(0x1000, &[0]);
    assert_eq!((gsi(9), bus.wanted_lines()), (17, 0b10));
    bus.functions[8].write(0x1000, &[0]);
    assert_eq!(bus.wanted_lines(), 0);
}

#[test]
fn memory_is_the_first_function_s_that_has_it() {
    let mut bus = bus(2);
    assert!(bus.write(0x1000, &[7]));
    let mut data = [0];
    assert!(bus.read(0x1000, &mut data));
    assert_eq!(data, [7]);
    assert!(!bus.write(0x2000, &[7]));
}

#[test]
fn configuration_spaces_are_in_memory_too() {
    let mut bus = bus(2);
    let mut read = |address| {
        let mut data = [0; 4];
        assert!(bus.read(address, &mut data));
        u32::from_le_bytes(data)
    };
    assert_eq!(read(ECAM) & 0xffff, 0x1b36);
    assert_eq!(read(ECAM + (2 << 15)), 0x0001_1234);
    // Behind the first 256 bytes there is nothing, which is not the same as no function.
    assert_eq!(read(ECAM + (2 << 15) + 0x100), 0);
    assert_eq!(read(ECAM + (2 << 15) + 0xffc), 0);
    assert_eq!(read(ECAM + (2 << 15) + (1 << 12)), u32::MAX);
    assert_eq!(read(ECAM + (3 << 15)), u32::MAX);
    assert_eq!(read(ECAM + ECAM_LENGTH - 4), u32::MAX);
    assert!(!bus.read(ECAM + ECAM_LENGTH, &mut [0; 4]));
    assert!(!bus.read(ECAM - 4, &mut [0; 4]));

    assert!(bus.write(ECAM + (1 << 15) + COMMAND as u64, &[0x06, 0x04]));
    assert!(bus.write(ECAM + (1 << 15) + 0xffe, &[1, 2, 3, 4]));
    select(&mut bus, 1 << 31 | 1 << 11 | COMMAND as u32);
    assert_eq!(read_port::<2>(&mut bus, DATA), [0x06, 0x04]);
}
