// SPDX-License-Identifier: GPL-2.0

//! One connection, between a Unix socket of the host's and a socket of the guest's.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::packet::{self, Header, Ports};

/// Bytes from the guest that are kept for a host that does not read them.
pub const ROOM: u32 = 256 << 10;

/// A connection.
pub struct Connection {
    /// Its ends.
    pub ports: Ports,
    /// The host's socket.
    pub stream: UnixStream,
    /// Whether the guest has agreed to it.
    pub open: bool,
    /// Whether the host is to be told so.
    pub greet: bool,
    /// Bytes for the host.
    leaving: VecDeque<u8>,
    /// Bytes the host has taken, modulo 2^32, and what of it the guest knows.
    taken: u32,
    told: u32,
    /// Bytes sent to the guest, modulo 2^32; its room and what it has taken of it.
    sent: u32,
    guest_room: u32,
    guest_taken: u32,
    /// Who sends no more.
    host_ended: bool,
    guest_ended: bool,
}

impl Connection {
    /// A connection that one side has asked for.
    pub fn new(ports: Ports, stream: UnixStream) -> Self {
        Self {
            ports,
            stream,
            open: false,
            greet: false,
            leaving: VecDeque::new(),
            taken: 0,
            told: 0,
            sent: 0,
            guest_room: 0,
            guest_taken: 0,
            host_ended: false,
            guest_ended: false,
        }
    }

    /// A header that says `operation`, and what has been taken so far.
    pub fn header(&mut self, operation: u16) -> Header {
        self.told = self.taken;
        Header {
            ports: self.ports,
            length: 0,
            operation,
            flags: 0,
            room: ROOM,
            taken: self.taken,
        }
    }

    /// Takes note of what the guest says of its room.
    pub fn note_credit(&mut self, header: &Header) {
        self.guest_room = header.room;
        self.guest_taken = header.taken;
    }

    /// Bytes the guest has room for. What it says may make no sense: then there is none.
    pub fn credit(&self) -> usize {
        let under_way = self.sent.wrapping_sub(self.guest_taken);
        self.guest_room.saturating_sub(under_way) as usize
    }

    /// Whether bytes from the host are wanted.
    pub fn wants_input(&self) -> bool {
        self.open && !self.host_ended && self.credit() > 0
    }

    /// Whether there are bytes for the host.
    pub fn has_output(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Whether neither side has anything to say any more.
    pub fn is_over(&self) -> bool {
        self.host_ended && self.guest_ended && !self.has_output()
    }

    /// Reads what the host has for the guest. None if there is nothing now, nothing in it at the
    /// end.
    pub fn read(&mut self, most: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; most.min(self.credit())];
        match self.stream.read(&mut bytes) {
            Ok(count) => {
                bytes.truncate(count);
                self.host_ended = count == 0;
                self.sent = self.sent.wrapping_add(count as u32);
                Some(bytes)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => None,
                _ => {
                    self.host_ended = true;
                    Some(Vec::new())
                }
            },
        }
    }

    /// Takes bytes from the guest. False if they are more than it was told there is room for.
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        if self.guest_ended || bytes.len() + self.leaving.len() > ROOM as usize {
            return false;
        }
        self.leaving.extend(bytes);
        true
    }

    /// Gives the host what is there for it: whether it listens, and whether the guest should know
    /// that there is room again.
    pub fn write(&mut self) -> (bool, bool) {
        while !self.leaving.is_empty() {
            match self.stream.write(self.leaving.as_slices().0) {
                Ok(count) => {
                    self.leaving.drain(..count);
                    self.taken = self.taken.wrapping_add(count as u32);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => break,
                    _ => return (false, false),
                },
            }
        }
        if self.guest_ended && self.leaving.is_empty() {
            // It fails only if the host has gone, which is noticed by reading.
            let _ = self.stream.shutdown(std::net::Shutdown::Write);
        }
        (true, self.taken.wrapping_sub(self.told) >= ROOM / 4)
    }

    /// The guest will do what `flags` say no more.
    pub fn guest_shuts_down(&mut self, flags: u32) {
        self.guest_ended |= flags & packet::NO_MORE_SENT != 0;
        self.host_ended |= flags & packet::NO_MORE_RECEIVED != 0;
    }
}
