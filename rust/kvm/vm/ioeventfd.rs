// SPDX-License-Identifier: GPL-2.0

//! Writes of a guest that signal an eventfd instead of going to the VMM (api.rst, 4.59
//! KVM_IOEVENTFD).

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    bus::{
        Buses,
        Space,
        Write, //
    },
    coalesced::MAX_ZONES, //
};
use crate::host::eventfd::EventFd;

/// What a VMM wants to hear, or no longer.
pub(crate) struct Listen {
    pub(crate) space: Space,
    pub(crate) address: u64,
    /// Bytes of the write, or 0 for a write of any length.
    pub(crate) len: u32,
    /// The value written, or `None` for any.
    pub(crate) datamatch: Option<u64>,
    /// Descriptor of the eventfd.
    pub(crate) fd: i32,
}

/// An eventfd that hears of a write.
#[derive(Clone)]
pub(super) struct Listener {
    pub(super) address: u64,
    datamatch: Option<u64>,
    len: u8,
    eventfd: Arc<EventFd>,
}

impl Listener {
    /// Whether the write is for this listener. Its address matches.
    #[inline]
    pub(super) fn hears(&self, write: &Write) -> bool {
        self.len == 0
            || self.len == write.len
                && self
                    .datamatch
                    .is_none_or(|datamatch| datamatch == write.value)
    }

    /// Tells the VMM.
    #[inline]
    pub(super) fn signal(&self) {
        self.eventfd.signal();
    }

    /// Whether there are writes that both would hear.
    fn collides(&self, other: &Self) -> bool {
        self.address == other.address
            && (self.len == 0
                || other.len == 0
                || self.len == other.len
                    && match (self.datamatch, other.datamatch) {
                        (Some(a), Some(b)) => a == b,
                        _ => true,
                    })
    }
}

impl Buses {
    /// Has an eventfd signalled for writes.
    ///
    /// # Errors
    ///
    /// EINVAL for a length that is not 0, 1, 2, 4 or 8, a match without a length and a range that
    /// wraps round; EBADF and EINVAL for what is no eventfd; EEXIST where another hears some of the
    /// writes; ENOSPC where the space is full of zones; ENOMEM.
    pub(crate) fn listen(&self, listen: &Listen) -> Result {
        let len = match listen.len {
            len @ (0 | 1 | 2 | 4 | 8) => len as u8,
            _ => return Err(EINVAL),
        };
        if listen.address.checked_add(len.into()).is_none()
            || len == 0 && listen.datamatch.is_some()
        {
            return Err(EINVAL);
        }
        let listener = Listener {
            address: listen.address,
            datamatch: listen.datamatch,
            len,
            eventfd: Arc::new(EventFd::from_fd(listen.fd)?, GFP_KERNEL_ACCOUNT)?,
        };
        self.update(listen.space, |table| {
            if table.listeners.iter().any(|old| old.collides(&listener)) {
                return Err(EEXIST);
            }
            if table.zones.len() >= MAX_ZONES {
                return Err(ENOSPC);
            }
            let at = table
                .listeners
                .partition_point(|old| old.address <= listener.address);
            table
                .listeners
                .insert_within_capacity(at, listener)
                .map_err(|_| ENOMEM)
        })
    }

    /// Ends what [`Self::listen`] began with the same arguments.
    ///
    /// # Errors
    ///
    /// EBADF and EINVAL for what is no eventfd, ENOENT where it does not hear these writes, ENOMEM.
    pub(crate) fn unlisten(&self, listen: &Listen) -> Result {
        let eventfd = EventFd::from_fd(listen.fd)?;
        self.update(listen.space, |table| {
            let at = table
                .listeners
                .iter()
                .position(|old| {
                    *old.eventfd == eventfd
                        && old.address == listen.address
                        && u32::from(old.len) == listen.len
                        && old.datamatch == listen.datamatch
                })
                .ok_or(ENOENT)?;
            table.listeners.remove(at).map_err(|_| ENOENT)?;
            Ok(())
        })
    }
}
