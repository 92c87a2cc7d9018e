//! Writes what passes the LAN as pcapng, which Wireshark and tcpdump read.
//!
//! Each port is an interface of the capture, named, so that "who sent this" can be read although
//! both nodes use one MAC. pcapng rather than pcap for exactly that.
//! Source: draft-ietf-opsawg-pcapng, sections 4.1 to 4.3.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::switch::Port;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const OPTION_NAME: u16 = 2;
const OPTION_TIME_RESOLUTION: u16 = 9;
/// 10^-9 s per unit.
const NANOSECONDS: u8 = 9;

/// An open capture.
pub struct Capture<W: Write = BufWriter<File>> {
    output: W,
    interfaces: usize,
    epoch: (Instant, u64),
}

impl Capture {
    /// Starts a capture file.
    pub fn create(path: &Path) -> Result<Capture> {
        let file = File::create(path);
        let file = file.with_context(|| format!("cannot write the capture {}", path.display()))?;
        Ok(Capture::new(BufWriter::with_capacity(1 << 18, file))?)
    }
}

impl<W: Write> Capture<W> {
    /// Starts a capture into `output`.
    pub fn new(output: W) -> io::Result<Capture<W>> {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let epoch = (Instant::now(), since_1970.as_nanos() as u64);
        let mut capture = Capture {
            output,
            interfaces: 0,
            epoch,
        };
        let mut body = BYTE_ORDER_MAGIC.to_le_bytes().to_vec();
        body.extend([1, 0, 0, 0]); // version 1.0
        body.extend([0xff; 8]); // length of the section: unknown
        capture.block(SECTION_HEADER, &body)?;
        Ok(capture)
    }

    /// Describes the next port, in the order of their numbers.
    pub fn add_interface(&mut self, name: &str) -> io::Result<()> {
        let mut body = LINKTYPE_ETHERNET.to_le_bytes().to_vec();
        body.extend([0; 4]); // no limit on the length
        option(&mut body, OPTION_NAME, name.as_bytes());
        option(&mut body, OPTION_TIME_RESOLUTION, &[NANOSECONDS]);
        option(&mut body, 0, &[]);
        self.interfaces += 1;
        self.block(INTERFACE_DESCRIPTION, &body)
    }

    /// How many ports are described.
    pub fn interface_count(&self) -> usize {
        self.interfaces
    }

    /// Adds a frame that came in at `port`.
    pub fn frame(&mut self, port: Port, at: Instant, frame: &[u8]) -> io::Result<()> {
        let (start, nanoseconds) = self.epoch;
        let time = nanoseconds + at.saturating_duration_since(start).as_nanos() as u64;
        let length = frame.len() as u32;
        let mut body = Vec::with_capacity(frame.len() + 24);
        for word in [
            port.0 as u32,
            (time >> 32) as u32,
            time as u32,
            length,
            length,
        ] {
            body.extend(word.to_le_bytes());
        }
        body.extend(frame);
        pad(&mut body);
        self.block(ENHANCED_PACKET, &body)
    }

    /// Hands everything written so far to the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = (body.len() as u32 + 12).to_le_bytes();
        self.output.write_all(&kind.to_le_bytes())?;
        self.output.write_all(&length)?;
        self.output.write_all(body)?;
        self.output.write_all(&length)
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_their_lengths_agree() {
        let mut bytes = Vec::new();
        let mut capture = Capture::new(&mut bytes).unwrap();
        capture.add_interface("alpha").unwrap();
        capture.frame(Port(0), Instant::now(), &[7; 61]).unwrap();
        capture.flush().unwrap();

        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, Vec::new());
        while at < bytes.len() {
            let length = word(at + 4) as usize;
            assert_eq!(length % 4, 0);
            assert_eq!(word(at + length - 4) as usize, length);
            kinds.push(word(at));
            at += length;
        }
        assert_eq!(
            kinds,
            [SECTION_HEADER, INTERFACE_DESCRIPTION, ENHANCED_PACKET]
        );
    }
}
