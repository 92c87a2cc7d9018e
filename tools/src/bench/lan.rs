//! `bench lan`: how many frames a second the virtual LAN carries from one socket to another.
//!
//! A demonstration whose switch is slower than its nodes would measure the switch. The peer is a
//! bare UNIX socket carrying the same bytes between the same two threads, which no switch can beat.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::report::{Row, median_and_spread};
use crate::host;
use crate::lan::Lan;

const FRAMES: usize = 200_000;
const FRAME_LEN: usize = 64;
/// Frames in one write, as a node sends bursts.
const BURST: usize = 32;
/// What a pair of nodes sent each other at most through a bare socket (docs: QEMU under TCG).
const NEEDED_PER_S: f64 = 190_000.0;

/// Measures `runs` times.
pub fn run(runs: u32) -> Result<Vec<Row>> {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        host::check_interrupt()?;
        ours.push(through_the_switch()?);
        let (sender, receiver) = UnixStream::pair()?;
        bare.push(rate(sender, receiver)?);
    }
    let (bare, _) = median_and_spread(&bare);
    let row = Row::new("lan", "64-byte frames, socket to socket", "frames/s", &ours);
    Ok(vec![row.beside("bare socket", bare).at_least(NEEDED_PER_S)])
}

fn through_the_switch() -> Result<f64> {
    let directory = host::socket_directory()?;
    let lan = Lan::start(directory.path(), None)?;
    lan.add_port("sender")?;
    lan.add_port("receiver")?;
    let mut sender = UnixStream::connect(lan.socket("sender"))?;
    let mut receiver = UnixStream::connect(lan.socket("receiver"))?;
    // One frame each way, until both are plugged in and learned.
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut buffer = [0; 4 + FRAME_LEN];
    let deadline = Instant::now() + Duration::from_secs(5);
    receiver.write_all(&frame(1, 2))?;
    loop {
        sender.write_all(&frame(2, 1))?;
        if receiver.read_exact(&mut buffer).is_ok() {
            break;
        }
        if Instant::now() > deadline {
            return Err(anyhow!("the virtual LAN carries nothing"));
        }
    }
    rate(sender, receiver)
}

/// Frames a second from `sender` to `receiver`.
fn rate(mut sender: UnixStream, mut receiver: UnixStream) -> Result<f64> {
    receiver.set_read_timeout(Some(Duration::from_secs(10)))?;
    let start = Instant::now();
    let writer = thread::spawn(move || -> std::io::Result<UnixStream> {
        let burst = frame(2, 1).repeat(BURST);
        for _ in 0..FRAMES / BURST {
            sender.write_all(&burst)?;
        }
        Ok(sender)
    });
    let mut left = FRAMES / BURST * BURST * (4 + FRAME_LEN);
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let count = receiver
            .read(&mut buffer)
            .context("frames were lost on the way")?;
        left = left.saturating_sub(count.max(1));
    }
    let seconds = start.elapsed().as_secs_f64();
    writer.join().map_err(|_| anyhow!("the sender failed"))??;
    Ok(FRAMES as f64 / seconds)
}

/// A frame as it stands in a stream: its length, addresses, and nothing of interest.
fn frame(destination: u8, source: u8) -> Vec<u8> {
    let mut frame = (FRAME_LEN as u32).to_be_bytes().to_vec();
    frame.extend([2, 0, 0, 0, 0, destination, 2, 0, 0, 0, 0, source]);
    frame.resize(4 + FRAME_LEN, 0);
    frame
}
