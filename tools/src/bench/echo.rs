//! UDP echo through the virtual LAN: one load for whoever answers, and the plainest program that does.
//!
//! [`Load`] keeps [`WINDOW`] questions on their way and counts the answers that are right. [`serve`]
//! is the peer of a vkernel: one thread at the same kind of socket, blocking, which looks at the
//! addresses, turns them round in place and sends a whole batch back with one write.
//!
//! Decision: the peer checks no checksum and has no tables, routes or sockets: it is a floor, and a kernel
//! is judged by how near it comes.

use std::io::{ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use crate::host;

/// Questions on their way at any time.
const WINDOW: usize = 64;
/// Bytes of payload in each.
const PAYLOAD_LEN: usize = 64;
/// What is silent for so long has lost what was on its way.
const SILENCE: Duration = Duration::from_millis(200);
/// The echo service's port (RFC 862), and ours.
const PORTS: (u16, u16) = (7, 40_000);
/// Where the parts of a frame begin: IPv4 without options, and UDP.
const IP_AT: usize = 14;
const UDP_AT: usize = IP_AT + 20;
const PAYLOAD_AT: usize = UDP_AT + 8;

/// Somebody with an address, at a port of the LAN.
pub struct Station {
    /// The connection to the port.
    pub stream: UnixStream,
    /// Its MAC address.
    pub mac: EthernetAddress,
    /// Its IP address.
    pub address: Ipv4Addr,
}

impl Station {
    /// The answer to an ARP request for this station.
    fn answer_arp(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        } = parse_arp(frame)?
        else {
            return None;
        };
        (target_protocol_addr == self.address).then(|| {
            self.arp(
                ArpOperation::Reply,
                (source_hardware_addr, source_protocol_addr),
            )
        })
    }

    fn arp(&self, operation: ArpOperation, to: (EthernetAddress, Ipv4Addr)) -> Vec<u8> {
        let arp = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: self.mac,
            source_protocol_addr: self.address,
            target_hardware_addr: to.0,
            target_protocol_addr: to.1,
        };
        self.framed(to.0, EthernetProtocol::Arp, arp.buffer_len(), |payload| {
            arp.emit(&mut ArpPacket::new_unchecked(payload));
        })
    }

    /// A frame as it stands in a stream: its length first.
    fn framed(
        &self,
        to: EthernetAddress,
        ethertype: EthernetProtocol,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Vec<u8> {
        let ethernet = EthernetRepr {
            src_addr: self.mac,
            dst_addr: to,
            ethertype,
        };
        let mut bytes = ((IP_AT + length) as u32).to_be_bytes().to_vec();
        bytes.resize(4 + IP_AT + length, 0);
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[4..]);
        ethernet.emit(&mut frame);
        fill(frame.payload_mut());
        bytes
    }
}

fn parse_arp(frame: &[u8]) -> Option<ArpRepr> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()
}

/// Collects what a stream brings and takes whole frames out of it.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    used: usize,
}

impl Frames {
    /// Waits for more. `Ok(false)` when the other end is gone.
    fn read(&mut self, stream: &mut UnixStream) -> std::io::Result<bool> {
        self.bytes.drain(..self.used);
        self.used = 0;
        let length = self.bytes.len();
        self.bytes.resize(length + (1 << 16), 0);
        let result = stream.read(&mut self.bytes[length..]);
        self.bytes
            .truncate(length + result.as_ref().map_or(0, |count| *count));
        result.map(|count| count > 0)
    }

    /// The next whole frame, with its length in front.
    fn next(&mut self) -> Option<&mut [u8]> {
        let rest = &self.bytes[self.used..];
        let length = 4 + u32::from_be_bytes(*rest.first_chunk()?) as usize;
        if rest.len() < length {
            return None;
        }
        let start = self.used;
        self.used += length;
        Some(&mut self.bytes[start..start + length])
    }
}

/// Serves the echo protocol until the other end of the stream is gone.
pub fn serve(mut station: Station) -> std::io::Result<()> {
    let mut frames = Frames::default();
    let mut output = Vec::new();
    while frames.read(&mut station.stream)? {
        while let Some(framed) = frames.next() {
            if turn_round(&mut framed[4..], &station) {
                output.extend_from_slice(framed);
            } else if let Some(answer) = station.answer_arp(&framed[4..]) {
                output.extend(answer);
            }
        }
        station.stream.write_all(&output)?;
        output.clear();
    }
    Ok(())
}

