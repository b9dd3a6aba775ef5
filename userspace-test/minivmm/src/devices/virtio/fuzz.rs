// SPDX-License-Identifier: GPL-2.0

//! A driver that does anything at all, as a stream of bytes tells it: configuration spaces,
//! registers, rings and descriptors of every device on both transports.
//!
//! Nothing may come of it but what a guest does to itself: no panic, no overflow, no access outside
//! of guest memory, no work without an end. It repeats exactly: the devices work on its thread.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::backend::{Backend, Doorbell};
use super::balloon::Statistics;
use super::block::Image;
use super::console::{Console, Input, Size};
use super::pci::Interrupts;
use super::worker::inline;
use super::{Balloon, Block, Lineage, Lines, MmioBus, Rng, VirtioDevice, VirtioPci};
use crate::devices::irqchip::Irqchip;
use crate::devices::pci::{self, Function, PciBus};
use crate::devices::{virtio, Board};

/// Bytes of guest memory and of the disk.
const MEMORY: usize = 1 << 20;
const DISK: u64 = 64 << 10;
/// Where a driver that sets queues up puts them, and entries of each.
const RINGS: u64 = 0x1000;
const STRIDE: u64 = 0x1000;
const SIZE: u16 = 8;

/// Connects nothing: every doorbell comes by its register.
struct Nowhere;

impl Backend for Nowhere {
    fn connect_doorbell(
        &self,
        _event: &vmm_sys_util::eventfd::EventFd,
        _doorbell: Doorbell,
    ) -> std::io::Result<()> {
        Ok(())
    }

    fn disconnect_doorbell(&self, _event: &vmm_sys_util::eventfd::EventFd, _doorbell: Doorbell) {}

    fn connect_interrupt(
        &self,
        _event: &vmm_sys_util::eventfd::EventFd,
        _gsi: u32,
    ) -> std::io::Result<()> {
        Ok(())
    }

    fn disconnect_interrupt(&self, _event: &vmm_sys_util::eventfd::EventFd, _gsi: u32) {}

    fn set_message(&self, _gsi: u32, _address: u64, _data: u32) -> std::io::Result<()> {
        Ok(())
    }
}

/// The bytes that tell what to do; zeroes once they are at their end.
struct Orders<'a>(&'a [u8]);

impl Orders<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let count = N.min(self.0.len());
        bytes[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        bytes
    }

    fn u8(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    /// An access: its width and its bytes.
    fn access(&mut self) -> Vec<u8> {
        let width = 1 << (self.u8() & 3);
        self.take::<8>()[..width].to_vec()
    }

    /// Mostly an address within guest memory.
    fn address(&mut self) -> u64 {
        match self.u8() {
            0xff => u64::from_le_bytes(self.take()),
            page => u64::from(page) << 12 | u64::from(self.u16() & 0xfff),
        }
    }
}

/// How many devices there are.
const DEVICES: u8 = 4;
/// Queues of each.
const QUEUES: [u16; DEVICES as usize] = [1, 1, 4, 2];

/// A machine of nothing but its board.
struct Machine {
    board: Board,
    memory: Arc<GuestMemoryMmap>,
    lines: Lines,
    pci: bool,
}

/// Guest-physical address of a device's registers.
fn registers(pci: bool, device: u8) -> u64 {
    let device = u64::from(device % DEVICES);
    if pci {
        pci::WINDOW + virtio::pci::LENGTH * (device + 1)
    } else {
        super::mmio::BASE + super::mmio::LENGTH * device
    }
}

fn blank_disk() -> Image {
    // SAFETY: the name is a string with its end, and the descriptor is nobody's but the file's.
    let file = unsafe {
        let fd = libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "no memory for a disk");
        File::from_raw_fd(fd)
    };
    file.set_len(DISK).expect("as long as that");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Image::open(Path::new(&path), false).expect("a disk")
}

