// SPDX-License-Identifier: GPL-2.0

use std::io::{Read, Write};

use vmm_sys_util::tempdir::TempDir;

use super::super::rig::{Buffer, Rig};
use super::packet::*;
use super::*;

const CID: u32 = 7;

struct Machine {
    rig: Rig,
    directory: TempDir,
}

impl Machine {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let listener = Listener::new(&directory.as_path().join("vsock")).expect("a socket");
        let mut rig = Rig::new(Box::new(Vsock::new(CID, listener)));
        rig.start(0);
        Self { rig, directory }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.as_path().join(format!("vsock{suffix}"))
    }

    /// The guest sends a packet.
    fn send(&mut self, ports: Ports, operation: u16, flags: u32, data: &[u8]) {
        self.send_from(CID, ports, operation, flags, data);
    }

    fn send_from(&mut self, cid: u32, ports: Ports, operation: u16, flags: u32, data: &[u8]) {
        let mut bytes = Vec::new();
        bytes.extend(u64::from(cid).to_le_bytes());
        bytes.extend(HOST.to_le_bytes());
        for word in [ports.guest, ports.host, data.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(1u16.to_le_bytes());
        bytes.extend(operation.to_le_bytes());
        for word in [flags, 64, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(data);
        self.rig.give(1, &[Buffer::Out(&bytes)]);
        self.rig.wait(1);
    }

    /// The next packet for the guest: its ports, what it says, and its data.
    fn next(&mut self) -> (Ports, u16, u32, Vec<u8>) {
        let (length, bytes) = self.rig.request(0, &[Buffer::In(2048)]);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!(bytes[..8], HOST.to_le_bytes());
        assert_eq!(bytes[8..16], u64::from(CID).to_le_bytes());
        assert_eq!(length, HEADER as u32 + word(24));
        let ports = Ports {
            host: word(16),
            guest: word(20),
        };
        let operation = u16::from_le_bytes([bytes[30], bytes[31]]);
        let data = bytes[HEADER..length as usize].to_vec();
        (ports, operation, word(32), data)
    }

    /// A connection from the host to the guest's port 1234.
    fn connected(&mut self) -> (UnixStream, Ports) {
        let mut stream = UnixStream::connect(self.path("")).expect("it listens");
        stream.write_all(b"CONNECT 1234\n").expect("it reads");
        let (ports, operation, ..) = self.next();
        assert_eq!((ports.guest, operation), (1234, REQUEST));
        self.send(ports, RESPONSE, 0, b"");
        let expected = format!("OK {}\n", ports.host);
        assert_eq!(read(&mut stream, expected.len()), expected.as_bytes());
        (stream, ports)
    }
}

fn read(stream: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("bytes");
    bytes
}

#[test]
fn the_host_connects_to_the_guest_and_both_talk() {
    let mut machine = Machine::new();
    let (mut stream, ports) = machine.connected();
    machine.send(ports, DATA, 0, b"from the guest");
    assert_eq!(read(&mut stream, 14), b"from the guest");
    stream.write_all(b"from the host").expect("it reads");
    assert_eq!(machine.next(), (ports, DATA, 0, b"from the host".to_vec()));
}

#[test]
fn the_guest_connects_to_who_listens_on_the_host() {
    let mut machine = Machine::new();
    let listener = UnixListener::bind(machine.path("_77")).expect("a socket");
    let ports = Ports {
        host: 77,
        guest: 9999,
    };
    machine.send(ports, REQUEST, 0, b"");
    let (mut stream, _) = listener.accept().expect("a connection");
    let (answered, operation, ..) = machine.next();
    assert_eq!((answered, operation), (ports, RESPONSE));
    machine.send(ports, DATA, 0, b"x");
    assert_eq!(read(&mut stream, 1), b"x");
}

#[test]
fn who_is_not_there_resets() {
    let mut machine = Machine::new();
    let ports = Ports { host: 78, guest: 1 };
    for operation in [REQUEST, DATA, SHUTDOWN, CREDIT_UPDATE] {
        machine.send(ports, operation, 0, b"");
        let (answered, operation, ..) = machine.next();
        assert_eq!((answered, operation), (ports, RESET));
    }
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut machine = Machine::new();
    let (mut stream, ports) = machine.connected();
    stream.write_all(&[5; 100]).expect("it reads");
    // The guest says that it has room for 64 bytes.
    assert_eq!(machine.next().3, [5; 64]);
    machine.send(ports, CREDIT_REQUEST, 0, b"");
    let (_, operation, ..) = machine.next();
    assert_eq!(operation, CREDIT_UPDATE, "nothing else may be sent");
}

#[test]
fn each_side_can_end_what_it_says() {
    let mut machine = Machine::new();
    let (mut stream, ports) = machine.connected();
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("connected");
    let (_, operation, flags, _) = machine.next();
    assert_eq!((operation, flags), (SHUTDOWN, NO_MORE_SENT));
    machine.send(ports, DATA, 0, b"still");
    assert_eq!(read(&mut stream, 5), b"still");
    machine.send(ports, SHUTDOWN, NO_MORE_SENT | NO_MORE_RECEIVED, b"");
    let (_, operation, ..) = machine.next();
    assert_eq!(operation, RESET);
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
}

#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_reset() {
    let mut machine = Machine::new();
    let (_stream, ports) = machine.connected();
    let chunk = [0; 0x3000];
    // What the host's socket takes, and the room here, end somewhere.
    for _ in 0..200 {
        machine.send(ports, DATA, 0, &chunk);
    }
    // Until then it heard that there was room again.
    let said = std::iter::repeat_with(|| machine.next().1).find(|said| *said != CREDIT_UPDATE);
    assert_eq!(said, Some(RESET));
}