/// Makes the answer out of a question to `station`; false, and nothing done, if it is none. Swapping
/// addresses and ports leaves both checksums right.
fn turn_round(frame: &mut [u8], station: &Station) -> bool {
    let is_question = frame.len() >= PAYLOAD_AT
        && frame[..6] == station.mac.0
        && frame[12..14] == [0x08, 0x00]
        && frame[IP_AT] == 0x45
        && frame[IP_AT + 9] == 17
        && frame[IP_AT + 16..IP_AT + 20] == station.address.octets()
        && frame[UDP_AT + 2..UDP_AT + 4] == PORTS.0.to_be_bytes();
    if is_question {
        for (at, length) in [(0, 6), (IP_AT + 12, 4), (UDP_AT, 2)] {
            let (first, second) = frame[at..at + 2 * length].split_at_mut(length);
            first.swap_with_slice(second);
        }
    }
    is_question
}

/// Who asks.
pub struct Load {
    station: Station,
    frames: Frames,
}

impl Load {
    /// Asks from this station.
    ///
    /// # Errors
    /// The stream takes no time limit.
    pub fn new(station: Station) -> Result<Load> {
        station.stream.set_read_timeout(Some(SILENCE))?;
        Ok(Load {
            station,
            frames: Frames::default(),
        })
    }

    /// Right answers a second of `target`, and how many questions were lost.
    ///
    /// # Errors
    /// Nobody has this address, or the LAN is gone.
    pub fn measure(&mut self, target: Ipv4Addr, time: Duration) -> Result<(f64, usize)> {
        let mac = self.resolve(target)?;
        let question = self.question(mac, target);
        // The first octets of a right answer up to the payload are the question's, turned round; so a
        // copy of what `turn_round` would send is the pattern.
        let mut answer = question.clone();
        let them = Station {
            stream: self.station.stream.try_clone()?,
            mac,
            address: target,
        };
        turn_round(&mut answer[4..], &them);

        let mut generations = [0u64; WINDOW];
        let mut output = Vec::new();
        let (mut right, mut lost) = (0usize, 0);
        let start = Instant::now();
        ask(&mut output, &question, &generations, 0..WINDOW);
        loop {
            self.station.stream.write_all(&output)?;
            output.clear();
            let elapsed = start.elapsed();
            if elapsed >= time {
                // What is still on its way must not disturb the next measurement.
                self.drain()?;
                return Ok((right as f64 / elapsed.as_secs_f64(), lost));
            }
            match self.frames.read(&mut self.station.stream) {
                Ok(true) => {}
                Ok(false) => bail!("the virtual LAN has stopped"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    host::check_interrupt()?;
                    lost += WINDOW;
                    generations
                        .iter_mut()
                        .for_each(|generation| *generation += 1);
                    ask(&mut output, &question, &generations, 0..WINDOW);
                }
                Err(error) => return Err(error.into()),
            }
            while let Some(framed) = self.frames.next() {
                let frame = &framed[4..];
                if let Some(slot) = slot_of(frame, &answer[4..], &generations) {
                    right += 1;
                    generations[slot] += 1;
                    ask(&mut output, &question, &generations, slot..slot + 1);
                } else if let Some(reply) = self.station.answer_arp(frame) {
                    output.extend(reply);
                }
            }
        }
    }

    /// Reads until nothing has come for a while.
    fn drain(&mut self) -> Result<()> {
        while self.frames.read(&mut self.station.stream).unwrap_or(false) {
            while self.frames.next().is_some() {}
        }
        Ok(())
    }

    fn resolve(&mut self, target: Ipv4Addr) -> Result<EthernetAddress> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            host::check_interrupt()?;
            let mut request = self
                .station
                .arp(ArpOperation::Request, (EthernetAddress::default(), target));
            request[4..10].copy_from_slice(&EthernetAddress::BROADCAST.0);
            self.station.stream.write_all(&request)?;
            let _ = self.frames.read(&mut self.station.stream);
            while let Some(framed) = self.frames.next() {
                if let Some(ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Reply,
                    source_hardware_addr,
                    source_protocol_addr,
                    ..
                }) = parse_arp(&framed[4..])
                    && source_protocol_addr == target
                {
                    return Ok(source_hardware_addr);
                }
            }
        }
        bail!("nobody on the LAN has the address {target}")
    }

    fn question(&self, mac: EthernetAddress, target: Ipv4Addr) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let udp = UdpRepr {
            src_port: PORTS.1,
            dst_port: PORTS.0,
        };
        let ip = Ipv4Repr {
            src_addr: self.station.address,
            dst_addr: target,
            next_header: IpProtocol::Udp,
            payload_len: udp.header_len() + PAYLOAD_LEN,
            hop_limit: 64,
        };
        let length = ip.buffer_len() + ip.payload_len;
        self.station
            .framed(mac, EthernetProtocol::Ipv4, length, |bytes| {
                let mut packet = Ipv4Packet::new_unchecked(bytes);
                ip.emit(&mut packet, &checksums);
                let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
                let (source, destination) = (ip.src_addr.into(), target.into());
                let fill = |payload: &mut [u8]| payload[..16].copy_from_slice(&mark(0));
                udp.emit(
                    &mut datagram,
                    &source,
                    &destination,
                    PAYLOAD_LEN,
                    fill,
                    &checksums,
                );
            })
    }
}

