// SPDX-License-Identifier: GPL-2.0

//! The other end of a guest's connections: a program of the host's that takes bytes, or gives them.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

/// Bytes in a system call.
const CHUNK: usize = 64 << 10;

/// A thread that serves one connection.
pub struct Peer {
    port: u16,
    thread: JoinHandle<io::Result<u64>>,
}

impl Peer {
    /// Takes bytes until there are no more.
    ///
    /// # Errors
    ///
    /// No port can be had.
    pub fn sink() -> io::Result<Self> {
        Self::start(|mut stream| {
            let (mut chunk, mut taken) = (vec![0; CHUNK], 0);
            loop {
                match stream.read(&mut chunk)? {
                    0 => return Ok(taken),
                    count => taken += count as u64,
                }
            }
        })
    }

    /// Gives `bytes` bytes.
    ///
    /// # Errors
    ///
    /// No port can be had.
    pub fn source(bytes: u64) -> io::Result<Self> {
        Self::start(move |mut stream| {
            let (chunk, mut given) = (vec![0; CHUNK], 0);
            while given < bytes {
                let count = (bytes - given).min(CHUNK as u64);
                stream.write_all(&chunk[..count as usize])?;
                given += count;
            }
            Ok(given)
        })
    }

    fn start(
        serve: impl FnOnce(TcpStream) -> io::Result<u64> + Send + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self {
            port: listener.local_addr()?.port(),
            thread: thread::spawn(move || serve(listener.accept()?.0)),
        })
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bytes that went over the connection; none where nobody has connected yet, or the
    /// connection has not ended.
    ///
    /// # Errors
    ///
    /// What went wrong with it.
    pub fn moved(self) -> io::Result<u64> {
        if !self.thread.is_finished() {
            return Ok(0);
        }
        self.thread.join().expect("the thread does not panic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::time::Duration;

    /// Waits for the thread, which ends in its own time.
    fn moved(peer: Peer) -> u64 {
        while !peer.thread.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        peer.moved().expect("no error")
    }

    #[test]
    fn a_sink_counts_what_it_takes() {
        let peer = Peer::sink().expect("a port");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, peer.port())).expect("connect");
        stream.write_all(&[1; 100_000]).expect("write");
        stream.shutdown(Shutdown::Write).expect("shut down");
        assert_eq!(stream.read(&mut [0]).expect("its end"), 0);
        assert_eq!(moved(peer), 100_000);
    }

    #[test]
    fn a_source_gives_as_much_as_it_was_told() {
        let peer = Peer::source(100_000).expect("a port");
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, peer.port())).expect("connect");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("read");
        assert_eq!(got.len(), 100_000);
        assert_eq!(moved(peer), 100_000);
    }

    #[test]
    fn nobody_is_waited_for() {
        assert_eq!(Peer::sink().expect("a port").moved().expect("no error"), 0);
    }
}
