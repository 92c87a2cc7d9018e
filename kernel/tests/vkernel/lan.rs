//! On a LAN that the test plays: frames both ways, a cable pulled out and plugged in, a LAN that does not read.

use super::running::{PATIENCE, Running, vkernel};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const OUR_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 9];
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let limit = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                return stream;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        assert!(Instant::now() < limit, "nobody connects");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(stream: &mut UnixStream, frame: &[u8]) {
    let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(frame);
    // In two pieces: a frame need not come whole.
    let (first, second) = bytes.split_at(bytes.len() / 2);
    stream.write_all(first).unwrap();
    stream.write_all(second).unwrap();
}

fn receive(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}

/// An ARP request for 192.0.2.1, of 192.0.2.9 (RFC 826).
fn arp_request() -> Vec<u8> {
    let mut frame = [[0xff; 6], OUR_MAC].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(OUR_MAC);
    frame.extend([192, 0, 2, 9, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    frame
}

fn answers_arp(stream: &mut UnixStream) {
    send(stream, &arp_request());
    loop {
        let frame = receive(stream);
        // Its own announcements come before it.
        if frame[..6] == OUR_MAC && frame[12..14] == [8, 6] {
            assert_eq!(frame[22..28], MAC, "the address given by -I");
            return;
        }
    }
}

#[test]
fn frames_go_both_ways_and_a_cable_pulled_out_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let plug = format!("{}=02:00:00:00:00:01", path.display());
    let mut kernel = Running::start(&[
        "-n",
        "4",
        "-I",
        &plug,
        "-e",
        "rc=ifconfig vke0 192.0.2.1/24",
    ]);
    let mut stream = accept(&listener);
    kernel.expect("vke0: Ethernet address 02:00:00:00:00:01");
    kernel.expect("anax# ");
    for _ in 0..100 {
        answers_arp(&mut stream);
    }
    drop(stream);
    let mut stream = accept(&listener);
    answers_arp(&mut stream);
    // The LAN is gone altogether, and comes back.
    drop((stream, listener));
    std::fs::remove_file(&path).unwrap();
    kernel.say("echo down");
    kernel.expect("\r\ndown\r\n");
    let listener = UnixListener::bind(&path).unwrap();
    let mut stream = accept(&listener);
    answers_arp(&mut stream);
    // A length that no frame has is as good as no LAN.
    stream.write_all(&[0xff; 8]).unwrap();
    let mut stream = accept(&listener);
    answers_arp(&mut stream);
    kernel.say("reboot");
    kernel.expect("Anax ");
    kernel.expect("anax# ");
    answers_arp(&mut accept(&listener));
}

#[test]
fn a_lan_that_does_not_read_loses_whole_frames_and_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let plug = format!("{}=02:00:00:00:00:01", path.display());
    let mut kernel = Running::start(&["-I", &plug, "-e", "rc=ifconfig vke0 192.0.2.1/24"]);
    let mut stream = accept(&listener);
    kernel.expect("anax# ");
    // Requests without end, until an answer is lost.
    let limit = Instant::now() + PATIENCE;
    let lost = |kernel: &mut Running| {
        kernel.say("netstat -s");
        kernel.say("echo done");
        let text = kernel.expect("\r\ndone\r\n");
        let line = text.lines().find(|line| line.contains("the cable is full"));
        line.is_some_and(|line| line.contains(|c: char| matches!(c, '1'..='9')))
    };
    while !lost(&mut kernel) {
        assert!(Instant::now() < limit, "nothing is ever lost");
        for _ in 0..2000 {
            send(&mut stream, &arp_request());
        }
    }
    // What does come is whole: so many frames, then an answer to a new question.
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut length = [0; 4];
    while stream.read_exact(&mut length).is_ok() {
        let length = u32::from_be_bytes(length);
        assert!((42..=1514).contains(&length), "{length}");
        stream.read_exact(&mut vec![0; length as usize]).unwrap();
    }
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    answers_arp(&mut stream);
}

#[test]
fn a_tap_device_connects_with_the_host() {
    let make = "ip tuntap add t0 mode tap && ip addr add 192.0.2.1/24 dev t0 && ip link set t0 up";
    // In a network of its own, which goes with the process.
    let within = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", script, vkernel()]);
        command
    };
    let works = within(make).stderr(Stdio::null()).status();
    if !works.is_ok_and(|status| status.success()) {
        println!("SKIPPED: needs root, ip and unshare, to make a tap device");
        return;
    }
    let run = "exec \"$0\" -I t0 -e 'rc=ifconfig vke0 192.0.2.2/24; ping -c 3 192.0.2.1'";
    let mut kernel = Running::spawn(&mut within(&format!("{make} && {run}")));
    kernel.expect("64 bytes from 192.0.2.1: icmp_seq=2 ");
    kernel.say("poweroff");
    assert_eq!(kernel.ended(), Some(0));
}
