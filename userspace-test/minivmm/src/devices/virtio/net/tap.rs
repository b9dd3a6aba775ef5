// SPDX-License-Identifier: GPL-2.0

//! A tap interface of the host (Documentation/networking/tuntap.rst in the kernel source).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::ioctl_iow_nr;

use super::backend::{Backend, Error};
use super::HEADER;

const TUN: &str = "/dev/net/tun";
/// <linux/if_tun.h>.
const TUN_IOCTL: u32 = b'T' as u32;
ioctl_iow_nr!(TUNSETIFF, TUN_IOCTL, 202, libc::c_int);
ioctl_iow_nr!(TUNSETOFFLOAD, TUN_IOCTL, 208, libc::c_uint);
ioctl_iow_nr!(TUNSETVNETHDRSZ, TUN_IOCTL, 216, libc::c_int);
const TUN_F_CSUM: libc::c_ulong = 1 << 0;
const TUN_F_TSO4: libc::c_ulong = 1 << 1;
const TUN_F_TSO6: libc::c_ulong = 1 << 2;
/// Usual for Ethernet; what the interface has is the host's to say.
const MTU: u16 = 1500;

/// The interface, for this program alone.
pub struct Tap {
    file: File,
    mtu: u16,
    hint: u8,
}

impl Tap {
    /// Takes the interface `name`, which has to be there.
    ///
    /// # Errors
    ///
    /// [`Error::Tun`], [`Error::NoInterface`] or [`Error::Interface`].
    pub fn open(name: &str) -> Result<Self, Error> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(TUN)
            .map_err(Error::Tun)?;
        // TUNSETIFF makes one of a name that is not there, which nobody has given an address.
        let directory = Path::new("/sys/class/net").join(name);
        if !directory.exists() {
            return Err(Error::NoInterface(name.into()));
        }
        attach(&file, name).map_err(|error| Error::Interface {
            name: name.into(),
            error,
        })?;
        let mtu = std::fs::read_to_string(directory.join("mtu")).ok();
        Ok(Self {
            file,
            mtu: mtu.and_then(|mtu| mtu.trim().parse().ok()).unwrap_or(MTU),
            hint: name
                .bytes()
                .fold(0x80, |hint, byte| hint.rotate_left(1) ^ byte),
        })
    }
}

fn attach(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: zeroes are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes an ifreq, whatever its number says.
    check(unsafe { ioctl_with_mut_ref(file, TUNSETIFF(), &mut request) })?;
    let size = HEADER as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    check(unsafe { ioctl_with_ref(file, TUNSETVNETHDRSZ(), &size) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Backend for Tap {
    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_CSUM
            | 1 << VIRTIO_NET_F_HOST_TSO4
            | 1 << VIRTIO_NET_F_HOST_TSO6
            | 1 << VIRTIO_NET_F_GUEST_CSUM
            | 1 << VIRTIO_NET_F_GUEST_TSO4
            | 1 << VIRTIO_NET_F_GUEST_TSO6
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn address_hint(&self) -> u8 {
        self.hint
    }

    fn negotiated(&mut self, features: u64) -> io::Result<()> {
        let offloads = [
            (VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM),
            (VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6),
        ]
        .into_iter()
        .filter(|(feature, _)| features & 1 << feature != 0)
        .fold(0, |offloads, (_, offload)| offloads | offload);
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { ioctl_with_val(&self.file, TUNSETOFFLOAD(), offloads) })
    }

    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        match self.file.read(frame) {
            // Less than a header is nothing a tap gives.
            Ok(length) if length > HEADER => Ok(Some(length)),
            Ok(_) => Ok(None),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        // A frame goes as a whole or not at all.
        let error = self.file.write(frame).err();
        match error.as_ref().and_then(io::Error::raw_os_error) {
            // The interface is gone.
            Some(errno @ (libc::EBADFD | libc::ENODEV)) => Err(io::Error::from_raw_os_error(errno)),
            // It is down or full, or the guest's header makes no sense: the frame is lost.
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn tap(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
