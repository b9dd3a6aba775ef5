// SPDX-License-Identifier: GPL-2.0

//! Devices of the VMM: by port, and by address.

use std::collections::VecDeque;

use kvm_ioctls::Kvm;

use super::report::Outcome;
use crate::guests::{mmio, port_io, Devices, Ended, Error, Guest, Machine, Session, Subject};

/// Devices on ports.
pub fn port_io(kvm: &Kvm) -> Result<Outcome, Error> {
    let mut devices = Ports::default();
    let mut outcome = drive(kvm, &port_io::PORT_IO, port_io::CHECKS, &mut devices)?;
    let text = String::from_utf8_lossy(&devices.received).into_owned();
    outcome.check(
        "the text that arrived at the device",
        format!("{text:?}"),
        text == port_io::MESSAGE,
    );
    Ok(outcome)
}

/// Devices at addresses.
pub fn mmio(kvm: &Kvm) -> Result<Outcome, Error> {
    let mut device = Registers::default();
    let mut outcome = drive(kvm, &mmio::MMIO, mmio::CHECKS, &mut device)?;
    let widths = format!("{:?}", device.widths);
    let right = device.widths == [1, 2, 4, 8];
    outcome.check(
        "widths in bytes of the stores that arrived at the device",
        widths,
        right,
    );
    Ok(outcome)
}

fn drive(
    kvm: &Kvm,
    guest: &'static Guest,
    checks: &[Subject],
    devices: &mut dyn Devices,
) -> Result<Outcome, Error> {
    let machine = Machine::new(kvm)?;
    let mut vcpu = machine.vcpu(0)?;
    machine.start_long_mode(&vcpu, guest)?;
    let mut session = Session::new(guest, &mut vcpu);
    session.expect(Ended::Done, devices)?;
    Ok(Outcome::of(&session, checks, &[]))
}

/// Keeps what is written to it and answers with the complement.
#[derive(Default)]
struct Latch {
    bytes: [u8; 8],
}

impl Latch {
    fn write(&mut self, data: &[u8]) {
        for (kept, byte) in self.bytes.iter_mut().zip(data) {
            *kept = !byte;
        }
    }

    fn read(&self, data: &mut [u8]) {
        for (byte, kept) in data.iter_mut().zip(self.bytes) {
            *byte = kept;
        }
    }
}

/// The devices of the port I/O guest.
#[derive(Default)]
struct Ports {
    latches: [Latch; 3],
    /// All text that was written.
    received: Vec<u8>,
    /// Text that has not been read back.
    echo: VecDeque<u8>,
    queue: VecDeque<u8>,
}

/// The number of the latch behind `port`: 8, 16 and 32 bits wide.
fn latch_of(port: u16) -> Option<usize> {
    (0..3).find(|latch| port_io::LATCH + 2 * *latch as u16 == port)
}

impl Devices for Ports {
    fn pio_write(&mut self, port: u16, data: &[u8]) -> bool {
        match port {
            port_io::TEXT => {
                self.received.extend(data);
                self.echo.extend(data.to_ascii_uppercase());
            }
            port_io::QUEUE => self.queue.extend(data),
            _ => match latch_of(port) {
                Some(latch) => self.latches[latch].write(data),
                None => return false,
            },
        }
        true
    }

    fn pio_read(&mut self, port: u16, data: &mut [u8]) -> bool {
        let source = match port {
            port_io::TEXT => &mut self.echo,
            port_io::QUEUE => &mut self.queue,
            _ => match latch_of(port) {
                Some(latch) => {
                    self.latches[latch].read(data);
                    return true;
                }
                None => return false,
            },
        };
        for byte in data {
            *byte = source.pop_front().unwrap_or(0xff); // what an empty bus reads
        }
        true
    }
}

/// The device of the MMIO guest.
#[derive(Default)]
struct Registers {
    latch: Latch,
    reads: u32,
    /// The width of each store, in bytes.
    widths: Vec<usize>,
}

impl Devices for Registers {
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) -> bool {
        self.widths.push(data.len());
        let there = gpa == mmio::DEVICE + mmio::LATCH;
        if there {
            self.latch.write(data);
        }
        there
    }

    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) -> bool {
        const LATCH: u64 = mmio::DEVICE + mmio::LATCH;
        const READS: u64 = mmio::DEVICE + mmio::READS;
        match (gpa, data) {
            (LATCH, data) => self.latch.read(data),
            (READS, data) if data.len() == 4 => {
                self.reads += 1;
                data.copy_from_slice(&self.reads.to_le_bytes());
            }
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latches_answer_with_the_complement_in_their_own_width() {
        let mut ports = Ports::default();
        assert!(ports.pio_write(port_io::LATCH + 2, &[0x34, 0x12]));
        let mut data = [0; 2];
        assert!(ports.pio_read(port_io::LATCH + 2, &mut data));
        assert_eq!(data, [0xcb, 0xed]);
        assert!(!ports.pio_write(port_io::LATCH + 1, &[0]));
    }

    #[test]
    fn text_comes_back_in_capitals_and_an_empty_queue_reads_ones() {
        let mut ports = Ports::default();
        ports.pio_write(port_io::TEXT, b"a b");
        let mut data = [0; 4];
        ports.pio_read(port_io::TEXT, &mut data);
        assert_eq!(&data, b"A B\xff");
    }

    #[test]
    fn every_read_of_the_counter_counts() {
        let mut device = Registers::default();
        let mut data = [0; 4];
        for reads in 1..=3u32 {
            assert!(device.mmio_read(mmio::DEVICE + mmio::READS, &mut data));
            assert_eq!(data, reads.to_le_bytes());
        }
        assert!(!device.mmio_read(mmio::DEVICE + mmio::READS, &mut [0; 2]));
        assert!(!device.mmio_read(mmio::DEVICE + 0x20, &mut data));
    }
}
