// SPDX-License-Identifier: GPL-2.0

//! COM1: vm-superio's 16550A, with what was typed queued before it and what the guest sends kept
//! for the caller, who can write it out without holding a lock.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

/// First port.
pub const BASE: u16 = 0x3f8;
/// Last port.
pub const LAST: u16 = BASE + 7;

/// Interrupt line.
pub const IRQ: u8 = 4;

/// Bytes typed ahead of the guest that are kept at most.
const QUEUE_LIMIT: usize = 4096;

/// The UART's interrupt output: set when it asks for an interrupt.
#[derive(Clone, Default)]
struct Request(Arc<AtomicBool>);

impl Trigger for Request {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The first serial port.
pub struct Com1 {
    uart: Serial<Request, NoEvents, Vec<u8>>,
    request: Request,
    typed: VecDeque<u8>,
}

impl Com1 {
    /// A port with nothing typed and nothing sent.
    pub fn new() -> Self {
        let request = Request::default();
        Self {
            uart: Serial::new(request.clone(), Vec::new()),
            request,
            typed: VecDeque::new(),
        }
    }

    /// Reads one of the ports [`BASE`] to [`LAST`].
    pub fn read(&mut self, port: u16) -> u8 {
        let value = self.uart.read(offset(port));
        self.feed();
        value
    }

    /// Writes one of the ports [`BASE`] to [`LAST`].
    pub fn write(&mut self, port: u16, value: u8) {
        // Neither a vector nor the interrupt request can fail to take what it is given.
        let _ = self.uart.write(offset(port), value);
        self.feed();
    }

    /// How many more bytes [`Self::type_in`] takes.
    pub fn room(&self) -> usize {
        QUEUE_LIMIT - self.typed.len()
    }

    /// Sends bytes to the guest. What exceeds [`Self::room`] is lost, as on a line without flow
    /// control.
    pub fn type_in(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(self.room());
        self.typed.extend(&bytes[..taken]);
        self.feed();
    }

    /// Whether the port asked for an interrupt since this was last called.
    pub fn take_request(&mut self) -> bool {
        self.request.0.swap(false, Ordering::Relaxed)
    }

    /// What the guest has sent since this was last called.
    pub fn take_sent(&mut self) -> Vec<u8> {
        mem::take(self.uart.writer_mut())
    }

    /// Moves typed bytes into the UART's FIFO as far as it has room. In loopback mode it takes
    /// none.
    fn feed(&mut self) {
        let count = self.uart.fifo_capacity().min(self.typed.len());
        if count > 0 {
            let (front, _) = self.typed.make_contiguous().split_at(count);
            let taken = self.uart.enqueue_raw_bytes(front).unwrap_or(0);
            self.typed.drain(..taken);
        }
    }
}

fn offset(port: u16) -> u8 {
    (port - BASE) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u16 = BASE;
    const INTERRUPT_ENABLE: u16 = BASE + 1;
    const MODEM_CONTROL: u16 = BASE + 4;
    const LINE_STATUS: u16 = BASE + 5;
    const DATA_READY: u8 = 1;
    const LOOPBACK: u8 = 1 << 4;

    fn read_all(com1: &mut Com1) -> Vec<u8> {
        let mut bytes = Vec::new();
        while com1.read(LINE_STATUS) & DATA_READY != 0 {
            bytes.push(com1.read(DATA));
        }
        bytes
    }

    #[test]
    fn what_the_guest_sends_is_kept_once() {
        let mut com1 = Com1::new();
        com1.write(DATA, b'h');
        com1.write(DATA, b'i');
        assert_eq!(com1.take_sent(), b"hi");
        assert_eq!(com1.take_sent(), b"");
    }

    #[test]
    fn more_is_typed_than_the_fifo_holds() {
        let mut com1 = Com1::new();
        let typed: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        com1.type_in(&typed);
        assert_eq!(read_all(&mut com1), typed);
        assert_eq!(com1.room(), QUEUE_LIMIT);
    }

    #[test]
    fn typing_ahead_has_a_limit() {
        let mut com1 = Com1::new();
        com1.type_in(&[b'x'; 3 * QUEUE_LIMIT]);
        let kept = read_all(&mut com1).len();
        assert!(kept <= QUEUE_LIMIT, "{kept}");
    }

    #[test]
    fn typing_interrupts_once_enabled() {
        let mut com1 = Com1::new();
        com1.type_in(b"a");
        assert!(!com1.take_request());
        com1.write(INTERRUPT_ENABLE, 1);
        assert!(com1.take_request());
        assert!(!com1.take_request());
    }

    #[test]
    fn nothing_typed_is_lost_in_loopback() {
        let mut com1 = Com1::new();
        com1.write(MODEM_CONTROL, LOOPBACK);
        com1.type_in(b"kept");
        assert_eq!(com1.read(LINE_STATUS) & DATA_READY, 0);
        com1.write(MODEM_CONTROL, 0);
        assert_eq!(read_all(&mut com1), b"kept");
    }
}