impl Machine {
    fn new(pci: bool, messages: bool) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).expect("memory");
        let memory = Arc::new(memory);
        let lines = Lines::new().expect("an eventfd");
        let mut board = Board::new(Irqchip::user(1));
        let input = Arc::new(Input::new().expect("an eventfd"));
        let size = Some(Size {
            columns: 80,
            rows: 25,
        });
        let console = Console::new(Arc::clone(&input), Arc::new(|_: &[u8]| Ok(())), size);
        board.type_into(input);
        let devices: Vec<Box<dyn VirtioDevice>> = vec![
            Box::new(Block::new(blank_disk())),
            Box::new(Rng::default()),
            Box::new(Balloon::new(1, Some(Statistics::default()))),
            Box::new(console),
        ];
        let backend: Arc<dyn Backend> = Arc::new(Nowhere);
        if pci {
            let functions = (1..).zip(devices).map(|(slot, device)| {
                let interrupts = Interrupts {
                    lines: &lines,
                    first_gsi: messages.then_some(24 + 8 * slot as u32),
                };
                let function = VirtioPci::new(device, slot, &memory, &backend, &interrupts);
                Box::new(function.expect("eventfds")) as Box<dyn Function>
            });
            board.add_pci(PciBus::new(functions.collect()));
        } else {
            let lineage = Lineage::Board(lines.clone());
            let bus = MmioBus::new(devices, &memory, backend.as_ref(), &lineage);
            board.add_virtio(bus.expect("eventfds"));
        }
        Self {
            board,
            memory,
            lines,
            pci,
        }
    }

    fn config(&mut self, slot: u8, offset: u8, data: &[u8]) {
        let address = 1 << 31 | u32::from(slot) << 11 | u32::from(offset & 0xfc);
        self.board.write(pci::ADDRESS, 4, &address.to_le_bytes());
        self.board
            .write(pci::DATA + u16::from(offset & 3), data.len(), data);
        let mut back = data.to_vec();
        self.board
            .read(pci::DATA + u16::from(offset & 3), data.len(), &mut back);
    }

    fn store(&mut self, address: u64, data: &[u8]) {
        self.board.store(0, address, data);
    }

    /// Sets a device up as a driver should, with the features it likes.
    fn start(&mut self, device: u8, features: u32) {
        let base = registers(self.pci, device);
        let queues = QUEUES[usize::from(device % DEVICES)];
        if self.pci {
            self.config(device % DEVICES + 1, 4, &[6, 0]);
            self.store(base + 0x14, &[0]);
            self.store(base + 0x14, &[3]);
            for (select, half) in [(0u32, features), (1, 1)] {
                self.store(base + 0x08, &select.to_le_bytes());
                let mut offered = [0; 4];
                self.store(base, &select.to_le_bytes());
                self.board.load(0, base + 0x04, &mut offered);
                let half = half & u32::from_le_bytes(offered);
                self.store(base + 0x0c, &half.to_le_bytes());
            }
            self.store(base + 0x14, &[0xb]);
            for queue in 0..queues {
                let at = RINGS + STRIDE * u64::from(queue);
                self.store(base + 0x16, &queue.to_le_bytes());
                self.store(base + 0x18, &SIZE.to_le_bytes());
                for (offset, part) in [(0x20, at), (0x28, at + 0x400), (0x30, at + 0x800)] {
                    self.store(base + offset, &part.to_le_bytes());
                }
                self.store(base + 0x1c, &[1, 0]);
            }
            self.store(base + 0x14, &[0xf]);
        } else {
            for (register, value) in [(0x70, 0), (0x70, 3), (0x24, 0), (0x14, 0)] {
                self.store(base + register, &u32::to_le_bytes(value));
            }
            let mut offered = [0; 4];
            self.board.load(0, base + 0x10, &mut offered);
            let half = features & u32::from_le_bytes(offered);
            for (register, value) in [(0x20, half), (0x24, 1), (0x20, 1), (0x70, 0xb)] {
                self.store(base + register, &u32::to_le_bytes(value));
            }
            for queue in 0..u32::from(queues) {
                let at = RINGS as u32 + STRIDE as u32 * queue;
                for (register, value) in [
                    (0x30, queue),
                    (0x38, SIZE.into()),
                    (0x80, at),
                    (0x90, at + 0x400),
                    (0xa0, at + 0x800),
                    (0x44, 1),
                ] {
                    self.store(base + register, &u32::to_le_bytes(value));
                }
            }
            self.store(base + 0x70, &0xfu32.to_le_bytes());
        }
    }

    fn ring(&mut self, device: u8, queue: u16) {
        let base = registers(self.pci, device);
        if self.pci {
            self.store(base + 0x3000 + 4 * u64::from(queue), &queue.to_le_bytes());
        } else {
            self.store(base + 0x50, &u32::from(queue).to_le_bytes());
        }
    }

    /// Makes the chain from `head` on available, and rings.
    fn give(&mut self, device: u8, queue: u16, head: u16) {
        let available = RINGS + STRIDE * u64::from(queue) + 0x400;
        let index: u16 = self
            .memory
            .read_obj(GuestAddress(available + 2))
            .expect("memory");
        let entry = available + 4 + 2 * u64::from(index % SIZE);
        self.memory
            .write_obj(head, GuestAddress(entry))
            .expect("memory");
        let next = GuestAddress(available + 2);
        self.memory
            .write_obj(index.wrapping_add(1), next)
            .expect("memory");
        self.ring(device, queue);
    }

    fn step(&mut self, bytes: &mut Orders<'_>) {
        match bytes.u8() % 11 {
            0 => {
                let (slot, offset) = (bytes.u8() % (DEVICES + 2), bytes.u8());
                let data = bytes.access();
                let fits = usize::from(offset & 3) + data.len() <= 4;
                if fits {
                    self.config(slot, offset, &data);
                } else {
                    // The same by memory, where an access can have any width and go anywhere.
                    let offset = u64::from(offset) << (bytes.u8() & 7);
                    let address = pci::ECAM + (u64::from(slot) << 15) + offset;
                    self.store(address, &data);
                    self.board.load(0, address, &mut data.clone());
                }
            }
            1 => {
                let address = registers(self.pci, bytes.u8()) + u64::from(bytes.u16() & 0x7fff);
                let data = bytes.access();
                self.store(address, &data);
            }
            2 => {
                let address = registers(self.pci, bytes.u8()) + u64::from(bytes.u16() & 0x7fff);
                let mut data = bytes.access();
                self.board.load(0, address, &mut data);
            }
            3 => {
                let address = GuestAddress(bytes.address());
                // Where there is no memory there is nothing to write.
                let _ = self.memory.write_slice(&bytes.take::<16>(), address);
            }
            4 | 5 => {
                let (queue, number) = (u64::from(bytes.u8() % 3), u64::from(bytes.u8() % 10));
                let address = bytes.address().to_le_bytes();
                let length = match bytes.u8() {
                    0xff => bytes.u32(),
                    small => u32::from(small) * 16,
                };
                let (flags, next) = (bytes.u8() & 7, bytes.u8() % 10);
                let mut descriptor = [0; 16];
                descriptor[..8].copy_from_slice(&address);
                descriptor[8..12].copy_from_slice(&length.to_le_bytes());
                (descriptor[12], descriptor[14]) = (flags, next);
                let at = GuestAddress(RINGS + STRIDE * queue + 16 * number);
                self.memory.write_slice(&descriptor, at).expect("memory");
            }
            6 => {
                let (device, features) = (bytes.u8(), bytes.u32());
                self.start(device, features);
            }
            7 | 8 => {
                let (device, queue, head) = (bytes.u8(), bytes.u8() % 3, bytes.u8() % 10);
                self.give(device, queue.into(), head.into());
            }
            9 => {
                let (device, queue) = (bytes.u8(), bytes.u16());
                self.ring(device, queue);
            }
            _ => self.board.type_in(&bytes.take::<4>()),
        }
        inline::run();
        self.lines.clear();
        self.board.move_lines();
    }
}

