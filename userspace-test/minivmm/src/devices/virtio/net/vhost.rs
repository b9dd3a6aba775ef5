// SPDX-License-Identifier: GPL-2.0

//! vhost-net: the kernel works on the queues of a card that is connected to a tap
//! (<linux/vhost.h>).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use virtio_queue::QueueT;
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr};

use super::super::worker::{Watch, Work, Worker};
use super::super::{Interrupt, QueueError, WorkQueue};

const DEVICE: &str = "/dev/vhost-net";

/// An index of a queue, with a number.
#[repr(C)]
struct VringState {
    index: u32,
    number: u32,
}

/// An index of a queue, with a descriptor.
#[repr(C)]
struct VringFile {
    index: u32,
    fd: i32,
}

/// Where a queue is in this process.
#[repr(C)]
struct VringAddress {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// A range of guest memory, and where it is in this process.
#[repr(C)]
struct Region {
    guest: u64,
    size: u64,
    user: u64,
    padding: u64,
}

/// What precedes the ranges of guest memory.
#[repr(C)]
struct MemoryHeader {
    count: u32,
    padding: u32,
}

const VHOST: u32 = 0xaf;
ioctl_ior_nr!(VHOST_GET_FEATURES, VHOST, 0x00, u64);
ioctl_iow_nr!(VHOST_SET_FEATURES, VHOST, 0x00, u64);
ioctl_io_nr!(VHOST_SET_OWNER, VHOST, 0x01);
ioctl_iow_nr!(VHOST_SET_MEM_TABLE, VHOST, 0x03, MemoryHeader);
ioctl_iow_nr!(VHOST_SET_VRING_NUM, VHOST, 0x10, VringState);
ioctl_iow_nr!(VHOST_SET_VRING_ADDR, VHOST, 0x11, VringAddress);
ioctl_iow_nr!(VHOST_SET_VRING_BASE, VHOST, 0x12, VringState);
ioctl_iow_nr!(VHOST_SET_VRING_KICK, VHOST, 0x20, VringFile);
ioctl_iow_nr!(VHOST_SET_VRING_CALL, VHOST, 0x21, VringFile);
ioctl_iow_nr!(VHOST_NET_SET_BACKEND, VHOST, 0x30, VringFile);

/// The kernel's end of a card.
pub struct Vhost {
    /// Closing it stops the kernel's work.
    device: File,
    /// Passes its interrupts on, where they cannot go to the guest by themselves.
    calls: Option<Worker<Calls>>,
}

impl Vhost {
    /// vhost-net, or none where it is not there or not for this user.
    ///
    /// # Errors
    ///
    /// What else the system says.
    pub fn open() -> io::Result<Option<Self>> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(DEVICE);
        match opened {
            Ok(device) => Ok(Some(Self {
                device,
                calls: None,
            })),
            Err(error) => match error.raw_os_error() {
                Some(
                    libc::ENOENT
                    | libc::ENODEV
                    | libc::ENXIO
                    | libc::EACCES
                    | libc::EPERM
                    | libc::EBUSY,
                ) => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Has the kernel carry frames between `tap` and `queues`, that for the guest to receive first,
    /// with the `features` that the driver has accepted.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn start(
        mut self,
        name: &str,
        tap: BorrowedFd<'_>,
        queues: [&WorkQueue; 2],
        features: u64,
        memory: &GuestMemoryMmap,
        interrupt: &Interrupt,
    ) -> io::Result<Self> {
        // SAFETY: the call takes no argument.
        check(unsafe { ioctl(&self.device, VHOST_SET_OWNER()) })?;
        let mut offered = 0u64;
        // SAFETY: the call writes 64 bits.
        check(unsafe { ioctl_with_mut_ref(&self.device, VHOST_GET_FEATURES(), &mut offered) })?;
        let features = features & offered;
        // SAFETY: the call reads 64 bits.
        check(unsafe { ioctl_with_ref(&self.device, VHOST_SET_FEATURES(), &features) })?;
        self.set_memory(memory)?;
        let mut calls = Calls {
            events: Vec::new(),
            interrupt: interrupt.clone(),
        };
        for (index, queue) in (0..).zip(queues) {
            self.set_queue(index, queue, memory)?;
            let event = match interrupt.queue_event(queue.index()) {
                Some(event) => event,
                None => {
                    let event = EventFd::new(EFD_NONBLOCK)?;
                    calls.events.push((event.try_clone()?, queue.index()));
                    event
                }
            };
            self.set_file(VHOST_SET_VRING_CALL(), index, event.as_raw_fd())?;
            self.set_file(VHOST_SET_VRING_KICK(), index, queue.doorbell().as_raw_fd())?;
        }
        if !calls.events.is_empty() {
            self.calls = Some(Worker::start(name, calls, interrupt.clone())?);
        }
        for index in 0..queues.len() as u32 {
            self.set_file(VHOST_NET_SET_BACKEND(), index, tap.as_raw_fd())?;
        }
        Ok(self)
    }

    fn set_memory(&self, memory: &GuestMemoryMmap) -> io::Result<()> {
        let regions: Vec<Region> = memory
            .iter()
            .map(|region| Region {
                guest: region.start_addr().raw_value(),
                size: region.len(),
                user: region.as_ptr() as u64,
                padding: 0,
            })
            .collect();
        // A header and the regions, both multiples of 8 bytes long.
        let mut table = vec![0u64; 1 + regions.len() * 4];
        table[0] = regions.len() as u64;
        for (to, region) in table[1..].chunks_exact_mut(4).zip(&regions) {
            to.copy_from_slice(&[region.guest, region.size, region.user, region.padding]);
        }
        // SAFETY: the call reads a header that counts the regions, and the regions behind it.
        check(unsafe { ioctl_with_ptr(&self.device, VHOST_SET_MEM_TABLE(), table.as_ptr()) })
    }

    fn set_queue(&self, index: u32, queue: &WorkQueue, memory: &GuestMemoryMmap) -> io::Result<()> {
        let rings = queue.rings();
        let host = |address: u64| {
            memory
                .get_host_address(GuestAddress(address))
                .map(|pointer| pointer as u64)
                .map_err(|error| io::Error::other(error.to_string()))
        };
        let size = VringState {
            index,
            number: rings.size().into(),
        };
        // SAFETY: the call reads an index and a number.
        check(unsafe { ioctl_with_ref(&self.device, VHOST_SET_VRING_NUM(), &size) })?;
        let base = VringState { index, number: 0 };
        // SAFETY: as above.
        check(unsafe { ioctl_with_ref(&self.device, VHOST_SET_VRING_BASE(), &base) })?;
        let address = VringAddress {
            index,
            flags: 0,
            descriptors: host(rings.desc_table())?,
            used: host(rings.used_ring())?,
            available: host(rings.avail_ring())?,
            log: 0,
        };
        // SAFETY: the call reads this structure. Guest memory stays mapped for as long as the
        // machine has devices.
        check(unsafe { ioctl_with_ref(&self.device, VHOST_SET_VRING_ADDR(), &address) })
    }

    fn set_file(&self, request: libc::c_ulong, index: u32, fd: i32) -> io::Result<()> {
        let file = VringFile { index, fd };
        // SAFETY: each of the calls that this is used for reads an index and a descriptor.
        check(unsafe { ioctl_with_ref(&self.device, request, &file) })
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        for index in 0..2 {
            // It has none if it was not started.
            let _ = self.set_file(VHOST_NET_SET_BACKEND(), index, -1);
        }
        if let Some(calls) = self.calls.take() {
            calls.stop();
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Interrupts that the kernel asks for, on their way to the guest.
struct Calls {
    events: Vec<(EventFd, u16)>,
    interrupt: Interrupt,
}

impl Work for Calls {
    fn watch(&self, watch: &mut Watch) {
        for (token, (event, _)) in self.events.iter().enumerate() {
            watch.readable(event, token);
        }
    }

    fn ready(&mut self, token: usize) -> Result<(), QueueError> {
        let (event, queue) = &self.events[token];
        // It is readable, so it is not empty.
        let _ = event.read();
        self.interrupt.queue(*queue);
        Ok(())
    }
}
