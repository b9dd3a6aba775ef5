// SPDX-License-Identifier: GPL-2.0

//! Running a guest on one vCPU and listening to what it reports.

use std::collections::BTreeMap;
use std::fmt;

use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{ports, Error, Guest};

/// The devices that a guest finds besides the reporting ports. Each call answers whether there is
/// a device at that place.
pub trait Devices {
    /// IN: fill `data`. String forms bring more than one item.
    fn pio_read(&mut self, _port: u16, _data: &mut [u8]) -> bool {
        false
    }
    /// OUT of `data`.
    fn pio_write(&mut self, _port: u16, _data: &[u8]) -> bool {
        false
    }
    /// A load from `gpa`: fill `data`.
    fn mmio_read(&mut self, _gpa: u64, _data: &mut [u8]) -> bool {
        false
    }
    /// A store of `data` to `gpa`.
    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) -> bool {
        false
    }
}

/// For guests that need none.
pub struct NoDevices;

impl Devices for NoDevices {}

/// What a guest said about one thing it looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// The value it found.
    pub seen: u32,
    /// Whether that was right, by the guest's own comparison.
    pub right: bool,
}

/// Why [`Session::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guest has shown everything.
    Done,
    /// The guest executed HLT.
    Halted,
    /// The guest set a marker.
    Marked,
    /// The guest waits for its turn.
    Turn,
}

/// Where a device may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A port.
    Port(u16),
    /// A guest-physical address.
    Address(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port:#x}"),
            Self::Address(gpa) => write!(f, "address {gpa:#x}"),
        }
    }
}

/// A vCPU in a guest, and what came out of it so far.
pub struct Session<'a> {
    guest: &'static Guest,
    vcpu: &'a mut VcpuFd,
    /// The guest's checks, in order.
    pub checks: Vec<Check>,
    /// Its measurements, in order.
    pub notes: Vec<u32>,
    /// Exits to the VMM so far, by kind.
    pub exits: BTreeMap<&'static str, u64>,
    seen: u32,
}

impl<'a> Session<'a> {
    /// A session of `guest` on `vcpu`, which has been made to enter it.
    pub fn new(guest: &'static Guest, vcpu: &'a mut VcpuFd) -> Self {
        Self {
            guest,
            vcpu,
            checks: Vec::new(),
            notes: Vec::new(),
            exits: BTreeMap::new(),
            seen: 0,
        }
    }

    /// Exits to the VMM so far.
    pub fn exit_count(&self) -> u64 {
        self.exits.values().sum()
    }

    /// Runs the guest to its next event, which must be `wanted`.
    ///
    /// # Errors
    ///
    /// As [`Session::run`], and [`Error::Order`] for another event.
    pub fn expect(&mut self, wanted: Ended, devices: &mut dyn Devices) -> Result<(), Error> {
        let ended = self.run(devices)?;
        if ended == wanted {
            return Ok(());
        }
        Err(Error::Order {
            guest: self.guest.name,
            wanted,
            ended,
        })
    }

    /// Runs the guest to the next event that its demo may care for.
    ///
    /// # Errors
    ///
    /// [`Error::Ioctl`] from KVM_RUN, [`Error::NoDevice`], and [`Error::Exit`] for any other end.
    pub fn run(&mut self, devices: &mut dyn Devices) -> Result<Ended, Error> {
        let guest = self.guest.name;
        loop {
            let exit = match self.vcpu.run() {
                Ok(exit) => exit,
                Err(e) if e.errno() == libc::EINTR => continue,
                Err(e) => return Err(Error::Ioctl("KVM_RUN", e)),
            };
            let kind = match &exit {
                VcpuExit::IoIn(..) => "in",
                VcpuExit::IoOut(..) => "out",
                VcpuExit::MmioRead(..) => "mmio read",
                VcpuExit::MmioWrite(..) => "mmio write",
                VcpuExit::Hlt => "hlt",
                _ => "other",
            };
            *self.exits.entry(kind).or_default() += 1;
            let (there, place) = match exit {
                VcpuExit::Hlt => return Ok(Ended::Halted),
                VcpuExit::IoOut(port, data) => match (port, data) {
                    (ports::SEEN, &[a, b, c, d]) => {
                        self.seen = u32::from_le_bytes([a, b, c, d]);
                        continue;
                    }
                    (ports::NOTE, &[a, b, c, d]) => {
                        self.notes.push(u32::from_le_bytes([a, b, c, d]));
                        continue;
                    }
                    (ports::CHECK, &[verdict]) => {
                        self.checks.push(Check {
                            seen: self.seen,
                            right: verdict == 1,
                        });
                        continue;
                    }
                    (ports::MARK, _) => return Ok(Ended::Marked),
                    (ports::TURN, _) => return Ok(Ended::Turn),
                    (ports::DONE, _) => return Ok(Ended::Done),
                    _ => (devices.pio_write(port, data), Place::Port(port)),
                },
                VcpuExit::IoIn(port, data) => (devices.pio_read(port, data), Place::Port(port)),
                VcpuExit::MmioRead(gpa, data) => {
                    (devices.mmio_read(gpa, data), Place::Address(gpa))
                }
                VcpuExit::MmioWrite(gpa, data) => {
                    (devices.mmio_write(gpa, data), Place::Address(gpa))
                }
                other => {
                    let exit = format!("{other:?}");
                    let rip = self
                        .vcpu
                        .get_regs()
                        .map(|regs| regs.rip)
                        .unwrap_or_default();
                    return Err(Error::Exit { guest, exit, rip });
                }
            };
            if !there {
                return Err(Error::NoDevice { guest, place });
            }
        }
    }
}
