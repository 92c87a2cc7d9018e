//! The LAN over real sockets: framing, reconnection, slow and delayed ports.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Cable;

use super::super::server::OUTPUT_LIMIT;
use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn frame(destination: u8, source: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![0; length];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, destination]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, source]);
    frame
}

fn put(cable: &mut Cable, frame: &[u8]) {
    let length = (frame.len() as u32).to_be_bytes();
    cable.write_all(&[&length[..], frame].concat()).unwrap();
}

fn take(cable: &mut Cable) -> Vec<u8> {
    cable.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut length = [0; 4];
    cable.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    cable.read_exact(&mut frame).unwrap();
    frame
}

fn lan() -> (tempfile::TempDir, Lan) {
    let directory = crate::host::socket_directory().unwrap();
    let lan = Lan::start(directory.path(), None).unwrap();
    (directory, lan)
}

/// Waits until the LAN has accepted what was connected before.
fn wait_until_plugged(lan: &Lan, from: &LocalPort, cable: &mut Cable) {
    let deadline = Instant::now() + PATIENCE;
    cable
        .set_read_timeout(Some(Duration::from_millis(5)))
        .unwrap();
    loop {
        from.send(frame(0xff, 0xee, 15));
        if cable.read_exact(&mut [0; 19]).is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "{:?}", lan.counters());
    }
}

#[test]
fn frames_arrive_whole_however_they_are_cut_up() {
    let (_directory, lan) = lan();
    lan.add_port("a").unwrap();
    let local = lan.attach("local").unwrap();
    let mut cable = Cable::connect(lan.socket("a")).unwrap();
    wait_until_plugged(&lan, &local, &mut cable);
    let sent = frame(1, 2, 100);
    let bytes = [&100_u32.to_be_bytes()[..], &sent].concat();
    for byte in &bytes {
        cable.write_all(&[*byte]).unwrap();
    }
    let received = local.receive(PATIENCE).unwrap();
    assert_eq!(received.bytes, sent);
    assert_eq!(received.from, lan.find("a").unwrap());
}

#[test]
fn a_new_connection_takes_the_port_over() {
    let (_directory, lan) = lan();
    lan.add_port("a").unwrap();
    let local = lan.attach("local").unwrap();
    let mut first = Cable::connect(lan.socket("a")).unwrap();
    wait_until_plugged(&lan, &local, &mut first);
    drop(first);
    let mut second = Cable::connect(lan.socket("a")).unwrap();
    wait_until_plugged(&lan, &local, &mut second);
    put(&mut second, &frame(8, 9, 60));
    assert_eq!(local.receive(PATIENCE).unwrap().bytes, frame(8, 9, 60));
}

#[test]
fn nonsense_ends_the_connection_and_is_counted() {
    let (_directory, lan) = lan();
    lan.add_port("a").unwrap();
    let mut cable = Cable::connect(lan.socket("a")).unwrap();
    cable.write_all(&[0xff; 64]).unwrap();
    cable.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(cable.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(lan.counters().unwrap()[0].1.bad_framing, 1);
}

#[test]
fn a_port_that_does_not_read_loses_frames_and_holds_nobody_up() {
    let (_directory, lan) = lan();
    for name in ["deaf", "good", "source"] {
        lan.add_port(name).unwrap();
    }
    let local = lan.attach("local").unwrap();
    let [mut deaf, mut good, mut source] =
        ["deaf", "good", "source"].map(|name| Cable::connect(lan.socket(name)).unwrap());
    for cable in [&mut deaf, &mut good, &mut source] {
        wait_until_plugged(&lan, &local, cable);
    }
    let frames = 2 * OUTPUT_LIMIT / 1500;
    let reader = thread::spawn(move || {
        let mut seen = 0;
        while seen < frames {
            seen += usize::from(take(&mut good).len() == 1500);
        }
    });
    for _ in 0..frames {
        put(&mut source, &frame(0xff, 1, 1500));
    }
    reader.join().unwrap();
    let counters = lan.counters().unwrap();
    assert!(counters[0].1.dropped_full > 0, "{counters:?}");
    assert_eq!(counters[1].1.dropped_full, 0);
}

#[test]
fn a_delayed_link_keeps_order_and_time() {
    let (_directory, lan) = lan();
    let [a, b] = ["a", "b"].map(|name| lan.attach(name).unwrap());
    let delay = Duration::from_millis(30);
    lan.set_link(
        b.port(),
        Link {
            delay,
            ..Link::default()
        },
    )
    .unwrap();
    let start = Instant::now();
    for length in 20..30 {
        a.send(frame(0xff, 1, length));
    }
    let lengths: Vec<usize> = (20..30)
        .map(|_| b.receive(PATIENCE).unwrap().bytes.len())
        .collect();
    assert!(start.elapsed() >= delay);
    assert_eq!(lengths, (20..30).collect::<Vec<_>>());
}