/// Does what `bytes` say to the devices of a new machine.
pub fn drive(bytes: &[u8]) {
    inline::want();
    let mut bytes = Orders(bytes);
    let kind = bytes.u8();
    let mut machine = Machine::new(kind & 1 != 0, kind & 2 != 0);
    while !bytes.is_empty() {
        machine.step(&mut bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: u64 = 2000;
    const LENGTH: usize = 1024;

    /// The next of a row of random numbers (xorshift64).
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn no_driver_does_harm() {
        let runs = std::env::var("DEVICE_FUZZ_RUNS").map_or(RUNS, |runs| {
            runs.parse().expect("DEVICE_FUZZ_RUNS is a number")
        });
        for run in 1..=runs {
            let mut state = run.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bytes: Vec<u8> = (0..LENGTH)
                .map(|_| (next(&mut state) >> 24) as u8)
                .collect();
            drive(&bytes);
        }
    }

    /// What libFuzzer found to reach code that nothing shorter does (scripts/fuzz).
    #[test]
    fn no_kept_driver_does_harm() {
        let kept = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../fuzz/corpus/devices"
        ));
        let mut drivers = 0;
        for line in kept.lines().filter(|line| !line.starts_with('#')) {
            let digit = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).expect("a byte");
            let orders: Vec<u8> = (0..line.len()).step_by(2).map(digit).collect();
            drive(&orders);
            drivers += 1;
        }
        assert!(drivers > 0, "the file is empty");
    }

    #[test]
    fn a_driver_that_does_right_is_served() {
        // A machine on PCI: the disk is started, and given a request to tell its name.
        let mut machine = Machine::new(true, false);
        inline::want();
        machine.start(0, 0);
        let request = [8u32, 0, 0, 0];
        machine
            .memory
            .write_obj(request, GuestAddress(0x8000))
            .expect("memory");
        for (number, word) in [(0u64, [16u32, 1 << 16 | 1]), (1, [21, 2])] {
            let at = RINGS + 16 * number;
            let address = 0x8000 + 0x100 * number;
            machine
                .memory
                .write_obj(address, GuestAddress(at))
                .expect("memory");
            machine
                .memory
                .write_obj(word, GuestAddress(at + 8))
                .expect("memory");
        }
        machine.give(0, 0, 0);
        inline::run();
        let used: [u32; 3] = machine
            .memory
            .read_obj(GuestAddress(RINGS + 0x800))
            .expect("memory");
        assert_eq!(used, [1 << 16, 0, 21]);
    }
}