#[test]
fn who_does_not_say_where_to_is_turned_away() {
    let machine = Machine::new();
    for line in ["LISTEN 1\n", "CONNECT\n", "CONNECT x\n", &"x".repeat(100)] {
        let mut stream = UnixStream::connect(machine.path("")).expect("it listens");
        stream.write_all(line.as_bytes()).expect("it reads");
        // The end, or a reset where some of it was not read.
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)), "{line}");
    }
}

#[test]
fn a_packet_of_another_guest_s_is_not_heard() {
    let mut machine = Machine::new();
    let ports = Ports { host: 78, guest: 1 };
    machine.send_from(CID + 1, ports, REQUEST, 0, b"");
    machine.connected();
}

#[test]
fn half_a_packet_stops_the_device_until_it_is_reset() {
    let mut machine = Machine::new();
    machine.rig.give(1, &[Buffer::Out(&[0; HEADER - 1])]);
    machine.rig.interrupted();
    assert!(machine.rig.needs_reset());
    machine.rig.reset();
    machine.rig.start(0);
    machine.connected();
}

#[test]
fn a_socket_in_use_is_an_error_and_one_left_behind_is_not() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.as_path().join("vsock");
    drop(UnixListener::bind(&path).expect("a socket"));
    let first = Listener::new(&path).expect("nobody listens");
    let Err(error) = Listener::new(&path) else {
        panic!("two have it");
    };
    assert!(error
        .to_string()
        .ends_with("or give --vsock CID,socket=PATH"));
    drop(first);
    assert!(!path.exists());
    let Err(error) = Listener::new(Path::new("/nowhere/vsock")) else {
        panic!("it was made");
    };
    assert_eq!(
        error.to_string(),
        "cannot make the socket /nowhere/vsock of --vsock"
    );
}

#[test]
fn the_configuration_space_has_the_cid() {
    let directory = TempDir::new().expect("a directory");
    let listener = Listener::new(&directory.as_path().join("vsock")).expect("a socket");
    let mut space = [0; 8];
    Vsock::new(CID, listener).read_config(0, &mut space);
    assert_eq!(space, u64::from(CID).to_le_bytes());
}
