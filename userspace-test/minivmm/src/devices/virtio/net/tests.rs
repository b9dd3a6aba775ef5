// SPDX-License-Identifier: GPL-2.0

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::rig::{Buffer, Rig};
use super::backend::set_nonblocking;
use super::*;

const MERGEABLE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

/// A card, and the other end of its network, which speaks as passt does.
fn card(features: u64) -> (Rig, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    set_nonblocking(&ours).expect("a flag");
    let mut rig = Rig::new(Box::new(Net::new(0, Passt::over(ours))));
    rig.start(features);
    (rig, theirs)
}

fn send(stream: &mut UnixStream, frame: &[u8]) {
    let length = (frame.len() as u32).to_be_bytes();
    stream
        .write_all(&[&length, frame].concat())
        .expect("the card listens");
}

fn next_sent(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("a frame");
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).expect("a frame");
    frame
}

/// A frame of `length` bytes that is not like others.
fn frame(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index * 7 + length) as u8)
        .collect()
}

#[test]
fn what_the_guest_sends_goes_out_without_its_header() {
    let (mut rig, mut network) = card(0);
    for length in [14, 60, 1514] {
        let sent = frame(length);
        rig.give(1, &[Buffer::Out(&[0; HEADER]), Buffer::Out(&sent)]);
        assert_eq!(rig.wait(1), 0, "nothing is written into it");
        assert_eq!(next_sent(&mut network), sent);
    }
}

#[test]
fn what_comes_is_received_with_a_header() {
    let (mut rig, mut network) = card(0);
    let sent = frame(700);
    send(&mut network, &sent);
    let (length, bytes) = rig.request(0, &[Buffer::In(2048)]);
    assert_eq!(length as usize, HEADER + sent.len());
    assert_eq!(bytes[..HEADER], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(bytes[HEADER..HEADER + sent.len()], sent);
}

#[test]
fn a_frame_is_spread_over_several_buffers_where_it_may_be() {
    let (mut rig, mut network) = card(MERGEABLE);
    rig.give(0, &[Buffer::In(1024)]);
    send(&mut network, &frame(2000));
    // It waits for room for all of it.
    let (length, bytes) = rig.request(0, &[Buffer::In(1024)]);
    assert_eq!(length as usize, HEADER + 2000 - 1024);
    assert_eq!(bytes[..HEADER + 2000 - 1024], frame(2000)[1024 - HEADER..]);
}

#[test]
fn a_frame_without_room_is_lost_and_the_next_is_not() {
    let (mut rig, mut network) = card(0);
    send(&mut network, &frame(2000));
    assert_eq!(rig.request(0, &[Buffer::In(1024)]).0, 0);
    send(&mut network, &frame(100));
    assert_eq!(rig.request(0, &[Buffer::In(1024)]).0 as usize, HEADER + 100);
}

#[test]
fn many_frames_keep_their_order_in_both_directions() {
    let (mut rig, mut network) = card(0);
    for number in 0..200 {
        let sent = frame(60 + number);
        send(&mut network, &sent);
        let (length, bytes) = rig.request(0, &[Buffer::In(2048)]);
        assert_eq!(bytes[HEADER..length as usize], sent);
        rig.give(1, &[Buffer::Out(&[0; HEADER]), Buffer::Out(&sent)]);
        rig.wait(1);
        assert_eq!(next_sent(&mut network), sent);
    }
}

#[test]
fn nonsense_in_a_queue_stops_the_card_until_it_is_reset() {
    let (mut rig, mut network) = card(0);
    rig.give(1, &[Buffer::Out(&[0; 5])]);
    rig.interrupted();
    assert!(rig.needs_reset());
    rig.reset();
    rig.start(0);
    let sent = frame(60);
    rig.give(1, &[Buffer::Out(&[0; HEADER]), Buffer::Out(&sent)]);
    assert_eq!(next_sent(&mut network), sent);
}

#[test]
fn a_buffer_too_small_for_the_header_stops_the_card() {
    let (mut rig, mut network) = card(MERGEABLE);
    rig.give(0, &[Buffer::In(HEADER - 1)]);
    send(&mut network, &frame(60));
    rig.interrupted();
    assert!(rig.needs_reset());
}

#[test]
fn a_network_that_ends_stops_the_card() {
    let (rig, network) = card(0);
    drop(network);
    rig.interrupted();
    assert!(rig.needs_reset());
}

#[test]
fn a_frame_that_is_too_long_is_the_end_of_the_network() {
    let (rig, mut network) = card(0);
    network
        .write_all(&u32::MAX.to_be_bytes())
        .expect("the card listens");
    rig.interrupted();
    assert!(rig.needs_reset());
}

#[test]
fn a_driver_that_does_not_take_what_comes_does_not_keep_the_card_from_sending() {
    let (mut rig, mut network) = card(0);
    send(&mut network, &frame(80));
    let sent = frame(90);
    rig.give(1, &[Buffer::Out(&[0; HEADER]), Buffer::Out(&sent)]);
    assert_eq!(next_sent(&mut network), sent);
    let (length, bytes) = rig.request(0, &[Buffer::In(2048)]);
    assert_eq!(bytes[HEADER..length as usize], frame(80));
}

#[test]
fn the_configuration_space_has_the_address_and_the_mtu() {
    let (ours, _theirs) = UnixStream::pair().expect("sockets");
    let net = Net::new(1, Passt::over(ours));
    let mut space = [0xff; 12];
    net.read_config(0, &mut space[..]);
    assert_eq!(space[..6], [0x02, 0x6d, 0x6b, 0x76, 0x6d, 1]);
    assert_eq!(space[10..], 65520u16.to_le_bytes());
}

#[test]
fn what_is_wrong_with_passt_is_said() {
    let error = |program| match Passt::start_program(program, &[]) {
        Ok(_) => panic!("{program} was started"),
        Err(error) => error.to_string(),
    };
    assert_eq!(
        error("/nowhere/passt"),
        "cannot start passt (No such file or directory (os error 2)), which --net user needs: \
         install the package passt"
    );
    assert_eq!(
        error("/bin/false"),
        "passt gives no network: it does not say why"
    );
}

#[test]
fn what_is_wrong_with_a_tap_is_said() {
    let os = std::io::Error::from_raw_os_error;
    let interface = |errno| {
        Error::Interface {
            name: "t0".into(),
            error: os(errno),
        }
        .to_string()
    };
    for (text, part) in [
        (
            Error::Tun(os(libc::ENOENT)).to_string(),
            "load the module tun",
        ),
        (Error::Tun(os(libc::EACCES)).to_string(), "use --net user"),
        (
            Error::NoInterface("t0".into()).to_string(),
            "ip tuntap add t0 mode tap",
        ),
        (interface(libc::EPERM), "mode tap user NAME"),
        (interface(libc::EBUSY), "another program has it"),
        (interface(libc::EINVAL), "no tap interface"),
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_interface_that_is_not_there_is_not_made() {
    let Err(error) = Tap::open("minivmm-none") else {
        panic!("it was made");
    };
    assert!(
        matches!(error, Error::NoInterface(_) | Error::Tun(_)),
        "{error}"
    );
}
