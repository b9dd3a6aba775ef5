// SPDX-License-Identifier: GPL-2.0
//! Carries standard input to a socket and what comes from there to standard output, until both are
//! at their ends.
//!
//! ```text
//! socket listen vsock PORT          socket connect vsock CID PORT
//! socket listen unix PATH           socket connect unix PATH
//! socket connect guest PATH PORT    by the socket of minivmm's --vsock
//! ```

use std::ffi::{c_int, c_uint, c_void};
use std::io::{self, Read, Result, Write};
use std::net::Shutdown;
use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};
use std::{env, thread};

const AF_VSOCK: c_int = 40;
const SOCK_STREAM: c_int = 1;
const ANY: u32 = u32::MAX;
/// How long who listens may take to do so.
const PATIENCE: Duration = Duration::from_secs(60);

/// `struct sockaddr_vm`.
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(fd: c_int, address: *const Address, length: c_uint) -> c_int;
    fn connect(fd: c_int, address: *const Address, length: c_uint) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept(fd: c_int, address: *mut c_void, length: *mut c_uint) -> c_int;
}

fn check(result: c_int) -> Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn vsock(
    cid: u32,
    port: u32,
    call: unsafe extern "C" fn(c_int, *const Address, c_uint) -> c_int,
) -> Result<c_int> {
    let address = Address {
        family: AF_VSOCK as u16,
        reserved: 0,
        port,
        cid,
        zero: [0; 4],
    };
    // SAFETY: the address is one of the family's, and as long as said.
    unsafe {
        let fd = check(socket(AF_VSOCK, SOCK_STREAM, 0))?;
        check(call(fd, &address, size_of::<Address>() as c_uint))?;
        Ok(fd)
    }
}

/// A stream socket is one, whatever its family.
fn stream(fd: c_int) -> UnixStream {
    // SAFETY: the descriptor is new and nobody else's.
    unsafe { UnixStream::from_raw_fd(fd) }
}

/// Connects to a port of the guest's, and reads that it has.
fn by_minivmm(path: &str, port: &str) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, "CONNECT {port}")?;
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    if !answer.starts_with(b"OK ") {
        return Err(io::Error::other("it is not connected"));
    }
    Ok(stream)
}

fn open(words: &[&str]) -> Result<UnixStream> {
    let number = |word: &str| word.parse().map_err(io::Error::other);
    match *words {
        ["listen", "vsock", port] => {
            let fd = vsock(ANY, number(port)?, bind)?;
            // SAFETY: neither call touches memory.
            unsafe {
                check(listen(fd, 1))?;
                eprintln!("listens");
                let accepted = accept(fd, std::ptr::null_mut(), std::ptr::null_mut());
                Ok(stream(check(accepted)?))
            }
        }
        ["connect", "vsock", cid, port] => Ok(stream(vsock(number(cid)?, number(port)?, connect)?)),
        ["listen", "unix", path] => Ok(UnixListener::bind(path)?.accept()?.0),
        ["connect", "unix", path] => UnixStream::connect(path),
        ["connect", "guest", path, port] => by_minivmm(path, port),
        _ => Err(io::Error::other("listen or connect what? (see its source)")),
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let deadline = Instant::now() + PATIENCE;
    let mut from = loop {
        match open(&words) {
            Err(_) if words.first() == Some(&"connect") && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(100));
            }
            result => break result?,
        }
    };
    let mut to = from.try_clone()?;
    let sender = thread::spawn(move || {
        io::copy(&mut io::stdin(), &mut to)?;
        to.shutdown(Shutdown::Write)
    });
    io::copy(&mut from, &mut io::stdout())?;
    sender.join().expect("it does not panic")
}