/// A number and its complement: whatever the number, the checksum stays the same.
fn mark(number: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes[8..].copy_from_slice(&(!number).to_be_bytes());
    bytes
}

/// Adds the questions of these slots to `output`.
fn ask(
    output: &mut Vec<u8>,
    question: &[u8],
    generations: &[u64; WINDOW],
    slots: std::ops::Range<usize>,
) {
    for slot in slots {
        let at = output.len() + 4 + PAYLOAD_AT;
        output.extend_from_slice(question);
        let number = generations[slot] * WINDOW as u64 + slot as u64;
        output[at..at + 16].copy_from_slice(&mark(number));
    }
}

/// Which slot's question this frame answers, if it is as it should be.
fn slot_of(frame: &[u8], pattern: &[u8], generations: &[u64; WINDOW]) -> Option<usize> {
    // TTL, identification and checksums are the answerer's own.
    let same = |at: usize, length: usize| {
        frame.get(at..at + length).is_some() && frame[at..at + length] == pattern[at..at + length]
    };
    let is_answer = frame.len() == pattern.len()
        && same(0, IP_AT)
        && frame[IP_AT + 9] == pattern[IP_AT + 9]
        && same(IP_AT + 12, 8)
        && same(UDP_AT, 6)
        && same(PAYLOAD_AT + 16, PAYLOAD_LEN - 16);
    if !is_answer {
        return None;
    }
    let number = u64::from_be_bytes(*frame[PAYLOAD_AT..].first_chunk()?);
    let slot = number as usize % WINDOW;
    (frame[PAYLOAD_AT..PAYLOAD_AT + 16] == mark(number)
        && generations[slot] == number / WINDOW as u64)
        .then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(number: u8) -> (Station, UnixStream) {
        let (stream, other) = UnixStream::pair().unwrap();
        let station = Station {
            stream,
            mac: EthernetAddress([2, 0, 0, 0, 0, number]),
            address: Ipv4Addr::new(192, 0, 2, number),
        };
        (station, other)
    }

    #[test]
    fn the_plain_program_answers_the_load_and_only_its_own_address() {
        let (mut asker, stream) = station(1);
        let mut server = station(2).0;
        server.stream = stream;
        asker.address = Ipv4Addr::new(192, 0, 2, 1);
        let server = std::thread::spawn(move || serve(server));
        let mut load = Load::new(asker).unwrap();
        let (rate, lost) = load
            .measure(Ipv4Addr::new(192, 0, 2, 2), Duration::from_millis(50))
            .unwrap();
        assert!(rate > 0.0);
        assert_eq!(lost, 0);
        drop(load);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn an_answer_is_counted_once_and_only_if_nothing_in_it_changed() {
        let (asker, _other) = station(1);
        let (server, _other) = station(2);
        let load = Load::new(asker).unwrap();
        let question = load.question(server.mac, server.address);
        let mut generations = [0; WINDOW];
        let mut output = Vec::new();
        ask(&mut output, &question, &generations, 5..6);
        let datagram = Ipv4Packet::new_checked(&output[4 + IP_AT..]).unwrap();
        let udp = UdpPacket::new_checked(datagram.payload()).unwrap();
        let (source, destination) = (datagram.src_addr().into(), datagram.dst_addr().into());
        assert!(udp.verify_checksum(&source, &destination));

        let mut pattern = question[4..].to_vec();
        assert!(turn_round(&mut pattern, &server));
        let mut answer = output[4..].to_vec();
        assert_eq!(slot_of(&answer, &pattern, &generations), None, "a question");
        assert!(turn_round(&mut answer, &server));
        assert_eq!(slot_of(&answer, &pattern, &generations), Some(5));
        answer[PAYLOAD_AT + 40] ^= 1;
        assert_eq!(slot_of(&answer, &pattern, &generations), None, "damaged");
        answer[PAYLOAD_AT + 40] ^= 1;
        generations[5] += 1;
        assert_eq!(slot_of(&answer, &pattern, &generations), None, "again");
    }
}
